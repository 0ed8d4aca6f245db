"""Affine operators on zonotopes: exact on centre and slope, absolute coefficients on the error.

The computed centre and slope differ from the true ones by at most gamma_n |W| |c| and gamma_n |W| |e| (any order of
summation; no Strassen, Winograd or FFT kernels exist for float64 on a CPU), which joins the error before it goes
through |W|.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from assay.boundary.paths.zonotope import BOUND, OPERATORS, TABLE, TINY, UNIT, Operands, Zonotope, affine, rounding

_MOVES = (
    "reshape",
    "permute",
    "slice",
    "select",
    "part",
    "expand",
    "pad",
    "roll",
    "flip",
    "identity",
    "cat",
    "where",
)
_AVERAGES = ("avg_pool", "adaptive_avg_pool", "mean", "sum")
Terms = Callable[[list[Tensor | None]], int]


def _moved(name: str) -> Callable[[Sequence[Any], dict[str, Any]], Zonotope]:
    operator = OPERATORS[name]

    def rule(operands: Sequence[Any], attributes: dict[str, Any]) -> Zonotope:
        inputs = Operands.of(operands)
        errors = operator.linear_part(inputs.errors, inputs.varying, attributes)
        return affine(operator, operands, attributes, errors)

    return rule


def _averaged(name: str) -> Callable[[Sequence[Any], dict[str, Any]], Zonotope]:
    """Coefficients that are not negative: the error goes through the operator itself."""
    operator = OPERATORS[name]

    def rule(operands: Sequence[Any], attributes: dict[str, Any]) -> Zonotope:
        (data,) = operands
        gamma = rounding(4 * math.prod(data.centre.shape[1:]))
        errors = operator.linear_part([_inflated(data, gamma)], frozenset({0}), attributes)
        return affine(operator, operands, attributes, errors * (1 + 2 * gamma) + TINY)

    return rule


def _inflated(data: Zonotope, gamma: float) -> Tensor:
    return data.centre.abs().add_(data.slope.abs()).mul_(gamma).add_(data.error)


def _weighted(name: str, coefficients: frozenset[int], terms: Terms) -> Callable[..., Zonotope]:
    """Operators with weights: those at `coefficients` take part with their absolute values, other ones are offsets."""
    operator = OPERATORS[name]

    def rule(operands: Sequence[Any], attributes: dict[str, Any]) -> Zonotope:
        inputs = Operands.of(operands)
        gamma = rounding(terms(inputs.centres))
        sizes: list[Tensor | None] = []
        for position, value in enumerate(operands):
            if isinstance(value, Zonotope):
                sizes.append(_inflated(value, gamma))
            elif value is None:
                sizes.append(None)
            else:
                sizes.append(value.abs() if position in coefficients else gamma * value.abs())
        errors = operator.evaluate(*sizes, **attributes).mul_(1 + 2 * gamma).add_(TINY)
        return affine(operator, operands, attributes, errors)

    return rule


def _fixed(*groups: set[int]) -> Callable[[frozenset[int]], bool]:
    return lambda varying: varying in [frozenset(group) for group in groups]


def _of_weight(values: list[Tensor | None]) -> int:
    weight = values[1]
    assert weight is not None
    return weight[0].numel()


def _of_transposed(values: list[Tensor | None]) -> int:
    weight = values[1]
    assert weight is not None
    return weight.shape[0] * weight[0, 0].numel()


def _of_product(first: int) -> Terms:
    def terms(values: list[Tensor | None]) -> int:
        left = values[first]
        assert left is not None
        return left.shape[-1]

    return terms


for _name in _MOVES:
    _varying = (lambda v: 0 not in v) if _name == "where" else (lambda v: True)
    TABLE.rule(_name, grade=BOUND, note="moves elements", applies=_varying)(_moved(_name))
for _name in _AVERAGES:
    TABLE.rule(_name, grade=BOUND)(_averaged(_name))
_WEIGHTED: tuple[tuple[str, frozenset[int], Terms, tuple[set[int], ...]], ...] = (
    ("linear", frozenset({1}), _of_weight, ({0},)),
    ("conv", frozenset({1}), _of_weight, ({0},)),
    ("conv_transpose", frozenset({1}), _of_transposed, ({0},)),
    ("mul", frozenset({0, 1}), lambda values: 1, ({0}, {1})),
    ("div", frozenset({1}), lambda values: 1, ({0},)),
    ("matmul", frozenset({0, 1}), _of_product(0), ({0}, {1})),
    ("addmm", frozenset({1, 2}), _of_product(1), ({1}, {2}, {0, 1}, {0, 2})),
)
for _name, _coefficients, _terms, _groups in _WEIGHTED:
    TABLE.rule(_name, grade=BOUND, note="with constant weights", applies=_fixed(*_groups))(
        _weighted(_name, _coefficients, _terms)
    )


@TABLE.rule("neg", grade=BOUND)
def _neg(operands: Sequence[Any], attributes: dict[str, Any]) -> Zonotope:
    (data,) = operands
    return Zonotope(-data.centre, -data.slope, data.error)


@TABLE.rule("add", grade=BOUND)
def _add(operands: Sequence[Any], attributes: dict[str, Any]) -> Zonotope:
    return _sum("add", operands, attributes)


@TABLE.rule("sub", grade=BOUND)
def _sub(operands: Sequence[Any], attributes: dict[str, Any]) -> Zonotope:
    return _sum("sub", operands, attributes)


def _sum(name: str, operands: Sequence[Any], attributes: dict[str, Any]) -> Zonotope:
    gamma = rounding(2)
    first, second = (
        _inflated(value, gamma) if isinstance(value, Zonotope) else gamma * value.abs() for value in operands
    )
    errors = (first + abs(attributes.get("alpha", 1)) * second) * (1 + 2 * gamma) + TINY
    return affine(OPERATORS[name], operands, attributes, errors)


@TABLE.rule("batch_norm", grade=BOUND, note="evaluation mode", applies=_fixed({0}))
def _batch_norm(operands: Sequence[Any], attributes: dict[str, Any]) -> Zonotope:
    data, weight, bias, mean, variance = operands
    shape = (1, -1) + (1,) * (data.centre.dim() - 2)
    gamma = rounding(12)
    scale = torch.rsqrt(variance + attributes["eps"])
    if weight is not None:
        scale = scale * weight
    size = _inflated(data, gamma)
    if mean is not None:
        size = size + gamma * mean.abs().reshape(shape)
    errors = size * scale.abs().reshape(shape)
    if bias is not None:
        errors = errors + gamma * bias.abs().reshape(shape)
    return affine(OPERATORS["batch_norm"], operands, attributes, errors * (1 + 2 * gamma) + TINY)


@TABLE.rule("resize", grade=BOUND, applies=_fixed({0}))
def _resize(operands: Sequence[Any], attributes: dict[str, Any]) -> Zonotope:
    (data,) = operands
    operator = OPERATORS["resize"]
    # the weights themselves are computed: their error is a rounded place on the axis, times any value of the sample
    places = 64 * UNIT * max(data.centre.shape[2:])
    largest = data.magnitude.flatten(1).amax(1).reshape((-1,) + (1,) * (data.centre.dim() - 1))
    errors = operator.linear_part([data.error], frozenset({0}), attributes) * (1 + places) + places * largest + TINY
    return affine(operator, operands, attributes, errors)
