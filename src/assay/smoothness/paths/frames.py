"""Frames of a video, joined by straight lines: the path that linear interpolation in time makes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from assay.errors import UsageError
from assay.smoothness.paths import checks
from assay.smoothness.paths.path import Side

_BENDS = 1e-12  # change of the tangent, as a share of the tangents, below which three frames count as straight


class Frames:
    """Straight lines from frame to frame. The path itself has a kink at every inner frame, unless three are in line.

    Such kinks belong to the path, not to a network; measurements report them apart. `Spline` passes through the same
    frames without kinks.

    Args:
        frames: (n, ...) inputs, n >= 2.
        times: (n,) ascending times; by default frame k has time k, so slopes are per frame.

    Raises:
        SubjectError: for integers, NaN or infinity.
        UsageError: for fewer than two frames, frames that are all the same, or times that do not ascend or fit.

    Example:
        >>> import torch
        >>> path = Frames(torch.tensor([[0.0], [1.0], [5.0]]))
        >>> path.knots
        (1.0,)
        >>> [path.at(torch.tensor([1.0]), side=side)[1].item() for side in ("left", "right")]
        [1.0, 4.0]
    """

    def __init__(self, frames: Any, times: Any = None) -> None:
        self.frames = checks.inputs(frames, "frames", least=2)
        count = len(self.frames)
        if count < 2:
            raise UsageError(
                f"A path needs two frames, got {count}.", where="frames", advice="Stack frames along the first axis."
            )
        checks.moves(self.frames, "frames")
        self.times = torch.arange(count, dtype=torch.float64) if times is None else checks.times(times, count)
        self.start, self.end = float(self.times[0]), float(self.times[-1])
        bends = [k for k in range(1, count - 1) if self._bends(k)]
        self.knots: tuple[float, ...] = tuple(float(self.times[k]) for k in bends)

    def __repr__(self) -> str:
        return f"Frames(frames={len(self.frames)}, shape={tuple(self.frames.shape[1:])})"

    def at(self, t: Tensor, *, side: Side = "right") -> tuple[Tensor, Tensor]:
        """Points x(t) (n, ...) and tangents (n, ...) of the line on the given side."""
        t = checks.parameters(t, self.start, self.end)
        first = (torch.searchsorted(self.times, t, right=side == "right") - 1).clamp(0, len(self.times) - 2)
        shape = (-1, *[1] * (self.frames.dim() - 1))
        duration = (self.times[first + 1] - self.times[first]).reshape(shape)
        share = (t - self.times[first]).reshape(shape) / duration
        before, after = self.frames[first], self.frames[first + 1]
        return torch.lerp(before, after, share), (after - before) / duration

    def _bends(self, k: int) -> bool:
        before, after = (
            (self.frames[j + 1] - self.frames[j]) / (self.times[j + 1] - self.times[j]) for j in (k - 1, k)
        )
        return bool((after - before).norm() > _BENDS * (after.norm() + before.norm()))
