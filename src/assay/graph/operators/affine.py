"""Layers that are affine in their data: dense, convolution, transposed convolution, batch norm, resizing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import grad

from assay.graph.operators.operator import Aten, Converted, Operator, Sample, randn

_DATA = (frozenset({0}), frozenset({1}))


def _convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, stride=1, padding=0, dilation=1, groups=1
) -> Tensor:
    function = (F.conv1d, F.conv2d, F.conv3d)[weight.dim() - 3]
    return function(x, weight, bias, stride, padding, dilation, groups)


def _convolve_back(
    cotangents: Tensor,
    shape: Sequence[int],
    weight: Tensor,
    *_: Tensor | None,
    stride=1,
    padding=0,
    dilation=1,
    groups=1,
) -> Tensor | None:
    if isinstance(padding, str) or len(shape) != weight.dim():
        return None
    back = (grad.conv1d_input, grad.conv2d_input, grad.conv3d_input)[weight.dim() - 3]
    rows = (cotangents.shape[0] * shape[0], *shape[1:])
    flat = cotangents.reshape(rows[0], *cotangents.shape[2:])
    return back(rows, weight, flat, stride, padding, dilation, groups).reshape(-1, *shape)


def _linear_back(cotangents: Tensor, shape: Sequence[int], weight: Tensor, *_: Tensor | None) -> Tensor | None:
    return cotangents @ weight if weight.dim() == 2 else None


def _convolve_transposed(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride=1,
    padding=0,
    output_padding=0,
    groups=1,
    dilation=1,
) -> Tensor:
    function = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[weight.dim() - 3]
    return function(x, weight, bias, stride, padding, output_padding, groups, dilation)


def _batch_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor | None, variance: Tensor, *, eps: float
) -> Tensor:
    shape = (1, -1) + (1,) * (x.dim() - 2)
    scale = torch.rsqrt(variance + eps)
    if weight is not None:
        scale = scale * weight
    shift = None if mean is None else -mean * scale
    if bias is not None:
        shift = bias if shift is None else shift + bias
    result = x * scale.reshape(shape)
    return result if shift is None else result + shift.reshape(shape)


def _batch_norm_squared(x, weight, bias, mean, variance, *, eps):
    scale = torch.rsqrt(variance + eps) * (1.0 if weight is None else weight)
    return x * (scale * scale).reshape((1, -1) + (1,) * (x.dim() - 2))


def _resize(
    x: Tensor,
    *,
    size: Sequence[int],
    mode: str,
    align_corners: bool | None = None,
    scale: Sequence[float] | None = None,
) -> Tensor:
    # a factor that is given, and not the ratio of sizes, places the samples
    if scale is not None:
        return F.interpolate(x, scale_factor=tuple(scale), mode=mode, align_corners=align_corners)
    return F.interpolate(x, tuple(size), mode=mode, align_corners=align_corners)


def _resize_squared(
    x: Tensor,
    *,
    size: Sequence[int],
    mode: str,
    align_corners: bool | None = None,
    scale: Sequence[float] | None = None,
) -> Tensor:
    line = "nearest" if mode == "nearest" else "linear"
    for place, out in enumerate(size):  # coefficients are products of one per axis
        axis = place + 2
        units = torch.eye(x.shape[axis], dtype=x.dtype, device=x.device).unsqueeze(1)
        factor = None if scale is None else scale[place : place + 1]
        weights = _resize(units, size=(out,), mode=line, align_corners=align_corners, scale=factor).squeeze(1)
        x = (x.movedim(axis, -1) @ weights.square()).movedim(-1, axis)
    return x


def _resize_form(mode: str, dims: int) -> Aten:
    def convert(arguments: dict[str, Any], shape: tuple[Any, ...]) -> Converted:
        scale = None if arguments["scale_factors"] is None else tuple(arguments["scale_factors"])
        sizes = {"size": tuple(shape[2:]), "scale": scale}
        return Converted((arguments["input"],), sizes | {"mode": mode, "align_corners": arguments.get("align_corners")})

    return Aten(f"upsample_{mode}{dims}d.vec", convert=convert)


_CONV = ("stride", "padding", "dilation", "groups")
_TRANSPOSED = ("stride", "padding", "output_padding", "groups", "dilation")
_CONV_INPUTS = ("input", "weight", "bias")

OPERATORS = (
    Operator(
        "linear",
        "affine",
        F.linear,
        lambda g: [
            Sample((randn(g, 3, 5), randn(g, 4, 5), randn(g, 4))),
            Sample((randn(g, 2, 3, 5), randn(g, 4, 5), None)),
        ],
        linear_in=_DATA,
        offsets=frozenset({2}),
        squared=F.linear,
        square_fixed=True,
        transposed=_linear_back,
        aten=(Aten("linear.default", _CONV_INPUTS),),
    ),
    Operator(
        "conv",
        "affine",
        _convolve,
        lambda g: [
            Sample((randn(g, 2, 3, 6, 6), randn(g, 4, 3, 3, 3), randn(g, 4)), {"padding": (1, 1)}),
            Sample(
                (randn(g, 2, 4, 7, 7), randn(g, 4, 1, 3, 3), None), {"stride": (2, 2), "groups": 4, "dilation": (2, 2)}
            ),
            Sample((randn(g, 2, 3, 9), randn(g, 4, 3, 3), randn(g, 4)), {"stride": (2,)}),
            Sample((randn(g, 2, 2, 4, 4, 4), randn(g, 3, 2, 2, 2, 2), randn(g, 3)), {}),
        ],
        linear_in=_DATA,
        offsets=frozenset({2}),
        squared=_convolve,
        square_fixed=True,
        transposed=_convolve_back,
        aten=tuple(Aten(f"conv{d}d.{form}", _CONV_INPUTS, _CONV) for d in (1, 2, 3) for form in ("default", "padding")),
    ),
    Operator(
        "conv_transpose",
        "affine",
        _convolve_transposed,
        lambda g: [
            Sample(
                (randn(g, 2, 3, 4, 4), randn(g, 3, 4, 3, 3), randn(g, 4)), {"stride": (2, 2), "output_padding": (1, 1)}
            ),
            Sample((randn(g, 2, 3, 6), randn(g, 3, 2, 3), None), {"padding": (1,)}),
        ],
        linear_in=_DATA,
        offsets=frozenset({2}),
        squared=_convolve_transposed,
        square_fixed=True,
        aten=(
            Aten("conv_transpose1d.default", _CONV_INPUTS, _TRANSPOSED),
            Aten("conv_transpose2d.input", _CONV_INPUTS, _TRANSPOSED),
            Aten("conv_transpose3d.input", _CONV_INPUTS, _TRANSPOSED),
        ),
    ),
    Operator(
        "batch_norm",
        "affine",
        _batch_norm,
        lambda g: [
            Sample(
                (randn(g, 3, 4, 5, 5), randn(g, 4), randn(g, 4), randn(g, 4), randn(g, 4).exp()),
                {"eps": 1e-5},
            ),
            Sample((randn(g, 3, 4), None, None, randn(g, 4), randn(g, 4).exp()), {"eps": 1e-3}),
        ],
        linear_in=(frozenset({0}),),
        offsets=frozenset({2, 3}),
        squared=_batch_norm_squared,
        aten=(
            Aten(
                "_native_batch_norm_legit_no_training.default",
                ("input", "weight", "bias", "running_mean", "running_var"),
                ("eps",),
            ),
            Aten("batch_norm.default", ("input", "weight", "bias", "running_mean", "running_var"), ("eps",)),
        ),
    ),
    Operator(
        "resize",
        "affine",
        _resize,
        lambda g: [
            Sample((randn(g, 2, 3, 4, 4),), {"size": (8, 8), "mode": "nearest"}),
            Sample((randn(g, 2, 3, 4, 4),), {"size": (7, 9), "mode": "bilinear", "align_corners": False}),
            Sample((randn(g, 2, 3, 5),), {"size": (7,), "mode": "linear", "align_corners": True}),
            Sample(
                (randn(g, 2, 2, 5, 3),),
                {"size": (7, 4), "mode": "bilinear", "align_corners": False, "scale": (1.5, 1.4)},
            ),
        ],
        linear_in=(frozenset({0}),),
        squared=_resize_squared,
        aten=(
            *(_resize_form("nearest", dims) for dims in (1, 2, 3)),
            *(_resize_form(mode, dims) for dims, mode in enumerate(("linear", "bilinear", "trilinear"), start=1)),
        ),
    ),
)
