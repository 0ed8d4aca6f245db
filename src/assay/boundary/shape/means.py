"""Mean curvature at many places with few products or gradients each, and its standard error."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from assay.boundary.shape.difference import (
    default_scale,
    difference_products,
    directional,
    directional_forward,
    gradient_differences,
    scale_rows,
)
from assay.boundary.shape.places import Places
from assay.boundary.shape.products import Products, batch_products, checked, row_groups, tangent_products
from assay.boundary.shape.traces import Trace, trace
from assay.boundary.smoothness import Smoothness
from assay.errors import UsageError

PROBES = 0  # random streams
FULL_UPTO = 256
"""Tangent dimensions up to which the exact trace costs little more than a sampled one."""


def scales_for(places: Places, estimator: str, kind: Smoothness, scale: float | Tensor | None) -> Tensor:
    """Scales (B,) of an estimator: as given, else the small step of smooth networks or the wide one of kinked ones."""
    wide = kind == "piecewise_linear" or estimator in {"frames", "gaussian"}
    default = default_scale(places, kinked=wide)
    if estimator == "forward" and not wide:  # second differences lose half the digits
        default = default * 10 if places.point.dtype != torch.float64 else default * 30
    return scale_rows(scale, default)


def means(
    places: Places, *, estimator: str, kind: Smoothness, scale: Tensor, method: Trace, probes: int, seed: int
) -> tuple[Tensor, Tensor, str, int]:
    """Mean curvature at places that are all usable.

    Args:
        places: the points.
        estimator: `exact` (also for a swapped network), `difference`, `forward`, `frames`, `gaussian`.
        kind: of the network.
        scale: (B,), not used by `exact`.
        method: of the trace, for symmetric operators; `auto` is full up to `FULL_UPTO` tangent dimensions.
        probes: products, or pairs of gradients, per point.
        seed: of the directions.

    Returns:
        (B,) float64 means, (B,) standard errors, how they were made, and the number of products or directions.

    Raises:
        UsageError: for too few probes, or a trace method that needs a matrix where there is none.
    """
    if probes < 2:
        raise UsageError(f"probes={probes} gives no standard error.", where="probes", advice="Use 2 or more.")
    size = places.dimension
    smooth_operator = estimator == "exact" or (estimator == "difference" and kind != "piecewise_linear")
    if not smooth_operator:
        if method not in {"auto", "hutchinson"}:
            raise UsageError(
                f"trace={method!r} needs a symmetric operator, and {estimator} is none here.",
                where="trace",
                advice="Leave trace at auto.",
            )
        count = probes if estimator == "gaussian" else min(probes, size)
        pairs = [_sampled(places, row, estimator, float(scale[row]), count, seed) for row in range(len(places))]
        return *_columns(pairs), "directions", count
    if method == "auto":
        method = "full" if size <= max(FULL_UPTO, probes) else "hutchinson"
    if method == "hutchinson" and estimator == "exact":
        return *_hutchinson(places, probes, seed), "hutchinson", probes
    pairs = []
    for row in range(len(places)):
        products = operator(places, row, estimator, float(scale[row]), expected=size if method == "full" else probes)
        generator = places.generator(row, seed, PROBES)
        total, error = trace(products, places.tangent(row), method=method, probes=probes, generator=generator)
        norm = float(places.gradient_norm[row]) * size
        pairs.append((total / norm, error / norm))
    full = method == "full" or (size <= probes and method != "hutchinson")
    return *_columns(pairs), "full" if full else method, size if full else probes


def operator(places: Places, row: int, estimator: str, scale: float, *, expected: int) -> Products:
    """Projected Hessian products at one place, exact or by differences at a scale."""
    if estimator == "difference":
        return difference_products(places, row, scale)
    return tangent_products(places, row, expected=expected)


def _columns(pairs: list[tuple[float, float]]) -> tuple[Tensor, Tensor]:
    both = torch.tensor(pairs, dtype=torch.float64).reshape(-1, 2)
    return both[:, 0], both[:, 1]


def _sampled(places: Places, row: int, estimator: str, scale: float, count: int, seed: int) -> tuple[float, float]:
    """Mean over random tangent directions; the error takes them as independent, which is on the safe side."""
    tangent, generator = places.tangent(row), places.generator(row, seed, PROBES)
    if estimator == "gaussian":
        steps = tangent.draw(count, generator) / math.sqrt(tangent.dimension)
        bends = gradient_differences(places, row, scale * steps) / (scale * float(places.gradient_norm[row]))
        terms = (steps * bends).sum(1)
    else:
        along = directional_forward if estimator == "forward" else directional
        terms = along(places, row, tangent.frame(count, generator), scale)
    error = float(terms.std()) / math.sqrt(count) if count > 1 else 0.0
    return float(terms.mean()), error


def _hutchinson(places: Places, probes: int, seed: int) -> tuple[Tensor, Tensor]:
    """Several rows per graph: one backward pass gives a product of every row."""
    found, errors = [], []
    for rows in row_groups(places):
        some = places.select(rows)
        products = batch_products(some.field, some.point, some.label, some.rival)
        directions = torch.stack(
            [some.tangent(row).directions(probes, some.generator(row, seed, PROBES)) for row in range(len(some))]
        )
        given = directions.to(some.point.dtype).reshape(len(some), probes, *some.point.shape[1:])
        curved = (directions * checked(products(given).flatten(2).double())).sum(2) / some.gradient_norm[:, None]
        found.append(curved.mean(1))
        errors.append(curved.std(1) / math.sqrt(probes))
    return torch.cat(found), torch.cat(errors)
