"""Guaranteed gains of single affine nodes: closed forms where a node only moves, scales or averages, else its norm."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.func import vjp

from assay.errors import AssayError
from assay.graph import OPERATORS, Graph, Node
from assay.norms import node_norm

if TYPE_CHECKING:
    from assay.certified.stretch import Stretch

WEIGHTED = frozenset({"linear", "conv", "conv_transpose", "matmul", "addmm"})
"""Operators with weights: what a table of layers counts as a layer."""

_KNOWN: WeakKeyDictionary[Graph, dict[str, float]] = WeakKeyDictionary()  # several walks over a graph need its norms
_AVERAGING = frozenset({"avg_pool", "adaptive_avg_pool", "resize"})
_MOVING = frozenset(
    {"identity", "reshape", "permute", "slice", "select", "part", "roll", "flip", "expand", "pad", "window"}
)
_ONE_ENTRY_PER_ROW = _MOVING | {"neg", "mul", "div", "where", "batch_norm", "cat", "add", "sub", "addcmul"}
_ONE_ENTRY_PER_COLUMN = frozenset({"mean", "sum"})


def gains_of(
    graph: Graph, node: Node, position: int, operands: Sequence[Tensor | None], stretch: Stretch
) -> dict[str, float]:
    """Guaranteed gains of an affine node in one of its inputs.

    Args:
        graph: the prepared graph, float64.
        node: affine in the input at `position`.
        position: of the varying input.
        operands: values of all inputs, batch 1.
        stretch: the node's linear map, with no gains yet.

    Returns:
        Upper bounds of the 2-norm and of the infinity norm, and under ``frobenius`` the Frobenius norm where the node
        has weights and the 2-norm elsewhere. Infinite where no guaranteed norm is known.
    """
    row, attributes, varying = OPERATORS[node.op], dict(node.resolved(1)), frozenset({position})
    ones = torch.ones(stretch.source, dtype=torch.float64)

    def squared(variance: Tensor) -> Tensor:
        filled = [variance if i == position else value for i, value in enumerate(operands)]
        return row.squared_part(filled, varying, attributes)

    if row.squared is None:
        return dict.fromkeys(("2", "inf", "frobenius"), _dense(stretch, "2")) | {"inf": _dense(stretch, "inf")}
    row_squares = squared(ones)
    if node.op in _ONE_ENTRY_PER_ROW:  # then M^T M is diagonal
        columns = _transposed(squared, ones)
        two, inf = math.sqrt(float(columns.max())), math.sqrt(float(row_squares.max()))
    elif node.op in _ONE_ENTRY_PER_COLUMN:  # then M M^T is
        two, inf = math.sqrt(float(row_squares.max())), float(stretch.function(ones).max())
    elif node.op in _AVERAGING:  # no negative entry: ||M||^2 <= largest row sum x largest column sum
        inf = float(stretch.function(ones).max())
        two = math.sqrt(inf * float(_transposed(stretch.function, ones).max()))
        two = min(two, _node_norm(graph, node, stretch))
    else:
        inf = _largest_row_sum(node, position, operands, stretch)
        frobenius = math.sqrt(float(row_squares.sum()))
        return {"2": min(frobenius, _node_norm(graph, node, stretch)), "inf": inf, "frobenius": frobenius}
    return {"2": two, "inf": inf, "frobenius": two}


def _transposed(function: Callable[[Tensor], Tensor], ones: Tensor) -> Tensor:
    """Column sums of a linear map."""
    outputs, pullback = vjp(function, ones)[:2]
    return pullback(torch.ones_like(outputs))[0]


def _largest_row_sum(node: Node, position: int, operands: Sequence[Tensor | None], stretch: Stretch) -> float:
    """Infinity norm: for layers with weights, the layer with absolute weights on a vector of ones."""
    if node.op not in WEIGHTED:
        return _dense(stretch, "inf")
    ones = torch.ones(stretch.source, dtype=torch.float64)
    filled = [ones if i == position else None if v is None else v.abs() for i, v in enumerate(operands)]
    return float(OPERATORS[node.op].linear_part(filled, frozenset({position}), dict(node.resolved(1))).max())


def _dense(stretch: Stretch, kind: str) -> float:
    from assay.certified.stretch import matrix_norm

    return matrix_norm(stretch.matrix, kind) if stretch.small else math.inf


def _node_norm(graph: Graph, node: Node, stretch: Stretch) -> float:
    """Guaranteed 2-norm of a node; infinite where none is known."""
    known = _KNOWN.setdefault(graph, {})
    if node.name not in known:
        try:
            known[node.name] = float(node_norm(graph, node.name).upper)
        except AssayError:  # no rule for it there
            known[node.name] = _dense(stretch, "2")
    return known[node.name]
