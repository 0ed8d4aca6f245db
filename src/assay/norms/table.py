"""Norms of every linear layer of a graph with bounded work, and what they will cost."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from assay.errors import AssayError
from assay.grade import Grade
from assay.graph import OPERATORS, Graph, Node
from assay.norms.compute import measure
from assay.norms.convolution import Convolution
from assay.norms.maps import Effort, Map, Matrix
from assay.norms.nodes import describe_node
from assay.norms.result import OperatorNorm
from assay.results import Displayed
from assay.subject import Subject, as_subject

SURVEY = Effort(work=6.5e10, steps=12, tolerance=1e-3)
_LISTED = frozenset({"affine", "arithmetic"})
_POOLS = frozenset({"avg_pool", "adaptive_avg_pool"})


@dataclass(frozen=True)
class LayerNorm(Displayed):
    """One row: the 2-norm of a linear layer.

    Attributes:
        node: name in the graph.
        place: where a reader finds it.
        value: best estimate, see `OperatorNorm`.
        grade: of `value`.
        lower: guaranteed, up to rounding.
        upper: guaranteed.
        method: of `value`.
        upper_method: of `upper`.
        seconds: of wall time spent.
        norm: everything that was found; None where the norm failed, with `error`.
        error: why there is no norm; empty where there is one.
    """

    node: str
    place: str
    value: float
    grade: Grade
    lower: float
    upper: float
    method: str
    upper_method: str
    seconds: float
    norm: OperatorNorm | None = None
    error: str = ""


class LayerNorms(Displayed, list[LayerNorm]):
    """The rows of `layer_norms`, shown as one table."""


@dataclass(frozen=True)
class NormCost:
    """Upper limit of what `layer_norms` will do.

    Attributes:
        multiply_adds: over all layers.
        bytes: largest memory of one layer beside its weights: Krylov vectors, matrices, frequency blocks.
    """

    multiply_adds: float
    bytes: float


def layer_norms(
    graph: Graph | Subject | nn.Module,
    *,
    example: Tensor | None = None,
    effort: Effort = SURVEY,
    progress: Callable[[str, int, int], None] | None = None,
) -> LayerNorms:
    """2-norms of the linear layers of a model, in order: dense, convolution, batch norm, scaling, pooling averages.

    Layers that only move elements, and sums, are left out: their gains are 1 and known. Pass
    `fold_batch_norms(graph)` to see batch norms inside their convolutions. A layer that depends on nothing but one
    varying input is a row; products of two varying tensors are none.

    Cost per layer: at most 2 (steps + 1) passes of that layer over one sample, plus `effort.work` multiply-adds for
    its guaranteed bound (1x1 and non-overlapping convolutions: one small eigenvalue problem); memory: see `norm_cost`.

    Args:
        graph: a captured graph, a Subject, or a module, which is captured with `example`.
        example: (B, ...) one batch of inputs, for a module.
        effort: limits per layer; by default 12 Lanczos steps to a residual of 1e-3, for a survey of large networks.
        progress: called with the place, the number of finished layers and their total.

    Returns:
        One row per layer.

    Example:
        >>> import torch
        >>> layer = torch.nn.Linear(2, 2, bias=False)
        >>> layer.weight.data = torch.diag(torch.tensor([1.0, 2.0]))
        >>> layer_norms(layer, example=torch.zeros(2, 2))
        LayerNorms(norm of linear (linear): 2 [2, 2] exact)
    """
    if not isinstance(graph, Graph):
        graph = as_subject(graph, example).graph
    chosen = _chosen(graph)
    rows = LayerNorms()
    for count, node in enumerate(chosen):
        if progress is not None:
            progress(node.place, count, len(chosen))
        start = time.perf_counter()
        try:
            layer = describe_node(graph, node.name)
            found = measure(layer, "auto", effort)
        except AssayError as error:
            spent = time.perf_counter() - start
            row = LayerNorm(
                node.name, node.place, math.nan, Grade.BOUND, 0.0, math.inf, "none", "none", spent, None, error.what
            )
        else:
            row = LayerNorm(
                node.name,
                node.place,
                found.value,
                found.grade,
                found.lower,
                found.upper,
                found.method,
                found.upper_method,
                time.perf_counter() - start,
                found,
            )
        rows.append(row)
    return rows


def norm_cost(graph: Graph, *, effort: Effort = SURVEY) -> NormCost:
    """Upper limit of the work and memory of `layer_norms`, without doing it.

    Args:
        graph: a captured graph.
        effort: the same.

    Returns:
        Multiply-adds over all layers, and bytes of the largest.

    Example:
        >>> import torch
        >>> norm_cost(as_subject(torch.nn.Linear(2, 2), torch.zeros(2, 2)).graph).multiply_adds < 1e12
        True
    """
    work, memory = 0.0, 0.0
    for node in _chosen(graph):
        try:
            layer = describe_node(graph, node.name)
        except AssayError:
            continue
        ends = math.prod(layer.input_shape) + math.prod(layer.output_shape)
        work += effort.work + 2 * (effort.steps + 1) * (_pass(layer) + effort.steps * ends)
        memory = max(memory, 2.0 * 8 * effort.steps * min(ends, 8e7 / effort.steps) + 3 * 16 * effort.matrix + 8e7)
    return NormCost(work, memory)


def _pass(layer: Map) -> float:
    """Multiply-adds of one application."""
    if isinstance(layer, Convolution):
        return layer.weight.numel() * math.prod(axis.outputs for axis in layer.axes)
    if isinstance(layer, Matrix):
        return layer.weight.shape[0] * math.prod(layer.input_shape)
    return math.prod(layer.input_shape) + math.prod(layer.output_shape)


def _chosen(graph: Graph) -> list[Node]:
    found = []
    for node in graph.layers:
        row = OPERATORS[node.op]
        varying = frozenset(i for i, name in enumerate(node.inputs) if name is not None and name in graph.dependent)
        shifts = node.op in ("add", "sub", "where", "neg")
        listed = (row.family in _LISTED and not shifts) or node.op in _POOLS
        if listed and len(varying) == 1 and row.affine_in(varying):
            found.append(node)
    return found
