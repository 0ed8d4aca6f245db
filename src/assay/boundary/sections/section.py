"""What a section is given."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from assay.boundary.config import BoundaryConfig
from assay.boundary.field import Field
from assay.boundary.points import BoundaryPoint
from assay.boundary.smoothness import Smoothness
from assay.subject import Subject


@dataclass(frozen=True, eq=False)
class Context:
    """The subject under question.

    Attributes:
        subject: with data.
        config: the settings.
        field: its pairwise fields.
        inputs: (N, ...) inputs that were looked at.
        rows: (N,) their places in the data.
        labels: (N,) true classes, or None.
        points: their nearest boundary points found.
    """

    subject: Subject
    config: BoundaryConfig
    field: Field
    inputs: Tensor
    rows: Tensor
    labels: Tensor | None
    points: BoundaryPoint

    @property
    def bounds(self) -> tuple[float, float] | None:
        """Legal range that points keep to, or None."""
        return self.field.bounds if self.config.respect_bounds else None

    @cached_property
    def smoothness(self) -> Smoothness:
        """Whether the network has second derivatives."""
        return self.field.smoothness(self.inputs[:1])

    @property
    def scale(self) -> float | None:
        """One length to measure curvature over at all points, so that they can be compared; None where none is needed.

        A tenth of the value range in every element, on piecewise linear networks.
        """
        at_scale = self.smoothness == "piecewise_linear" or self.config.estimator in ("frames", "gaussian")
        if self.config.scale is not None or not at_scale or self.config.estimator == "softplus":
            return self.config.scale
        low, high = self.field.bounds or (float(self.inputs.min()), float(self.inputs.max()))
        return 0.1 * (high - low) * math.sqrt(self.inputs[0].numel())

    def spread(self, count: int) -> Tensor:
        """At most `count` rows with a boundary point, evenly spread."""
        rows = self.points.found.nonzero()[:, 0]
        if len(rows) <= count:
            return rows
        return rows[torch.linspace(0, len(rows) - 1, count, dtype=torch.float64).round().long()]

    def name(self, row: int) -> str:
        """How a reader finds an input again."""
        return f"input {int(self.rows[row])}"
