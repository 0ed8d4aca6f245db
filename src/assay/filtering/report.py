"""A filtering result as a section of a report."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np

from assay.filtering.analysis import analyse
from assay.filtering.config import FilteringConfig
from assay.filtering.effort import fitted
from assay.filtering.figures import figures
from assay.filtering.findings import findings
from assay.filtering.result import FilteringResult
from assay.filtering.tables import gain_table, score_table, unit_table
from assay.grade import Grade
from assay.intervals import wilson
from assay.progress import Progress
from assay.results import Better, Quantity, Result
from assay.subject import Subject

COUNTED = ("fragile", "robust", "antifragile", "undecided")
_BETTER: dict[str, Better] = {"fragile": "lower", "robust": "higher"}


def examine(
    subject: Subject,
    config: FilteringConfig | None = None,
    *,
    progress: Progress | None = None,
    directory: Path | None = None,
) -> Result:
    """`analyse` as part of an audit.

    A regression network without an epsilon is examined on clean data alone, which the result says.

    Args:
        subject: model with data.
        config: settings; defaults when None.
        progress: called as progress(done, total, text).
        directory: where the sweep keeps what is finished; None for memory.

    Returns:
        Result ``filtering`` with tables ``units``, ``scores`` and ``gains``.

    Raises:
        NumericalError: for NaN, or where no performance is left to compare with.
        SubjectError: for data that do not fit the model.
        UsageError: for settings that do not fit.
    """
    config, notes = fitted(config or FilteringConfig(), subject)
    settled = FilteringConfig(**dict(config))  # all of them set, so that nothing goes back to where it began
    found = analyse(subject, config=settled, directory=directory, progress=progress)
    return report_of(replace(found, notes=(*notes, *found.notes)))


def report_of(found: FilteringResult) -> Result:
    """Tables, figures, findings and headline numbers of a sweep."""
    drawn, arrays = figures(found)
    arrays |= _samples(found)
    tables = {"units": unit_table(found), "scores": score_table(found), "gains": gain_table(found)}
    return Result(
        name="filtering",
        title="Fragile, robust and antifragile weights",
        question="Which layers does the network depend on, on clean and on attacked data, when weights are filtered "
        "away?",
        summary=_summary(found),
        tables=tables,
        arrays=arrays,
        figures=drawn,
        findings=findings(found),
        warnings=(*found.notes, *_warnings(found)),
    )


def _summary(found: FilteringResult) -> dict[str, Quantity]:
    split = "clean" if found.baseline.adversarial is None else "adversarial"
    counts = Counter(found.labels(split).values())
    summary = {
        f"{name}_units": Quantity(
            float(counts[name]), Grade.SAMPLED, "units", f"{name} ({split})", better=_BETTER.get(name)
        )
        for name in COUNTED
    }
    chosen = found.config.epsilon == "auto"  # then the level under attack is the one that was asked for
    for each in ("clean", "adversarial"):
        values = found.baseline.clean if each == "clean" else found.baseline.adversarial
        if values is None:
            continue
        level = float(values.mean(dtype=np.float64))
        better: Better | None = "higher" if found.baseline.higher_is_better else "lower"
        if each == "adversarial" and chosen:
            better = None
        basis = f"performance_by_input_{each}.mean"
        if values.dtype == bool:
            low, high = wilson(level, len(values))
            label = f"{each} accuracy, unfiltered"
            summary[f"{each}_accuracy"] = Quantity(
                level, Grade.SAMPLED, "share", label, low, high, "95 % Wilson", better, basis, 0.95
            )
        else:
            label = f"{each} mean metric, unfiltered"
            summary[f"{each}_performance"] = Quantity(level, Grade.SAMPLED, "", label, better=better, basis=basis)
    if found.epsilon is not None:
        label = f"epsilon of {found.config.attack}"
        better = "higher" if chosen else None
        summary["epsilon"] = Quantity(found.epsilon, Grade.EXACT, "units of the data", label, better=better)
        if found.bounds is not None:
            share = found.epsilon / (found.bounds[1] - found.bounds[0])
            summary["epsilon_of_range"] = Quantity(
                share, Grade.EXACT, "share", f"{label} over the legal range", better=better
            )
    return summary


def _samples(found: FilteringResult) -> dict[str, np.ndarray]:
    """Performance of the unfiltered network on every sample: right or wrong, or the metric."""
    both = {"clean": found.baseline.clean, "adversarial": found.baseline.adversarial}
    return {f"performance_by_input_{split}": values for split, values in both.items() if values is not None}


def _warnings(found: FilteringResult) -> tuple[str, ...]:
    every = [warning for scores in found.scores.values() for warning in scores.warnings]
    return tuple(dict.fromkeys(every))
