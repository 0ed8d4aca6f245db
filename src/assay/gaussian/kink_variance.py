"""Variance over [0, T] of the sum of kink sizes along a stationary Gaussian path, from its covariance function.

One unit with thresholds: crossings at two times have a joint Kac-Rice formula without absolute values, since every size
meets the |z'| of the formula; what is left is one integral over the time between them. The largest of several paths:
all its jumps are positive, so their sum is S = y'(T) - y'(0) - integral of z''_i*(t) over t, i* the largest; its
variance needs Gaussian expectations at two times, taken by quasi-random draws, and no crossing formula at all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import jvp

from assay.errors import NumericalError, UsageError
from assay.gaussian.normal import density
from assay.gaussian.quadrature import legendre
from assay.gaussian.ties import REPLICATES, normal_points

CovarianceFunction = Callable[[Tensor], Tensor]
"""tau (n,) -> Cov(z(t), z(t + tau)): (n,), or (n, k, k) with element i, j = Cov(z_i(t), z_j(t + tau))."""

_NODES, _MOST = 8, 1 << 16


def derivatives(covariance: CovarianceFunction, tau: Tensor, order: int) -> list[Tensor]:
    """A covariance function and its derivatives, by forward-mode differentiation.

    Args:
        covariance: made of differentiable torch operations, each tau for itself.
        tau: (n,) float64.
        order: highest derivative.

    Returns:
        order + 1 tensors (n, ...). Grade: exact up to rounding.

    Example:
        >>> zero = torch.zeros(1, dtype=torch.float64)
        >>> [float(value) for value in derivatives(lambda t: torch.exp(-0.5 * t * t), zero, 2)]
        [1.0, -0.0, -1.0]
    """

    def slope_of(function: CovarianceFunction) -> CovarianceFunction:
        return lambda t: jvp(function, (t,), (torch.ones_like(t),))[1]

    found, function = [covariance(tau)], covariance
    for _ in range(order):
        function = slope_of(function)
        found.append(function(tau))
    return found


def threshold_smp_variance(
    duration: float,
    mean: float,
    covariance: CovarianceFunction,
    *,
    slopes: tuple[CovarianceFunction, CovarianceFunction] | None = None,
    levels: Sequence[float] = (0.0,),
    changes: Sequence[float] = (1.0,),
) -> Tensor:
    """Variance of the SMP over [0, T] of a piecewise linear function of a stationary Gaussian path.

    Args:
        duration: T, larger than zero.
        mean: of z.
        covariance: r(tau) for tau in [0, T].
        slopes: r' and r''; by automatic differentiation of r when left out.
        levels: where the slope of the function jumps; for relu and its leaky forms 0.
        changes: by how much, one for each level.

    Returns:
        The variance, in squared units of SMP; its root is the deviation between paths. Grade: exact for a Gaussian
        path, quadrature to 1e-7.

    Raises:
        UsageError: an argument is out of range.
        NumericalError: the quadrature does not settle.

    Example:
        >>> variance = threshold_smp_variance(20.0, 0.0, lambda t: torch.exp(-0.5 * t * t))
        >>> round(math.sqrt(float(variance)), 4)
        2.8334
    """
    if not duration > 0 or len(levels) != len(changes) or not levels:
        raise UsageError(
            f"A duration of {duration}, {len(levels)} levels and {len(changes)} changes.",
            where="threshold_smp_variance",
            advice="Pass T > 0 and one change for each level.",
        )

    def at(tau: Tensor) -> list[Tensor]:
        if slopes is None:
            return derivatives(covariance, tau, 2)
        return [covariance(tau), slopes[0](tau), slopes[1](tau)]

    start = at(torch.zeros(1, dtype=torch.float64))
    square, speed = float(start[0]), -float(start[2])
    if not (square > 0 and speed > 0):
        raise UsageError(
            "A covariance function needs r(0) > 0 and r''(0) < 0.",
            where="threshold_smp_variance(covariance)",
            advice="Kinks need a path that moves and has a derivative.",
        )
    std, rate = math.sqrt(square), math.sqrt(speed / square)
    places = [(level - mean) / std for level in levels]
    sizes = [abs(change) for change in changes]
    total = torch.zeros((), dtype=torch.float64)
    for place, size in zip(places, sizes, strict=True):  # each kink with itself
        total = total + duration * size**2 * _height(place) * 2 * math.sqrt(2 / math.pi) * rate**3
    expected = sum(size * rate**2 * _height(place) for place, size in zip(places, sizes, strict=True))

    def excess(tau: Tensor) -> Tensor:
        values = [value / square for value in at(tau)]
        both = sum(
            (
                one * two * _pairs(first, second, rate**2, *values)
                for first, one in zip(places, sizes, strict=True)
                for second, two in zip(places, sizes, strict=True)
            ),
            torch.zeros_like(tau),
        )
        return 2 * (duration - tau) * (both - expected**2)

    return (total + _integral(excess, duration, 1 / rate)) * square


def _height(place: float) -> float:
    return float(density(torch.tensor(place, dtype=torch.float64)))


def _pairs(a: float, b: float, speed: float, r: Tensor, r1: Tensor, r2: Tensor) -> Tensor:
    """E[z'(0)^2 z'(tau)^2 | z(0) = a, z(tau) = b] times the density there, for variance 1."""
    rest = ((1 - r) * (1 + r)).clamp(min=0)
    apart = rest > 1e-9  # nearer, crossings repel each other: the density of pairs falls like tau^3
    rest = torch.where(apart, rest, torch.ones_like(rest))
    first, second = -r1 * (b - r * a) / rest, r1 * (a - r * b) / rest
    own = (speed - r1.square() / rest).clamp(min=0)
    joint = -r2 - r * r1.square() / rest
    weight = torch.exp(-((a - b) ** 2 / (2 * rest) + a * b / (1 + r))) / (2 * math.pi * rest.sqrt())
    moment = own.square() + 2 * joint.square() + (first.square() + second.square()) * own
    moment = moment + 4 * first * second * joint + first.square() * second.square()
    return torch.where(apart, weight * moment, torch.zeros_like(weight))


def _nodes(duration: float, panels: int) -> tuple[Tensor, Tensor]:
    points, weights = (torch.tensor(v, dtype=torch.float64) for v in zip(*legendre(_NODES), strict=True))
    width = duration / panels
    starts = torch.arange(panels, dtype=torch.float64) * width
    return (starts.unsqueeze(1) + width * points).reshape(-1), (width * weights).repeat(panels)


def _integral(function: Callable[[Tensor], Tensor], duration: float, scale: float) -> Tensor:
    panels, before = max(4, math.ceil(duration / scale)), None
    while panels * _NODES <= _MOST:
        tau, weight = _nodes(duration, panels)
        value = (weight * function(tau)).sum()
        if before is not None and abs(value - before) <= 1e-9 * (abs(value) + duration / scale):
            return value
        panels, before = 2 * panels, value
    raise NumericalError(
        "The integral over the time between two kinks does not settle.",
        where="threshold_smp_variance(covariance)",
        advice="Check that the covariance function is smooth, or pass its derivatives.",
    )


class MaximumVariance(NamedTuple):
    """Variance of the SMP of a maximum over [0, T].

    Attributes:
        value: the variance.
        error: its standard error from independent replicates of the points.
    """

    value: Tensor
    error: Tensor


def maximum_smp_variance(
    duration: float,
    mean: Tensor,
    covariance: CovarianceFunction,
    *,
    floor: float | None = None,
    points: int = 1024,
    seed: int = 0,
) -> MaximumVariance:
    """Variance over [0, T] of the new SMP of max(z_1, ..., z_k), or of max(floor, z_1, ..., z_k).

    Args:
        duration: T, larger than zero.
        mean: (k,) means of the stationary Gaussian vector path z.
        covariance: tau (n,) -> (n, k, k), element i, j = Cov(z_i(t), z_j(t + tau)); differentiable four times.
        floor: a constant among the candidates: 0 for ReLU and max pool.
        points: quasi-random points in each of eight replicates.
        seed: of the points.

    Returns:
        The variance and its standard error. Grade: sampled (quasi-random), of a law exact for Gaussian paths.

    Raises:
        UsageError: an argument is out of range.

    Example:
        >>> def independent(tau):
        ...     return torch.exp(-0.5 * tau * tau)[:, None, None] * torch.eye(2, dtype=torch.float64)
        >>> found = maximum_smp_variance(5.0, torch.zeros(2, dtype=torch.float64), independent, points=256)
        >>> 3.2 < float(found.value) < 4.8
        True
    """
    mean = mean.double()
    start = [value[0] for value in derivatives(covariance, torch.zeros(1, dtype=torch.float64), 4)]
    if not duration > 0 or start[0].shape != (len(mean), len(mean)):
        raise UsageError(
            f"A duration of {duration}, {tuple(mean.shape)} means and a covariance {tuple(start[0].shape)}.",
            where="maximum_smp_variance",
            advice="Pass T > 0, means (k,) and a function tau (n,) -> (n, k, k).",
        )
    square, speed = start[0].diagonal(), -start[2].diagonal()
    scale = math.sqrt(float((square / speed.clamp(min=1e-300)).clamp(max=1e300).min()))
    tau, weight = _nodes(duration, max(2, math.ceil(duration / scale)))
    tau = torch.cat([tau, tau.new_tensor([duration])])
    along = derivatives(covariance, tau, 4)
    # beyond its reach the path has forgotten: differences there are zero, and are not drawn
    size = torch.stack([(v.abs().amax((1, 2)) / s) for v, s in zip(along, _sizes(start), strict=True)]).amax(0)
    replicates = []
    for r in range(REPLICATES):
        cube = normal_points(points, 2 * len(mean), seed * REPLICATES + r)
        draws = _TwoTimes(mean, start, floor, torch.special.ndtri(cube))
        parts = torch.stack(
            [
                draws.products([v[n] for v in along]) if float(size[n]) > 1e-9 else mean.new_zeros(3)
                for n in range(len(tau))
            ]
        )
        slopes, skew, curvature = parts.unbind(1)
        value = 2 * (draws.slope_square() - slopes[-1]) - 2 * (weight * skew[:-1]).sum()
        replicates.append(value + 2 * (weight * (duration - tau[:-1]) * curvature[:-1]).sum())
    found = torch.stack(replicates)
    return MaximumVariance(found.mean().clamp(min=0), found.std() / math.sqrt(REPLICATES))


def _sizes(start: list[Tensor]) -> list[float]:
    """A size for every derivative: that of the even one at 0 at or after it."""
    even = [float(start[order].abs().max()) or 1.0 for order in (0, 2, 4)]
    return [even[0], math.sqrt(even[0] * even[1]), even[1], math.sqrt(even[1] * even[2]), even[2]]


class _TwoTimes:
    """Draws of (z(0), z(tau)) from the same points for every tau, and exact expectations of the rest given them."""

    def __init__(self, mean: Tensor, start: list[Tensor], floor: float | None, normal: Tensor) -> None:
        self.mean, self.start, self.floor = mean, start, floor
        self.first, self.second = normal.split(len(mean), dim=1)
        self.root, self.inverse = _roots(start[0])
        self.now = self._winner(self.mean + self.first @ self.root)
        later = self._winner(self.mean + self.second @ self.root)
        bend = start[2] @ self.inverse
        self.apart = (_taken(self.first @ bend.T, self.now) * _taken(self.second @ bend.T, later)).mean()

    def _winner(self, z: Tensor) -> tuple[Tensor, Tensor]:
        top, place = z.max(1)
        active = torch.ones_like(top) if self.floor is None else (top > self.floor).to(top)
        return place, active

    def slope_square(self) -> Tensor:
        """E y'^2 at one time."""
        lean = -self.start[1] @ self.inverse  # Cov(z', z) in units of the draws; zero for reversible paths
        place, active = self.now
        rest = (-self.start[2] - lean @ lean.T).diagonal()
        return (active * (_taken(self.first @ lean.T, self.now).square() + rest[place])).mean()

    def products(self, r: list[Tensor]) -> Tensor:
        """E y'(0) y'(tau); E y'(tau) w(0) - E y'(0) w(tau); E w(0) w(tau) less what it is far apart; w = z''_i*."""
        start = self.start
        link = r[0].T @ self.inverse  # z(tau) from the draws of z(0)
        root, inverse = _roots(start[0] - link @ link.T)
        later = self._winner(self.mean + self.first @ link.T + self.second @ root)

        def known(before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
            first = before @ self.inverse
            return first, (after - first @ link.T) @ inverse

        slope0, slope1 = known(-start[1], -r[1]), known(r[1].T, -start[1])
        bend0, bend1 = known(start[2], r[2]), known(r[2].T, start[2])

        def product(one: tuple[Tensor, Tensor], two: tuple[Tensor, Tensor], plain: Tensor) -> Tensor:
            rest = plain - one[0] @ two[0].T - one[1] @ two[1].T
            mean0 = self.first @ one[0].T + self.second @ one[1].T
            mean1 = self.first @ two[0].T + self.second @ two[1].T
            together = self.now[1] * later[1] * rest[self.now[0], later[0]]
            return (_taken(mean0, self.now) * _taken(mean1, later) + together).mean()

        slopes = product(slope0, slope1, -r[2])
        skew = product(bend0, slope1, r[3]) - product(slope0, bend1, -r[3])
        return torch.stack([slopes, skew, product(bend0, bend1, r[4]) - self.apart])


def _taken(values: Tensor, winner: tuple[Tensor, Tensor]) -> Tensor:
    place, active = winner
    return active * values.gather(1, place.unsqueeze(1)).squeeze(1)


def _roots(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Symmetric square root and its inverse, directions without variance left out."""
    values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
    kept = values > 1e-11 * values.max().clamp(min=1e-300)
    root = torch.where(kept, values, torch.zeros_like(values)).sqrt()
    inverse = torch.where(kept, 1 / torch.where(kept, root, torch.ones_like(root)), torch.zeros_like(root))
    return vectors * root @ vectors.T, vectors * inverse @ vectors.T
