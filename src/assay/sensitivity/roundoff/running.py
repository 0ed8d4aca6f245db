"""A value and a bound on its error: what travels along the edges of the forward error analysis, and how storing adds.

Everything is in double precision. The rounding of the doubles themselves, in the reference and in whatever is compared
with it, is covered by a slack of a few units of 2^-52.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from assay.sensitivity.roundoff.floating import FloatFormat
from assay.sensitivity.roundoff.formats import Format
from assay.sensitivity.roundoff.integers import FixedPoint, IntegerFormat

SLACK = 2.0**-51


class Running(NamedTuple):
    """A tensor with a bound on how far the computed one may be from it.

    Attributes:
        value: exact value, float64.
        error: bound on |computed - exact|, the same shape, never negative; infinite where nothing is known.
    """

    value: Tensor
    error: Tensor


Operand = Running | Tensor | None


def exact(value: Tensor) -> Running:
    """A value without an error."""
    return Running(value, torch.zeros_like(value))


def value_of(operand: Operand) -> Tensor:
    """The exact value."""
    assert operand is not None
    return operand.value if isinstance(operand, Running) else operand


def error_of(operand: Operand) -> Tensor:
    """The error bound; zero for a plain tensor."""
    assert operand is not None
    return operand.error if isinstance(operand, Running) else torch.zeros_like(operand)


def values_of(operands: Sequence[Operand]) -> list[Tensor | None]:
    """Exact values of all operands."""
    return [None if operand is None else value_of(operand) for operand in operands]


@dataclass(frozen=True)
class Summation:
    """How one node sums, as a bound.

    Attributes:
        constant: c in |computed - exact| <= c (|W||x| + |b|).
        floor: what underflow may add in all.
        largest: the size beyond which a partial sum may overflow.
        terms: how many are summed.
    """

    constant: float = 0.0
    floor: float = 0.0
    largest: float = float("inf")
    terms: int = 1

    def error(self, size: Tensor) -> Tensor:
        """Bound on what summing adds, given a bound on the sum of the absolute values of the terms."""
        slack = SLACK * (self.terms + 2) * size
        if self.constant == 0:
            return slack
        if self.constant == float("inf"):
            return torch.where(size > 0, self.constant, 0.0)
        error = self.constant * size + self.floor + slack
        return torch.where(size * (1 + self.constant) > self.largest, float("inf"), error)


def stored(element: Running, target: Format) -> Running:
    """An element after it was rounded to a format.

    The error of rounding a value v within e of z is at most half the largest spacing there; and, on a fixed grid, at
    most e + |round(z) - z|, because round(z) is on the grid and no farther away than that. Beyond the range only the
    second holds, for formats that saturate.

    Returns:
        The rounded element: the same value, a larger error.
    """
    value, error = element
    low, high = value - error, value + error
    if isinstance(target, IntegerFormat) and target.dynamic:
        reach = value.abs() + error
        step = target.step(reach) * (1.0 if target.symmetric else 2.0)  # the range may reach as far on both sides
        return Running(value, _finite(error + (0.5 + SLACK) * step, error))
    nearest = error + (target.round(value) - value).abs()
    ends = [target.round(end) for end in (low, high)]
    lost = ~(torch.isfinite(ends[0]) & torch.isfinite(ends[1]) & torch.isfinite(target.round(value)))
    half = _half_spacing(target, torch.maximum(low.abs(), high.abs()))
    inside = torch.ones_like(lost)
    for end, rounded in zip((low, high), ends, strict=True):
        inside &= (rounded - end).abs() <= half * (1 + SLACK)
    added = torch.where(inside, torch.minimum(half, nearest), nearest)
    total = error + added + SLACK * value.abs() * (added > 0)
    return Running(value, _finite(torch.where(lost, float("inf"), total), error))


def _half_spacing(target: Format, magnitude: Tensor) -> Tensor:
    """Half the largest spacing of numbers up to a magnitude; infinite for formats nothing is known of."""
    if isinstance(target, FloatFormat):
        return target.spacing(magnitude).nan_to_num(float("inf")) / 2
    if isinstance(target, IntegerFormat):
        return target.step(magnitude) / 2
    if isinstance(target, FixedPoint):
        return torch.full_like(magnitude, 2.0**-target.fraction / 2)
    return torch.full_like(magnitude, float("inf"))


def _finite(total: Tensor, error: Tensor) -> Tensor:
    """Infinite where the error was, or where it cannot be told."""
    return torch.where(torch.isfinite(error) & ~total.isnan(), total, float("inf"))
