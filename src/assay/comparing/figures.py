"""Pictures of a comparison: how much each quantity changed, and inputs one by one where most did."""

from __future__ import annotations

import math
from collections.abc import Sequence

from assay.comparing.quantities import Difference, Verdict
from assay.results import Audit, Figure
from assay.results.paths import basis

_SHOWN = 24
_SCATTERED = 2
_WIDEST = 5.0
_MARKS = {Verdict.WORSE: "✗ ", Verdict.BETTER: "✓ ", Verdict.CHANGED: "≠ "}
_REAL = (Verdict.WORSE, Verdict.BETTER, Verdict.CHANGED)


def figures(before: Audit, after: Audit, found: Sequence[Difference]) -> tuple[Figure, ...]:
    """Changes with intervals, then before against after by input for the largest differences that are real."""
    judged = [each for each in found if each.evidence is not None and each.value]
    shown = [each for each in judged if each.before.value > 0 and each.after.value > 0]
    shown.sort(key=lambda each: (list(Verdict).index(each.verdict), -abs(_log(each, each.value))))
    drawn = [_changes(shown[:_SHOWN])] if shown else []
    real = sorted(
        (each for each in judged if each.verdict in _REAL),
        key=lambda each: (list(Verdict).index(each.verdict), each.adjusted),
    )
    scatters = (_scatter(before, after, each) for each in real)
    return (*drawn, *[figure for figure in scatters if figure is not None][:_SCATTERED])


def _changes(shown: Sequence[Difference]) -> Figure:
    ends: tuple[list[float], list[float]] = [], []
    for each in shown:
        assert each.evidence is not None
        offset = each.value - each.evidence.difference  # the change of a median is not the median change
        for end, side in zip((each.evidence.low, each.evidence.high), ends, strict=True):
            side.append(_log(each, end + offset))
    return Figure(
        "bars",
        "How much each quantity changed",
        "On the right of 0 it is larger after than before: 1 is twice as much, -1 half. The line is the interval of "
        "the difference. ✗ worse, ✓ better, ≠ changed; the others may differ by chance. The table has those that "
        "are not positive, too.",
        {
            "labels": [f"{_MARKS.get(each.verdict, '')}{each.key.replace('_', ' ')}" for each in shown],
            "series": [
                {
                    "label": "change",
                    "values": [_log(each, each.value) for each in shown],
                    "low": ends[0],
                    "high": ends[1],
                }
            ],
            "x_label": "log2 of after / before",
            "horizontal": True,
        },
    )


def _log(each: Difference, difference: float) -> float:
    """Logarithm of the ratio that a difference amounts to, within what a picture can show."""
    ratio = (each.before.value + difference) / each.before.value
    return min(max(math.log2(ratio), -_WIDEST), _WIDEST) if ratio > 0 else -_WIDEST


def _scatter(before: Audit, after: Audit, each: Difference) -> Figure | None:
    """One point per input; None where the inputs are not the same or have several values."""
    if each.evidence is None or not each.evidence.method.startswith("paired"):
        return None
    sides = []
    for run, quantity in ((before, each.before), (after, each.after)):
        found = basis(quantity, run.results[each.analysis])
        if found is None or len(set(found[0].samples)) < len(found[0].samples):
            return None
        sides.append(dict(zip(found[0].samples, found[0].values, strict=True)))
    pairs = [(sides[0][key], sides[1][key]) for key in sides[0] if key in sides[1]]
    pairs = [pair for pair in pairs if all(isinstance(x, float) and math.isfinite(x) for x in pair)]
    if len({x for pair in pairs for x in pair}) < 4:  # right or wrong makes no picture
        return None
    return Figure(
        "scatter",
        f"{each.key.replace('_', ' ').capitalize()}, before and after",
        f"{each.label}: one point per input. Above the dashed line it is larger after than before.",
        {
            "series": [{"label": "inputs", "x": [x for x, _ in pairs], "y": [y for _, y in pairs]}],
            "x_label": "before",
            "y_label": "after",
            "diagonal": True,
        },
    )
