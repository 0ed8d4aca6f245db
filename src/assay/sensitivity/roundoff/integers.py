"""Integer formats with a scale (per tensor, channel, group or sample; symmetric or affine) and fixed point."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from assay.errors import NumericalError, UsageError
from assay.sensitivity.roundoff.rounding import error_bound, error_variance, widened

Granularity = Literal["tensor", "channel", "group", "sample"]


@dataclass(frozen=True)
class IntegerFormat:
    """Integers times a scale, saturating; affine formats add an integer zero point.

    Symmetric: levels -(2^(b-1) - 1) .. 2^(b-1) - 1 and the scale max|x| / (2^(b-1) - 1). Affine: levels 0 .. 2^b - 1
    over the range of x stretched to hold 0, which stays exact. Where scales hold no value of their own (`scales` is
    None), they come from the tensor being rounded: right for weights; for activations that means from the batch at
    hand, so a sample's result depends on its companions unless the granularity is "sample". `calibrated` fixes them.

    Attributes:
        width: bits b, 2 to 24.
        granularity: one scale per "tensor", per "channel" of `axis`, per "group" of consecutive inputs of a channel,
            or per "sample" (the first axis; activations only).
        group: inputs per group, for granularity "group"; the last group of a channel may be smaller.
        symmetric: False for affine.
        axis: the channel axis: 0 for weights of dense and convolution layers, 1 for activations.
        scales: fixed scales, one or one per channel; None to take them from the tensor.
        zero_points: fixed zero points of an affine format, one per scale.

    Example:
        >>> IntegerFormat(4).round(torch.tensor([3.5, -1.3, 0.2])).tolist()  # multiples of 0.5
        [3.5, -1.5, 0.0]
    """

    width: int
    granularity: Granularity = "tensor"
    group: int | None = None
    symmetric: bool = True
    axis: int = 0
    scales: tuple[float, ...] | None = None
    zero_points: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if not 2 <= self.width <= 24:
            raise UsageError(
                f"An integer format has 2 to 24 bits, got {self.width}.",
                where="IntegerFormat",
                advice="One bit leaves no level but 0.",
            )
        if self.granularity not in ("tensor", "channel", "group", "sample"):
            raise UsageError(
                f"granularity={self.granularity!r} is unknown.",
                where="IntegerFormat",
                advice="Use tensor, channel, group or sample.",
            )
        if (self.granularity == "group") != (self.group is not None) or (self.group is not None and self.group < 1):
            raise UsageError(
                f"granularity={self.granularity!r} and group={self.group} do not fit.",
                where="IntegerFormat",
                advice='Give a positive group with granularity="group", and only then.',
            )
        if self.scales is not None and (
            self.granularity not in ("tensor", "channel")
            or not all(0 < scale < float("inf") for scale in self.scales)
            or (self.granularity == "tensor" and len(self.scales) != 1)
            or len(self.zero_points or self.scales) != len(self.scales)
        ):
            raise UsageError(
                "Fixed scales must be positive, one per tensor or one per channel, with as many zero points.",
                where="IntegerFormat",
                advice="Let calibrated(format, values) make them.",
            )

    @property
    def name(self) -> str:
        """Such as ``int8``, ``int4_channel``, ``int4_group64``, ``int8_affine``."""
        place = "" if self.granularity == "tensor" else f"_{self.granularity}{self.group or ''}"
        return f"int{self.width}{place}{'' if self.symmetric else '_affine'}"

    @property
    def bits(self) -> int:
        """Bits per number; scales come on top."""
        return self.width

    @property
    def unit_roundoff(self) -> None:
        """None: the error is absolute."""
        return

    @property
    def levels(self) -> tuple[int, int]:
        """Smallest and largest integer."""
        return (1 - 2 ** (self.width - 1), 2 ** (self.width - 1) - 1) if self.symmetric else (0, 2**self.width - 1)

    @property
    def dynamic(self) -> bool:
        """True when scales come from the tensor being rounded."""
        return self.scales is None

    def along(self, axis: int) -> IntegerFormat:
        """The same format with its channels along another axis."""
        return replace(self, axis=axis)

    def round(self, x: Tensor) -> Tensor:
        """Nearest level times scale, ties to even, saturated.

        Returns:
            In the shape and dtype of x.

        Raises:
            NumericalError: when scales have to come from values that hold NaN or infinity.
            UsageError: when fixed scales do not fit the channels.
        """
        wide = widened(x)
        if wide.numel() == 0:
            return x.detach().clone()
        rows, scale, zero = self._arranged(wide)
        low, high = self.levels
        rounded = ((torch.round(rows / scale) + zero).clamp(low, high) - zero) * scale
        return self._put_back(rounded, wide).to(x.dtype)

    def step(self, x: Tensor) -> Tensor:
        """The scale that holds for every element of x: the distance of neighbouring numbers."""
        wide = widened(x)
        if wide.numel() == 0:
            return x.detach().clone()
        rows, scale, _ = self._arranged(wide)
        return self._put_back(scale.expand_as(rows), wide).to(x.dtype)

    def error_bound(self, x: Tensor) -> Tensor:
        """Half a scale, more where saturated; 0 where x is representable."""
        return error_bound(self, x, lambda wide: self.step(wide) / 2)

    def error_variance(self, x: Tensor) -> Tensor:
        """Scale squared over 12; the squared error itself where saturated; 0 where x is representable."""
        return error_variance(self, x, lambda wide: self.step(wide) / 2)

    def _arranged(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """X with numbers that share a scale in rows, the scale and the zero point of every row."""
        rows = self._rows(x)
        if self.scales is not None:
            if self.granularity == "channel" and len(self.scales) != rows.shape[0]:
                raise UsageError(
                    f"The format has scales for {len(self.scales)} channels, the tensor {tuple(x.shape)} has "
                    f"{rows.shape[0]} along axis {self.axis}.",
                    where=self.name,
                    advice="Calibrate it on tensors of this layer.",
                )
            scale = x.new_tensor(self.scales).unsqueeze(-1)
            zero = torch.zeros_like(scale) if self.zero_points is None else x.new_tensor(self.zero_points).unsqueeze(-1)
            return rows, scale, zero
        if not bool(torch.isfinite(rows).all()):
            raise NumericalError(
                "Scales cannot be taken from values that hold NaN or infinity.",
                where=self.name,
                advice="Look where they come from, or fix the scales with calibrated(format, values).",
            )
        return (rows, *self.scale_of(rows.amin(-1, keepdim=True), rows.amax(-1, keepdim=True)))

    def scale_of(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and zero point for values between low and high; scale 1 where both are 0."""
        if self.symmetric:
            scale = torch.maximum(low.abs(), high.abs()) / self.levels[1]
            zero = torch.zeros_like(scale)
        else:
            low, high = low.clamp(max=0), high.clamp(min=0)
            scale = (high - low) / self.levels[1]
            zero = torch.round(-low / torch.where(scale > 0, scale, 1.0)).clamp(0, self.levels[1])
        return torch.where(scale > 0, scale, 1.0), zero

    def _rows(self, x: Tensor) -> Tensor:
        if self.granularity == "tensor":
            return x.reshape(1, -1)
        if self.granularity != "sample" and not -x.dim() <= self.axis < x.dim():
            raise UsageError(
                f"A tensor of shape {tuple(x.shape)} has no axis {self.axis} for channels.",
                where=self.name,
                advice='Use granularity="tensor" for it, or another axis.',
            )
        channels = x if self.granularity == "sample" else x.movedim(self.axis, 0)
        channels = channels.reshape(x.shape[0] if self.granularity == "sample" else x.shape[self.axis], -1)
        if self.group is None:
            return channels
        missing = -channels.shape[1] % self.group  # padding with 0 changes no scale: 0 is inside every range
        return torch.nn.functional.pad(channels, (0, missing)).reshape(-1, self.group)

    def _put_back(self, rows: Tensor, x: Tensor) -> Tensor:
        if self.granularity == "tensor":
            return rows.reshape(x.shape)
        if self.granularity == "sample":
            return rows.reshape(x.shape)
        channels = x.movedim(self.axis, 0)
        return (
            rows.reshape(channels.shape[0], -1)[:, : channels[0].numel()].reshape(channels.shape).movedim(0, self.axis)
        )


@dataclass(frozen=True)
class FixedPoint:
    """Two's complement fixed point: multiples of 2^-fraction in [-2^(integer-1), 2^(integer-1)), saturating.

    Attributes:
        integer: bits before the point, the sign included.
        fraction: bits after the point; may be negative.

    Example:
        >>> FixedPoint(3, 5).round(torch.tensor([0.7, 9.0, -9.0])).tolist()
        [0.6875, 3.96875, -4.0]
    """

    integer: int
    fraction: int

    def __post_init__(self) -> None:
        if not 1 <= self.integer + self.fraction <= 53 or not -1000 <= self.fraction <= 1000:
            raise UsageError(
                f"A fixed-point format has 1 to 53 bits in all, got {self.integer} + {self.fraction}.",
                where="FixedPoint",
                advice="Numbers are carried in double precision.",
            )

    @property
    def name(self) -> str:
        """Such as ``q3.5``."""
        return f"q{self.integer}.{self.fraction}"

    @property
    def bits(self) -> int:
        """Integer and fraction bits."""
        return self.integer + self.fraction

    @property
    def unit_roundoff(self) -> None:
        """None: the error is absolute."""
        return

    def round(self, x: Tensor) -> Tensor:
        """Nearest multiple of the step, ties to even, saturated; NaN stays NaN."""
        return self._rounded(widened(x)).to(x.dtype)

    def _rounded(self, wide: Tensor) -> Tensor:
        step, reach = 2.0**-self.fraction, 2.0 ** (self.bits - 1)
        return torch.round(wide / step).clamp(-reach, reach - 1) * step

    def error_bound(self, x: Tensor) -> Tensor:
        """Half a step, more where saturated; 0 where x is representable."""
        return error_bound(self, x, lambda wide: torch.full_like(wide, 2.0**-self.fraction / 2))

    def error_variance(self, x: Tensor) -> Tensor:
        """Step squared over 12; the squared error itself where saturated; 0 where x is representable."""
        return error_variance(self, x, lambda wide: torch.full_like(wide, 2.0**-self.fraction / 2))


def calibrated(
    target: IntegerFormat, values: Tensor, *, percentile: float | None = None, axis: int | None = None
) -> IntegerFormat:
    """The same format with scales fixed from calibration values (static quantisation).

    Args:
        target: an integer format, per tensor or per channel.
        values: what the format will have to hold, such as the activations of a layer over a data set; any shape.
        percentile: None for the smallest and largest value; else, in percent, the share of values that the range has
            to hold, such as 99.9: the rest saturates. Affine ranges leave half of the rest out at either end.
        axis: channel axis of the values; that of the format when None.

    Returns:
        The format with fixed scales.

    Raises:
        UsageError: for a granularity without fixed scales ("group", "sample"), or a percentile outside (0, 100].
        NumericalError: for NaN or infinity among the values.

    Example:
        >>> calibrated(IntegerFormat(8), torch.tensor([-1.27, 0.5])).scales
        (0.01,)
    """
    if target.granularity not in ("tensor", "channel"):
        raise UsageError(
            f"Scales per {target.granularity} cannot be fixed in advance.",
            where="calibrated",
            advice='Use granularity="tensor" or "channel".',
        )
    if percentile is not None and not 0 < percentile <= 100:
        raise UsageError(
            f"percentile must be in (0, 100], got {percentile}.", where="calibrated", advice="Such as 99.9, or None."
        )
    target = replace(target, scales=None, zero_points=None, axis=target.axis if axis is None else axis)
    rows = target._rows(widened(values))
    if rows.numel() == 0 or not bool(torch.isfinite(rows).all()):
        raise NumericalError(
            "Calibration values are missing, or hold NaN or infinity.",
            where="calibrated",
            advice="Calibrate on finite values.",
        )
    if percentile is None:
        low, high = rows.amin(-1), rows.amax(-1)
    elif target.symmetric:
        high = _quantile(rows.abs(), percentile / 100)
        low = -high
    else:
        low, high = (_quantile(rows, share) for share in (0.5 - percentile / 200, 0.5 + percentile / 200))
    scale, zero = target.scale_of(low, high)
    points = None if target.symmetric else tuple(int(point) for point in zero)
    return replace(target, scales=tuple(scale.tolist()), zero_points=points)


def _quantile(rows: Tensor, share: float) -> Tensor:
    """Order statistic that `share` of a row does not exceed; torch.quantile refuses long rows."""
    place = max(1, min(rows.shape[1], round(share * rows.shape[1])))
    return rows.kthvalue(place, dim=1).values
