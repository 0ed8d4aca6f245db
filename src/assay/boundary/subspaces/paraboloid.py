"""The probability beyond a paraboloid under Gaussian noise, exact in any dimension: one integral in the complex plane.

Noise N(0, s^2) in every coordinate crosses the surface t = R - 1/2 sum_i kappa_i v_i^2 when Z_0 + sum_i a_i Z_i^2 > b,
with a_i = s kappa_i / 2, b = R / s and independent standard normals Z. The logarithm of the moment generating function
of the left side is K(z) = z^2 / 2 - 1/2 sum_i log(1 - 2 a_i z), and

    P = 1 / (2 pi i) * integral of exp(K(z) - z b) / z dz

over any path from below to above that crosses the real axis between 0 and 1 / (2 max a) (Imhof 1961 takes the limit at
0, which loses small probabilities to cancellation). The path here leaves the real axis at the saddle point of the whole
integrand, so that nothing cancels and small probabilities keep their relative accuracy, and leans towards Re z = b, so
that it does not oscillate far out.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assay.errors import NumericalError

Array = NDArray[np.float64]

TOLERANCE = 1e-11
"""Relative change of the integral at which halving the step stops."""
LEAN = 0.35
"""Slope of the path far from the real axis; anything well below 1 serves."""
_REACH = 9.5  # imaginary part beyond which the Gaussian factor leaves less than 1e-17
_UNDERFLOW = -760.0  # logarithm of what float64 cannot hold
_HUGE = 1e100  # squares still fit
_HALVINGS = 10
_BLOCK = 2**20  # complex numbers at a time: 16 MiB


def beyond_paraboloid(bound: float, weights: Array, counts: Array) -> float:
    """P(Z_0 + sum_i a_i X_i > b), Z_0 standard normal, X_i chi-square with n_i degrees of freedom, all independent.

    Args:
        bound: b, a finite number.
        weights: (m,) a_i of any sign.
        counts: (m,) n_i >= 0.

    Returns:
        The probability. Grade: exact, relative error below about 1e-10 also for tiny probabilities.

    Raises:
        NumericalError: if the integral does not settle, or numbers leave the range of float64.

    Source: inversion as in Imhof (1961, equation 3.2), along a path through the saddle point (Rice 1980).

    Example:
        >>> none = np.zeros(0)
        >>> round(beyond_paraboloid(2.0, none, none), 12)  # a plane: Phi(-2)
        0.022750131948
    """
    keep = (weights != 0) & (counts > 0)
    weights, counts = weights[keep], counts[keep]
    if bound > _HUGE and float(np.sum(counts * np.maximum(weights, 0))) < 1e-4 * bound:
        return 0.0
    if max(bound, float(np.abs(weights).max(initial=0.0))) > _HUGE:
        raise NumericalError(
            "Distance or curvature is too large against the noise for float64.",
            where=f"{len(weights)} curvatures at {bound:.4g} standard deviations",
            advice="Check their units.",
        )
    centre = _saddle(bound, weights, counts)
    curvature = 1 + 1 / centre**2 + float(np.sum(2 * counts * (weights / (1 - 2 * weights * centre)) ** 2))
    width = 1 / math.sqrt(curvature)
    lean = LEAN * (bound - centre) / (1 + abs(bound - centre))
    start = float(_exponent(np.array([centre + 0j]), bound, weights, counts)[0].real)
    if start < _UNDERFLOW:
        return 0.0

    def summed(y: NDArray[np.floating[Any]]) -> float:
        rise = width * np.sinh(y)
        path = centre + lean * width * (np.cosh(y) - 1) + 1j * rise
        slope = lean * width * np.sinh(y) + 1j * width * np.cosh(y)
        return float((np.exp(_exponent(path, bound, weights, counts) - start) * slope).imag.sum())

    end = math.asinh(_REACH / width)
    intervals = 32
    step = end / intervals
    total = summed(step * np.arange(intervals + 1)) - 0.5 * summed(np.zeros(1))
    for _ in range(_HALVINGS):
        before = total * step
        total += summed(step * (np.arange(intervals) + 0.5))
        step, intervals = step / 2, 2 * intervals
        if abs(total * step - before) <= TOLERANCE * abs(before):
            return min(1.0, max(0.0, math.exp(start) * total * step / math.pi))
    raise NumericalError(
        "The probability beyond the curved boundary did not settle.",
        where=f"{len(weights)} curvatures at {bound:.4g} standard deviations",
        advice="Check the units of distance, curvature and noise; method='high_dimensional' needs no integral.",
    )


def _exponent(z: NDArray[np.complex128], bound: float, weights: Array, counts: Array) -> NDArray[np.complex128]:
    """K(z) - z b - log z at points (T,)."""
    result = z * (0.5 * z - bound) - np.log(z)
    step = max(1, _BLOCK // max(1, len(z)))
    for begin in range(0, len(weights), step):
        part = slice(begin, begin + step)
        result -= 0.5 * (np.log(1 - 2 * z[:, None] * weights[part]) @ counts[part])
    return result


def _saddle(bound: float, weights: Array, counts: Array) -> float:
    """The minimum of K(z) - z b - log z between 0 and the first singularity: the function is convex there."""
    from scipy.optimize import root_scalar

    largest = float(weights.max(initial=0.0))
    drift = float(np.sum(counts * np.maximum(-weights, 0)))
    # Where no weight is positive the derivative is positive at b + drift + 1, and positive weights only add to it.
    high = max(bound, 0.0) + drift + 1.0
    if largest > 0:
        high = min(high, (1 - 1e-13) / (2 * largest))

    def derivative(z: float) -> float:
        return z - bound - 1 / z + float(np.sum(counts * weights / (1 - 2 * weights * z)))

    low = high
    while derivative(low) > 0:
        low /= 2
    if low == high:
        return high
    found: Any = root_scalar(derivative, bracket=(low, min(high, 2 * low)), method="brentq", rtol=1e-13)
    return float(found.root)
