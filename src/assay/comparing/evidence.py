"""What two runs hold about the difference of one quantity: values of the same inputs, values of others, intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from assay.comparing.resampling import Evidence, paired, statistic_of, unpaired
from assay.results import Quantity, Result
from assay.results.paths import Values, basis

NOTHING = "no interval: not judged"
FEWEST = 5
"""Samples below which resampling says nothing."""
_Groups = Mapping[object, list[float]]


def evidence(
    before: tuple[Quantity, Result],
    after: tuple[Quantity, Result],
    *,
    same_data: bool,
    level: float,
    resamples: int,
) -> tuple[Evidence | None, str]:
    """The best evidence that both runs carry.

    Values behind both quantities come first: of the same samples where the data are the same, else of each side on its
    own. Then intervals of confidence, which are combined as those of independent estimates (Zou, Donner 2008): on the
    same inputs that is cautious.

    Args:
        before: the quantity, and the result it stands in.
        after: likewise.
        same_data: whether both runs have the same data set.
        level: probability that the interval covers.
        resamples: how many to draw.

    Returns:
        The evidence, or None and why there is none; with evidence the text is what to know about it, often nothing.
    """
    found, why = None, ""
    values = basis(*before), basis(*after)
    if values[0] is not None and values[1] is not None:
        found, why = _of_values(values[0], values[1], same_data, level, resamples)
    if found is None and before[0].confidence is not None and after[0].confidence is not None:
        found, why = _of_intervals(before[0], after[0], level), ""
    return found, why or ("" if found else NOTHING)


def _of_values(
    before: tuple[Values, str], after: tuple[Values, str], same_data: bool, level: float, resamples: int
) -> tuple[Evidence | None, str]:
    statistic = before[1]
    if statistic != after[1] or statistic_of(statistic) is None:
        return None, "an extreme of single inputs has no interval: not judged"
    one, other = _groups(before[0]), _groups(after[0])
    missing = len(one) + len(other)
    same = same_data and one.keys() == other.keys() and len(one) > 0
    if same:
        kept = [key for key in one if _whole(one[key]) and _whole(other[key])]
        one, other = {key: one[key] for key in kept}, {key: other[key] for key in kept}
    else:
        one, other = ({key: row for key, row in side.items() if _whole(row)} for side in (one, other))
        if len(one) + len(other) < missing:
            return None, "values are missing and the inputs differ: not judged"
    if min(len(one), len(other)) < FEWEST:
        return None, f"fewer than {FEWEST} samples: not judged"
    if len({len(row) for side in (one, other) for row in side.values()}) > 1:
        return None, "samples have different numbers of values: not judged"
    test = paired if same else unpaired
    first, second = (np.array(list(side.values()), dtype=np.float64) for side in (one, other))
    found = test(first, second, statistic, level=level, resamples=resamples)
    dropped = missing // 2 - len(one) if same else 0
    return found, f"{dropped} samples without a value in one of the runs left out" if dropped else ""


def _groups(values: Values) -> dict[object, list[float]]:
    """Values by sample, in the order of the table."""
    groups: dict[object, list[float]] = {}
    for sample, value in zip(values.samples, values.values, strict=True):
        groups.setdefault(sample, []).append(math.nan if value is None or isinstance(value, str) else float(value))
    return groups


def _whole(row: list[float]) -> bool:
    return all(map(math.isfinite, row))


def _of_intervals(before: Quantity, after: Quantity, level: float) -> Evidence | None:
    """Zou and Donner's interval of a difference, and the p-value at which it just reaches 0."""
    from scipy.stats import norm

    ends = before.low, before.high, after.low, after.high, before.confidence, after.confidence
    if any(end is None or not math.isfinite(end) for end in ends) or not math.isfinite(after.value - before.value):
        return None
    low1, high1, low2, high2, covers1, covers2 = (float(end) for end in ends if end is not None)
    wanted = norm.ppf((1 + level) / 2)
    scale1, scale2 = (wanted / norm.ppf((1 + covers) / 2) for covers in (covers1, covers2))
    difference = after.value - before.value
    down = math.hypot((after.value - low2) * scale2, (high1 - before.value) * scale1)
    up = math.hypot((high2 - after.value) * scale2, (before.value - low1) * scale1)
    facing = down if difference > 0 else up
    if facing <= 0:  # an interval that ends at its value says nothing about chance
        return None
    p_value = float(2 * norm.sf(wanted * abs(difference) / facing))
    return Evidence(difference, difference - down, difference + up, p_value, "intervals of both runs", 0)
