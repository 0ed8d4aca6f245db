"""Whether a statistic differs between two sets of values by more than chance, and by how much.

The p-value comes from permuting (exact where before and after could be swapped), the interval from the bootstrap over
samples (expanded percentiles; Efron 1979, Hesterberg 2015). Both resample samples, never single values, so that values
of one sample may depend on each other. The random numbers follow from the values alone.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

CHUNK = 2**21
"""Numbers resampled at a time."""

Statistic = Callable[[np.ndarray], np.ndarray]
_STATISTICS: dict[str, Statistic] = {
    "mean": lambda values: values.mean(-1),
    "median": lambda values: np.median(values, axis=-1),
}


@dataclass(frozen=True)
class Evidence:
    """What the data say of a difference.

    Attributes:
        difference: after minus before; of paired samples the mean or median of their changes.
        low: lower end of its interval.
        high: upper end.
        p_value: two-sided, of no difference.
        method: how both were found, in words.
        samples: how many there were, the smaller of both sides.
    """

    difference: float
    low: float
    high: float
    p_value: float
    method: str
    samples: int


def statistic_of(name: str) -> Statistic | None:
    """The mean or the median over the last axis.

    Returns:
        A function, or None for a statistic that resampling says little about, such as a maximum.

    Example:
        >>> statistic_of("median")(np.array([[1.0, 2.0, 9.0]])), statistic_of("max")
        (array([2.]), None)
    """
    return _STATISTICS.get(name)


def paired(before: np.ndarray, after: np.ndarray, statistic: str, *, level: float, resamples: int) -> Evidence:
    """The same samples on both sides: the statistic of their changes.

    The p-value is that of changing signs at random: were nothing but chance between before and after, each change would
    be as likely as its opposite (Fisher 1935). The difference of two medians says less: it rests on the few samples in
    the middle.

    Args:
        before: (n, g) values, g of each sample.
        after: (n, g) values of the same samples.
        statistic: mean or median, of all changes.
        level: probability that the interval covers.
        resamples: how many of each kind.

    Returns:
        Mean or median change, its interval and p-value. Grade: sampled.

    Example:
        >>> x = np.arange(40.0).reshape(-1, 1)
        >>> paired(x, x + 1, "mean", level=0.95, resamples=999).p_value
        0.001
    """
    measure, changes = _STATISTICS[statistic], after - before
    count, generator = len(changes), _generator(before, after)
    observed = float(measure(changes.reshape(-1)))
    beyond, drawn = 0, []
    for rows in _chunks(resamples, changes.size):
        signs = generator.integers(0, 2, size=(rows, count, 1)) * 2.0 - 1.0
        beyond += _beyond(_each(measure, signs * changes), observed)
        drawn.append(_each(measure, changes[generator.integers(count, size=(rows, count))]))
    said = f"paired bootstrap over {count} samples"
    return _evidence(observed, beyond, np.concatenate(drawn), level, said, count)


def unpaired(before: np.ndarray, after: np.ndarray, statistic: str, *, level: float, resamples: int) -> Evidence:
    """Different samples on both sides: dealt out anew for the p-value, each side resampled for the interval.

    Args:
        before: (n, g) values, g of each sample.
        after: (m, g) values.
        statistic: mean or median, of all values of a side.
        level: probability that the interval covers.
        resamples: how many of each kind.

    Returns:
        Difference, interval and p-value. Grade: sampled.
    """
    measure = _STATISTICS[statistic]
    first, second = len(before), len(after)
    pooled = np.concatenate([before, after])
    generator = _generator(before, after)
    observed = float(measure(after.reshape(-1)) - measure(before.reshape(-1)))
    beyond, drawn = 0, []
    for rows in _chunks(resamples, pooled.size):
        order = generator.random((rows, first + second)).argsort(1)
        dealt = _each(measure, pooled[order[:, first:]]) - _each(measure, pooled[order[:, :first]])
        beyond += _beyond(dealt, observed)
        one = before[generator.integers(first, size=(rows, first))]
        other = after[generator.integers(second, size=(rows, second))]
        drawn.append(_each(measure, other) - _each(measure, one))
    said = f"bootstrap over {first} and {second} samples"
    return _evidence(observed, beyond, np.concatenate(drawn), level, said, min(first, second))


def _evidence(observed: float, beyond: int, drawn: np.ndarray, level: float, method: str, samples: int) -> Evidence:
    """Percentiles a little further out than the level says: those of few samples are too narrow (Hesterberg 2015)."""
    from scipy.stats import norm, t

    tail = float(norm.cdf(-t.ppf((1 + level) / 2, samples - 1) * math.sqrt(samples / (samples - 1))))
    low, high = np.quantile(drawn, [tail, 1 - tail])
    p_value = (1 + beyond) / (1 + len(drawn))
    return Evidence(observed, min(float(low), observed), max(float(high), observed), p_value, method, samples)


def _beyond(drawn: np.ndarray, observed: float) -> int:
    """How many are as far from 0 as what was observed, rounding allowed for."""
    return int((np.abs(drawn) >= abs(observed) * (1 - 1e-9)).sum())


def _each(measure: Statistic, drawn: np.ndarray) -> np.ndarray:
    return measure(drawn.reshape(len(drawn), -1))


def _chunks(resamples: int, size: int) -> Iterator[int]:
    step = max(1, CHUNK // size)
    yield from (min(step, resamples - done) for done in range(0, resamples, step))


def _generator(*arrays: np.ndarray) -> np.random.Generator:
    """Random numbers that follow from the values, so that the same runs give the same bytes."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.shape}".encode() + np.ascontiguousarray(array, dtype=np.float64).tobytes())
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest.digest(), "little")))
