"""Continuous piecewise linear functions of a Gaussian, in closed form.

A function is f(x) = offset + slope x + sum_j jump_j relu(x - knot_j). Taken literally that sum cancels (relu6 at
mean 10,000 subtracts 9,994 from 10,000), so it is re-anchored at the mean: f is its linear piece there plus one-sided
corrections relu(+-(x - knot)) that all point away from the mean, hence are small, positive and accurate. Where std
is much larger than the distances of the knots, the pieces between knots are integrated instead.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from assay.errors import UsageError
from assay.gaussian.arguments import Number, as_tensors, broadcast, require_correlation, require_deviation
from assay.gaussian.bivariate import rectified_covariance
from assay.gaussian.normal import density
from assay.gaussian.quadrature import legendre
from assay.gaussian.rectified import RectifiedStatistics, rectified, standardise

_WIDE = 2.0
"""std over knot range above which pieces are integrated: closed forms would lose 2 log10(ratio) digits there."""


class PiecewiseLinear(NamedTuple):
    """f(x) = offset + slope x + sum_j jumps_j relu(x - knots_j).

    Attributes:
        slope: slope left of every knot; a number or a tensor that broadcasts with the means (PReLU).
        offset: value of the leftmost line at x = 0.
        knots: positions of the kinks, in increasing order.
        jumps: change of slope at each knot; numbers or tensors.

    Example:
        >>> RELU6.knots, RELU6.jumps
        ((0.0, 6.0), (1.0, -1.0))
    """

    slope: Number
    offset: Number
    knots: tuple[float, ...]
    jumps: tuple[Number, ...]

    def line(self, pieces: int) -> tuple[Number, Number]:
        """Slope and intercept of the piece that has this many knots to its left."""
        slope, intercept = self.slope, self.offset
        for knot, jump in zip(self.knots[:pieces], self.jumps[:pieces], strict=True):
            slope, intercept = slope + jump, intercept - jump * knot
        return slope, intercept


def leaky_relu(slope: Number) -> PiecewiseLinear:
    """max(x, 0) + slope min(x, 0); slope 0 is relu, and a tensor of slopes is PReLU.

    Args:
        slope: slope for negative x.

    Returns:
        The function as knots and jumps.

    Example:
        >>> leaky_relu(0.25).jumps
        (0.75,)
    """
    return PiecewiseLinear(slope, 0.0, (0.0,), (1 - slope,))


def clip(low: float, high: float) -> PiecewiseLinear:
    """min(max(x, low), high), with low < high.

    Args:
        low: lowest value.
        high: highest value.

    Returns:
        The function as knots and jumps.

    Example:
        >>> clip(-1.0, 1.0) == HARDTANH
        True
    """
    return PiecewiseLinear(0.0, float(low), (float(low), float(high)), (1.0, -1.0))


RELU = leaky_relu(0.0)
ABSOLUTE = leaky_relu(-1.0)
RELU6 = clip(0.0, 6.0)
HARDTANH = clip(-1.0, 1.0)
HARDSIGMOID = PiecewiseLinear(0.0, 0.0, (-3.0, 3.0), (1 / 6, -1 / 6))


class _Anchored(NamedTuple):
    """f near the mean: a line, plus jump * relu(side (x - knot)) for each knot, with side (mean - knot) <= 0."""

    slope: Tensor
    value: Tensor
    sides: list[Tensor]
    points: list[Tensor]
    tails: list[RectifiedStatistics]


def _anchor(function: PiecewiseLinear, mean: Tensor, std: Tensor) -> _Anchored:
    slope, intercept = function.line(0)
    slope, intercept = (torch.as_tensor(v, dtype=mean.dtype, device=mean.device) for v in (slope, intercept))
    sides, points, tails = [], [], []
    for count, knot in enumerate(function.knots, start=1):
        passed = mean > knot
        next_slope, next_intercept = function.line(count)
        slope, intercept = torch.where(passed, next_slope, slope), torch.where(passed, next_intercept, intercept)
        a = standardise(mean - knot, std)
        point = torch.where(passed, -a, a)
        sides.append(torch.where(passed, -torch.ones_like(a), torch.ones_like(a)))
        points.append(point)
        tails.append(rectified(point))
    return _Anchored(slope, intercept + slope * mean, sides, points, tails)


def _bend(near: _Anchored, function: PiecewiseLinear) -> Tensor:
    """Expected slope beyond the slope of the line at the mean."""
    bend = torch.zeros_like(near.value)
    for jump, side, tail in zip(function.jumps, near.sides, near.tails, strict=True):
        bend = bend + jump * side * tail.probability
    return bend


def _together(a: Tensor, at_a: RectifiedStatistics, b: Tensor, at_b: RectifiedStatistics) -> Tensor:
    """`comonotone_covariance(a, b)` for a, b <= 0 whose statistics are known."""
    first = a < b
    small, variance = torch.where(first, at_a.mean, at_b.mean), torch.where(first, at_a.variance, at_b.variance)
    return variance + small * (small + (a - b).abs() - torch.where(first, at_b.mean, at_a.mean))


def _closed(near: _Anchored, function: PiecewiseLinear, std: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, variance and gain from the terms around the mean."""
    shift, scale = torch.zeros_like(std), near.slope.square() * torch.ones_like(std)
    for j, jump in enumerate(function.jumps):
        tail, side = near.tails[j], near.sides[j]
        shift = shift + jump * tail.mean
        scale = scale + jump * (2 * near.slope * side * tail.probability + jump * tail.variance)
        for k in range(j):
            # one variable drives both: correlation +1 on the same side of the mean, -1 on opposite sides
            together = _together(near.points[j], tail, near.points[k], near.tails[k])
            opposed = -tail.mean * near.tails[k].mean
            scale = scale + 2 * jump * function.jumps[k] * torch.where(side == near.sides[k], together, opposed)
    return near.value + std * shift, std.square() * scale.clamp(min=0), near.slope + _bend(near, function)


def _integrated(function: PiecewiseLinear, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, variance and gain piece by piece, for std above _WIDE times the knot range: terms like f^2, not std^2."""
    first, last = function.knots[0], function.knots[-1]
    left, right = rectified((first - mean) / std), rectified((mean - last) / std)
    (slope_left, base_left), (slope_right, base_right) = function.line(0), function.line(len(function.knots))
    value_left, value_right = base_left + slope_left * first, base_right + slope_right * last
    parts: list[tuple[Number, Tensor]] = []
    gain = slope_left * left.probability + slope_right * right.probability
    for count, (low, high) in enumerate(zip(function.knots[:-1], function.knots[1:], strict=True), start=1):
        slope, intercept = function.line(count)
        for node, weight in legendre(12):
            x = low + (high - low) * node
            height = (weight * (high - low)) * density((x - mean) / std) / std
            parts.append((intercept + slope * x, height))
            gain = gain + slope * height
    average = left.probability * value_left + right.probability * value_right
    average = average + std * (slope_right * right.mean - slope_left * left.mean)
    for value, height in parts:
        average = average + height * value
    spread = torch.zeros_like(mean)
    outer = ((value_left, -slope_left, left), (value_right, slope_right, right))
    for value, outward, tail in outer:
        away, run = value - average, outward * std
        second = tail.variance + tail.mean.square()
        spread = spread + away.square() * tail.probability + 2 * away * run * tail.mean + run.square() * second
    for value, height in parts:
        spread = spread + height * (average - value).square()
    return average, spread.clamp(min=0), gain


def piecewise_linear_moments(
    mean: Number,
    std: Number,
    slope: Number,
    offset: Number,
    knots: tuple[float, ...],
    jumps: tuple[Number, ...],
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, variance and expected slope of f(x) = offset + slope x + sum_j jumps_j relu(x - knots_j), x Gaussian.

    The four last arguments are the fields of `PiecewiseLinear`, so `piecewise_linear_moments(mean, std, *RELU6)`
    works. The variance is never negative, and is accurate for means far outside the knots and for std far above and
    below their distances.

    Args:
        mean: means of x, any shape.
        std: standard deviations of x, zero or larger; broadcasts with mean.
        slope: slope left of every knot; a number, or a tensor that broadcasts with mean.
        offset: value of the leftmost line at zero; a number or tensor.
        knots: positions of the kinks, increasing.
        jumps: change of slope at each knot; numbers or tensors.

    Returns:
        Mean, variance and gain E[f'(x)], of the broadcast shape. Grade: exact.

    Raises:
        UsageError: a standard deviation is negative, or knots and jumps do not match.

    Example:
        >>> mean, variance, gain = piecewise_linear_moments(0.0, 1.0, *ABSOLUTE)
        >>> round(float(mean), 6), round(float(variance), 6), float(gain)
        (0.797885, 0.36338, 0.0)
    """
    mean, std = as_tensors(mean, std)
    require_deviation(std, "piecewise_linear_moments(std)")
    function = _checked(PiecewiseLinear(slope, offset, tuple(knots), tuple(jumps)))
    mean, std = broadcast(mean, std)
    if len(function.knots) < 2:
        return _closed(_anchor(function, mean, std), function, std)
    if mean.dtype != torch.float64:  # terms like std^2 cancel to a bounded variance: rounded once, at the end
        wider = PiecewiseLinear(*(_doubled(part) for part in function))
        found = piecewise_linear_moments(mean.double(), std.double(), *wider)
        average, variance, gain = (value.to(mean.dtype) for value in found)
        return average, variance, gain
    near = _anchor(function, mean, std)
    wide = std > _WIDE * (function.knots[-1] - function.knots[0])
    if not bool(wide.any()):
        return _closed(near, function, std)
    one, zero = torch.ones_like(std), torch.zeros_like(mean)
    closed = _closed(near, function, torch.where(wide, one, std))
    integrated = _integrated(function, torch.where(wide, mean, zero), torch.where(wide, std, one))
    average, variance, gain = (torch.where(wide, *pair) for pair in zip(integrated, closed, strict=True))
    return average, variance, gain


def piecewise_linear_covariance(
    mean1: Number,
    std1: Number,
    mean2: Number,
    std2: Number,
    rho: Number,
    function: PiecewiseLinear,
    second: PiecewiseLinear | None = None,
) -> Tensor:
    """Covariance of f(x) and h(y) for jointly Gaussian x, y and piecewise linear f, h.

    Absolute error about 1e-15 std1 std2 in float64, 1e-6 std1 std2 in float32; for bounded functions the relative
    error grows when std is far above the distances of the knots.

    Args:
        mean1: means of x, any shape.
        std1: standard deviations of x, zero or larger.
        mean2: means of y.
        std2: standard deviations of y, zero or larger.
        rho: correlations in [-1, 1]. All five broadcast.
        function: f.
        second: h; the same function when left out.

    Returns:
        Covariances, of the broadcast shape. Grade: exact.

    Raises:
        UsageError: a standard deviation is negative, a correlation is outside [-1, 1], or knots and jumps do not match.

    Example:
        >>> round(float(piecewise_linear_covariance(0.7, 1.3, -0.4, 0.8, 0.6, HARDTANH)), 9)
        0.221759404
    """
    mean1, std1, mean2, std2, rho = as_tensors(mean1, std1, mean2, std2, rho)
    require_deviation(std1, "piecewise_linear_covariance(std1)")
    require_deviation(std2, "piecewise_linear_covariance(std2)")
    require_correlation(rho, "piecewise_linear_covariance(rho)")
    function = _checked(function)
    other = function if second is None else _checked(second)
    one, two = _anchor(function, mean1, std1), _anchor(other, mean2, std2)
    total = rho * (one.slope * two.slope + one.slope * _bend(two, other) + two.slope * _bend(one, function))
    for j, jump1 in enumerate(function.jumps):
        for k, jump2 in enumerate(other.jumps):
            kernel = rectified_covariance(one.points[j], two.points[k], one.sides[j] * two.sides[k] * rho)
            total = total + jump1 * jump2 * kernel
    return std1 * std2 * total


def _doubled(part: Any) -> Any:
    if isinstance(part, tuple):
        return tuple(_doubled(item) for item in part)
    return part.double() if isinstance(part, Tensor) else part


def _checked(function: PiecewiseLinear) -> PiecewiseLinear:
    knots = function.knots
    if len(knots) != len(function.jumps) or any(later <= earlier for earlier, later in pairwise(knots)):
        raise UsageError(
            f"{len(knots)} knots {knots} with {len(function.jumps)} jumps do not describe a function.",
            where="PiecewiseLinear(knots, jumps)",
            advice="Give one jump for each knot, and knots in increasing order.",
        )
    return function
