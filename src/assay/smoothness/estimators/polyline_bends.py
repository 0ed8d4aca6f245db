"""Piecewise linear activations on polylines: a row wherever a unit crosses one of its thresholds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from assay.graph import Operator
from assay.smoothness.estimators.polyline import Polyline, blocks, inserted
from assay.smoothness.estimators.polyline_rules import LineRule
from assay.smoothness.switches import THRESHOLDS, Threshold

NOISE = 4e-15
"""Share of the largest value of a layer below which a distance from a threshold is rounding."""


def bend(x: Polyline, thresholds: Sequence[Threshold], function: Callable[[Tensor], Tensor]) -> Polyline:
    """An elementwise function with these thresholds, straight between them.

    Returns:
        The polyline of its value.

    Raises:
        TooManyRows: when there is no room for it.
    """
    found = [_crossings(x, threshold) for threshold in thresholds]
    several = x.marks.several.clone()
    for _, _, _, rows in found:
        several[rows] = True
    new, unit, local = (torch.cat([parts[i] for parts in found]) if found else x.t[:0] for i in range(3))
    t, marks = inserted(x.t, x.marks._replace(several=several), new, unit.long(), local)
    return x.mapped(t, marks, function)


def _crossings(x: Polyline, threshold: Threshold) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Parameters, units and local jumps of new breakpoints, and the inner rows at which a unit crosses exactly."""
    z, level = x.flat, threshold.level
    low, high = torch.aminmax(z)
    noise = NOISE * max(abs(float(low)), abs(float(high)), abs(level))
    places = []
    step = blocks(z)
    for first in range(0, len(z) - 1, step):
        below = z[first : first + step + 1] < level
        row, unit = (below[1:] != below[:-1]).nonzero(as_tuple=True)
        places.append((row + first, unit))
    row, unit = (torch.cat(parts) for parts in zip(*places, strict=True))
    change = _change(threshold, x)[unit]
    row, unit, change = (part[change != 0] for part in (row, unit, change))
    before, after = z[row, unit] - level, z[row + 1, unit] - level
    starts, ends = before.abs() <= noise, after.abs() <= noise
    duration = x.t[row + 1] - x.t[row]
    local = change * ((after - before).abs() / duration)
    new = x.t[row] + duration * (before / (before - after))
    inside = ~starts & ~ends
    on_row = torch.cat([row[starts & ~ends], row[ends & ~starts] + 1])
    on_unit = torch.cat([unit[starts & ~ends], unit[ends & ~starts]])
    return new[inside], unit[inside], local[inside], _true_crossings(z - level if level else z, on_row, on_unit, noise)


def _true_crossings(z: Tensor, row: Tensor, unit: Tensor, noise: float) -> Tensor:
    """Inner rows at which a unit is zero and has opposite signs before and after."""
    inner = (row > 0) & (row < len(z) - 1)
    row, unit = row[inner], unit[inner]
    before, after = z[row - 1, unit], z[row + 1, unit]
    return row[(before * after < 0) & (before.abs() > noise) & (after.abs() > noise)]


def _change(threshold: Threshold, x: Polyline) -> Tensor:
    """(units,) jump of the slope at the threshold."""
    change = torch.as_tensor(threshold.change, dtype=torch.float64)
    return change.expand((1, *x.values.shape[1:])).reshape(-1)


def bent(operator: Operator) -> LineRule:
    """The rule of an elementwise operator that is linear between its kinks."""

    def rule(operands: Sequence[Any], attributes: dict[str, Any]) -> Polyline:
        x = operands[0]
        thresholds = THRESHOLDS[operator.name]([x.values, *operands[1:]], attributes)
        return bend(x, thresholds, lambda rows: operator.evaluate(rows, *operands[1:], **attributes))

    return rule
