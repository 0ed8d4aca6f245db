"""The curvature profile of a network: sorted principal curvatures at the boundary, averaged over a data set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from assay.attacks.target import Model
from assay.boundary.field import Field, field_of
from assay.boundary.points import BoundaryPoint, boundary_point
from assay.boundary.shape.measure import Estimator, curvature
from assay.boundary.shape.result import Curvature
from assay.boundary.subspaces.spread import mean_interval
from assay.errors import UsageError
from assay.grade import Grade
from assay.results import Displayed

SMALL = 0.1
"""Curvatures below this share of the point's largest count as flat directions."""
FULL = 784
"""Elements per input up to which the whole spectrum is computed by default."""
LARGEST = 3072
"""Elements per input up to which a d x d matrix is formed at all."""


@dataclass(frozen=True, eq=False)
class Profile(Displayed):
    """Sorted principal curvatures over a data set. B inputs, m curvatures each.

    Attributes:
        average: (m,) mean over the inputs of the i-th largest principal curvature.
        low: (m,) lower end of its interval over inputs, at 95 %.
        high: (m,) upper end.
        principal: (B, m) the curvatures themselves, descending; NaN rows where no boundary point was found.
        mean: (B,) mean curvature of each input.
        small: (B,) share of the d - 1 directions with |kappa| below 10 % of the input's largest; NaN without the whole
            spectrum, or without any curvature.
        positive: (B,) sum of the positive principal curvatures; NaN without the whole spectrum.
        negative: (B,) sum of the negative ones.
        summary: of `mean`, `small`, `positive`, `negative` by name: mean over inputs and the ends of its interval.
        negative_share: share of inputs whose mean curvature is negative.
        complete: whether all d - 1 principal curvatures are there, else those at both ends.
        curvature: what all this was computed from, with estimator, scale and points.
        grade: of the curvatures; averages over inputs are sampled.
    """

    average: Tensor
    low: Tensor
    high: Tensor
    principal: Tensor
    mean: Tensor
    small: Tensor
    positive: Tensor
    negative: Tensor
    summary: dict[str, tuple[float, float, float]]
    negative_share: float
    complete: bool
    curvature: Curvature
    grade: Grade


def profile(
    model: Model | Field,
    x: Tensor | BoundaryPoint | Curvature,
    *,
    top: int | Literal["full"] | None = None,
    estimator: Estimator = "auto",
    scale: float | None = None,
    seed: int = 0,
    batch_size: int | None = None,
) -> Profile:
    """Average sorted principal curvatures of the boundary near the inputs, and how flat and how asymmetric it is.

    Args:
        model: a module, a Subject, a function (B, ...) -> (B, K), or a Field.
        x: (B, ...) inputs, their boundary points, or the curvature there.
        top: principal curvatures from each end, or ``full``; None takes all up to 784 elements per input, else 10.
        estimator: as for `curvature`.
        scale: length over which curvature is measured, as for `curvature`.
        seed: of the random directions.
        batch_size: samples per pass; None chooses by memory.

    Returns:
        Profile. With the whole spectrum a d x d matrix per input, one at a time; else memory for 2 top vectors.

    Raises:
        UsageError: for a full spectrum of inputs with more than 3,072 elements.

    Source: Fawzi, Moosavi-Dezfooli, Frossard and Soatto (2018), section on the curvature profile.

    Example:
        >>> bowl = lambda x: torch.stack(
        ...     [2 + 0.3 * x[:, 1] ** 2 - 0.1 * x[:, 2] ** 2 - x[:, 0], torch.zeros(len(x))], 1
        ... )
        >>> found = profile(bowl, torch.tensor([[1.0, 0.0, 0.0]]).double())
        >>> found.average.round(decimals=6).tolist(), found.complete
        ([0.2, -0.6], True)
    """
    field = field_of(model, batch_size=batch_size)
    if isinstance(x, Curvature):
        found = x
    else:
        size = (x.x if isinstance(x, BoundaryPoint) else x)[0].numel()
        if top == "full" and size > LARGEST:
            raise UsageError(
                f"The whole spectrum of inputs with {size} elements needs a matrix of {size} x {size}.",
                where="top",
                advice=f"Use a number of curvatures at each end; full spectra are for at most {LARGEST} elements.",
            )
        points = x if isinstance(x, BoundaryPoint) else boundary_point(field, field.prepared(x), bounds=None)
        wanted = top if top is not None else "full" if size <= FULL else 10
        settings = {"estimator": estimator, "scale": scale, "plateau": False, "directions": False, "seed": seed}
        found = curvature(field, points, top=wanted, **settings)
    bends = found.principal
    average, low, high = mean_interval(bends)
    unknown = torch.full_like(found.mean, torch.nan)
    small = positive = negative = unknown
    if found.complete:
        largest = bends.abs().amax(1) if bends.shape[1] else unknown
        small = torch.where(largest > 0, (bends.abs() < SMALL * largest[:, None]).double().mean(1), torch.nan)
        positive, negative = bends.clamp(min=0).sum(1), bends.clamp(max=0).sum(1)
    named = {"mean": found.mean, "small": small, "positive": positive, "negative": negative}
    centre, below, above = (each.tolist() for each in mean_interval(torch.stack(list(named.values()), 1)))
    present = found.mean[torch.isfinite(found.mean)]
    return Profile(
        average,
        low,
        high,
        bends,
        found.mean,
        small,
        positive,
        negative,
        dict(zip(named, zip(centre, below, above, strict=True), strict=True)),
        float((present < 0).double().mean()) if len(present) else float("nan"),
        found.complete,
        found,
        found.grade,
    )
