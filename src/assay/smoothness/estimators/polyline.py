"""What a straight segment becomes inside a piecewise linear network: a polyline with breakpoints of its own.

Every tensor of the network carries only the breakpoints that happened before it, so early (wide) layers keep few rows.
The walk is the one of ExactLine (Sotoudeh and Thakur, 2019, arXiv 1908.06214), with the origin of every breakpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

TOLERANCE = 1e-15
"""Parameters in [0, 1] closer than this are the same breakpoint."""
END = -1
"""`Marks.layer` of the first and the last row, which bend nothing."""
NEW = 2**40
"""`Marks.layer` of breakpoints that the node at hand makes: after every other node in the order of the graph."""
_BLOCK = 2**24  # bytes of values that are worked on at a time


class TooManyRows(Exception):
    """A value would take `times` as much memory as it may: the segment must be cut into that many pieces."""

    def __init__(self, times: float) -> None:
        super().__init__(times)
        self.times = times


class Marks(NamedTuple):
    """What bends at each of m rows.

    Attributes:
        layer: (m,) position in the graph of the node that bends, the first one where several coincide.
        unit: (m,) place in the flattened value of that node, the first one.
        several: (m,) whether more than one unit bends there.
        local: (m,) jump of the slope of that unit, per unit of the segment's parameter.
    """

    layer: Tensor
    unit: Tensor
    several: Tensor
    local: Tensor

    @classmethod
    def ends(cls, rows: int) -> Marks:
        """Rows that bend nothing."""
        whole = torch.full((rows,), END, dtype=torch.long)
        return cls(whole, whole.clone(), torch.zeros(rows, dtype=torch.bool), torch.zeros(rows, dtype=torch.float64))

    def take(self, rows: Tensor) -> Marks:
        """Some rows."""
        return Marks(*(part[rows] for part in self))


@dataclass(frozen=True, eq=False)
class Polyline:
    """A tensor as a piecewise linear function of t: straight between rows.

    Attributes:
        t: (m,) ascending parameters in [0, 1], at least two.
        values: (m, ...) float64, the batch axis is the row.
        marks: what bends at the rows.
        made: position in the graph of the node whose value it is; -1 before a walk.
        room: bytes that one value may take.
    """

    t: Tensor
    values: Tensor
    marks: Marks
    made: int = -1
    room: float = float("inf")

    def __len__(self) -> int:
        return len(self.t)

    @property
    def flat(self) -> Tensor:
        """(m, units)."""
        return self.values.reshape(len(self.t), -1)

    def with_values(self, values: Tensor) -> Polyline:
        """Another value with the same rows."""
        return replace(self, values=values)

    def at(self, t: Tensor) -> Tensor:
        """Values (n, ...) at parameters (n,), by interpolation, exact at rows."""
        return _interpolated(self.values, *_brackets(self.t, t))

    def mapped(self, t: Tensor, marks: Marks, function: Callable[[Tensor], Tensor] = lambda values: values) -> Polyline:
        """A row-wise function of the values at other parameters, a block of rows at a time.

        Returns:
            The polyline of the result.

        Raises:
            TooManyRows: when there is no room for the result.
        """
        low, high, weight = _brackets(self.t, t)
        result: Tensor | None = None
        step = blocks(self.values)
        for first in range(0, len(t), step):
            rows = slice(first, first + step)
            part = function(_interpolated(self.values, low[rows], high[rows], weight[rows]))
            if result is None:
                needed = 8.0 * len(t) * part[0].numel()
                if needed > self.room:
                    raise TooManyRows(needed / self.room)
                result = part.new_empty((len(t), *part.shape[1:]))
            result[rows] = part
        assert result is not None
        return replace(self, t=t, values=result, marks=marks)


def segment(low: float, high: float, first: Tensor, last: Tensor, room: float = float("inf")) -> Polyline:
    """The piece of a segment between two points (...), with parameters `low` and `high`."""
    t = torch.tensor([low, high], dtype=torch.float64)
    return Polyline(t, torch.stack([first, last]).double(), Marks.ends(2), room=room)


def blocks(values: Tensor) -> int:
    """Rows that are worked on at a time."""
    return max(1, _BLOCK // max(1, 8 * values[0].numel()))


def _brackets(rows: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows around every parameter and its share of the way between them; exactly 0 or 1 on a row."""
    high = torch.searchsorted(rows, t).clamp(1, len(rows) - 1)
    low = high - 1
    left, right = t - rows[low], rows[high] - t
    weight = (left / (rows[high] - rows[low])).clamp(0.0, 1.0)
    weight = torch.where(right.abs() <= TOLERANCE, 1.0, weight)
    return low, high, torch.where(left.abs() <= TOLERANCE, 0.0, weight)


def _interpolated(values: Tensor, low: Tensor, high: Tensor, weight: Tensor) -> Tensor:
    return torch.lerp(values[low], values[high], weight.reshape(-1, *[1] * (values.dim() - 1)))


def inserted(t: Tensor, marks: Marks, new: Tensor, unit: Tensor, local: Tensor) -> tuple[Tensor, Marks]:
    """Rows with new breakpoints among them; those that coincide become one.

    Args:
        t: (m,) ascending.
        marks: of these rows.
        new: (n,) parameters of breakpoints of the node at hand, in any order.
        unit: (n,) its units.
        local: (n,) jumps of their slopes.

    Returns:
        Rows and marks.
    """
    if not len(new):
        return t, marks
    old = _nearest(t, new)
    beside = (new - t[old]).abs() <= TOLERANCE
    several = marks.several.clone()
    several[old[beside]] |= marks.layer[old[beside]] != END
    order = new[~beside].argsort(stable=True)
    new, unit, local = (part[~beside][order] for part in (new, unit, local))
    if not len(new):
        return t, marks._replace(several=several)
    group = torch.cat([torch.zeros(1, dtype=torch.long), ((new[1:] - new[:-1]) > TOLERANCE).long().cumsum(0)])
    first = torch.cat([torch.ones(1, dtype=torch.bool), group[1:] != group[:-1]])
    by_unit = unit.argsort(stable=True)
    by_unit = by_unit[group[by_unit].argsort(stable=True)][first]  # the first unit of every group
    count = torch.bincount(group)
    more = Marks(torch.full_like(count, NEW), unit[by_unit], count > 1, local[by_unit])
    joined = torch.cat([t, new[first]])
    places = joined.argsort(stable=True)
    both = (marks._replace(several=several), more)
    return joined[places], Marks(*(torch.cat(parts)[places] for parts in zip(*both, strict=True)))


def _nearest(rows: Tensor, t: Tensor) -> Tensor:
    high = torch.searchsorted(rows, t).clamp(1, len(rows) - 1)
    return torch.where(t - rows[high - 1] <= rows[high] - t, high - 1, high)


def aligned(operands: Sequence[Any]) -> list[Any]:
    """The same operands, all polylines on the union of their rows; where rows coincide, the first origin counts."""
    lines = [one for one in operands if isinstance(one, Polyline)]
    if all(line.t is lines[0].t or torch.equal(line.t, lines[0].t) for line in lines[1:]):
        return list(operands)
    t = lines[0].t
    for line in lines[1:]:
        missing = (line.t - t[_nearest(t, line.t)]).abs() > TOLERANCE
        t = torch.cat([t, line.t[missing]]).sort().values
    marks = Marks.ends(len(t))._replace(layer=torch.full_like(t, NEW + 1, dtype=torch.long))
    for line in lines:
        marks = _merged(marks, _nearest(t, line.t), line.marks)
    return [one.mapped(t, marks) if isinstance(one, Polyline) else one for one in operands]


def _merged(marks: Marks, rows: Tensor, more: Marks) -> Marks:
    """Marks with those of another line at these rows."""
    there = marks.take(rows)
    earlier = (more.layer < there.layer) | ((more.layer == there.layer) & (more.unit < there.unit))
    unlike = (there.layer <= NEW) & ((there.layer != more.layer) | (there.unit != more.unit))
    chosen = Marks(*(torch.where(earlier, one, other) for one, other in zip(more, there, strict=True)))
    chosen = chosen._replace(several=chosen.several | unlike)
    return Marks(*(part.index_copy(0, rows, value) for part, value in zip(marks, chosen, strict=True)))
