"""What an elementwise function makes of a variable that is nearly, but not quite, Gaussian.

For x with mean m, deviation s and small cumulants k3 and k4, the Gram-Charlier (Edgeworth) series gives
    E h(x) = E_G[h] + k3/6 E_G[h'''] + k4/24 E_G[h''''] + k3^2/72 E_G[h^(6)] + ...
with Gaussian expectations of derivatives, E_G[h^(k)] = E[h(m + s t) He_k(t)] / s^k, which exist for kinked h too
(McCullagh 1987, chapter 5). The innovation e = f(x) - E f - E[f'](x - m) is what the linear part leaves over; its joint
cumulants with x start the next layer's cumulants.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from assay.gaussian.normal import density
from assay.gaussian.quadrature import hermite, legendre

_NODES, _SMOOTH_NODES = 40, 80
"""Between kinks, and on the whole line."""
_REACH = 9.0
"""Deviations integrated over on each side when kinks cut the line."""


@dataclass(frozen=True, eq=False)
class Expansion:
    """Gaussian expectations around f, each of the shape of the mean; all 0 but `mean` where the deviation is 0.

    Attributes:
        mean: E f.
        slopes: E f^(k) for k = 1 to 6.
        square: E of the third, fourth and sixth derivative of (f - E f)^2.
        variance: E e^2.
        curvature: E (e^2)'' = E[e^2 He_2(t)] / s^2.
        xee: E[(x - m) e^2] / s^2.
        eee: E e^3.
        xxxe: joint fourth cumulants of x and e, in this and the next three.
        xxee: two of each.
        xeee: one and three.
        eeee: fourth cumulant of e.
    """

    mean: Tensor
    slopes: tuple[Tensor, ...]
    square: tuple[Tensor, ...]
    variance: Tensor
    curvature: Tensor
    xee: Tensor
    eee: Tensor
    xxxe: Tensor
    xxee: Tensor
    xeee: Tensor
    eeee: Tensor


def expansion(
    function: Callable[[Tensor], Tensor], mean: Tensor, std: Tensor, *, kinks: tuple[float, ...] = ()
) -> Expansion:
    """Expectations up to sixth order by quadrature cut at the kinks, computed in float64.

    Args:
        function: elementwise, on batches (N, ...) with the event shape of `mean`.
        mean: (B, ...) means.
        std: (B, ...) deviations, zero or larger.
        kinks: points where f or a derivative jumps.

    Returns:
        Expansion in the dtype of `mean`. Grade: closed_form up to quadrature error, 1e-9 for kinked functions.

    Example:
        >>> one = torch.ones(1, 1, dtype=torch.float64)
        >>> relu = expansion(torch.relu, 0 * one, one, kinks=(0.0,))
        >>> round(float(relu.mean), 6), round(float(relu.slopes[1]), 6), round(float(relu.eee), 6)
        (0.398942, 0.398942, 0.027252)
    """
    kind = mean.dtype
    still = std <= torch.finfo(kind).eps * mean.abs().clamp(min=1)
    m = mean.double()
    s = torch.where(still, torch.ones_like(m), std.double())
    nodes, weights = _rule(m, s, kinks)
    count = len(nodes)
    values = function((m + s * nodes).reshape(-1, *m.shape[1:]).to(kind)).double().reshape(count, *m.shape)
    average = (weights * values).sum(0)
    centred = values - average
    polynomials = [torch.ones_like(nodes), nodes]
    for order in range(1, 6):  # He_2 to He_6
        polynomials.append(nodes * polynomials[-1] - order * polynomials[-2])
    weighted = weights * centred
    slopes = [(weighted * polynomial).sum(0) / s**order for order, polynomial in enumerate(polynomials) if order]
    squares = weighted * centred
    square = [(squares * polynomials[order]).sum(0) / s**order for order in (3, 4, 6)]
    left = centred - slopes[0] * s * nodes
    once = weights * left
    twice = once * left
    thrice = twice * left
    variance = twice.sum(0)
    tilted = (twice * nodes * nodes).sum(0) - variance
    found = {
        "variance": variance,
        "curvature": tilted / s**2,
        "xee": (twice * nodes).sum(0) / s,
        "eee": thrice.sum(0),
        "xxxe": (once * nodes**3).sum(0) * s**3,
        "xxee": tilted * s**2,
        "xeee": (thrice * nodes).sum(0) * s,
        "eeee": (thrice * left).sum(0) - 3 * variance**2,
    }

    def settled(value: Tensor) -> Tensor:
        return torch.where(still, torch.zeros_like(value), value).to(kind)

    at_mean = function(mean)
    return Expansion(
        torch.where(still, at_mean, average.to(kind)),
        tuple(settled(value) for value in slopes),
        tuple(settled(value) for value in square),
        **{name: settled(value) for name, value in found.items()},
    )


def _rule(mean: Tensor, std: Tensor, kinks: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """Standardised nodes and weights, both (Q, B, ...): one Gauss-Legendre rule between kinks, or Gauss-Hermite."""
    shape = (-1, *(1,) * mean.dim())
    rule = legendre(_NODES) if kinks else hermite(_SMOOTH_NODES)
    points, weights = (torch.tensor(values, dtype=mean.dtype) for values in zip(*rule, strict=True))
    if not kinks:
        return points.reshape(shape).expand(-1, *mean.shape), weights.reshape(shape).expand(-1, *mean.shape)
    ends = [torch.full_like(mean, -_REACH), *(((kink - mean) / std).clamp(-_REACH, _REACH) for kink in kinks)]
    ends.append(torch.full_like(mean, _REACH))
    nodes = [low + (high - low) * points.reshape(shape) for low, high in pairwise(ends)]
    parts = [
        weights.reshape(shape) * (high - low) * density(node)
        for node, (low, high) in zip(nodes, pairwise(ends), strict=True)
    ]
    return torch.cat(nodes), torch.cat(parts)
