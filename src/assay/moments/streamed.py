"""Sums and blends over columns (r, B, ...) without a second copy of them, whatever their strides."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from assay.covariance import LinearMap
from assay.gaussian import followed
from assay.interpret import Gains

_BLOCK = 32768
"""Elements of a column at a time: their sums stay in the cache while the columns stream by."""

_LEAST = 8
"""Columns that go through a map together at least: fewer would leave the processor idle."""


def products(first: Tensor, second: Tensor) -> Tensor:
    """Sum over the columns of their elementwise products.

    Args:
        first: (r, B, ...); views with gaps, such as the windows of a max pool, are read where they lie.
        second: of the same shape; the same tensor gives variances.

    Returns:
        (B, ...).

    Example:
        >>> products(torch.ones(3, 1, 2), torch.full((3, 1, 2), 2.0)).tolist()
        [[6.0, 6.0]]
    """
    if first.shape != second.shape or followed(first, second):
        return (first * second).sum(0)
    total = first.new_zeros(first.shape[1:])
    for piece in _pieces(total.shape):
        part = total[piece]
        for one, other in zip(first[:, *piece], second[:, *piece], strict=True):
            part.addcmul_(one, other)
    return total


def in_parts(linear: LinearMap, columns: Tensor, shape: Sequence[int]) -> Tensor:
    """Columns through a map that makes more of them, a few at a time: what it needs beside them stays small.

    Args:
        linear: map of one input.
        columns: (r, B, ...).
        shape: of the result for one column.

    Returns:
        (r, *shape).
    """
    size = max(_LEAST, -(-len(columns) // 4))
    if len(columns) <= size or math.prod(shape) < 2 * columns[0].numel() or followed(columns):
        return linear.apply(columns)
    result = columns.new_empty((len(columns), *shape))
    for part, given in zip(result.split(size), columns.split(size), strict=True):
        part.copy_(linear.apply(given))
    return result


def carry(columns: Tensor, variance: Tensor, signs: Sequence[Tensor]) -> None:
    """Add independent noise to a few columns, in place: the sum of their squares grows by its variance on average.

    Args:
        columns: (k, B, ...).
        variance: (B, ...).
        signs: k random ones of the shape of a sample.
    """
    share = 1 / len(signs)
    for piece in _pieces(variance.shape):
        spread = (variance[piece] * share).clamp_(min=0).sqrt_()
        within = piece[1:] if piece else ()  # signs are those of every sample
        for column, sign in zip(columns, signs, strict=True):
            column[piece].addcmul_(spread, sign[within])


def _pieces(shape: Sequence[int]) -> Iterator[tuple[int | slice, ...]]:
    """Indices of parts of a tensor of about a block's size each, cut along its first axes."""
    if math.prod(shape) <= _BLOCK or not shape:
        yield ()
        return
    inner = math.prod(shape[1:])
    if inner > _BLOCK:
        for index in range(shape[0]):
            yield from ((index, *rest) for rest in _pieces(shape[1:]))
        return
    length = _BLOCK // inner
    yield from ((slice(begin, begin + length),) for begin in range(0, shape[0], length))


class Blend(Gains):
    """The average weight * x + (1 - weight) * y of two inputs, as the larger of both has it.

    Args:
        weight: (B, ...) of the first input.
        shapes: of both inputs.
    """

    def __init__(self, weight: Tensor, shapes: Sequence[torch.Size]) -> None:
        self.weight = weight
        self.shapes = shapes

    @property
    def gains(self) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Factors of both inputs; only one is kept."""
        return self.weight, 1 - self.weight

    def into(self, first: Tensor, second: Tensor, target: Tensor) -> Tensor:
        """Columns of the result, written over `target`: one of both, or memory of their shape."""
        return torch.lerp(second, first, self.weight, out=target)
