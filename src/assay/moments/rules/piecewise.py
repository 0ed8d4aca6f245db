"""ReLU and the other continuous piecewise linear functions: closed forms, with the exact covariance of any pair."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from assay.gaussian import (
    ABSOLUTE,
    HARDSIGMOID,
    RELU,
    PiecewiseLinear,
    clip,
    leaky_relu,
    piecewise_linear_covariance,
    piecewise_linear_moments,
    rectified,
    rectified_covariance_matrix,
    smoothed_relu,
    standardise,
)
from assay.grade import Grade
from assay.interpret import Gains
from assay.moments.rules.elementwise import alone, correlations, flat
from assay.moments.rules.table import TABLE
from assay.moments.smoothed import Blocks, Kernel, Operands, Smoothed


@TABLE.rule("relu", grade=Grade.CLOSED_FORM)
def relu(operands: Operands) -> Smoothed:
    """Rectified Gaussian with the exact covariance of pairs (Price 1958, integrated twice)."""
    mean, std = operands.mean(), operands.std()
    value, gain, innovation = smoothed_relu(mean, std)

    def pairs(block: Blocks) -> Tensor:
        return rectified_left(block(0, 0), std, standardise(mean, std))

    return Smoothed(value, Gains(gain), innovation, Kernel(pairs))


def rectified_left(matrix: Tensor, std: Tensor, standard: Tensor) -> Tensor:
    """Covariance of all pairs of relu(x) beyond the first order, in a full tensor's units.

    Args:
        matrix: covariances (B, n, n) of x.
        std: deviations of x, (B, ...) or broadcasting with `standard`.
        standard: standardised means, (B, ...).

    Returns:
        (B, n, n).
    """
    flat_std, flat_a = flat(std, standard, like=standard)
    gain = rectified(flat_a).probability
    correlation, scale = correlations(matrix, flat_std)
    both = rectified_covariance_matrix(flat_a, correlation)
    return scale * both - matrix * gain.unsqueeze(2) * gain.unsqueeze(1)


@TABLE.rule("leaky_relu", "prelu", "clip", "abs", "hardsigmoid", grade=Grade.CLOSED_FORM, applies=alone)
def piecewise_linear(operands: Operands) -> Smoothed:
    """Sum of shifted rectified Gaussians."""
    return by_pieces(operands, describe(operands))


def by_pieces(operands: Operands, function: PiecewiseLinear) -> Smoothed:
    """The rule of any elementwise operator that is continuous and piecewise linear, such as another package's.

    Args:
        operands: of the operator; only its first input varies.
        function: what it does to every element.

    Returns:
        Mean, gain and innovation in closed form, and the exact covariance of pairs.
    """
    mean, std = operands.mean(), operands.std()
    value, variance, gain = piecewise_linear_moments(mean, std, *function)
    innovation = (variance - gain.square() * std.square()).clamp(min=0)

    def pairs(block: Blocks) -> Tensor:
        matrix = block(0, 0)
        flat_mean, flat_std, flat_gain = flat(mean, std, gain, like=mean)
        correlation, _ = correlations(matrix, flat_std)
        left, right = (_aligned(function, mean.shape, axis) for axis in (2, 1))
        both = piecewise_linear_covariance(
            flat_mean.unsqueeze(2),
            flat_std.unsqueeze(2),
            flat_mean.unsqueeze(1),
            flat_std.unsqueeze(1),
            correlation,
            left,
            right,
        )
        return both - matrix * flat_gain.unsqueeze(2) * flat_gain.unsqueeze(1)

    return Smoothed(value, Gains(gain), innovation, Kernel(pairs))


def describe(operands: Operands) -> PiecewiseLinear:
    """The operator with its attributes as knots and jumps of slope."""
    attributes, op = operands.attributes, operands.operator.name
    if op == "leaky_relu":
        return leaky_relu(attributes.get("negative_slope", 0.01))
    if op == "prelu":
        weight, rank = operands.values[1], operands.mean().dim()
        return leaky_relu(weight.reshape((1, -1) + (1,) * (rank - 2)) if weight.numel() > 1 else weight.reshape(()))
    if op == "clip":
        return _clip(attributes.get("low"), attributes.get("high"))
    return {"abs": ABSOLUTE, "hardsigmoid": HARDSIGMOID}[op]


def _clip(low: float | None, high: float | None) -> PiecewiseLinear:
    if low is None and high is None:
        return PiecewiseLinear(1.0, 0.0, (), ())
    if high is None:
        return RELU if low == 0 else PiecewiseLinear(0.0, float(low), (float(low),), (1.0,))  # type: ignore[arg-type]
    if low is None:
        return PiecewiseLinear(1.0, 0.0, (float(high),), (-1.0,))
    return clip(low, high)


def _aligned(function: PiecewiseLinear, shape: torch.Size, axis: int) -> PiecewiseLinear:
    """Per-channel slopes laid out along one axis of an (n, n) pair matrix."""

    def lay(value: Any) -> Any:
        if not isinstance(value, Tensor) or value.dim() == 0:
            return value
        return value.expand(shape).reshape(shape[0], -1).unsqueeze(axis)

    return PiecewiseLinear(
        lay(function.slope), lay(function.offset), function.knots, tuple(lay(j) for j in function.jumps)
    )
