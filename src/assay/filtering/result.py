"""What a filtering sweep found: recordings, and scores and classes that follow from them without running anything."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from assay.errors import MissingExtra, NumericalError, UsageError
from assay.filtering.assembly import REPLACED, on_samples, score_of
from assay.filtering.config import FilteringConfig
from assay.filtering.early import Decision
from assay.filtering.held_out import Gain, held_out_gain
from assay.filtering.recording import Baseline, Recording, Split
from assay.filtering.scores import Reference, Score, UnitScores
from assay.filtering.variants import Variants
from assay.results import Displayed

if TYPE_CHECKING:
    import pandas

    from assay.results import Result

Attacked = Literal["static", "adaptive"]
Recordings = Mapping[str, Mapping[str, Recording]]


@dataclass(frozen=True, eq=False)
class FilteringResult(Displayed):
    """Filtered networks on clean and attacked data, sample by sample.

    Attributes:
        model: name of the model.
        config: settings.
        variants: by unit, in the order of the model: densities, changed weights, which thresholds are one network.
        baseline: the unfiltered network.
        epsilon: size of the attack in units of the data; None without attack or where the attack chose it itself.
        bounds: legal range that attacked inputs were kept in, None for none.
        static: recordings by unit and filter; attacked data were made once, on the unfiltered network.
        adaptive: likewise, each filtered network attacked anew; empty, or only some filters after a screen.
        visited: by attack and unit, the samples visited where classes alone were asked for; empty otherwise.
        decisions: by attack and unit, the certain class of each cell (a filter, or ``mean``) and split, and how many
            samples it took, where classes alone were asked for.
        nodes: by unit, the graph node that reads its weights, where captured.
        engine: how the networks were run.
        notes: what the reader must know.
    """

    model: str
    config: FilteringConfig
    variants: Mapping[str, Variants]
    baseline: Baseline
    epsilon: float | None
    bounds: tuple[float, float] | None
    static: Recordings
    adaptive: Recordings
    nodes: Mapping[str, str]
    visited: Mapping[tuple[str, str], np.ndarray] = field(default_factory=dict)
    decisions: Mapping[tuple[str, str], Mapping[tuple[str, str], Decision]] = field(default_factory=dict)
    engine: str = ""
    notes: tuple[str, ...] = ()

    @property
    def units(self) -> tuple[str, ...]:
        """Names of the units."""
        return tuple(self.variants)

    @property
    def attack(self) -> Attacked:
        """The attack that scores mean when none is named: the adaptive one where it covers everything."""
        return "adaptive" if self.config.mode in ("adaptive", "both") and self.adaptive else "static"

    @property
    def recordings(self) -> Recordings:
        """By unit and filter, of `attack`."""
        return self.adaptive if self.attack == "adaptive" else self.static

    @cached_property
    def scores(self) -> Mapping[tuple[Attacked, str], UnitScores]:
        """All scores by attack and unit."""
        found: dict[tuple[Attacked, str], UnitScores] = {}
        every: tuple[tuple[Attacked, Recordings], ...] = (("static", self.static), ("adaptive", self.adaptive))
        for attack, recordings in every:
            for name, recorded in recordings.items():
                if recorded:
                    baseline = self.baseline_of(name, attack)
                    found[attack, name] = score_of(self.variants[name], recorded, baseline, self.config)
        return MappingProxyType(found)

    def baseline_of(self, unit: str, attack: Attacked | None = None) -> Baseline:
        """The unfiltered network on the samples that the unit was run on."""
        return on_samples(self.baseline, self.visited.get((attack or self.attack, unit)))

    def score(
        self,
        unit: str,
        filter: str = "mean",
        split: str = "adversarial",
        reference: Reference = "compressed",
        attack: Attacked | None = None,
    ) -> Score:
        """One score.

        Args:
            unit: name of the unit.
            filter: ``high``, ``low``, ``pulse``, ``mean``, ``rerandomise`` or ``reinitialise``.
            split: ``clean``, ``adversarial`` or ``difference``.
            reference: ``compressed`` or ``unfiltered``.
            attack: ``static`` or ``adaptive``; None for `attack`.

        Returns:
            Score, interval and class.

        Raises:
            UsageError: when it was not recorded.
        """
        chosen = attack or self.attack
        if (chosen, unit) not in self.scores:
            raise UsageError(
                f"There are no {chosen} scores of {unit!r}.",
                where="score",
                advice=f"Units: {', '.join(self.units[:6])}; run with mode='both' for both attacks.",
            )
        return self.scores[chosen, unit].get(filter, split, reference)

    def labels(
        self,
        split: str = "adversarial",
        reference: Reference = "compressed",
        filter: str = "mean",
        attack: Attacked | None = None,
    ) -> dict[str, str]:
        """Class of every unit: fragile, robust, antifragile, undecided, no-op or degenerate.

        Where classes alone were asked for, those against what is left are the certain ones.

        Returns:
            Label by unit.
        """
        found = {unit: self.score(unit, filter, split, reference, attack).label for unit in self.units}
        for unit, label in found.items():
            certain = self.decisions.get((attack or self.attack, unit), {}).get((filter, split))
            if certain is not None and reference == "compressed" and label != "degenerate":
                found[unit] = certain.label
        return found

    def records(self) -> list[dict[str, Any]]:
        """One mapping per unit, attack, filter, split and reference."""
        return [
            {
                "unit": unit,
                "filter": row.filter,
                "split": row.split,
                "reference": row.reference,
                "score": row.score,
                "low": row.low,
                "high": row.high,
                "label": row.label,
                "removed": row.removed,
                "attack": attack if row.split != "clean" else "none",
            }
            for (attack, unit), scores in self.scores.items()
            for row in scores.rows
            if attack == self.attack or row.split != "clean" or self.attack not in self._attacks(unit)
        ]

    def to_frame(self) -> pandas.DataFrame:
        """`records` as a pandas DataFrame (extra ``tables``)."""
        try:
            import pandas
        except ImportError as error:
            raise MissingExtra("pandas", "tables", "Scores as a data frame") from error
        return pandas.DataFrame(self.records())

    def gains(self, split: Split = "adversarial", attack: Attacked | None = None) -> dict[str, Gain]:
        """By unit, the best threshold chosen on half of the samples and tested on the other: "antifragile at s".

        Units that no filter changes are left out, and all of them where no sample is right in one of the halves.

        Returns:
            By unit.
        """
        recordings = self.adaptive if (attack or self.attack) == "adaptive" else self.static
        found: dict[str, Gain] = {}
        for unit, recorded in recordings.items():
            baseline = self.baseline_of(unit, attack)
            ideal = {name: each for name, each in recorded.items() if name not in REPLACED and not each.no_op}
            if not ideal or self.variants[unit].degenerate or self.baseline.split(split) is None:
                continue
            with contextlib.suppress(NumericalError):
                found[unit] = held_out_gain(
                    ideal,
                    baseline,
                    split=split,
                    level=self.config.level,
                    draws=self.config.draws,
                    seed=self.config.seed,
                )
        return found

    def rescored(self, **settings: Any) -> FilteringResult:
        """The same recordings under other settings of scores: tau, level, draws, rule, normalise. Nothing is run.

        Returns:
            A new result.

        Raises:
            UsageError: for a setting that would need other recordings.
        """
        from dataclasses import replace

        wrong = set(settings) - {"tau", "level", "draws", "rule", "normalise"}
        if wrong:
            raise UsageError(
                f"{', '.join(sorted(wrong))} cannot be changed without running the networks again.",
                where="rescored",
                advice="Use tau, level, draws, rule or normalise.",
            )
        return replace(self, config=FilteringConfig.model_validate(self.config.model_dump() | settings))

    def result(self, rows: int | None = None) -> Result:
        """The same as a report section: tables, figures, findings; all rows, whatever is asked for."""
        from assay.filtering.report import report_of

        return report_of(self)

    def __repr__(self) -> str:
        units = f"{len(self.units)} units, {len(self.baseline.clean)} samples"
        return f"FilteringResult({self.model!r}, {units}, attack {self.config.attack}, {self.config.mode})"

    def _attacks(self, unit: str) -> set[str]:
        return {attack for attack, name in self.scores if name == unit}
