"""Laws of many windows from a few: ties of any two in closed form for each, how many are at the top from a sample.

The law of a maximum of more than a handful of Gaussians takes quasi-random points for every pair in every window, some
milliseconds each; a pooling layer of a photo network has a hundred thousand windows. Ties of any two are cheap and
never fewer, so the share of them that is at the top lies between 0 and 1 and varies little: windows are drawn in
proportion to what their ties would add to the outputs, and all others take the share of the drawn ones.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from assay.gaussian import KinkLaw, every_tie, maximum_law

CLOSED = 5
"""Candidates up to which the law needs no points, so that every window has its own."""
_SEED = 0


def laws(
    mean: Tensor, covariance: Tensor, slopes: Tensor, size: Tensor, square: Tensor, most: int | None, points: int
) -> tuple[KinkLaw, Tensor, Tensor, Tensor]:
    """Laws of windows and what they add to the outputs.

    Args:
        mean: (n, k) of the candidates.
        covariance: (n, k, k).
        slopes: (n, k, k) covariance of their slopes.
        size: (K, n) what a kink of size 1 does to each output, in the mean.
        square: (K, n) the mean of its square.
        most: windows that are worked out, at least 2; None for all.
        points: quasi-random points of each replicate.

    Returns:
        Law (n,) of every window, SMP (K,), energy (K,) and standard error (K,) of the SMP, by points and by draws.
        With windows drawn the laws are those of any two, times one share for all windows. Grade: statistical.

    Example:
        >>> eye = torch.eye(2, dtype=torch.float64).expand(3, 2, 2)
        >>> law, smp, energy, error = laws(
        ...     torch.zeros(3, 2).double(), eye, eye, torch.ones(1, 3), torch.ones(1, 3), 2, 8
        ... )
        >>> bool(torch.isclose(smp, law.smp.sum())), float(error)
        (True, 0.0)
    """
    size, square = size.to(mean), square.to(mean)
    if most is None or not is_drawn(len(mean), mean.shape[1], most):
        found = maximum_law(mean, covariance, slopes, points=points)
        law = found.ties[0]
        return law, size @ law.smp, square @ law.energy, size @ found.error
    bound = every_tie(mean, covariance, slopes)
    weight = size.mean(0) * bound.smp
    weight = weight if weight.sum() > 0 else bound.smp  # nothing of it reaches an output: rates still do
    if not weight.sum() > 0:
        return bound, size @ bound.smp, square @ bound.energy, torch.zeros_like(size[:, 0])
    chances = torch.rand(most, generator=torch.Generator().manual_seed(_SEED), dtype=torch.float64)
    along = weight.cumsum(0)
    drawn = torch.searchsorted(along, chances * along[-1], right=True).clamp(max=len(mean) - 1)
    unique, place = drawn.unique(return_inverse=True)
    found = maximum_law(mean[unique], covariance[unique], slopes[unique], points=points)
    inverse = 1 / weight[drawn]
    parts = KinkLaw(*(part[place] * inverse for part in found.ties[0]))
    wholes = KinkLaw(*(part[drawn] * inverse for part in bound))
    law = KinkLaw(*(whole * _share(part, other) for whole, part, other in zip(bound, parts, wholes, strict=True)))
    smp, error = _total(size @ bound.smp, size[:, drawn], parts.smp, wholes.smp)
    energy, _ = _total(square @ bound.energy, square[:, drawn], parts.energy, wholes.energy)
    by_points = size.mean(0)[drawn] * found.error[place] * inverse
    # windows share their points, so that their errors may add up
    own = (size @ bound.smp) * _share(by_points, size.mean(0)[drawn] * wholes.smp)
    return law, smp, energy, (error.square() + own.square()).sqrt()


def is_drawn(windows: int, candidates: int, most: int | None) -> bool:
    """Whether some of the windows stand for all.

    Returns:
        False where each is worked out.
    """
    return most is not None and windows > most and candidates > CLOSED


def _share(part: Tensor, whole: Tensor) -> Tensor:
    """The ratio of two sums, 0 for nothing of nothing."""
    total = whole.sum(-1)
    return torch.where(total > 0, part.sum(-1) / torch.where(total > 0, total, torch.ones_like(total)), 0 * total)


def _total(bound: Tensor, size: Tensor, part: Tensor, whole: Tensor) -> tuple[Tensor, Tensor]:
    """(K,) ratio estimate of a sum over windows and its standard error, from (K, draws) and (draws,)."""
    part, whole = size * part, size * whole
    share = _share(part, whole)
    scale = whole.mean(1)
    left = (part - share.unsqueeze(1) * whole).std(1) / math.sqrt(part.shape[1])
    safe = torch.where(scale > 0, scale, torch.ones_like(scale))
    return bound * share, torch.where(scale > 0, bound * left / safe, 0 * bound)
