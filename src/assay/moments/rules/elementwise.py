"""One Gaussian input, one function of it: what the rules of activations share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from assay.gaussian import (
    PiecewiseLinear,
    distribution,
    hermite_coefficients,
    hermite_covariance,
    hinge_coefficients,
    rectified_covariance,
    smooth_moments,
    standardise,
)
from assay.interpret import Gains
from assay.moments.smoothed import Blocks, Kernel, Operands, Smoothed


def alone(varying: frozenset[int]) -> bool:
    """Whether the first input, and no other, varies."""
    return varying == {0}


def flat(*values: Tensor, like: Tensor) -> tuple[Tensor, ...]:
    """Each (B, ...) tensor as (B, n), n the units of `like`."""
    return tuple(value.expand(like.shape).reshape(like.shape[0], -1) for value in values)


def correlations(matrix: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    """Correlations (B, n, n), 0 where a deviation is 0, and products of deviations (B, n, n)."""
    scale = std.unsqueeze(2) * std.unsqueeze(1)
    positive = scale > 0
    correlation = torch.where(
        positive, matrix / torch.where(positive, scale, torch.ones_like(scale)), torch.zeros_like(matrix)
    )
    return correlation.clamp(-1, 1), scale


def closed(
    operands: Operands,
    moments: tuple[Tensor, Tensor, Tensor],
    left: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor],
) -> Smoothed:
    """The rule of a function whose moments and pairs are closed.

    Args:
        operands: inputs of the node, the first alone varying.
        moments: mean, variance and gain (B, ...).
        left: (mean1, std1, mean2, std2, covariance) -> covariance of the function's values beyond the first order.

    Returns:
        The smoothed node.
    """
    value, variance, gain = moments
    mean, std = operands.mean(), operands.std()
    innovation = (variance - gain.square() * std.square()).clamp(min=0)

    def pairs(block: Blocks) -> Tensor:
        flat_mean, flat_std = flat(mean, std, like=mean)
        return left(
            flat_mean.unsqueeze(2), flat_std.unsqueeze(2), flat_mean.unsqueeze(1), flat_std.unsqueeze(1), block(0, 0)
        )

    return Smoothed(value, Gains(gain), innovation, Kernel(pairs))


def by_series(
    operands: Operands, width: float = 1.0, kinks: tuple[float, ...] = (), corners: PiecewiseLinear | None = None
) -> Smoothed:
    """The rule of any elementwise function: moments by quadrature, pairs by a Hermite series.

    Args:
        operands: inputs of the node, the first alone varying.
        width: distance of the function's nearest complex singularity from the line (see `smooth_moments`).
        kinks: where it is not smooth.
        corners: its jumps of slope as hinges, whose part of the covariance is then exact instead of a slowly
            converging series; slope and offset are not read.

    Returns:
        The smoothed node.
    """
    function = operands.function
    mean, std = operands.mean(), operands.std()
    same = all(value is None for value in operands.values[1:])
    value, variance, gain = smooth_moments(function, mean, std, width, kinks, split=same)
    innovation = (variance - gain.square() * std.square()).clamp(min=0)

    def pairs(block: Blocks) -> Tensor:
        matrix = block(0, 0)
        coefficients = hermite_coefficients(function, mean, std, width, kinks)[1:]
        (flat_std,) = flat(std, like=mean)
        correlation, scale = correlations(matrix, flat_std)
        found = _series(coefficients, mean, correlation)
        if corners is None or not any(_matters(jump) for jump in corners.jumps):
            return found
        hinges = [
            jump * hinge_coefficients(mean, std, knot) for knot, jump in zip(corners.knots, corners.jumps, strict=True)
        ]
        found = found - _series(torch.stack(hinges).sum(0), mean, correlation)
        points = [flat(standardise(mean - knot, std), like=mean)[0] for knot in corners.knots]
        return found + scale * _hinges(corners, points, correlation)

    return Smoothed(value, Gains(gain), innovation, Kernel(pairs, exact=False))


def _series(coefficients: Tensor, mean: Tensor, correlation: Tensor) -> Tensor:
    rows = coefficients.expand(coefficients.shape[0], *mean.shape).reshape(*coefficients.shape[:1], mean.shape[0], -1)
    return hermite_covariance(rows.unsqueeze(3), rows.unsqueeze(2), correlation, start=2)


def _hinges(corners: PiecewiseLinear, points: list[Tensor], correlation: Tensor) -> Tensor:
    """Covariance of sum_j jump_j relu(a_j + z) beyond the first order, for all pairs."""
    total = torch.zeros_like(correlation)
    for jump1, a in zip(corners.jumps, points, strict=True):
        for jump2, b in zip(corners.jumps, points, strict=True):
            rows, columns = a.unsqueeze(2), b.unsqueeze(1)
            linear = correlation * distribution(rows) * distribution(columns)
            total = total + jump1 * jump2 * (rectified_covariance(rows, columns, correlation) - linear)
    return total


def _matters(jump: Any) -> bool:
    return isinstance(jump, Tensor) or abs(jump) > 1e-12
