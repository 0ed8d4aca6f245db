"""The moments analysis: what Gaussian input noise does to the outputs, in one Result."""

from __future__ import annotations

import math

from assay.grade import Grade
from assay.moments.config import MomentsConfig
from assay.moments.decision_tables import attack_table, standing_table
from assay.moments.decisions import Decisions
from assay.moments.evidence import Evidence, collect
from assay.moments.figures import figures
from assay.moments.findings import findings
from assay.moments.tables import agreement, input_table, layer_table, level_table, output_table
from assay.progress import Progress
from assay.results import Quantity, Result
from assay.subject import Subject


def analyse(subject: Subject, config: MomentsConfig | None = None, *, progress: Progress | None = None) -> Result:
    """Output moments under Gaussian noise, decision flips, and the check of both against sampling.

    Works without a graph too: then moments are linearised. Cost for N inputs and S levels: N S propagations (see
    `propagate`) and N S `check` forward passes. On small models about 16 N low-rank propagations find the noise that
    decisions stand, and `attack_inputs` times `attack_steps` differentiated ones the attack; on large ones the former
    is interpolated and the latter left out, by a fixed budget of activations.

    Args:
        subject: model with data.
        config: settings; defaults when None.
        progress: called as progress(done, total, text) while working.

    Returns:
        Result ``moments`` with tables ``levels``, ``outputs``, ``inputs``, where the model was captured ``layers``,
        and for classifiers ``standing`` and ``attack``.

    Raises:
        SubjectError: without data.
        UnsupportedOperator: with ``fallback="error"``.
    """
    evidence = collect(subject, config or MomentsConfig(), progress)
    tables = {"levels": level_table(evidence), "outputs": output_table(evidence)}
    if evidence.levels[-1].layers:
        tables["layers"] = layer_table(evidence)
    tables["inputs"] = input_table(evidence)
    if evidence.decisions is not None:
        tables["standing"] = standing_table(evidence, evidence.decisions)
        attacked = attack_table(evidence.decisions)
        if attacked is not None:
            tables["attack"] = attacked
    drawn, arrays = figures(evidence)
    return Result(
        name="moments",
        title="Noise in, mean and covariance out",
        question="With Gaussian noise on the input, how do the outputs move, and how often does the decision flip?",
        summary=_summary(evidence),
        tables=tables,
        arrays=arrays,
        figures=drawn,
        findings=findings(evidence),
        warnings=evidence.warnings,
    )


def _summary(evidence: Evidence) -> dict[str, Quantity]:
    level = evidence.levels[-1]
    at = f"at noise {level.share:g}"
    summary: dict[str, Quantity] = {}
    if evidence.classifier:
        low, high = (float(level.flip.double().quantile(q)) for q in (0.05, 0.95))
        summary["flip_probability"] = Quantity(
            float(level.flip.mean()),
            level.grade,
            "",
            f"mean P(flip) {at}",
            low,
            high,
            "5th to 95th percentile over inputs",
            better="lower",
            basis=f"inputs.flip_{level.share:g}.mean",
        )
        if level.sampled_flip is not None:
            value = float(level.sampled_flip.mean())
            error = 1.96 * (value * (1 - value) / (evidence.draws * len(evidence.rows))) ** 0.5
            summary["measured_flips"] = Quantity(
                value,
                Grade.SAMPLED,
                "",
                f"measured flips {at}",
                max(0.0, value - error),
                value + error,
                "95 %, over draws",
                better="lower",
                basis="inputs.measured.mean",
            )
    if evidence.decisions is not None:
        summary |= _decisions(evidence, evidence.decisions)
    std = level.variance.clamp(min=0).sqrt()
    summary["output_deviation"] = Quantity(
        float(std.mean()),
        level.grade,
        "output",
        f"mean output deviation {at}",
        float(std.double().quantile(0.05)),
        float(std.double().quantile(0.95)),
        "5th to 95th percentile over inputs and outputs",
    )
    found = agreement(level, evidence.draws)
    if found is not None:
        summary["mean_error"] = Quantity(
            found.error,
            Grade.SAMPLED,
            "output sd",
            f"error of the predicted mean {at} (sampling noise alone: {found.floor:.2g})",
        )
        summary["variance_ratio"] = Quantity(
            found.ratio,
            Grade.SAMPLED,
            "",
            f"predicted over sampled variance {at}",
            found.ratio_low if found.ratio_low == found.ratio_low else None,
            found.ratio_high if found.ratio_high == found.ratio_high else None,
            "95 %, over inputs",
            confidence=0.95,
        )
    return summary


def _decisions(evidence: Evidence, decisions: Decisions) -> dict[str, Quantity]:
    level, standing = evidence.levels[-1], decisions.standing
    expected = decisions.expected[-1].double()
    summary = {
        "confidence": Quantity(
            float(expected.mean()),
            level.grade,
            "",
            f"mean softmax of the decision at noise {level.share:g}",
            float(expected.quantile(0.05)),
            float(expected.quantile(0.95)),
            "5th to 95th percentile over inputs",
            basis="standing.expected.mean",
        )
    }
    column = len(standing.flip) // 2
    middle = float(standing.share[:, column].sort().values[(len(standing.share) - 1) // 2])
    if math.isfinite(middle):
        summary["noise_stood"] = Quantity(
            middle,
            standing.grade,
            "of range",
            f"noise for P(flip) = {standing.flip[column]:.3g} (median)",
            better="higher",
            basis=f"standing.noise_{standing.flip[column]:g}.median",
        )
    if decisions.attack is not None:
        rate = decisions.attack.rate("attack")
        summary["fooling_rate"] = Quantity(
            rate.rate,
            Grade.SAMPLED,
            "",
            f"fooling rate of chosen noise, box {decisions.attack_bound:g}",
            rate.low,
            rate.high,
            "95 % Wilson, over draws",
            better="lower",
        )
    return summary
