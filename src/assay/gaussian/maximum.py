"""The larger of two jointly Gaussian variables (Clark 1961), in a form that no padding value can break."""

from __future__ import annotations

import torch
from torch import Tensor

from assay.gaussian.arguments import Number, as_tensors, require_deviation
from assay.gaussian.blocks import followed, in_blocks
from assay.gaussian.rectified import RectifiedStatistics, distance, lower_tail, rectified, standardise, where_uncertain


def maximum_moments(
    mean1: Number, std1: Number, mean2: Number, std2: Number, covariance: Number
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and variance of max(x, y) for jointly Gaussian x and y, and the share of x.

    With D = x - y, s = std(D) and al = (mean1 - mean2)/s: mean = max(mean1, mean2) + s g(-|al|) and
    variance = std1^2 Phi(al) + std2^2 Phi(-al) - s^2 (Phi(al) - v(al)), where Phi - v is an even function. Then
    Cov(z, max) = Cov(z, x) weight + Cov(z, y) (1 - weight) for any z jointly Gaussian with them. Source: Clark 1961,
    rearranged so that every term stays bounded for means as far apart as -1e30.

    Args:
        mean1: means of x, any shape.
        std1: standard deviations of x, zero or larger.
        mean2: means of y.
        std2: standard deviations of y, zero or larger.
        covariance: covariances of x and y. All five broadcast. A value beyond std1*std2 is read as a variance of D
            of zero.

    Returns:
        Mean, variance and weight = Phi(al), the probability that x is the larger, of the broadcast shape. At an exact
        tie of constants the weight is 1/2. Grade: exact.

    Raises:
        UsageError: a standard deviation is negative.

    Example:
        >>> mean, variance, weight = maximum_moments(1.0, 1.0, 0.5, 2.0, 0.6)
        >>> round(float(mean), 9), round(float(variance), 9), round(float(weight), 9)
        (1.553123974, 1.613845321, 0.601215521)
    """
    mean1, std1, mean2, std2, covariance = as_tensors(mean1, std1, mean2, std2, covariance)
    require_deviation(std1, "maximum_moments(std1)")
    require_deviation(std2, "maximum_moments(std2)")
    variance1, variance2 = std1.square(), std2.square()
    mean, weight, behind, square = _larger(mean1, mean2, variance1 + variance2 - 2 * covariance)
    other = torch.where(weight > 0.5, behind.probability, 1 - behind.probability)  # 1 - weight would round a tail away
    variance = variance1 * weight + variance2 * other - square * (behind.probability - behind.variance)
    return mean, variance.clamp(min=0), weight


def _larger(mean1: Tensor, mean2: Tensor, square: Tensor) -> tuple[Tensor, Tensor, RectifiedStatistics, Tensor]:
    """From the variance of x - y: mean of the larger, weight of x, statistics of relu(-|al| + z), cleaned variance."""
    spread = square > 0
    square = torch.where(spread, square, torch.zeros_like(square))
    std = torch.where(spread, torch.where(spread, square, torch.ones_like(square)).sqrt(), square)
    advantage = standardise(mean1 - mean2, std)
    first = advantage > 0
    behind = rectified(torch.where(first, -advantage, advantage))
    mean = torch.where(first, mean1, mean2) + std * behind.mean
    return mean, torch.where(first, 1 - behind.probability, behind.probability), behind, square


def smoothed_maximum(
    mean1: Tensor, mean2: Tensor, variance1: Tensor, variance2: Tensor, covariance: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean of max(x, y), the weight of x, and the variance that the weighted sum of x and y leaves unexplained.

    Args:
        mean1: means of x, any shape.
        mean2: means of y.
        variance1: variances of x, zero or larger.
        variance2: variances of y.
        covariance: covariances of x and y. All five of one shape.

    Returns:
        E max, P(x > y) and Var relu(x - y) - P^2 Var(x - y): all of that shape. Grade: exact.

    Example:
        >>> zero, one = torch.zeros(1), torch.ones(1)
        >>> value, weight, rest = smoothed_maximum(zero, zero, one, one, zero)
        >>> [round(float(part), 4) for part in (value, weight, rest)]
        [0.5642, 0.5, 0.1817]
    """
    inputs = (mean1, mean2, variance1, variance2, covariance)
    if followed(*inputs):
        return _smoothed_maximum(*inputs)
    return in_blocks(_maximum_values, *inputs)  # type: ignore[return-value]


def _maximum_values(
    mean1: Tensor, mean2: Tensor, variance1: Tensor, variance2: Tensor, covariance: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    square = (variance1 + variance2).sub_(covariance, alpha=2).clamp_(min=0)
    std, gap = square.sqrt(), mean1 - mean2
    largest = torch.maximum(mean1, mean2)
    certain = largest.clone(), (gap > 0).to(gap), torch.zeros_like(gap)
    return where_uncertain(_uncertain_maximum, certain, gap, std, largest)  # type: ignore[return-value]


def _uncertain_maximum(gap: Tensor, std: Tensor, largest: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    probability, first, variance = lower_tail(distance(gap, std))
    weight = torch.where(gap > 0, 1 - probability, probability)
    rest = (variance - probability.square()).clamp_(min=0).mul_(std).mul_(std)
    return torch.addcmul(largest, std, first), weight, rest


def _smoothed_maximum(
    mean1: Tensor, mean2: Tensor, variance1: Tensor, variance2: Tensor, covariance: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    mean, weight, behind, square = _larger(mean1, mean2, variance1 + variance2 - 2 * covariance)
    # Var relu(a + z) - Phi(a)^2 is an even function of a
    return mean, weight, square * (behind.variance - behind.probability.square()).clamp(min=0)
