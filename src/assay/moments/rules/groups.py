"""Covariance within groups of units, for functions of a whole group such as norms and softmax.

From columns nothing of the size n^2 is built.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from assay.covariance.functions import safe_sqrt, square_root
from assay.moments.smoothed import Operands


@dataclass(frozen=True)
class Layout:
    """How a tensor splits into groups of `size` units that a function reads together.

    Attributes:
        event: shape of the tensor behind its first axis.
        size: units of a group.
        inner: product of the axes behind the group's; 1 where a group is contiguous.
    """

    event: tuple[int, ...]
    size: int
    inner: int = 1

    @staticmethod
    def along(shape: Sequence[int], axis: int) -> Layout:
        """Groups along one axis of a tensor of this shape, the first axis left out."""
        place = axis % len(shape)
        return Layout(tuple(shape[1:]), shape[place], math.prod(shape[place + 1 :]))

    @property
    def outer(self) -> int:
        """Product of the axes before the group's."""
        return math.prod(self.event) // (self.size * self.inner)

    def split(self, value: Tensor) -> Tensor:
        """(..., *event) -> (..., groups, size)."""
        lead = value.shape[: value.dim() - len(self.event)]
        shaped = value.reshape(*lead, self.outer, self.size, self.inner)
        return shaped.movedim(-1, -2).reshape(*lead, self.outer * self.inner, self.size)

    def join(self, value: Tensor) -> Tensor:
        """(..., groups, size) -> (..., *event)."""
        lead = value.shape[:-2]
        shaped = value.reshape(*lead, self.outer, self.inner, self.size)
        return shaped.movedim(-1, -2).reshape(*lead, *self.event)


@dataclass(frozen=True)
class Spread:
    """Covariance within the groups: as matrices, or as columns and an independent rest.

    Attributes:
        variance: (B, G, n).
        matrix: (B, G, n, n), or None.
        factor: (r, B, G, n), or None.
        rest: (B, G, n), or None.
    """

    variance: Tensor
    matrix: Tensor | None
    factor: Tensor | None
    rest: Tensor | None

    def centred(self) -> Spread:
        """Of the deviations from each group's mean. Of an independent rest the variances alone stay exact."""
        if self.matrix is not None:
            matrix = self.matrix - self.matrix.mean(-1, keepdim=True)
            matrix = matrix - matrix.mean(-2, keepdim=True)
            return Spread(matrix.diagonal(dim1=-2, dim2=-1), matrix, None, None)
        assert self.factor is not None
        assert self.rest is not None
        factor = self.factor - self.factor.mean(-1, keepdim=True)
        size = self.rest.shape[-1]
        rest = self.rest * (1 - 2 / size) + self.rest.mean(-1, keepdim=True) / size if size > 1 else 0 * self.rest
        return Spread(factor.square().sum(0) + rest, None, factor, rest)

    def times(self, vector: Tensor) -> Tensor:
        """C v for (B, G, n)."""
        if self.matrix is not None:
            return (self.matrix @ vector.unsqueeze(-1)).squeeze(-1)
        assert self.factor is not None
        assert self.rest is not None
        return (self.factor * (self.factor * vector).sum(-1, keepdim=True)).sum(0) + self.rest * vector

    def shrunk(self, vector: Tensor, strength: Tensor) -> Tensor:
        """(1 + strength C)^-1 v for (B, G, n), strength (B, G, 1)."""
        if self.matrix is not None:
            unit = torch.eye(vector.shape[-1], dtype=vector.dtype, device=vector.device)
            return torch.linalg.solve(unit + strength.unsqueeze(-1) * self.matrix, vector.unsqueeze(-1)).squeeze(-1)
        assert self.factor is not None
        assert self.rest is not None
        own = 1 + strength * self.rest
        rows = self.factor.movedim(0, -2)  # (B, G, r, n)
        scaled = rows * (strength / own).unsqueeze(-2)
        unit = torch.eye(rows.shape[-2], dtype=vector.dtype, device=vector.device)
        inner = torch.linalg.solve(unit + scaled @ rows.mT, scaled @ vector.unsqueeze(-1))
        return (vector - (rows.mT @ inner).squeeze(-1)) / own

    def square_trace(self) -> Tensor:
        """Tr C^2, (B, G, 1)."""
        if self.matrix is not None:
            return self.matrix.square().sum((-1, -2)).unsqueeze(-1)
        assert self.factor is not None
        assert self.rest is not None
        rows = self.factor.movedim(0, -2)
        gram = (rows @ rows.mT).square().sum((-1, -2)).unsqueeze(-1)
        cross = self.rest * (2 * self.factor.square().sum(0) + self.rest)
        return gram + cross.sum(-1, keepdim=True)


def spread_within(operands: Operands, position: int, layout: Layout) -> Spread:
    """Covariance within the groups of one varying input, as its domain holds it."""
    element = operands.values[position]
    variance = layout.split(element.variance)
    if hasattr(element, "covariance"):
        return Spread(variance, None, layout.split(element.covariance.factor), layout.split(element.covariance.rest))
    lead = element.mean.shape[0]
    shaped = element.mean.reshape(lead, layout.outer, layout.size, layout.inner)
    block = operands.between(replace(element, mean=shaped.unsqueeze(3)), replace(element, mean=shaped.unsqueeze(2)))
    matrix = block.movedim(-1, 2).reshape(lead, layout.outer * layout.inner, layout.size, layout.size)
    return Spread(variance, matrix, None, None)


def draws_within(operands: Operands, position: int, layout: Layout, count: int) -> Tensor:
    """Zero-mean draws (count, B, G, n) in opposite pairs, each unit with its exact variance.

    The random numbers are the same in every run and for every sample, so a batch equals single inputs. The shape of
    the distribution is constant with respect to gradients, its size is not.

    Returns:
        The draws; the second half holds the opposites of the first.
    """
    element = operands.values[position]
    half = count // 2
    with torch.no_grad():
        if hasattr(element, "covariance"):
            (drawn,) = operands.draw([element], half)
            drawn = layout.split(drawn)
        else:
            matrix = spread_within(operands, position, layout).matrix
            assert matrix is not None
            generator = torch.Generator().manual_seed(0)
            noise = torch.randn((half, 1, *matrix.shape[1:-1], 1), generator=generator, dtype=torch.float64)
            root = square_root(matrix.flatten(0, 1)).reshape(matrix.shape)
            drawn = (root @ noise.to(matrix)).squeeze(-1)
        size = safe_sqrt(drawn.square().mean(0))
        unit = drawn / torch.where(size > 0, size, torch.ones_like(size))
    scaled = unit * layout.split(operands.std(position))
    return torch.cat([scaled, -scaled])


def contracted(operands: Operands) -> Tensor:
    """sum_k Cov(a_ik, b_kj) of two varying matrices (B, ..., i, k) and (B, ..., k, j)."""
    first, second = operands.values[0], operands.values[1]
    if hasattr(first, "covariance"):
        left, right = first.covariance.factor, second.covariance.factor
        wide = left.movedim(0, -2).flatten(-2)  # the columns join the axis that is summed
        return wide @ right.movedim(0, -3).flatten(-3, -2)
    left, right = replace(first, mean=first.mean.unsqueeze(-1)), replace(second, mean=second.mean.unsqueeze(-3))
    return operands.between(left, right).sum(-2)


def is_batched(values: Sequence[Any]) -> bool:
    """Whether all of these are stacks of matrices with the batch in front."""
    return all(value.mean.dim() >= 3 for value in values)
