"""Columns for the low-rank form of the input noise. All choices give every unit an unbiased variance.

On pictures with independent pixel noise the pixels are coloured: pixels of one colour, with random signs, share a
column, and pixels closer than the tile never share one (with few columns, only those of one position do). A unit whose
receptive field fits the tile has its exact variance (probing, Tang and Saad 2012), where an unstructured sketch is off
by sqrt(2 / r).

Otherwise the columns are the directions that move the outputs most (right singular directions of the output
Jacobian) and random orthogonal directions of the rest, scaled up. Never the top principal components of the noise:
for isotropic noise
those are arbitrary and lose (n - r) / n of the variance.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from assay.covariance import Conditioned, Convolved, Covariance, Dense, Diagonal, LowRankPlusDiagonal, to_dense
from assay.covariance.conditioned import freed
from assay.covariance.convolved import root, root_transposed
from assay.covariance.functions import flat_columns, flat_rows, safe_sqrt, square_root

_LARGE = 256
"""Pixels per column from which columns too few to tell the channels apart are coloured all the same, not guided."""

INNOVATION_COLUMNS = 8
"""Most columns for the noise that non-linearities make; more changed little on MobileNetV2 and EfficientNet-Lite0."""


class Columns(NamedTuple):
    """What a walk in the factor domain starts from.

    Attributes:
        covariance: of the input: factor (q, B, *shape) and rest.
        exact: whether factor and rest are all of the noise.
        innovation: columns to add for the noise that non-linearities make; with 0 it counts as independent.
    """

    covariance: LowRankPlusDiagonal
    exact: bool
    innovation: int


def columns(covariance: Covariance, rank: int, guides: Callable[[], Tensor] | None = None, *, seed: int = 0) -> Columns:
    """Columns for a walk, at most `rank` in all.

    Where they cannot hold the input's noise exactly, up to a quarter of them, at most 8, is kept for the noise that
    non-linearities make; a colouring, whose number of columns jumps, takes precedence down to an eighth.

    Args:
        covariance: of the input.
        rank: number r of columns.
        guides: see `low_rank`.
        seed: of the random directions.

    Returns:
        Columns.
    """
    if _holds(covariance, rank):
        return Columns(low_rank(covariance, rank, guides, seed=seed)[0], True, 0)
    share = min(INNOVATION_COLUMNS, rank // 4)
    least = min(share, max(rank // 8, 1))
    kept = least if _colours(covariance, rank - least) else share
    reduced, _ = low_rank(covariance, rank - kept, guides, seed=seed)
    return Columns(reduced, False, min(share, max(rank - reduced.rank, kept)))


def _colours(covariance: Covariance, rank: int) -> bool:
    """Whether `low_rank` colours pixels."""
    if isinstance(covariance, Conditioned):
        return _colours(covariance.base, rank)
    if isinstance(covariance, LowRankPlusDiagonal):
        rank -= covariance.rank
    elif not isinstance(covariance, Diagonal):
        return False
    return _tile(covariance.shape[1:], rank) is not None


def _holds(covariance: Covariance, rank: int) -> bool:
    """Whether `low_rank` with this many columns is exact."""
    if isinstance(covariance, Conditioned):
        return _holds(covariance.base, rank)
    if isinstance(covariance, LowRankPlusDiagonal):
        if not bool((covariance.rest > 0).any()):
            return True
        rank = max(rank - covariance.rank, 1)
    return rank >= math.prod(covariance.shape[1:])


def low_rank(
    covariance: Covariance, rank: int, guides: Callable[[], Tensor] | None = None, *, seed: int = 0
) -> tuple[LowRankPlusDiagonal, bool]:
    """Input covariance with at most `rank` columns, and whether it is represented exactly.

    Args:
        covariance: of the input, over (B, *shape).
        rank: number r of columns.
        guides: gives (k, B, *shape) rows of the output Jacobian; asked only where they are used.
        seed: of the random directions; the same for every sample, so a batch equals single inputs.

    Returns:
        Factor (r, B, *shape) with zero rest, and True when F F^T equals the covariance.
    """
    if isinstance(covariance, LowRankPlusDiagonal):
        return _complete(covariance, rank, guides, seed)
    if isinstance(covariance, Conditioned):
        whole, exact = low_rank(covariance.base, rank, guides, seed=seed)
        return LowRankPlusDiagonal(freed(covariance, whole.factor), whole.rest), exact
    shape = covariance.shape
    size = math.prod(shape[1:])
    zero = torch.zeros(shape, dtype=_dtype(covariance))
    if rank >= size:
        full = to_dense(covariance) if isinstance(covariance, Convolved) else covariance
        return LowRankPlusDiagonal(_full(full), zero), True
    if isinstance(covariance, Convolved):
        return _smooth(covariance, rank, guides, seed), False
    through_root, through_transposed = _roots(covariance)
    generator = torch.Generator().manual_seed(seed)
    directions = _coloured(shape[1:], rank, zero, generator) if isinstance(covariance, Diagonal) else None
    if directions is None:
        guided = None
        if guides is not None and rank > 1:
            guided = through_transposed(flat_rows(guides()))
        directions = _sketched(guided, rank, shape, zero, generator)
    return LowRankPlusDiagonal(flat_columns(through_root(directions), shape[1:]), zero), False


def _smooth(covariance: Convolved, rank: int, guides: Callable[[], Tensor] | None, seed: int) -> LowRankPlusDiagonal:
    """Columns of smooth noise: guided and random directions of the white noise behind it."""
    canvas = (covariance.shape[0], *covariance.canvas)
    guided = None
    if guides is not None and rank > 1:
        guided = flat_rows(root_transposed(covariance, guides()))
    generator = torch.Generator().manual_seed(seed)
    directions = _sketched(guided, rank, canvas, covariance.scale, generator)
    factor = root(covariance, flat_columns(directions, canvas[1:]))
    return LowRankPlusDiagonal(factor, torch.zeros_like(covariance.scale))


def _roots(covariance: Dense | Diagonal) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """A root of the covariance and its transpose, acting on columns (B, n, k)."""
    if isinstance(covariance, Diagonal):
        scale = safe_sqrt(covariance.variance.reshape(covariance.shape[0], -1, 1))
        return scale.mul, scale.mul
    root = square_root(covariance.matrix)
    return root.matmul, root.mT.matmul


def _sketched(
    guided: Tensor | None, rank: int, shape: tuple[int, ...], like: Tensor, generator: torch.Generator
) -> Tensor:
    """(B, n, r): orthonormal guided directions (at most half), then scaled random directions of their complement."""
    batch, size = shape[0], math.prod(shape[1:])
    count = 0 if guided is None else min(guided.shape[-1], rank // 2)
    random = torch.randn((1, size, rank - count), generator=generator, dtype=like.dtype).expand(batch, -1, -1)
    stacked = random
    if guided is not None:
        # where guides depend on each other (probabilities add up to 1), a trace of a random direction decides, not
        # rounding
        trace = torch.randn((1, size, count), generator=generator, dtype=like.dtype) / size**0.5
        steady = _normalised(guided[..., :count]) + torch.finfo(like.dtype).eps ** (1 / 3) * trace
        stacked = torch.cat([steady, random], -1)
    orthogonal, _ = torch.linalg.qr(stacked)
    inflation = ((size - count) / (rank - count)) ** 0.5
    return torch.cat([orthogonal[..., :count], orthogonal[..., count:] * inflation], -1)


def _coloured(event: tuple[int, ...], columns: int, like: Tensor, generator: torch.Generator) -> Tensor | None:
    """(1, n, c) signed indicator columns of a tiling of (C, H, W), c <= columns; None where no 2 x 2 tile fits."""
    tile = _tile(event, columns)
    if tile is None:
        return None
    (channels, height, width), (apart, tall, wide) = event, tile
    row = torch.arange(height).reshape(1, -1, 1) % tall
    column = torch.arange(width).reshape(1, 1, -1) % wide
    channel = torch.arange(channels).reshape(-1, 1, 1) % apart
    colour = ((channel * tall + row) * wide + column).reshape(-1)
    signs = 2 * torch.randint(0, 2, (math.prod(event),), generator=generator) - 1
    indicator = torch.nn.functional.one_hot(colour, apart * tall * wide).to(like.dtype)
    return (indicator * signs.to(like.dtype).unsqueeze(1)).unsqueeze(0)


def _tile(event: tuple[int, ...], columns: int) -> tuple[int, int, int] | None:
    """Channels, height and width of the largest tile whose pixels have a column each; None below 2 x 2."""
    if len(event) != 3 or min(event[1:]) < 3:
        return None
    channels, height, width = event
    if columns < 4 * channels and math.prod(event) >= _LARGE * columns:
        # guided directions would hold next to nothing of the noise, and take two passes to find
        channels = 1
    side = math.isqrt(max(columns, 0) // channels)
    if side < 2:
        return None
    tall = min(side, height)
    return channels, tall, min(columns // channels // tall, width)


def _normalised(columns: Tensor) -> Tensor:
    norms = columns.norm(dim=1, keepdim=True)
    return columns / torch.where(norms > 0, norms, torch.ones_like(norms))


def _complete(
    covariance: LowRankPlusDiagonal, rank: int, guides: Callable[[], Tensor] | None, seed: int
) -> tuple[LowRankPlusDiagonal, bool]:
    """The user's own columns, plus columns for the independent rest."""
    if not bool((covariance.rest > 0).any()):
        return covariance, True
    rest, exact = low_rank(Diagonal(covariance.rest), max(rank - covariance.rank, 1), guides, seed=seed)
    return LowRankPlusDiagonal(torch.cat([covariance.factor, rest.factor]), rest.rest), exact


def _full(covariance: Dense | Diagonal) -> Tensor:
    if isinstance(covariance, Dense):
        return flat_columns(square_root(covariance.matrix), covariance.event)
    flat = safe_sqrt(covariance.variance.reshape(covariance.shape[0], -1))
    return flat_columns(torch.diag_embed(flat), covariance.shape[1:])


def _dtype(covariance: Dense | Diagonal | Convolved) -> torch.dtype:
    if isinstance(covariance, Convolved):
        return covariance.scale.dtype
    return covariance.matrix.dtype if isinstance(covariance, Dense) else covariance.variance.dtype
