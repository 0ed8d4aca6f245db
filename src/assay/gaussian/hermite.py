"""Hermite series: moments and covariances of pairs for any element-by-element function of a Gaussian.

With the orthonormal Hermite polynomials he_k and a_k = E[f(mean + std z) he_k(z)],
    Cov(f(x), f(y)) = sum_k rho^k a_k(x) a_k(y)
(Mehler's formula; Wright et al. 2024, theorem 1, for activations). The terms from k = 2 on are what an
expected-Jacobian map leaves; cut anywhere, they form a positive semi-definite matrix, whose diagonal the exact variance
completes. The coefficients need a rule that resolves f however wide the noise: equally spaced nodes converge
exponentially while std is at most about the distance of f's nearest complex singularity, and beyond that the line is
cut where f changes. Single precision is computed in double and rounded once: against tiny noise, the rounding of f
itself would matter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
from torch import Tensor

from assay.gaussian.arguments import Number, as_tensors, broadcast, require_deviation
from assay.gaussian.normal import density
from assay.gaussian.quadrature import average_slope, legendre
from assay.gaussian.rectified import standardise

TERMS = 48
"""Coefficients computed; series end where no element gains from another term."""

_REACH = 9.0
_SPACED = ((0.3, 0.5), (0.6, 0.25), (1.2, 0.125))
"""(largest std / distance of the nearest singularity, step) with an error of exp(-40) and less."""

_BLOCK = 1 << 15
"""Elements evaluated together, so that temporaries stay in cache."""

_PANEL = 16
_CHANGES = (-36.0, -13.0, -5.0, -2.0, 0.0, 2.0, 5.0, 13.0, 36.0)
"""Where the line is cut for wide noise, in units of the function's width."""

Pairs = Iterator[tuple[Tensor, Tensor]]


def _spaced(step: float, like: Tensor) -> tuple[Tensor, Tensor]:
    count = round(_REACH / step)
    nodes = torch.arange(-count, count + 1, dtype=like.dtype, device=like.device) * step
    weights = density(nodes)
    return nodes, weights / weights.sum()


def _panels(mean: Tensor, std: Tensor, cuts: tuple[float, ...], stacked: bool) -> Pairs:
    """Gauss-Legendre rules between all cuts, those every three deviations included."""
    at = [torch.full_like(mean, 3.0 * place) for place in range(-3, 4)]
    at += [standardise(cut - mean, std).clamp(-_REACH, _REACH) for cut in cuts]
    ends = torch.stack(at).sort(0).values
    points, weights = zip(*legendre(_PANEL), strict=True)
    if stacked:
        points = [ends.new_tensor(points).reshape(-1, *(1,) * mean.dim())]
        weights = [ends.new_tensor(weights).reshape(points[0].shape)]
    for low, high in pairwise(ends.unbind()):
        width = high - low
        if not bool((width > 0).any()):
            continue
        for point, weight in zip(points, weights, strict=True):
            node = low + width * point
            yield node, weight * width * density(node)


def _rule(mean: Tensor, std: Tensor, width: float, kinks: tuple[float, ...], *, stacked: bool) -> Pairs:
    """Nodes and weights that broadcast with the means, one after the other or stacked (k, ...)."""
    smooth = math.isfinite(width)
    if smooth and not kinks:
        widest = float(std.detach().max()) / width if std.numel() else 0.0
        for limit, step in _SPACED:
            if widest <= limit:
                nodes, weights = _spaced(step, mean)
                if stacked:
                    yield nodes.reshape(-1, *(1,) * mean.dim()), weights.reshape(-1, *(1,) * mean.dim())
                else:
                    yield from zip(nodes, weights, strict=True)
                return
    cuts = tuple(width * place for place in _CHANGES) if smooth else ()
    yield from _panels(mean, std, (*cuts, *kinks), stacked)


def smooth_moments(
    function: Callable[[Tensor], Tensor],
    mean: Number,
    std: Number,
    width: float = 1.0,
    kinks: tuple[float, ...] = (),
    split: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, variance and expected slope of f(x) for Gaussian x of any width, by quadrature that resolves f.

    Args:
        function: maps a tensor to a tensor of the same shape, element by element.
        mean: means of x, any shape.
        std: standard deviations of x, zero or larger; broadcasts with mean.
        width: distance from the real line of f's nearest complex singularity, which lies near 0: pi for the sigmoid,
            pi/2 for tanh. Infinite for functions that are polynomials between their kinks.
        kinks: where f or a derivative of it jumps.
        split: evaluate large tensors in flat pieces; False where f is not the same for every element.

    Returns:
        Mean, variance and gain E[f'(x)], of the broadcast shape. Grade: closed_form up to quadrature error, about
        1e-12 of the function's size.

    Raises:
        UsageError: a standard deviation is negative, or f changes the shape.

    Example:
        >>> mean, variance, gain = smooth_moments(torch.tanh, -1.0, 2.0, width=1.57)
        >>> round(float(mean), 9), round(float(variance), 9)
        (-0.352344438, 0.547523611)
    """
    mean, std = as_tensors(mean, std)
    require_deviation(std, "smooth_moments(std)")
    mean, std = broadcast(mean, std)
    dtype, shape = mean.dtype, mean.shape
    mean, std = mean.double(), std.double()
    if not split or mean.numel() <= _BLOCK:
        found = _accumulate(function, mean, std, width, kinks)
    else:
        pieces = zip(mean.reshape(-1).split(_BLOCK), std.reshape(-1).split(_BLOCK), strict=True)
        parts = [_accumulate(function, *piece, width, kinks) for piece in pieces]
        found = tuple(torch.cat(part).reshape(shape) for part in zip(*parts, strict=True))
    average, variance, gain = (value.to(dtype) for value in found)
    return average, variance, gain


def _accumulate(
    function: Callable[[Tensor], Tensor], mean: Tensor, std: Tensor, width: float, kinks: tuple[float, ...]
) -> tuple[Tensor, ...]:
    """Sums of f - f(mean), its square and its product with z: the value at the mean takes no part in rounding."""
    centre = function(mean)
    first, second, tilt = (torch.zeros_like(mean) for _ in range(3))
    for node, weight in _rule(mean, std, width, kinks, stacked=False):
        value = function(torch.addcmul(mean, std, node)) - centre
        weighted = weight * value
        first.add_(weighted)
        second.addcmul_(weighted, value)
        tilt.addcmul_(weighted, node)
    narrow = std <= torch.finfo(std.dtype).eps ** (1 / 3) * mean.abs().clamp(min=1)
    gain = tilt / torch.where(narrow, torch.ones_like(std), std)
    if bool(narrow.any()):
        gain = torch.where(narrow, average_slope(function, mean, std), gain)
    return centre + first, (second - first.square()).clamp(min=0), gain


def hermite_coefficients(
    function: Callable[[Tensor], Tensor],
    mean: Number,
    std: Number,
    width: float = 1.0,
    kinks: tuple[float, ...] = (),
    terms: int = TERMS,
) -> Tensor:
    """Coefficients a_k = E[f(mean + std z) he_k(z)] for k = 1 to `terms`; the gain is a_1 / std.

    Args:
        function: maps a tensor to a tensor of the same shape, element by element.
        mean: means of x, any shape.
        std: standard deviations of x, zero or larger; broadcasts with mean.
        width: as in `smooth_moments`.
        kinks: as in `smooth_moments`.
        terms: number of coefficients.

    Returns:
        (terms, ...). The sum of their squares is the variance as terms grow. Grade: closed_form up to quadrature error.

    Raises:
        UsageError: a standard deviation is negative.

    Example:
        >>> [round(float(a), 6) for a in hermite_coefficients(torch.square, 1.0, 1.0, terms=3)]
        [2.0, 1.414214, 0.0]
    """
    mean, std = as_tensors(mean, std)
    require_deviation(std, "hermite_coefficients(std)")
    mean, std = broadcast(mean, std)
    dtype, mean, std = mean.dtype, mean.double(), std.double()
    centre = function(mean)
    found = [torch.zeros_like(mean) for _ in range(terms)]
    for nodes, weights in _rule(mean, std, width, kinks, stacked=True):
        # the value at the mean has no part in k >= 1; without it small noise loses no digits
        value = weights * (function(mean + std * nodes) - centre)
        before, polynomial = torch.zeros_like(nodes), torch.ones_like(nodes)
        for k in range(terms):
            before, polynomial = polynomial, (nodes * polynomial - math.sqrt(k) * before) / math.sqrt(k + 1)
            found[k] = found[k] + (value * polynomial).sum(0)
    return torch.stack(found).to(dtype)


def hinge_coefficients(mean: Tensor, std: Tensor, knot: float, terms: int = TERMS) -> Tensor:
    """`hermite_coefficients` of relu(x - knot) in closed form, from k = 2 on.

    a_k = std (-1)^k He_(k-2)(a) phi(a) / sqrt(k!) with a = (mean - knot) / std.

    Returns:
        (terms - 1, ...).

    Example:
        >>> hinge_coefficients(torch.zeros(1), torch.ones(1), 0.0, terms=3)[0]
        tensor([0.2821])
    """
    a = standardise(mean - knot, std)
    before, polynomial = torch.zeros_like(a), density(a)
    found = []
    for k in range(2, terms + 1):
        found.append((-1) ** k / math.sqrt(k * (k - 1)) * std * polynomial)
        j = k - 2
        before, polynomial = polynomial, (a * polynomial - math.sqrt(j) * before) / math.sqrt(j + 1)
    return torch.stack(found)


def hermite_covariance(first: Tensor, second: Tensor, rho: Tensor, start: int = 1) -> Tensor:
    """Sum over k >= start of rho^k first_k second_k: Cov(f(x), g(y)), or with start = 2 what slopes leave of it.

    Args:
        first: coefficients (terms, ...) of f at x from k = start on.
        second: coefficients of g at y.
        rho: correlations in [-1, 1]; broadcasts with one coefficient of each.
        start: order of the first coefficient.

    Returns:
        Covariances, of the broadcast shape. Terms that change no element by round-off are left out. Grade: exact up
        to the terms not given.

    Example:
        >>> a = hermite_coefficients(torch.square, torch.zeros(1), 1.0, terms=3)
        >>> round(float(hermite_covariance(a, a, torch.tensor(0.5))), 6)
        0.5
    """
    used = max(_needed(first), _needed(second))
    total = torch.zeros((), dtype=rho.dtype, device=rho.device)
    for one, two in zip(first[:used].flip(0), second[:used].flip(0), strict=True):
        total = rho * (total + one * two)
    for _ in range(start - 1):
        total = total * rho
    return total


def _needed(coefficients: Tensor) -> int:
    """How many coefficients matter for any element."""
    squares = coefficients.detach().square()
    total = squares.sum(0)
    share = (squares / torch.where(total > 0, total, torch.ones_like(total))).reshape(len(squares), -1)
    if share.numel() == 0:
        return 1
    # squares: a share of eps^2 / 100 is far below round-off of the covariance, also between unequal elements
    matter = (share.amax(1) > 0.01 * torch.finfo(share.dtype).eps ** 1.5).nonzero()
    return int(matter.max()) + 1 if matter.numel() else 1
