"""Flip probabilities of a network from the distance and the curvature of its boundary, checked by sampling."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from assay.attacks.target import Model
from assay.boundary.field import Field, field_of
from assay.boundary.points import BoundaryPoint, boundary_point
from assay.boundary.shape.measure import Estimator, curvature
from assay.boundary.shape.result import Curvature
from assay.boundary.subspaces.flips import FLIP_GRADES, FlipMethod, flip_probability
from assay.boundary.subspaces.sampled import SampledFlips, sampled_flips
from assay.errors import UsageError
from assay.grade import Grade, combine
from assay.results import Displayed

FULL = 256
"""Elements per input up to which all principal curvatures are computed by default."""


@dataclass(frozen=True, eq=False)
class FlipEstimate(Displayed):
    """Flip probabilities from the shape of the boundary, and their check.

    Attributes:
        probability: (B,) float64 that noise crosses the boundary to `rival`; NaN where no boundary point was found, or
            where the method breaks down. Boundaries to further classes are left out.
        low: (B,) the probability with the sum of curvatures two standard errors lower; `probability` where the
            curvature is not sampled.
        high: (B,) the same, two higher.
        flat: (B,) as if the boundary had no curvature.
        sampled: measured rates for the same inputs and noise, or None.
        noise: (B,) standard deviation of every element.
        curvature: of the boundary, with its distance, labels, estimator and scale.
        method: of `flip_probability`.
        grade: of `probability` for a boundary that is the paraboloid.
    """

    probability: Tensor
    low: Tensor
    high: Tensor
    flat: Tensor
    sampled: SampledFlips | None
    noise: Tensor
    curvature: Curvature
    method: str
    grade: Grade

    @property
    def disagreement(self) -> Tensor:
        """(B,) `deviation` in standard errors of the sample. Far below 0: there is a nearer boundary."""
        if self.sampled is None:
            return self.deviation
        share = torch.maximum(self.sampled.pair, self.probability).clamp(1 / self.sampled.samples, 0.5)
        return self.deviation / (share * (1 - share) / self.sampled.samples).sqrt()

    @property
    def deviation(self) -> Tensor:
        """(B,) `probability` minus the sampled share of draws on the rival's side of the pair; NaN without sampling."""
        return (
            torch.full_like(self.probability, torch.nan)
            if self.sampled is None
            else self.probability - self.sampled.pair
        )


def flip_probability_of(
    model: Model | Field,
    x: Tensor | BoundaryPoint,
    noise: Tensor | float,
    *,
    method: FlipMethod = "auto",
    shape: Curvature | None = None,
    top: int | Literal["full"] | None = None,
    estimator: Estimator = "auto",
    scale: float | None = None,
    samples: int = 0,
    seed: int = 0,
    batch_size: int | None = None,
) -> FlipEstimate:
    """Probability that Gaussian noise changes decisions, from nearest boundary points and the curvature there.

    The curvature that counts is the one that the noise meets on its way: the expected change of F is half the integral
    of its average Laplacian under Gaussians of variance 0 to noise^2, so a boundary that is measured at a scale is
    measured at half that variance, a step length of noise sqrt(d / 2). In high dimension this length is many times the
    distance to the boundary, and curvature at a point says little about it, on smooth networks too. What is
    not computed of the principal curvatures counts with its sum, which the mean curvature gives, and as equal values.

    Args:
        model: a module, a Subject, a function (B, ...) -> (B, K), or a Field.
        x: (B, ...) inputs, or their boundary points (in l2).
        noise: standard deviation of every element, a number or (B,); positive for piecewise linear networks unless
            `scale` is given.
        method: as for `flip_probability`.
        shape: curvature already measured at these inputs; None measures it.
        top: principal curvatures from each end, or ``full``; None takes all up to 256 elements per input, and above
            that 10 with ``exact``, else the mean alone.
        estimator: as for `curvature`; ``auto`` is exact for smooth networks up to 256 elements per input, where the
            answer is then exact to second order, frames for others of this size, and above it Gaussian steps.
        scale: length over which curvature is measured; None takes noise sqrt(d / 2).
        samples: draws per input to check with; 0 leaves the check out.
        seed: of all random directions and draws.
        batch_size: samples per pass; None chooses by memory.

    Returns:
        FlipEstimate.

    Raises:
        UsageError: for noise or curvature that does not fit the inputs.

    Source: Breitung (1984) for the boundary as a paraboloid; the scale that follows the noise is derived here.

    Example:
        >>> bowl = lambda x: torch.stack([4 + x[:, 1:].square().sum(1) - 2 * x[:, 0], torch.zeros(len(x))], 1)
        >>> found = flip_probability_of(bowl, torch.tensor([[0.5, 0.0, 0.0]]).double(), 0.5)
        >>> found.curvature.principal.round(decimals=6).tolist(), round(float(found.probability), 5)
        ([[-1.0, -1.0]], 0.0005)
    """
    field = field_of(model, batch_size=batch_size)
    inputs = shape.x if shape is not None else x.x if isinstance(x, BoundaryPoint) else field.prepared(x)
    spread = torch.as_tensor(noise, dtype=torch.float64).reshape(-1)
    if len(spread) not in (1, len(inputs)) or not bool((torch.isfinite(spread) & (spread >= 0)).all()):
        raise UsageError(
            f"Noise must be one standard deviation of 0 or more, or one for each of {len(inputs)} inputs.",
            where="noise",
        )
    spread = spread.expand(len(inputs))
    if shape is None:
        points = x if isinstance(x, BoundaryPoint) else boundary_point(field, inputs, bounds=None)
        shape = _measured(field, points, spread, top, estimator, scale, seed)
    known = shape.principal.shape[1]
    left = shape.dimension - known
    total = shape.dimension * shape.mean - shape.principal.sum(1)
    error = shape.dimension * shape.mean_error
    results = []
    for shift in (0.0, -2.0, 2.0):
        if left:
            rest, spectrum = (float(left), total + shift * error), shape.principal
        else:  # all are known: what is uncertain about their sum is spread over all
            rest, spectrum = None, shape.principal + (shift * shape.mean_error)[:, None]
        results.append(flip_probability(shape.distance, spectrum, spread, method=method, rest=rest))
    probability, low, high = results
    flat = flip_probability(shape.distance, torch.zeros(0), spread, method="flat")
    found = None
    if samples:
        found = sampled_flips(field, inputs, spread, label=shape.label, rival=shape.rival, samples=samples, seed=seed)
    used = "exact" if method == "auto" else method
    grade = combine([FLIP_GRADES[used], shape.grade]) if left == 0 else combine([Grade.STATISTICAL, FLIP_GRADES[used]])
    return FlipEstimate(probability, low, high, flat, found, spread, shape, used, grade)


def _measured(
    field: Field,
    points: BoundaryPoint,
    noise: Tensor,
    top: int | Literal["full"] | None,
    estimator: Estimator,
    scale: float | None,
    seed: int,
) -> Curvature:
    """Curvature as the noise sees it, where the caller leaves that open."""
    size = points.x[0].numel()
    smoothed = size > FULL or field.smoothness(points.x) == "piecewise_linear"
    if estimator == "auto" and smoothed and field.smoothness(points.x) != "linear":
        estimator = "gaussian" if size > FULL else "frames"
    chosen = scale
    if scale is None and estimator not in ("exact", "softplus", "auto") and bool((noise > 0).any()):
        least = float(noise[noise > 0].min())  # rows without noise need some scale, whatever it is
        chosen = noise.clamp(min=least) * math.sqrt(size / 2)
    settings = {"estimator": estimator, "scale": chosen, "plateau": False, "directions": False, "seed": seed}
    usual = "full" if size <= FULL else 0 if estimator != "exact" else 10
    return curvature(field, points, top=usual if top is None else top, **settings)
