"""The largest radius that a method certifies, from as few balls as possible."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

_MOST = 16  # balls; 3 to 6 are usual
_FIRST = 0.2  # of the linearised distance: where to begin


class Tried(NamedTuple):
    """What one ball showed.

    Attributes:
        radius: of the ball.
        certified: a radius that it certifies, at most its own.
        share: how much of the margin the change on it may take; certified as a whole below 1.
    """

    radius: float
    certified: float
    share: float


def largest(walk: Callable[[float], Tried], linear: float, upper: float, tolerance: float) -> tuple[float, int]:
    """Search on balls; a ball inside a certified one is certified.

    With the linearised distance a, log(share a / radius) is 0 at 0 and grows nearly in proportion to the radius, so it
    is interpolated between balls; where the share would be 1 is the next ball.

    Args:
        walk: through one ball.
        linear: distance at which the linearised margin is used up; may be infinite.
        upper: nothing from here on can be certified; may be infinite.
        tolerance: relative.

    Returns:
        The largest radius found to be certified, and the number of balls.
    """
    certified, failed = 0.0, upper
    tried: list[Tried] = []
    radius = min(_FIRST * linear, 0.5 * upper)
    if not math.isfinite(radius):
        radius = 1.0
    while len(tried) < _MOST and failed > certified * (1 + tolerance):
        found = walk(radius)
        tried.append(found)
        certified = max(certified, found.certified)
        if found.certified < radius:
            failed = min(failed, radius)
        radius = _next(tried, linear, certified, failed, tolerance)
    return certified, len(tried)


def _next(tried: list[Tried], linear: float, certified: float, failed: float, tolerance: float) -> float:
    guess = _crossing(tried, linear)
    if math.isinf(failed):
        most = 4 * max(one.radius for one in tried)
        return min(max(guess * (1 + tolerance / 3), certified * (1 + tolerance)), most)
    if certified == 0:
        return min(guess, failed / 3)
    near = 1 + tolerance / 3
    return min(max(guess * near, certified * near), failed / near)


def _crossing(tried: list[Tried], linear: float) -> float:
    """Radius at which the interpolated share is 1; infinite where it never is."""
    points = sorted((one.radius, one.share) for one in tried if 0 < one.share < math.inf)
    if not points:
        return math.inf
    if not math.isfinite(linear):
        linear = points[0][0] / points[0][1]
    nodes = [(0.0, 0.0), *((radius, math.log(share * linear / radius)) for radius, share in points)]
    after = next((i for i, (_, share) in enumerate(points, start=1) if share >= 1), len(points))
    (left, below), (right, above) = nodes[after - 1], nodes[after]
    slope = (above - below) / (right - left)

    def excess(radius: float) -> float:
        return math.log(radius / linear) + below + slope * (radius - left)

    low, high = right * 1e-6, right * (1 if points[after - 1][1] >= 1 else 4)
    if excess(high) < 0:
        return high
    for _ in range(60):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if excess(middle) < 0 else (low, middle)
    return math.sqrt(low * high)
