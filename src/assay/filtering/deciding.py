"""A sweep that wants classes only: samples are visited in random order until the classes of a unit are certain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from assay.filtering.assembly import BASELINE, REPLACED, Outcomes, baseline_of, on_samples, recordings_from
from assay.filtering.early import Decision, Sequential, looks, sample_order
from assay.filtering.recording import Baseline, Recording
from assay.filtering.terms import ScoreOf, Terms, known_of, terms_of
from assay.filtering.variants import Variants

if TYPE_CHECKING:
    from assay.filtering.job import Runner
    from assay.sweep import Outcome

LABELS = ("fragile", "robust", "antifragile", "undecided", "no-op")
PREFIX = "decided/"
FIRST, GROWTH = 128, 1.4  # of the looks: small passes waste time, rare looks waste samples


def until_decided(
    runner: Runner, variants: Variants, rows: Sequence[int], done: Mapping[str, Outcome], *, adaptive: bool
) -> Outcome:
    """Run variants on ever more samples until the classes asked for are certain.

    A screen asks for the class of every filter in S difference, and drops the variants of a filter that is decided;
    otherwise the classes of the mean over filters are asked for, in every split.

    Args:
        runner: computes.
        variants: of one unit.
        rows: which of them.
        done: outcomes of the stages before; what the static attack gave shortens the visit under the adaptive one.
        adaptive: attack every variant anew.

    Returns:
        Values on the samples visited (``used`` of them per variant), which samples these are, and the decisions.
    """
    job, baseline = runner.job, done[BASELINE]
    whole = baseline_of(job, done)
    if not adaptive and not job.same_attack_first:
        whole = Baseline(whole.clean, None)
    order = sample_order(len(job.x), job.identity["data"], job.config.seed)
    visit = _Visit(runner, variants, rows, baseline, order, whole, adaptive)
    cells = _cells(visit, Outcomes(done) if adaptive else None)
    for count in looks(len(order), FIRST, GROWTH):
        active = {name for cell in cells if not cell.decided for name in cell.filters}
        visit.extend(active, count)
        for cell in cells:
            if not cell.decided:
                cell.update(visit.recordings(cell.filters), count)
        if all(cell.decided for cell in cells):
            break
    return visit.outcome() | {
        f"{PREFIX}{cell.name}/{split}": cell.result(split) for cell in cells for split in cell.watches
    }


def decisions_in(outcome: Outcome) -> dict[tuple[str, str], Decision]:
    """Decisions that `until_decided` left in an outcome, by cell (a filter, or ``mean``) and split."""
    found: dict[tuple[str, str], Decision] = {}
    for name, values in outcome.items():
        if name.startswith(PREFIX):
            cell, _, split = name.removeprefix(PREFIX).partition("/")
            label, score, low, high, used, samples = values.tolist()
            found[cell, split] = Decision(LABELS[int(label)], score, low, high, int(used), int(samples))
    return found


class _Visit:
    """Values of variants on the samples visited so far."""

    def __init__(
        self,
        runner: Runner,
        variants: Variants,
        rows: Sequence[int],
        baseline: Outcome,
        order: np.ndarray,
        whole: Baseline,
        adaptive: bool,
    ) -> None:
        self.runner, self.variants, self.rows, self.order, self.whole = runner, variants, list(rows), order, whole
        self.adaptive = adaptive
        self._epsilon = float(baseline["epsilon"]) if "epsilon" in baseline else float("nan")
        self._attacked = torch.tensor(baseline["attacked"]) if whole.adversarial is not None and not adaptive else None
        kind = whole.clean.dtype
        self.values: dict[str, dict[int, np.ndarray]] = {
            split: {row: np.empty(0, kind) for row in self.rows}
            for split in ("clean", "adversarial")
            if split == "clean" or whole.adversarial is not None
        }

    def extend(self, filters: set[str], count: int) -> None:
        """Visit more samples with the variants of some filters."""
        job = self.runner.job
        rows = [row for row in self.variants.needed(sorted(filters)) if row in self.values["clean"]]
        if not rows:
            return
        new = torch.from_numpy(self.order[len(self.values["clean"][rows[0]]) : count])
        x, y = job.x[new], job.y[new]
        found = {"clean": self.runner.outputs(self.variants, rows, x, y)}
        if self.adaptive:
            found["adversarial"] = self.runner.attacked(self.variants, rows, x, y, self._epsilon)
        elif self._attacked is not None:
            found["adversarial"] = self.runner.outputs(self.variants, rows, self._attacked[new], y)
        for split, values in found.items():
            for row, more in zip(rows, values, strict=True):
                self.values[split][row] = np.concatenate([self.values[split][row], more])

    def recordings(self, filters: Sequence[str]) -> dict[str, Recording]:
        """Recordings of some filters on what was visited."""
        rows = self.variants.needed(filters)
        used = min((len(self.values["clean"][row]) for row in rows if row in self.values["clean"]), default=0)
        seen = on_samples(self.whole, self.order[:used])
        parts = [self.values.get(split, {}) for split in ("clean", "adversarial")]
        return recordings_from(self.variants, seen, parts[0], parts[1], self.adaptive, filters)

    def outcome(self) -> dict[str, np.ndarray]:
        """Values with zeros behind the samples that a variant was run on."""
        used = np.array([len(self.values["clean"][row]) for row in self.rows])
        found = {"rows": np.array(self.rows), "used": used, "samples": self.order[: used.max()]}
        for split, values in self.values.items():
            found[split] = np.stack([_padded(values[row], int(used.max())) for row in self.rows])
        return found


class _Cell:
    """One class to be decided: of a filter or of the mean over filters, in one split or several."""

    def __init__(self, name: str, filters: Sequence[str], watches: dict[ScoreOf, tuple[Terms, Sequential]]) -> None:
        self.name, self.filters, self.watches = name, list(filters), watches
        self.decided = False
        self._no_op = False

    def update(self, recordings: Mapping[str, Recording], count: int) -> None:
        """See what was recorded by now."""
        self._no_op = all(each.no_op for each in recordings.values())
        found = [one.update(terms.values(recordings)) for terms, one in self.watches.values()]
        self.decided = self._no_op or all(found)

    def result(self, split: ScoreOf) -> np.ndarray:
        """The decision as numbers."""
        decision = self.watches[split][1].decision()
        label = "no-op" if self._no_op else decision.label
        return np.array(
            [LABELS.index(label), decision.score, decision.low, decision.high, decision.used, decision.samples], float
        )


def _cells(visit: _Visit, static: Outcomes | None) -> list[_Cell]:
    """What is to be decided, with all that is known of every sample beforehand."""
    config, whole, variants = visit.runner.job.config, visit.whole, visit.variants
    there = [name for name in variants.rows if name not in REPLACED
             and set(variants.needed([name])) <= set(visit.rows)]  # fmt: skip
    screen = config.mode == "screen" and whole.adversarial is not None
    groups = {name: [name] for name in there} if screen else {"mean": there}
    splits: list[ScoreOf] = ["difference"] if screen else ["clean"]
    if whole.adversarial is not None and not screen:
        splits = ["clean", "adversarial", "difference"]
    cells: list[_Cell] = []
    for name, filters in groups.items():
        watches: dict[ScoreOf, tuple[Terms, Sequential]] = {}
        for split in splits:
            terms = terms_of(whole, {each: variants.density[each] for each in filters}, split=split, rule=config.rule)
            known = [known_of(whole)[visit.order]]
            if static is not None:
                known += _static_terms(static, visit, filters, terms)
            watches[split] = (
                terms,
                Sequential(
                    len(visit.order), terms.bounds, tau=config.tau, delta=config.delta, known=np.concatenate(known, 1)
                ),
            )
        cells.append(_Cell(name, filters, watches))
    return cells


def _static_terms(static: Outcomes, visit: _Visit, filters: Sequence[str], terms: Terms) -> list[np.ndarray]:
    """The same terms under the static attack, in the order of visiting; their mean where it was not run."""
    name = visit.variants.name
    clean, attacked = (static.rows("static", name, split) for split in ("clean", "adversarial"))
    used = min((len(values) for values in attacked.values()), default=0)
    if not used:
        return []
    seen = on_samples(visit.whole, visit.order[:used])
    cut = [{row: values[:used] for row, values in part.items()} for part in (clean, attacked)]
    recordings = recordings_from(visit.variants, seen, cut[0], cut[1], True, filters)
    if set(recordings) != set(filters):
        return []
    column = np.empty(len(visit.order))
    column[:used] = terms.values(recordings)
    column[used:] = column[:used].mean()
    return [column[:, None]]


def _padded(values: np.ndarray, count: int) -> np.ndarray:
    return np.concatenate([values, np.zeros(count - len(values), values.dtype)])
