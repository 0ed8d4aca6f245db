"""Columns for the low-rank form of the input noise.

The columns are the directions that move the outputs most (right singular directions of the output Jacobian) and random orthogonal
directions of the rest, scaled up so that neuron variances are unbiased. Never the top principal components of the noise: for
isotropic noise those are arbitrary and lose (n - r) / n of the variance (specification 5.2).
"""

from __future__ import annotations

import torch
from torch import Tensor

from assay.covariance import Covariance, Dense, Diagonal, LowRankPlusDiagonal
from assay.covariance.functions import flat_columns, flat_rows, square_root


def low_rank(covariance: Covariance, rank: int, jacobian: Tensor | None, *, seed: int = 0) -> tuple[LowRankPlusDiagonal, bool]:
    """Input covariance with at most `rank` columns, and whether it is represented exactly.

    Args:
        covariance: of the input, over (B, *shape).
        rank: number r of columns.
        jacobian: (k, B, *shape) rows of the output Jacobian, k < r, or None.
        seed: of the random directions; the same for every sample, so a batch equals single inputs.

    Returns:
        Factor (r, B, *shape) with zero rest, and True when F F^T equals the covariance.
    """
    if isinstance(covariance, LowRankPlusDiagonal):
        return _complete(covariance, rank, jacobian, seed)
    shape = covariance.shape
    size = covariance.matrix.shape[-1] if isinstance(covariance, Dense) else covariance.variance[0].numel()
    zero = torch.zeros(shape, dtype=_dtype(covariance))
    if rank >= size:
        return LowRankPlusDiagonal(_full(covariance), zero), True
    root = None if isinstance(covariance, Diagonal) else square_root(covariance.matrix)
    scale = covariance.variance.reshape(shape[0], -1, 1).sqrt() if isinstance(covariance, Diagonal) else None

    def through_root(columns: Tensor) -> Tensor:
        return scale * columns if scale is not None else root @ columns

    guided = None
    if jacobian is not None:
        rows = flat_rows(jacobian)
        guided = scale * rows if scale is not None else root.mT @ rows  # type: ignore[union-attr]
    directions = _directions(guided, rank, size, shape[0], zero, seed)
    return LowRankPlusDiagonal(flat_columns(through_root(directions), shape[1:]), zero), False


def _directions(guided: Tensor | None, rank: int, size: int, batch: int, like: Tensor, seed: int) -> Tensor:
    """(B, n, r): orthonormal guided directions, then scaled random directions of their complement."""
    generator = torch.Generator().manual_seed(seed)
    count = 0 if guided is None else min(guided.shape[-1], rank - 1)
    random = torch.randn((1, size, rank - count), generator=generator, dtype=like.dtype).expand(batch, -1, -1)
    stacked = random if guided is None else torch.cat([_normalised(guided[..., :count]), random], -1)
    orthogonal, _ = torch.linalg.qr(stacked)
    inflation = ((size - count) / (rank - count)) ** 0.5
    return torch.cat([orthogonal[..., :count], orthogonal[..., count:] * inflation], -1)


def _normalised(columns: Tensor) -> Tensor:
    norms = columns.norm(dim=1, keepdim=True)
    return columns / torch.where(norms > 0, norms, torch.ones_like(norms))


def _complete(covariance: LowRankPlusDiagonal, rank: int, jacobian: Tensor | None, seed: int) -> tuple[LowRankPlusDiagonal, bool]:
    """The user's own columns, plus columns for the independent rest."""
    if not bool((covariance.rest > 0).any()):
        return covariance, True
    rest, exact = low_rank(Diagonal(covariance.rest), max(rank - covariance.rank, 1), jacobian, seed=seed)
    return LowRankPlusDiagonal(torch.cat([covariance.factor, rest.factor]), rest.rest), exact


def _full(covariance: Dense | Diagonal) -> Tensor:
    if isinstance(covariance, Dense):
        return flat_columns(square_root(covariance.matrix), covariance.event)
    flat = covariance.variance.reshape(covariance.shape[0], -1).sqrt()
    return flat_columns(torch.diag_embed(flat), covariance.shape[1:])


def _dtype(covariance: Dense | Diagonal) -> torch.dtype:
    return covariance.matrix.dtype if isinstance(covariance, Dense) else covariance.variance.dtype
