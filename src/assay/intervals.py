"""Intervals of measured shares."""

from __future__ import annotations


def wilson(share: float, count: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson interval of a share seen in `count` independent trials (Wilson 1927).

    Args:
        share: between 0 and 1, a whole number of successes over the count.
        count: trials, at least 1.
        level: probability that the interval covers.

    Returns:
        Lower and upper end.

    Example:
        >>> [round(end, 3) for end in wilson(0.5, 100)]
        [0.404, 0.596]
    """
    from scipy.stats import binomtest

    found = binomtest(round(share * count), count).proportion_ci(confidence_level=level, method="wilson")
    return float(found.low), float(found.high)
