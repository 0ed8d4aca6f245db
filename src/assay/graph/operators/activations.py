"""Elementwise non-linearities."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from assay.graph.operators.operator import Aten, Converted, Operator, Sample, randn


def _row(
    name: str,
    function: Callable[..., Tensor],
    *aten: Aten,
    positive: bool = False,
    kinks: tuple[float, ...] = (),
    linear: bool = False,
    **attributes: Any,
) -> Operator:
    """A row; `positive`: not defined on the whole line, so no Gaussian can go through; `linear`: piecewise linear."""

    def samples(generator: torch.Generator) -> list[Sample]:
        x = randn(generator, 3, 4, 5)
        return [Sample((x.abs() + 0.5 if positive else 2.0 * x,), attributes)]

    forms = aten or (Aten(f"{name}.default"),)
    traits = {"elementwise": not positive, "kinks": kinks, "piecewise_linear": linear}
    return Operator(name, "activation", function, samples, aten=forms, **traits)


def _clip(x: Tensor, *, low: float | None = None, high: float | None = None) -> Tensor:
    return torch.clamp(x, low, high)


def _elu(x: Tensor, *, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Tensor:
    return scale * torch.where(x > 0, x, alpha * torch.expm1(input_scale * x.clamp(max=0)))


def _prelu(x: Tensor, weight: Tensor) -> Tensor:
    if weight.dim() == 1 and weight.numel() > 1 and x.dim() > 2:  # the kernel takes it laid out along the channels
        weight = weight.reshape(-1, *[1] * (x.dim() - 2))
    return torch.where(x > 0, x, weight.to(x.dtype) * x)  # PyTorch's own has no second vmap of its gradient


def _softplus(x: Tensor, *, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    return F.softplus(x, beta, threshold)


def _power(x: Tensor, *, exponent: float) -> Tensor:
    return torch.pow(x, exponent)


def _clamp_form(target: str, low: str | None, high: str | None) -> Aten:
    def convert(arguments: dict[str, Any], shape: tuple[Any, ...]) -> Converted:
        bounds = {"low": arguments.get(low) if low else None, "high": arguments.get(high) if high else None}
        return Converted((arguments["self"],), bounds)

    return Aten(target, convert=convert)


OPERATORS = (
    _row("relu", torch.relu, kinks=(0.0,), linear=True),
    _row(
        "leaky_relu",
        lambda x, *, negative_slope=0.01: F.leaky_relu(x, negative_slope),
        Aten("leaky_relu.default", attributes=("negative_slope",)),
        kinks=(0.0,),
        linear=True,
        negative_slope=0.2,
    ),
    Operator(
        "prelu",
        "activation",
        _prelu,
        lambda g: [Sample((2 * randn(g, 3, 4, 5), randn(g, 4))), Sample((2 * randn(g, 3, 4), randn(g, 1)))],
        elementwise=True,
        kinks=(0.0,),
        piecewise_linear=True,
        aten=(
            Aten("prelu.default", ("self", "weight")),
            Aten("_prelu_kernel.default", ("self", "weight")),
        ),
    ),
    _row(
        "clip",
        _clip,
        _clamp_form("hardtanh.default", "min_val", "max_val"),
        _clamp_form("clamp.default", "min", "max"),
        _clamp_form("clamp_min.default", "min", None),
        _clamp_form("clamp_max.default", None, "max"),
        Aten("relu6.default", fixed={"low": 0.0, "high": 6.0}),
        linear=True,
        low=0.0,
        high=6.0,
    ),
    _row(
        "elu",
        _elu,
        Aten("elu.default", attributes=("alpha", "scale", "input_scale")),
        Aten("selu.default", fixed={"alpha": 1.6732632423543772, "scale": 1.0507009873554805}),
        Aten(
            "celu.default",
            convert=lambda a, _: Converted((a["self"],), {"alpha": a["alpha"], "input_scale": 1 / a["alpha"]}),
        ),
        kinks=(0.0,),
    ),
    _row(
        "gelu",
        lambda x, *, approximate="none": F.gelu(x, approximate=approximate),
        Aten("gelu.default", attributes=("approximate",)),
    ),
    _row("silu", F.silu),
    _row("sigmoid", torch.sigmoid),
    _row("hardsigmoid", F.hardsigmoid, kinks=(-3.0, 3.0), linear=True),
    _row("hardswish", F.hardswish, kinks=(-3.0, 3.0)),
    _row("tanh", torch.tanh),
    _row("softplus", _softplus, Aten("softplus.default", attributes=("beta", "threshold"))),
    _row("mish", F.mish),
    _row("erf", torch.erf),
    _row("exp", torch.exp),
    _row("log", torch.log, positive=True),
    _row("abs", torch.abs, kinks=(0.0,), linear=True),
    _row("sin", torch.sin),
    _row("cos", torch.cos),
    _row(
        "power",
        _power,
        Aten("pow.Tensor_Scalar", attributes=("exponent",)),
        Aten("sqrt.default", fixed={"exponent": 0.5}),
        Aten("rsqrt.default", fixed={"exponent": -0.5}),
        Aten("reciprocal.default", fixed={"exponent": -1.0}),
        Aten("square.default", fixed={"exponent": 2.0}),
        positive=True,
        exponent=2.0,
    ),
)
