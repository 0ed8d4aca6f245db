"""Binary floating-point formats of any precision and range, rounded to nearest, ties to even.

Numbers are rounded straight from the input's own precision, so nothing is rounded twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from assay.errors import UsageError
from assay.sensitivity.roundoff.rounding import (
    cut_significand,
    error_bound,
    error_variance,
    in_pieces,
    power_of_two,
    round_significand,
    widened,
)


@dataclass(frozen=True)
class FloatFormat:
    """Binary floating point.

    Attributes:
        name: for people.
        significand: bits of the significand, the implicit one included.
        exponent: exponent bits; None for an unlimited range.
        maximum: largest finite number; None for the one that remains when the top exponent is kept for infinity.
        overflow: what becomes of larger numbers.
        subnormals: whether numbers below the smallest normal one keep that one's spacing; otherwise the nearest of 0
            and the smallest normal number.
        storage: bits per number in memory; None for exponent + significand.

    Example:
        >>> half = FloatFormat("fp16", significand=11, exponent=5)
        >>> half.round(torch.tensor([3.14159265, 65519.0, 65520.0, 1e-9], dtype=torch.float64)).tolist()
        [3.140625, 65504.0, inf, 0.0]
    """

    name: str
    significand: int
    exponent: int | None = None
    maximum: float | None = None
    overflow: Literal["infinity", "nan", "saturate"] = "infinity"
    subnormals: bool = True
    storage: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.significand <= 53:
            raise UsageError(
                f"A floating-point format has 1 to 53 significand bits, got {self.significand}.",
                where="significand",
                advice="Numbers are carried in double precision, which has 53.",
            )
        if self.exponent is not None and not 2 <= self.exponent <= 11:
            raise UsageError(
                f"A floating-point format has 2 to 11 exponent bits, got {self.exponent}.",
                where="exponent",
                advice="Use exponent=None for an unlimited range.",
            )
        if self.overflow not in ("infinity", "nan", "saturate"):
            raise UsageError(
                f"overflow={self.overflow!r} is unknown.", where="overflow", advice="Use infinity, nan or saturate."
            )

    @property
    def bits(self) -> int:
        """Storage bits per number; significand bits alone where the range is unlimited."""
        return self.storage or (self.exponent or 0) + self.significand

    @property
    def unit_roundoff(self) -> float:
        """2^-t."""
        return 2.0**-self.significand

    @property
    def least_exponent(self) -> int | None:
        """Exponent of the smallest normal number; None for an unlimited range."""
        return None if self.exponent is None else 2 - 2 ** (self.exponent - 1)

    @property
    def largest(self) -> float:
        """Largest finite number."""
        if self.maximum is not None:
            return self.maximum
        if self.exponent is None:
            return float("inf")
        return 2.0 ** (2 ** (self.exponent - 1) - 1) * (2.0 - 2.0 ** (1 - self.significand))

    @property
    def smallest(self) -> float:
        """Smallest positive number (subnormal where there are any); 0 for an unlimited range."""
        least = self.least_exponent
        if least is None:
            return 0.0
        return 2.0 ** (least + (1 - self.significand if self.subnormals else 0))

    def round(self, x: Tensor) -> Tensor:
        """Nearest number of the format, ties to even; NaN stays NaN."""
        return in_pieces(lambda piece: self._rounded(widened(piece)).to(x.dtype), x)

    def _rounded(self, wide: Tensor) -> Tensor:
        least = self.least_exponent
        if least is None or self.significand == 1:
            result = round_significand(wide, self.significand)
        else:  # subnormal doubles are below every normal number of the format
            result = wide if self.significand == 53 else cut_significand(wide, self.significand)
        if least is not None:
            size = wide.abs()
            low = (size < 2.0**least) & (size > 0)
            if bool(low.any()):
                quantum = 2.0 ** (least + (1 - self.significand if self.subnormals else 0))
                result = torch.where(low, torch.round(wide / quantum) * quantum, result)
        if self.largest < float("inf") and result.numel() and not bool(result.abs().amax() <= self.largest):
            result = self._overflowed(result)
        return result

    def _overflowed(self, result: Tensor) -> Tensor:
        if self.overflow == "saturate":
            return result.clamp(-self.largest, self.largest)
        beyond = torch.copysign(result.new_tensor(float("inf" if self.overflow == "infinity" else "nan")), result)
        return torch.where(result.abs() > self.largest, beyond, result)

    def spacing(self, x: Tensor) -> Tensor:
        """Distance of neighbouring numbers around x: 2^(floor(log2 |x|) + 1 - t), not below that of subnormals."""
        return in_pieces(lambda piece: self._spacing(widened(piece)).to(x.dtype), x)

    def _spacing(self, wide: Tensor) -> Tensor:
        exponent = torch.frexp(wide)[1] - 1
        least = self.least_exponent
        floor = -1074 if least is None else least
        spacing = power_of_two(exponent.clamp(min=floor) + 1 - self.significand)
        if least is not None and not self.subnormals:
            spacing = torch.where(wide.abs() < 2.0**least, wide.new_tensor(2.0**least), spacing)
        return torch.where(torch.isfinite(wide), spacing, float("nan"))

    def error_bound(self, x: Tensor) -> Tensor:
        """Half a spacing, more beyond the range: infinite where the result is; 0 where x is representable."""
        return in_pieces(lambda piece: error_bound(self, piece, lambda wide: self._spacing(wide) / 2), x)

    def error_variance(self, x: Tensor) -> Tensor:
        """Spacing squared over 12; the squared error itself beyond the range; 0 where x is representable."""
        return in_pieces(lambda piece: error_variance(self, piece, lambda wide: self._spacing(wide) / 2), x)


def precision(significand: int) -> FloatFormat:
    """A floating-point format of so many significand bits (the implicit one included) and unlimited range.

    Args:
        significand: t, 1 to 53; unit round-off 2^-t.

    Returns:
        The format.

    Example:
        >>> precision(8).round(torch.tensor([3.14159265])).tolist()
        [3.140625]
    """
    return FloatFormat(f"t{significand}", significand)
