"""The moments analysis: what Gaussian input noise does to the outputs, in one Result."""

from __future__ import annotations

from assay.grade import Grade
from assay.moments.config import MomentsConfig
from assay.moments.evidence import Evidence, Progress, collect
from assay.moments.figures import figures
from assay.moments.findings import findings
from assay.moments.tables import agreement, input_table, layer_table, level_table, output_table
from assay.results import Quantity, Result
from assay.subject import Subject


def analyse(subject: Subject, config: MomentsConfig | None = None, *, progress: Progress | None = None) -> Result:
    """Output moments under Gaussian noise, decision flips, and the check of both against sampling.

    Works without a graph too: then moments are linearised. Cost for N inputs and S levels: N S propagations (see
    `propagate`) and N S `check` forward passes.

    Args:
        subject: model with data.
        config: settings; defaults when None.
        progress: called as progress(done, total, text) while working.

    Returns:
        Result ``moments`` with tables ``levels``, ``outputs``, ``inputs`` and, where the model was captured,
        ``layers``.

    Raises:
        SubjectError: without data.
        UnsupportedOperator: with ``fallback="error"``.
    """
    evidence = collect(subject, config or MomentsConfig(), progress)
    tables = {"levels": level_table(evidence), "outputs": output_table(evidence)}
    if evidence.levels[-1].layers:
        tables["layers"] = layer_table(evidence)
    tables["inputs"] = input_table(evidence)
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
            )
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
        )
    return summary
