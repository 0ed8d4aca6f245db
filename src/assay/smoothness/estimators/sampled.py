"""SMP from samples of an output alone: slope jumps from second differences, and the resolution that limits them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from assay.errors import NumericalError, UsageError
from assay.grade import Grade
from assay.results import Displayed

Form = Literal["mass", "height", "variation"]
STRIDES = (1, 2, 4, 8, 16)
BACKGROUND = 8  # samples on either side whose median is the smooth curvature at a sample
OUTSTANDING = 6.0  # robust deviations from that background
# What part of the true SMP each form recovers of kinks with random signs and Gaussian sizes, by kinks per step.
KNOWN_BIAS = {
    "kinks_per_step": (0.005, 0.05, 0.2, 1.0, 5.0, 20.0),
    "variation": (1.0, 0.973, 0.912, 0.692, 0.353, 0.182),
    "height": (0.761, 0.717, 0.635, 0.414, 0.195, 0.099),
}


@dataclass(frozen=True, eq=False)
class SampledSmp(Displayed):
    """What samples of one output at a constant step say about its kinks.

    Attributes:
        value: the pair-mass estimate of SMP: sum of |J| of second differences that stand out of their background. Finds
            kinks one by one, so it is low where several share a step.
        height: sum of local maxima of |second difference| over the step; 3/4 of SMP at best.
        variation: sum of |second difference| over the step at strides 1, 2, 4, 8 and 16: flat for a smooth output,
            rising towards small strides for one with kinks. A lower bound of the total variation of the slope.
        kinks_per_step: estimated density of kinks times the step, the resolution: below 0.2 the estimate is sound.
        recovered: share of SMP that `variation` at stride 1 sees at that density, for kinks with random signs and
            Gaussian sizes.
        t: (m,) places of the kinks found, in parameter units after the first sample.
        jump: (m,) their slope jumps J.
        exponent: (m,) how the jump of y'(t) times step scales with the step: 1 kink, 2 smooth bend, 0 jump of y itself.
        step: parameter between samples.
        samples: number of samples.
        grade: statistical: nothing is known between samples.
    """

    value: float
    height: float
    variation: tuple[float, ...]
    kinks_per_step: float
    recovered: float
    t: Tensor
    jump: Tensor
    exponent: Tensor
    step: float
    samples: int
    grade: Grade = Grade.STATISTICAL

    @property
    def growth(self) -> float:
        """Exponent a of variation ~ stride^-a over strides 1 to 16: 0 smooth, 1/2 kinks far denser than the samples."""
        ends = [each for each in self.variation if math.isfinite(each) and each > 0]
        if len(ends) < 2:
            return 0.0
        return math.log2(ends[0] / ends[-1]) / (len(ends) - 1)

    @property
    def resolved(self) -> bool:
        """Whether kinks are sparse enough for the estimate to be within some 10 % of SMP."""
        return self.kinks_per_step <= 0.2


def smp_sampled(y: Any, step: float, *, form: Form = "mass") -> float | Tensor:
    """Sum of the magnitudes of slope jumps, from samples at a constant step.

    Args:
        y: (n,) samples of one output or (n, K) of several, n at least 3. Use float64: rounding of y hides jumps below
            4 eps |y| / step.
        step: parameter between samples.
        form: ``mass`` pairs adjacent second differences that stand out of their background, which gives J exactly for
            isolated kinks; ``height`` adds local maxima of |second difference| / step, the naive form, 3/4 of SMP at
            best; ``variation`` adds all |second differences| / step, smooth curvature included.

    Returns:
        A number for (n,), a (K,) float64 tensor for (n, K), in units of y per unit of the parameter. Grade:
        statistical; `sampled` says how good it can be.

    Raises:
        UsageError: for fewer than 3 samples, a step that is not positive, or an unknown form.
        NumericalError: for NaN or infinity.

    Example:
        >>> t = np.linspace(0, 1, 11)
        >>> [round(smp_sampled(abs(t - 0.325), 0.1, form=form), 9) for form in ("mass", "height", "variation")]
        [2.0, 1.5, 2.0]
    """
    forms = {"mass": _mass, "height": _height, "variation": _variation}
    if form not in forms:
        raise UsageError(f"There is no form {form!r}.", where="form", advice=f"Forms: {', '.join(forms)}.")
    values = _checked(y, step)
    if values.ndim == 1:
        return forms[form](values, step)
    return torch.tensor([forms[form](column, step) for column in values.T], dtype=torch.float64)


def sampled(y: Any, step: float) -> SampledSmp:
    """SMP of one output from samples, with its resolution, its naive rivals and a scaling test of every kink found.

    Args:
        y: (n,) samples, n at least 3.
        step: parameter between samples.

    Returns:
        The estimate with everything needed to judge it.

    Raises:
        UsageError: for several outputs, fewer than 3 samples or a step that is not positive.
        NumericalError: for NaN or infinity.

    Example:
        >>> t = np.arange(401) / 400
        >>> found = sampled(np.sin(3 * t) + abs(t - 0.7), 1 / 400)
        >>> largest = found.jump.abs().argmax()
        >>> round(found.value, 1), round(found.t[largest].item(), 3), round(found.exponent[largest].item(), 1)
        (2.0, 0.7, 1.0)
    """
    values = _checked(y, step)
    if values.ndim != 1:
        raise UsageError("One output at a time.", where="y", advice="Call this for every column.")
    place, jump = _pairs(values, step)
    variation = tuple(_variation(values, step, stride) for stride in STRIDES if len(values) > 2 * stride)
    partial = SampledSmp(
        float(np.abs(jump).sum()), _height(values, step), variation, 0.0, 1.0, torch.as_tensor(place),
        torch.as_tensor(jump), torch.as_tensor(_exponents(values, place / step)), step, len(values),
    )  # fmt: skip
    sharp = int(((partial.exponent > 0.5) & (partial.exponent < 1.4)).sum())
    density = _kinks_per_step(values, sharp, partial.growth)
    return replace(partial, kinks_per_step=density, recovered=recovered_share(density))


def recovered_share(kinks_per_step: float) -> float:
    """Share of SMP that the sum of |second differences| / step sees, for random signs and Gaussian sizes.

    Interpolated in the simulated table up to 20 kinks per step, the dense limit sqrt(2 / (3 x)) beyond.

    Returns:
        The share.

    Example:
        >>> round(recovered_share(1.0), 3), round(recovered_share(150.0), 4)
        (0.692, 0.0667)
    """
    known = KNOWN_BIAS["kinks_per_step"]
    if kinks_per_step <= known[0]:
        return 1.0
    if kinks_per_step >= known[-1]:
        return math.sqrt(2 / (3 * kinks_per_step))
    return float(np.interp(math.log(kinks_per_step), np.log(known), KNOWN_BIAS["variation"]))


def real_array(values: Any, where: str) -> np.ndarray:
    """Real numbers in double precision.

    Args:
        values: an array, a tensor, or what becomes an array.
        where: the argument's name.

    Returns:
        The same numbers, float64.

    Raises:
        UsageError: for words, complex numbers, or rows of different lengths.
    """
    try:
        found = np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values)
        real = found.astype(np.float64) if found.dtype.kind in "biufO" else None
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"These are no real numbers in one array: {error}", where=where, advice="Give an array of numbers."
        ) from error
    if real is None:
        raise UsageError(
            f"These are no real numbers but {found.dtype}.", where=where, advice="Give an array of real numbers."
        )
    return real


def positive(value: Any) -> bool:
    """Whether this is a finite number above zero."""
    try:
        return math.isfinite(value) and value > 0
    except TypeError:
        return False


def _checked(y: Any, step: float) -> np.ndarray:
    values = real_array(y, "y")
    if values.ndim not in (1, 2) or len(values) < 3 or not values.size:
        raise UsageError(
            f"Second differences need at least 3 samples of shape (n,) or (n, K), got {values.shape}.",
            where="y", advice="Sample the output more often.",
        )  # fmt: skip
    if not positive(step):
        raise UsageError(f"The step must be positive, got {step}.", where="step", advice="Give t[1] - t[0].")
    if not np.isfinite(values).all():
        raise NumericalError("The samples hold NaN or infinity.", where="y", advice="Cut the track at the gaps.")
    return values


def _bends(y: np.ndarray, stride: int = 1) -> np.ndarray:
    """Second differences at a stride, at every sample that has both neighbours."""
    return y[2 * stride :] - 2 * y[stride:-stride] + y[: -2 * stride]


def _variation(y: np.ndarray, step: float, stride: int = 1) -> float:
    return float(np.abs(_bends(y, stride)).sum() / (stride * stride * step))  # the mean over the stride's phases


def _height(y: np.ndarray, step: float) -> float:
    from scipy.signal import find_peaks

    size = np.abs(np.pad(_bends(y), 1))  # padded, so that the first and the last can be peaks
    return float(size[find_peaks(size)[0]].sum() / step)


def _mass(y: np.ndarray, step: float) -> float:
    return float(np.abs(_pairs(y, step)[1]).sum())


def _background(bends: np.ndarray) -> np.ndarray:
    from scipy.ndimage import median_filter

    return median_filter(bends, size=2 * BACKGROUND + 1, mode="reflect")


def _pairs(y: np.ndarray, step: float) -> tuple[np.ndarray, np.ndarray]:
    """Places and slope jumps: the largest second difference with the larger neighbour of its sign, again and again."""
    from scipy.ndimage import median_filter

    bends = _bends(y)
    excess = bends - _background(bends)
    spread = median_filter(np.abs(excess), size=2 * BACKGROUND + 1, mode="reflect") / 0.6745
    spread = np.maximum(spread, 4 * np.finfo(np.float64).eps * np.abs(y).max())
    free = np.ones(len(excess) + 2, bool)
    free[[0, -1]] = False
    padded = np.pad(excess, 1)
    found = []
    for n in np.argsort(-np.abs(excess), kind="stable") + 1:
        if abs(padded[n]) <= OUTSTANDING * spread[n - 1]:
            continue
        if not free[n]:
            continue
        left, right = (padded[m] * np.sign(padded[n]) if free[m] else 0.0 for m in (n - 1, n + 1))
        other = n - 1 if left > right else n + 1
        extra = padded[other] if max(left, right) > 0 else 0.0
        mass = padded[n] + extra
        found.append(((n + (other - n) * extra / mass) * step, mass / step))  # padded index n is sample n
        free[n] = False
        if extra:
            free[other] = False
    found.sort()
    places, jumps = (np.array([pair[i] for pair in found], dtype=np.float64) for i in (0, 1))
    return places, jumps


def _exponents(y: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Slope of log(largest sum of two |second differences| a stride apart) over log(stride), for strides 1, 2, 4."""
    strides = [stride for stride in (1, 2, 4) if len(y) > 4 * stride + 2]
    if len(strides) < 2 or not len(places):
        return np.full(len(places), np.nan)
    background = _background(_bends(y))
    sizes = []
    for stride in strides:
        excess = _bends(y, stride) - stride * stride * background[stride - 1 : len(background) - stride + 1]
        pair = np.abs(excess[stride:]) + np.abs(excess[:-stride])  # item i lies between samples i+stride, i+2 stride
        rows = []
        for place in places:
            centre = int(place) - stride
            near = pair[max(0, centre - stride) : max(1, centre + 2)]
            rows.append(near.max() if len(near) else np.nan)
        sizes.append(rows)
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log2(np.array(sizes))
    levels = np.log2(strides) - np.log2(strides).mean()
    return (levels[:, None] * logs).sum(0) / np.square(levels).sum()


def _kinks_per_step(y: np.ndarray, count: int, growth: float) -> float:
    """Kinks per step: those found where they are isolated, else from the excess kurtosis of the second differences.

    For compound Poisson kinks with Gaussian sizes the excess kurtosis is 2.7 / (kinks per step).

    Returns:
        Their number, 0 for a straight track.
    """
    from scipy.stats import kurtosis

    share = count / len(y)
    if growth < 0.1:  # flat: either smooth, or kinks so sparse that each was found
        return share
    bends = _bends(y)
    if np.ptp(bends) == 0:
        return 0.0
    excess = float(kurtosis(bends))
    dense = 2.7 / max(excess, math.sqrt(24 / len(bends)))  # not below its standard error: an upper limit of the density
    return share if share < 0.05 and dense < 0.2 else dense
