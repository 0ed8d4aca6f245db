"""Thresholds, p-values and areas under the ROC curve: what a score is worth, from clean and tampered samples."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from assay.errors import UsageError


@dataclass(frozen=True)
class Area:
    """Area under a ROC curve, or a difference of two, with its interval.

    Attributes:
        value: share of (clean, tampered) pairs that the score puts in the right order, ties counting half.
        low: lower end of the interval.
        high: upper end.
    """

    value: float
    low: float
    high: float


def threshold_at(clean: np.ndarray, rate: float) -> float:
    """The threshold that a clean sample exceeds with probability `rate` at most: a split-conformal quantile.

    Scores above it are exactly those whose `conformal_p_value` is at most `rate`. The guarantee holds on average over
    calibration sets, for samples exchangeable with them (Vovk, Gammerman, Shafer 2005).

    Args:
        clean: (n,) scores of clean samples the score was not fitted on.
        rate: false-positive rate, between 0 and 1.

    Returns:
        The k-th smallest score, k = ceil((n + 1)(1 - rate)).

    Raises:
        UsageError: for fewer than 1 / rate - 1 samples, with which no threshold keeps the rate.

    Example:
        >>> threshold_at(np.arange(19.0), 0.05)
        18.0
    """
    ordered = np.sort(_finite(clean, "clean"))
    if not 0 < rate < 1:
        raise UsageError(f"A false-positive rate lies between 0 and 1, got {rate}.", where="false_positive_rate")
    rank = math.ceil((len(ordered) + 1) * (1 - rate) - 1e-9)  # 20 * 0.95 is 19, whatever binary fractions say
    if rank > len(ordered):
        raise UsageError(
            f"{len(ordered)} clean samples cannot hold a false-positive rate of {rate:g}.",
            where="false_positive_rate",
            advice=f"Calibrate with at least {math.ceil(1 / rate - 1 - 1e-9)} clean samples, or give a threshold.",
        )
    return float(ordered[rank - 1])


def conformal_p_value(scores: np.ndarray, clean: np.ndarray) -> np.ndarray:
    """Conformal p-values (rank + 1) / (n + 1), valid for any score and any n (Vovk, Gammerman, Shafer 2005).

    Args:
        scores: (m,) of the samples in question; higher is more suspicious. NaN gives NaN.
        clean: (n,) scores of clean samples the score was not fitted on.

    Returns:
        (m,) the share of clean scores at least as high, the sample itself counted: P(p <= a) <= a for a clean sample.

    Example:
        >>> conformal_p_value(np.array([5.0, 0.0]), np.array([1.0, 2.0, 3.0])).tolist()
        [0.25, 1.0]
    """
    scores, ordered = np.asarray(scores, np.float64), np.sort(_finite(clean, "clean"))
    higher = len(ordered) - np.searchsorted(ordered, scores, side="left")
    return np.where(np.isnan(scores), np.nan, (higher + 1) / (len(ordered) + 1))


def auc(clean: np.ndarray, tampered: np.ndarray, *, level: float = 0.95) -> Area:
    """Area under the ROC curve with an interval: DeLong's variance on the logit scale.

    DeLong, DeLong, Clarke-Pearson 1988. Where every pair is in the right (or wrong) order that variance is zero and the
    score interval of Newcombe 2006 (method 5) is given instead. Both take the samples as independent; clean and
    tampered versions of one image make the interval wider than it need be, rather than narrower.

    Args:
        clean: (m,) scores.
        tampered: (n,) scores; higher is more suspicious.
        level: probability that the interval covers.

    Returns:
        Value and interval. Grade: sampled.

    Raises:
        UsageError: for empty or non-finite scores.

    Example:
        >>> found = auc(np.array([0.0, 1.0, 2.0, 3.0]), np.array([2.5, 3.5, 4.0, 5.0]))
        >>> round(found.value, 4), found.low < found.value < found.high <= 1
        (0.9375, True)
    """
    from scipy.special import expit, logit
    from scipy.stats import norm

    ours, theirs = _placements(clean, tampered)
    value = float(theirs.mean())
    if min(len(ours), len(theirs)) > 1 and 0 < value < 1:
        deviation = math.sqrt(ours.var(ddof=1) / len(ours) + theirs.var(ddof=1) / len(theirs))
        if deviation > 0:
            reach = norm.ppf((1 + level) / 2) * deviation / (value * (1 - value))
            return Area(value, float(expit(logit(value) - reach)), float(expit(logit(value) + reach)))
    return Area(value, *_newcombe(value, len(ours), len(theirs), level))


def auc_difference(
    first: tuple[np.ndarray, np.ndarray], second: tuple[np.ndarray, np.ndarray], *, level: float = 0.95
) -> Area:
    """First area under the ROC curve less the second, of two scores of the same samples (DeLong et al. 1988).

    Args:
        first: (clean (m,), tampered (n,)) scores by one statistic.
        second: scores of the same samples, in the same order, by another.
        level: probability that the interval covers.

    Returns:
        The difference; the scores beat each other where the interval leaves out zero. Grade: sampled.

    Raises:
        UsageError: for samples that are not the same number.

    Example:
        >>> clean, tampered = np.arange(10.0), np.arange(5.0, 15.0)
        >>> auc_difference((clean, tampered), (clean, tampered)).value
        0.0
    """
    from scipy.stats import norm

    if len(first[0]) != len(second[0]) or len(first[1]) != len(second[1]):
        raise UsageError(
            "Two statistics can be compared on the same samples only.",
            where="auc_difference",
            advice="Give scores of the same clean and tampered samples, in the same order.",
        )
    ours, theirs = (one - other for one, other in zip(_placements(*first), _placements(*second), strict=True))
    value = float(theirs.mean())
    deviation = math.sqrt(sum(each.var(ddof=1) / len(each) for each in (ours, theirs) if len(each) > 1))
    reach = float(norm.ppf((1 + level) / 2)) * deviation
    return Area(value, value - reach, value + reach)


def _placements(clean: np.ndarray, tampered: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For every clean sample the share of tampered ones above it, for every tampered one that of clean ones below."""
    clean, tampered = _finite(clean, "clean"), _finite(tampered, "tampered")

    def below(scores: np.ndarray, others: np.ndarray) -> np.ndarray:
        ordered = np.sort(others)
        count = np.searchsorted(ordered, scores, "left") + np.searchsorted(ordered, scores, "right")
        return count / (2 * len(ordered))

    return 1 - below(clean, tampered), below(tampered, clean)


def _newcombe(value: float, clean: int, tampered: int, level: float) -> tuple[float, float]:
    """The areas whose distance from the one found is not more than z of their own deviations."""
    from scipy.optimize import root_scalar
    from scipy.stats import norm

    quantile, extra = float(norm.ppf((1 + level) / 2)), (clean + tampered) / 2 - 1

    def excess(area: float) -> float:
        spread = 1 + extra * (1 - area) / (2 - area) + extra * area / (1 + area)
        return abs(value - area) - quantile * math.sqrt(area * (1 - area) * spread / (clean * tampered))

    inner = min(max(value, 1e-12), 1 - 1e-12)  # the value itself is a root where it is 0 or 1
    low, high = (
        end if value == end or excess(abs(end - 1e-12)) <= 0 else root_scalar(excess, bracket=(end, inner)).root
        for end in (0.0, 1.0)
    )
    return float(low), float(high)


def _finite(scores: np.ndarray, where: str) -> np.ndarray:
    scores = np.asarray(scores, np.float64).reshape(-1)
    if not len(scores) or not np.isfinite(scores).all():
        raise UsageError(
            f"{int((~np.isfinite(scores)).sum())} of {len(scores)} scores are no finite numbers.",
            where=where,
            advice="Leave out samples whose status is inconclusive, and give at least one.",
        )
    return scores
