"""Linear stretches: what a graph does to a change between two nodes while every operator on the way is affine.

A stretch has a guaranteed norm: that of its matrix where the matrix is small enough to be formed, and else the product
of the guaranteed norms of its nodes. It acts on one sample; samples do not interact.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.func import vjp, vmap

from assay.certified.layer_gain import gains_of
from assay.graph import OPERATORS, Graph, Node

SIDE = 1024
"""Longest shorter side of a matrix that is formed."""
ENTRIES = 4 * 1024 * 1024
_COLUMNS = 256  # columns per pass when a matrix is formed


@dataclass(frozen=True, eq=False)
class Stretch:
    """A linear map of one sample's change, from shape `source` to shape `target` (both with a batch axis of 1).

    Attributes:
        function: (1, ...) -> (1, ...), linear.
        source: shape it takes.
        target: shape it returns.
        gains: guaranteed norm by kind, from the nodes alone.
        nodes: names of the nodes it is made of; empty for the identity.
    """

    function: Callable[[Tensor], Tensor]
    source: torch.Size
    target: torch.Size
    gains: Mapping[str, float]
    nodes: tuple[str, ...] = ()
    _norms: dict[str, float] = field(default_factory=dict)

    @classmethod
    def identity(cls, shape: torch.Size) -> Stretch:
        """The map that changes nothing."""
        return cls(lambda change: change, shape, shape, {"2": 1.0, "inf": 1.0, "frobenius": 1.0})

    def then(self, after: Stretch) -> Stretch:
        """This map, and then another."""
        if not self.nodes:
            return after
        if not after.nodes:
            return self
        first, second = self.function, after.function
        gains = {kind: self.gains[kind] * after.gains[kind] for kind in self.gains}
        return Stretch(lambda change: second(first(change)), self.source, after.target, gains, self.nodes + after.nodes)

    @property
    def small(self) -> bool:
        """Whether its matrix may be formed."""
        rows, columns = self.target.numel(), self.source.numel()
        return min(rows, columns) <= SIDE and rows * columns <= ENTRIES

    @cached_property
    def matrix(self) -> Tensor:
        """(m, n) float64."""
        rows, columns = self.target.numel(), self.source.numel()
        if columns <= rows:
            parts = [
                vmap(self.function)(part.reshape(-1, *self.source)).reshape(-1, rows)
                for part in torch.eye(columns, dtype=torch.float64).split(_COLUMNS)
            ]
            return torch.cat(parts).T.contiguous()
        pullback = vjp(self.function, torch.zeros(self.source, dtype=torch.float64))[1]
        parts = [
            vmap(pullback)(part.reshape(-1, *self.target))[0].reshape(-1, columns)
            for part in torch.eye(rows, dtype=torch.float64).split(_COLUMNS)
        ]
        return torch.cat(parts)

    def norm(self, kind: str) -> float:
        """Guaranteed operator norm: the smaller of what the matrix and what the nodes say."""
        if kind not in self._norms:
            alone = len(self.nodes) <= 1 or kind == "frobenius"
            found = self.gains[kind]
            if not alone and self.small:
                found = min(found, matrix_norm(self.matrix, kind))
            self._norms[kind] = found
        return self._norms[kind]


def sum_of(first: Stretch, second: Stretch, *, disjoint: bool = False) -> Stretch:
    """The sum of two maps that start from the same node; `disjoint` when no element of the result reads both."""
    one, two = first.function, second.function
    gains = {kind: first.gains[kind] + second.gains[kind] for kind in first.gains}
    if disjoint:
        gains = {kind: math.hypot(first.gains[kind], second.gains[kind]) for kind in first.gains}
        gains["inf"] = max(first.gains["inf"], second.gains["inf"])
    names = (*first.nodes, *second.nodes, "+")
    return Stretch(lambda change: one(change) + two(change), first.source, first.target, gains, names)


def matrix_norm(matrix: Tensor, kind: str = "2") -> float:
    """Norm of a dense matrix (m, n), raised by what rounding may have taken: `2`, `inf` or `frobenius`."""
    if matrix.numel() == 0:
        return 0.0
    rows, columns = matrix.shape
    slack = 1 + 8 * max(rows, columns) * torch.finfo(torch.float64).eps
    if kind == "inf":
        return float(matrix.abs().sum(1).max()) * slack
    if kind == "frobenius":
        return float(matrix.norm()) * slack
    return float(spectral_norms(matrix[None])[0])


def spectral_norms(matrices: Tensor) -> Tensor:
    """Spectral norms (B,) of dense matrices (B, m, n), raised by what rounding may have taken."""
    rows, columns = matrices.shape[-2:]
    if rows == 0 or columns == 0:
        return matrices.new_zeros(len(matrices))
    peak = matrices.abs().amax((1, 2))
    scaled = matrices / torch.where(peak == 0, 1.0, peak)[:, None, None]
    gram = scaled @ scaled.mT if rows <= columns else scaled.mT @ scaled
    slack = 1 + 8 * max(rows, columns) * torch.finfo(matrices.dtype).eps
    return torch.linalg.eigvalsh(gram)[:, -1].clamp(min=0).sqrt() * peak * slack


def single_node(graph: Graph, node: Node, position: int, operands: Sequence[Tensor | None]) -> Stretch:
    """The stretch of one affine node in its input at `position`, the others held fixed.

    Args:
        graph: the prepared graph.
        node: affine in that input.
        position: of the varying input.
        operands: values of all inputs, batch 1; those of varying ones only give shapes.

    Returns:
        The stretch, with guaranteed gains.
    """
    row, attributes, varying = OPERATORS[node.op], dict(node.resolved(1)), frozenset({position})
    shape = operands[position].shape  # type: ignore[union-attr]

    def fill(change: Tensor) -> list[Tensor | None]:
        return [change if i == position else value for i, value in enumerate(operands)]

    def function(change: Tensor) -> Tensor:
        return row.linear_part(fill(change), varying, attributes)

    target = function(torch.zeros(shape, dtype=torch.float64)).shape
    stretch = Stretch(function, shape, target, {}, (node.name,))
    return replace(stretch, gains=gains_of(graph, node, position, operands, stretch))
