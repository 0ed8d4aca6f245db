"""Piecewise linear activations on zonotopes, with the narrowest band of one slope around the bent line.

For one unit x(s) = c + e s + d, |d| <= r, the result lies between L(s) and U(s), the smallest and largest value over d.
A band of slope b has height max(U - b s) - min(L - b s). Where U is convex and L is 1-D piecewise linear with slopes
between those of the ends, the chord of U is the best b: max(U - b s) grows on both sides of it as fast as |b| and
min(L - b s) never gains faster.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from assay.boundary.paths.zonotope import BOUND, TABLE, TINY, UNIT, Zonotope

_SLACK = 64 * UNIT


def banded(slope: Tensor, top: Tensor, bottom: Tensor, size: Tensor) -> Zonotope:
    """Everything between bottom + slope s and top + slope s, widened by what rounding did to numbers of this size."""
    return Zonotope((top + bottom) / 2, slope, (top - bottom) / 2 + _SLACK * size + TINY)


def meeting(numerator: Tensor, slope: Tensor) -> Tensor:
    """Where a line of this slope meets a level, within [-1, 1]; anywhere when it is level itself."""
    return (numerator / slope).nan_to_num(0.0, 1.0, -1.0).clamp(-1, 1)


def hinge(x: Zonotope, leak: float | Tensor = 0.0) -> Zonotope:
    """max(x, leak x) for 0 <= leak <= 1: a leaky ReLU.

    A unit that stays on one side of its kink is linear there; only the other ones, usually few, get a band.

    Returns:
        An enclosure.
    """
    c, e, r = x.centre, x.slope, x.error
    reach = e.abs().add_(r).mul_(1 + 4 * UNIT).add_(c.abs(), alpha=4 * UNIT)
    on = c >= reach
    open_units = on.logical_or(-reach >= c).logical_not_().flatten().nonzero()[:, 0]
    if isinstance(leak, Tensor) or leak:
        straight = torch.where(on, torch.ones_like(c), leak * torch.ones_like(c))
        parts = [straight * part for part in (c, e, r)]
        parts[2] = torch.where(on, r, parts[2] + _SLACK * x.magnitude)
    else:
        gate = on.to(c.dtype)
        parts = [gate * part for part in (c, e, r)]
    if len(open_units):
        leaks = leak.expand(c.shape).flatten()[open_units] if isinstance(leak, Tensor) else leak
        band = _hinge_band(Zonotope(*(part.flatten()[open_units] for part in (c, e, r))), leaks)
        for part, values in zip(parts, (band.centre, band.slope, band.error), strict=True):
            part.view(-1)[open_units] = values
    return Zonotope(*parts)


def _hinge_band(x: Zonotope, leak: float | Tensor) -> Zonotope:
    above, below, e = x.centre + x.error, x.centre - x.error, x.slope

    def bend(value: Tensor) -> Tensor:
        return torch.maximum(value, leak * value)

    right, left = bend(above + e), bend(above - e)
    slope = (right - left) / 2
    kink = meeting(-below, e)
    bottom = bend(below + e * kink) - slope * kink
    return banded(slope, (right + left) / 2, bottom, x.magnitude)


def increasing(x: Zonotope, bend: Callable[[Tensor], Tensor], kinks: Sequence[float | None], size: Tensor) -> Zonotope:
    """A piecewise linear function that never decreases, with slopes at most 1 and kinks at these places."""
    c, e, r = x.centre, x.slope, x.error
    above, below = c + r, c - r
    places = [k for k in kinks if k is not None]
    ones = torch.ones_like(c)
    upper = [ones, -ones, *(meeting(k - above, e) for k in places)]
    lower = [ones, -ones, *(meeting(k - below, e) for k in places)]
    tops, bottoms = [bend(above + e * s) for s in upper], [bend(below + e * s) for s in lower]
    chords = [(tops[0] - tops[1]) / 2, (bottoms[0] - bottoms[1]) / 2, e]
    best: tuple[Tensor, Tensor, Tensor] | None = None
    for slope in chords:
        top = torch.stack([value - slope * s for value, s in zip(tops, upper, strict=True)]).amax(0)
        bottom = torch.stack([value - slope * s for value, s in zip(bottoms, lower, strict=True)]).amin(0)
        if best is None:
            best = slope, top, bottom
        else:
            better = top - bottom < best[1] - best[2]
            best = tuple(torch.where(better, new, old) for new, old in zip((slope, top, bottom), best, strict=True))  # type: ignore[assignment]
    assert best is not None
    return banded(*best, size)


def scaled(x: Zonotope, factor: float | Tensor) -> Zonotope:
    """Factor times x."""
    size = factor.abs() if isinstance(factor, Tensor) else abs(factor)
    error = size * (x.error + 4 * UNIT * x.magnitude) + TINY
    return Zonotope(factor * x.centre, factor * x.slope, error)


def plus(x: Zonotope, y: Zonotope) -> Zonotope:
    """Sum of two elements whose errors have nothing to do with each other."""
    error = (x.error + y.error) * (1 + 4 * UNIT) + 4 * UNIT * (x.magnitude + y.magnitude)
    return Zonotope(x.centre + y.centre, x.slope + y.slope, error)


def leaky(x: Zonotope, leak: float | Tensor) -> Zonotope:
    """max(x, 0) + leak min(x, 0) for any leak."""
    factor = leak if isinstance(leak, Tensor) else torch.as_tensor(leak, dtype=x.centre.dtype, device=x.centre.device)
    usual = (factor >= 0) & (factor <= 1)
    found = hinge(x, factor.clamp(0, 1) if factor.numel() > 1 else float(factor.clamp(0, 1)))
    if bool(usual.all()):
        return found
    other = plus(scaled(x, factor), scaled(hinge(x), 1 - factor))  # f(x) = leak x + (1 - leak) max(x, 0)
    return Zonotope(
        torch.where(usual, found.centre, other.centre),
        torch.where(usual, found.slope, other.slope),
        torch.where(usual, found.error, other.error),
    )


@TABLE.rule("relu", grade=BOUND)
def _relu(operands: Sequence[Any], attributes: dict[str, Any]) -> Zonotope:
    return hinge(operands[0])


@TABLE.rule("leaky_relu", grade=BOUND)
def _leaky_relu(operands: Sequence[Any], attributes: dict[str, Any]) -> Zonotope:
    return leaky(operands[0], attributes.get("negative_slope", 0.01))


@TABLE.rule("prelu", grade=BOUND, applies=lambda varying: varying == {0})
def _prelu(operands: Sequence[Any], attributes: dict[str, Any]) -> Zonotope:
    x, weight = operands
    if weight.dim() == 1 and weight.numel() > 1:
        weight = weight.reshape((1, -1) + (1,) * (x.centre.dim() - 2))
    elif weight.dim() <= 1:
        weight = weight.reshape(())
    return leaky(x, weight)


@TABLE.rule("clip", grade=BOUND)
def _clip(operands: Sequence[Any], attributes: dict[str, Any]) -> Zonotope:
    return _clipped(operands[0], attributes.get("low"), attributes.get("high"))


def _clipped(x: Zonotope, low: float | None, high: float | None) -> Zonotope:
    size = x.magnitude + sum(abs(k) for k in (low, high) if k is not None)
    return increasing(x, lambda value: value.clamp(low, high), (low, high), size)


@TABLE.rule("hardsigmoid", grade=BOUND)
def _hardsigmoid(operands: Sequence[Any], attributes: dict[str, Any]) -> Zonotope:
    inner = scaled(operands[0], 1 / 6)
    return _clipped(Zonotope(inner.centre + 0.5, inner.slope, inner.error + 4 * UNIT * (inner.magnitude + 1)), 0.0, 1.0)


@TABLE.rule("abs", grade=BOUND)
def _abs(operands: Sequence[Any], attributes: dict[str, Any]) -> Zonotope:
    x = operands[0]
    c, e, r = x.centre, x.slope, x.error
    right, left = (c + e).abs() + r, (c - e).abs() + r
    slope = (right - left) / 2
    ones = torch.ones_like(c)
    places = [ones, -ones, meeting(r - c, e), meeting(-r - c, e)]
    bottom = torch.stack([((c + e * s).abs() - r).clamp(min=0) - slope * s for s in places]).amin(0)
    return banded(slope, (right + left) / 2, bottom, x.magnitude)
