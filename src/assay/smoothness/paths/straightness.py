"""Whether a path consists of straight lines, on which kinks can be found exactly."""

from __future__ import annotations

from assay.smoothness.paths.frames import Frames
from assay.smoothness.paths.joined import Joined, Retimed, Reversed, Section
from assay.smoothness.paths.line import Line
from assay.smoothness.paths.path import Path
from assay.smoothness.paths.spline import Spline
from assay.smoothness.paths.transform import Transform
from assay.smoothness.paths.unbatched import Unbatched


def straight_between_knots(path: Path) -> bool:
    """Whether x(t) is affine in t between consecutive knots: then (start, *knots, end) are the ends of straight lines.

    Args:
        path: any path.

    Returns:
        True for lines, frames, brightness, a spline of two points, and paths made of such; False for all others.

    Example:
        >>> import torch
        >>> straight_between_knots(Frames(torch.eye(3))), straight_between_knots(Spline(torch.eye(3)))
        (True, False)
    """
    if isinstance(path, Joined):
        return all(straight_between_knots(part) for part in path.paths)
    if isinstance(path, (Reversed, Retimed, Section, Unbatched)):
        return straight_between_knots(path.path)
    if isinstance(path, Transform):
        return path.kind == "brightness"
    if isinstance(path, Spline):
        return len(path.points) == 2 and not path.closed
    return isinstance(path, (Line, Frames))
