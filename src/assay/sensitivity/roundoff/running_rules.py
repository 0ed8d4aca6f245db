"""Forward error analysis, operator by operator: the error of a result from the errors of its operands, rigorously.

Products of tensors: |a^ b^ - a b| <= |a| e_b + e_a |b| + e_a e_b, plus what summing adds (Higham 2002, section 3.1).
Functions that never decrease: their values at the ends of the interval. Others: their values at the ends and at their
turning points inside. Softmax: its exact range over a box. Norms of the data: the reverse triangle inequality.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from assay.grade import Grade
from assay.graph import OPERATORS, Operator, Sample
from assay.interpret import RuleTable
from assay.interpret.rules import Rule
from assay.sensitivity.roundoff.running import SLACK, Operand, Running, Summation, error_of, value_of, values_of

Attributes = dict[str, Any]
Function = Callable[[Operator, Sequence[Operand], Attributes, Summation], Running]


def _conformance(rule: Rule[Function], operator: Operator, sample: Sample) -> list[str]:
    """Move every operand by random errors, inside and at the ends of their bounds, and look for a violation."""
    generator = torch.Generator().manual_seed(0)
    wrong: list[str] = []
    for size in (1e-6, 1e-2, 0.3):
        operands: list[Operand] = []
        for tensor in sample.inputs:
            if tensor is None or not tensor.dtype.is_floating_point:
                operands.append(tensor)
            else:
                operands.append(Running(tensor, size * torch.rand(tensor.shape, generator=generator).to(tensor)))
        if operator.name == "batch_norm":
            operands[3:] = list(sample.inputs[3:])
        found = rule.function(operator, operands, dict(sample.attributes), Summation())
        exact = operator.evaluate(*sample.inputs, **sample.attributes)
        if found.value.shape != exact.shape or not torch.allclose(found.value, exact, rtol=1e-12, atol=1e-12):
            wrong.append("the value differs from the operator's")
        if found.error.shape != found.value.shape or bool((found.error < 0).any() | found.error.isnan().any()):
            wrong.append("errors are negative, NaN or of another shape")
        for _ in range(40):
            moved = []
            for operand in operands:
                if isinstance(operand, Running):
                    signs = 2 * torch.rand(operand.value.shape, generator=generator).to(operand.value) - 1
                    signs = torch.where(torch.rand(signs.shape, generator=generator) < 0.5, signs, signs.sign())
                    moved.append(operand.value + signs * operand.error)
                else:
                    moved.append(operand)
            excess = (operator.evaluate(*moved, **sample.attributes) - exact).abs() - found.error
            if bool((excess > 1e-12).any()):
                wrong.append(f"the bound is exceeded by {float(excess.max()):.2e} for errors up to {size}")
                break
    return wrong


TABLE: RuleTable[Function] = RuleTable("round-off", conformance=_conformance)
_bound = TABLE.rule


@_bound("linear", "conv", "conv_transpose", "matmul", grade=Grade.BOUND)
def _product(operator: Operator, operands: Sequence[Operand], attributes: Attributes, summing: Summation) -> Running:
    first, second, *rest = operands
    offset = rest[0] if rest else None
    return _bilinear(lambda a, b: operator.evaluate(a, b, **attributes), first, second, summing, offset, operator)


@_bound("addmm", grade=Grade.BOUND)
def _addmm(operator: Operator, operands: Sequence[Operand], attributes: Attributes, summing: Summation) -> Running:
    product = _bilinear(torch.matmul, operands[1], operands[2], summing)
    return product if operands[0] is None else _shifted(product, operands[0], summing)


@_bound("mul", grade=Grade.BOUND)
def _mul(operator: Operator, operands: Sequence[Operand], attributes: Attributes, summing: Summation) -> Running:
    return _bilinear(torch.mul, operands[0], operands[1], summing)


@_bound("addcmul", grade=Grade.BOUND)
def _addcmul(operator: Operator, operands: Sequence[Operand], attributes: Attributes, summing: Summation) -> Running:
    factor = attributes.get("value", 1)
    product = _bilinear(torch.mul, operands[1], operands[2], summing)
    scaled = Running(factor * product.value, abs(factor) * product.error)
    return _shifted(scaled, operands[0], summing)


def _bilinear(
    function: Callable[[Tensor, Tensor], Tensor],
    first: Operand,
    second: Operand,
    summing: Summation,
    offset: Operand = None,
    operator: Operator | None = None,
) -> Running:
    """A product of two tensors, summed; `offset` is a bias that the layer's own evaluation adds to the channels."""
    a, b, e, d = value_of(first), value_of(second), error_of(first), error_of(second)
    value = function(a, b)
    error = function(a.abs(), d)
    reach = b.abs().add_(d)
    error = error + function(e, reach)
    size = function(a.abs() + e, reach)
    if offset is not None:
        axis = 1 if operator is not None and operator.name.startswith("conv") else -1
        shape = [1] * value.dim()
        shape[axis] = -1
        value = value + value_of(offset).reshape(shape)
        error = error + error_of(offset).reshape(shape)
        size = size + (value_of(offset).abs() + error_of(offset)).reshape(shape)
    return Running(value, _known(error, first, second) + summing.error(size))


def _shifted(element: Running, offset: Operand, summing: Summation) -> Running:
    error = element.error + error_of(offset)
    size = element.value.abs() + element.error + value_of(offset).abs() + error_of(offset)
    return Running(element.value + value_of(offset), error + summing.error(size))


def _known(error: Tensor, *operands: Operand) -> Tensor:
    """Infinity times zero is no number: nothing is known there."""
    return error.nan_to_num(float("inf"), float("inf")) if any(_unbounded(operand) for operand in operands) else error


def _unbounded(operand: Operand) -> bool:
    return isinstance(operand, Running) and not bool(torch.isfinite(operand.error).all())


@_bound("add", "sub", grade=Grade.BOUND)
def _add(operator: Operator, operands: Sequence[Operand], attributes: Attributes, summing: Summation) -> Running:
    factor = abs(attributes.get("alpha", 1))
    first, second = operands
    error = error_of(first) + factor * error_of(second)
    size = value_of(first).abs() + factor * value_of(second).abs() + error
    return Running(operator.evaluate(*values_of(operands), **attributes), error + summing.error(size))


@_bound("div", grade=Grade.BOUND)
def _div(operator: Operator, operands: Sequence[Operand], attributes: Attributes, summing: Summation) -> Running:
    first, second = operands
    value = value_of(first) / value_of(second)
    room = value_of(second).abs() - error_of(second)
    error = (error_of(first) + value.abs() * error_of(second)) / room
    error = torch.where(room > 0, error, float("inf"))
    return Running(value, error + summing.error(value.abs() + error))


@_bound("neg", grade=Grade.BOUND)
def _neg(operator: Operator, operands: Sequence[Operand], attributes: Attributes, summing: Summation) -> Running:
    return Running(-value_of(operands[0]), error_of(operands[0]))


_MOVES = ("reshape", "permute", "slice", "select", "part", "expand", "pad", "roll", "flip", "identity", "cat", "window")


@_bound(*_MOVES, grade=Grade.BOUND)
def _move(operator: Operator, operands: Sequence[Operand], attributes: Attributes, summing: Summation) -> Running:
    errors = [None if operand is None else error_of(operand) for operand in operands]
    moved = operator.evaluate(*errors, **(attributes | operator.linear_attributes))
    return Running(operator.evaluate(*values_of(operands), **attributes), moved)


@_bound("avg_pool", "adaptive_avg_pool", "mean", "sum", "resize", grade=Grade.BOUND)
def _average(operator: Operator, operands: Sequence[Operand], attributes: Attributes, summing: Summation) -> Running:
    value, error = value_of(operands[0]), error_of(operands[0])  # coefficients are not negative
    moved = operator.evaluate(error, **attributes)
    size = operator.evaluate(value.abs() + error, **attributes)
    return Running(operator.evaluate(value, **attributes), moved + summing.error(size))


@_bound("where", grade=Grade.BOUND, applies=lambda varying: 0 not in varying)
def _where(operator: Operator, operands: Sequence[Operand], attributes: Attributes, summing: Summation) -> Running:
    chosen = value_of(operands[0])
    value = torch.where(chosen, value_of(operands[1]), value_of(operands[2]))
    return Running(value, torch.where(chosen, error_of(operands[1]), error_of(operands[2])).expand_as(value))


_INCREASING = [
    "relu",
    "clip",
    "elu",
    "sigmoid",
    "hardsigmoid",
    "tanh",
    "softplus",
    "erf",
    "exp",
    "max_pool",
    "adaptive_max_pool",
    "amax",
    "maximum",
    "minimum",
]


@_bound(*_INCREASING, grade=Grade.BOUND, note="never decreases: its values at the ends")
def _increasing(operator: Operator, operands: Sequence[Operand], attributes: Attributes, summing: Summation) -> Running:
    values, errors = values_of(operands), [error_of(operand) for operand in operands]
    value = operator.evaluate(*values, **attributes)
    low = operator.evaluate(*(v - e for v, e in zip(values, errors, strict=True) if v is not None), **attributes)
    high = operator.evaluate(*(v + e for v, e in zip(values, errors, strict=True) if v is not None), **attributes)
    return Running(value, _apart(value, low, high))


_TURNING = {
    "abs": (0.0,),
    "gelu": (-0.75179152469356446,),
    "silu": (-1.27846454276107380,),
    "mish": (-1.19243121451549521,),
    "hardswish": (-3.0, -1.5),
    "leaky_relu": (0.0,),
    "prelu": (0.0,),
}
_TURNING_TANH_GELU = -0.75246142207101626


@_bound(*_TURNING, grade=Grade.BOUND, note="its values at the ends and turning points")
def _turning(operator: Operator, operands: Sequence[Operand], attributes: Attributes, summing: Summation) -> Running:
    points = _TURNING[operator.name]
    if attributes.get("approximate") == "tanh":
        points = (_TURNING_TANH_GELU,)
    slopes = operands[1] if len(operands) > 1 else None
    rest = [] if slopes is None else [value_of(slopes)]
    found = _over_interval(lambda x: operator.evaluate(x, *rest, **attributes), operands[0], points)
    if not isinstance(slopes, Running):
        return found
    reach = (value_of(operands[0]).abs() + error_of(operands[0])).clamp(min=0)  # slopes of prelu may be off as well
    shape = [1] * reach.dim()
    if slopes.error.dim() == 1 and reach.dim() > 1:
        shape[1] = -1
    else:
        shape = list(slopes.error.shape)
    return Running(found.value, found.error + reach * slopes.error.reshape(shape))


@_bound("power", "log", grade=Grade.BOUND)
def _power(operator: Operator, operands: Sequence[Operand], attributes: Attributes, summing: Summation) -> Running:
    exponent = attributes.get("exponent", 0.0)
    points = (0.0,) if exponent > 0 and exponent % 2 == 0 else ()
    found = _over_interval(lambda x: operator.evaluate(x, **attributes), operands[0], points)
    if exponent > 0 and float(exponent).is_integer():
        return found
    around = value_of(operands[0]).abs() <= error_of(operands[0])  # a pole or the end of the domain inside
    return Running(found.value, torch.where(around & (error_of(operands[0]) > 0), float("inf"), found.error))


@_bound("sin", "cos", grade=Grade.BOUND)
def _wave(operator: Operator, operands: Sequence[Operand], attributes: Attributes, summing: Summation) -> Running:
    value = operator.evaluate(value_of(operands[0]))
    return Running(value, error_of(operands[0]).clamp(max=2.0) + SLACK)


def _over_interval(function: Callable[[Tensor], Tensor], operand: Operand, points: tuple[float, ...]) -> Running:
    """A function of one element whose only turning points are given."""
    x, e = value_of(operand), error_of(operand)
    value = function(x)
    error = _apart(value, function(x - e), function(x + e))
    for point in points:
        there = function(torch.full_like(x, point))
        error = torch.where((x - point).abs() <= e, torch.maximum(error, (there - value).abs()), error)
    return Running(value, error)


def _apart(value: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """How far the ends are from a value; infinite where an end is no number."""
    apart = torch.maximum((high - value).abs(), (value - low).abs())
    return torch.where(apart.isnan(), float("inf"), apart + SLACK * value.abs() * (apart > 0))


@_bound("softmax", "log_softmax", grade=Grade.BOUND, note="its range over a box")
def _softmax(operator: Operator, operands: Sequence[Operand], attributes: Attributes, summing: Summation) -> Running:
    return _softmax_of(operands[0], attributes["dim"], logarithm=operator.name == "log_softmax")


def _softmax_of(operand: Operand, dim: int, *, logarithm: bool = False) -> Running:
    x, e = value_of(operand), error_of(operand)
    value = torch.log_softmax(x, dim)
    masked = torch.isneginf(x)
    # log p_i = -log(1 + sum_(j != i) exp(x_j - x_i)) is largest where x_i is highest and the others are lowest
    ends = []
    for sign in (-1.0, 1.0):
        own, others = x + sign * e, x - sign * e
        top = torch.maximum(own, others).amax(dim, keepdim=True)
        mass = torch.exp(others - top)
        whole = mass.sum(dim, keepdim=True)
        rest = (whole - mass - sign * SLACK * x.shape[dim] * whole).clamp(min=0)  # what cancels, on the safe side
        ends.append(own - top - torch.log(rest + torch.exp(own - top)))
    if not logarithm:
        value, ends = value.exp(), [end.exp() for end in ends]
    slack = SLACK * x.shape[dim] * (1 if not logarithm else 1 + value.abs())
    error = _apart(value, *ends) + slack * (e.amax(dim, keepdim=True) > 0)
    error = torch.where(torch.isfinite(e).all(dim, keepdim=True), error, 1.0 if not logarithm else float("inf"))
    return Running(value, torch.where(masked, 0.0, error))


@_bound("layer_norm", "rms_norm", "group_norm", grade=Grade.BOUND, note="reverse triangle inequality")
def _norm(operator: Operator, operands: Sequence[Operand], attributes: Attributes, summing: Summation) -> Running:
    x, e = value_of(operands[0]), error_of(operands[0])
    gain = operands[1] if len(operands) > 1 else None
    shift = operands[2] if len(operands) > 2 else None
    if operator.name == "group_norm":
        groups = attributes["num_groups"]
        normed, axes = x.unflatten(1, (groups, -1)), tuple(range(2, x.dim() + 1))
        spread = e.unflatten(1, (groups, -1))
        shape = (-1, *[1] * (x.dim() - 2))
    else:
        normed, spread = x, e
        axes = tuple(range(x.dim() - len(attributes["normalized_shape"]), x.dim()))
        shape = tuple(attributes["normalized_shape"])
    eps = attributes.get("eps", 1e-5)
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    if operator.name != "rms_norm":
        normed = normed - normed.mean(axes, keepdim=True)
        spread = spread + spread.mean(axes, keepdim=True)
    deviation = (normed.square().mean(axes, keepdim=True) + eps).sqrt()
    wobble = spread.square().mean(axes, keepdim=True).sqrt()
    least = (deviation - wobble).clamp(min=eps**0.5)  # of the perturbed deviation: a norm of (x, sqrt(n eps))
    unit = normed / deviation
    error = (spread + unit.abs() * wobble) / least
    error = torch.where(error.isnan(), float("inf"), error) + SLACK * 8 * (1 + unit.abs())
    value = operator.evaluate(*values_of(operands), **attributes)
    unit, error = unit.reshape(x.shape), error.reshape(x.shape)
    if gain is not None:
        w, d = value_of(gain).reshape(shape), error_of(gain).reshape(shape)
        error = error * (w.abs() + d) + unit.abs() * d
    if shift is not None:
        error = error + error_of(shift).reshape(shape)
    return Running(value, error + SLACK * 8 * value.abs())


@_bound("batch_norm", grade=Grade.BOUND, applies=lambda varying: not varying & {3, 4})
def _batch_norm(operator: Operator, operands: Sequence[Operand], attributes: Attributes, summing: Summation) -> Running:
    x, weight, bias, mean, variance = operands
    shape = (1, -1) + (1,) * (value_of(x).dim() - 2)
    scale = torch.rsqrt(value_of(variance) + attributes["eps"])
    off = torch.zeros_like(scale)
    if weight is not None:
        scale, off = scale * value_of(weight), scale * error_of(weight)
    centred = value_of(x) if mean is None else value_of(x) - value_of(mean).reshape(shape)
    steep = (scale.abs() + off).reshape(shape)
    error = error_of(x) * steep + centred.abs() * off.reshape(shape)
    size = (value_of(x).abs() + error_of(x)) * steep
    if mean is not None:
        size = size + value_of(mean).abs().reshape(shape) * steep
    if bias is not None:
        error = error + error_of(bias).reshape(shape)
        size = size + (value_of(bias).abs() + error_of(bias)).reshape(shape)
    return Running(operator.evaluate(*values_of(operands), **attributes), error + summing.error(size))


@_bound("vector_norm", grade=Grade.BOUND, note="reverse triangle inequality")
def _vector_norm(
    operator: Operator, operands: Sequence[Operand], attributes: Attributes, summing: Summation
) -> Running:
    value = operator.evaluate(value_of(operands[0]), **attributes)
    if attributes.get("ord", 2) < 1:  # no norm: no triangle inequality
        return Running(value, torch.full_like(value, float("inf")))
    return Running(value, operator.evaluate(error_of(operands[0]), **attributes) + SLACK * 8 * value)


@_bound("attention", grade=Grade.BOUND, note="products and softmax as above", applies=lambda varying: 3 not in varying)
def _attention(operator: Operator, operands: Sequence[Operand], attributes: Attributes, summing: Summation) -> Running:
    query, key, value, *masks = operands
    heads = value_of(query).shape[-3] if value_of(query).dim() > 2 else 1

    def shared(operand: Operand) -> Running:
        pair = (value_of(operand), error_of(operand))
        if pair[0].dim() > 2 and pair[0].shape[-3] != heads:
            pair = tuple(t.repeat_interleave(heads // t.shape[-3], -3) for t in pair)
        return Running(*pair)

    key = shared(key)
    scale = attributes.get("scale")
    scale = value_of(query).shape[-1] ** -0.5 if scale is None else scale
    scores = _bilinear(lambda a, b: a @ b.transpose(-2, -1), query, key, Summation(terms=value_of(query).shape[-1]))
    x, e = scores.value * scale, scores.error * abs(scale)
    mask = masks[0] if masks else None
    if attributes.get("is_causal", False):
        allowed = torch.ones(x.shape[-2:], dtype=torch.bool).tril()
        x = x.masked_fill(~allowed, -torch.inf)
    if mask is not None:
        given = value_of(mask)
        x = x.masked_fill(~given, -torch.inf) if given.dtype == torch.bool else x + given
    e = torch.where(torch.isneginf(x), 0.0, e)
    weights = _softmax_of(Running(x, e), -1)
    mixed = _bilinear(torch.matmul, weights, shared(value), Summation(terms=key.value.shape[-2]))
    exact = operator.evaluate(*values_of(operands), **attributes)
    return Running(exact, mixed.error)


TABLE.freeze()
SUPPORTED = frozenset(name for name in OPERATORS if TABLE.lookup(name) is not None)
