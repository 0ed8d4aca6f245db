"""The sensitivity analysis: condition numbers of real inputs, checked against noise and attack, in one Result."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from assay.errors import CaptureError, NumericalError, SubjectError, UnsupportedOperator, UsageError
from assay.grade import Grade
from assay.intervals import wilson
from assay.progress import Progress
from assay.results import Better, Quantity, Result
from assay.results.section import joined
from assay.sensitivity.config import SensitivityConfig
from assay.sensitivity.effort import fitted
from assay.sensitivity.evidence import Evidence, collect, percentiles
from assay.sensitivity.figures import figures
from assay.sensitivity.findings import findings
from assay.sensitivity.layers import layer_report
from assay.sensitivity.sections import SECTIONS, Context, Section
from assay.sensitivity.tables import class_table, input_table, largest_excess, size_table
from assay.subject import Subject

_LAYER_INPUTS = 16
"""Inputs over which the table of layers is taken."""
BAND = "5th to 95th percentile over inputs"


def analyse(subject: Subject, config: SensitivityConfig | None = None, *, progress: Progress | None = None) -> Result:
    """How strongly small input changes reach the output: predicted by condition numbers, measured by noise and attack.

    Needs `Subject.probe` only, so models that cannot be captured are analysed too. Cost for N inputs, S sizes and R
    random directions: N K VJPs up to 64 outputs (else about N (2 k + 64) JVPs and VJPs for k Lanczos steps), N S R
    forward passes, and N S (2 + starts) x steps passes forward and backward. Memory: the passes are cut by
    `config.batch_size`.

    Args:
        subject: model with data.
        config: settings; defaults when None.
        progress: called as progress(done, total, text) while working.

    Returns:
        Result ``sensitivity`` with tables ``inputs``, ``sizes``, for classifiers ``classes``, and ``layers`` where the
        model was captured.

    Raises:
        SubjectError: without data, or for a model or data that cannot be used.
        NumericalError: where derivatives are not finite, or every input or output is zero.
    """
    fitting, notes = fitted(config or SensitivityConfig(), subject)
    steps = _Steps(progress, len(fitting.sections))
    evidence = collect(subject, fitting, steps.first)
    classes = class_table(evidence)
    tables = {"inputs": input_table(evidence), "sizes": size_table(evidence)}
    if classes is not None:
        tables["classes"] = classes
    drawn, arrays = figures(evidence, classes)
    found = findings(evidence)
    by_layer = layer_report(subject, evidence.inputs[:_LAYER_INPUTS])
    if by_layer is not None:
        tables["layers"] = by_layer[0]
        found = (*found, by_layer[1])
    own = Section(tables, drawn, found, _summary(evidence), (*evidence.warnings, *notes), arrays)
    return joined(
        "sensitivity",
        "Sensitivity to small input changes",
        "If an input changes by a small share, by what share can the output change, and how much precision is lost?",
        [own, *_sections(subject, fitting, evidence, steps)],
    )


def _sections(subject: Subject, config: SensitivityConfig, evidence: Evidence, steps: _Steps) -> Iterator[Section]:
    """The other parts, where the model was captured; one that cannot be done says so and stops no other."""
    if not config.sections:
        return
    try:
        subject.graph  # noqa: B018  (captured or not is the question)
    except CaptureError as error:
        yield Section(warnings=(f"Norms, bounds, parameters, round-off and bits need a captured model: {error.what}",))
        return
    attacked = evidence.attack.amplification[:, 0]
    context = Context(subject, config, evidence.inputs, attacked)
    for done, name in enumerate(config.sections):
        steps.section(done, name)
        try:
            yield SECTIONS[name](context)
        except (NumericalError, SubjectError, UnsupportedOperator, UsageError) as error:
            yield Section(warnings=(f"The part on {name} was left out: {error.what}",))
    steps.section(len(config.sections), "bits")


class _Steps:
    """Progress over the measuring of inputs and then the sections, each of which counts as a tenth of that."""

    def __init__(self, progress: Progress | None, sections: int) -> None:
        self._progress, self._sections = progress, sections
        self._total, self._each = 0, 0

    def first(self, done: int, total: int, text: str) -> None:
        """While inputs are measured."""
        self._total, self._each = total, max(1, total // 10)
        self._report(done, text)

    def section(self, done: int, name: str) -> None:
        """When so many sections are done."""
        self._report(self._total + done * self._each, name)

    def _report(self, done: int, text: str) -> None:
        if self._progress is not None:
            self._progress(done, self._total + self._sections * self._each, text)


def _summary(evidence: Evidence) -> dict[str, Quantity]:
    size = evidence.config.relative_sizes[0]
    largest = evidence.config.relative_sizes[-1]
    share = float(evidence.agreeing[:, 0].mean())
    low, high = wilson(share, len(evidence.kappa))
    summary = {
        "condition_number": _over_inputs(
            evidence.kappa,
            Grade.LINEARISED,
            "condition number κ, worst direction (median)",
            better="lower",
            basis="inputs.condition_number.median",
        ),
        "condition_number_rms": _over_inputs(
            evidence.kappa_rms,
            Grade.LINEARISED,
            "condition number κ rms, random direction (median)",
            better="lower",
            basis="inputs.condition_number_rms.median",
        ),
        "largest_condition_number": Quantity(
            float(evidence.kappa.max()),
            Grade.LINEARISED,
            label=f"largest κ: {evidence.name(evidence.most_fragile)}",
            better="lower",
            basis="inputs.condition_number.max",
        ),
        "agreement": Quantity(
            share,
            Grade.SAMPLED,
            "share",
            f"inputs where κ / attack is within ±{evidence.config.agreement:g} of 1 at size {size:g}",
            low,
            high,
            "95 % Wilson",
            confidence=0.95,
        ),
        "predicted_over_attack": _over_inputs(
            evidence.over_attack[:, 0], Grade.SAMPLED, f"κ / measured attack at size {size:g} (median)"
        ),
        "predicted_over_noise": _over_inputs(
            evidence.over_noise[:, 0], Grade.SAMPLED, f"κ rms / measured noise response at size {size:g} (median)"
        ),
        "understatement": _over_inputs(
            evidence.understatement[:, 0], Grade.SAMPLED, f"attack / largest random response at size {size:g} (median)"
        ),
    }
    if evidence.bits_lost.size:
        summary["bits_lost"] = _over_inputs(
            evidence.bits_lost,
            Grade.LINEARISED,
            "bits of relative precision lost, log2 κ (median)",
            "bit",
            better="lower",
            basis="inputs.bits_lost.median",
        )
    excess = largest_excess(evidence, len(evidence.config.relative_sizes) - 1)
    if math.isfinite(excess):
        summary["largest_excess"] = Quantity(excess, Grade.SAMPLED, label=f"largest attack / κ at size {largest:g}")
    return summary


def _over_inputs(
    values: np.ndarray, grade: Grade, label: str, unit: str = "", *, better: Better | None = None, basis: str = ""
) -> Quantity:
    low, middle, high = percentiles(values)
    return Quantity(middle, grade, unit, label, low, high, BAND, better, basis)
