"""Paired differences between arms, with intervals over seeds and the noise of the test samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from assay.errors import UsageError
from assay.grade import Grade


@dataclass(frozen=True)
class Difference:
    """First arm minus second, seed by seed.

    Attributes:
        first: name of an arm.
        second: name of another, or ``before``.
        measure: ``clean``, ``fgsm``, ``pgd-10``, ...
        values: one difference of accuracies per seed, between -1 and 1.
        mean: over seeds.
        low: lower end of the t interval over seeds; minus infinity for a single seed.
        high: upper end.
        level: probability that the interval covers, were seeds all that varies and differences normal.
        sample_error: standard error of the mean that comes from having so few test samples.
        same: the arms trained the same weights under every seed, so that there is nothing to compare.
    """

    first: str
    second: str
    measure: str
    values: tuple[float, ...]
    mean: float
    low: float
    high: float
    level: float
    sample_error: float
    same: bool = False

    @property
    def shown(self) -> bool:
        """Whether a difference is shown: 0 lies outside the interval over seeds and outside mean +- 2 sample errors."""
        return not self.same and not self.low <= 0 <= self.high and abs(self.mean) > 2 * self.sample_error

    @property
    def grade(self) -> Grade:
        """Measured on samples and seeds."""
        return Grade.SAMPLED


def paired_difference(
    first: Sequence[np.ndarray],
    second: Sequence[np.ndarray],
    *,
    names: tuple[str, str] = ("first", "second"),
    measure: str = "accuracy",
    level: float = 0.95,
    same: bool = False,
) -> Difference:
    """Compare two arms on the same test samples.

    Args:
        first: per seed, (N,) bool: the samples that are right.
        second: likewise for the other arm, same seeds, same samples.
        names: of the arms.
        measure: what was measured.
        level: of the interval.
        same: the arms are one and the same.

    Returns:
        The difference of accuracies, its t interval over seeds (Student 1908: mean +- t s / sqrt(seeds), seeds - 1
        degrees of freedom), and the standard error over samples of the differences averaged over seeds.

    Raises:
        UsageError: for arms that cannot be paired, or a level that is none.

    Example:
        >>> right = np.array([True, True, True, False])
        >>> found = paired_difference([right, right], [~right, right])
        >>> found.values, found.mean, found.low < 0 < found.high, found.shown
        ((0.5, 0.0), 0.25, True, False)
    """
    if len(first) != len(second) or not first or len({a.shape for a in (*first, *second)}) != 1 or not 0 < level < 1:
        raise UsageError(
            f"{len(first)} and {len(second)} seeds, level {level}: these cannot be paired.",
            where=measure,
            advice="Give one array per seed for both arms, all on the same samples, and 0 < level < 1.",
        )
    changes = np.stack([a.astype(np.float64) - b.astype(np.float64) for a, b in zip(first, second, strict=True)])
    values = changes.mean(1)
    mean, count = float(values.mean()), len(values)
    half = math.inf
    if count > 1:
        from scipy.stats import t

        half = float(t.ppf((1 + level) / 2, count - 1) * values.std(ddof=1) / math.sqrt(count))
    per_sample = changes.mean(0)
    error = float(per_sample.std(ddof=1) / math.sqrt(len(per_sample))) if len(per_sample) > 1 else math.inf
    return Difference(*names, measure, tuple(values.tolist()), mean, mean - half, mean + half, level, error, same)
