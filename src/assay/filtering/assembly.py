"""From outcomes of a sweep to recordings, and from recordings to what a static screen lets through."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from assay.filtering.recording import Baseline, Recording
from assay.filtering.scores import Normaliser, Rule, UnitScores, score
from assay.filtering.variants import UNFILTERED, Variants

if TYPE_CHECKING:
    from assay.filtering.config import FilteringConfig
    from assay.filtering.job import FilteringJob
    from assay.sweep import Outcome

BASELINE = "baseline"
"""Name of the item that runs the unfiltered network."""
REPLACED = ("rerandomise", "reinitialise")
"""Filters whose points are draws, not thresholds."""


def baseline_of(job: FilteringJob, done: Mapping[str, Outcome]) -> Baseline:
    """The unfiltered network."""
    found = done[BASELINE]
    return Baseline(found["clean"], found.get("adversarial"), job.metric.higher_is_better)


def recordings_of(variants: Variants, whole: Baseline, outcomes: Outcomes, *, adaptive: bool) -> dict[str, Recording]:
    """Recordings of a unit by filter: clean values, and attacked ones of the static or the adaptive attack.

    Args:
        variants: of the unit.
        whole: the unfiltered network on all samples.
        outcomes: of the sweep.
        adaptive: which attack.

    Returns:
        By filter name, all on the same samples: those that every filter was run on. Filters that were not run are left
        out.
    """
    attack = "adaptive" if adaptive else "static"
    samples = outcomes.visited(attack, variants.name)
    clean = outcomes.rows("static" if samples is None else attack, variants.name, "clean")
    attacked = outcomes.rows(attack, variants.name, "adversarial")
    return recordings_from(variants, on_samples(whole, samples), clean, attacked, adaptive)


def recordings_from(
    variants: Variants,
    baseline: Baseline,
    clean: Mapping[int, np.ndarray],
    attacked: Mapping[int, np.ndarray],
    needs_attacked: bool,
    filters: Sequence[str] | None = None,
) -> dict[str, Recording]:
    """Recordings from the values of every variant.

    Args:
        variants: of the unit.
        baseline: the unfiltered network on the same samples, which thresholds that change nothing lead to.
        clean: by variant, at least (N,) values on clean inputs; the first N are taken.
        attacked: by variant, at least (N,) values on attacked inputs.
        needs_attacked: leave out filters without attacked values.
        filters: which filters; all when None.

    Returns:
        By filter name.
    """
    found: dict[str, Recording] = {}
    count = len(baseline.clean)
    for name in variants.rows if filters is None else filters:
        rows = variants.rows[name]
        needed = {int(row) for row in rows} - {UNFILTERED}
        if not needed <= clean.keys() or (needs_attacked and not needed <= attacked.keys()):
            continue
        adversarial = None
        if baseline.adversarial is not None and needed <= attacked.keys():
            adversarial = np.stack([attacked.get(int(row), baseline.adversarial)[:count] for row in rows])
        values = np.stack([clean.get(int(row), baseline.clean)[:count] for row in rows])
        found[name] = Recording(values, adversarial, variants.density[name], variants.changed[name])
    return found


def on_samples(baseline: Baseline, samples: np.ndarray | None) -> Baseline:
    """The baseline on some samples; on all of them for None."""
    if samples is None:
        return baseline
    attacked = None if baseline.adversarial is None else baseline.adversarial[samples]
    return Baseline(baseline.clean[samples], attacked, baseline.higher_is_better)


def score_of(
    variants: Variants, recordings: Mapping[str, Recording], baseline: Baseline, config: FilteringConfig
) -> UnitScores:
    """Scores of a unit: ideal filters with their mean, then replacements, whose points are averaged over draws.

    Args:
        variants: of the unit.
        recordings: by filter, as from `recordings_of`.
        baseline: the unfiltered network.
        config: settings of scores.

    Returns:
        All rows.
    """
    if any(recording.adversarial is None for recording in recordings.values()):
        baseline = Baseline(baseline.clean, None, baseline.higher_is_better)
    ideal = {name: each for name, each in recordings.items() if name not in REPLACED}
    partial = len(ideal) < len(config.filters)
    parts: list[tuple[dict[str, Recording], Rule, Normaliser]] = [
        (ideal, config.rule, config.normalise),
        *(({name: recordings[name]}, "mean", "unfiltered") for name in REPLACED if name in recordings),
    ]
    rows, warnings = [], []
    for part, rule, normalise in parts:
        if not part:
            continue
        found = score(
            part,
            baseline,
            rule=rule,
            normalise=normalise,
            tau=config.tau,
            level=config.level,
            draws=config.draws,
            seed=config.seed,
            degenerate=variants.degenerate,
        )
        no_mean = part is not ideal or partial  # a mean over the filters that a screen let through means little
        rows += [row for row in found.rows if not (no_mean and row.filter == "mean")]
        warnings += found.warnings
    return UnitScores(tuple(rows), tuple(dict.fromkeys(warnings)))


def screened(job: FilteringJob, variants: Variants, baseline: Baseline, outcomes: Outcomes) -> list[str]:
    """Filters whose static scores, clean against attacked, lie above the class robust: the ones to attack anew.

    The static attack was made on the unfiltered network. A score that it leaves below tau is seldom raised by an attack
    that knows the filter.

    Args:
        job: the sweep.
        variants: of one unit.
        baseline: the unfiltered network.
        outcomes: of the static stage.

    Returns:
        Names of filters.
    """
    from assay.filtering.deciding import decisions_in

    found = {name: each for outcome in outcomes.of("static", variants.name)
             for (name, split), each in decisions_in(outcome).items() if split == "difference"}  # fmt: skip
    if found:  # decided early
        return [name for name, each in found.items() if each.score > job.config.tau and each.label != "no-op"]
    recordings = recordings_of(variants, baseline, outcomes, adaptive=False)
    if not recordings or variants.degenerate:
        return []
    scores = score_of(variants, recordings, baseline, job.config.model_copy(update={"draws": 1}))
    chosen = []
    for name in recordings:
        value = scores.get(name, "difference").score
        if not math.isnan(value) and value > job.config.tau:
            chosen.append(name)
    return chosen


class Outcomes:
    """Outcomes of a sweep by attack and unit."""

    def __init__(self, done: Mapping[str, Outcome]) -> None:
        self._done = done
        self._names: dict[str, list[str]] = {}
        for name in done:
            self._names.setdefault(name.rpartition(" ")[0], []).append(name)

    def rows(self, attack: str, unit: str, split: str) -> dict[int, np.ndarray]:
        """Values of every variant that was run, by its number, as far as it was run."""
        found: dict[int, np.ndarray] = {}
        for outcome in self.of(attack, unit):
            if split in outcome:
                used = outcome.get("used", [None] * len(outcome["rows"]))
                every = zip(outcome["rows"].tolist(), outcome[split], used, strict=True)
                found |= {row: values[:length] for row, values, length in every}
        return found

    def of(self, attack: str, unit: str) -> list[Outcome]:
        """Outcomes of one unit."""
        return [self._done[name] for name in self._names.get(f"{attack} {unit}", ())]

    def visited(self, attack: str, unit: str) -> np.ndarray | None:
        """Which samples all variants of the unit were run on, in order, where it stopped early; None for all."""
        for outcome in self.of(attack, unit):
            if "samples" in outcome:
                return outcome["samples"][: int(outcome["used"].min())]
        return None
