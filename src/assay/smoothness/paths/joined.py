"""Paths from paths: one after the other, backwards, faster, and a part of one."""

from __future__ import annotations

from itertools import accumulate, pairwise

import torch
from torch import Tensor

from assay.errors import UsageError
from assay.smoothness.paths import checks
from assay.smoothness.paths.path import Path, Side

_APART = 1e-9  # gap between ends, or change of the tangent, as a share of their size, below which it is rounding


class Joined:
    """Paths one after the other; each begins where the one before it ends.

    The parameter runs from the start of the first path on, and every path keeps its own length. A joint is a knot where
    the tangents of both sides differ.

    Args:
        paths: one or more.

    Raises:
        UsageError: for no path at all, inputs of different shapes, or a gap between two paths.

    Example:
        >>> import torch
        >>> from assay.smoothness.paths import Line
        >>> there = Line(torch.zeros(1), torch.ones(1))
        >>> path = Joined(there, Reversed(there))
        >>> path.end, path.knots
        (2.0, (1.0,))
    """

    def __init__(self, *paths: Path) -> None:
        if not paths:
            raise UsageError("There is no path to join.", where="paths", advice="Give one or more.")
        self.paths = paths
        self._starts = list(accumulate((p.end - p.start for p in paths), initial=paths[0].start))
        self.start, self.end = self._starts[0], self._starts[-1]
        knots = [self._starts[i] + knot - p.start for i, p in enumerate(paths) for knot in p.knots]
        knots += [self._starts[i + 1] for i, pair in enumerate(pairwise(paths)) if _bends(*pair, i)]
        self.knots: tuple[float, ...] = tuple(sorted(knots))

    @property
    def notes(self) -> tuple[str, ...]:
        """What the reader must know about any of the paths."""
        return tuple(dict.fromkeys(note for path in self.paths for note in getattr(path, "notes", ())))

    def __repr__(self) -> str:
        return f"Joined({', '.join(map(repr, self.paths))})"

    def at(self, t: Tensor, *, side: Side = "right") -> tuple[Tensor, Tensor]:
        """Points x(t) (n, ...) and tangents (n, ...) of the path on the given side of a joint."""
        t = checks.parameters(t, self.start, self.end)
        starts = torch.tensor(self._starts, dtype=torch.float64)
        which = (torch.searchsorted(starts, t, right=side == "right") - 1).clamp(0, len(self.paths) - 1)
        points = tangents = None
        for i, path in enumerate(self.paths):
            rows = which == i
            local = (t[rows] - self._starts[i] + path.start).clamp(path.start, path.end)
            part = path.at(local, side=side)
            if points is None or tangents is None:
                points, tangents = (value.new_empty((len(t), *value.shape[1:])) for value in part)
            points[rows], tangents[rows] = part
        assert points is not None
        assert tangents is not None
        return points, tangents


def _bends(before: Path, after: Path, place: int) -> bool:
    """Whether the tangent jumps where one path takes over from another; refuses paths that do not meet."""
    point, tangent = (v[0] for v in before.at(torch.tensor([before.end], dtype=torch.float64), side="left"))
    following, onward = (v[0] for v in after.at(torch.tensor([after.start], dtype=torch.float64), side="right"))
    checks.same_shape(point, following, f"paths {place} and {place + 1}")
    if bool((following - point).norm() > _APART * (1 + point.norm() + following.norm())):
        raise UsageError(
            f"The paths do not meet: the ends are {float((following - point).norm()):.3g} apart.",
            where=f"paths {place} and {place + 1}",
            advice="Let each path begin where the one before it ends, or join them by a Line.",
        )
    return bool((onward - tangent).norm() > _APART * (onward.norm() + tangent.norm()))


class _Changed:
    """A path whose parameter is an affine function of its own: t -> source + rate (t - start)."""

    def __init__(self, path: Path, start: float, end: float, source: float, rate: float) -> None:
        self.path, self.start, self.end = path, start, end
        self._source, self._rate = source, rate
        self.knots: tuple[float, ...] = tuple(
            sorted(t for t in (start + (knot - source) / rate for knot in path.knots) if start < t < end)
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """What the reader must know about the path."""
        return getattr(self.path, "notes", ())

    def at(self, t: Tensor, *, side: Side = "right") -> tuple[Tensor, Tensor]:
        """Points x(t) (n, ...) and tangents (n, ...)."""
        t = checks.parameters(t, self.start, self.end)
        inner = self._source + self._rate * (t - self.start)
        for knot, place in zip(self.path.knots, self._places, strict=True):  # a knot stays a knot after rounding
            inner = torch.where(t == place, knot, inner)
        if self._rate < 0:
            side = "left" if side == "right" else "right"
        points, tangents = self.path.at(inner.clamp(self.path.start, self.path.end), side=side)
        return points, tangents * self._rate

    @property
    def _places(self) -> list[float]:
        return [self.start + (knot - self._source) / self._rate for knot in self.path.knots]


class Reversed(_Changed):
    """A path walked backwards over the same parameters: x(start + end - t). Its SMP is that of the path.

    Args:
        path: any path.

    Example:
        >>> import torch
        >>> from assay.smoothness.paths import Line
        >>> points, tangents = Reversed(Line(torch.zeros(1), torch.ones(1))).at(torch.tensor([0.25]))
        >>> points.item(), tangents.item()
        (0.75, -1.0)
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, path.start, path.end, path.end, -1.0)

    def __repr__(self) -> str:
        return f"Reversed({self.path!r})"


class Retimed(_Changed):
    """The same curve walked `factor` times as fast, from the same start: SMP is `factor` times as large.

    Args:
        path: any path.
        factor: positive; 2 halves the length.

    Raises:
        UsageError: unless `factor` is positive.

    Example:
        >>> import torch
        >>> from assay.smoothness.paths import Line
        >>> path = Retimed(Line(torch.zeros(1), torch.ones(1)), 4.0)
        >>> path.end, path.at(torch.tensor([0.125]))[1].item()
        (0.25, 4.0)
    """

    def __init__(self, path: Path, factor: float) -> None:
        factor = checks.number(factor, "factor", positive=True)
        self.factor = factor
        super().__init__(path, path.start, path.start + (path.end - path.start) / factor, path.start, factor)

    def __repr__(self) -> str:
        return f"Retimed({self.path!r}, {self.factor:g})"


class Section(_Changed):
    """The part of a path between two of its parameters, which keep their names.

    Args:
        path: any path.
        start: first parameter, within the path.
        end: last parameter, within the path, larger than `start`.

    Raises:
        UsageError: for parameters outside the path or out of order.

    Example:
        >>> import torch
        >>> from assay.smoothness.paths import Line
        >>> Section(Line(torch.zeros(1), torch.ones(1)), 0.25, 0.5).at(torch.tensor([0.25]))[0].item()
        0.25
    """

    def __init__(self, path: Path, start: float, end: float) -> None:
        first, last = checks.span(start, end)
        checks.parameters([first, last], path.start, path.end)
        super().__init__(path, max(first, path.start), min(last, path.end), max(first, path.start), 1.0)

    def __repr__(self) -> str:
        return f"Section({self.path!r}, {self.start:g}, {self.end:g})"
