"""Where and on which network to measure: boundary points, inputs themselves, or the boundary of a swapped network."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from assay.attacks.target import Bounds
from assay.boundary.field import Field, refuse_piecewise_linear, runner_up
from assay.boundary.points import BoundaryPoint, boundary_point
from assay.boundary.shape.places import Places, places_at, places_of
from assay.boundary.shape.softplus import boundary_again, swapped
from assay.boundary.smoothness import Smoothness

Estimator = Literal["auto", "exact", "difference", "forward", "frames", "gaussian", "softplus"]
At = Literal["boundary", "input"]


@dataclass(frozen=True, eq=False)
class Site:
    """Where to measure, and how.

    Attributes:
        places: all rows.
        found: (B,) which have a point.
        kind: of the given network.
        estimator: chosen, never `auto`.
        shift: (B,) how far the softplus swap moved the boundary, or None.
        notes: what the reader must know.
    """

    places: Places
    found: Tensor
    kind: Smoothness
    estimator: Estimator
    shift: Tensor | None
    notes: tuple[str, ...]

    @property
    def usable(self) -> Tensor:
        """(B,) rows that have a point and a normal."""
        norm = self.places.gradient_norm
        return self.found & torch.isfinite(norm) & (norm > 0)

    @property
    def worker(self) -> str:
        """How products are made: the softplus swap makes exact ones on another network."""
        return "exact" if self.estimator == "softplus" else self.estimator

    @property
    def kinked(self) -> bool:
        """Whether the network that is measured is piecewise linear, so that a scale is needed."""
        return self.kind == "piecewise_linear" and self.estimator != "softplus"

    def status(self) -> tuple[str, ...]:
        """One word per row."""
        good = "linear" if self.kind == "linear" else "ok"
        pairs = zip(self.usable.tolist(), self.found.tolist(), strict=True)
        return tuple(good if usable else "no gradient" if found else "not found" for usable, found in pairs)


def points_of(
    field: Field,
    x: Tensor | BoundaryPoint,
    *,
    at: At,
    target: int | Tensor | None,
    label: Tensor | None,
    bounds: Bounds | Literal["auto"],
) -> tuple[Places, Tensor]:
    """Places for inputs or boundary points, and which of them exist."""
    if isinstance(x, BoundaryPoint):
        return places_of(field, x), x.found
    if at == "boundary":
        points = boundary_point(field, x, target=target, label=label, bounds=bounds)
        return places_of(field, points), points.found
    x = field.prepared(x)
    logits = field.logits(x)
    own = logits.argmax(1) if label is None else label
    rival = runner_up(logits, own) if target is None else torch.as_tensor(target, device=own.device).expand(len(own))
    found = rival != own
    return places_at(field, x, x, own, rival, found), found


def site_of(field: Field, places: Places, found: Tensor, estimator: Estimator, sharpness: float) -> Site:
    """Choose the estimator that suits the network; for a softplus swap find the boundary again.

    Args:
        field: the network.
        places: on its boundary.
        found: (B,) which rows exist.
        estimator: as asked.
        sharpness: of the softplus.

    Returns:
        The site.

    Raises:
        UsageError: for `exact` on a piecewise linear network, `softplus` on one without kinks.
    """
    kind = field.smoothness(places.x)
    if estimator == "auto":
        estimator = "frames" if kind == "piecewise_linear" else "exact"
    notes = []
    if estimator == "exact":
        refuse_piecewise_linear(kind)
        if kind == "mixed":
            notes.append(
                "The network has both smooth and piecewise linear parts: exact second derivatives miss what the kinks "
                "bend. Compare with frames or difference at a stated scale."
            )
    if kind == "linear" or estimator != "softplus":
        return Site(places, found, kind, estimator, None, tuple(notes))
    smooth = swapped(field, places.x, sharpness)
    shift = torch.full((len(places),), torch.nan, dtype=torch.float64, device=found.device)
    rows = (found & torch.isfinite(places.gradient_norm)).nonzero()[:, 0]
    reached = torch.zeros_like(found)
    new = replace(places, field=smooth, point=places.point.clone(), gradient=places.gradient.clone())
    if len(rows):
        moved = boundary_again(places.select(rows), smooth)
        shift[rows], reached[rows] = moved.shift, moved.found
        new.point[rows], new.gradient[rows] = moved.places.point, moved.places.gradient
    new = replace(new, gradient_norm=new.gradient.norm(dim=1))
    notes.append(
        f"Measured on a copy with ReLUs rounded by softplus ({sharpness:g} x) / {sharpness:g}, on its own boundary, a "
        f"median of {float(shift[reached].median()) if bool(reached.any()) else float('nan'):.2g} away. Max pools keep "
        "their kinks."
    )
    return Site(new, reached, kind, estimator, shift, tuple(notes))
