"""Where units cross their thresholds, and maxima change winners, between neighbouring samples of a path.

Values and slopes at both ends of a step fix a cubic (Hermite); its roots are the crossings, so that a unit that crosses
twice within a step is seen, and a unit whose own input bends within the step is met about where it crosses.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from assay.smoothness.estimators.rows import Rows
from assay.smoothness.switches import Factor
from assay.smoothness.walk import Sweep, Switch


class Crossings(NamedTuple):
    """Crossings of the units of one node.

    Attributes:
        step: (e,) row that begins the step.
        place: (e,) where in the step, from 0 to 1.
        unit: (e,) place in the flattened value of the node.
        local: (e,) jump of the slope of the unit's value.
        begin: (e,) that jump were the slope of its input the one at the begin of the step.
        end: (e,) the same of the end.
    """

    step: Tensor
    place: Tensor
    unit: Tensor
    local: Tensor
    begin: Tensor
    end: Tensor


class Ends(NamedTuple):
    """A difference d whose sign matters, at both ends of some steps: values, slopes, and signs just inside the step."""

    d0: Tensor
    d1: Tensor
    p0: Tensor
    p1: Tensor
    s0: Tensor
    s1: Tensor

    def take(self, where: Tensor) -> Ends:
        """Some of them."""
        return Ends(*(part[where] for part in self))


def crossings(sweep: Sweep, rows: Rows) -> list[Crossings]:
    """Crossings of every switching node within the steps of consecutive rows.

    Args:
        sweep: of these rows.
        rows: of a path.

    Returns:
        One record per switching node.
    """
    steps = rows.linked[:-1].nonzero()[:, 0]
    return [_of_switch(switch, rows, steps) for switch in sweep.switches]


def _of_switch(switch: Switch, rows: Rows, steps: Tensor) -> Crossings:
    found = []
    for d, p, w0, w1, change in _differences(switch, steps):
        d0, d1, p0, p1 = d(steps, w0, w1), d(steps + 1, w0, w1), p(steps, w0, w1), p(steps + 1, w0, w1)
        width = (rows.t[steps + 1] - rows.t[steps])[:, None]
        opening = torch.where(rows.first[steps], 1.0, -1.0)[:, None]
        ends = Ends(
            d0,
            d1,
            p0 * width,
            p1 * width,
            torch.where(d0 == 0, torch.sign(p0) * opening, torch.sign(d0)),
            torch.where(d1 == 0, -torch.sign(p1), torch.sign(d1)),
        )
        near = torch.minimum(d0.abs(), d1.abs()) < 0.15 * (ends.p0.abs() + ends.p1.abs())  # of H: max |h10| = 4/27
        possible = (ends.s0 * ends.s1 < 0) | (near & (ends.s0 * ends.s1 > 0))
        row, unit = possible.nonzero(as_tuple=True)
        if not len(row):
            continue
        sparse = ends.take(possible)
        factor = change if isinstance(change, float) else change[unit]
        widths = width[row, 0]
        for hit, place, slope in _roots(sparse):
            scale = factor if isinstance(factor, float) else factor[hit]
            w = widths[hit]
            begin, end = sparse.p0[hit].abs() / w * scale, sparse.p1[hit].abs() / w * scale
            found.append(Crossings(steps[row[hit]], place, unit[hit], slope.abs() / w * scale, begin, end))
    if not found:
        nothing, none = torch.zeros(0, dtype=torch.float64), torch.zeros(0, dtype=torch.long)
        return Crossings(none, nothing, none, nothing, nothing, nothing)
    joined = Crossings(*(torch.cat(parts) for parts in zip(*found, strict=True)))
    # below rounding of the slopes of its node, a crossing is noise of a unit at rest
    loud = joined.local.abs() > 1e-13 * switch.slopes.abs().amax()
    return Crossings(*(part[loud] for part in joined))


def _differences(switch: Switch, steps: Tensor) -> Iterator[tuple]:
    """Functions that give d and its slope at rows, and the change of slope where d changes sign."""
    if switch.winners is None:
        for level, change in switch.thresholds:
            yield (
                lambda row, a, b, level=level: switch.inputs[row] - level,
                lambda row, a, b: switch.slopes[row],
                None,
                None,
                change,
            )
        return
    before, after = switch.winners[steps], switch.winners[steps + 1]

    def between(values: Tensor):
        return lambda row, a, b: values[row].gather(1, a) - values[row].gather(1, b)

    change: Factor = -1.0 if switch.node.op == "minimum" else 1.0
    yield between(switch.inputs), between(switch.slopes), before, after, change


def _roots(ends: Ends) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Crossings of zero of the cubics with these ends: which ones cross, where in (0, 1), and with what slope."""
    a, b = ends.p0, ends.p1
    third, second = 2 * ends.d0 + a - 2 * ends.d1 + b, -3 * ends.d0 - 2 * a + 3 * ends.d1 - b

    def value(u: Tensor, where: Tensor | slice = slice(None)) -> Tensor:
        return ((third[where] * u + second[where]) * u + a[where]) * u + ends.d0[where]

    # extrema: where 3 third u^2 + 2 second u + a = 0, by the formula that does not cancel
    square = second * second - 3 * third * a
    half = -(second + torch.copysign(square.clamp(min=0).sqrt(), second))
    extrema = [half / (3 * third), a / half]
    inside = [torch.where((square > 0) & (one > 0) & (one < 1), one, 0.0) for one in extrema]
    cuts = [torch.zeros_like(a), torch.minimum(*inside), torch.maximum(*inside), torch.ones_like(a)]
    for low, high in pairwise(cuts):
        left = torch.where(low == 0, ends.s0, torch.sign(value(low)))
        right = torch.where(high == 1, ends.s1, torch.where(high == 0, ends.s0, torch.sign(value(high))))
        where = (left * right < 0).nonzero()[:, 0]
        if not len(where):
            continue
        begin, end, sign = low[where], high[where], left[where]
        for _ in range(48):
            middle = (begin + end) / 2
            same = value(middle, where) * sign > 0
            begin, end = torch.where(same, middle, begin), torch.where(same, end, middle)
        u = (begin + end) / 2
        yield where, u, (3 * third[where] * u + 2 * second[where]) * u + a[where]
