"""Kinks that a piecewise linear function makes of a Gaussian path: how many, how large, and what they add up to.

A path z(t) that crosses a level at which the slope of f jumps by c gives f(z(t)) a kink of size |c z'(t)|. With the
Kac-Rice formula for crossings, the sum of sizes per unit of t is |c| p(z = level) E[z'^2 | z = level]: the size meets
the |z'| of the formula and makes a square. For a stationary Gaussian path z and z' are independent at the same t.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from assay.errors import UsageError
from assay.gaussian.arguments import Number, as_tensors, broadcast, require_deviation
from assay.gaussian.normal import FAR, density, distribution
from assay.gaussian.piecewise import PiecewiseLinear
from assay.gaussian.quadrature import legendre
from assay.gaussian.rectified import standardise


class KinkLaw(NamedTuple):
    """What the kinks of one unit are on average, per unit of the path's parameter t.

    Attributes:
        rate: number of kinks.
        smp: sum of their sizes |J|, J the jump of the slope.
        energy: sum of J^2.
    """

    rate: Tensor
    smp: Tensor
    energy: Tensor


def threshold_kinks(
    mean: Number, std: Number, slope_std: Number, *, level: Number = 0.0, change: Number = 1.0
) -> KinkLaw:
    """Kinks of a function whose slope jumps by `change` at `level`, along a stationary Gaussian path z(t).

    With s = std, v = slope_std^2 and a = (mean - level) / s: rate = sqrt(v) exp(-a^2/2) / (pi s),
    smp = |change| v exp(-a^2/2) / (s sqrt(2 pi)), and sizes are Rayleigh distributed (`jump_distribution`).

    Args:
        mean: means of z, any shape.
        std: standard deviations of z, zero or larger; zero gives no kinks.
        slope_std: standard deviations of dz/dt.
        level: where the slope of the function jumps.
        change: by how much: 1 for relu, 1 - a for a leaky relu with slope a. All five broadcast.

    Returns:
        Rate, SMP and energy per unit of t, of the broadcast shape. Grade: exact for a stationary Gaussian path.

    Raises:
        UsageError: a standard deviation is negative.

    Example:
        >>> law = threshold_kinks(0.0, 1.0, 1.0)
        >>> round(float(law.rate), 6), round(float(law.smp), 6)
        (0.31831, 0.398942)
    """
    mean, std, slope_std, level, change = broadcast(*as_tensors(mean, std, slope_std, level, change))
    require_deviation(std, "threshold_kinks(std)")
    require_deviation(slope_std, "threshold_kinks(slope_std)")
    height = level_density(mean - level, std)
    size = change.abs() * slope_std
    return KinkLaw(
        height * slope_std * math.sqrt(2 / math.pi),
        height * size * slope_std,
        height * size.square() * slope_std * (2 * math.sqrt(2 / math.pi)),
    )


def level_density(gap: Tensor, std: Tensor) -> Tensor:
    """Density at 0 of a Gaussian with mean `gap`; 0 where its deviation is 0.

    Args:
        gap: means, any shape.
        std: standard deviations, zero or larger; of the same shape.

    Returns:
        Densities, in units of 1/std. Grade: exact.

    Example:
        >>> round(float(level_density(torch.zeros(()), torch.tensor(2.0))), 6)
        0.199471
    """
    spread = std > 0
    safe = torch.where(spread, std, torch.ones_like(std))
    return torch.where(spread, density(standardise(gap, std)) / safe, torch.zeros_like(std))


def piecewise_linear_kinks(mean: Number, std: Number, slope_std: Number, function: PiecewiseLinear) -> KinkLaw:
    """Kinks of any continuous piecewise linear function along a stationary Gaussian path: its knots add up.

    Args:
        mean: means of z, any shape.
        std: standard deviations of z, zero or larger.
        slope_std: standard deviations of dz/dt.
        function: knots and jumps of slope, such as `RELU6` or `leaky_relu(0.1)`.

    Returns:
        Rate, SMP and energy per unit of t. Grade: exact for a stationary Gaussian path.

    Raises:
        UsageError: a standard deviation is negative.

    Example:
        >>> from assay.gaussian import ABSOLUTE
        >>> round(float(piecewise_linear_kinks(0.0, 1.0, 1.0, ABSOLUTE).smp), 6)
        0.797885
    """
    mean, std, slope_std = as_tensors(mean, std, slope_std)
    none = torch.zeros(torch.broadcast_shapes(mean.shape, std.shape, slope_std.shape), dtype=mean.dtype)
    total = KinkLaw(none, none, none)
    for knot, jump in zip(function.knots, function.jumps, strict=True):
        law = threshold_kinks(mean, std, slope_std, level=knot, change=jump)
        total = KinkLaw(*(sum_ + part for sum_, part in zip(total, law, strict=True)))
    return total


def moving_threshold_kinks(
    mean: Number,
    std: Number,
    mean_slope: Number,
    slope_std: Number,
    covariance: Number,
    *,
    level: Number = 0.0,
    change: Number = 1.0,
) -> KinkLaw:
    """Density of kinks at one t of a Gaussian path that need not be stationary.

    With M = mean_slope + covariance (level - mean) / std^2 and V = slope_std^2 - covariance^2 / std^2, the mean and
    variance of dz/dt where z = level: smp = |change| p(z = level) (M^2 + V).

    Args:
        mean: mean of z(t), any shape.
        std: standard deviation of z(t).
        mean_slope: its derivative, the mean of dz/dt.
        slope_std: standard deviation of dz/dt.
        covariance: Cov(z, dz/dt) at this t.
        level: where the slope of the function jumps.
        change: by how much. All seven broadcast.

    Returns:
        Rate, SMP and energy per unit of t; integrate over t for a path. Grade: exact for a Gaussian path.

    Raises:
        UsageError: a standard deviation is negative, or the covariance is larger than both allow.

    Example:
        >>> law = moving_threshold_kinks(0.0, 1.0, 3.0, 1.0, 0.0)  # a trend: crossings upwards
        >>> round(float(law.smp), 6)  # 10 phi(0)
        3.989423
    """
    values = broadcast(*as_tensors(mean, std, mean_slope, slope_std, covariance, level, change))
    mean, std, mean_slope, slope_std, covariance, level, change = values
    require_deviation(std, "moving_threshold_kinks(std)")
    require_deviation(slope_std, "moving_threshold_kinks(slope_std)")
    if bool((covariance.abs() > std * slope_std * (1 + 1e-9)).any()):
        raise UsageError(
            "The covariance of value and slope is larger than their standard deviations allow.",
            where="moving_threshold_kinks(covariance)",
            advice="Pass Cov(z, z'), at most std * slope_std in magnitude.",
        )
    spread = std > 0
    variance = torch.where(spread, std.square(), torch.ones_like(std))
    centre = mean_slope + torch.where(spread, covariance * (level - mean) / variance, torch.zeros_like(std))
    rest = (slope_std.square() - torch.where(spread, covariance.square() / variance, torch.zeros_like(std))).clamp(
        min=0
    )
    height, size = level_density(mean - level, std), change.abs()
    first, third = _absolute_moments(centre, rest.sqrt())
    return KinkLaw(height * first, size * height * (centre.square() + rest), size.square() * height * third)


def _absolute_moments(mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    """E|x| and E|x|^3 of a Gaussian."""
    a = standardise(mean, std)
    bell, balance = density(a), 1 - 2 * distribution(-a)
    first = 2 * std * bell + mean * balance
    third = (mean.square() + 3 * std.square()) * mean * balance + 2 * std * (mean.square() + 2 * std.square()) * bell
    return first, third


def folded_mean(mean: Number, std: Number) -> Tensor:
    """E|x| of a Gaussian x: the mean of the folded normal law.

    Args:
        mean: means, any shape.
        std: standard deviations, zero or larger; broadcasts.

    Returns:
        Means of |x|. Grade: exact.

    Raises:
        UsageError: a standard deviation is negative.

    Example:
        >>> round(float(folded_mean(0.0, 1.0)), 6), float(folded_mean(-3.0, 0.0))
        (0.797885, 3.0)
    """
    mean, std = broadcast(*as_tensors(mean, std))
    require_deviation(std, "folded_mean(std)")
    return _absolute_moments(mean, std)[0]


def jump_distribution(size: Number, slope_std: Number, *, change: Number = 1.0) -> Tensor:
    """P(|J| <= size) of one kink along a stationary Gaussian path: Rayleigh with scale |change| slope_std.

    Args:
        size: sizes, any shape.
        slope_std: standard deviations of dz/dt, larger than zero.
        change: jump of the function's slope. All three broadcast.

    Returns:
        Probabilities. Grade: exact for a stationary Gaussian path.

    Raises:
        UsageError: the scale is not positive.

    Example:
        >>> round(float(jump_distribution(1.0, 1.0)), 6)
        0.393469
    """
    size, slope_std, change = broadcast(*as_tensors(size, slope_std, change))
    scale = change.abs() * slope_std
    if not bool((scale > 0).all()):
        raise UsageError(
            "Sizes of kinks have no distribution where there are none.",
            where="jump_distribution(slope_std, change)",
            advice="Pass slope_std > 0 and a change other than 0.",
        )
    return -torch.expm1(-0.5 * (size.clamp(min=0) / scale).square())


def inherited_smp(smp: Number, mean: Number, std: Number, function: PiecewiseLinear) -> Tensor:
    """SMP that passes through a piecewise linear function from kinks its input already has.

    A kink is multiplied by the slope of the piece that z is on when it comes, so the expectation is
    smp * sum over pieces of |slope| P(z on the piece), where kinks come independently of that.

    Args:
        smp: SMP of the input, any shape.
        mean: means of the Gaussian input z.
        std: standard deviations of z, zero or larger. All three broadcast.
        function: knots and jumps of slope.

    Returns:
        SMP passed on. Grade: closed_form (kinks independent of the level).

    Raises:
        UsageError: a standard deviation is negative.

    Example:
        >>> from assay.gaussian import leaky_relu
        >>> float(inherited_smp(2.0, 0.0, 1.0, leaky_relu(0.5)))
        1.5
    """
    smp, mean, std = broadcast(*as_tensors(smp, mean, std))
    require_deviation(std, "inherited_smp(std)")
    below = torch.zeros_like(mean)
    total = torch.zeros_like(mean)
    for count in range(len(function.knots) + 1):
        last = count == len(function.knots)
        reach = torch.ones_like(mean) if last else distribution(standardise(function.knots[count] - mean, std))
        slope = torch.as_tensor(function.line(count)[0], dtype=mean.dtype)
        total, below = total + slope.abs() * (reach - below), reach
    return smp * total


def inherited_maximum_smp(smp: Tensor, winning: Tensor) -> Tensor:
    """SMP that a maximum passes on: kinks of the branch that is largest when they come.

    Args:
        smp: (..., k) SMP of the branches.
        winning: (..., k) probabilities of being the largest.

    Returns:
        (...). Grade: closed_form (kinks independent of the order).

    Example:
        >>> float(inherited_maximum_smp(torch.tensor([1.0, 3.0]), torch.tensor([0.5, 0.5])))
        2.0
    """
    return (smp * winning).sum(-1)


def added_smp(weight: Tensor, smp: Tensor) -> Tensor:
    """sum_i |w_i| SMP_i: the SMP of weighted sums of units.

    Exact while no two units have a kink at the same t, as for the first layer after a non-linearity. Where units share
    upstream kinks their jumps add with sign, and this is an upper bound, larger by factors that grow with depth.
    A batch norm is the case of one weight, an average pool of equal ones.

    Args:
        weight: (m, n).
        smp: (..., n) of the units.

    Returns:
        (..., m). Grade: exact for distinct sources, a bound otherwise.

    Example:
        >>> added_smp(torch.tensor([[1.0, -2.0]]), torch.tensor([3.0, 0.5])).tolist()
        [4.0]
    """
    return smp @ weight.abs().T


@lru_cache(maxsize=256)
def largest_of_normals(count: int, *, rectified: bool = False) -> float:
    """M_k = E max of k independent standard normals, or E max(0, them): integrals of 1 - Phi^k, by quadrature.

    Args:
        count: k, at least 1.
        rectified: with a zero among them.

    Returns:
        The expectation, to 1e-13.

    Raises:
        UsageError: count is below 1.

    Example:
        >>> round(largest_of_normals(2), 6), round(largest_of_normals(4, rectified=True), 6)
        (0.56419, 1.045756)
    """
    if count < 1:
        raise UsageError(f"The largest of {count} numbers.", where="largest_of_normals(count)", advice="Use 1 or more.")
    total = 0.0
    for panel in range(int(FAR) // 2):
        for node, weight in legendre(24):
            x = torch.tensor(panel + node, dtype=torch.float64)
            upper = -math.expm1(count * float(torch.special.log_ndtr(x)))
            lower = 0.0 if rectified else float(distribution(-x)) ** count
            total += weight * (upper - lower)
    return total


def equal_maximum_smp(
    count: int, std: Number, slope_std: Number, *, correlation: Number = 0.0, rectified: bool = False
) -> Tensor:
    """New SMP of the maximum of k equal zero-mean Gaussian paths, or of that and zero (ReLU and max pool).

    slope_std^2 / std * M_k * sqrt(1 - correlation), for equicorrelated paths of one temporal covariance.

    Args:
        count: k, at least 1.
        std: standard deviation of each path, larger than zero.
        slope_std: standard deviation of its derivative.
        correlation: of every two of them at the same t, in [0, 1].
        rectified: with a zero among them; needs correlation 0 (`maximum_kinks` does the rest).

    Returns:
        SMP per unit of t. Grade: exact for stationary Gaussian paths.

    Raises:
        UsageError: an argument is out of range.

    Example:
        >>> round(float(equal_maximum_smp(4, 1.0, 1.0, correlation=0.6)), 6)
        0.651034
    """
    std, slope_std, correlation = broadcast(*as_tensors(std, slope_std, correlation))
    require_deviation(slope_std, "equal_maximum_smp(slope_std)")
    if not bool(((std > 0) & (correlation >= 0) & (correlation <= 1)).all()):
        raise UsageError(
            "Equal paths need a positive deviation and a correlation between 0 and 1.",
            where="equal_maximum_smp(std, correlation)",
            advice="Use maximum_kinks for other covariances.",
        )
    if rectified and bool((correlation != 0).any()):
        raise UsageError(
            "A rectified maximum of correlated paths has no one-line form.",
            where="equal_maximum_smp(rectified, correlation)",
            advice="Use maximum_kinks(mean, covariance, slope_covariance, floor=0.0).",
        )
    return slope_std.square() / std * largest_of_normals(count, rectified=rectified) * (1 - correlation).sqrt()
