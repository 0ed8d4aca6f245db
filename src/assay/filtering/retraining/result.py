"""What selective retraining found: every arm under every seed, paired differences, and a summary that claims little."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from assay.errors import MissingExtra, UsageError
from assay.filtering.retraining.comparison import Difference, paired_difference
from assay.filtering.retraining.wording import summary_of
from assay.results import Displayed

if TYPE_CHECKING:
    import pandas
    from torch import Tensor

BEFORE = "before"
RIVALS = ("all", "random", "complement", "criticality")  # what the selective arm is compared with, where it was run


@dataclass(frozen=True, eq=False, repr=False)
class Run:
    """One arm under one seed.

    Attributes:
        arm: its name.
        seed: of batches, dropout and the random arm.
        units: names of the units retrained.
        weights: number of weights in them.
        steps: optimiser steps taken.
        correct: by measure, (N,) bool: which test samples are right.
        same_as: the arm whose training this one shares, because both train the same units; empty for its own.
    """

    arm: str
    seed: int
    units: tuple[str, ...]
    weights: int
    steps: int
    correct: Mapping[str, np.ndarray]
    same_as: str = ""

    def __repr__(self) -> str:
        return f"Run({self.arm!r}, seed={self.seed}, {len(self.units)} units, {self.steps} steps)"

    def accuracy(self, measure: str) -> float:
        """Share of test samples that are right."""
        return float(self.correct[measure].mean())


@dataclass(frozen=True, eq=False, repr=False)
class Retraining(Displayed):
    """Every arm under every seed, from one checkpoint.

    Attributes:
        runs: by arm, then seed.
        before: by measure, (N,) bool: which test samples the checkpoint gets right.
        chosen: names of the units that the selective arm retrains.
        units: number of weights of every unit, by name.
        labels: class of every unit; None when the choice did not need any.
        counted: of undecided units, the class that their score alone falls in, which the choice went by.
        select: the rule, for people.
        attack: name of the attack behind labels, epsilon and attacked training batches.
        epsilon: its size; None for a function that has its own.
        adversarial: share of each training batch that was attacked.
        level: of the intervals.
        warnings: what the reader must know.
        weights: state dicts by (arm, seed), of the arms that were to be kept.
    """

    runs: tuple[Run, ...]
    before: Mapping[str, np.ndarray]
    chosen: tuple[str, ...]
    units: Mapping[str, int]
    labels: Mapping[str, str] | None
    counted: Mapping[str, str]
    select: str
    attack: str
    epsilon: float | None
    adversarial: float
    level: float = 0.95
    warnings: tuple[str, ...] = ()
    weights: Mapping[tuple[str, int], Mapping[str, Tensor]] = field(default_factory=dict)

    def __repr__(self) -> str:
        chosen = f"{len(self.chosen)} of {len(self.units)} units"
        return f"Retraining({', '.join(self.arms)}; {len(self.seeds)} seeds, {chosen})"

    @property
    def arms(self) -> tuple[str, ...]:
        """Names of the arms, in order."""
        return tuple(dict.fromkeys(run.arm for run in self.runs))

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds, in order."""
        return tuple(dict.fromkeys(run.seed for run in self.runs))

    @property
    def measures(self) -> tuple[str, ...]:
        """What was measured."""
        return tuple(self.before)

    @property
    def steps(self) -> int:
        """Optimiser steps of every arm."""
        return self.runs[0].steps

    def of(self, arm: str) -> tuple[Run, ...]:
        """Runs of one arm, in the order of seeds.

        Returns:
            One per seed.

        Raises:
            UsageError: for an arm that was not run.
        """
        found = tuple(run for run in self.runs if run.arm == arm)
        if not found:
            raise UsageError(f"There is no arm {arm!r}.", where="arm", advice=f"There are {', '.join(self.arms)}.")
        return found

    def accuracy(self, arm: str, measure: str) -> tuple[float, ...]:
        """Accuracy per seed; of the checkpoint for the arm ``before``.

        Returns:
            Shares of the test samples.

        Raises:
            UsageError: for an arm or a measure that does not exist.
        """
        return tuple(float(right.mean()) for right in self._correct(arm, measure))

    def difference(self, first: str, second: str, measure: str) -> Difference:
        """One arm minus another, seed by seed.

        Args:
            first: name of an arm.
            second: name of another; ``before`` is the checkpoint.
            measure: one of `measures`.

        Returns:
            The paired difference with its intervals.

        Raises:
            UsageError: for an arm or a measure that does not exist.
        """
        same = BEFORE not in (first, second) and all(
            set(one.units) == set(other.units) for one, other in zip(self.of(first), self.of(second), strict=True)
        )
        return paired_difference(
            self._correct(first, measure),
            self._correct(second, measure),
            names=(first, second),
            measure=measure,
            level=self.level,
            same=same,
        )

    @property
    def differences(self) -> tuple[Difference, ...]:
        """The selective arm minus each other arm, then every arm minus the checkpoint, under every measure."""
        pairs = [("selective", rival) for rival in RIVALS if rival in self.arms]
        pairs += [(arm, BEFORE) for arm in self.arms]
        return tuple(self.difference(*pair, measure) for pair in pairs for measure in self.measures)

    @property
    def summary(self) -> str:
        """What was done, what came out, and which differences are shown, in plain words."""
        return summary_of(self)

    def to_frame(self, table: str = "runs") -> pandas.DataFrame:
        """A tidy table.

        Args:
            table: ``runs`` (arm, seed, measure, accuracy, number of units and weights retrained, steps, and the
                checkpoint as arm ``before``) or ``differences`` (first, second, measure, mean, low, high, ...).

        Returns:
            One row per arm, seed and measure, or per difference.

        Raises:
            MissingExtra: without pandas.
            UsageError: for another table.
        """
        try:
            import pandas
        except ImportError as error:
            raise MissingExtra("pandas", "tables", "A table as a data frame") from error
        if table not in ("runs", "differences"):
            raise UsageError(f"There is no table {table!r}.", where="table", advice="Use 'runs' or 'differences'.")
        return pandas.DataFrame(self.run_records() if table == "runs" else self.difference_records())

    def _correct(self, arm: str, measure: str) -> list[np.ndarray]:
        if measure not in self.before:
            raise UsageError(
                f"There is no measure {measure!r}.", where="measure", advice=f"There are {', '.join(self.measures)}."
            )
        if arm == BEFORE:
            return [self.before[measure]] * len(self.seeds)
        return [run.correct[measure] for run in self.of(arm)]

    def run_records(self) -> list[dict[str, Any]]:
        """One mapping per arm, seed and measure, and the checkpoint as arm ``before``."""
        rows: list[dict[str, Any]] = [
            {"arm": BEFORE, "seed": None, "measure": measure, "accuracy": float(right.mean()), "units": 0,
             "weights": 0, "steps": 0, "same_as": ""}
            for measure, right in self.before.items()
        ]  # fmt: skip
        for run in self.runs:
            facts = {"units": len(run.units), "weights": run.weights, "steps": run.steps, "same_as": run.same_as}
            rows += [
                {"arm": run.arm, "seed": run.seed, "measure": measure, "accuracy": run.accuracy(measure), **facts}
                for measure in self.measures
            ]
        return rows

    def difference_records(self) -> list[dict[str, Any]]:
        """One mapping per difference of two arms and measure."""
        return [
            {"first": row.first, "second": row.second, "measure": row.measure, "mean": row.mean, "low": row.low,
             "high": row.high, "sample_error": row.sample_error, "seeds": len(row.values), "shown": row.shown,
             "same": row.same}
            for row in self.differences
        ]  # fmt: skip
