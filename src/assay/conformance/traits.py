"""Numerical proofs of an operator's traits on one sample, in float64."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.func import jvp, vjp

from assay.graph import Operator, Sample

_REACH, _CELL, _HALVINGS = 8.0, 0.01, 26
"""Kinks are looked for within this distance of zero, in cells of this size, halved so often."""
_JUMP = 1e-6
_STEP, _BEND = 1e-3, 3e-2
"""Length of a cell over which curvatures are compared, and a change of them that no smooth function here has."""


def faults(row: Operator, sample: Sample) -> list[str]:
    """What the row says of this sample and is not so, one sentence each."""
    found = [sentence for group in _groups(row, sample) for sentence in _affine_faults(row, sample, group)]
    if row.elementwise:
        found += _elementwise_faults(row, sample)
        if row.name != "clip":  # whose kinks are its bounds
            found += _kink_faults(row, sample)
    elif row.kinks or row.piecewise_linear:
        found.append("kinks belong to elementwise operators")
    return found


def _close(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=1e-9, atol=1e-9)


def _groups(row: Operator, sample: Sample) -> list[frozenset[int]]:
    """Sets of inputs in which the row says it is jointly affine, as far as the sample has them."""
    present = frozenset(i for i, v in enumerate(sample.inputs) if v is not None and v.dtype.is_floating_point)
    if row.linear_in == "all":
        return [present]
    return [group & present for group in row.linear_in if isinstance(group, frozenset) and group & present]


def _affine_faults(row: Operator, sample: Sample, group: frozenset[int]) -> list[str]:
    generator = torch.Generator().manual_seed(1)
    positions, attributes = sorted(group), dict(sample.attributes)
    shapes = [sample.inputs[i].shape for i in positions]  # type: ignore[union-attr]

    def draw() -> list[Tensor]:
        return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]

    def filled(values: list[Tensor]) -> list[Any]:
        inputs: list[Any] = list(sample.inputs)
        for position, value in zip(positions, values, strict=True):
            inputs[position] = value
        return inputs

    def linear(*values: Tensor) -> Tensor:
        return row.linear_part(filled(list(values)), group, attributes)

    a, b, zero = draw(), draw(), [torch.zeros(shape, dtype=torch.float64) for shape in shapes]
    of_a, of_b = linear(*a), linear(*b)
    whole = row.evaluate(*filled(a), **attributes) - row.evaluate(*filled(zero), **attributes)
    said = []
    if not _close(linear(*(x + 2 * y for x, y in zip(a, b, strict=True))), of_a + 2 * of_b):
        said.append("its linear part is not linear")
    if not _close(of_a, whole):
        said.append("it is not affine, or its linear part is not its own")
    if row.squared is not None:
        variances = [one.square() for one in draw()]
        rows = torch.autograd.functional.jacobian(linear, tuple(zero), vectorize=True)
        squares = [
            (one.reshape(of_a.numel(), -1).square() @ variance.reshape(-1)).reshape(of_a.shape)
            for one, variance in zip(rows, variances, strict=True)
        ]
        carried = row.squared_part(filled(variances), group, attributes).expand(of_a.shape)
        if not _close(carried, torch.stack(squares).sum(0)):
            said.append("`squared` does not carry variances of independent elements")
    if row.transposed is not None and positions == [0]:
        u = torch.randn((2, *of_a.shape), generator=generator, dtype=torch.float64)
        back = row.transposed(u, shapes[0], *sample.inputs[1:], **attributes)
        pull = vjp(linear, *zero)[1]
        if back is not None and not _close(back, torch.stack([pull(one)[0] for one in u])):
            said.append("`transposed` is not the transpose of its linear part")
    return [f"in inputs {positions}: {sentence}" for sentence in said]


def _elementwise_faults(row: Operator, sample: Sample) -> list[str]:
    x = sample.inputs[0]
    assert x is not None

    def function(v: Tensor) -> Tensor:
        return row.evaluate(v, *sample.inputs[1:], **sample.attributes)

    if function(x).shape != x.shape:
        return ["it is not elementwise: its value has another shape"]
    slopes = torch.autograd.functional.jacobian(function, x, vectorize=True).reshape(x.numel(), x.numel())
    return [] if torch.equal(slopes, torch.diag(slopes.diagonal())) else ["it is not elementwise: neighbours matter"]


def _kink_faults(row: Operator, sample: Sample) -> list[str]:
    rest = [None if v is None else v.reshape(-1)[:1] for v in sample.inputs[1:]]
    declared = row.kinks_of(sample.attributes)

    def function(x: Tensor) -> Tensor:
        return row.evaluate(x.reshape(1, 1, -1), *rest, **sample.attributes).reshape(-1)

    def slope(x: Tensor) -> Tensor:
        return jvp(function, (x,), (torch.ones_like(x),))[1]

    said = [] if list(declared) == sorted(declared) else ["its kinks are not in ascending order"]
    found = torch.cat([_jumps(slope), _bends(slope)])
    for level in (one for one in declared if abs(one) < _REACH):
        if not bool(((found - level).abs() < 2 * _STEP).any()):
            said.append(f"it has no kink at {level:g}")
    known = torch.tensor(declared or (torch.inf,), dtype=torch.float64)
    for level in found:
        if bool(((known - level).abs() > 2 * _STEP).all()):
            said.append(f"it has a kink near {float(level):.4g} that the row does not name")
            break
    if row.piecewise_linear:
        x = torch.linspace(-_REACH, _REACH, 4001, dtype=torch.float64) + _STEP / 3  # on no kink
        slopes, piece = slope(x), torch.bucketize(x, known)
        if bool((slopes.diff().abs() * (piece.diff() == 0) > 1e-9).any()):
            said.append("it is not linear between its kinks")
    return said


def _bends(slope: Any) -> Tensor:
    """Places at which the curvature jumps, by one-sided differences of the slope on either side of short cells."""
    low = torch.arange(round(2 * _REACH / _STEP), dtype=torch.float64) * _STEP - _REACH - _STEP / 3
    high, size = low + _STEP, _STEP / 10
    before = (slope(low) - slope(low - size)) / size
    after = (slope(high + size) - slope(high)) / size
    change = (after - before).abs() / (1 + before.abs() + slope(low).abs())
    return low[change > _BEND] + _STEP / 2


def _jumps(derivative: Any) -> Tensor:
    """Places at which a derivative jumps: cells are halved towards the larger change, which vanishes if smooth."""
    cells = round(2 * _REACH / _CELL)
    low = torch.arange(cells, dtype=torch.float64) * _CELL - _REACH - _CELL / 3
    high = low + _CELL
    at_low, at_high = derivative(low), derivative(high)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        there = derivative(middle)
        left = (there - at_low).abs() >= (at_high - there).abs()
        low, at_low = torch.where(left, low, middle), torch.where(left, at_low, there)
        high, at_high = torch.where(left, middle, high), torch.where(left, there, at_high)
    change = (at_high - at_low).abs() / (1 + at_low.abs())
    return ((low + high) / 2)[change > _JUMP]
