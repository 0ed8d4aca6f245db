"""Every quantity of the summaries in both runs: how it differs, and whether that is better, worse, or not shown."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import StrEnum

from assay.comparing import conditions
from assay.comparing.evidence import evidence
from assay.comparing.resampling import Evidence
from assay.results import Audit, Quantity, Result


class Verdict(StrEnum):
    """What is said of a difference, worst first."""

    WORSE = "worse"
    BETTER = "better"
    CHANGED = "changed"
    NOT_SHOWN = "no difference shown"
    NOT_JUDGED = "not judged"


@dataclass(frozen=True)
class Difference:
    """One quantity in both runs.

    Attributes:
        analysis: name of the analysis.
        key: of the quantity in its summary.
        before: in the first run.
        after: in the second run.
        evidence: what carries a judgement; None without one.
        note: why there is none, or what to know about it.
        adjusted: p-value adjusted for the number of differences tested; NaN where none was.
        verdict: what is said.
    """

    analysis: str
    key: str
    before: Quantity
    after: Quantity
    evidence: Evidence | None
    note: str = ""
    adjusted: float = math.nan
    verdict: Verdict = Verdict.NOT_JUDGED

    @property
    def label(self) -> str:
        """What the quantity is, for people."""
        return self.after.label or self.key.replace("_", " ")

    @property
    def value(self) -> float:
        """After minus before."""
        return self.after.value - self.before.value

    @property
    def change(self) -> float | None:
        """The difference as a share of the value before; None where that is 0 or nothing is finite."""
        share = self.value / abs(self.before.value) if self.before.value else math.nan
        return share if math.isfinite(share) else None


def differences(
    before: Audit, after: Audit, shared: list[str], *, level: float, smallest: float, resamples: int
) -> list[Difference]:
    """All quantities that both runs have, judged.

    A difference is real where the adjusted p-value is at most 1 - level, the interval leaves out 0, and it is at least
    `smallest` of the larger value: rounding is no news.

    Args:
        before: the first run.
        after: the second run.
        shared: analyses to compare.
        level: of the intervals; 1 - level is the share of false discoveries allowed.
        smallest: relative differences below this are none.
        resamples: bootstrap and permutation draws.

    Returns:
        In the order of the runs.
    """
    found: list[Difference] = []
    for name in shared:
        one, other = before.results[name], after.results[name]
        same = conditions.same_data(before, after, name)
        comparable = not conditions.settings_differ(before, after, name)
        found += [
            _measured(one, other, key, same_data=same, same_settings=comparable, level=level, resamples=resamples)
            for key in one.summary
            if key in other.summary
        ]
    return judged(found, level=level, smallest=smallest)


def _measured(
    one: Result, other: Result, key: str, *, same_data: bool, same_settings: bool, level: float, resamples: int
) -> Difference:
    before, after = one.summary[key], other.summary[key]
    bare = Difference(one.name, key, before, after, None)
    if before.unit != after.unit:
        return replace(bare, note=f"units differ ({before.unit or 'none'} and {after.unit or 'none'}): not judged")
    if before.label != after.label and not same_settings:
        return replace(bare, note=f"the settings give it another meaning (before: {before.label}): not judged")
    if not (math.isfinite(before.value) and math.isfinite(after.value)):
        return replace(bare, note="a value is not finite: not judged")
    seen, note = evidence((before, one), (after, other), same_data=same_data, level=level, resamples=resamples)
    return replace(bare, evidence=seen, note=note)


def judged(found: list[Difference], *, level: float, smallest: float) -> list[Difference]:
    """Differences with their adjusted p-values and verdicts.

    Args:
        found: measured differences; those without evidence stay as they are.
        level: as in `differences`.
        smallest: as in `differences`.

    Returns:
        In the same order.
    """
    from scipy.stats import false_discovery_control

    tested = [each.evidence.p_value for each in found if each.evidence is not None]
    adjusted = iter(false_discovery_control(tested).tolist() if tested else ())
    return [
        each if each.evidence is None else _verdict(replace(each, adjusted=next(adjusted)), level, smallest)
        for each in found
    ]


def _verdict(each: Difference, level: float, smallest: float) -> Difference:
    seen = each.evidence
    assert seen is not None
    size = max(abs(each.before.value), abs(each.after.value))
    if abs(seen.difference) < smallest * size:
        return replace(each, verdict=Verdict.NOT_SHOWN)
    if each.adjusted > 1 - level or seen.low <= 0 <= seen.high:
        return replace(each, verdict=Verdict.NOT_SHOWN)
    better = each.after.better
    if better is None or better != each.before.better:
        return replace(each, verdict=Verdict.CHANGED)
    down = seen.difference < 0
    return replace(each, verdict=Verdict.BETTER if down == (better == "lower") else Verdict.WORSE)
