"""How detections, evaluations and evasions are displayed: each as a small `Result`."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from assay.boundary.detection.evaluation import Evaluation, Evaluations, Share
from assay.boundary.detection.evasion import Evasion
from assay.boundary.detection.result import Detection
from assay.grade import Grade
from assay.results import Column, Quantity, Result, result_of
from assay.results.build import BARS, SHOWN_POINTS, band, bars, count, line, lines, per_input, rows_of, share, table

_WILSON = "95 % Wilson"


@result_of.register
def _(shown: Detection, rows: int | None) -> Result:
    columns = [
        rows_of(len(shown)),
        (Column("status", "status"), list(shown.status)),
        (Column("score", "score", "", Grade.SAMPLED, "Higher is more suspicious."), shown.score),
        (Column("error", "standard error", "", Grade.SAMPLED), shown.error),
        (Column("p_value", "p-value", "", Grade.STATISTICAL, "Conformal, against clean samples."), shown.p_value),
        (Column("label", "decision"), shown.label),
        (Column("recovered", "before, if tampered with", "", None, "-1 where it cannot be told."), shown.recovered),
        (Column("close", "could turn", "", None, "Within two standard errors of the threshold."), shown.close),
    ]
    chosen = torch.linspace(0, len(shown) - 1, min(len(shown), SHOWN_POINTS), dtype=torch.float64).round().long()
    score, error = shown.score[chosen], 2 * shown.error[chosen]
    low, high = (None, None) if bool(error.isnan().all()) else (score - error, score + error)
    drawn = [
        line(shown.statistic, score, "points", low, high),
        line("threshold", [shown.threshold] * len(chosen), "dashed"),
    ]
    statuses = [shown.status.count(name) for name in ("clean", "flagged", "inconclusive", "degenerate")]
    return Result(
        "detection",
        f"Detection by {shown.statistic}",
        "Were these samples tampered with, and what were they before?",
        {
            "samples": count(len(shown), "samples"),
            "flagged": share(shown.flagged, "flagged", Grade.SAMPLED),
            "threshold": Quantity(shown.threshold, Grade.SAMPLED, "", "threshold"),
            "score": band(shown.score, "score", Grade.SAMPLED, over="samples"),
        },
        {"samples": table("samples", "Samples", columns, rows)},
        figures=(
            lines(
                "Scores",
                "Samples above the threshold are flagged; bars reach two standard errors to both sides.",
                chosen,
                drawn,
                "sample",
                "score",
            ),
            bars(
                "Verdicts",
                "Clean means not flagged, which is no proof.",
                "samples",
                ["clean", "flagged", "inconclusive", "degenerate"],
                {"": statuses},
            ),
        ),
        warnings=(shown.caveat,) if shown.caveat else (),
    )


def _quantity(found: Share, label: str) -> Quantity:
    return Quantity(found.value, Grade.SAMPLED, "share", label, found.low, found.high, _WILSON)


@result_of.register
def _(shown: Evasion, rows: int | None) -> Result:
    columns = [
        rows_of(len(shown.score)),
        (Column("misclassified", "decided otherwise"), shown.misclassified),
        (Column("score", "score", "", Grade.SAMPLED), shown.score),
        (Column("flagged", "flagged"), shown.flagged),
        (Column("evaded", "evaded"), shown.evaded),
    ]
    shares = {
        "knows of the detector": shown.success,
        "does not": shown.oblivious,
        "does not: misclassified at all": shown.oblivious_misclassified,
    }
    return Result(
        "evasion",
        "Evasion of the detector",
        "Does an attacker who knows the detector get past it?",
        {
            "samples": count(len(shown.score), "samples"),
            "success": _quantity(shown.success, "evaded by one who knows"),
            "oblivious": _quantity(shown.oblivious, "evaded by one who does not"),
            "epsilon": Quantity(shown.epsilon, Grade.EXACT, "", f"size of the change ({shown.norm})"),
        },
        {"samples": table("samples", "Samples", columns, rows)},
        figures=(
            bars(
                "Attackers with and without knowledge",
                "Share misclassified and not flagged, with 95 % Wilson intervals.",
                "share",
                list(shares),
                {"share": [each.value for each in shares.values()]},
                low=[each.low for each in shares.values()],
                high=[each.high for each in shares.values()],
            ),
            per_input("Scores of the attacked samples", "Higher is more suspicious.", "score", {"score": shown.score}),
        ),
    )


@result_of.register
def _(shown: Evaluation, rows: int | None) -> Result:
    return _evaluated([shown], rows)


@result_of.register
def _(shown: Evaluations, rows: int | None) -> Result:
    return _evaluated(shown, rows)


def _evaluated(found: Sequence[Evaluation], rows: int | None) -> Result:
    areas = [row.area for row in found]
    columns = [
        (Column("statistic", "statistic"), [row.statistic for row in found]),
        (Column("set", "set"), [row.set for row in found]),
        (Column("attack", "attack"), [row.attack for row in found]),
        (Column("samples", "samples"), [row.samples for row in found]),
        (Column("area", "area under the curve", "", Grade.SAMPLED), [area and area.value for area in areas]),
        (Column("low", "from", "", Grade.SAMPLED), [area and area.low for area in areas]),
        (Column("high", "to", "", Grade.SAMPLED), [area and area.high for area in areas]),
        (Column("flagged", "flagged", "share", Grade.SAMPLED), [row.flagged.value for row in found]),
        (
            Column("recovered", "class recovered", "share", Grade.SAMPLED),
            [row.recovered and row.recovered.value for row in found],
        ),
    ]
    measured = [row for row in found if row.area is not None]
    best = max(measured, key=lambda row: row.area.value if row.area else 0.0, default=None)
    summary = {"rows": count(len(found), "statistics and sets")}
    if len(found) == 1:
        summary["flagged"] = _quantity(found[0].flagged, f"flagged of {found[0].set}")
    if best is not None and best.area is not None:
        area, what = best.area, f"{best.statistic} on {best.set}"
        summary["best"] = Quantity(area.value, Grade.SAMPLED, "", f"area, {what}", area.low, area.high, "95 %")
    drawn = (measured or list(found))[:BARS]
    names = [f"{row.statistic}, {row.set}" for row in drawn]
    if measured:
        ends = [(row.area.value, row.area.low, row.area.high) for row in drawn if row.area is not None]
        caption = "1: every attacked sample scores above every clean one; 0.5: chance. 95 % intervals."
        figure = bars(
            "Area under the ROC curve",
            caption,
            "area",
            names,
            {"area": [value for value, _, _ in ends]},
            low=[low for _, low, _ in ends],
            high=[high for _, _, high in ends],
        )
    else:
        flagged = [row.flagged for row in drawn]
        figure = bars(
            "Flagged",
            "With 95 % Wilson intervals.",
            "share",
            names,
            {"flagged": [each.value for each in flagged]},
            low=[each.low for each in flagged],
            high=[each.high for each in flagged],
        )
    return Result(
        "evaluation",
        "Evaluation of a detector",
        "How well does the detector tell tampered samples from clean ones?",
        summary,
        {"rows": table("rows", "Statistics and sets", columns, rows)},
        figures=(figure,),
    )
