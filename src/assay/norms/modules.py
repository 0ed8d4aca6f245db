"""From an `nn.Module` and the shape of one sample to a map with known norms. Unknown modules are an error."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from assay.errors import SubjectError, UnsupportedOperator, UsageError
from assay.norms import gains
from assay.norms.build import (
    Shape,
    adaptive_average_pool,
    adaptive_max_pool,
    average_pool,
    checked,
    fold,
    max_pool,
    mismatch,
    moved,
    numbers,
    padded,
    resized,
    scaled_channels,
)
from assay.norms.convolution import Convolution, convolution_axes, transposed_axes
from assay.norms.maps import Composition, Fixed, Map, Matrix

Maker = Callable[[Any, Shape], Map]


def describe(layer: nn.Module, shape: Sequence[int]) -> Map:
    """The map of a module in evaluation mode.

    Args:
        layer: a known module or a `Sequential` of them.
        shape: of one sample; a leading batch axis is dropped where the number of axes tells.

    Returns:
        The map; batch norms of a `Sequential` folded.

    Raises:
        UsageError: for sizes below 1 or a shape that does not fit.
        SubjectError: see `operator_norm`.
    """
    shape = tuple(shape)
    if any(size < 1 for size in shape):
        raise UsageError(
            f"Sizes must be positive, got {shape}.", where="input_shape", advice="Give one sample's shape."
        )
    leaves = list(_leaves(layer))
    if not leaves:
        return moved(lambda x: x, shape)
    rank = next((r for r in (_rank(leaf) for leaf in leaves[:1]) if r), 0)
    if rank and len(shape) == rank + 1:
        shape = shape[1:]
    try:
        return _chain(leaves, shape)
    except (RuntimeError, ValueError, IndexError) as error:  # of torch's own shape checks
        first = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise UsageError(
            f"The layer does not take a sample of shape {shape}: {first}",
            where="input_shape",
            advice="Give the shape of one sample as the layer sees it.",
        ) from error


def _leaves(layer: nn.Module) -> list[nn.Module]:
    if type(layer).forward is nn.Sequential.forward:
        return [leaf for child in layer.children() for leaf in _leaves(child)]
    return [] if isinstance(layer, nn.Identity) else [layer]


def _chain(leaves: Sequence[nn.Module], shape: Shape) -> Map:
    members: list[Map] = []
    for leaf in leaves:
        members.append(_describe_leaf(leaf, shape))
        shape = members[-1].output_shape
    if len(members) == 1:
        return members[0]
    folded = fold(members)
    changed = len(folded) < len(members)
    notes = ("batch norms are folded into the layers beside them",) if changed else ()
    return Composition(folded, members if changed else (), notes)


def _describe_leaf(layer: nn.Module, shape: Shape) -> Map:
    name = type(layer).__name__
    for kind, maker in _MAKERS.items():
        # a subclass with a forward pass of its own may compute something else
        if isinstance(layer, kind) and type(layer).forward is kind.forward:
            return maker(layer, shape)
    raise UnsupportedOperator(
        f"No norm is known for the layer {name}.",
        where=name,
        advice="Use node_norm on a captured graph, local_norm at a point, or describe it by layers of torch.nn.",
    )


def _dimensions(layer: nn.Module) -> int:
    """Spatial axes from the class name, such as 2 for MaxPool2d."""
    kind = next(k for k in type(layer).__mro__ if k.__module__.startswith("torch.nn.modules"))
    return int(kind.__name__[-2])


_SPATIAL = (
    "Conv",
    "ConvTranspose",
    "AvgPool",
    "MaxPool",
    "AdaptiveAvgPool",
    "AdaptiveMaxPool",
    "ZeroPad",
    "ConstantPad",
    "ReflectionPad",
    "ReplicationPad",
    "CircularPad",
)


def _rank(layer: nn.Module) -> int:
    """Axes of one sample where the layer fixes them, else 0."""
    for kind in type(layer).__mro__:
        if kind.__name__[:-2] in _SPATIAL and kind.__name__[-1] == "d":
            return int(kind.__name__[-2]) + 1
    if isinstance(layer, (nn.BatchNorm2d, nn.BatchNorm3d)):
        return 3 if isinstance(layer, nn.BatchNorm2d) else 4
    return 3 if isinstance(layer, (nn.PixelShuffle, nn.PixelUnshuffle)) else 0


def _linear(layer: nn.Linear, shape: Shape) -> Map:
    weight = checked(layer.weight, "Linear")
    if not shape or shape[-1] != weight.shape[1]:
        raise mismatch(f"(..., {weight.shape[1]})", shape, "Linear")
    return Matrix(weight, shape)


def _check_image(layer: Any, shape: Shape, channels: int) -> int:
    dims = _dimensions(layer)
    if len(shape) != dims + 1 or shape[0] != channels:
        sizes = ", ".join(("length", "height, width", "depth, height, width")[dims - 1].split(", "))
        raise mismatch(f"({channels}, {sizes})", shape, type(layer).__name__)
    return dims


def _convolution(layer: Any, shape: Shape) -> Map:
    weight = checked(layer.weight, type(layer).__name__)
    _check_image(layer, shape, layer.in_channels)
    axes = convolution_axes(
        shape[1:], weight.shape[2:], layer.stride, layer.padding, layer.dilation, layer.padding_mode
    )
    return Convolution(weight, axes, layer.groups)


def _transposed(layer: Any, shape: Shape) -> Map:
    weight = checked(layer.weight, type(layer).__name__)
    _check_image(layer, shape, layer.in_channels)
    axes = transposed_axes(
        shape[1:], weight.shape[2:], layer.stride, layer.padding, layer.output_padding, layer.dilation
    )
    return Convolution(weight, axes, layer.groups, adjoint=True)


def _batch_norm(layer: Any, shape: Shape) -> Map:
    name = type(layer).__name__
    if layer.training or layer.running_var is None:
        raise SubjectError(
            f"{name} uses the statistics of the batch: it is no map of one sample.",
            where=name,
            advice="Call layer.eval() (and keep track_running_stats=True).",
        )
    variance = checked(layer.running_var, name)
    scale = torch.rsqrt(variance.double() + layer.eps)
    if layer.weight is not None:
        scale = scale * checked(layer.weight, name).double()
    if not bool(torch.isfinite(scale).all()):
        raise SubjectError(f"A running variance of {name} is negative.", where=name, advice="Load sound statistics.")
    channels = len(scale)
    if isinstance(layer, nn.BatchNorm1d) and len(shape) == 2 and shape[0] != channels and shape[1] == channels:
        shape = shape[1:]  # (batch, channels)
    if not shape or shape[0] != channels:
        raise mismatch(f"({channels}, ...)", shape, name)
    return scaled_channels(scale, shape)


def _average(layer: Any, shape: Shape) -> Map:
    dims = _image_dims(layer, shape)
    stride = layer.kernel_size if layer.stride is None else layer.stride
    kernel, steps, padding = (numbers(value, dims) for value in (layer.kernel_size, stride, layer.padding))
    divisor = getattr(layer, "divisor_override", None)
    return average_pool(shape, kernel, steps, padding, layer.ceil_mode, layer.count_include_pad, divisor)


def _maximum(layer: Any, shape: Shape) -> Map:
    dims = _image_dims(layer, shape)
    stride = layer.kernel_size if layer.stride is None else layer.stride
    kernel, steps = numbers(layer.kernel_size, dims), numbers(stride, dims)
    if layer.return_indices:
        raise SubjectError("A layer that returns indices too has no norm.", where="MaxPool", advice="Drop the indices.")
    padding, dilation = numbers(layer.padding, dims), numbers(layer.dilation, dims)
    return max_pool(shape, kernel, steps, padding, dilation, layer.ceil_mode)


def _image_dims(layer: Any, shape: Shape) -> int:
    dims = _dimensions(layer)
    if len(shape) != dims + 1:
        raise mismatch(f"of {dims + 1} axes", shape, type(layer).__name__)
    return dims


def _sizes(layer: Any, shape: Shape) -> tuple[int | None, ...]:
    dims = _image_dims(layer, shape)
    size = layer.output_size
    return (size,) * dims if isinstance(size, int) or size is None else tuple(size)


def _flatten(layer: Any, shape: Shape) -> Map:
    if layer.start_dim == 0:
        raise SubjectError("Flattening the batch axis mixes samples.", where="Flatten", advice="Use start_dim=1.")
    return _move(layer, shape)


def _move(layer: nn.Module, shape: Shape) -> Map:
    return moved(layer, shape)


def _dropout(layer: Any, shape: Shape) -> Map:
    if layer.training:
        raise SubjectError("Dropout in training mode is random.", where=type(layer).__name__, advice="Call eval().")
    return moved(lambda x: x, shape)


def _random_relu(layer: Any, shape: Shape) -> Map:
    if layer.training:
        raise SubjectError("RReLU in training mode is random.", where="RReLU", advice="Call eval().")
    gain = max(1.0, abs(layer.lower + layer.upper) / 2)
    return Fixed(gain, gain, input_shape=shape, output_shape=shape)


def _pad(mode: str) -> Maker:
    return lambda layer, shape: padded(shape, numbers(layer.padding, 2 * _image_dims(layer, shape)), mode)


def _upsample(layer: Any, shape: Shape) -> Map:
    dims = len(shape) - 1
    if dims < 1 or dims > 3:
        raise mismatch("of 2 to 4 axes", shape, "Upsample")
    size = None if layer.size is None else numbers(layer.size, dims)
    scale = layer.scale_factor
    scale = None if scale is None else (float(scale),) * dims if isinstance(scale, (int, float)) else tuple(scale)
    mode = "nearest" if layer.mode == "nearest" else layer.mode
    again = {"recompute_scale_factor": True} if layer.recompute_scale_factor else {}
    return resized(shape, size, scale, mode, layer.align_corners, **again)


def _elementwise(operator: str, **names: str) -> Maker:
    """An activation of the operator table; `names` maps its attributes to those of the module."""

    def make(layer: Any, shape: Shape) -> Map:
        attributes = {key: getattr(layer, name) for key, name in names.items()}
        gain, error = gains.activation_gain(operator, **attributes)
        method = "maximisation" if error else "formula"
        return Fixed(gain, gain, relative_error=error, input_shape=shape, output_shape=shape, method=method)

    return make


def _constant(gain: Callable[[Any, Shape], float]) -> Maker:
    def make(layer: Any, shape: Shape) -> Map:
        value = gain(layer, shape)
        return Fixed(value, value, input_shape=shape, output_shape=shape)

    return make


def _prelu(layer: nn.PReLU, shape: Shape) -> Map:
    gain = max(1.0, float(checked(layer.weight, "PReLU").double().abs().max()))
    return Fixed(gain, gain, input_shape=shape, output_shape=shape)


def _softmax(log: bool) -> Maker:
    def make(layer: Any, shape: Shape) -> Map:
        axis = getattr(layer, "dim", -3)
        if axis is None or axis == 0:
            raise SubjectError("Softmax over the batch axis mixes samples.", where="Softmax", advice="Give dim=1.")
        classes = shape[axis - 1 if axis > 0 else axis]
        gain = gains.log_softmax_gain(classes) if log else gains.softmax_gain(classes)
        # inf norm: absolute row sums are 2 p (1 - p) for softmax, and 2 (1 - p) for its logarithm
        gain_inf = (2.0 if log else 0.5) if classes > 1 else 0.0
        return Fixed(gain, gain_inf, input_shape=shape, output_shape=shape)

    return make


def _normalisation(layer: Any, shape: Shape) -> Map:
    name = type(layer).__name__
    if getattr(layer, "track_running_stats", False):
        raise UnsupportedOperator(
            f"{name} with running statistics is not supported.",
            where=name,
            advice="Use a captured graph and node_norm.",
        )
    weight = None if layer.weight is None else checked(layer.weight, name)
    gain = gains.normalisation_gain(weight, layer.eps, torch.float32 if weight is None else weight.dtype)
    return normalised(gain, shape)


def normalised(gain: float, shape: Shape) -> Fixed:
    """A normalisation with this 2-norm gain; from inf to inf sqrt(n) bounds it."""
    note = ("global: approached only at inputs without variance; local_norm gives the gain at a point",)
    wide = gain * math.sqrt(math.prod(shape))
    return Fixed(gain, wide, attained=False, input_shape=shape, output_shape=shape, method="epsilon", notes=note)


_MAKERS: dict[type[nn.Module], Maker] = {
    nn.Linear: _linear,
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), _convolution),
    **dict.fromkeys((nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), _transposed),
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm), _batch_norm),
    **dict.fromkeys((nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d), _average),
    **dict.fromkeys((nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d), _maximum),
    **dict.fromkeys(
        (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
        lambda layer, shape: adaptive_average_pool(shape, _sizes(layer, shape)),
    ),
    **dict.fromkeys(
        (nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
        lambda layer, shape: adaptive_max_pool(shape, _sizes(layer, shape)),
    ),
    nn.Flatten: _flatten,
    **dict.fromkeys((nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle, nn.Unflatten), _move),
    **dict.fromkeys(
        (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout), _dropout
    ),
    **dict.fromkeys((nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d), _pad("zeros")),
    **dict.fromkeys((nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReflectionPad3d), _pad("reflect")),
    **dict.fromkeys((nn.ReplicationPad1d, nn.ReplicationPad2d, nn.ReplicationPad3d), _pad("replicate")),
    **dict.fromkeys((nn.CircularPad1d, nn.CircularPad2d, nn.CircularPad3d), _pad("circular")),
    nn.Upsample: _upsample,
    nn.ReLU: _elementwise("relu"),
    nn.LeakyReLU: _elementwise("leaky_relu", negative_slope="negative_slope"),
    nn.Hardtanh: _elementwise("clip", low="min_val", high="max_val"),
    nn.ReLU6: _elementwise("clip", low="min_val", high="max_val"),
    nn.ELU: _elementwise("elu", alpha="alpha"),
    nn.SELU: _constant(lambda layer, shape: 1.7580993408473766),
    nn.CELU: _constant(lambda layer, shape: 1.0),
    nn.GELU: _elementwise("gelu", approximate="approximate"),
    nn.SiLU: _elementwise("silu"),
    nn.Mish: _elementwise("mish"),
    nn.Sigmoid: _elementwise("sigmoid"),
    nn.Hardsigmoid: _elementwise("hardsigmoid"),
    nn.Hardswish: _elementwise("hardswish"),
    nn.Tanh: _elementwise("tanh"),
    nn.Softplus: _elementwise("softplus", beta="beta", threshold="threshold"),
    **dict.fromkeys((nn.Softsign, nn.LogSigmoid, nn.Tanhshrink, nn.Softshrink), _constant(lambda layer, shape: 1.0)),
    nn.RReLU: _random_relu,
    nn.PReLU: _prelu,
    **dict.fromkeys((nn.Softmax, nn.Softmin, nn.Softmax2d), _softmax(log=False)),
    nn.LogSoftmax: _softmax(log=True),
    **dict.fromkeys(
        (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
        _normalisation,
    ),
}
