"""A smooth curve through given inputs: the interpolating cubic spline."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from assay.errors import UsageError
from assay.smoothness.paths import checks
from assay.smoothness.paths.path import Side


class Spline:
    """The cubic spline through n inputs: twice continuously differentiable, so it has no kinks of its own.

    A spline is linear in the points it passes, x(t) = sum_k w_k(t) p_k, and only the n weights are splines of t: one
    matrix product per call, memory of the points and of the result. At the open ends the third derivative is continuous
    across the second and last but one point ("not a knot", de Boor, A Practical Guide to Splines, 1978, IV); two points
    give a line and three a parabola.

    Args:
        points: (n, ...) inputs, n >= 2.
        times: (n,) ascending parameters of the points; equally spaced on [0, 1] by default. A closed spline takes
            n + 1, the last for the return.
        closed: whether the curve returns smoothly to the first point; needs n >= 3.

    Raises:
        SubjectError: for integers, NaN or infinity.
        UsageError: for too few points, points that are all the same, or times that do not ascend or fit.

    Example:
        >>> import torch
        >>> path = Spline(torch.tensor([[0.0], [1.0], [4.0], [9.0]]), times=[0, 1, 2, 3])  # squares of the times
        >>> points, tangents = path.at(torch.tensor([2.5]))
        >>> round(points.item(), 9), round(tangents.item(), 9)
        (6.25, 5.0)
    """

    def __init__(self, points: Any, times: Any = None, *, closed: bool = False) -> None:
        from scipy.interpolate import CubicSpline

        self.points = checks.inputs(points, "points", least=2)
        count = len(self.points)
        if count < (3 if closed else 2):
            raise UsageError(
                f"{'A closed' if closed else 'A'} spline needs {3 if closed else 2} points, got {count}.",
                where="points",
                advice="Stack more inputs along the first axis.",
            )
        checks.moves(self.points, "points")
        stops = count + closed
        self.times = torch.linspace(0, 1, stops, dtype=torch.float64) if times is None else checks.times(times, stops)
        self.closed = closed
        self.start, self.end = float(self.times[0]), float(self.times[-1])
        unit = np.eye(count)
        if closed:
            unit = np.concatenate([unit, unit[:1]])
        self._weights = CubicSpline(self.times.numpy(), unit, bc_type="periodic" if closed else "not-a-knot")

    knots: tuple[float, ...] = ()

    def __repr__(self) -> str:
        return f"Spline(points={len(self.points)}, shape={tuple(self.points.shape[1:])}, closed={self.closed})"

    def at(self, t: Tensor, *, side: Side = "right") -> tuple[Tensor, Tensor]:
        """Points x(t) (n, ...) and tangents (n, ...)."""
        t = checks.parameters(t, self.start, self.end)
        flat, shape = self.points.flatten(1), (len(t), *self.points.shape[1:])
        weights, slopes = (torch.from_numpy(self._weights(t.numpy(), order)) for order in (0, 1))
        return (weights @ flat).reshape(shape), (slopes @ flat).reshape(shape)
