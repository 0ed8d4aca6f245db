"""The detection statistics: one entry each in `STATISTICS`, higher meaning more likely tampered with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from assay.boundary.detection.view import View

Measured = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Statistic:
    """One way to tell tampered samples from clean ones.

    Attributes:
        measure: View -> (B,) scores and their standard errors, float64. NaN where it cannot be measured.
        meaning: what the score is, in one line.
        flat: View -> (B,) where the score is zero because nothing bends, not because the sample is clean; None for
            statistics that say something about linear models too.
        baseline: whether it needs no curvature: what the others have to beat.
    """

    measure: Callable[[View], Measured]
    meaning: str
    flat: Callable[[View], Tensor] | None = None
    baseline: bool = False


def kappa_at_boundary(view: View) -> Measured:
    """Mean curvature of the boundary at the point next to the sample: it bends away from clean samples.

    Fawzi, Moosavi-Dezfooli, Frossard, Soatto 2018: a sample just across the boundary sees the same bend from the other
    side. Best measured at the boundary and not at the sample.

    Returns:
        Scores and standard errors.
    """
    return view.curvature


def kappa_at_sample(view: View) -> Measured:
    """The same at the sample itself, averaged over rival classes (Fawzi et al. 2018, algorithm 2: rho)."""
    bends, errors = view.bends
    # Classes share directions, so that their errors may add up: the mean of errors is what they can amount to.
    return bends.nanmean(1), errors.nanmean(1)


def drift(view: View) -> Measured:
    """How far the best rival rises under noise: max_i of the sphere average of F_i less F_i at the sample.

    In proportion to the Laplacian of F_i; the log-odds shift of Roth, Kilcher, Hofmann 2019 without their
    standardisation per pair of classes.

    Returns:
        Scores and standard errors.
    """
    around = view.around(view.look.smoothing)
    return _largest(view, around.rise, around.error)


def smoothed_margin(view: View) -> Measured:
    """How far the best rival is ahead after averaging over the sphere: max_i of the average of F_i."""
    around = view.around(view.look.smoothing)
    return _largest(view, around.mean, around.error)


def logit_gap(view: View) -> Measured:
    """Runner-up's logit less the predicted one's: samples near the boundary are suspicious. A baseline."""
    gap = view.offset.gather(1, view.rival[:, None])[:, 0]
    return gap, torch.zeros_like(gap)


def distance(view: View) -> Measured:
    """Distance to the boundary, negated. A baseline."""
    found = view.boundary
    return -found.distance.double().where(found.found, torch.nan), torch.zeros(len(view.x), dtype=torch.float64)


STATISTICS: Mapping[str, Statistic] = {
    "kappa_at_boundary": Statistic(
        kappa_at_boundary, "mean curvature of the boundary next to the sample", lambda view: view.flat_boundary
    ),
    "kappa_at_sample": Statistic(
        kappa_at_sample, "mean curvature at the sample, over rival classes", lambda view: view.flat_around
    ),
    "drift": Statistic(drift, "rise of the best rival under noise", lambda view: view.flat_around),
    "smoothed_margin": Statistic(smoothed_margin, "lead of the best rival after averaging over noise"),
    "logit_gap": Statistic(logit_gap, "runner-up's logit less the predicted one's", baseline=True),
    "distance": Statistic(distance, "distance to the boundary, negated", baseline=True),
}
"""Statistics by name. Adding one is adding one entry."""


def _largest(view: View, values: Tensor, errors: Tensor) -> Measured:
    best = values.scatter(1, view.own[:, None], -torch.inf).max(1)
    return best.values, errors.gather(1, best.indices[:, None])[:, 0]
