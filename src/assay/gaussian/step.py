"""Steps of a Gaussian, hard and soft: Heaviside and sign, the normal distribution function, erf."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from assay.gaussian.arguments import Number, as_tensors, broadcast, require_correlation, require_deviation
from assay.gaussian.bivariate import bivariate_normal_cdf
from assay.gaussian.normal import FAR, density, distribution
from assay.gaussian.price import price_covariance, probit_curvature
from assay.gaussian.rectified import standardise


def heaviside_moments(mean: Number, std: Number) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, variance and expected slope of the step 1[x > 0]; sign(x) is 2 * step - 1.

    Args:
        mean: means of x, any shape.
        std: standard deviations of x, zero or larger; broadcasts with mean.

    Returns:
        Phi(a), Phi(a) Phi(-a) and phi(a) / std with a = mean/std, of the broadcast shape. Where std is zero: the step
        (1/2 at zero), 0 and 0. Grade: exact.

    Raises:
        UsageError: a standard deviation is negative.

    Example:
        >>> [round(float(value), 9) for value in heaviside_moments(0.7, 1.3)]
        [0.704870774, 0.208027966, 0.265464751]
    """
    mean, std = as_tensors(mean, std)
    require_deviation(std, "heaviside_moments(std)")
    mean, std = broadcast(mean, std)
    positive = std > 0
    a = standardise(mean, std)
    probability = distribution(a)
    spread = torch.where(positive, probability * distribution(-a), torch.zeros_like(a))
    slope = torch.where(positive, density(a), torch.zeros_like(a)) / torch.where(positive, std, torch.ones_like(std))
    return probability, spread, slope


def heaviside_covariance(mean1: Number, std1: Number, mean2: Number, std2: Number, rho: Number) -> Tensor:
    """Covariance of 1[x > 0] and 1[y > 0] for jointly Gaussian x and y: Phi2(a, b; rho) - Phi(a) Phi(b).

    Args:
        mean1: means of x, any shape.
        std1: standard deviations of x, zero or larger.
        mean2: means of y.
        std2: standard deviations of y, zero or larger.
        rho: correlations in [-1, 1]. All five broadcast.

    Returns:
        Covariances, of the broadcast shape; absolute error 1e-15. Grade: exact.

    Raises:
        UsageError: a standard deviation is negative, or a correlation is outside [-1, 1].

    Example:
        >>> round(float(heaviside_covariance(0.0, 1.0, 0.0, 1.0, 0.5)), 9)
        0.083333333
    """
    mean1, std1, mean2, std2, rho = as_tensors(mean1, std1, mean2, std2, rho)
    require_deviation(std1, "heaviside_covariance(std1)")
    require_deviation(std2, "heaviside_covariance(std2)")
    require_correlation(rho, "heaviside_covariance(rho)")
    a, b = standardise(mean1, std1), standardise(mean2, std2)
    found = bivariate_normal_cdf(a, b, rho) - distribution(a) * distribution(b)
    return torch.where((std1 > 0) & (std2 > 0), found, torch.zeros_like(found))


def probit_moments(mean: Number, std: Number, steepness: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, variance and expected slope of Phi(steepness x) for Gaussian x; erf(x) is 2 Phi(sqrt(2) x) - 1.

    Args:
        mean: means of x, any shape.
        std: standard deviations of x, zero or larger; broadcasts with mean.
        steepness: factor of x, above zero.

    Returns:
        Mean, variance and gain, of the broadcast shape. Grade: exact.

    Raises:
        UsageError: a standard deviation is negative.

    Example:
        >>> mean, variance, gain = probit_moments(0.7, 1.3)
        >>> round(float(mean), 9), round(float(variance), 9)
        (0.665236598, 0.094007033)
    """
    mean, std = as_tensors(mean, std)
    require_deviation(std, "probit_moments(std)")
    mean, square = broadcast(steepness * mean, (steepness * std).square())
    root = (1 + square).sqrt()
    h = (mean / root).clamp(-FAR, FAR)
    gain = density(h) / root
    left = price_covariance(probit_curvature, mean, square, mean, square, square).clamp(min=0)
    return distribution(h), gain.square() * square + left, steepness * gain


def probit_left(
    mean1: Tensor, std1: Tensor, mean2: Tensor, std2: Tensor, covariance: Tensor, steepness: float
) -> Tensor:
    """Cov(Phi(steepness x), Phi(steepness y)) beyond the first order: what the expected slopes leave.

    Returns:
        Covariances of the inputs' shape.

    Example:
        >>> zero, one = torch.zeros(1), torch.ones(1)
        >>> probit_left(zero, one, zero, one, zero, 1.0)
        tensor([0.])
    """
    square = steepness**2
    return price_covariance(
        probit_curvature,
        steepness * mean1,
        square * std1.square(),
        steepness * mean2,
        square * std2.square(),
        square * covariance,
    )


def probit_covariance(
    mean1: Number, std1: Number, mean2: Number, std2: Number, rho: Number, steepness: float = 1.0
) -> Tensor:
    """Covariance of Phi(steepness x) and Phi(steepness y) for jointly Gaussian x and y.

    Args:
        mean1: means of x, any shape.
        std1: standard deviations of x, zero or larger.
        mean2: means of y.
        std2: standard deviations of y, zero or larger.
        rho: correlations in [-1, 1]. All five broadcast.
        steepness: factor of x and y, above zero.

    Returns:
        Covariances, of the broadcast shape. Grade: exact.

    Raises:
        UsageError: a standard deviation is negative, or a correlation is outside [-1, 1].

    Example:
        >>> round(float(probit_covariance(0.7, 1.3, -0.4, 0.8, 0.6)), 9)
        0.0407046
    """
    mean1, std1, mean2, std2, rho = as_tensors(mean1, std1, mean2, std2, rho)
    require_deviation(std1, "probit_covariance(std1)")
    require_deviation(std2, "probit_covariance(std2)")
    require_correlation(rho, "probit_covariance(rho)")
    roots = [(1 + (steepness * std).square()).sqrt() for std in (std1, std2)]
    slopes = [
        steepness * density((steepness * mean / root).clamp(-FAR, FAR)) / root
        for mean, root in zip((mean1, mean2), roots, strict=True)
    ]
    covariance = rho * std1 * std2
    return covariance * slopes[0] * slopes[1] + probit_left(mean1, std1, mean2, std2, covariance, steepness)


ERF_STEEPNESS = math.sqrt(2)
"""erf(x) = 2 Phi(sqrt(2) x) - 1."""
