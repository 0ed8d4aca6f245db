"""Exponential, sine and cosine of a Gaussian: moments and covariances of pairs from its characteristic function."""

from __future__ import annotations

import torch
from torch import Tensor

from assay.gaussian.arguments import Number, as_tensors, broadcast, require_deviation


def exponential_moments(mean: Number, std: Number) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, variance and expected slope of exp(x) for Gaussian x: the log-normal law.

    Args:
        mean: means of x, any shape.
        std: standard deviations of x, zero or larger; broadcasts with mean.

    Returns:
        E = exp(mean + std^2/2), E^2 (exp(std^2) - 1) and E, of the broadcast shape; infinite where they overflow.
        Grade: exact.

    Raises:
        UsageError: a standard deviation is negative.

    Example:
        >>> [round(float(value), 6) for value in exponential_moments(0.0, 1.0)]
        [1.648721, 4.670774, 1.648721]
    """
    mean, std = as_tensors(mean, std)
    require_deviation(std, "exponential_moments(std)")
    mean, std = broadcast(mean, std)
    average = torch.exp(mean + 0.5 * std.square())
    return average, average.square() * torch.expm1(std.square()), average


def exponential_left(mean1: Tensor, std1: Tensor, mean2: Tensor, std2: Tensor, covariance: Tensor) -> Tensor:
    """Cov(exp x, exp y) beyond the first order: E E (exp(c) - 1 - c).

    Returns:
        Covariances of the inputs' shape.

    Example:
        >>> zero, one = torch.zeros(1), torch.ones(1)
        >>> exponential_left(zero, one, zero, one, torch.tensor([0.5]))  # e (e^0.5 - 1.5)
        tensor([0.4043])
    """
    average = torch.exp(mean1 + 0.5 * std1.square()) * torch.exp(mean2 + 0.5 * std2.square())
    return average * (torch.expm1(covariance) - covariance)


def sine_moments(mean: Number, std: Number) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, variance and expected slope of sin(x) for Gaussian x; cos(x) is sin(x + pi/2).

    Args:
        mean: means of x, any shape.
        std: standard deviations of x, zero or larger; broadcasts with mean.

    Returns:
        exp(-std^2/2) sin(mean), the variance, and exp(-std^2/2) cos(mean), of the broadcast shape. Grade: exact.

    Raises:
        UsageError: a standard deviation is negative.

    Example:
        >>> [round(float(value), 6) for value in sine_moments(0.0, 1.0)]
        [0.0, 0.432332, 0.606531]
    """
    mean, std = as_tensors(mean, std)
    require_deviation(std, "sine_moments(std)")
    mean, std = broadcast(mean, std)
    square = std.square()
    damping = torch.exp(-0.5 * square)
    slope = damping * torch.cos(mean)
    left = sine_left(mean, std, mean, std, square).clamp(min=0)
    return damping * torch.sin(mean), slope.square() * square + left, slope


def sine_left(mean1: Tensor, std1: Tensor, mean2: Tensor, std2: Tensor, covariance: Tensor) -> Tensor:
    """Cov(sin x, sin y) beyond the first order.

    exp(-(s1^2 + s2^2)/2) [cos(m1 - m2)(e^c - 1 - c) - cos(m1 + m2)(e^-c - 1 + c)] / 2, with the exponentials taken
    together so that wide noise does not overflow.

    Returns:
        Covariances, of the broadcast shape.

    Example:
        >>> zero, one = torch.zeros(1), torch.ones(1)
        >>> sine_left(zero, one, zero, one, zero)
        tensor([0.])
    """
    half = 0.5 * (std1.square() + std2.square())

    def grown(c: Tensor) -> Tensor:
        large = c.abs() > 1
        small = torch.where(large, torch.zeros_like(c), c)
        near = torch.exp(-half) * (torch.expm1(small) - small)
        far = torch.exp(torch.where(large, c, torch.zeros_like(c)) - half) - torch.exp(-half) * (1 + c)
        return torch.where(large, far, near)

    return 0.5 * (torch.cos(mean1 - mean2) * grown(covariance) - torch.cos(mean1 + mean2) * grown(-covariance))
