"""Sums, products, comparisons and matrix products of tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from assay.graph.operators.operator import Aten, Converted, Inexpressible, Operator, Sample, randn

_BOTH = (frozenset({0, 1}),)
_EITHER = (frozenset({0}), frozenset({1}))


def _add(x: Tensor, y: Tensor, *, alpha: float = 1) -> Tensor:
    return torch.add(x, y, alpha=alpha)


def _add_squared(x: Tensor, y: Tensor, *, alpha: float = 1) -> Tensor:
    return torch.add(x, y, alpha=alpha * alpha)


def _sub(x: Tensor, y: Tensor, *, alpha: float = 1) -> Tensor:
    return torch.sub(x, y, alpha=alpha)


def _div(x: Tensor, y: Tensor) -> Tensor:
    return x / y


def _addmm(bias: Tensor | None, x: Tensor, y: Tensor) -> Tensor:
    product = x @ y
    return product if bias is None else product + bias


def _addcmul(x: Tensor, y: Tensor, z: Tensor, *, value: float = 1) -> Tensor:
    return torch.addcmul(x, y, z, value=value)


def _addcmul_squared(x: Tensor, y: Tensor, z: Tensor, *, value: float = 1) -> Tensor:
    return torch.addcmul(x, y, z, value=value * value)


def _scaled_addmm(arguments: dict[str, Any], shape: tuple[Any, ...]) -> Converted:
    if arguments.get("beta", 1) != 1 or arguments.get("alpha", 1) != 1:
        raise Inexpressible("addmm with scaling")
    return Converted((arguments["self"], arguments["mat1"], arguments["mat2"]), {})


def _pair(generator: torch.Generator) -> list[Sample]:
    return [
        Sample((randn(generator, 2, 3, 4), randn(generator, 2, 3, 4))),
        Sample((randn(generator, 2, 3, 4), randn(generator, 3, 1))),
    ]


def _two(name: str, function, *aten: Aten, linear=(), squared=None, square_fixed=False, samples=_pair) -> Operator:
    forms = aten or (Aten(f"{name}.Tensor", ("self", "other")),)
    return Operator(
        name, "arithmetic", function, samples, linear_in=linear, squared=squared, square_fixed=square_fixed, aten=forms
    )


_OTHER = ("self", "other")

OPERATORS = (
    _two(
        "add",
        _add,
        Aten("add.Tensor", _OTHER, ("alpha",)),
        Aten("add.Scalar", _OTHER, ("alpha",)),
        linear=_BOTH,
        squared=_add_squared,
    ),
    _two(
        "sub",
        _sub,
        Aten("sub.Tensor", _OTHER, ("alpha",)),
        Aten("sub.Scalar", _OTHER, ("alpha",)),
        Aten("rsub.Tensor", ("other", "self")),
        Aten("rsub.Scalar", ("other", "self")),
        linear=_BOTH,
        squared=_add_squared,
    ),
    _two(
        "mul",
        torch.mul,
        Aten("mul.Tensor", _OTHER),
        Aten("mul.Scalar", _OTHER),
        linear=_EITHER,
        squared=torch.mul,
        square_fixed=True,
    ),
    _two(
        "div",
        _div,
        Aten("div.Tensor", _OTHER),
        Aten("div.Scalar", _OTHER),
        linear=(frozenset({0}),),
        squared=_div,
        square_fixed=True,
        samples=lambda g: [Sample((randn(g, 2, 3, 4), randn(g, 2, 3, 4).abs() + 0.5))],
    ),
    Operator(
        "neg",
        "arithmetic",
        torch.neg,
        lambda g: [Sample((randn(g, 2, 3),))],
        linear_in=(frozenset({0}),),
        squared=lambda x: x,
        aten=(Aten("neg.default"),),
    ),
    _two("maximum", torch.maximum, Aten("maximum.default", _OTHER)),
    _two("minimum", torch.minimum, Aten("minimum.default", _OTHER)),
    Operator(
        "matmul",
        "arithmetic",
        torch.matmul,
        lambda g: [
            Sample((randn(g, 2, 3, 4), randn(g, 4, 5))),
            Sample((randn(g, 2, 3, 4), randn(g, 2, 4, 5))),
        ],
        linear_in=_EITHER,
        squared=torch.matmul,
        square_fixed=True,
        aten=(
            Aten("matmul.default", _OTHER),
            Aten("mm.default", ("self", "mat2")),
            Aten("bmm.default", ("self", "mat2")),
        ),
    ),
    Operator(
        "addmm",
        "arithmetic",
        _addmm,
        lambda g: [Sample((randn(g, 5), randn(g, 3, 4), randn(g, 4, 5)))],
        linear_in=(frozenset({0, 1}), frozenset({0, 2})),
        offsets=frozenset({0}),
        squared=_addmm,
        square_fixed=True,
        aten=(Aten("addmm.default", convert=_scaled_addmm),),
    ),
    Operator(
        "addcmul",
        "arithmetic",
        _addcmul,
        lambda g: [Sample((randn(g, 2, 3, 4), randn(g, 2, 3, 4), randn(g, 3, 1)), {"value": 0.5})],
        linear_in=(frozenset({0, 1}), frozenset({0, 2})),
        squared=_addcmul_squared,
        square_fixed=True,
        aten=(Aten("addcmul.default", ("self", "tensor1", "tensor2"), ("value",)),),
    ),
    Operator(
        "where",
        "arithmetic",
        torch.where,
        lambda g: [Sample((randn(g, 2, 3) > 0, randn(g, 2, 3), randn(g, 2, 3)))],
        linear_in=(frozenset({1, 2}),),
        squared=torch.where,
        aten=(Aten("where.self", ("condition", "self", "other")),),
    ),
)
