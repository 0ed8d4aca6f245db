"""The kink share of a track: which part of its roughness grows with the third power of the scale, as kinks do.

Mean squares of k-step *third* differences, V_k = E (y_{n+3k} - 3 y_{n+2k} + 3 y_{n+k} - y_n)^2, are

    20 s^2  +  6 D k  +  1.5 B k^3  +  A k^6  -  C k^8

for noise of deviation s, a random walk (coloured noise below its correlation time), kinks and a smooth motion: a kink
process has the covariance |tau|^3, whose share of V_k grows as k^3 for differences of every order from two on, while a
smooth motion grows as k^(2 order). Third differences therefore tell the two apart far better than second ones
(k^3 against k^4), and the range of scales that they need, up to where the motion stands ten times above the noise, is
taken from the track.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SHORTEST_TRACK = 100
SHORTEST_REACH = 8
LONGEST_REACH = 240
CONTRAST = 10.0  # V_k over its noise part at the largest scale used
ORDER = 3
NOISE_PART, WALK_PART, KINK_PART = 20.0, 6.0, 1.5  # of third differences, per s^2, D k and B k^3
SIXTH = 924.0  # E of a squared sixth difference of unit white noise
PIECE = 2_000_000  # numbers that are held at a time


@dataclass(frozen=True, eq=False)
class Shares:
    """Kink shares of many tracks, or of many groups of tracks taken together.

    Attributes:
        share: (...) between 0 and 1: kinks over kinks + smooth motion, at a quarter of the largest scale used.
        kinks: (...) B, so that mean squared k-step second differences of the kinks are B k^3.
        noise: (...) variance of white noise.
        walk: (...) D, zero unless asked for.
        reach: (...) largest scale used, in samples.
        resolved: (...) whether the motion stood out of the noise within the scales that the track's length allows.
    """

    share: np.ndarray
    kinks: np.ndarray
    noise: np.ndarray
    walk: np.ndarray
    reach: np.ndarray
    resolved: np.ndarray


def strides(samples: int) -> np.ndarray:
    """Scales looked at: every one up to 16 samples, then 8 % apart, up to a tenth of the track.

    Returns:
        Ascending, in samples.

    Example:
        >>> strides(601)[-3:].tolist()
        [51, 56, 60]
    """
    longest = max(SHORTEST_REACH, min(samples // 10, LONGEST_REACH))
    grown = np.round(longest * 1.08 ** -np.arange(80.0))
    return np.unique(np.concatenate([np.arange(1, min(16, longest) + 1), grown[grown >= 1]])).astype(int)


def squares(y: np.ndarray, stride: int) -> np.ndarray:
    """(..., n - 3 stride) squared third differences at a stride."""
    gap = y[..., stride:] - y[..., :-stride]
    bend = gap[..., stride:] - gap[..., :-stride]
    return np.square(bend[..., stride:] - bend[..., :-stride])


def noise_variance(y: np.ndarray) -> np.ndarray:
    """(...) variance of white noise, from sixth differences, which leave nothing of a motion sampled densely enough."""
    return np.square(np.diff(y, 6, axis=-1)).mean(-1) / SIXTH


def levels(tracks: np.ndarray, scales: np.ndarray, *, enough: float = np.inf) -> np.ndarray:
    """(..., scales) V_k of groups of tracks (..., m, n), each track in units of its own noise.

    The noise counts alike in all, so that tracks with much motion above their noise count most. Stops early where all
    groups were above `enough` at some scale from `SHORTEST_REACH` on.

    Returns:
        One row per group.
    """
    variance = noise_variance(tracks)[..., None]
    floor = 1e-30 * np.square(tracks).max(-1, keepdims=True)
    scaled = tracks / np.sqrt(np.maximum(variance, np.maximum(floor, 1e-300)))
    found, done = [], np.zeros(tracks.shape[:-2], bool)
    for k in scales:
        found.append(squares(scaled, int(k)).mean((-2, -1)))
        done |= found[-1] > enough
        if k >= SHORTEST_REACH and done.all():
            break
    return np.stack(found, axis=-1)


def kink_shares(tracks: np.ndarray, *, walk: bool = False) -> Shares:
    """Kink shares of groups of tracks.

    Args:
        tracks: (..., m, n) groups of m tracks that share their sampling; n at least `SHORTEST_TRACK`.
        walk: fit a random walk too, for coloured noise.

    Returns:
        One share per group. Coefficients are in units of the tracks' noise.

    Example:
        >>> t = np.arange(300) / 25
        >>> smooth, kinked = np.sin(t), np.abs((t % 2) - 1)
        >>> noise = 1e-3 * np.random.default_rng(0).standard_normal((2, 300))
        >>> kink_shares(np.stack([smooth, kinked])[:, None, :] + noise[:, None, :]).share.round(1).tolist()
        [0.3, 1.0]
    """
    lead, (count, samples) = tracks.shape[:-2], tracks.shape[-2:]
    flat = tracks.reshape(-1, count, samples)
    scales = strides(samples)
    held = max(1, PIECE // (count * samples))
    enough = CONTRAST * NOISE_PART
    pieces = [levels(flat[i : i + held], scales, enough=enough) for i in range(0, len(flat), held)]
    rows = np.array([_of_levels(each, scales, walk) for piece in pieces for each in piece])
    share, kinks, noise, drift, reach, resolved = (rows[:, i].reshape(lead) for i in range(6))
    return Shares(share, kinks, noise, drift, reach.astype(int), resolved > 0)


def _of_levels(found: np.ndarray, scales: np.ndarray, walk: bool) -> tuple[float, float, float, float, int, bool]:
    above = np.flatnonzero((found > CONTRAST * NOISE_PART) & (scales[: len(found)] >= 2))
    resolved = len(above) > 0
    last = int(above[0]) if resolved else len(found) - 1
    last = max(last, int(np.searchsorted(scales, SHORTEST_REACH)))
    used = scales[: last + 1]
    kinks, smooth, noise, drift = fit(found[: last + 1], used, walk)
    reach = int(used[-1])
    return share_at(kinks, smooth, reach), kinks, noise, drift, reach, resolved


def share_at(kinks: float, smooth: float, reach: int) -> float:
    """Kinks over kinks + smooth motion in third differences at a quarter of the reach.

    Returns:
        The share, 0 where there is neither.

    Example:
        >>> share_at(1.0, 0.0, 8)
        1.0
    """
    scale = reach / 4
    own = KINK_PART * kinks * scale**3
    total = own + smooth * scale ** (2 * ORDER)
    return own / total if total > 0 else 0.0


def fit(found: np.ndarray, scales: np.ndarray, walk: bool) -> tuple[float, float, float, float]:
    """B, A, s^2 and D, none below zero, by relative least squares; all 0 where nothing moves."""
    from scipy.optimize import nnls

    if not found.max() > 0:
        return 0.0, 0.0, 0.0, 0.0
    found = np.maximum(found, 1e-12 * found.max())  # a periodic track has scales at which nothing differs
    k = scales.astype(np.float64)
    columns = [np.full(len(k), NOISE_PART), KINK_PART * k**3, k**6, -(k**8)] + ([WALK_PART * k] if walk else [])
    design = np.stack(columns, 1) / found[:, None]
    size = np.abs(design).max(0)
    coefficients = nnls(design / size, np.ones(len(k)))[0] / size
    return coefficients[1], coefficients[2], coefficients[0], coefficients[4] if walk else 0.0


@dataclass(frozen=True)
class KinkEnergy:
    """The kink energy of one track.

    Attributes:
        share: kinks over kinks + smooth motion, between 0 and 1.
        low: lower end of its 95 % interval.
        high: upper end.
        energy: kinks per unit of time times their mean squared slope jump, in squared units of the track per cubed unit
            of time.
        energy_low: lower end of its 95 % interval.
        energy_high: upper end.
        noise: deviation of the white noise, in units of the track.
        reach: largest scale used, in units of time.
        resolved: whether the motion stood out of the noise within the scales allowed.
        strides: scales, in samples.
        levels: mean squared third differences at them, in units of the track squared.
    """

    share: float
    low: float
    high: float
    energy: float
    energy_low: float
    energy_high: float
    noise: float
    reach: float
    resolved: bool
    strides: tuple[int, ...]
    levels: tuple[float, ...]


def kink_energy(
    track: np.ndarray, step: float, *, walk: bool = False, resamples: int = 200, seed: int = 0
) -> KinkEnergy:
    """Kink share and kink energy of a track, with intervals from resampled blocks.

    Args:
        track: (n,) samples at a constant step, not straight.
        step: time between samples.
        walk: fit a random walk too.
        resamples: of blocks of twice the reach, at least 40 samples.
        seed: of the resampling.

    Returns:
        The measurement. Grade: statistical; the intervals are rough where the track holds fewer than ten blocks.

    Example:
        >>> t = np.arange(1001) / 50
        >>> kinked = np.abs((t % 2) - 1)  # a slope jump of 2 every unit of time: energy 4
        >>> found = kink_energy(kinked + 1e-4 * np.random.default_rng(0).standard_normal(1001), 1 / 50)
        >>> found.share > 0.9, round(found.energy)
        (True, 4)
    """
    group = np.asarray(track, np.float64)[None, :]
    whole = kink_shares(group, walk=walk)
    variance = max(float(noise_variance(group[0])), 1e-30 * float(np.square(group).max()))
    scales = strides(group.shape[1])
    used = scales[scales <= whole.reach]
    blocks = _block_sums(group[0] / np.sqrt(variance), used, max(40, 2 * int(whole.reach)))
    rng = np.random.default_rng(seed)
    drawn = rng.integers(len(blocks[0]), size=(resamples, len(blocks[0])))
    shares, energies = np.empty(resamples), np.empty(resamples)
    for i, rows in enumerate(drawn):
        kinks, smooth, _, _ = fit(blocks[0][rows].sum(0) / blocks[1][rows].sum(0), used, walk)
        shares[i], energies[i] = share_at(kinks, smooth, int(whole.reach)), kinks
    unit = 1.5 * variance / step**3
    low, high = np.quantile(shares, (0.025, 0.975))
    energy_low, energy_high = np.quantile(energies, (0.025, 0.975)) * unit
    share, energy = float(whole.share), float(whole.kinks) * unit
    return KinkEnergy(
        share, min(float(low), share), max(float(high), share), energy, min(float(energy_low), energy),
        max(float(energy_high), energy), float(np.sqrt(float(whole.noise) * variance)), float(whole.reach) * step,
        bool(whole.resolved), tuple(map(int, scales)), tuple((levels(group, scales) * variance).tolist()),
    )  # fmt: skip


def _block_sums(y: np.ndarray, scales: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """(blocks, scales) sums and counts of squared third differences by the block that their middle falls into."""
    count = max(2, round(len(y) / length))
    sums, counts = np.zeros((count, len(scales))), np.zeros((count, len(scales)))
    for column, k in enumerate(scales):
        values = squares(y, int(k))
        block = np.minimum(((np.arange(len(values)) + 1.5 * k) * count / len(y)).astype(int), count - 1)
        sums[:, column] = np.bincount(block, values, count)
        counts[:, column] = np.bincount(block, minlength=count)
    return sums, counts
