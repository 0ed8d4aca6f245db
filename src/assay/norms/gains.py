"""Lipschitz constants of elementwise functions (largest absolute slope, known or maximised), and of normalisations."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from assay.errors import SubjectError, UsageError
from assay.graph import OPERATORS

RELATIVE_ERROR = 1e-9  # of slopes found by maximisation
_ENDS = 1e6
_UNBOUNDED_SLOPE = "The slope of this function is unbounded: it has no finite gain."
_LOCALLY = "Use local_norm at a point, or the local condition number."


@lru_cache(maxsize=256)
def _gain(operator: str, attributes: tuple[tuple[str, Any], ...]) -> tuple[float, float]:
    given = dict(attributes)
    known = _KNOWN.get(operator)
    if known is not None:
        return known(given), 0.0
    return largest_slope(lambda x: OPERATORS[operator].evaluate(x, **given)), RELATIVE_ERROR


def activation_gain(operator: str, **attributes: Any) -> tuple[float, float]:
    """Largest absolute slope of an elementwise operator: its Lipschitz constant in every norm.

    Args:
        operator: canonical name in `assay.graph.OPERATORS`, such as ``gelu``.
        attributes: of the operator, such as ``approximate="tanh"``.

    Returns:
        The gain, and its relative error: 0 for known constants, else a bound of that of the maximisation.

    Raises:
        UsageError: for an operator that is not elementwise in one input.
        SubjectError: for a function whose slope is unbounded, such as a square or an exponential.

    Example:
        >>> print(f"{activation_gain('gelu')[0]:.6f} {activation_gain('sigmoid')[0]}")
        1.128904 0.25
    """
    row = OPERATORS.get(operator)
    if row is None or not (row.elementwise or operator in _UNBOUNDED) or operator == "prelu":
        raise UsageError(
            f"{operator!r} is not an elementwise function of one input.",
            where="activation_gain",
            advice="Names are those of assay.graph.OPERATORS.",
        )
    if operator in _UNBOUNDED and attributes.get("exponent") != 1:
        raise SubjectError(_UNBOUNDED_SLOPE, where=operator, advice=_LOCALLY)
    return _gain(operator, tuple(sorted(attributes.items())))


def largest_slope(function: Callable[[Tensor], Tensor]) -> float:
    """Sup |f'| over the line for an elementwise f in double precision, by a grid that zooms in on its maximum.

    The grid is linear near zero and logarithmic outside, with kinks found by it to within 1e-12. The error of the value
    is of second order in the last spacing: below 1e-12 relative for smooth functions.

    Args:
        function: elementwise, differentiable by autograd almost everywhere.

    Returns:
        The largest absolute slope.

    Raises:
        SubjectError: where the slope still grows at 1e6, or is not finite.
    """
    outer = torch.logspace(-12, math.log10(_ENDS), 6_000, dtype=torch.float64)
    points = torch.cat([-outer.flip(0), torch.linspace(-30, 30, 12_001, dtype=torch.float64), outer]).unique()
    slopes = _slopes(function, points)
    best = int(slopes.argmax())
    ends, inner = slopes[[0, -1]].max(), slopes[points.abs() < _ENDS / 1e3].max()
    if not bool(torch.isfinite(slopes).all()) or float(ends) > float(inner) * (1 + 1e-6) + 1e-12:
        raise SubjectError(_UNBOUNDED_SLOPE, where="largest_slope", advice=_LOCALLY)
    low, high = points[max(best - 1, 0)], points[min(best + 1, len(points) - 1)]
    top = slopes[best]
    for _ in range(8):
        points = torch.linspace(float(low), float(high), 101, dtype=torch.float64)
        slopes = _slopes(function, points)
        best = int(slopes.argmax())
        top = torch.maximum(top, slopes[best])
        low, high = points[max(best - 1, 0)], points[min(best + 1, 100)]
    return float(top)


def _slopes(function: Callable[[Tensor], Tensor], points: Tensor) -> Tensor:
    with torch.enable_grad():
        x = points.detach().clone().requires_grad_(True)
        (slope,) = torch.autograd.grad(function(x).sum(), x)
    return slope.abs()


_UNBOUNDED = frozenset({"power", "log", "exp"})


def _always(value: float) -> Callable[[dict[str, Any]], float]:
    return lambda _: value


_KNOWN: dict[str, Callable[[dict[str, Any]], float]] = {
    "relu": _always(1.0),
    "leaky_relu": lambda a: max(1.0, abs(a.get("negative_slope", 0.01))),
    "clip": lambda a: 0.0 if a.get("low") is not None and a.get("low") == a.get("high") else 1.0,
    "elu": lambda a: abs(a.get("scale", 1.0)) * max(1.0, abs(a.get("alpha", 1.0) * a.get("input_scale", 1.0))),
    "sigmoid": _always(0.25),
    "hardsigmoid": _always(1 / 6),
    "hardswish": _always(1.5),
    "tanh": _always(1.0),
    "softplus": _always(1.0),
    "erf": _always(2 / math.sqrt(math.pi)),
    "abs": _always(1.0),
    "sin": _always(1.0),
    "cos": _always(1.0),
    "power": _always(1.0),
}


def softmax_gain(classes: int) -> float:
    """||diag(p) - p p^T|| <= 1/2, attained at p = (1/2, 1/2, 0, ...); 0 for one class."""
    return 0.5 if classes > 1 else 0.0


def log_softmax_gain(classes: int) -> float:
    """||I - 1 p^T|| is convex in p, so largest at a corner of the simplex: sqrt(classes); 0 for one class."""
    return math.sqrt(classes) if classes > 1 else 0.0


def normalisation_gain(weight: Tensor | None, eps: float | None, dtype: torch.dtype) -> float:
    """Max |gamma| / sqrt(eps): bound of the slope of layer, group and RMS norm, approached at inputs without variance.

    Args:
        weight: gamma, or None for ones.
        eps: None stands for the smallest spacing at 1, as in RMS norm.
        dtype: in which that spacing counts.

    Returns:
        The bound.

    Raises:
        SubjectError: where eps is 0.
    """
    eps = torch.finfo(dtype).eps if eps is None else eps
    if eps <= 0:
        raise SubjectError(_UNBOUNDED_SLOPE, where="normalisation with eps = 0", advice=_LOCALLY)
    return (1.0 if weight is None else float(weight.double().abs().max())) / math.sqrt(eps)
