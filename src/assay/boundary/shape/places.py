"""Where curvature is measured: the usable rows of boundary points, with gradients taken anew."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from assay.boundary.field import Field
from assay.boundary.points import BoundaryPoint
from assay.boundary.shape.tangent import Tangent
from assay.errors import UsageError
from assay.seeding import content_generator

STREAMS = 8  # independent random streams per seed


@dataclass(frozen=True, eq=False)
class Places:
    """Points of level sets of F = f_rival - f_own.

    Attributes:
        field: the network.
        x: (B, ...) the inputs they belong to; randomness is keyed to these, which are the same in every batch.
        point: (B, ...) where curvature is measured.
        label: (B,) own class.
        rival: (B,) other class.
        gradient: (B, d) float64 gradient of F.
        gradient_norm: (B,) float64.
    """

    field: Field
    x: Tensor
    point: Tensor
    label: Tensor
    rival: Tensor
    gradient: Tensor
    gradient_norm: Tensor

    def __len__(self) -> int:
        return len(self.point)

    @property
    def dimension(self) -> int:
        """Number of tangent directions, d - 1."""
        return self.point[0].numel() - 1

    def tangent(self, row: int) -> Tangent:
        """The tangent space of one row."""
        return Tangent(self.gradient[row] / self.gradient_norm[row])

    def generator(self, row: int, seed: int, stream: int) -> torch.Generator:
        """Randomness of one row that does not depend on the batch; `stream` below `STREAMS` keeps uses apart."""
        return content_generator(self.x[row], seed * STREAMS + stream)

    def select(self, rows: Tensor) -> Places:
        """Some of the rows, by index or mask."""
        parts = {name: getattr(self, name)[rows] for name in ("x", "point", "label", "rival", "gradient")}
        return replace(self, gradient_norm=self.gradient_norm[rows], **parts)


def places_of(field: Field, at: BoundaryPoint) -> Places:
    """Boundary points as places, all rows; those that were not found hold NaN gradients."""
    return places_at(field, at.x, at.point, at.label, at.rival, at.found)


def places_at(field: Field, x: Tensor, point: Tensor, label: Tensor, rival: Tensor, found: Tensor) -> Places:
    """Places at given points.

    Args:
        field: the network.
        x: (B, ...) inputs.
        point: (B, ...) where to measure.
        label: (B,) own classes.
        rival: (B,) other classes.
        found: (B,) which points exist.

    Returns:
        The places, points in the network's type.

    Raises:
        UsageError: for inputs of fewer than two elements, whose boundary is a point and has no shape.
    """
    if point[0].numel() < 2:
        raise UsageError(
            "The boundary in one dimension is a point: it has no curvature.",
            where="x",
            advice="Curvature needs inputs of at least two elements.",
        )
    point = point.detach().to(field.dtype or point.dtype)
    gradient = torch.full((len(point), point[0].numel()), torch.nan, dtype=torch.float64, device=point.device)
    exists = found & torch.isfinite(point.flatten(1)).all(1)
    if bool(exists.any()):
        some = field.gradient(point[exists], label[exists], rival[exists])
        gradient[exists] = some.flatten(1).double()
    return Places(field, x, point, label, rival, gradient, gradient.norm(dim=1))
