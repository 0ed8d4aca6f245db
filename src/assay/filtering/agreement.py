"""Agreement of two orders or of several sets of classes: rank correlations with intervals, kappa, alpha."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

FEWEST = 3  # pairs of numbers below which a rank correlation says nothing


@dataclass(frozen=True)
class Correlation:
    """A rank correlation.

    Attributes:
        value: between -1 and 1; NaN for fewer than three units or when all are equal.
        low: lower end of its percentile interval over resampled units.
        high: upper end.
    """

    value: float
    low: float
    high: float


def spearman(x: np.ndarray, y: np.ndarray, *, level: float = 0.95, draws: int = 1000, seed: int = 0) -> Correlation:
    """Spearman's rank correlation (1904), as `scipy.stats.spearmanr`, with a percentile interval (Efron 1979).

    Args:
        x: (n,) finite numbers.
        y: (n,) finite numbers.
        level: probability that the interval covers.
        draws: resamples of the units; those in which all are equal are left out.
        seed: of the resamples.

    Returns:
        The correlation. Grade: sampled.

    Example:
        >>> spearman(np.arange(4.0), np.array([1.0, 2.0, 4.0, 3.0])).value.__round__(6)
        0.8
    """
    from scipy.stats import rankdata

    def of(rows: np.ndarray) -> np.ndarray:
        first, second = (rankdata(values[rows], axis=1) for values in (x, y))
        first, second = (ranks - ranks.mean(1, keepdims=True) for ranks in (first, second))
        return _ratio((first * second).sum(1), (first**2).sum(1) * (second**2).sum(1))

    return _with_interval(of, len(x), level, draws, seed)


def kendall(x: np.ndarray, y: np.ndarray, *, level: float = 0.95, draws: int = 1000, seed: int = 0) -> Correlation:
    """Kendall's tau-b (1945), as `scipy.stats.kendalltau`, with a percentile interval.

    Args:
        x: (n,) finite numbers.
        y: (n,) finite numbers.
        level: probability that the interval covers.
        draws: resamples of the units.
        seed: of the resamples.

    Returns:
        The correlation. Grade: sampled.
    """
    first, second = (np.sign(values[:, None] - values[None]) for values in (x, y))

    def of(rows: np.ndarray) -> np.ndarray:
        counts = np.stack([np.bincount(row, minlength=len(x)) for row in rows]).astype(np.float64)
        joint, one, other = (((counts @ a) * counts).sum(1) for a in (first * second, first**2, second**2))
        return _ratio(joint, one * other)

    return _with_interval(of, len(x), level, draws, seed)


def cohen(pairs: Sequence[tuple[str, str]]) -> float:
    """Cohen's kappa (1960): agreement of two sets of classes beyond what their frequencies give by chance.

    Args:
        pairs: the two classes of every unit.

    Returns:
        1 for perfect agreement, 0 for chance; NaN for no pairs, or one class throughout.

    Example:
        >>> cohen([("a", "a"), ("a", "b"), ("b", "b"), ("b", "b")])
        0.5
    """
    if not pairs:
        return math.nan
    first, second = (Counter(side) for side in zip(*pairs, strict=True))
    chance = sum(first[name] * second[name] for name in first) / len(pairs) ** 2
    equal = sum(a == b for a, b in pairs) / len(pairs)
    return (equal - chance) / (1 - chance) if chance < 1 else math.nan


def krippendorff(classes: Sequence[Sequence[str | None]]) -> float:
    """Krippendorff's alpha for classes without order (1970): like Fleiss' kappa, but units may lack classes.

    Args:
        classes: for every unit its classes, None for none.

    Returns:
        1 for perfect agreement, 0 for chance; NaN where no unit has two classes, or there is one class only.

    Example:
        >>> krippendorff([["a", "a", None], ["b", "b", "b"]])
        1.0
    """
    within: float = 0.0
    totals: Counter[str] = Counter()
    for unit in classes:
        counts = Counter(name for name in unit if name is not None)
        given = sum(counts.values())
        if given >= 2:
            totals.update(counts)
            within += sum(count * (count - 1) for count in counts.values()) / (given - 1)
    size = sum(totals.values())
    apart = size**2 - sum(count**2 for count in totals.values())
    return 1 - (size - 1) * (size - within) / apart if apart else math.nan


def _with_interval(
    of: Callable[[np.ndarray], np.ndarray], count: int, level: float, draws: int, seed: int
) -> Correlation:
    if count < FEWEST:
        return Correlation(math.nan, math.nan, math.nan)
    value = float(of(np.arange(count)[None])[0])
    drawn = of(np.random.Generator(np.random.PCG64(seed)).integers(count, size=(draws, count)))
    drawn = drawn[np.isfinite(drawn)]
    if math.isnan(value) or not len(drawn):
        return Correlation(value, math.nan, math.nan)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Correlation(value, min(float(low), value), max(float(high), value))


def _ratio(joint: np.ndarray, product: np.ndarray) -> np.ndarray:
    """Correlations, NaN where one side is constant."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.clip(np.where(product > 0, joint / np.sqrt(product), np.nan), -1, 1)
