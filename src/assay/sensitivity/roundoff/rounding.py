"""What every number format is, and the arithmetic on doubles that formats share."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from assay.errors import UsageError

_PIECE = 1 << 17


@runtime_checkable
class Format(Protocol):
    """What every number format can do. Tensors are floating point, of any shape; results have their shape and dtype."""

    @property
    def name(self) -> str:
        """Short name, such as ``bf16``."""
        ...

    @property
    def bits(self) -> int:
        """Storage bits per number."""
        ...

    @property
    def unit_roundoff(self) -> float | None:
        """Largest relative error of a number that is neither too large nor too small; None without one (integers)."""
        ...

    def round(self, x: Tensor) -> Tensor:
        """Nearest number of the format, ties to even."""
        ...

    def error_bound(self, x: Tensor) -> Tensor:
        """At least |round(x) - x|, elementwise; 0 where x is representable."""
        ...

    def error_variance(self, x: Tensor) -> Tensor:
        """Spacing squared over 12, elementwise; 0 where x is representable."""
        ...


def widened(x: Tensor) -> Tensor:
    """In double precision, which every supported input fits exactly."""
    if not isinstance(x, Tensor) or not x.dtype.is_floating_point:
        kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise UsageError(
            f"Only floating-point tensors can be rounded to a format, got {kind}.",
            where="x",
            advice="Convert it, for example x.double().",
        )
    return x.detach().to(torch.float64)


def in_pieces(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """An elementwise function, piece by piece: its dozen temporaries then stay small, and in the processor's cache.

    Returns:
        What function(x) returns, of the shape and dtype of x.
    """
    if x.numel() <= _PIECE:
        return function(x)
    result = x.new_empty(x.shape)
    for source, target in zip(x.detach().reshape(-1).split(_PIECE), result.view(-1).split(_PIECE), strict=True):
        target.copy_(function(source))
    return result


def where_finite(function: Callable[[Tensor], Tensor], x: Tensor, *, otherwise: float | None) -> Tensor:
    """A function of finite values only; infinite entries, as in masks, and NaN become `otherwise`, or stay if None.

    Returns:
        In the shape of x.
    """
    if x.numel() == 0 or all(math.isfinite(float(end)) for end in torch.aminmax(x)):
        return function(x)
    finite = torch.isfinite(x)
    return torch.where(finite, function(torch.where(finite, x, 0.0)), x if otherwise is None else otherwise)


def round_significand(x: Tensor, significand: int) -> Tensor:
    """Round double precision numbers to so many significand bits, nearest, ties to even, any exponent.

    Args:
        x: float64, any shape.
        significand: 1 to 53 bits.

    Returns:
        float64, the same shape; NaN stays NaN.
    """
    if significand >= 53:
        return x
    result = cut_significand(x, significand)
    size = x.abs()
    unusual = (size < torch.finfo(torch.float64).tiny) & (size > 0)  # subnormal: the exponent is not in the bits
    if significand == 1:
        unusual |= x.isnan()  # nothing of the significand would be left to tell it from infinity
    if bool(unusual.any()):
        few = x[unusual]
        result[unusual] = torch.where(few.isnan(), few, cut_significand(few * 2.0**600, significand) * 2.0**-600)
    return result


def cut_significand(x: Tensor, significand: int) -> Tensor:
    """`round_significand` for doubles that are normal, zero or infinite, and NaN where significand > 1."""
    # sign and magnitude, exponent above significand: adding to the magnitude carries into the exponent as it should
    drop = 53 - significand
    bits = x.contiguous().view(torch.int64)
    odd = (bits >> drop) & 1
    return odd.add_(bits).add_((1 << (drop - 1)) - 1).bitwise_and_(-1 << drop).view(torch.float64)


def power_of_two(exponent: Tensor) -> Tensor:
    """2^exponent exactly, float64; below the range of doubles the smallest one."""
    exponent = exponent.clamp(-1074, 1023).to(torch.int64)
    normal = (exponent.clamp(min=-1022) + 1023).bitwise_left_shift(52).view(torch.float64)
    low = (exponent + 1022).clamp(max=0)
    return torch.where(low < 0, (2 ** (52 + low).clamp(min=0)).double() * 2.0**-1074, normal)


def error_bound(target: Format, x: Tensor, half_spacing: Callable[[Tensor], Tensor]) -> Tensor:
    """Half a spacing, or the error itself where that is larger (beyond the range), 0 where x is representable.

    Args:
        target: the format.
        x: floating point, any shape.
        half_spacing: of numbers in double precision.

    Returns:
        In the shape and dtype of x, rounded up.
    """
    wide = widened(x)
    error = (target.round(x).double() - wide).abs()
    error = torch.where(error.isnan(), float("inf"), error)  # infinity or NaN instead of a number
    bound = torch.where(error == 0, 0.0, torch.maximum(half_spacing(wide), error))
    bound = torch.where(torch.isfinite(wide), bound, torch.where(wide.isnan(), float("nan"), 0.0))
    narrow = bound.to(x.dtype)
    return torch.where(narrow.double() < bound, torch.nextafter(narrow, torch.full_like(narrow, torch.inf)), narrow)


def error_variance(target: Format, x: Tensor, half_spacing: Callable[[Tensor], Tensor]) -> Tensor:
    """A third of half a spacing squared, or the squared error beyond the range, 0 where x is representable.

    Args:
        target: the format.
        x: floating point, any shape.
        half_spacing: of numbers in double precision.

    Returns:
        In the shape and dtype of x.
    """
    wide = widened(x)
    half = half_spacing(wide)
    error = (target.round(x).double() - wide).abs()
    error = torch.where(error.isnan(), float("inf"), error)
    variance = torch.where(error > half * (1 + 1e-9), error.square(), half.square() / 3)
    variance = torch.where(error == 0, 0.0, variance)
    return torch.where(torch.isfinite(wide), variance, torch.where(wide.isnan(), float("nan"), 0.0)).to(x.dtype)
