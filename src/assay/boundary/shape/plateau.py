"""How the mean curvature depends on the scale: where it does not, the scale may be left unsaid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from assay.attacks.target import Model
from assay.boundary.field import Field, field_of
from assay.boundary.points import BoundaryPoint
from assay.boundary.shape.difference import default_scale, directional
from assay.boundary.shape.places import Places, places_of
from assay.errors import UsageError
from assay.results import Displayed

STABLE = 0.1
"""Relative change under doubling of the scale, with two standard errors, that still counts as none."""
DOUBLINGS = 2
"""Doublings in a row that must change nothing."""
_OCTAVES = 8
_STREAM = 3
_MANY = 8  # rows from which the spread between points says how sure a mean change is


@dataclass(frozen=True, eq=False)
class Plateau(Displayed):
    """Mean curvature over a ladder of scales.

    Attributes:
        scales: (S,) float64 ascending, each twice the one before; where rows have scales of their own (inputs of
            unknown range), those of the middle row.
        estimates: (S, B) float64 mean curvature of every point at every scale.
        errors: (S, B) float64 standard errors from the directions.
        mean: (S,) average over the points.
        spread: (S,) standard deviation over the points (over the directions for a single point).
        status: `plateau` or `no plateau`.
        low: smallest scale of the plateau, NaN without one.
        high: largest scale of the plateau, NaN without one.
        value: mean curvature on the plateau, NaN without one.
    """

    scales: Tensor
    estimates: Tensor
    errors: Tensor
    mean: Tensor
    spread: Tensor
    status: str
    low: float
    high: float
    value: float

    @property
    def found(self) -> bool:
        """Whether there is a plateau."""
        return self.status == "plateau"

    def __str__(self) -> str:
        rows = [
            f"h = {scale:9.4g}   mean {mean: .5f}   spread {spread:.5f}"
            for scale, mean, spread in zip(self.scales.tolist(), self.mean.tolist(), self.spread.tolist(), strict=True)
        ]
        end = f"plateau from {self.low:.4g} to {self.high:.4g}: {self.value:.5f}" if self.found else "no plateau"
        return "\n".join([*rows, end])


def scale_sweep(
    model: Model | Field,
    at: BoundaryPoint,
    *,
    scales: Sequence[float] | None = None,
    probes: int = 30,
    seed: int = 0,
) -> Plateau:
    """Mean curvature over scales, with a verdict on whether a plateau exists.

    The same random directions serve all scales, so that differences between scales are not drowned by sampling. A
    plateau is two doublings in a row that change the mean by less than a tenth, two standard errors included: it must
    be shown, absence of evidence is none.

    Args:
        model: the network.
        at: boundary points; rows that were not found are left out.
        scales: ascending, each twice the one before; default: eight octaves that end at twice the default scale.
        probes: tangent directions per point; each costs two gradients per scale.
        seed: of the directions.

    Returns:
        The sweep. Costs len(scales) * 2 * probes gradients per point.

    Raises:
        UsageError: for scales that are not a doubling ladder, or no usable point.

    Example:
        >>> from assay.boundary.points import boundary_point
        >>> def disc(x):
        ...     return torch.stack([4 - x.square().sum(1), x.square().sum(1) - 4], 1)
        >>> x = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
        >>> swept = scale_sweep(disc, boundary_point(disc, x), scales=(0.05, 0.1, 0.2, 0.4), probes=4)
        >>> swept.status, round(swept.value, 2)
        ('plateau', 0.5)
    """
    field = field_of(model)
    places = places_of(field, at)
    usable = torch.isfinite(places.gradient_norm) & (places.gradient_norm > 0)
    if not bool(usable.any()):
        raise UsageError("There is no boundary point to sweep scales at.", where="at")
    places = places.select(usable)
    if scales is None:
        return sweep(places, probes=probes, seed=seed)
    ladder = torch.tensor([float(scale) for scale in scales], dtype=torch.float64)
    if len(ladder) < 2 or not bool((ladder > 0).all()) or not torch.allclose(ladder[1:], 2 * ladder[:-1], rtol=1e-6):
        raise UsageError("scales must be positive and double from one to the next.", where="scales")
    return sweep(places, ladder[:, None].expand(-1, len(places)), probes=probes, seed=seed)


def sweep(places: Places, ladder: Tensor | None = None, *, probes: int, seed: int) -> Plateau:
    """The sweep over places that are all usable, on doubling scales (S, B)."""
    if ladder is None:  # up to twice the default
        ladder = default_scale(places, kinked=True) * 2.0 ** torch.arange(2 - _OCTAVES, 2).double()[:, None]
    count = min(probes, places.dimension)
    terms = torch.zeros(len(ladder), len(places), count, dtype=torch.float64)
    for row in range(len(places)):
        directions = places.tangent(row).frame(count, places.generator(row, seed, _STREAM))
        for number, scale in enumerate(ladder[:, row].tolist()):
            terms[number, row] = directional(places, row, directions, scale)
    return verdict(ladder.median(1).values, terms)


def verdict(ladder: Tensor, terms: Tensor) -> Plateau:
    """A sweep's result from curvatures (S, B, m) along m directions common to all scales."""
    estimates = terms.mean(2)
    errors = _error(terms, 2)
    mean = estimates.mean(1)
    single = terms.shape[1] == 1
    spread = (terms[:, 0] if single else estimates).std(1, correction=1 if max(terms.shape[1:]) > 1 else 0)
    change = terms[1:] - terms[:-1]
    if terms.shape[1] >= _MANY:
        unsure = _error(change.mean(2), 1)
    else:
        unsure = _error(change, 2).square().sum(1).sqrt() / terms.shape[1]
    level = torch.maximum(mean[1:].abs(), mean[:-1].abs())
    steady = (mean[1:] - mean[:-1]).abs() + 2 * unsure <= STABLE * level
    first, length = _longest(steady.tolist())
    if length < DOUBLINGS:
        return Plateau(
            ladder, estimates, errors, mean, spread, "no plateau", math.nan, math.nan, math.nan
        )  # fmt: skip
    chosen = mean[first : first + length + 1]
    low, high = float(ladder[first]), float(ladder[first + length])
    return Plateau(ladder, estimates, errors, mean, spread, "plateau", low, high, float(chosen.mean()))


def _error(values: Tensor, axis: int) -> Tensor:
    count = values.shape[axis]
    return values.std(axis) / math.sqrt(count) if count > 1 else torch.zeros_like(values.sum(axis))


def _longest(steady: list[bool]) -> tuple[int, int]:
    """Start and length of the longest run of true values."""
    best, start = (0, 0), 0
    for position, good in enumerate([*steady, False]):
        if not good:
            if position - start > best[1]:
                best = (start, position - start)
            start = position + 1
    return best
