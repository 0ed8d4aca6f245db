"""The rule table `kinks`: how values and slopes of a stationary Gaussian process go through each operator.

Values and slopes are independent at one t, so the slopes of y = f(x) have E y'_i y'_j = E[f'_i f'_j] E x'_i x'_j.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.func import jvp

from assay.gaussian import (
    ABSOLUTE,
    HARDSIGMOID,
    RELU,
    PiecewiseLinear,
    bivariate_normal_cdf,
    clip,
    distribution,
    hermite_coefficients,
    hermite_covariance,
    leaky_relu,
    maximum_moments,
    piecewise_linear_covariance,
    piecewise_linear_moments,
    rectified_covariance_matrix,
    smooth_moments,
    standardise,
)
from assay.grade import Grade
from assay.graph import Operator
from assay.interpret import JacobianMap, OperatorMap, RuleTable
from assay.interpret.rules import Rule as Registered
from assay.smoothness.prediction.conformance import conformance
from assay.smoothness.prediction.laws import Bent, Inputs, Rule, Straight, unsupported
from assay.smoothness.switches import THRESHOLDS, WINNERS


def affine(inputs: Inputs) -> Straight:
    """Affine in what varies: exact for values and slopes."""
    varying = frozenset(inputs.varying)
    return Straight(inputs.evaluate(*_varying_means(inputs)), OperatorMap(
        inputs.operator, inputs.means, varying, inputs.attributes
    ))  # fmt: skip


def tangent(inputs: Inputs) -> Straight:
    """Any smooth node as its tangent at the mean: right where it is nearly straight over the process."""
    means = _varying_means(inputs)
    return Straight(inputs.evaluate(*means), JacobianMap(inputs.evaluate, means))


def series(inputs: Inputs) -> Bent:
    """Any elementwise function: quadrature for single units, its Hermite series for pairs."""
    mean, std = inputs.means[0], inputs.variances(0, 0).clamp(min=0).sqrt()
    assert mean is not None
    flat, kinks = mean.reshape(-1), inputs.operator.kinks_of(inputs.attributes)

    def function(x: Tensor) -> Tensor:
        return inputs.operator.evaluate(x, *inputs.means[1:], **inputs.attributes)

    def slope(x: Tensor) -> Tensor:
        return jvp(function, (x,), (torch.ones_like(x),))[1]

    value, variance, _ = smooth_moments(function, flat, std, kinks=kinks)
    gain, spread, _ = smooth_moments(slope, flat, std, kinks=kinks)

    def pairs() -> tuple[Tensor, list[list[Tensor]]]:
        rho = _correlation(inputs.matrix(0, 0), std)
        found = []
        for curve in (function, slope):
            terms = hermite_coefficients(curve, flat, std, kinks=kinks)
            found.append(hermite_covariance(terms.unsqueeze(2), terms.unsqueeze(1), rho))
        return found[0], [[found[1] + gain.unsqueeze(1) * gain]]

    return Bent(value.reshape(mean.shape), [gain], [[spread + gain.square()]], variance, pairs)


def _derive(operator: Operator) -> Registered[Rule] | None:
    if operator.linear_in:
        return Registered(operator.name, affine, Grade.EXACT, applies=operator.affine_in)
    if operator.elementwise:
        return Registered(operator.name, series, Grade.CLOSED_FORM, "series for pairs", applies=_alone)
    return None


def _alone(varying: frozenset[int]) -> bool:
    return varying == frozenset({0})


TABLE: RuleTable[Rule] = RuleTable(
    "kinks", _derive, conformance, dict.fromkeys(("max_pool", "adaptive_max_pool"), "closed_form (windows and ties)")
)


@TABLE.rule("relu", "leaky_relu", "prelu", "clip", "abs", "hardsigmoid", grade=Grade.CLOSED_FORM, applies=_alone)
def piecewise(inputs: Inputs) -> Bent:
    """Rectified Gaussians: arc-cosine kernels for values, orthant probabilities for slopes."""
    mean = inputs.means[0]
    assert mean is not None
    return _piecewise(inputs, describe(inputs), mean, torch.zeros_like(mean))


@TABLE.rule("maximum", "minimum", grade=Grade.CLOSED_FORM, note="Clark 1961")
def extreme(inputs: Inputs) -> Bent:
    """The larger or smaller of two, or of one and a constant."""
    sign = 1.0 if inputs.operator.name == "maximum" else -1.0
    first, second = inputs.means[:2]
    assert first is not None
    assert second is not None
    if len(inputs.varying) == 1:
        place = inputs.varying[0]
        moving, constant = (first, second) if place == 0 else (second, first)
        if torch.broadcast_shapes(moving.shape, constant.shape) != moving.shape:
            raise unsupported(inputs.node)
        hinge = RELU if sign > 0 else PiecewiseLinear(1.0, 0.0, (0.0,), (-1.0,))
        return _piecewise(inputs, hinge, moving, constant.to(moving).expand(moving.shape))
    if first.shape != second.shape:
        raise unsupported(inputs.node)
    own, other = (inputs.variances(i, i).clamp(min=0) for i in (0, 1))
    shared = inputs.variances(0, 1)
    one, two = sign * first.reshape(-1), sign * second.reshape(-1)
    mean, variance, gain = maximum_moments(one, own.sqrt(), two, other.sqrt(), shared)
    std = (own + other - 2 * shared).clamp(min=0).sqrt()
    limit = standardise(one - two, std)

    def pairs() -> tuple[Tensor, list[list[Tensor]]]:
        c11, c12, c22 = inputs.matrix(0, 0), inputs.matrix(0, 1), inputs.matrix(1, 1)
        rho = _correlation(c11 - c12 - c12.T + c22, std)
        ahead = _both(limit, limit, rho)
        kernel = std.unsqueeze(1) * std * rectified_covariance_matrix(limit, rho)
        away = gain.unsqueeze(1) * (c12 - c22)
        values = c22 + away + away.T + kernel
        left, right = gain.unsqueeze(1) - ahead, gain - ahead
        return values, [[ahead, left], [right, 1 - ahead - left - right]]

    none = torch.zeros_like(gain)
    return Bent((sign * mean).reshape(first.shape), [gain, 1 - gain], [[gain, none], [none, 1 - gain]], variance, pairs)


def describe(inputs: Inputs) -> PiecewiseLinear:
    """The operator with its attributes as knots and jumps; slopes per unit are flat."""
    attributes, op, mean = inputs.attributes, inputs.operator.name, inputs.means[0]
    assert mean is not None
    if op == "leaky_relu":
        return leaky_relu(float(attributes.get("negative_slope", 0.01)))
    if op == "prelu":
        weight = inputs.means[1]
        assert weight is not None
        weight = weight.to(mean)
        if weight.numel() > 1:
            weight = weight.reshape((1, -1) + (1,) * (mean.dim() - 2))
        return leaky_relu(weight.expand(mean.shape).reshape(-1))
    if op == "clip":
        low, high = attributes.get("low"), attributes.get("high")
        if low is not None and high is not None:
            return clip(float(low), float(high))
        if low is not None:
            return PiecewiseLinear(0.0, float(low), (float(low),), (1.0,))
        return PiecewiseLinear(1.0, 0.0, () if high is None else (float(high),), () if high is None else (-1.0,))
    return {"relu": RELU, "abs": ABSOLUTE, "hardsigmoid": HARDSIGMOID}[op]


def _piecewise(inputs: Inputs, function: PiecewiseLinear, mean: Tensor, shift: Tensor) -> Bent:
    """f(x - shift) + shift."""
    place = inputs.varying[0]
    flat = (mean - shift).reshape(-1)
    std = inputs.variances(place, place).clamp(min=0).sqrt()
    value, variance, gain = piecewise_linear_moments(flat, std, *function)
    limits = [standardise(flat - knot, std) for knot in function.knots]
    below, square = torch.ones_like(flat), torch.zeros_like(flat)
    for count in range(len(limits) + 1):
        beyond = distribution(limits[count]) if count < len(limits) else torch.zeros_like(flat)
        slope = torch.as_tensor(function.line(count)[0], dtype=flat.dtype)
        square, below = square + slope.square() * (below - beyond), beyond

    def pairs() -> tuple[Tensor, list[list[Tensor]]]:
        matrix = inputs.matrix(place, place)
        rho = _correlation(matrix, std)
        if function is RELU:
            kernel = std.unsqueeze(1) * std * rectified_covariance_matrix(limits[0], rho)
            return kernel, [[_both(limits[0], limits[0], rho)]]
        one, two = _aligned(function, 1), _aligned(function, 0)
        values = piecewise_linear_covariance(
            flat.unsqueeze(1), std.unsqueeze(1), flat.unsqueeze(0), std.unsqueeze(0), rho, one, two
        )
        slopes = torch.as_tensor(one.slope) * torch.as_tensor(two.slope) * torch.ones_like(rho)
        for j, jump in enumerate(function.jumps):
            reach = distribution(limits[j])
            slopes = slopes + _lay(jump, 1) * reach.unsqueeze(1) * two.slope + one.slope * _lay(jump, 0) * reach
            for k, other in enumerate(function.jumps):
                slopes = slopes + _lay(jump, 1) * _lay(other, 0) * _both(limits[j], limits[k], rho)
        return values, [[slopes]]

    return Bent(value.reshape(mean.shape) + shift, [gain], [[square]], variance, pairs)


def _both(first: Tensor, second: Tensor, rho: Tensor) -> Tensor:
    return bivariate_normal_cdf(first.unsqueeze(1), second.unsqueeze(0), rho)


def _lay(value: Any, axis: int) -> Any:
    return value.unsqueeze(axis) if isinstance(value, Tensor) and value.dim() else value


def _aligned(function: PiecewiseLinear, axis: int) -> PiecewiseLinear:
    return PiecewiseLinear(
        _lay(function.slope, axis),
        _lay(function.offset, axis),
        function.knots,
        tuple(_lay(jump, axis) for jump in function.jumps),
    )


def _correlation(matrix: Tensor, std: Tensor) -> Tensor:
    moving = std > 0
    inverse = torch.where(moving, 1 / torch.where(moving, std, torch.ones_like(std)), torch.zeros_like(std))
    return (matrix * inverse.unsqueeze(1) * inverse).clamp_(-1, 1)


def _varying_means(inputs: Inputs) -> list[Tensor]:
    return [inputs.values[place].mean for place in inputs.varying]


def rule_for(inputs: Inputs) -> tuple[Rule, Grade]:
    """The rule of a node, and its grade; smooth nodes without one are replaced by their tangent.

    Returns:
        Rule and grade.

    Raises:
        unsupported: when the node has kinks and no rule.
    """
    found = TABLE.lookup(inputs.node.op, frozenset(inputs.varying))
    if found is not None:
        return found.function, found.grade
    if inputs.node.op in WINNERS or inputs.node.op in THRESHOLDS:
        raise unsupported(inputs.node)
    return tangent, Grade.LINEARISED


TABLE.freeze()
