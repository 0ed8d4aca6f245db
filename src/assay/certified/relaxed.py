"""Straight lines above and below activations and maxima, which hold while their inputs stay in known intervals.

For a ReLU the upper line is its chord and the lower one 0 or the identity, whichever leaves less between (Zhang et al.
2018, arXiv 1811.00866). For other functions slopes are tried in turn, and how far the function leaves each line is
bounded by its slopes on parts of the interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from assay.certified.nonlinear import windows
from assay.certified.slopes import kinks, slopes_between
from assay.graph import Node, evaluate_node

_PARTS = 6  # parts of an interval on which a curve's slopes are bounded on their own
_ROUNDING = 1e-13  # relative to the largest number that is subtracted


class Line(NamedTuple):
    """Changes of a node's elements lie on one side of slope x change of the input + shift. All of the node's shape."""

    slope: Tensor
    shift: Tensor


class Lines(NamedTuple):
    """A line above and a line below; the shifts are infinite or NaN where there is none."""

    above: Line
    below: Line


def around(node: Node, fixed: Sequence[Tensor | None], centre: Tensor, low: Tensor, high: Tensor) -> Lines:
    """Lines around an elementwise node.

    Args:
        node: an application of an elementwise operator.
        fixed: its other inputs.
        centre: (1, ...) its input at the centre.
        low: (1, ...) lower ends of the intervals, at most the centre.
        high: (1, ...) upper ends.

    Returns:
        The lines, above and below at the centre too; one line, the function itself, where its slope is certain.
    """

    def value(at: Tensor) -> Tensor:
        return evaluate_node(node, [at, *fixed], 1)

    least, most = slopes_between(node, fixed, low, high)
    straight = least == most
    span, start = high - low, value(centre)
    bends = kinks(node, fixed)
    if bends is None:
        ends = [low + span * (part / _PARTS) for part in range(_PARTS)] + [high]
    else:
        ends = [low, *(torch.minimum(high, low.clamp(min=bend)) for bend in bends), high]
    values = [value(end) - start for end in ends]
    ranges = [slopes_between(node, fixed, *pair) for pair in pairwise(ends)]
    noise = _ROUNDING * torch.maximum(start.abs(), torch.maximum(low.abs(), high.abs()) + span)
    chord = torch.where(span > 0, (values[-1] - values[0]) / span, least)
    candidates = [chord.clamp(least, most), least, most]
    if bends is None:
        rise, run = (at[_PARTS // 2 + 1] - at[_PARTS // 2 - 1] for at in (values, ends))
        candidates.append(torch.where(run > 0, rise / run, least).clamp(least, most))
    above, below = Line(least, torch.full_like(low, math.inf)), Line(least, torch.full_like(low, -math.inf))
    half = (low + high) / 2 - centre
    for slope in candidates:
        top, bottom = _furthest(slope, [end - centre for end in ends], values, ranges)
        lower = top + slope * half < above.shift + above.slope * half  # in the middle: less area between
        above = Line(torch.where(lower, slope, above.slope), torch.where(lower, top, above.shift))
        higher = bottom + slope * half > below.shift + below.slope * half
        below = Line(torch.where(higher, slope, below.slope), torch.where(higher, bottom, below.shift))
    bounded = torch.isfinite(least) & torch.isfinite(most)

    def finished(line: Line, side: float) -> Line:
        shift = torch.where(straight, 0.0, line.shift + side * noise)
        return Line(torch.where(straight, least, line.slope), torch.where(bounded, shift, math.inf))

    return Lines(finished(above, 1.0), finished(below, -1.0))


def _furthest(
    slope: Tensor, places: Sequence[Tensor], values: Sequence[Tensor], ranges: Sequence[tuple[Tensor, Tensor]]
) -> tuple[Tensor, Tensor]:
    """Largest and smallest difference of a function and slope x place, from values and slopes between them."""
    left = values[0] - slope * places[0]
    top = bottom = left
    for i, (least, most) in enumerate(ranges):
        right = values[i + 1] - slope * places[i + 1]
        down, up, span = least - slope, most - slope, places[i + 1] - places[i]
        turns = (up > 0) & (down < 0)
        width = torch.where(turns, up - down, 1.0)
        above = torch.where(turns, (up * right - down * left - up * down * span) / width, left)
        below = torch.where(turns, (up * left - down * right + up * down * span) / width, left)
        top = torch.maximum(top, torch.maximum(above, torch.maximum(left, right)))
        bottom = torch.minimum(bottom, torch.minimum(below, torch.minimum(left, right)))
        left = right
    return top, bottom


class Pooled(NamedTuple):
    """Lines around a max pool: each window follows one element of its input, or none (slope 0).

    Attributes:
        place: (n,) element of the flat input that each window follows, the one that wins at the centre.
        lines: with slopes 0 and 1.
    """

    place: Tensor
    lines: Lines


def around_pool(node: Node, centre: Tensor, low: Tensor, high: Tensor, value: Tensor) -> Pooled:
    """Lines around a max pool.

    A window is never below its winner at the centre. It is at most what the others may exceed that one by above it, or
    at most the highest end of all, whichever is lower in the middle.

    Args:
        node: a max pool.
        centre: (1, C, ...) its input at the centre.
        low: (1, C, ...) lower ends.
        high: (1, C, ...) upper ends.
        value: (1, C, ...) its output at the centre.

    Returns:
        The lines.
    """
    taps, present = windows(node, centre, value)

    def of_windows(values: Tensor) -> Tensor:
        return torch.where(present, values.reshape(-1)[taps], -math.inf)

    winner = of_windows(centre).argmax(0, keepdim=True)
    lows, highs = of_windows(low), of_windows(high)
    own_low, own_high = lows.gather(0, winner)[0], highs.gather(0, winner)[0]
    others = highs.scatter(0, winner, -math.inf).amax(0)
    ceiling = torch.maximum(own_high, others)
    excess = (others - own_low).clamp(min=0)
    follow = excess + (own_low + own_high) / 2 <= ceiling
    noise = torch.where(excess == 0, 0.0, _ROUNDING * (ceiling.abs() + value.abs()))
    shift = torch.where(follow, excess, ceiling - value) + noise
    ones = torch.ones_like(value)
    lines = Lines(Line(follow.to(value.dtype), shift), Line(ones, torch.zeros_like(value)))
    return Pooled(taps.gather(0, winner).reshape(-1), lines)


def uncertain_elements(node: Node, low: Tensor, high: Tensor, value: Tensor) -> Tensor:
    """(n,) elements of a max pool's flat input that take part in a window with more than one possible winner."""
    taps, present = windows(node, low, value)
    floor = torch.where(present, low.reshape(-1)[taps], -math.inf).amax(0)
    rivals = present & (high.reshape(-1)[taps] >= floor)
    found = torch.zeros(low.numel(), dtype=torch.bool)
    found[taps[rivals & (rivals.sum(0) > 1)]] = True
    return found
