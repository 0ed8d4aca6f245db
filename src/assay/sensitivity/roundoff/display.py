"""How round-off errors are displayed: as a small `Result`."""

from __future__ import annotations

import torch

from assay.grade import Grade
from assay.results import Column, Result, result_of
from assay.results.build import band, count, line, lines, per_input, rows_of, table
from assay.sensitivity.roundoff.estimate import RoundoffError


@result_of.register
def _(shown: RoundoffError, rows: int | None) -> Result:
    worst = shown.error.detach().double().cpu().max(1)
    what = "outputs" if shown.rivals is None else "differences to rivals"
    columns = [
        rows_of(len(worst.values)),
        (Column("error", "largest error", "", shown.grade, f"Over the {what}."), worst.values),
        (Column("quantity", "of quantity"), worst.indices),
    ]
    series = {"error": worst.values}
    if shown.rivals is not None:
        margins = shown.margins.detach().double().cpu().min(1).values
        columns.append((Column("margin", "smallest margin", "", Grade.EXACT), margins))
        series["smallest margin"] = margins
    tables = {"inputs": table("inputs", "Inputs", columns, rows)}
    figures = [per_input("Round-off error", f"Largest over the {what}, in units of the output.", "error", series)]
    if shown.contributions is not None:
        each = shown.by_layer.detach().double().cpu().median(0).values
        layers = [
            (Column("node", "node", node=True), list(shown.layers)),
            (Column("adds", "adds", "", shown.grade, "To the worst quantity; median over inputs."), each),
        ]
        tables["layers"] = table("layers", "Where it comes from", layers, rows)
        drawn = [line("adds", torch.where(each > 0, each, torch.nan))]
        caption = "What each layer adds to the worst quantity; median over inputs."
        figures.append(lines("Where it comes from", caption, range(len(each)), drawn, "layer", "error", y_log=True))
    return Result(
        "roundoff",
        f"Round-off error (estimator {shown.estimator})",
        "How far can rounding move the outputs?",
        {
            "inputs": count(len(worst.values), "inputs"),
            "quantities": count(shown.error.shape[1], what),
            "error": band(worst.values, "largest error", shown.grade),
        },
        tables,
        figures=tuple(figures),
    )
