"""The standard normal law: density, distribution, its logarithm, and the Mills ratio."""

from __future__ import annotations

import math

import torch
from torch import Tensor

ROOT_TWO_PI = math.sqrt(2 * math.pi)
FAR = 40.0
"""Standardised distance beyond which the density underflows in float64: clamping there changes no number."""


def density(x: Tensor) -> Tensor:
    """Standard normal density phi(x) = exp(-x^2/2) / sqrt(2 pi).

    Args:
        x: points, any shape.

    Returns:
        The density, same shape. Grade: exact (relative error about x^2/2 units of round-off).

    Example:
        >>> round(float(density(torch.tensor(0.0, dtype=torch.float64))), 15)
        0.398942280401433
    """
    return torch.exp(-0.5 * x.square()) / ROOT_TWO_PI


def distribution(x: Tensor) -> Tensor:
    """Standard normal distribution function Phi(x), relatively accurate in the lower tail.

    Args:
        x: points, any shape.

    Returns:
        The probability of a value below x, same shape. Grade: exact.

    Example:
        >>> float(distribution(torch.tensor(0.0)))
        0.5
    """
    # torch.special.ndtr computes (1 + erf) / 2, which is zero below -8.3 in float64
    return 0.5 * torch.special.erfc(x * -math.sqrt(0.5))


def log_distribution(x: Tensor) -> Tensor:
    """Logarithm of Phi(x), finite far below the point where Phi itself underflows.

    Args:
        x: points, any shape.

    Returns:
        log Phi(x), same shape. Grade: exact.

    Example:
        >>> round(float(log_distribution(torch.tensor(-100.0, dtype=torch.float64))), 4)
        -5005.5242
    """
    return torch.special.log_ndtr(x)


def mills_ratio(t: Tensor) -> Tensor:
    """Mills ratio R(t) = Phi(-t) / phi(t), by the scaled complementary error function.

    Args:
        t: points, any shape; R grows like exp(t^2/2) for negative t.

    Returns:
        The ratio, same shape. Grade: exact.

    Example:
        >>> round(float(mills_ratio(torch.tensor(0.0, dtype=torch.float64))), 12)
        1.253314137316
    """
    return math.sqrt(math.pi / 2) * torch.special.erfcx(t / math.sqrt(2))
