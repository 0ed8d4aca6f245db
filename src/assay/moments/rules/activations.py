"""Activations that are not piecewise linear: closed forms where there are any, else quadrature and Hermite series."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from assay.gaussian import (
    ERF_STEEPNESS,
    PiecewiseLinear,
    exponential_left,
    exponential_moments,
    gelu_left,
    gelu_moments,
    probit_left,
    probit_moments,
    sine_left,
    sine_moments,
)
from assay.grade import Grade
from assay.moments.rules.elementwise import alone, by_series, closed
from assay.moments.rules.table import SERIES, TABLE
from assay.moments.smoothed import Operands, Smoothed

_WIDTHS = {"sigmoid": math.pi, "silu": math.pi, "softplus": math.pi, "tanh": math.pi / 2, "mish": 2.3}
"""Distance of the nearest complex singularity from the real line."""


@TABLE.rule("gelu", grade=Grade.CLOSED_FORM, note=f"tanh form: {SERIES}", applies=alone)
def gelu(operands: Operands) -> Smoothed:
    """X Phi(x) in closed form; the tanh form, which differs by up to 5e-4, by quadrature and series of its own."""
    if operands.attributes.get("approximate", "none") != "none":
        return by_series(operands, width=2.0)
    return closed(operands, gelu_moments(operands.mean(), operands.std()), gelu_left)


@TABLE.rule("erf", grade=Grade.CLOSED_FORM, applies=alone)
def error_function(operands: Operands) -> Smoothed:
    """erf(x) = 2 Phi(sqrt(2) x) - 1."""
    mean, std = operands.mean(), operands.std()
    _, variance, gain = probit_moments(mean, std, ERF_STEEPNESS)
    value = torch.erf(mean / (1 + 2 * std.square()).sqrt())

    def left(mean1: Tensor, std1: Tensor, mean2: Tensor, std2: Tensor, covariance: Tensor) -> Tensor:
        return 4 * probit_left(mean1, std1, mean2, std2, covariance, ERF_STEEPNESS)

    return closed(operands, (value, 4 * variance, 2 * gain), left)


@TABLE.rule("exp", grade=Grade.CLOSED_FORM, applies=alone)
def exponential(operands: Operands) -> Smoothed:
    """The log-normal law."""
    return closed(operands, exponential_moments(operands.mean(), operands.std()), exponential_left)


@TABLE.rule("sin", "cos", grade=Grade.CLOSED_FORM, applies=alone)
def wave(operands: Operands) -> Smoothed:
    """From the characteristic function; cos(x) = sin(x + pi/2)."""
    shift = math.pi / 2 if operands.operator.name == "cos" else 0.0

    def left(mean1: Tensor, std1: Tensor, mean2: Tensor, std2: Tensor, covariance: Tensor) -> Tensor:
        return sine_left(mean1 + shift, std1, mean2 + shift, std2, covariance)

    return closed(operands, sine_moments(operands.mean() + shift, operands.std()), left)


@TABLE.rule("sigmoid", "silu", "softplus", "tanh", "mish", grade=Grade.CLOSED_FORM, note=SERIES, applies=alone)
def smooth(operands: Operands) -> Smoothed:
    """Analytic functions whose singularities set how fine the quadrature must be."""
    width = _WIDTHS[operands.operator.name]
    if operands.operator.name == "softplus":
        width = width / abs(operands.attributes.get("beta", 1.0))
    return by_series(operands, width)


@TABLE.rule("elu", grade=Grade.CLOSED_FORM, note=SERIES, applies=alone)
def elu(operands: Operands) -> Smoothed:
    """ELU, SELU and CELU: the corner at zero, if any, exactly, the rest by its series."""
    alpha, scale, rate = (operands.attributes.get(name, 1.0) for name in ("alpha", "scale", "input_scale"))
    corner = PiecewiseLinear(0.0, 0.0, (0.0,), (scale * (1 - alpha * rate),))
    return by_series(operands, 1 / max(abs(rate), 1e-6), kinks=(0.0,), corners=corner)


@TABLE.rule("hardswish", grade=Grade.CLOSED_FORM, note=SERIES, applies=alone)
def hardswish(operands: Operands) -> Smoothed:
    """X clip(x + 3, 0, 6) / 6: quadratic between its corners at -3 and 3."""
    corners = PiecewiseLinear(0.0, 0.0, (-3.0, 3.0), (-0.5, -0.5))
    return by_series(operands, math.inf, kinks=(-3.0, 3.0), corners=corners)
