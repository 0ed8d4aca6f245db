"""How curvatures are displayed: each as a small `Result`."""

from __future__ import annotations

from assay.boundary.shape.plateau import Plateau
from assay.boundary.shape.result import Curvature, SecondOrderCheck
from assay.grade import Grade
from assay.results import Column, Quantity, Result, result_of
from assay.results.build import PANELS, band, count, line, lines, maps, per_input, rows_of, share, table

_SIGN = "Positive: the boundary bends towards the input. In 1 / units of the data."


@result_of.register
def _(shown: Curvature, rows: int | None) -> Result:
    columns = [
        rows_of(len(shown)),
        (Column("label", "decision"), shown.label),
        (Column("rival", "class behind the boundary"), shown.rival),
        (Column("distance", "distance", "", Grade.SAMPLED), shown.distance),
        (Column("mean", "mean curvature", "", shown.grade, _SIGN), shown.mean),
        (Column("error", "standard error", "", Grade.SAMPLED), shown.mean_error),
    ]
    figures = [per_input("Mean curvature", _SIGN, "mean curvature", {"mean": shown.mean})]
    arrays = {}
    found = shown.principal.shape[1]
    if found:
        columns += [
            (Column("largest", "largest", "", shown.grade, "Principal curvature."), shown.principal[:, 0]),
            (Column("smallest", "smallest", "", shown.grade, "Principal curvature."), shown.principal[:, -1]),
        ]
        caption = f"Sorted; {'all of them' if shown.complete else f'{found} of {shown.dimension}, from both ends'}."
        drawn = [line(f"input {row}", shown.principal[row]) for row in range(min(len(shown), 2 * PANELS))]
        figures.append(lines("Principal curvatures", caption, range(found), drawn, "rank", "curvature"))
    if found and shown.directions.shape[1]:
        ends = {"most positive": shown.directions[:, 0], "most negative": shown.directions[:, -1]}
        pictures, arrays = maps("Directions of largest curvature", "Unit tangent directions.", ends)
        figures.append(pictures)
    columns.append((Column("status", "status"), list(shown.status)))
    summary = {
        "points": count(len(shown), "points"),
        "principal": count(found, "principal curvatures"),
        "mean": band(shown.mean, "mean curvature", shown.grade, over="points"),
    }
    if shown.scale is not None:
        summary["scale"] = band(shown.scale, "scale", Grade.EXACT, over="points")
    return Result(
        "curvature",
        f"Curvature of the boundary (by {shown.estimator})",
        "How does the decision boundary bend near these inputs?",
        summary,
        {"inputs": table("inputs", "Inputs", columns, rows)},
        arrays,
        tuple(figures),
        warnings=shown.notes,
    )


@result_of.register
def _(shown: SecondOrderCheck, rows: int | None) -> Result:
    columns = [
        rows_of(len(shown.value)),
        (Column("value", "distance times largest curvature", "", Grade.SAMPLED), shown.value),
        (Column("violated", "above 1"), shown.violated),
    ]
    caption = "At most 1 at a point that is nearest to the input."
    return Result(
        "second_order",
        "Second-order check",
        "Can these points be the nearest ones?",
        {
            "points": count(len(shown.value), "points"),
            "violated": share(shown.violated, "cannot be nearest", Grade.SAMPLED),
            "value": band(shown.value, "distance times largest curvature", Grade.SAMPLED, over="points"),
        },
        {"inputs": table("inputs", "Inputs", columns, rows)},
        figures=(per_input("Distance times largest curvature", caption, "R times kappa", {"check": shown.value}),),
    )


@result_of.register
def _(shown: Plateau, rows: int | None) -> Result:
    columns = [
        (Column("scale", "scale", "", Grade.EXACT), shown.scales),
        (Column("mean", "mean curvature", "", Grade.SAMPLED, "Over the points."), shown.mean),
        (Column("spread", "spread", "", Grade.SAMPLED, "Standard deviation over the points."), shown.spread),
    ]
    summary = {"scales": count(len(shown.scales), "scales"), "points": count(shown.estimates.shape[1], "points")}
    if shown.found:
        summary["value"] = Quantity(shown.value, Grade.SAMPLED, "", "mean curvature on the plateau")
        summary["low"] = Quantity(shown.low, Grade.SAMPLED, "", "from scale")
        summary["high"] = Quantity(shown.high, Grade.SAMPLED, "", "to scale")
    else:
        summary["value"] = Quantity(float(shown.mean[-1]), Grade.SAMPLED, "", "no plateau; at the largest scale")
    return Result(
        "plateau",
        f"Mean curvature by scale: {shown.status}",
        "Over which scales is there one curvature?",
        summary,
        {"scales": table("scales", "Scales", columns, rows)},
        figures=(
            lines(
                "Mean curvature by scale",
                "Average over the points, with one standard deviation. A flat stretch is a curvature that means "
                "something.",
                shown.scales,
                [line("mean curvature", shown.mean, low=shown.mean - shown.spread, high=shown.mean + shown.spread)],
                "scale",
                "mean curvature",
                x_log=True,
            ),
        ),
    )
