"""GELU of a Gaussian, x Phi(x): mean, variance, expected slope and the covariance of pairs, all in closed form."""

from __future__ import annotations

from torch import Tensor

from assay.gaussian.arguments import Number, as_tensors, broadcast, require_correlation, require_deviation
from assay.gaussian.normal import FAR, density, distribution
from assay.gaussian.price import gelu_curvature, price_covariance


def gelu_gain(mean: Number, std: Number) -> Tensor:
    """Expected slope of GELU: Phi(h) + h phi(h) / S^2 with S^2 = 1 + std^2, h = mean / S.

    Args:
        mean: means, any shape.
        std: standard deviations, zero or larger; broadcasts with mean.

    Returns:
        E[f'(x)], of the broadcast shape. Grade: exact.

    Example:
        >>> float(gelu_gain(0.0, 1.0))
        0.5
    """
    mean, std = as_tensors(mean, std)
    spread = 1 + std.square()
    h = (mean / spread.sqrt()).clamp(-FAR, FAR)
    return distribution(h) + h * density(h) / spread


def gelu_moments(mean: Number, std: Number) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, variance and expected slope of x Phi(x) for Gaussian x.

    With S^2 = 1 + std^2 and h = mean/S the mean is mean Phi(h) + std^2 phi(h) / S, carried to positive means by
    f(x) = x + f(-x); the variance is gain^2 std^2 plus the integral of `price_covariance`, a sum of positive terms.

    Args:
        mean: means of x, any shape.
        std: standard deviations of x, zero or larger; broadcasts with mean.

    Returns:
        Mean, variance and gain E[f'(x)], of the broadcast shape. Grade: exact, relative error of the variance below
        1e-12 for std up to 10.

    Raises:
        UsageError: a standard deviation is negative.

    Example:
        >>> mean, variance, gain = gelu_moments(0.7, 1.3)
        >>> round(float(mean), 9), round(float(variance), 9)
        (0.840954699, 1.025454142)
    """
    mean, std = as_tensors(mean, std)
    require_deviation(std, "gelu_moments(std)")
    mean, std = broadcast(mean, std)
    square = std.square()
    root = (1 + square).sqrt()
    below = -mean.abs()
    h = (below / root).clamp(-FAR, FAR)
    tail = below * distribution(h) + square / root * density(h)
    gain = gelu_gain(mean, std)
    left = price_covariance(gelu_curvature, mean, square, mean, square, square).clamp(min=0)
    return mean.clamp(min=0) + tail, gain.square() * square + left, gain


def gelu_covariance(mean1: Number, std1: Number, mean2: Number, std2: Number, rho: Number) -> Tensor:
    """Covariance of GELU(x) and GELU(y) for jointly Gaussian x and y.

    Args:
        mean1: means of x, any shape.
        std1: standard deviations of x, zero or larger.
        mean2: means of y.
        std2: standard deviations of y, zero or larger.
        rho: correlations in [-1, 1]. All five broadcast.

    Returns:
        Covariances, of the broadcast shape. Grade: exact.

    Raises:
        UsageError: a standard deviation is negative, or a correlation is outside [-1, 1].

    Example:
        >>> round(float(gelu_covariance(0.7, 1.3, -0.4, 0.8, 0.6)), 9)
        0.162873357
    """
    mean1, std1, mean2, std2, rho = as_tensors(mean1, std1, mean2, std2, rho)
    require_deviation(std1, "gelu_covariance(std1)")
    require_deviation(std2, "gelu_covariance(std2)")
    require_correlation(rho, "gelu_covariance(rho)")
    covariance = rho * std1 * std2
    left = price_covariance(gelu_curvature, mean1, std1.square(), mean2, std2.square(), covariance)
    return covariance * gelu_gain(mean1, std1) * gelu_gain(mean2, std2) + left


def gelu_left(mean1: Tensor, std1: Tensor, mean2: Tensor, std2: Tensor, covariance: Tensor) -> Tensor:
    """Cov(GELU(x), GELU(y)) beyond the first order: what the expected slopes leave.

    Returns:
        Covariances of the inputs' shape.

    Example:
        >>> import torch
        >>> zero, one = torch.zeros(1), torch.ones(1)
        >>> gelu_left(zero, one, zero, one, zero)
        tensor([0.])
    """
    return price_covariance(gelu_curvature, mean1, std1.square(), mean2, std2.square(), covariance)
