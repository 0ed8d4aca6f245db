"""What else makes kinks, hides them or feigns them: filtering, key-framing, coloured noise, quantisation, repeats.

Each finder looks at one track and returns a `Caveat` or None. They are heuristics with measured hit and false-alarm
rates (docs/forensics.md), not tests with a level.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from assay.smoothness.evidence.statistic import noise_variance

TAPERS, BANDWIDTH = 6, 4.0
EDGES = (1 / 16, 1 / 12, 1 / 8, 3 / 16, 1 / 4, 3 / 8, 1 / 2, 5 / 8, 3 / 4, 7 / 8, 1.0)  # of the Nyquist frequency
KINK_SLOPE = -4.0  # of log spectrum over log frequency
UNFIT = 0.58  # relative misfit of the floor's model; 0.2 to 0.3 is the spectrum's own scatter
WALK_SHARE = 0.4
OUTSTANDING = 6.0  # deviations of the mean rank of one phase


@dataclass(frozen=True)
class Caveat:
    """One rival explanation that was found, or one limit of the verdict.

    Attributes:
        name: short name, such as ``filtering``.
        text: what was found and what follows from it, one or two sentences.
        invalidates: whether a verdict without reference tracks treated alike would be meaningless.
    """

    name: str
    text: str
    invalidates: bool = False


def found_in(y: np.ndarray, step: float = 1.0) -> tuple[Caveat, ...]:
    """Everything found in one track.

    Args:
        y: (n,) samples at a constant step.
        step: time between samples, for periods.

    Returns:
        The caveats.

    Example:
        >>> from scipy.ndimage import gaussian_filter1d
        >>> t = np.arange(600) / 50
        >>> noisy = np.sin(t) + 0.01 * np.random.default_rng(0).standard_normal(600)
        >>> [each.name for each in found_in(gaussian_filter1d(noisy, 1.5))], found_in(noisy)
        (['filtering'], ())
    """
    grid, held = quantisation(y), repeats(y)
    framed = None if grid else key_framing(y, step)  # on a coarse grid most second differences are alike
    # The regular pattern of key frames and the steps of repeated samples bend the spectrum as filters do.
    spectral = () if framed or held else (filtering(y) or coloured_noise(y),)
    return tuple(each for each in (held, framed, *spectral, grid) if each)


def spectrum(y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies in radians per sample and a multitaper spectrum.

    Third differences take the motion down before the tapers leak it into the noise floor (Thomson 1982).

    Returns:
        Both, from the first frequency above zero.
    """
    from scipy.signal.windows import dpss

    bends = np.diff(y, 3)
    tapers = np.asarray(dpss(len(bends), BANDWIDTH, TAPERS))
    power = np.square(np.abs(np.fft.rfft(tapers * bends, axis=1))).mean(0)[1:]
    angle = 2 * np.pi * np.fft.rfftfreq(len(bends))[1:]
    return angle, power / (2 - 2 * np.cos(angle)) ** 3


def filtering(y: np.ndarray) -> Caveat | None:
    """A low-pass filter: a floor that neither noise nor kinks fit, and that falls faster after a flatter stretch."""
    angle, power = spectrum(y)
    if _floor_fit(angle, power)[1] < UNFIT:
        return None
    edges = np.array(EDGES) * np.pi
    inside = [(angle >= low) & (angle < high + 1e-9) for low, high in pairwise(edges)]
    level = np.array([np.log10(power[each].mean() + 1e-300) for each in inside])
    centre = np.log10((edges[1:] + edges[:-1]) / 2)
    slope = np.diff(level) / np.diff(centre)
    late = 10 ** centre[:-1] >= 0.15 * np.pi
    flattest = np.maximum.accumulate(np.concatenate([[-np.inf], slope[:-1]]))
    steeper = late & (flattest > KINK_SLOPE - 0.3) & (slope < flattest - 1.5) & (slope < KINK_SLOPE - 0.2)
    if not steeper.any():
        return None
    at = 10 ** centre[int(np.flatnonzero(steeper)[0])] / np.pi
    return Caveat(
        "filtering",
        f"The noise floor falls off above {at:.2f} of the Nyquist frequency: the track was filtered or smoothed. That "
        "destroys the white noise that the test relies on: filtered noise passes for kinks, and filtered kinks are "
        "gone. Analyse the unfiltered track, or reference tracks that went through the same filter.",
        True,
    )


def coloured_noise(y: np.ndarray) -> Caveat | None:
    """Noise that falls with frequency as a random walk's or first-order autoregressive noise does."""
    part, unfit = _floor_fit(*spectrum(y))
    if part < WALK_SHARE or unfit > UNFIT:
        return None
    return Caveat(
        "coloured noise",
        f"About {part:.0%} of the noise floor falls with frequency as a random walk does (drift, an exponential or "
        "One-Euro filter, a tracker's memory). The statistic has a term for it here, and some of its power is lost.",
    )


def _floor_fit(angle: np.ndarray, power: np.ndarray) -> tuple[float, float]:
    """Mean share of a random walk in the floor, and the relative misfit of white noise + random walk + kinks."""
    from scipy.optimize import nnls

    pieces = [each for each in np.array_split(np.flatnonzero(angle >= 0.2 * np.pi), 16) if len(each)]
    u = 2 - 2 * np.cos(angle)
    shapes = np.stack([np.ones_like(u), (2 + np.cos(angle)) / 3 / u**2, 1 / u])
    found = np.array([power[each].mean() for each in pieces])
    if not (found > 0).all():
        return 0.0, 0.0
    design = np.stack([shapes[:, each].mean(1) for each in pieces]) / found[:, None]
    size = design.max(0)
    parts, misfit = nnls(design / size, np.ones(len(found)))
    return float((design[:, 2] / size[2] * parts[2]).mean()), float(misfit) / len(found) ** 0.5


def key_framing(y: np.ndarray, step: float = 1.0) -> Caveat | None:
    """Bends at a constant period, or few bends between pieces that are straight or cubic up to the noise."""
    period = _upsampled(y) or _period(y)
    if period:
        return Caveat(
            "key-framing",
            f"Bends come every {period} samples ({period * step:.4g} of the time unit) with smooth pieces between: "
            "key-framed or interpolated motion. Its kinks are real, and no network made them.",
        )
    for order, pieces in ((2, "linear"), (4, "cubic")):
        count = _isolated(y, order)
        if count:
            return Caveat(
                "key-framing",
                f"The track consists of {pieces} pieces with {count} isolated bends: key-framed animation and "
                "outliers look like this, and so does a small network along a straight motion.",
            )
    return None


def _upsampled(y: np.ndarray) -> int | None:
    """2, 3 or 4 when all bends are at every such sample: linear interpolation to a higher rate."""
    bend = np.abs(np.diff(y, 2))
    tiny = 64 * np.finfo(np.float64).eps * float(np.abs(y).max())
    for period in (2, 3, 4):
        rows = bend[: len(bend) // period * period].reshape(-1, period)
        phase = int(np.square(rows).mean(0).argmax())
        others = np.delete(rows, phase, axis=1)
        if (others <= tiny).all() and (rows[:, phase] > tiny).mean() > 0.5:
            return period
    return None


def _period(y: np.ndarray) -> int | None:
    """The period at which bends of one narrow phase are larger than all others, by mean ranks."""
    from scipy.stats import rankdata

    best, found = OUTSTANDING, None
    for order, stride in ((2, 1), (2, 2), (2, 4), (3, 1), (3, 2), (3, 4), (4, 1)):
        bend = y
        for _ in range(order):
            bend = bend[stride:] - bend[:-stride]
        bend = np.abs(bend)
        rank = (rankdata(bend) - 0.5) / len(bend)
        width = order * stride
        for period in range(max(5, 2 * width + 1), min(len(bend) // 8, 120) + 1):
            count = len(bend) // period
            phases = rank[: count * period].reshape(count, period).mean(0)
            phase = int(phases.argmax())
            deviation = (phases[phase] - 0.5) * np.sqrt(12 * count)
            if deviation <= best:
                continue
            away = np.abs((np.arange(period) - phase + period // 2) % period - period // 2) >= width
            rows = bend[: count * period].reshape(count, period)
            rest = max(np.median(rows[:, away]), np.finfo(np.float64).eps * np.abs(y).max())
            sharp = np.median(rows[:, phase]) > 2 * rest and phases[away].max() < phases[phase] - 0.15
            if sharp:
                best, found = deviation, period
    return found


def _isolated(y: np.ndarray, order: int) -> int:
    """Number of isolated bends when the rest is straight (order 2) or cubic (order 4) up to noise, else 0."""
    bend = np.abs(np.diff(y, order))
    floor = float(np.median(bend)) / 0.6745
    tiny = 64 * np.finfo(np.float64).eps * float(np.abs(y).max())
    marked = bend > 8 * max(floor, tiny)
    places = np.flatnonzero(marked)
    count = int((np.diff(places, prepend=-(10**9)) > order).sum())
    if not 1 <= count <= len(y) // 12:
        return 0
    # Straight pieces stay straight over longer strides; curved ones bend as the power `order` of the stride.
    stride = 4
    wide = y.copy()
    for _ in range(order):
        wide = wide[stride:] - wide[:-stride]
    touched = np.convolve(marked, np.ones(order * stride, bool))[: len(wide) + order * stride] > 0
    clean = ~touched[order * (stride - 1) : order * (stride - 1) + len(wide)]
    if clean.sum() < 20:
        return 0
    return count if np.median(np.abs(wide[clean])) / 0.6745 < 2 * max(floor, tiny) else 0


def quantisation(y: np.ndarray) -> Caveat | None:
    """Values on a grid whose step matters beside the noise."""
    values = np.unique(y)
    spread = float(values[-1] - values[0])
    gaps = np.diff(values)
    gaps = gaps[gaps > 1e-7 * spread]
    if not len(gaps):
        return None
    grid = float(gaps.min())
    places = (y - y[0]) / grid
    if spread / grid > 1e5 or np.abs(places - np.round(places)).max() > 1e-3 * max(1.0, spread / grid * 1e-3):
        return None
    if grid / np.sqrt(12) < 0.3 * np.sqrt(noise_variance(y)):
        return None
    distinct = len(np.unique(np.round(np.diff(places, 2))))
    coarse = grid > 0.05 * float(y.std())
    return Caveat(
        "quantisation",
        f"Values lie on a grid of step {grid:.3g}, with {distinct} distinct second differences: rounding is "
        "most of the noise" + (", and its steps are too coarse to pass for white noise." if coarse else "."),
        coarse,
    )


def repeats(y: np.ndarray) -> Caveat | None:
    """Samples held: values that often repeat although the track moves on between."""
    same = np.diff(y) == 0
    share = float(same.mean())
    if share < 0.2 or quantisation(y) is not None:
        return None
    return Caveat(
        "repeated samples",
        f"{share:.0%} of the samples repeat the one before: frames were held or duplicated. Drop the repeats and give "
        "the true sampling rate.",
        True,
    )
