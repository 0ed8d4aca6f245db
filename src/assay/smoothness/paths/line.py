"""The straight line between two inputs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from assay.smoothness.paths import checks
from assay.smoothness.paths.path import Side


class Line:
    """x(t) = a + t (b - a) for t in [0, 1]; the tangent is b - a everywhere, so there are no knots.

    On it a piecewise linear network is itself piecewise linear in t, and its kinks can be found exactly.

    Args:
        a: (...) first input, without the batch axis.
        b: (...) last input.

    Raises:
        SubjectError: for integers, NaN, infinity or different shapes.
        UsageError: when both ends are the same.

    Example:
        >>> import torch
        >>> points, tangents = Line(torch.zeros(2), torch.tensor([1.0, 4.0])).at(torch.tensor([0.25]))
        >>> points, tangents
        (tensor([[0.2500, 1.0000]], dtype=torch.float64), tensor([[1., 4.]], dtype=torch.float64))
    """

    def __init__(self, a: Any, b: Any) -> None:
        self.a, self.b = checks.inputs(a, "a"), checks.inputs(b, "b")
        checks.same_shape(self.a, self.b, "a, b")
        checks.moves(torch.stack([self.a, self.b]), "a, b")

    start = 0.0
    end = 1.0
    knots: tuple[float, ...] = ()

    def __repr__(self) -> str:
        return f"Line(shape={tuple(self.a.shape)})"

    def at(self, t: Tensor, *, side: Side = "right") -> tuple[Tensor, Tensor]:
        """Points x(t) (n, ...), exact at both ends, and tangents (n, ...)."""
        t = checks.parameters(t, self.start, self.end)
        weight = t.reshape(-1, *[1] * self.a.dim())
        return torch.lerp(self.a, self.b, weight), (self.b - self.a).expand(len(t), *self.a.shape)
