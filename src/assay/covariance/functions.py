"""Questions to a covariance and operations on it: free functions that dispatch on the type."""

from __future__ import annotations

import math
from functools import singledispatch
from typing import NoReturn

import torch
from torch import Tensor

from assay.covariance.linear_map import LinearMap
from assay.covariance.types import Covariance, Dense, Diagonal, LowRankPlusDiagonal
from assay.gaussian.blocks import followed

_BLOCK = 32768


def flat_columns(matrix: Tensor, event: tuple[int, ...]) -> Tensor:
    """Columns (k, B, *event) of matrices (B, n, k)."""
    return matrix.permute(2, 0, 1).reshape(matrix.shape[2], matrix.shape[0], *event)


def flat_rows(columns: Tensor) -> Tensor:
    """Matrices (B, n, k) whose columns are (k, B, *event)."""
    # the size is spelled out: with no columns, -1 would be ambiguous
    return columns.reshape(*columns.shape[:2], math.prod(columns.shape[2:])).permute(1, 2, 0)


def _unknown(covariance: object) -> NoReturn:
    raise TypeError(f"not a covariance: {type(covariance).__name__}")


@singledispatch
def diagonal(covariance: Covariance) -> Tensor:
    """Variances of all elements.

    Returns:
        (B, *shape).

    Example:
        >>> diagonal(Dense(torch.tensor([[[2.0, 1.0], [1.0, 3.0]]]), (2,))).tolist()
        [[2.0, 3.0]]
    """
    return _unknown(covariance)


@diagonal.register
def _(covariance: Diagonal) -> Tensor:
    return covariance.variance


@diagonal.register
def _(covariance: LowRankPlusDiagonal) -> Tensor:
    if covariance.factor.requires_grad or covariance.rest.requires_grad:
        return covariance.factor.square().sum(0) + covariance.rest
    factor, total = covariance.factor, covariance.rest.contiguous().clone()
    flat, sums = factor.reshape(factor.shape[0], total.numel()), total.view(-1)
    for begin in range(0, sums.numel(), _BLOCK):  # the sums of a block stay in the cache while columns stream by
        part = sums[begin : begin + _BLOCK]
        for column in flat[:, begin : begin + _BLOCK]:
            part.addcmul_(column, column)
    return total


@diagonal.register
def _(covariance: Dense) -> Tensor:
    return covariance.matrix.diagonal(dim1=1, dim2=2).reshape(covariance.shape)


@singledispatch
def through_linear(covariance: Covariance, linear: LinearMap) -> Covariance:
    """Covariance of the image A x: A S A^T in the same form.

    For `Diagonal` and the rest of `LowRankPlusDiagonal` only the variances of the image are kept: correlations that
    A creates between independent elements are dropped.

    Returns:
        A covariance of the same type.

    Example:
        >>> from assay.covariance.linear_map import MatrixMap
        >>> diagonal(through_linear(Diagonal(torch.ones(1, 2)), MatrixMap(torch.tensor([[1.0, 2.0]]))))
        tensor([[5.]])
    """
    return _unknown(covariance)


@through_linear.register
def _(covariance: Diagonal, linear: LinearMap) -> Covariance:
    return Diagonal(linear.squared(covariance.variance))


@through_linear.register
def _(covariance: LowRankPlusDiagonal, linear: LinearMap) -> Covariance:
    return LowRankPlusDiagonal(linear.apply(covariance.factor), linear.squared(covariance.rest))


@through_linear.register
def _(covariance: Dense, linear: LinearMap) -> Covariance:
    half = linear.apply(flat_columns(covariance.matrix, covariance.event))  # columns of A S
    event = tuple(half.shape[2:])
    full = linear.apply(flat_columns(flat_rows(half).mT, covariance.event))  # columns of A (A S)^T
    return Dense(flat_rows(full), event)


@singledispatch
def scale(covariance: Covariance, gain: Tensor) -> Covariance:
    """Covariance of gain * x, elementwise gain broadcastable to (B, *shape).

    Returns:
        A covariance of the same form.

    Example:
        >>> diagonal(scale(Diagonal(torch.ones(1, 2)), torch.tensor([2.0, 3.0])))
        tensor([[4., 9.]])
    """
    return _unknown(covariance)


@scale.register
def _(covariance: Diagonal, gain: Tensor) -> Covariance:
    return Diagonal(covariance.variance * gain * gain)


@scale.register
def _(covariance: LowRankPlusDiagonal, gain: Tensor) -> Covariance:
    return LowRankPlusDiagonal(covariance.factor * gain, covariance.rest * gain * gain)


@scale.register
def _(covariance: Dense, gain: Tensor) -> Covariance:
    flat = gain.expand(covariance.shape).reshape(covariance.shape[0], -1)
    return Dense(covariance.matrix * flat.unsqueeze(1) * flat.unsqueeze(2), covariance.event)


@singledispatch
def add(covariance: Covariance, variance: Tensor) -> Covariance:
    """Covariance of x plus independent elements of this variance (B, *shape).

    Returns:
        A covariance of the same form.

    Example:
        >>> diagonal(add(Diagonal(torch.ones(1, 2)), torch.tensor([[0.5, 0.0]])))
        tensor([[1.5000, 1.0000]])
    """
    return _unknown(covariance)


@add.register
def _(covariance: Diagonal, variance: Tensor) -> Covariance:
    return Diagonal(covariance.variance + variance)


@add.register
def _(covariance: LowRankPlusDiagonal, variance: Tensor) -> Covariance:
    return LowRankPlusDiagonal(covariance.factor, covariance.rest + variance)


@add.register
def _(covariance: Dense, variance: Tensor) -> Covariance:
    flat = variance.expand(covariance.shape).reshape(covariance.shape[0], -1)
    return Dense(covariance.matrix + torch.diag_embed(flat), covariance.event)


@singledispatch
def to_dense(covariance: Covariance) -> Dense:
    """The same covariance as a full matrix; memory B n^2.

    Returns:
        The matrix (B, n, n), with the event's shape.

    Example:
        >>> to_dense(Diagonal(torch.tensor([[1.0, 2.0]]))).matrix
        tensor([[[1., 0.],
                 [0., 2.]]])
    """
    return _unknown(covariance)


@to_dense.register
def _(covariance: Diagonal) -> Dense:
    flat = covariance.variance.reshape(covariance.shape[0], -1)
    return Dense(torch.diag_embed(flat), covariance.shape[1:])


@to_dense.register
def _(covariance: LowRankPlusDiagonal) -> Dense:
    rows = flat_rows(covariance.factor)
    flat = covariance.rest.reshape(covariance.shape[0], -1)
    return Dense(rows @ rows.mT + torch.diag_embed(flat), covariance.shape[1:])


@to_dense.register
def _(covariance: Dense) -> Dense:
    return covariance


@singledispatch
def project(covariance: Covariance, left: Tensor, right: Tensor) -> Tensor:
    """Left S right^T per sample, without forming S where it has structure.

    Args:
        covariance: over (B, *shape).
        left: (k, B, *shape).
        right: (m, B, *shape).

    Returns:
        (B, k, m).

    Example:
        >>> covariance = Dense(torch.tensor([[[2.0, 1.0], [1.0, 2.0]]]), (2,))
        >>> ones = torch.ones(1, 1, 2)
        >>> project(covariance, ones, ones)
        tensor([[[6.]]])
    """
    return _unknown(covariance)


@project.register
def _(covariance: Diagonal, left: Tensor, right: Tensor) -> Tensor:
    return flat_rows(left * covariance.variance).mT @ flat_rows(right)


@project.register
def _(covariance: LowRankPlusDiagonal, left: Tensor, right: Tensor) -> Tensor:
    rows = flat_rows(covariance.factor)
    return (flat_rows(left).mT @ rows) @ (rows.mT @ flat_rows(right)) + flat_rows(
        left * covariance.rest
    ).mT @ flat_rows(right)


@project.register
def _(covariance: Dense, left: Tensor, right: Tensor) -> Tensor:
    return flat_rows(left).mT @ covariance.matrix @ flat_rows(right)


@singledispatch
def times(covariance: Covariance, columns: Tensor) -> Tensor:
    """S applied to columns (k, B, *shape): (k, B, *shape).

    Returns:
        The products.

    Example:
        >>> times(Diagonal(torch.tensor([[1.0, 2.0]])), torch.ones(1, 1, 2))
        tensor([[[1., 2.]]])
    """
    return _unknown(covariance)


@times.register
def _(covariance: Diagonal, columns: Tensor) -> Tensor:
    return covariance.variance * columns


@times.register
def _(covariance: LowRankPlusDiagonal, columns: Tensor) -> Tensor:
    rows = flat_rows(covariance.factor)
    return flat_columns(rows @ (rows.mT @ flat_rows(columns)), covariance.shape[1:]) + covariance.rest * columns


@times.register
def _(covariance: Dense, columns: Tensor) -> Tensor:
    return flat_columns(covariance.matrix @ flat_rows(columns), covariance.event)


@singledispatch
def select(covariance: Covariance, rows: slice | Tensor) -> Covariance:
    """The covariance of some samples of the batch, given as a slice or indices.

    Returns:
        A covariance of the same form.

    Example:
        >>> select(Diagonal(torch.ones(5, 2)), slice(0, 2)).shape
        (2, 2)
    """
    return _unknown(covariance)


@select.register
def _(covariance: Diagonal, rows: slice | Tensor) -> Covariance:
    return Diagonal(covariance.variance[rows])


@select.register
def _(covariance: LowRankPlusDiagonal, rows: slice | Tensor) -> Covariance:
    return LowRankPlusDiagonal(covariance.factor[:, rows], covariance.rest[rows])


@select.register
def _(covariance: Dense, rows: slice | Tensor) -> Covariance:
    return Dense(covariance.matrix[rows], covariance.event)


def between(first: LowRankPlusDiagonal, second: LowRankPlusDiagonal) -> Tensor:
    """Elementwise covariance (B, ...) of two tensors whose factors share their sources; the rests are independent.

    Returns:
        One number per element.

    Example:
        >>> one = LowRankPlusDiagonal(torch.tensor([[[1.0, 2.0]]]), torch.zeros(1, 2))
        >>> other = LowRankPlusDiagonal(torch.tensor([[[3.0, 1.0]]]), torch.ones(1, 2))
        >>> between(one, other)
        tensor([[3., 2.]])
    """
    return (first.factor * second.factor).sum(0)


@singledispatch
def sample(covariance: Covariance, count: int, generator: torch.Generator) -> Tensor:
    """Zero-mean Gaussian draws (count, B, *shape).

    Returns:
        The draws.

    Example:
        >>> sample(Diagonal(torch.ones(1, 2)), 5, torch.Generator().manual_seed(0)).shape
        torch.Size([5, 1, 2])
    """
    return _unknown(covariance)


def _normal(count: int, like: Tensor, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randn((count, *shape), generator=generator, dtype=like.dtype).to(like.device)


@sample.register
def _(covariance: Diagonal, count: int, generator: torch.Generator) -> Tensor:
    return _normal(count, covariance.variance, covariance.shape, generator) * safe_sqrt(covariance.variance)


@sample.register
def _(covariance: LowRankPlusDiagonal, count: int, generator: torch.Generator) -> Tensor:
    shared = _normal(count, covariance.rest, (covariance.rank, covariance.shape[0]), generator)
    own = _normal(count, covariance.rest, covariance.shape, generator)
    return torch.einsum("krb,rb...->kb...", shared, covariance.factor) + own * safe_sqrt(covariance.rest)


@sample.register
def _(covariance: Dense, count: int, generator: torch.Generator) -> Tensor:
    root = square_root(covariance.matrix)
    noise = _normal(count, covariance.matrix, (covariance.shape[0], root.shape[-1]), generator)
    return (root @ noise.unsqueeze(-1)).squeeze(-1).reshape(count, *covariance.shape)


def safe_sqrt(variance: Tensor) -> Tensor:
    """Square root of a variance with zero gradient at zero; tiny negative rounding counts as zero."""
    if not followed(variance):
        return variance.clamp(min=0).sqrt_()
    positive = variance > 0
    return torch.where(
        positive, torch.where(positive, variance, torch.ones_like(variance)).sqrt(), torch.zeros_like(variance)
    )


def square_root(matrix: Tensor) -> Tensor:
    """R with R R^T = matrix for (B, n, n) symmetric matrices; tiny negative eigenvalues from rounding count as zero."""
    values, vectors = torch.linalg.eigh(matrix)
    return vectors * values.clamp(min=0).sqrt().unsqueeze(-2)


def compress(covariance: Covariance, rank: int) -> LowRankPlusDiagonal:
    """Best low-rank part in the least-squares sense, with the variances kept exact by the rest.

    Args:
        covariance: any form; `Dense` costs an eigendecomposition, O(B n^3).
        rank: number of columns to keep.

    Returns:
        The low-rank part and the rest.

    Example:
        >>> found = compress(Dense(torch.tensor([[[2.0, 1.0], [1.0, 2.0]]]), (2,)), 1)
        >>> found.rank, diagonal(found)
        (1, tensor([[2., 2.]]))
    """
    if isinstance(covariance, Diagonal):
        empty = covariance.variance.new_zeros((0, *covariance.shape))
        return LowRankPlusDiagonal(empty, covariance.variance)
    if isinstance(covariance, LowRankPlusDiagonal):
        if covariance.rank <= rank:
            return covariance
        rows = flat_rows(covariance.factor)
        vectors, values, _ = torch.linalg.svd(rows, full_matrices=False)
        kept = vectors[..., :rank] * values[..., None, :rank]
        left = (rows.square().sum(-1) - kept.square().sum(-1)).clamp(min=0)
        return LowRankPlusDiagonal(
            flat_columns(kept, covariance.shape[1:]), covariance.rest + left.reshape(covariance.shape)
        )
    full = to_dense(covariance)
    values, vectors = torch.linalg.eigh(full.matrix)
    first = max(values.shape[-1] - rank, 0)  # eigenvalues ascend
    kept = vectors[..., first:] * values[..., None, first:].clamp(min=0).sqrt()
    left = (full.matrix.diagonal(dim1=1, dim2=2) - kept.square().sum(-1)).clamp(min=0)
    return LowRankPlusDiagonal(flat_columns(kept, full.event), left.reshape(covariance.shape))


def size_in_bytes(covariance: Covariance) -> int:
    """Memory of the covariance."""
    tensors = [value for value in vars(covariance).values() if isinstance(value, Tensor)]
    return sum(math.prod(t.shape) * t.element_size() for t in tensors)
