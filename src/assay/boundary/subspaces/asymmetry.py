"""Is the boundary bent away from inputs because it is the boundary, or because the nearest points were looked at?

The sign of the mean curvature at nearest boundary points is a property of these points: on segments between inputs and
in random directions the same network's boundary may show no sign at all. The comparison belongs to every claim.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from assay.attacks.target import Model
from assay.boundary.field import Field, field_of, runner_up
from assay.boundary.points import BoundaryPoint, boundary_point
from assay.boundary.shape.measure import Estimator, mean_curvature
from assay.boundary.subspaces.spread import mean_interval
from assay.brief import Brief
from assay.errors import UsageError
from assay.grade import Grade
from assay.intervals import wilson
from assay.results import Displayed
from assay.seeding import content_generator

_SCAN = 64
_BISECTIONS = 60


@dataclass(frozen=True, eq=False)
class Bend(Brief):
    """Mean curvatures at boundary points of one kind.

    Attributes:
        points: the boundary points.
        mean: (B,) mean curvature; NaN where no point was found.
        error: (B,) its standard error.
        average: over the points.
        low: lower end of the interval of `average` over the points, at 95 %.
        high: upper end.
        negative: share of points with a negative mean curvature.
        negative_low: lower end of its Wilson interval at 95 %.
        negative_high: upper end.
        count: points found.
    """

    points: BoundaryPoint
    mean: Tensor
    error: Tensor
    average: float
    low: float
    high: float
    negative: float
    negative_low: float
    negative_high: float
    count: int


@dataclass(frozen=True, eq=False)
class Asymmetry(Displayed):
    """Mean curvature of the boundary at three kinds of points.

    Attributes:
        nearest: at the nearest boundary points of the inputs.
        between: where segments to inputs of another class first leave the own class: the control.
        random: where random directions first leave it: the second control.
        grade: sampled.
    """

    nearest: Bend
    between: Bend
    random: Bend
    grade: Grade = Grade.SAMPLED

    def rows(self) -> Mapping[str, Bend]:
        """The three by name."""
        return {"nearest": self.nearest, "between": self.between, "random": self.random}


def asymmetry(
    model: Model | Field,
    x: Tensor | BoundaryPoint,
    *,
    estimator: Estimator = "auto",
    scale: float | None = None,
    probes: int = 60,
    reach: float = 4.0,
    seed: int = 0,
    batch_size: int | None = None,
) -> Asymmetry:
    """Mean curvature at nearest boundary points, beside boundary points between inputs and in random directions.

    Args:
        model: a module, a Subject, a function (B, ...) -> (B, K), or a Field.
        x: (B, ...) inputs of at least two predicted classes, or their boundary points.
        estimator: as for `curvature`.
        scale: length over which curvature is measured: one number serves all three kinds, which makes them comparable.
        probes: directions behind each mean.
        reach: how far random directions are followed, in norms of the input.
        seed: of partners, directions and probes.
        batch_size: samples per pass; None chooses by memory.

    Returns:
        Asymmetry. Partners of inputs are drawn from the whole batch, all else belongs to the single input.

    Raises:
        UsageError: for inputs of one predicted class, or a reach that is not positive.

    Source: the controls are ours; the asymmetry is that of Fawzi, Moosavi-Dezfooli, Frossard and Soatto (2018).

    Example:
        >>> def round_region(x):  # the region of class 0 is the unit disc: its boundary bends towards inputs within
        ...     return torch.stack([1 - x.square().sum(1), x.square().sum(1) - 1], 1)
        >>> x = torch.tensor([[0.5, 0.1], [0.1, 0.6], [2.0, 0.3], [0.2, 1.8]], dtype=torch.float64)
        >>> found = asymmetry(round_region, x, probes=4)
        >>> found.nearest.mean.round(decimals=3)
        tensor([ 1.,  1., -1., -1.], dtype=torch.float64)
    """
    field = field_of(model, batch_size=batch_size)
    points = x if isinstance(x, BoundaryPoint) else boundary_point(field, field.prepared(x), bounds=None)
    inputs = points.x
    if not (math.isfinite(reach) and reach > 0):
        raise UsageError(f"reach={reach} leads nowhere.", where="reach", advice="Give a positive number of norms.")
    settings = {"estimator": estimator, "scale": scale, "probes": probes, "seed": seed}

    def bend(at: BoundaryPoint) -> Bend:
        mean, error = mean_curvature(field, at, **settings)
        return _summary(at, mean, error)

    partners = inputs[_partners(field.label(inputs), content_generator(inputs, seed))]
    draws = torch.stack(
        [
            torch.randn(each.shape, generator=content_generator(each, seed), dtype=torch.float64).to(each)
            for each in inputs
        ]
    )
    length = inputs.flatten(1).norm(dim=1)
    length = torch.where(length > 0, length, 1.0) / draws.flatten(1).norm(dim=1)
    ends = inputs + reach * draws * length.reshape(-1, *(1,) * (inputs.dim() - 1))
    return Asymmetry(
        bend(points), bend(first_crossing(field, inputs, partners)), bend(first_crossing(field, inputs, ends))
    )


def first_crossing(model: Model | Field, x: Tensor, end: Tensor, *, batch_size: int | None = None) -> BoundaryPoint:
    """Where straight ways first leave the predicted class, as boundary points.

    Args:
        model: a module, a Subject, a function (B, ...) -> (B, K), or a Field.
        x: (B, ...) inputs.
        end: (B, ...) where the ways end.
        batch_size: samples per pass; None chooses by memory.

    Returns:
        BoundaryPoint, not refined: a point of the boundary, not the nearest one. A region of another class narrower
        than 1/64 of the way may be missed. NaN where the class does not change.

    Example:
        >>> def model(x):
        ...     return torch.stack([x[:, 0], 1 - x[:, 0]], 1)
        >>> found = first_crossing(model, torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 0.0]]))
        >>> found.point.round(decimals=3)
        tensor([[0.5000, 0.0000]])
    """
    field = field_of(model, batch_size=batch_size)
    x, end = field.prepared(x), end.to(x)
    own = field.label(x)
    shape = (-1, *(1,) * (x.dim() - 1))
    last, first = torch.zeros_like(own, dtype=x.dtype), torch.full_like(own, 2, dtype=x.dtype)
    for share in torch.linspace(0, 1, _SCAN + 1)[1:].tolist():
        changed = field.label(x + share * (end - x)) != own
        first = torch.where((first > 1) & changed, share, first)
        last = torch.where(first > 1, share, last)
    found = first <= 1
    first = torch.where(found, first, last)
    for _ in range(_BISECTIONS):
        middle = (last + first) / 2
        same = field.label(x + middle.reshape(shape) * (end - x)) == own
        last, first = torch.where(same, middle, last), torch.where(same, first, middle)
    inside = x + last.reshape(shape) * (end - x)
    rival = runner_up(field.logits(x + first.reshape(shape) * (end - x)), own)
    value, gradient = field.value_and_gradient(inside, own, rival)
    steep = gradient.flatten(1).double().norm(dim=1)
    normal = gradient / torch.where(steep > 0, steep, 1.0).to(gradient).reshape(shape)
    away = (inside - x).flatten(1).double()
    distance = away.norm(dim=1)
    along = (away * normal.flatten(1).double()).sum(1) / torch.where(distance > 0, distance, 1.0)
    valid = runner_up(field.logits(inside), own) == rival

    def known(values: Tensor) -> Tensor:
        return torch.where(found.reshape(-1, *(1,) * (values.dim() - 1)), values, torch.nan)

    return BoundaryPoint(
        x=x,
        point=known(inside),
        label=own,
        rival=rival,
        distance=known(distance),
        found=found,
        residual=known(value.double().abs()),
        normal=known(normal),
        gradient_norm=known(steep),
        cosine=known(along),
        valid=valid & found,
        first_distance=known(distance),
        misclassified=torch.zeros_like(found),
        refined=False,
    )


def _partners(label: Tensor, generator: torch.Generator) -> Tensor:
    """(B,) for every row one of another class, at random."""
    found = []
    for mine in label.tolist():
        others = (label != mine).nonzero()[:, 0]
        if not len(others):
            raise UsageError(
                "All inputs are of one predicted class.",
                where="x",
                advice="Segments to another class need two classes.",
            )
        found.append(int(others[torch.randint(len(others), (1,), generator=generator)]))
    return torch.tensor(found, device=label.device)


def _summary(points: BoundaryPoint, mean: Tensor, error: Tensor) -> Bend:
    average, low, high = (float(each) for each in mean_interval(mean[:, None]))
    present = mean[torch.isfinite(mean)]
    count = len(present)
    share = float((present < 0).double().mean()) if count else math.nan
    ends = wilson(share, count) if count else (0.0, 1.0)
    return Bend(points, mean, error, average, low, high, share, *ends, count)
