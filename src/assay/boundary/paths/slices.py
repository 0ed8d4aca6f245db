"""Plane slices of the input space: which class where, for a figure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from assay.boundary.field import field_of
from assay.boundary.paths.margin import margin_of
from assay.errors import UsageError
from assay.results import Displayed
from assay.seeding import content_generator

_PER_PASS = 2**22


@dataclass(frozen=True, eq=False)
class ClassSlice(Displayed):
    """Predicted classes on a grid in a plane. Distances in the plane are distances in the input space.

    Attributes:
        label: (N, N) predicted class; rows follow `second`, columns `first`.
        margin: (N, N) largest logit minus the second largest.
        first: (N,) float64 coordinates along `basis[0]`.
        second: (N,) float64 coordinates along `basis[1]`.
        origin: (...) input at coordinates (0, 0).
        basis: (2, ...) orthonormal directions.
        points: (P, 2) float64 coordinates of the points that the plane was laid through.
    """

    label: Tensor
    margin: Tensor
    first: Tensor
    second: Tensor
    origin: Tensor
    basis: Tensor
    points: Tensor

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """Left, right, bottom and top of the square, as image plots take it."""
        return float(self.first[0]), float(self.first[-1]), float(self.second[0]), float(self.second[-1])

    def project(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Where inputs lie: coordinates (B, 2) in the plane and distance (B,) from it, float64.

        Args:
            x: (B, ...) inputs, such as the anchors of a path.

        Returns:
            Coordinates and distances.
        """
        return _projected(x, self.origin, self.basis)


def class_slice(
    model: Any,
    points: Tensor,
    *,
    directions: Tensor | None = None,
    reach: float | None = None,
    resolution: int = 101,
    seed: int = 0,
) -> ClassSlice:
    """Predicted classes on a square grid in the plane through three points, or through one point along two directions.

    Args:
        model: a module, a Subject, a function or a Field.
        points: (3, ...) points that span the plane, or (1, ...) with `directions`.
        directions: (2, ...) directions, made orthonormal in this order.
        reach: half the width of the square; by default a quarter more than the points need, and with directions the
            length of the longer one.
        resolution: grid points per side.
        seed: of the direction that completes the plane where three points lie on one line.

    Returns:
        Labels, margins, axes and the plane.

    Raises:
        UsageError: for equal points, parallel directions, or a number of points that spans no plane.

    Example:
        >>> corner = lambda x: torch.stack([x.sum(1), torch.zeros(len(x))], 1)
        >>> class_slice(corner, torch.tensor([[-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0]]), resolution=3).label
        tensor([[1, 1, 0],
                [1, 0, 0],
                [0, 0, 0]])
    """
    target = field_of(model)
    points = target.prepared(points)
    if resolution < 2:
        raise UsageError(f"resolution={resolution} is no grid.", where="resolution", advice="Use 2 or more.")
    if reach is not None and not 0 < reach < float("inf"):
        raise UsageError(f"reach={reach} is no length.", where="reach", advice="Use a positive number.")
    if len(points) != (3 if directions is None else 1):
        raise UsageError(
            f"{len(points)} points {'without' if directions is None else 'and'} directions span no plane.",
            where="points",
            advice="Give three points, or one point and directions= two directions.",
        )
    spanning = points[1:] - points[:1] if directions is None else target.prepared(directions)
    if spanning.shape != (2, *points.shape[1:]):
        raise UsageError(
            f"Directions have shape {tuple(spanning.shape)}, the inputs {tuple(points.shape[1:])}.",
            where="directions",
            advice="Give two directions of the input's shape.",
        )
    basis = _orthonormal(spanning, None if directions is not None else content_generator(points, seed))
    anchor = points[0]
    places = _projected(points, anchor, basis)[0]
    middle = (places.amin(0) + places.amax(0)) / 2
    if reach is None:
        widest = (places.amax(0) - places.amin(0)).max() / 2
        reach = 1.25 * float(widest) if directions is None else float(spanning.double().flatten(1).norm(dim=1).max())
    axis = torch.linspace(-reach, reach, resolution, dtype=torch.float64, device=points.device)
    first, second = axis + middle[0], axis + middle[1]
    labels, margins = [], []
    columns = first.repeat(resolution), second.repeat_interleave(resolution)
    shape = (-1,) + (1,) * anchor.dim()
    for one, two in zip(*(part.split(max(1, _PER_PASS // anchor.numel())) for part in columns), strict=True):
        x = anchor.double() + one.reshape(shape) * basis[0] + two.reshape(shape) * basis[1]
        logits = target.logits(x.to(points.dtype))
        found = logits.argmax(1)
        labels.append(found)
        margins.append(margin_of(logits, found))
    found, margin = (torch.cat(parts).reshape(resolution, resolution) for parts in (labels, margins))
    return ClassSlice(found, margin, first, second, anchor, basis, places)


def _orthonormal(spanning: Tensor, generator: torch.Generator | None) -> Tensor:
    """Gram-Schmidt on two directions, float64; with a generator, a random second one where they are parallel."""
    one, two = spanning.double()
    one = two if not float(one.norm()) else one
    unit = one / one.norm()
    rest = _across(two, unit)
    if generator is not None and not float(rest.norm()) > 1e-6 * float(two.norm()):
        two = torch.randn(unit.shape, generator=generator, dtype=torch.float64).to(unit.device)
        rest = _across(two, unit)
    if not float(rest.norm()) > 1e-6 * float(two.norm()):
        raise UsageError(
            "The points are equal, or the directions are parallel.", where="points", advice="Choose other ones."
        )
    return torch.stack([unit, rest / rest.norm()])


def _across(vector: Tensor, unit: Tensor) -> Tensor:
    rest = vector - (vector * unit).sum() * unit
    return rest - (rest * unit).sum() * unit  # a second time: nearly parallel directions lose digits


def _projected(x: Tensor, origin: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
    offset = x.double() - origin.double()
    flat, axes = offset.flatten(1), basis.flatten(1)
    places = flat @ axes.T
    return places, (flat - places @ axes).norm(dim=1)
