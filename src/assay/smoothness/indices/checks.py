"""What a user can get wrong about points and their targets, refused with one clear error each."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from assay.errors import SubjectError, UsageError


def points(x: Any, where: str = "x") -> Tensor:
    """Finite points (n, d), float64, everything behind the first axis flattened; n >= 2.

    Returns:
        The points.

    Raises:
        SubjectError: for fewer than two points, NaN or infinity.
    """
    values = torch.as_tensor(x).detach().to("cpu", torch.float64)
    if values.dim() == 0 or len(values) < 2 or values.numel() == 0:
        raise SubjectError(
            f"At least two points are needed, got shape {tuple(values.shape)}.", where=where, advice="Give more data."
        )
    if not bool(torch.isfinite(values).all()):
        raise SubjectError("The points hold NaN or infinity.", where=where, advice="Clean or drop them.")
    return values.reshape(len(values), -1)


def labels(y: Any, count: int) -> Tensor:
    """Class labels (n,), counted from 0 in ascending order.

    Returns:
        The labels.

    Raises:
        SubjectError: when there is not one label per point, or labels are no whole numbers.
    """
    values = torch.as_tensor(y).detach().cpu()
    if values.numel() != count or len(values) != count:
        raise SubjectError(
            f"There are {count} points and labels of shape {tuple(values.shape)}.",
            where="labels",
            advice="Give one label per point.",
        )
    if values.dtype.is_floating_point and not bool((values == values.round()).all()):
        raise SubjectError(
            "Labels must be whole numbers.", where="labels", advice="For regression targets use smoothness_index."
        )
    return values.reshape(count).unique(return_inverse=True)[1]


def targets(y: Any, count: int) -> Tensor:
    """Regression targets (n, k), float64.

    Returns:
        The targets.

    Raises:
        SubjectError: when there is not one target per point, or one is not finite.
    """
    values = torch.as_tensor(y).detach().to("cpu", torch.float64)
    if values.dim() == 0 or len(values) != count:
        raise SubjectError(
            f"There are {count} points and targets of shape {tuple(values.shape)}.",
            where="targets",
            advice="Give one target per point.",
        )
    return points(values, "targets")


def order(value: int, count: int) -> int:
    """A number of neighbours that exist.

    Returns:
        The number.

    Raises:
        UsageError: unless 1 <= value < count.
    """
    if int(value) != value or not 1 <= value < count:
        raise UsageError(
            f"Among {count} points a point has {count - 1} neighbours; the order is {value}.",
            where="order",
            advice=f"Choose from 1 to {count - 1}.",
        )
    return int(value)


def one_of(value: str, allowed: tuple[str, ...], where: str) -> None:
    """Refuse an unknown option.

    Raises:
        UsageError: unless `value` is allowed.
    """
    if value not in allowed:
        raise UsageError(f"There is no {where} {value!r}.", where=where, advice=f"Choose from {', '.join(allowed)}.")


def standardised(values: Tensor) -> Tensor:
    """Every column with mean 0 and standard deviation 1; constant columns become 0."""
    centred = values - values.mean(0)
    spread = centred.square().mean(0).sqrt()
    return centred / torch.where(spread > 0, spread, 1.0)
