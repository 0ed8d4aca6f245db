"""The full-covariance domain: one matrix per pair of live tensors, so skip connections keep theirs.

`exact` uses the covariance of every pair of units that a rule knows; `gain` keeps first-order covariances off the
diagonal. Memory: B n^2 for the largest layer of n units (times the number of live branches); for networks whose layers
fit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from assay.covariance import LinearMap
from assay.covariance.functions import flat_columns, flat_rows, square_root
from assay.grade import Grade
from assay.graph import Node
from assay.moments.domain import Fallback, Trust, frozen_value, operands_of, share_of, smooth
from assay.moments.smoothed import Blocks, Operands, Smoothed


@dataclass(frozen=True, eq=False)
class DenseElement:
    """A random tensor: mean and variance (B, ...); the domain keeps its covariances with the other live tensors."""

    name: str
    mean: Tensor
    variance: Tensor

    @property
    def event(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return tuple(self.mean.shape[1:])

    @property
    def mean_variance(self) -> float:
        """Mean over units."""
        return float(self.variance.detach().mean())


class DenseDomain:
    """Joint covariance of all live tensors, in blocks.

    Args:
        exact: covariance of all pairs of units from the rules' kernels; otherwise first order off the diagonal.
        fallback: what to do without a rule.
    """

    def __init__(self, *, exact: bool = True, fallback: Fallback = "linearise") -> None:
        self.exact = exact
        self.fallback: Fallback = fallback
        self.trust = Trust()
        self.blocks: dict[tuple[str, str], Tensor] = {}  # (a, b) -> (B, n_a, n_b)
        self.shape: dict[str, tuple[float, float]] = {}
        """Largest standardised third and fourth cumulant of what a node bends, in domains that know them."""
        self._generator = torch.Generator().manual_seed(0)

    def lift(self, name: str, mean: Tensor, matrix: Tensor) -> DenseElement:
        """The input with its covariance (B, n, n)."""
        self.blocks[name, name] = matrix
        return DenseElement(name, mean, matrix.diagonal(dim1=1, dim2=2).reshape(mean.shape))

    def apply(self, node: Node, operands: Sequence[Any], live: frozenset[str], batch: int) -> DenseElement:
        """Blocks of the new tensor with itself and with everything still live."""
        bundle = operands_of(node, operands, batch, self)
        smoothed, grade = smooth(bundle, self.fallback)
        return self.advance(node, bundle, smoothed, grade, live)

    def advance(
        self, node: Node, bundle: Operands, smoothed: Smoothed, grade: Grade, live: frozenset[str]
    ) -> DenseElement:
        """Blocks of a node that its rule made a random affine map of."""
        elements = bundle.elements
        names = [element.name for element in elements]
        all_pairs = self.exact and smoothed.kernel is not None and smoothed.kernel.exact
        self.trust.record(node, names, grade, all_pairs=all_pairs)
        cross = {name: self._cross(smoothed.linear, elements, name) for name in {*names, *self._related(live)}}
        matrix = self._own(smoothed, elements, cross)
        for name in live:
            if name in cross:
                self.blocks[node.name, name] = cross[name]
        self.blocks[node.name, node.name] = matrix
        element = DenseElement(node.name, smoothed.mean, matrix.diagonal(dim1=1, dim2=2).reshape(smoothed.mean.shape))
        self.trust.innovation_share[node.name] = share_of(smoothed.innovation, element.mean_variance)
        return element

    def freeze(self, node: Node, operands: Sequence[Any], batch: int) -> Tensor:
        """Value at the means."""
        return frozen_value(node, operands, batch, self.trust)

    def release(self, name: str) -> None:
        """Drop every block of a dead tensor."""
        for pair in [pair for pair in self.blocks if name in pair]:
            del self.blocks[pair]

    def block(self, first: str, second: str) -> Tensor:
        """Covariance (B, n_first, n_second)."""
        found = self.blocks.get((first, second))
        return found if found is not None else self.blocks[second, first].mT

    def _related(self, live: frozenset[str]) -> set[str]:
        return {name for name in live if (name, name) in self.blocks}

    def _cross(self, linear: LinearMap, elements: Sequence[DenseElement], other: str) -> Tensor:
        columns = [flat_columns(self.block(element.name, other), element.event) for element in elements]
        return flat_rows(linear.apply(*columns))

    def _own(self, smoothed: Smoothed, elements: Sequence[DenseElement], cross: dict[str, Tensor]) -> Tensor:
        columns = [flat_columns(cross[element.name].mT, element.event) for element in elements]
        matrix = flat_rows(smoothed.linear.apply(*columns))
        matrix = 0.5 * (matrix + matrix.mT)
        if smoothed.innovation is None:
            return matrix
        innovation = smoothed.innovation.expand(smoothed.mean.shape).reshape(matrix.shape[0], -1)
        if not (self.exact and smoothed.kernel is not None):
            return matrix + torch.diag_embed(innovation)
        extra = smoothed.kernel.innovation(self._blocks(elements, smoothed.mean.shape[1:]))
        # the diagonal (correlation 1) has its own closed form
        return matrix + extra - torch.diag_embed(extra.diagonal(dim1=1, dim2=2)) + torch.diag_embed(innovation)

    def _blocks(self, elements: Sequence[DenseElement], event: Sequence[int]) -> Blocks:
        places = [None if e.event == tuple(event) else _places(e, event).reshape(-1) for e in elements]

        def block(first: int, second: int) -> Tensor:
            found = self.block(elements[first].name, elements[second].name)
            rows, columns = places[first], places[second]
            found = found if rows is None else found[:, rows]
            return found if columns is None else found[:, :, columns]

        return block

    def between(self, first: DenseElement, second: DenseElement) -> Tensor:
        """Elementwise covariance, broadcast like the product of the two tensors."""
        block = self.block(first.name, second.name)
        shape = torch.broadcast_shapes(first.event, second.event)
        return block[:, _places(first, shape), _places(second, shape)]

    def draw(self, elements: Sequence[DenseElement], count: int) -> list[Tensor]:
        """Joint draws of the elements; the same random numbers for every sample, so a batch equals single inputs."""
        joint = torch.cat([torch.cat([self.block(a.name, b.name) for b in elements], 2) for a in elements], 1)
        root = square_root(joint)
        noise = torch.randn((count, 1, joint.shape[1]), generator=self._generator, dtype=joint.dtype)
        flat = (root @ noise.unsqueeze(-1)).squeeze(-1)
        parts = flat.split([math.prod(e.event) for e in elements], dim=-1)
        return [part.reshape(count, *e.mean.shape) for part, e in zip(parts, elements, strict=True)]


def _places(element: DenseElement, shape: Sequence[int]) -> Tensor:
    """Flat positions of the element that fill a tensor of the broadcast shape."""
    return torch.arange(math.prod(element.event), device=element.mean.device).reshape(element.event).expand(shape)
