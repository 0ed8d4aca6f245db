"""Maps that modules and graph nodes share: pooling, resizing, padding, folding of scales."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from assay.errors import NumericalError, SubjectError, UsageError
from assay.norms.axes import Axis, adaptive_windows, overlaps
from assay.norms.convolution import Convolution
from assay.norms.maps import Diagonal, Fixed, Map, Matrix, Separable

Shape = tuple[int, ...]


def numbers(value: int | Sequence[int], dims: int) -> tuple[int, ...]:
    """One number per axis."""
    if isinstance(value, int):
        return (value,) * dims
    given = tuple(int(v) for v in value)
    return given * dims if len(given) == 1 else given


def checked(weight: Tensor | None, where: str) -> Tensor:
    """Detached weights, real floating point and finite.

    Args:
        weight: any tensor, or None.
        where: the layer, for people.

    Returns:
        The weight without gradient.

    Raises:
        SubjectError: where they are not floating point, or absent.
        NumericalError: where they hold NaN or infinity.
    """
    if weight is None or isinstance(weight, torch.nn.parameter.UninitializedParameter):
        raise SubjectError(
            "The layer has no weights yet.", where=where, advice="Run a lazy layer once before asking for its norm."
        )
    if not weight.dtype.is_floating_point:
        raise SubjectError(
            f"The weights are {weight.dtype}, not real floating point.",
            where=where,
            advice="Dequantise the layer, or convert it with layer.double().",
        )
    weight = weight.detach()
    if not bool(torch.isfinite(weight).all()):
        raise NumericalError(
            "The weights hold NaN or infinity.", where=where, advice="Load weights that are finite: no norm exists."
        )
    return weight


def mismatch(expected: str, shape: Sequence[int], where: str) -> UsageError:
    """The shape of a sample that does not fit the layer."""
    return UsageError(
        f"{where} takes samples of shape {expected}, not {tuple(shape)}.",
        where="input_shape",
        advice="Give the shape of one sample as the layer sees it.",
    )


def moved(function: Callable[[Tensor], Tensor], shape: Shape, repeats: int = 1, method: str = "move") -> Fixed:
    """A layer that only moves elements, or writes one of them at most `repeats` times in all places."""
    out = tuple(function(torch.empty(1, *shape, device="meta")).shape[1:])
    gain = math.sqrt(repeats) if math.prod(out) else 0.0
    kept = min(math.prod(out), repeats * math.prod(shape))
    return Fixed(gain, min(gain, 1.0), math.sqrt(kept), True, function, 0.0, shape, out, method)


def average_pool(
    shape: Shape,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    ceil_mode: bool,
    count_include_pad: bool,
    divisor: int | None,
) -> Separable:
    """Average pooling is a matrix along each axis, whatever it divides by."""
    matrices = []
    for place, size in enumerate(shape[-len(kernel) :]):
        units = torch.eye(size, dtype=torch.float64).unsqueeze(1)
        pooled = F.avg_pool1d(units, kernel[place], stride[place], padding[place], ceil_mode, count_include_pad)
        matrix = pooled.squeeze(1).mT
        matrices.append((matrix > 0).double() if divisor else matrix)
    if divisor:
        matrices[0] = matrices[0] / divisor
    return Separable(tuple(matrices), shape, "separable")


def adaptive_average_pool(shape: Shape, outputs: Sequence[int | None]) -> Separable:
    """Averages over windows that adapt to the size; None keeps a size."""
    matrices = []
    for size, out in zip(shape[-len(outputs) :], outputs, strict=True):
        units = torch.eye(size, dtype=torch.float64).unsqueeze(1)
        matrices.append(F.adaptive_avg_pool1d(units, size if out is None else out).squeeze(1).mT)
    return Separable(tuple(matrices), shape)


def max_pool(
    shape: Shape,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
) -> Fixed:
    """Sqrt of the most windows that see one element: attained by a single spike there."""
    reads, outputs = 1, list(shape[: -len(kernel)])
    for place, size in enumerate(shape[-len(kernel) :]):
        pooled = F.max_pool1d(
            torch.zeros(1, 1, size), kernel[place], stride[place], padding[place], dilation[place], ceil_mode
        )
        count = pooled.shape[-1]
        span = dilation[place] * (kernel[place] - 1) + 1
        high = max(padding[place], (count - 1) * stride[place] + span - size - padding[place])
        reads *= Axis(size, kernel[place], stride[place], dilation[place], padding[place], high, outputs=count).reads
        outputs.append(count)
    return Fixed(math.sqrt(reads), 1.0, input_shape=shape, output_shape=tuple(outputs), method="overlaps")


def adaptive_max_pool(shape: Shape, outputs: Sequence[int | None]) -> Fixed:
    """Sqrt of the most windows that see one element."""
    sizes = shape[-len(outputs) :]
    wanted = [size if out is None else out for size, out in zip(sizes, outputs, strict=True)]
    most = math.prod(overlaps(adaptive_windows(size, out), size) for size, out in zip(sizes, wanted, strict=True))
    made = (*shape[: -len(outputs)], *wanted)
    return Fixed(math.sqrt(most), 1.0, input_shape=shape, output_shape=made, method="overlaps")


def padded(shape: Shape, pads: Sequence[int], mode: str) -> Separable:
    """Padding (negative: cropping) of the last axes, in torch's order of `pads`; constants are only an offset."""
    dims = len(pads) // 2
    matrices = []
    for place, size in enumerate(shape[len(shape) - dims :]):
        low, high = pads[2 * (dims - 1 - place)], pads[2 * (dims - 1 - place) + 1]
        units = torch.eye(size, dtype=torch.float64).unsqueeze(0)  # padded along the columns
        kept = units if not (low or high) else F.pad(units, (low, high), "constant" if mode == "zeros" else mode)
        matrices.append(kept.squeeze(0).mT)
    return Separable(tuple(matrices), shape, "padding")


def resized(
    shape: Shape, size: Sequence[int] | None, scale: Sequence[float] | None, mode: str, corners: bool | None, **how: Any
) -> Separable:
    """Interpolation is a matrix along each axis."""
    dims = len(size if size is not None else scale or ())
    matrices = []
    for place, length in enumerate(shape[-dims:]):
        units = torch.eye(length, dtype=torch.float64).unsqueeze(1)
        given = {
            "size": None if scale is not None or size is None else size[place],
            "scale_factor": None if scale is None else scale[place],
        }
        if mode == "bicubic":  # has no one-dimensional form: a second axis of one element adds weights that sum to one
            given = {key: None if v is None else (v, 1) for key, v in given.items()}
            made = F.interpolate(units.unsqueeze(3), **given, mode=mode, align_corners=corners, **how).squeeze(3)
        else:
            line = "linear" if mode.endswith("linear") else mode
            made = F.interpolate(units, **given, mode=line, align_corners=corners, **how)
        matrices.append(made.squeeze(1).mT)
    return Separable(tuple(matrices), shape, "resize")


def scaled_channels(scale: Tensor, shape: Shape, channel: int = 0) -> Diagonal:
    """One factor per channel."""
    view = [1] * len(shape)
    view[channel] = -1
    return Diagonal(scale.reshape(view), shape, shape)


def fold(members: Sequence[Map]) -> list[Map]:
    """Scales per channel multiplied into the convolution or matrix beside them: the same linear map."""
    made: list[Map] = []
    for member in members:
        last = made[-1] if made else None
        if (_scale_of(member) is not None and (joined := _absorb(last, outputs=_scale_of(member))) is not None) or (
            last is not None
            and _scale_of(last) is not None
            and (joined := _absorb(member, inputs=_scale_of(last))) is not None
        ):
            made[-1] = joined
        else:
            made.append(member)
    return made


def _scale_of(layer: Map) -> Tensor | None:
    if isinstance(layer, Diagonal) and layer.input_shape == layer.output_shape and layer.input_shape:
        scale = layer.scale
        one_per_channel = scale.dim() == len(layer.input_shape) and scale.numel() == layer.input_shape[0]
        if one_per_channel and scale.shape[0] == layer.input_shape[0]:
            return scale.flatten()
    return None


def _absorb(layer: Map | None, outputs: Tensor | None = None, inputs: Tensor | None = None) -> Map | None:
    if isinstance(layer, Convolution):
        return layer.scaled(outputs, inputs)
    if isinstance(layer, Matrix) and len(layer.input_shape) == 1:
        weight = layer.weight.double()
        weight = weight if outputs is None else weight * outputs.double()[:, None]
        return replace(layer, weight=weight if inputs is None else weight * inputs.double()[None, :])
    return None
