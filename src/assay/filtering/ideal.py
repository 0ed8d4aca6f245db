"""Ideal filters of weights: high-pass, low-pass and pulse, at thresholds spread evenly over the range of a tensor.

Thresholds and removal rules follow Pravin, Martino, Nicosia, Ojha, "Fragility, robustness and antifragility in deep
learning", Artificial Intelligence 327 (2024) 104060: for thresholds t between the smallest and the largest weight,

    high-pass  removes w <= t,            t rising from min to max: everything is gone at the end;
    low-pass   removes w >= t,            t falling from max to min: everything is gone at the end;
    pulse      removes t - d <= w < t + d, t rising; d = (max - min) / (2 n), or / (2 (n - 1)) where bins shall tile.

Every number here is exact: comparisons of weights with thresholds, which are computed in float64 and rounded once to
the type of the weights (so that weights on an even grid meet them), and with the edges of pulses in float64.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from assay.errors import NumericalError, UsageError

Filter = Literal["high", "low", "pulse"]
Domain = Literal["signed", "magnitude"]
Cover = Literal["paper", "gapless"]
FILTERS: tuple[Filter, ...] = get_args(Filter)


def masks(
    weight: Tensor,
    filter: Filter,
    n: int = 25,
    *,
    domain: Domain = "signed",
    cover: Cover = "paper",
    limits: tuple[float, float] | None = None,
) -> Tensor:
    """Which weights an ideal filter keeps at each of its n thresholds, in order of rising stress.

    Masks do not change when the weights are multiplied by a positive power of two; high-pass masks of W are low-pass
    masks of -W. At the first threshold of a step filter the extreme weight is already gone: it is not the unfiltered
    network. With ``paper`` the pulses are narrower than their spacing, so that weights in the gaps are never removed.

    Args:
        weight: floating-point weights of any shape, finite.
        filter: ``high``, ``low`` or ``pulse``; see the module.
        n: number of thresholds, at least 2.
        domain: ``signed`` filters w, ``magnitude`` filters abs(w).
        cover: width of a pulse: ``paper`` or ``gapless``, where each weight is removed exactly once.
        limits: range of the thresholds; None takes the smallest and largest value of this tensor. A common range for
            several tensors may leave some of them whole at every threshold.

    Returns:
        (n, *weight.shape) bool, True where the weight is kept. A tensor whose weights are all equal has one mask,
        all False: every threshold is that value. Grade: exact.

    Raises:
        NumericalError: for NaN or infinite weights.
        UsageError: for an unknown filter, domain or cover, fewer than two thresholds, limits that are not a range, or
            weights that are empty or not floating point.

    Example:
        >>> masks(torch.tensor([-1.0, -0.5, 0.0, 0.5, 1.0]), "high", 5).int()
        tensor([[0, 1, 1, 1, 1],
                [0, 0, 1, 1, 1],
                [0, 0, 0, 1, 1],
                [0, 0, 0, 0, 1],
                [0, 0, 0, 0, 0]], dtype=torch.int32)
    """
    values = values_of(weight, domain)
    lower, upper = removed_range(values, filter, n, cover=cover, limits=limits)
    shape = (n,) + (1,) * values.dim()
    values = values.double() if filter == "pulse" else values  # edges may lie between two numbers of the type
    lower, upper = (edges.to(values.device, values.dtype).reshape(shape) for edges in (lower, upper))
    if filter == "pulse":
        return (values < lower) | (values >= upper)
    return values > upper if filter == "high" else values < lower


def thresholds(
    weight: Tensor,
    filter: Filter,
    n: int = 25,
    *,
    domain: Domain = "signed",
    limits: tuple[float, float] | None = None,
) -> Tensor:
    """Thresholds of a filter in order of rising stress: n values from min to max, or from max to min for ``low``.

    Args:
        weight: floating-point weights of any shape, finite.
        filter: ``high``, ``low`` or ``pulse`` (for a pulse: its centres).
        n: number of thresholds, at least 2.
        domain: ``signed`` or ``magnitude``.
        limits: range of the thresholds; None takes the tensor's own.

    Returns:
        (n,) float64 on the CPU, each a value of the type of the weights; both ends are the limits themselves.

    Raises:
        NumericalError: for NaN or infinite weights.
        UsageError: as in `masks`.

    Example:
        >>> thresholds(torch.tensor([0.0, 1.0, 4.0]), "low", 5).tolist()
        [4.0, 3.0, 2.0, 1.0, 0.0]
    """
    values = values_of(weight, domain)
    lower, upper = removed_range(values, "high" if filter == "pulse" else filter, n, cover="paper", limits=limits)
    return lower if filter == "low" else upper


def stress(n: int = 25) -> Tensor:
    """Stress coordinate s of n thresholds, (n,) float64 from 0 to 1: it grows with removal; the position of a pulse.

    Returns:
        0, 1 / (n - 1), ..., 1.

    Raises:
        UsageError: for fewer than two thresholds.

    Example:
        >>> stress(5)
        tensor([0.0000, 0.2500, 0.5000, 0.7500, 1.0000], dtype=torch.float64)
    """
    _check_count(n)
    return torch.arange(n, dtype=torch.float64) / (n - 1)


def is_degenerate(weight: Tensor) -> bool:
    """Whether all weights have one value, so that there is nothing to tell them apart by.

    Returns:
        True also for a single weight.

    Example:
        >>> is_degenerate(torch.ones(3)), is_degenerate(torch.arange(3.0))
        (True, False)
    """
    values = values_of(weight, "signed")
    return bool(values.min() == values.max())


def values_of(weight: Tensor, domain: Domain) -> Tensor:
    """The values that a filter compares with its thresholds: w or abs(w), detached and checked.

    Returns:
        A tensor of the shape of the weights.

    Raises:
        NumericalError: for NaN or infinite weights.
        UsageError: for an unknown domain, or weights that are empty or not floating point.
    """
    if domain not in get_args(Domain):
        raise UsageError(f"There is no domain {domain!r}.", where="domain", advice="Use 'signed' or 'magnitude'.")
    if not weight.dtype.is_floating_point or not weight.numel():
        raise UsageError(
            f"A filter needs floating-point weights, got {weight.dtype} of shape {tuple(weight.shape)}.",
            where="weight",
            advice="Give at least one weight, and convert integers with weight.float().",
        )
    values = weight.detach()
    if not bool(torch.isfinite(values).all()):
        raise NumericalError("The weights hold NaN or infinity.", where="weight", advice="Check the weights file.")
    return values.abs() if domain == "magnitude" else values


def removed_range(
    values: Tensor, filter: Filter, n: int, *, cover: Cover, limits: tuple[float, float] | None
) -> tuple[Tensor, Tensor]:
    """Between which values a filter removes, at each threshold: [lower, upper) for a pulse, both closed otherwise.

    Args:
        values: what is compared, as from `values_of`.
        filter: which filter.
        n: number of thresholds.
        cover: width of the pulses.
        limits: range of the thresholds, None for the range of the values.

    Returns:
        Two (n,) float64 tensors on the CPU; thresholds, but not edges of pulses, rounded to the type of the values.

    Raises:
        UsageError: for an unknown filter or cover, fewer than two thresholds, or limits that are not a range.
    """
    if filter not in FILTERS:
        raise UsageError(f"There is no filter {filter!r}.", where="filter", advice=f"Use one of {', '.join(FILTERS)}.")
    if cover not in get_args(Cover):
        raise UsageError(f"There is no cover {cover!r}.", where="cover", advice="Use 'paper' or 'gapless'.")
    low, high = (float(values.min()), float(values.max())) if limits is None else limits
    if limits is not None and not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise UsageError(
            f"limits must be (low, high) with low < high, got {limits}.", where="limits", advice="Try (-1.0, 1.0)."
        )
    infinite = torch.full((n if n > 0 else 0,), math.inf, dtype=torch.float64)
    fraction = stress(n)
    if low == high:  # every threshold is this value, and a pulse around it holds it
        return -infinite, infinite
    unit = 1.0 if math.isfinite(high - low) else 4.0  # the range of huge weights overflows; a power of two is exact
    low, high = low / unit, high / unit
    spread = high - low
    if filter == "high":
        lower, upper = -infinite, _with_ends(low + fraction * spread, low, high)
    elif filter == "low":  # from the other end, so that the thresholds of -W are minus those of W to the bit
        lower, upper = _with_ends(high - fraction * spread, high, low), infinite
    else:
        if cover == "paper":
            centres, half = _with_ends(low + fraction * spread, low, high), spread / (2 * n)
            lower, upper = centres - half, centres + half
        else:  # neighbours share an edge, so that no weight falls between two bins or into both
            edges = low + (torch.arange(n + 1, dtype=torch.float64) - 0.5) / (n - 1) * spread
            lower, upper = edges[:-1].clone(), edges[1:].clone()
        if limits is None:  # the extremes belong in, also where float64 is too coarse to tell max from max + d
            lower[0], upper[-1] = -math.inf, math.inf
        return lower * unit, upper * unit
    return (lower * unit).to(values.dtype).double(), (upper * unit).to(values.dtype).double()


def _with_ends(points: Tensor, first: float, last: float) -> Tensor:
    points[0], points[-1] = first, last
    return points


def _check_count(n: int) -> None:
    if n < 2:
        raise UsageError(f"n={n} thresholds cannot span a range.", where="n", advice="Use at least 2; 25 is usual.")
