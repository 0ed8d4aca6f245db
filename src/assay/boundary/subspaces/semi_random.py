"""Robustness in random subspaces: how fast the distance to the boundary grows when fewer directions are free."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from assay.attacks.target import Model
from assay.boundary.field import Field, field_of
from assay.boundary.subspaces.bases import orthonormal, random_subspace
from assay.boundary.subspaces.nearest import nearest_within
from assay.boundary.subspaces.spread import mean_interval
from assay.errors import UsageError
from assay.grade import Grade
from assay.results import Displayed
from assay.seeding import content_generator

_BLOCK = 2**23  # numbers in the bases of one pass: 64 MiB


@dataclass(frozen=True, eq=False)
class SemiRandom(Displayed):
    """Distances to the boundary within random subspaces. D dimensions, B inputs, n draws.

    Attributes:
        dimensions: (D,) of the subspaces.
        distance: (B,) to the boundary in the full space.
        restricted: (D, n, B) within random subspaces; NaN where no boundary was found there.
        beta: (D, n, B) (restricted / distance) / sqrt(d / m): near 1 where the boundary is flat at this scale.
        mean: (D,) of `beta` over inputs and draws that were found.
        low: (D,) lower end of the interval of `mean` over inputs, at 95 %.
        high: (D,) upper end.
        expected: (D,) what `mean` is for a flat boundary between two classes: `flat_law(d, m)`, a little above 1.
        found: (D,) share of inputs and draws with a boundary in the subspace.
        grade: sampled. Distances are those of the points found, upper bounds each.
    """

    dimensions: Tensor
    distance: Tensor
    restricted: Tensor
    beta: Tensor
    mean: Tensor
    low: Tensor
    high: Tensor
    expected: Tensor
    found: Tensor
    grade: Grade = Grade.SAMPLED


def semi_random(
    model: Model | Field,
    x: Tensor,
    dimensions: Sequence[int],
    *,
    draws: int = 1,
    seed: int = 0,
    steps: int = 50,
    batch_size: int | None = None,
) -> SemiRandom:
    """Distance to the boundary within random subspaces, against the law sqrt(d / m) of flat boundaries.

    Every input and draw has a subspace of its own. Both distances come from the same search: DeepFool with the
    gradients projected on the subspace, bisection, and refinement towards the nearest point.

    Args:
        model: a module, a Subject, a function (B, ...) -> (B, K), or a Field.
        x: (B, ...) inputs.
        dimensions: m of the subspaces, each between 1 and the number of elements d. At m = 1 the mean of the flat law
            is infinite.
        draws: subspaces per input and dimension.
        seed: subspaces follow from this and the input alone.
        steps: of DeepFool at most.
        batch_size: samples per pass; None chooses by memory.

    Returns:
        SemiRandom. Memory is at most one basis (m, d) in float64, or 64 MiB where that is more.

    Raises:
        UsageError: for dimensions that the input does not have, or no draws.

    Source: Fawzi, Moosavi-Dezfooli and Frossard (2016), whose law is sqrt(d / m) up to constants near 1; the exact mean
        for a flat boundary is derived in `flat_law`.

    Example:
        >>> half = lambda x: torch.stack([x[:, 0], torch.ones(len(x))], 1)  # a plane at distance 1
        >>> found = semi_random(half, torch.tensor([[2.0, 0.0, 0.0, 0.0]]), [4])
        >>> round(float(found.distance), 3), round(float(found.mean), 3)
        (1.0, 1.0)
    """
    field = field_of(model, batch_size=batch_size)
    x = field.prepared(x)
    size = x[0].numel()
    if draws < 1 or not dimensions or not all(1 <= m <= size for m in dimensions):
        raise UsageError(
            f"Random subspaces need dimensions between 1 and {size} and at least one draw.",
            where="dimensions or draws",
            advice=f"Got {list(dimensions)} and {draws}.",
        )
    full = nearest_within(field, x, None, steps=steps)
    restricted = torch.full((len(dimensions), draws, len(x)), torch.nan, dtype=torch.float64)
    for place, m in enumerate(dimensions):
        rows = max(1, _BLOCK // (m * size))
        for begin in range(0, len(x), rows):
            part = x[begin : begin + rows]
            generators = [content_generator(point, seed) for point in part]
            for draw in range(draws):
                bases = torch.stack([random_subspace(size, m, generator).to(part) for generator in generators])
                found = nearest_within(field, part, bases, steps=steps)
                restricted[place, draw, begin : begin + rows] = found.distance
    scale = torch.tensor([math.sqrt(size / m) for m in dimensions], dtype=torch.float64)
    # An input on the boundary has no ratio, as 0 / 0.
    beta = restricted / full.distance / scale[:, None, None]
    beta = torch.where(full.distance > 0, beta, torch.nan)
    mean, low, high = mean_interval(beta.nanmean(1).T)
    return SemiRandom(
        torch.tensor(dimensions),
        full.distance,
        restricted,
        beta,
        mean,
        low,
        high,
        torch.tensor([flat_law(size, m) for m in dimensions], dtype=torch.float64),
        torch.isfinite(restricted).double().mean((1, 2)),
    )


def distance_within(
    model: Model | Field, x: Tensor, directions: Tensor, *, steps: int = 50, batch_size: int | None = None
) -> Tensor:
    """Distance to the boundary when only some directions are free, the same ones for every input.

    Args:
        model: a module, a Subject, a function (B, ...) -> (B, K), or a Field.
        x: (B, ...) inputs.
        directions: (m, ...) vectors that span the subspace, such as the leading ones of `shared_directions`.
        steps: of DeepFool at most.
        batch_size: samples per pass; None chooses by memory.

    Returns:
        (B,) float64, NaN where no boundary was found in the subspace. Grade: sampled, an upper bound of the distance.

    Raises:
        UsageError: for directions that do not fit the inputs.

    Example:
        >>> half = lambda x: torch.stack([x[:, 0], torch.ones(len(x))], 1)
        >>> distance_within(half, torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0, 1.0]])).round(decimals=3).tolist()
        [1.414]
    """
    field = field_of(model, batch_size=batch_size)
    x = field.prepared(x)
    if directions.dim() < 2 or directions[0].numel() != x[0].numel():
        raise UsageError(
            f"Directions {tuple(directions.shape)} do not fit inputs {tuple(x.shape)}.", where="directions"
        )
    basis = orthonormal(directions).to(x)
    return nearest_within(field, x, basis.expand(len(x), -1, -1), steps=steps).distance


def flat_law(size: int, dimension: int) -> float:
    """Mean of (||r_S|| / ||r*||) / sqrt(d / m) for a flat boundary and a random subspace S of dimension m.

    The squared length of a unit normal's projection on S is Beta(m / 2, (d - m) / 2), and ||r*|| / ||r_S|| its root.

    Args:
        size: d, of the whole space.
        dimension: m, between 1 and d.

    Returns:
        sqrt(m / d) Gamma((m - 1) / 2) Gamma(d / 2) / (Gamma(m / 2) Gamma((d - 1) / 2)); infinite for m = 1 < d. Grade:
        exact.

    Example:
        >>> round(flat_law(784, 25), 3), round(flat_law(784, 400), 4), flat_law(5, 5)
        (1.031, 1.0009, 1.0)
    """
    if dimension == size:
        return 1.0
    if dimension == 1:
        return math.inf
    logs = [math.lgamma(value / 2) for value in (dimension - 1, size, dimension, size - 1)]
    return math.sqrt(dimension / size) * math.exp(logs[0] + logs[1] - logs[2] - logs[3])
