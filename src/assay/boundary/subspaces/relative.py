"""Curvature along given directions at boundary points, relative to that along random ones."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from assay.attacks.target import Model
from assay.boundary.field import Field, field_of
from assay.boundary.points import BoundaryPoint, boundary_point
from assay.boundary.shape.difference import directional, gradient_differences
from assay.boundary.shape.means import scales_for
from assay.boundary.shape.measure import Estimator
from assay.boundary.shape.places import Places, places_of
from assay.boundary.shape.products import rayleigh, tangent_products
from assay.boundary.shape.rows import FRAMES_UPTO
from assay.boundary.subspaces.spread import mean_interval
from assay.errors import UsageError
from assay.grade import Grade
from assay.results import Displayed

_STREAM, _FRAMES = 6, 7  # of random numbers


@dataclass(frozen=True, eq=False)
class RelativeCurvature(Displayed):
    """Absolute curvature along m directions over that along random ones, at B boundary points.

    Attributes:
        mean: (m,) average of `ratio` over the points.
        low: (m,) lower end of its interval over the points, at 95 %.
        high: (m,) upper end.
        ratio: (B, m) |u.PHPu| / E|v.PHPv|, v uniform on the sphere; NaN where no boundary point was found, or where the
            boundary is flat along every probe.
        random: (B,) the denominator divided by the norm of the gradient: mean absolute curvature along random
            directions, in 1 / (unit of the input).
        probes: random directions behind it.
        estimator: ``exact``, ``frames``, ``gaussian`` or ``difference``.
        scale: (B,) length over which curvature was measured; 0 for exact products.
        grade: sampled.
    """

    mean: Tensor
    low: Tensor
    high: Tensor
    ratio: Tensor
    random: Tensor
    probes: int
    estimator: str
    scale: Tensor
    grade: Grade = Grade.SAMPLED


def relative_curvature(
    model: Model | Field,
    x: Tensor | BoundaryPoint,
    directions: Tensor,
    *,
    probes: int = 100,
    estimator: Estimator = "auto",
    scale: float | None = None,
    frames: int = 2,
    seed: int = 0,
    batch_size: int | None = None,
) -> RelativeCurvature:
    """Curvature of boundaries along given directions, against random directions.

    Exact Hessian products where the network has second derivatives. Piecewise linear networks are measured on the same
    random frames for all directions: the Hessian of F averaged over the ball of radius `scale`. Single differences of
    that length along one direction (``difference``) ask something else: they leave the neighbourhood when the direction
    is one in which the picture changes, and flatten what is curved.

    Args:
        model: a module, a Subject, a function (B, ...) -> (B, K), or a Field.
        x: (B, ...) inputs, or their boundary points.
        directions: (m, ...) vectors, their length does not matter; what they have along the normal is taken off.
        probes: random directions per point, at least 2.
        estimator: as for `curvature`; ``auto`` is exact, or frames for a piecewise linear network (differences above
            4,096 elements, where frames do not fit into memory); ``forward`` counts as difference, and ``softplus``,
            which would measure another boundary, as frames.
        scale: length over which curvature is measured; None takes the default of `curvature`.
        frames: random frames, each 2 (d - 1) gradients per input.
        seed: of the random directions.
        batch_size: samples per pass; None chooses by memory.

    Returns:
        RelativeCurvature. Costs m + probes Hessian products or pairs of gradients per input, or the frames.

    Raises:
        UsageError: for directions that do not fit the inputs, or fewer than 2 probes.

    Source: Fawzi, Moosavi-Dezfooli, Frossard and Soatto (2018), on shared directions (rho_i).

    Example:
        >>> def ridge(x):  # bent along the first direction alone
        ...     return torch.stack([1 - x[:, 0].square() - x[:, 2], x[:, 0].square() + x[:, 2] - 1], 1)
        >>> x = torch.tensor([[0.1, 0.0, 0.5]], dtype=torch.float64)
        >>> bool(relative_curvature(ridge, x, torch.eye(3)[:1]).mean > 1)
        True
    """
    field = field_of(model, batch_size=batch_size)
    points = x if isinstance(x, BoundaryPoint) else boundary_point(field, x, bounds=None)
    size = points.x[0].numel()
    if directions.dim() < 2 or directions[0].numel() != size or probes < 2:
        raise UsageError(
            f"Directions {tuple(directions.shape)} with {probes} probes do not fit inputs {tuple(points.x.shape)}.",
            where="directions or probes",
            advice="Give (m, ...) vectors of the inputs' shape and at least 2 probes.",
        )
    places = places_of(field, points)
    kind = field.smoothness(points.x)
    way = _way(estimator, smooth=kind != "piecewise_linear", size=places.dimension)
    usable = places.gradient_norm > 0  # False for NaN too
    exact = torch.zeros(len(places), dtype=torch.float64)
    steps = exact if way == "exact" else scales_for(places, way, kind, scale)
    given = directions.detach().double().flatten(1)
    given = given / given.norm(dim=1, keepdim=True)
    ratio = torch.full((len(places), len(given)), torch.nan, dtype=torch.float64)
    random = torch.full((len(places),), torch.nan, dtype=torch.float64)
    for row in usable.nonzero()[:, 0].tolist():
        draws = torch.randn((probes, size), generator=places.generator(row, seed, _STREAM), dtype=torch.float64)
        draws = draws / draws.norm(dim=1, keepdim=True)
        every = torch.cat([given, draws]).to(places.gradient.device)
        generator = places.generator(row, seed, _FRAMES)
        bends = _bends(places, row, every, way, float(steps[row]), frames, generator).abs().cpu()
        random[row] = bends[len(given) :].mean()
        if random[row] > 0:
            ratio[row] = bends[: len(given)] / random[row]
    mean, low, high = mean_interval(ratio)
    return RelativeCurvature(mean, low, high, ratio, random, probes, way, steps.cpu())


def _way(estimator: Estimator, *, smooth: bool, size: int) -> str:
    if estimator in ("exact", "gaussian"):
        return estimator
    if estimator in ("difference", "forward"):
        return "difference"
    if estimator == "auto" and smooth:
        return "exact"
    return "frames" if size <= FRAMES_UPTO else "difference"


def _bends(
    places: Places, row: int, vectors: Tensor, way: str, scale: float, frames: int, generator: torch.Generator
) -> Tensor:
    """(m,) v.PHPv / ||grad F|| along vectors (m, d) of unit length, H exact or smoothed over the scale."""
    if way == "exact":
        return rayleigh(places, row, tangent_products(places, row, expected=len(vectors)), vectors)
    tangent = places.tangent(row)
    parts = tangent.project(vectors)
    if way == "difference":
        length = parts.norm(dim=1)
        units = parts / torch.where(length > 0, length, 1.0)[:, None]
        return directional(places, row, units, scale) * length.square()
    total = torch.zeros(len(parts), dtype=torch.float64, device=parts.device)
    size = tangent.dimension
    for _ in range(frames):
        steps = tangent.draw(size, generator) / math.sqrt(size) if way == "gaussian" else tangent.frame(size, generator)
        changes = gradient_differences(places, row, scale * steps) / (scale * places.gradient_norm[row])
        # v.(sum_i s_i c_i^T)v without the matrix
        total += ((parts @ steps.T) * (parts @ changes.T)).sum(1)
    return total / frames
