"""What a user can get wrong about a path, refused with one clear error each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from assay.errors import SubjectError, UsageError

_OVERSHOOT = 1e-9
"""Share of a path's length by which rounding may push a parameter beyond its ends."""


def inputs(values: Any, where: str, *, least: int = 0) -> Tensor:
    """Finite real numbers of any shape in double precision.

    Args:
        values: a tensor, or what becomes one.
        where: the argument's name.
        least: axes it must have at least.

    Returns:
        The same values, detached, float64, on the CPU.

    Raises:
        SubjectError: for integers (pictures as bytes, most often), complex numbers, NaN, infinity, no elements, or too
            few axes.
    """
    try:
        tensor = _tensor(values).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise SubjectError(
            f"A path needs a tensor of numbers, got {type(values).__name__}.",
            where=where,
            advice="Pass a floating-point tensor of one input's shape, without the batch axis.",
        ) from error
    if not tensor.dtype.is_floating_point:
        raise SubjectError(
            f"A path runs through floating-point inputs, got {tensor.dtype}.",
            where=where,
            advice="Convert them to what the model takes, for example bytes of a picture by x.double() / 255.",
        )
    if tensor.dim() < least or tensor.numel() == 0:
        raise SubjectError(
            f"The shape is {tuple(tensor.shape)}; {least} or more axes and at least one element are needed.",
            where=where,
            advice="Stack the inputs along a new first axis." if least else "Give one input of the model.",
        )
    if not bool(torch.isfinite(tensor).all()):
        raise SubjectError("The values hold NaN or infinity.", where=where, advice="Clean or drop them.")
    return tensor.to("cpu", torch.float64)


def _tensor(values: Any) -> Tensor:
    """Numbers written down become doubles, whole ones too; tensors and arrays keep their type."""
    if isinstance(values, list | tuple) and values and all(isinstance(one, Tensor) for one in values):
        return torch.stack(list(values))
    if isinstance(values, list | tuple) and values and all(isinstance(one, np.ndarray) for one in values):
        return torch.as_tensor(np.stack(values))
    plain = isinstance(values, list | tuple | int | float) and not isinstance(values, bool)
    return torch.as_tensor(values, dtype=torch.float64 if plain else None)


def same_shape(first: Tensor, second: Tensor, where: str) -> None:
    """Refuse two inputs that do not lie in one space.

    Args:
        first: any shape.
        second: the same shape.
        where: names of both.

    Raises:
        SubjectError: when the shapes differ.
    """
    if first.shape != second.shape:
        raise SubjectError(
            f"The shapes {tuple(first.shape)} and {tuple(second.shape)} differ.",
            where=where,
            advice="Both must be inputs of the same model.",
        )


def moves(values: Tensor, where: str) -> None:
    """Refuse points (n, ...) that are all the same: nothing happens along such a path.

    Args:
        values: (n, ...) points.
        where: the argument's name.

    Raises:
        UsageError: when no point differs from the first.
    """
    if not bool((values != values[:1]).any()):
        raise UsageError(
            "All points of the path are the same, so nothing changes along it.",
            where=where,
            advice="Give inputs that differ.",
        )


def number(value: float, where: str, *, positive: bool = False) -> float:
    """A finite real number.

    Args:
        value: what should be one.
        where: the argument's name.
        positive: whether it must exceed 0.

    Returns:
        The number as a float.

    Raises:
        UsageError: for anything else.
    """
    kind = "positive" if positive else "finite"
    try:
        result = float(value)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{value!r} is no number.", where=where, advice=f"Give one {kind} number.") from error
    if not abs(result) < float("inf") or (positive and not result > 0):
        raise UsageError(f"{result:g} is not {kind}.", where=where, advice=f"Give one {kind} number.")
    return result


def span(start: float, end: float) -> tuple[float, float]:
    """Two finite parameters in ascending order.

    Args:
        start: first parameter.
        end: last parameter.

    Returns:
        Both as floats.

    Raises:
        UsageError: unless start < end, both finite.
    """
    first, last = number(start, "start"), number(end, "end")
    if not first < last:
        raise UsageError(
            f"A path from {first:g} to {last:g} has no length.", where="start, end", advice="Choose start < end."
        )
    return first, last


def times(values: Any, count: int) -> Tensor:
    """Strictly ascending finite times, one per point.

    Args:
        values: (count,) numbers.
        count: how many are needed.

    Returns:
        The times (count,), float64.

    Raises:
        UsageError: for another number of them, NaN, or times that do not ascend.
    """
    try:
        result = torch.as_tensor(values, dtype=torch.float64).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError("Times must be numbers.", where="times", advice="Give one number per point.") from error
    if result.shape != (count,):
        raise UsageError(
            f"There are {count} points and times of shape {tuple(result.shape)}.",
            where="times",
            advice="Give one time per point; a closed spline needs one more, for its return to the first point.",
        )
    if not bool(torch.isfinite(result).all()) or not bool((result[1:] > result[:-1]).all()):
        raise UsageError("Times must be finite and ascend.", where="times", advice="Sort the points and drop repeats.")
    return result


def parameters(t: Tensor | Sequence[float] | float, start: float, end: float) -> Tensor:
    """Parameters at which a path is asked for.

    Args:
        t: (n,) numbers, or one.
        start: first legal one.
        end: last legal one.

    Returns:
        (n,) float64 within [start, end]; rounding beyond an end is cut off.

    Raises:
        UsageError: for NaN, more than one axis, or parameters outside.
    """
    try:
        asked = torch.as_tensor(t).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError(f"{t!r} is no parameter.", where="t", advice="Give one number or several.") from error
    values = asked.to("cpu", torch.float64)
    if values.dim() > 1:
        raise UsageError(
            f"Parameters have one axis, got shape {tuple(values.shape)}.", where="t", advice="Flatten them."
        )
    values = values.reshape(-1)
    slack = _OVERSHOOT * (end - start)
    if asked.dtype.is_floating_point:
        slack += 2 * torch.finfo(asked.dtype).eps * max(abs(start), abs(end))
    inside = (values >= start - slack) & (values <= end + slack)  # false for NaN
    if not bool(inside.all()):
        raise UsageError(
            f"The parameter {float(values[~inside][0]):g} lies outside the path.",
            where="t",
            advice=f"Stay within [{start:g}, {end:g}].",
        )
    return values.clamp(start, end)
