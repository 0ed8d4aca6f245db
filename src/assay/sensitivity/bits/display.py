"""How bit plans and minimal bits are displayed: each as a small `Result`."""

from __future__ import annotations

import math

import torch

from assay.grade import Grade
from assay.results import Column, Figure, Quantity, Result, result_of
from assay.results.build import BARS, band, bars, count, line, lines, per_input, rows_of, table
from assay.sensitivity.bits.minimal import MinimalBits
from assay.sensitivity.bits.plan import Plan
from assay.sensitivity.bits.verify import Verified


@result_of.register
def _(shown: Plan, rows: int | None) -> Result:
    names = list(shown.bits)
    layers = [
        (Column("layer", "layer"), names),
        (Column("bits", "bits per weight", "", Grade.EXACT), [shown.bits[name] for name in names]),
        (Column("format", "format"), [shown.formats[name].name for name in names]),
    ]
    runs = {"the plan": shown.verified, f"{shown.uniform_format} everywhere": shown.uniform, "other inputs": shown.held}
    real = {name: run for name, run in runs.items() if run is not None}
    measured = [
        (Column("run", "run"), list(real)),
        (Column("agreement", "same decision", "share", Grade.SAMPLED), [run.agreement for run in real.values()]),
        (Column("error", "relative error", "", Grade.SAMPLED), [run.relative_error for run in real.values()]),
        (Column("accuracy", "accuracy", "share", Grade.SAMPLED), [run.accuracy for run in real.values()]),
        (Column("samples", "samples"), [run.samples for run in real.values()]),
    ]
    summary = {
        "layers": count(len(names), "layers"),
        "average": Quantity(shown.average_bits, Grade.EXACT, "", "bits per weight"),
        "error": Quantity(shown.verified.relative_error, Grade.SAMPLED, "", "relative error"),
    }
    if shown.verified.agreement is not None:
        summary["agreement"] = Quantity(shown.verified.agreement, Grade.SAMPLED, "share", "same decision")
    unit, bytes_per = ("MB", 1e6) if shown.size >= 1e6 else ("kB", 1e3)
    summary["size"] = Quantity(shown.size / bytes_per, Grade.EXACT, unit, "weights")
    values = [shown.bits[name] for name in names]
    caption = f"Storage bits per weight, chosen by {shown.method}."
    if len(names) <= 2 * BARS:
        figures = [bars("Bits of every layer", caption, "bits per weight", names, {"bits": values})]
    else:
        drawn = [line("bits", values, "points")]
        figures = [lines("Bits of every layer", caption, range(len(names)), drawn, "layer", "bits per weight")]
    if rows != 0:
        figures += _pareto(shown)
    return Result(
        "plan",
        f"Bit widths ({shown.kind})",
        "How few bits do the weights need?",
        summary,
        {
            "layers": table("layers", "Layers", layers, rows),
            "runs": table("runs", "What real runs say", measured, rows),
        },
        figures=tuple(figures),
        warnings=shown.notes,
    )


def _pareto(shown: Plan) -> list[Figure]:
    points = [point for point in shown.pareto if math.isfinite(point.predicted) and point.predicted > 0]
    if len(points) < 2:
        return []
    caption = "What other budgets would give; the prediction is first order."
    drawn = [line("predicted", [point.predicted for point in points])]
    cost = [point.cost for point in points]
    return [
        lines("Predicted error by budget", caption, cost, drawn, "cost, in the unit of the budget", "error", y_log=True)
    ]


@result_of.register
def _(shown: Verified, rows: int | None) -> Result:
    summary = {
        "samples": count(shown.samples, "samples"),
        "relative_error": Quantity(shown.relative_error, shown.grade, "", "relative error"),
    }
    shares = {"same decision": shown.agreement, "accuracy": shown.accuracy, "exact accuracy": shown.exact_accuracy}
    there = {name: value for name, value in shares.items() if value is not None}
    summary |= {name: Quantity(value, shown.grade, "share", name) for name, value in there.items()}
    drawn = there or {"relative error": shown.relative_error}
    columns = [(Column("quantity"), [*summary]), (Column("value"), [item.value for item in summary.values()])]
    return Result(
        "verified",
        "A real run",
        "What does the quantised network really do?",
        summary,
        {"run": table("run", "The run", columns, rows)},
        figures=(bars("A real run", "Measured on samples.", "", list(drawn), {"": list(drawn.values())}),),
    )


@result_of.register
def _(shown: MinimalBits, rows: int | None) -> Result:
    columns = [
        rows_of(len(shown.bits)),
        (Column("bits", "bits needed", "", shown.grade), shown.bits),
        (Column("margin", "smallest margin", "", Grade.EXACT), shown.margins.min(1).values),
    ]
    if shown.true_bits is not None:
        columns.append((Column("true", "measured", "", Grade.EXACT), shown.true_bits))
    series = {"predicted": shown.bits} | ({} if shown.true_bits is None else {"measured": shown.true_bits})
    figures = [per_input("Significand bits that keep decisions", "One value per input.", "bits", series)]
    if shown.flip_rate:
        t = sorted(shown.flip_rate)
        drawn = [line("predicted", [shown.flip_rate[bits] for bits in t])]
        if shown.true_flip_rate:
            drawn.append(line("measured", [shown.true_flip_rate.get(bits, math.nan) for bits in t], "points"))
        caption = "Expected share of inputs whose decision changes."
        figures.append(lines("Changed decisions by bits", caption, t, drawn, "significand bits", "share"))
    summary = {
        "inputs": count(len(shown.bits), "inputs"),
        "bits": band(torch.as_tensor(shown.bits), "bits needed", shown.grade),
        "network": Quantity(float(shown.network), shown.grade, "", "bits for all inputs"),
    }
    if shown.under_predicted is not None:
        summary["under"] = Quantity(shown.under_predicted, Grade.SAMPLED, "share", "predicted too few")
    return Result(
        "minimal_bits",
        f"Minimal bits ({shown.rule})",
        "How many significand bits keep the decisions?",
        summary,
        {"inputs": table("inputs", "Inputs", columns, rows)},
        figures=tuple(figures),
    )
