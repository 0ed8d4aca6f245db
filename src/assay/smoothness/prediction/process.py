"""The law of the input of a prediction: a stationary Gaussian process, given or fitted to a path or to frames."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from assay.brief import Brief
from assay.errors import NumericalError, UsageError
from assay.grade import Grade
from assay.smoothness.paths.path import Path

Moments = Tensor | float
DENSE = 4096
"""Widest tensor whose covariance is held as a matrix, unless told otherwise."""


@dataclass(frozen=True, eq=False)
class Process(Brief):
    """A stationary Gaussian process of inputs x(t), as far as kinks depend on it.

    Attributes:
        mean: E x, of the shape of one input.
        covariance: of x at one t: a number (variance of every element), a tensor of the input's shape (variances), or
            (n, n).
        slope_covariance: of dx/dt at one t, in the same forms; divided by the square of the unit of t.
        grade: of the process itself: exact where it is given, statistical where it was fitted.

    Example:
        >>> Process(torch.zeros(3), 1.0, 4.0).size
        3
    """

    mean: Tensor
    covariance: Moments
    slope_covariance: Moments
    grade: Grade = Grade.EXACT

    def __post_init__(self) -> None:
        for name in ("covariance", "slope_covariance"):
            value = getattr(self, name)
            given = torch.as_tensor(value, dtype=torch.float64)
            if given.dim() and given.shape not in (self.mean.shape, (self.size, self.size)):
                raise UsageError(
                    f"A {name.replace('_', ' ')} of shape {tuple(given.shape)} for inputs {tuple(self.mean.shape)}.",
                    where=f"Process({name})",
                    advice=f"Pass a number, variances {tuple(self.mean.shape)}, or ({self.size}, {self.size}).",
                )
            variances = given if not self._full(given) else given.diagonal()
            if not bool(torch.isfinite(given).all()) or bool((variances < 0).any()):
                raise UsageError(
                    f"A {name.replace('_', ' ')} is negative or not finite.",
                    where=f"Process({name})",
                    advice="Pass variances, zero or larger.",
                )

    @property
    def size(self) -> int:
        """Elements of one input."""
        return self.mean.numel()

    def _full(self, given: Tensor) -> bool:
        return given.dim() == 2 and given.shape != self.mean.shape and given.shape == (self.size, self.size)

    def moments(self, *, dense: bool) -> tuple[Tensor, Tensor]:
        """Covariances of values and of slopes: matrices (n, n), or their diagonals (n,)."""
        found = []
        for value in (self.covariance, self.slope_covariance):
            given = torch.as_tensor(value, dtype=torch.float64)
            if self._full(given):
                found.append(given if dense else given.diagonal())
            else:
                spread = given.expand(self.mean.shape).reshape(-1)
                found.append(torch.diag(spread) if dense else spread)
        return found[0], found[1]

    @classmethod
    def from_points(cls, points: Tensor, slopes: Tensor, *, widest: int = DENSE) -> Process:
        """The Gaussian process with the moments of given points and slopes.

        Args:
            points: (m, ...) values of x(t), as if drawn from a stationary process.
            slopes: (m, ...) values of dx/dt.
            widest: inputs of more elements keep variances only.

        Returns:
            The process, grade statistical. Its mean slope is taken to be zero: a trend counts as slope variance.

        Raises:
            UsageError: points and slopes do not fit.
            NumericalError: a value is not finite.

        Example:
            >>> Process.from_points(torch.randn(50, 3), torch.randn(50, 3)).covariance.shape
            torch.Size([3, 3])
        """
        if points.shape != slopes.shape or len(points) < 2:
            raise UsageError(
                f"{tuple(points.shape)} points with {tuple(slopes.shape)} slopes.",
                where="Process.from_points",
                advice="Pass at least two points, and one slope for each.",
            )
        flat, moving = (value.detach().double().flatten(1) for value in (points, slopes))
        if not bool(torch.isfinite(flat).all() and torch.isfinite(moving).all()):
            raise NumericalError(
                "Points or slopes are not finite.", where="Process.from_points", advice="Leave out broken frames."
            )
        centred = flat - flat.mean(0)
        if flat.shape[1] > widest:
            parts = [(value.square().mean(0)).reshape(points.shape[1:]) for value in (centred, moving)]
        else:
            parts = [value.T @ value / len(value) for value in (centred, moving)]
        return cls(flat.mean(0).reshape(points.shape[1:]), parts[0], parts[1], Grade.STATISTICAL)

    @classmethod
    def from_path(cls, path: Path, samples: int = 512, *, widest: int = DENSE) -> Process:
        """The Gaussian process with a path's own moments over its length.

        Args:
            path: any path.
            samples: points on it, equally far apart.
            widest: inputs of more elements keep variances only.

        Returns:
            The process, grade statistical.
        """
        step = (path.end - path.start) / samples
        t = path.start + step * (torch.arange(samples, dtype=torch.float64) + 0.5)
        return cls.from_points(*path.at(t), widest=widest)

    @classmethod
    def from_frames(cls, frames: Tensor, step: float, *, widest: int = DENSE) -> Process:
        """The Gaussian process with the moments of data frames taken `step` apart.

        Args:
            frames: (m, ...) at least three, in order.
            step: between two of them, in the unit of t.
            widest: inputs of more elements keep variances only.

        Returns:
            The process, grade statistical; slopes are central differences, too small where frames are far apart.

        Raises:
            UsageError: too few frames, or a step that is not positive.
        """
        if len(frames) < 3 or not step > 0:
            raise UsageError(
                f"{len(frames)} frames, {step} apart.",
                where="Process.from_frames",
                advice="Pass three or more frames and the time between two.",
            )
        values = frames.detach().double()
        return cls.from_points(values[1:-1], (values[2:] - values[:-2]) / (2 * step), widest=widest)
