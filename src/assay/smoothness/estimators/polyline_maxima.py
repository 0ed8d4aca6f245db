"""Maxima of polylines: pools, reductions, maximum and minimum of two.

Between two rows every input is affine, so a maximum is convex: what wins at both ends wins everywhere between. Only
windows whose winner changes between neighbouring rows need work: where the two winners cross, a third input is above
them or the crossing is a vertex of the upper envelope; a third one takes part in two crossings of its own.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from assay.grade import Grade
from assay.graph import OPERATORS
from assay.smoothness.estimators.polyline import Polyline, TooManyRows, blocks, inserted
from assay.smoothness.estimators.polyline_bends import NOISE
from assay.smoothness.estimators.polyline_rules import TABLE, first_line
from assay.smoothness.switches import WINNERS

_PAIRS = 2**22  # gathered numbers at a time
_SLACK = 1e-9  # how far below a maximum, as a share of the layer's largest value, a unit may be and its row is kept


class Windows(NamedTuple):
    """The inputs of every maximum of a layer.

    Attributes:
        taps: (windows, k) places of the inputs within a plane; a place may repeat.
        plane: inputs per plane; unit u is window u % windows of plane u // windows.
    """

    taps: Tensor
    plane: int

    def of(self, unit: Tensor) -> Tensor:
        """(n, k) places among the flattened inputs of some units (n,)."""
        count = len(self.taps)
        plane = torch.div(unit, count, rounding_mode="floor")
        return self.taps[unit % count] + (plane * self.plane)[:, None]

    def reading(self) -> Tensor:
        """(plane, r) windows that read each input, filled up with -1."""
        window = torch.arange(len(self.taps))[:, None].expand(self.taps.shape)
        pairs = torch.stack([self.taps.reshape(-1), window.reshape(-1)], 1).unique(dim=0)
        count = torch.bincount(pairs[:, 0], minlength=self.plane)
        found = torch.full((self.plane, max(1, int(count.max()))), -1, dtype=torch.long)
        found[pairs[:, 0], torch.arange(len(pairs)) - (count.cumsum(0) - count)[pairs[:, 0]]] = pairs[:, 1]
        return found


class _Crossings(NamedTuple):
    t: Tensor
    unit: Tensor
    local: Tensor
    on_rows: Tensor  # rows at which a winner changes exactly


def _crossings(t: Tensor, flat: Tensor, winner: Tensor, windows: Windows) -> _Crossings:
    """Vertices of the upper envelopes strictly between rows.

    Args:
        t: (m,) rows.
        flat: (m, inputs).
        winner: (m, units) place of every maximum among the inputs.
        windows: what each unit takes the maximum of.

    Returns:
        Breakpoints.
    """
    row, unit = _changes(winner)
    first, last = winner[row, unit], winner[row + 1, unit]
    lead, trail = flat[row, first] - flat[row, last], flat[row + 1, last] - flat[row + 1, first]
    noise = NOISE * _size(flat)  # inputs may be small differences of what the layer sums
    starts, ends = lead <= noise, trail <= noise  # a tie at one end: the other winner wins throughout
    on_rows = torch.cat([row[starts], row[ends] + 1])
    inside = ~starts & ~ends
    row, unit, first, last = (part[inside] for part in (row, unit, first, last))
    found: list[tuple[Tensor, ...]] = []
    step = max(1, _PAIRS // windows.taps.shape[1])
    for start in range(0, len(row), step):
        part = slice(start, start + step)
        found += _envelopes(flat, row[part], unit[part], first[part], last[part], windows)
    if not found:
        return _Crossings(t[:0], row[:0], t[:0], on_rows)
    row, unit, share, jump = (torch.cat(parts) for parts in zip(*found, strict=True))
    duration = t[row + 1] - t[row]
    return _Crossings(t[row] + share * duration, unit, jump / duration, on_rows)


def _size(values: Tensor) -> float:
    low, high = torch.aminmax(values)
    return max(abs(float(low)), abs(float(high)))


def _changes(winner: Tensor) -> tuple[Tensor, Tensor]:
    row, unit = (winner[1:] != winner[:-1]).nonzero(as_tuple=True)
    return row, unit


def _envelopes(
    flat: Tensor, row: Tensor, unit: Tensor, first: Tensor, last: Tensor, windows: Windows
) -> list[tuple[Tensor, ...]]:
    """Rows, units, shares of the interval and jumps of slope per interval of all vertices."""
    taps = windows.of(unit)
    left, right = flat[row[:, None], taps], flat[row[:, None] + 1, taps]
    rise = right - left
    size = torch.maximum(left.abs().amax(1), right.abs().amax(1))
    # places of the two winners within their window
    start = (taps == first[:, None]).int().argmax(1)
    stop = (taps == last[:, None]).int().argmax(1)
    pair = torch.arange(len(row))
    found: list[tuple[Tensor, ...]] = []
    for _ in range(taps.shape[1]):  # every round without a vertex finds an input that was not seen before
        lead = left[pair, start] - left[pair, stop]
        gain = rise[pair, stop] - rise[pair, start]
        share = (lead / gain).clamp(0.0, 1.0)
        level = left[pair] + share[:, None] * rise[pair]
        top, above = level.max(1)
        vertex = (top - level.gather(1, start[:, None])[:, 0] <= NOISE * size[pair]) | (gain <= 0)
        done = pair[vertex & (gain > 0)]
        kept = vertex & (gain > 0)
        found.append((row[done], unit[done], share[kept], gain[kept]))
        pair, start, stop, above = (part[~vertex] for part in (pair, start, stop, above))
        if not len(pair):
            break
        pair, start, stop = torch.cat([pair, pair]), torch.cat([start, above]), torch.cat([above, stop])
    return found


def _largest(
    operands: Sequence[Polyline],
    joined: Polyline,
    winner: Tensor,
    windows: Windows,
    function: Callable[[Sequence[Tensor]], Tensor],
    sign: int = 1,
) -> Polyline:
    """A maximum over windows (sign -1: a minimum).

    Args:
        operands: inputs of the operator, on the rows of `joined`.
        joined: all its inputs, flattened side by side (m, inputs), times the sign.
        winner: (m, units) places among these.
        windows: what each unit takes the maximum of.
        function: the operator, row by row.
        sign: what the inputs were multiplied by.

    Returns:
        The polyline of its value.

    Raises:
        TooManyRows: when there is no room for it.
    """
    x = operands[0]
    found = _crossings(x.t, joined.values, winner, windows)
    t, marks = inserted(x.t, x.marks, found.t, found.unit, sign * found.local)
    if len(operands) == 1:
        kept = _reaching(joined, winner, windows, found.on_rows)
        stays = torch.ones(len(t), dtype=torch.bool)
        stays[torch.searchsorted(t, x.t[~kept])] = False
        t, marks = t[stays], marks.take(stays.nonzero()[:, 0])
    result: Tensor | None = None
    step = blocks(joined.values)
    for start in range(0, len(t), step):
        rows = t[start : start + step]
        part = function([one.at(rows) for one in operands])
        if result is None:
            needed = 8.0 * len(t) * part[0].numel()
            if needed > x.room:
                raise TooManyRows(needed / x.room)
            result = part.new_empty((len(t), *part.shape[1:]))
        result[start : start + step] = part
    assert result is not None
    return Polyline(t, result, marks, room=x.room)


def _reaching(x: Polyline, winner: Tensor, windows: Windows, on_rows: Tensor) -> Tensor:
    """(m,) rows that stay: all but those where only one unit of the node before bends and no maximum takes it."""
    marks = x.marks
    single = (marks.layer == x.made) & ~marks.several & (marks.layer >= 0)
    single[on_rows] = False
    rows = single.nonzero()[:, 0]
    if not len(rows):
        return torch.ones(len(x.t), dtype=torch.bool)
    unit = marks.unit[rows]
    plane, place = torch.div(unit, windows.plane, rounding_mode="floor"), unit % windows.plane
    reading = windows.reading()[place]
    units = plane[:, None] * len(windows.taps) + reading.clamp(min=0)
    best = x.values[rows[:, None], winner[rows[:, None], units]]
    slack = _SLACK * _size(x.values)
    wins = ((best <= x.values[rows, unit][:, None] + slack) & (reading >= 0)).any(1)
    stays = torch.ones(len(x.t), dtype=torch.bool)
    stays[rows[~wins]] = False
    return stays


def _winners(name: str, values: Sequence[Tensor], attributes: dict[str, Any]) -> Tensor:
    step = blocks(values[0])
    parts = [WINNERS[name](rows, attributes) for rows in zip(*(v.split(step) for v in values), strict=True)]
    return torch.cat(parts).reshape(len(values[0]), -1)


def _two(name: str, sign: int) -> Callable[[Sequence[Any], dict[str, Any]], Polyline]:
    def rule(operands: Sequence[Any], attributes: dict[str, Any]) -> Polyline:
        x = first_line(operands)
        values = [one.values if isinstance(one, Polyline) else one for one in operands]
        both = torch.broadcast_tensors(*values)
        flat = [one.reshape(len(x), -1) for one in both]
        count = flat[0].shape[1]
        windows = Windows(torch.stack([torch.arange(count), torch.arange(count) + count], 1), 2 * count)
        joined = x.with_values(sign * torch.cat(flat, 1))
        lines = [x.with_values(one.contiguous()) for one in both]
        winner = _winners(name, both, attributes)
        return _largest(lines, joined, winner, windows, lambda rows: OPERATORS[name].evaluate(*rows), sign)

    return rule


for _name, _sign in (("maximum", 1), ("minimum", -1)):
    TABLE.rule(_name, grade=Grade.EXACT, note="vertices of the upper envelope")(_two(_name, _sign))


@TABLE.rule("amax", grade=Grade.EXACT, note="vertices of the upper envelope")
def _amax(operands: Sequence[Any], attributes: dict[str, Any]) -> Polyline:
    x = operands[0]
    shape = x.values.shape
    axes = sorted({axis % len(shape) for axis in attributes.get("dim", ())} or set(range(len(shape))))
    place = torch.arange(math.prod(shape[1:])).reshape(1, *shape[1:])
    order = [axis for axis in range(len(shape)) if axis not in axes] + axes
    taps = place.permute(order).reshape(-1, math.prod(shape[axis] for axis in axes))
    return _single("amax", x, Windows(taps, place.numel()), attributes)


@TABLE.rule("max_pool", grade=Grade.EXACT, note="vertices of the upper envelope")
def _max_pool(operands: Sequence[Any], attributes: dict[str, Any]) -> Polyline:
    x = operands[0]
    sizes = tuple(x.values.shape[2:])
    out = OPERATORS["max_pool"].evaluate(x.values[:1, :1], **attributes).shape[2:]
    spread = [
        _spread(attributes.get(name) or default, len(sizes))
        for name, default in (
            ("kernel_size", ()),
            ("stride", attributes["kernel_size"]),
            ("padding", (0,)),
            ("dilation", (1,)),
        )
    ]
    axes = tuple(
        tuple(tuple(i * s - p + d * j for j in range(k)) for i in range(count))
        for count, k, s, p, d in zip(out, *spread, strict=True)
    )
    return _single("max_pool", x, Windows(_taps(axes, sizes), math.prod(sizes)), attributes)


@TABLE.rule("adaptive_max_pool", grade=Grade.EXACT, note="vertices of the upper envelope")
def _adaptive_max_pool(operands: Sequence[Any], attributes: dict[str, Any]) -> Polyline:
    x = operands[0]
    sizes = tuple(x.values.shape[2:])
    out = OPERATORS["adaptive_max_pool"].evaluate(x.values[:1, :1], **attributes).shape[2:]
    axes = []
    for size, count in zip(sizes, out, strict=True):
        edges = [(i * size // count, -(-(i + 1) * size // count)) for i in range(count)]
        widest = max(end - start for start, end in edges)
        axes.append(tuple(tuple(min(start + j, end - 1) for j in range(widest)) for start, end in edges))
    return _single("adaptive_max_pool", x, Windows(_taps(tuple(axes), sizes), math.prod(sizes)), attributes)


def _single(name: str, x: Polyline, windows: Windows, attributes: dict[str, Any]) -> Polyline:
    winner = _winners(name, [x.values], attributes)
    return _largest(
        [x], x.with_values(x.flat), winner, windows, lambda rows: OPERATORS[name].evaluate(*rows, **attributes)
    )


def _spread(values: tuple[int, ...], dims: int) -> tuple[int, ...]:
    return tuple(values) * dims if len(values) == 1 else tuple(values)


@lru_cache(maxsize=64)
def _taps(axes: tuple[tuple[tuple[int, ...], ...], ...], sizes: tuple[int, ...]) -> Tensor:
    """(windows, k) places in a plane; places in the padding are replaced by one inside the same window."""
    windows = []
    for choice in itertools.product(*axes):
        inside = [[place for place in places if 0 <= place < size] for places, size in zip(choice, sizes, strict=True)]
        filled = [
            [place if 0 <= place < size else kept[0] for place in places]
            for places, size, kept in zip(choice, sizes, inside, strict=True)
        ]
        windows.append(
            [sum(p * math.prod(sizes[a + 1 :]) for a, p in enumerate(taps)) for taps in itertools.product(*filled)]
        )
    return torch.tensor(windows)
