"""p-values of several tracks together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

Combination = Literal["joint", "bonferroni", "harmonic"]
RULES = {
    "joint": "one statistic over all tracks, each in units of its noise, with one p-value",
    "bonferroni": "the smallest p-value times the number of tracks, valid whatever their dependence",
    "harmonic": "the harmonic mean of the p-values times e ln m, valid whatever their dependence (Vovk and Wang 2020)",
}


def combined(p_values: Sequence[float], rule: Combination) -> float:
    """One p-value for "none of these tracks has kinks"; `joint` needs the tracks themselves and is not done here.

    Args:
        p_values: of the single tracks.
        rule: ``bonferroni`` or ``harmonic``.

    Returns:
        The p-value; NaN for no p-values.

    Example:
        >>> round(combined([0.01, 0.5, 0.6], "bonferroni"), 3), round(combined([0.01, 0.01, 0.01], "harmonic"), 3)
        (0.03, 0.03)
    """
    from scipy.stats import hmean

    found = np.asarray(p_values, np.float64)
    if not len(found):
        return math.nan
    if rule == "bonferroni" or len(found) == 1:
        return float(min(1.0, len(found) * found.min()))
    return float(min(1.0, max(1.0, math.e * math.log(len(found))) * hmean(found)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values: below the level exactly for tracks that are named at that family-wise level.

    Returns:
        In the order given.

    Example:
        >>> [round(each, 3) for each in holm([0.01, 0.04, 0.03])]
        [0.03, 0.06, 0.06]
    """
    found = np.asarray(p_values, np.float64)
    order = np.argsort(found, kind="stable")
    adjusted = np.empty(len(found))
    factors = len(found) - np.arange(len(found))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(found[order] * factors))
    return adjusted.tolist()
