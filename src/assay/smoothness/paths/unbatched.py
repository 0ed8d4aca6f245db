"""A path whose inputs came with a batch axis of one, without that axis."""

from __future__ import annotations

from torch import Tensor

from assay.smoothness.paths.path import Path, Side


class Unbatched:
    """The same path with its points (1, ...) as points (...).

    Args:
        path: a path whose points have a first axis of length 1.

    Example:
        >>> import torch
        >>> from assay.smoothness.paths.line import Line
        >>> path = Unbatched(Line(torch.zeros(1, 3), torch.ones(1, 3)))
        >>> tuple(path.at(torch.tensor([0.0, 0.5]))[0].shape)
        (2, 3)
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.start, self.end, self.knots = path.start, path.end, path.knots

    def __repr__(self) -> str:
        return f"Unbatched({self.path!r})"

    @property
    def notes(self) -> tuple[str, ...]:
        """What the reader must know about the path."""
        return tuple(getattr(self.path, "notes", ()))

    def at(self, t: Tensor, *, side: Side = "right") -> tuple[Tensor, Tensor]:
        """Points x(t) (n, ...) and tangents (n, ...)."""
        points, tangents = self.path.at(t, side=side)
        return points.squeeze(1), tangents.squeeze(1)
