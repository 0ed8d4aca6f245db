"""p-values of a kink share: against reference tracks known to be smooth, or smooth curves fitted to the track."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from assay.smoothness.evidence.statistic import SIXTH, kink_shares

KNOTS_PER_REACH = 0.75  # samples between the spline's points, in reaches: closer, it follows the kinks themselves
PLAUSIBLE = 0.25  # share of the curvature that kinks make in an alternative the test ought to see
POWER_REPLICATES = 40


@dataclass(frozen=True, eq=False)
class Null:
    """What smooth tracks like this one give.

    Attributes:
        p_value: (1 + smooth replicates with at least this share) / (1 + replicates).
        shares: (replicates,) sorted kink shares of smooth curves with noise.
        power: probability that the test at level `level` finds kinks that make a quarter of the track's curvature; NaN
            where it was not needed.
        level: of the test.
    """

    p_value: float
    shares: np.ndarray
    power: float
    level: float


def conformal(share: float, reference: np.ndarray) -> float:
    """Conformal p-value (1 + #{reference >= share}) / (n + 1), valid for any statistic (Vovk, Gammerman, Shafer 2005).

    Args:
        share: of the track in question; any statistic where higher is more suspicious.
        reference: (n,) of tracks exchangeable with it under "no kinks".

    Returns:
        The p-value.

    Example:
        >>> conformal(0.9, np.array([0.1, 0.2, 0.95]))
        0.5
    """
    return (1 + int((np.asarray(reference) >= share).sum())) / (len(reference) + 1)


def smooth_curves(tracks: np.ndarray, reach: int) -> np.ndarray:
    """Smoothing splines (generalised cross-validation) through samples three quarters of the reach apart, less one.

    A spline through all samples would follow the kinks, and the test lose its power.

    Returns:
        (m, n) curves.
    """
    from scipy.interpolate import make_smoothing_spline

    samples = tracks.shape[1]
    gap = max(1, min(int(KNOTS_PER_REACH * reach) - 1, (samples - 1) // 12))
    rows = np.unique(np.append(np.arange(0, samples, gap), samples - 1)).astype(np.float64)
    scale = tracks.std(1, keepdims=True)
    scaled = (tracks - tracks.mean(1, keepdims=True)) / np.where(scale > 0, scale, 1.0)
    everywhere = np.arange(samples, dtype=np.float64)
    fitted = [make_smoothing_spline(rows, y[rows.astype(int)])(everywhere) for y in scaled]
    return np.stack(fitted) * scale + tracks.mean(1, keepdims=True)


def noise_like(
    tracks: np.ndarray, curves: np.ndarray, replicates: int, rng: np.random.Generator, coloured: bool
) -> np.ndarray:
    """(replicates, m, n) noise: white with the deviation of sixth differences, or first-order autoregressive.

    The latter takes deviation and lag-one correlation of what the smooth curves leave over.

    Returns:
        The noise.
    """
    from scipy.signal import lfilter

    shape = (replicates, *tracks.shape)
    white = rng.standard_normal(shape)
    if not coloured:
        return white * np.sqrt(np.square(np.diff(tracks, 6, axis=1)).mean(1) / SIXTH)[:, None]
    rest = tracks - curves
    rest = rest - rest.mean(1, keepdims=True)
    power = np.square(rest).mean(1)
    correlation = np.clip((rest[:, 1:] * rest[:, :-1]).mean(1) / np.maximum(power, 1e-300), 0.0, 0.98)
    out = np.empty(shape)
    for i, (variance, phi) in enumerate(zip(power, correlation, strict=True)):
        start = math.sqrt(variance) * white[:, i, :1]  # the first value has the stationary deviation
        driven = math.sqrt(variance * (1 - phi * phi)) * white[:, i]
        driven[:, 0] = start[:, 0]
        out[:, i] = lfilter([1.0], [1.0, -phi], driven, axis=-1)
    return out


def bootstrap(
    tracks: np.ndarray, *, replicates: int = 99, level: float = 0.05, coloured: bool = False, power: bool = True,
    seed: int = 0,
) -> Null:  # fmt: skip
    """Test a group of tracks against smooth curves with noise like theirs.

    Args:
        tracks: (m, n) tracks that share their sampling; their kink share is taken jointly.
        replicates: smooth tracks drawn.
        level: of the test whose power is estimated.
        coloured: noise is first-order autoregressive, and the statistic has the term for it.
        power: estimate the power of a test that did not reject.
        seed: of the noise.

    Returns:
        p-value, null distribution and power. Grade: sampled.

    Example:
        >>> t = np.arange(300) / 25
        >>> noise = 1e-3 * np.random.default_rng(0).standard_normal(300)
        >>> bootstrap((np.abs((t % 2) - 1) + noise)[None], power=False).p_value
        0.01
    """
    rng = np.random.default_rng(seed)
    observed = kink_shares(tracks, walk=coloured)
    curves = smooth_curves(tracks, int(observed.reach))
    noise = noise_like(tracks, curves, replicates, rng, coloured)
    shares = np.sort(kink_shares(curves + noise, walk=coloured).share)
    p_value = conformal(float(observed.share), shares)
    found = math.nan
    if power and p_value > level:
        # The level of the test as a threshold: shares above it have p-values of at most `level`.
        rank = min(len(shares) - 1, math.ceil((len(shares) + 1) * (1 - level)) - 1)
        kinked = curves + plausible_kinks(curves, POWER_REPLICATES, rng)
        kinked = kinked + noise_like(tracks, curves, POWER_REPLICATES, rng, coloured)
        found = float((kink_shares(kinked, walk=coloured).share > shares[rank]).mean())
    return Null(p_value, shares, found, level)


def plausible_kinks(curves: np.ndarray, replicates: int, rng: np.random.Generator) -> np.ndarray:
    """(replicates, m, n) random kinks, dense and Gaussian, that would make `PLAUSIBLE` of the curves' curvature.

    Curvature is the mean squared second difference at the scale of the motion, deviation over deviation of the slope:
    on random ReLU networks kinks make 0.5 to 1.6 of it, on trained convolutional ones 0.13 to 1, on networks with tanh
    or softplus at most 0.002.

    Returns:
        Tracks to add to the curves.
    """
    slope = np.diff(curves, axis=1)
    spread = np.sqrt(np.square(slope).mean(1))
    scale = np.clip(curves.std(1) / np.maximum(spread, 1e-300), 1, curves.shape[1] / 6).astype(int)
    energy = [
        1.5 * PLAUSIBLE * np.square(y[2 * k :] - 2 * y[k:-k] + y[: -2 * k]).mean() / k**3
        for y, k in zip(curves, scale, strict=True)
    ]
    jumps = rng.standard_normal((replicates, *curves.shape)) * np.sqrt(energy)[:, None]
    return np.cumsum(np.cumsum(jumps, axis=-1), axis=-1)
