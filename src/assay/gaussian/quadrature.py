"""Gauss rules, and moments of any element-by-element function of a Gaussian by Gauss-Hermite quadrature."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from assay.errors import UsageError
from assay.gaussian.arguments import Number, as_tensors, broadcast, require_deviation
from assay.gaussian.normal import density
from assay.gaussian.rectified import standardise

_REACH = 9.0
"""Standard deviations integrated over on each side when kinks cut the line; 2e-19 of the probability lies beyond."""


@lru_cache(maxsize=64)
def legendre(count: int) -> tuple[tuple[float, float], ...]:
    """Gauss-Legendre rule on [0, 1].

    Args:
        count: number of nodes.

    Returns:
        Pairs (node, weight); weights sum to 1.

    Example:
        >>> legendre(1)
        ((0.5, 1.0),)
    """
    nodes, weights = np.polynomial.legendre.leggauss(count)
    return tuple(zip(((1 + nodes) / 2).tolist(), (weights / 2).tolist(), strict=True))


@lru_cache(maxsize=64)
def hermite(count: int) -> tuple[tuple[float, float], ...]:
    """Gauss-Hermite rule for the standard normal law.

    Args:
        count: number of nodes, at most 300 (beyond that the outer weights underflow).

    Returns:
        Pairs (node, weight); weights sum to 1. Nodes of weight zero are left out.

    Raises:
        UsageError: count is not between 1 and 300.

    Example:
        >>> hermite(2)
        ((-1.0, 0.5), (1.0, 0.5))
    """
    if not 1 <= count <= 300:
        raise UsageError(f"{count} quadrature nodes were asked for.", where="nodes", advice="Use 1 to 300 nodes.")
    nodes, weights = np.polynomial.hermite_e.hermegauss(count)
    nodes, weights = (nodes - nodes[::-1]) / 2, (weights + weights[::-1]) / 2
    weights = weights / weights.sum()
    return tuple((node, weight) for node, weight in zip(nodes.tolist(), weights.tolist(), strict=True) if weight > 0)


def elementwise_moments(
    function: Callable[[Tensor], Tensor],
    mean: Number,
    std: Number,
    nodes: int = 64,
    kinks: tuple[float, ...] = (),
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, variance and expected slope of f(x) for Gaussian x and any element-by-element f.

    Nodes are visited one at a time, so memory is a few tensors of the broadcast shape (reverse-mode differentiation
    through the result does store every node). The variance is a running weighted sum of squared deviations (West
    1979), so it is never negative. The gain is E[f(mean + std z) z] / std (Stein 1981); where std is too small for
    that difference it is the average slope over a three-node rule, which at std = 0 is f'(mean).

    Args:
        function: maps a tensor to a tensor of the same shape, element by element, without hidden state.
        mean: means of x, any shape.
        std: standard deviations of x, zero or larger; broadcasts with mean.
        nodes: number of quadrature nodes; the error for smooth f falls geometrically, for f with kinks like 1/nodes.
        kinks: points, increasing, where f or a derivative of f jumps (0 for ELU). The integral is then cut there and
            each piece gets its own Gauss-Legendre rule with this many nodes, which restores the fast convergence.

    Returns:
        Mean, variance and gain E[f'(x)], of the broadcast shape. Grade: closed_form up to quadrature error.

    Raises:
        UsageError: a standard deviation is negative, nodes is out of range, or f changes the shape.

    Example:
        >>> mean, variance, gain = elementwise_moments(torch.square, 1.0, 2.0)
        >>> round(float(mean), 9), round(float(variance), 9), round(float(gain), 9)
        (5.0, 48.0, 2.0)
    """
    mean, std = as_tensors(mean, std)
    require_deviation(std, "elementwise_moments(std)")
    mean, std = broadcast(mean, std)
    # Differences of f across std carry a rounding error eps/std; below this width slopes are the better source.
    narrow = std <= torch.finfo(std.dtype).eps ** (1 / 3) * mean.abs().clamp(min=1)
    total, average, spread, tilt = (torch.zeros_like(mean) for _ in range(4))
    for node, weight in _cut(mean, std, nodes, kinks) if kinks else hermite(nodes):
        value = function(mean + std * node)
        if value.shape != mean.shape:
            raise UsageError(
                f"The function turned shape {tuple(mean.shape)} into {tuple(value.shape)}.",
                where="elementwise_moments(function)",
                advice="Pass a function that acts on each element by itself.",
            )
        total = total + weight
        deviation = value - average
        average = average + deviation * (weight / total.clamp(min=torch.finfo(std.dtype).tiny))
        spread = spread + weight * deviation * (value - average)
        tilt = tilt + (weight * node) * value
    gain = tilt / torch.where(narrow, torch.ones_like(std), std)
    if bool(narrow.any()):
        gain = torch.where(narrow, average_slope(function, mean, std), gain)
    return average, spread, gain


def _cut(mean: Tensor, std: Tensor, nodes: int, kinks: tuple[float, ...]) -> Iterator[tuple[Tensor, Tensor]]:
    """Standardised nodes and weights of one Gauss-Legendre rule on each side of every kink."""
    ends = [torch.full_like(mean, sign * _REACH) for sign in (-1, 1)]
    inner = [standardise(kink - mean, std).clamp(-_REACH, _REACH) for kink in kinks]
    for low, high in pairwise([ends[0], *inner, ends[1]]):
        width = high - low
        for node, weight in legendre(nodes):
            point = low + width * node
            yield point, weight * width * density(point)


def average_slope(function: Callable[[Tensor], Tensor], mean: Tensor, std: Tensor) -> Tensor:
    """E[f'(x)] by a three-node rule: for noise so small that differences of f across it would drown in rounding."""
    slope = torch.zeros_like(mean)
    for node, weight in ((-math.sqrt(3), 1 / 6), (0.0, 2 / 3), (math.sqrt(3), 1 / 6)):
        point = mean + std * node
        slope = slope + weight * torch.func.jvp(function, (point,), (torch.ones_like(point),))[1]
    return slope
