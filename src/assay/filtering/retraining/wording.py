"""The summary of a retraining, in words that claim no more than the intervals show."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from assay.filtering.retraining.comparison import Difference

if TYPE_CHECKING:
    from assay.filtering.retraining.result import Retraining

PLAIN = {"all": "plain continuation of all weights", "random": "a random choice of the same number of units",
         "complement": "the units that were not chosen", "criticality": "the least robust-critical units"}  # fmt: skip


def summary_of(result: Retraining) -> str:
    """Several lines: what was done, accuracies, the selective arm against each other one, limits.

    A difference counts as shown when 0 lies outside the t interval over seeds and outside two standard errors over test
    samples; otherwise the line says that none was shown.

    Returns:
        The lines.
    """
    lines = [_what_was_done(result), *_accuracies(result)]
    compared = [row for row in result.differences if row.first == "selective" and row.second != "before"]
    for rival in dict.fromkeys(row.second for row in compared):
        lines += _against(rival, [row for row in compared if row.second == rival])
    counted = [row for row in compared if not row.same and math.isfinite(row.low)]
    if counted:
        chance = len(counted) * (1 - result.level)
        lines.append(
            f"{len(counted)} intervals of {result.level:.0%} were looked at; about {chance:.1f} of them would leave 0 "
            "out by chance alone. They cover what changes with the seed, on these test samples and this checkpoint; "
            "other networks, data and attacks may differ."
        )
    if len(result.seeds) == 1:
        lines.append("With a single seed there is no interval, and nothing is claimed.")
    return "\n".join([*lines, *(f"Note: {warning}" for warning in result.warnings)])


def _what_was_done(result: Retraining) -> str:
    total, weights = len(result.units), sum(result.units[name] for name in result.chosen)
    size = "" if result.epsilon is None else f" at epsilon {result.epsilon:.4g}"
    how = "clean batches" if not result.adversarial else f"batches of which {result.adversarial:.0%} is attacked"
    return (
        f"Selective retraining ({result.select}) of {len(result.chosen)} of {total} units, {weights} of "
        f"{sum(result.units.values())} weights: {result.steps} steps on {how}, {len(result.seeds)} seed(s), judged on "
        f"{len(next(iter(result.before.values())))} test samples, every network attacked anew{size}."
    )


def _accuracies(result: Retraining) -> list[str]:
    lines: list[str] = []
    for arm in ("before", *result.arms):
        figures = []
        for measure in result.measures:
            values = result.accuracy(arm, measure)
            figures.append(f"{measure} {sum(values) / len(values):.1%}")
        extra = "" if arm == "before" else f" ({_size(result, arm)})"
        lines.append(f"{arm}{extra}: {', '.join(figures)}.")
    return lines


def _size(result: Retraining, arm: str) -> str:
    runs = result.of(arm)
    sizes = sorted({run.weights for run in runs})
    weights = str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    shared = {run.same_as for run in runs}
    same = f", the same as {next(iter(shared))}" if len(shared) == 1 and shared != {""} else ""
    return f"{len(runs[0].units)} units, {weights} weights{same}"


def _against(rival: str, rows: Sequence[Difference]) -> list[str]:
    if all(row.same for row in rows):
        return [f"Selective and {rival} train the same weights here: there is nothing to compare."]
    lines: list[str] = []
    for row in rows:
        span = f"[{100 * row.low:+.1f}, {100 * row.high:+.1f}]" if math.isfinite(row.low) else "no interval"
        if row.shown:
            verdict = f"{'higher' if row.mean > 0 else 'lower'} than {PLAIN.get(rival, rival)}"
        elif row.low <= 0 <= row.high:
            verdict = "no difference shown"
        else:
            verdict = "no difference shown, being within the noise of so few test samples"
        lines.append(f"Selective - {rival}, {row.measure}: {100 * row.mean:+.1f} points {span}: {verdict}.")
    return lines
