"""How norms are displayed: each as a small `Result`."""

from __future__ import annotations

import math

from assay.grade import Grade
from assay.norms.golub_kahan import LargestSingular
from assay.norms.result import OperatorNorm
from assay.norms.table import LayerNorm, LayerNorms
from assay.results import Column, Quantity, Result, result_of
from assay.results.build import BARS, band, bars, count, line, lines, per_input, rows_of, share, table


@result_of.register
def _(shown: OperatorNorm, rows: int | None) -> Result:
    named = [
        ("at least", shown.lower, shown.lower_grade, ""),
        ("best estimate", shown.value, shown.grade, shown.method),
        ("hardly above", shown.probable, shown.probable_grade, "probability 1e-6 over the seed"),
        ("at most", shown.upper, shown.upper_grade, shown.upper_method),
    ]
    named += [
        (f"by {name}", value, Grade.BOUND, "an upper bound without margin") for name, value in shown.bounds.items()
    ]
    columns = [
        (Column("what", "what"), [name for name, *_ in named]),
        (Column("value", "value"), [value for _, value, *_ in named]),
        (Column("grade", "grade"), [grade.label for _, _, grade, _ in named]),
        (Column("how", "how"), [how for *_, how in named]),
    ]
    drawn = [(name, value) for name, value, *_ in named if math.isfinite(value)]
    return Result(
        "norm",
        f"Operator norm ({shown.norm})",
        "How much can this layer lengthen a change?",
        {
            "value": Quantity(shown.value, shown.grade, "", "norm", shown.lower, shown.upper, "guaranteed"),
            "upper": Quantity(shown.upper, Grade.BOUND, "", "guaranteed bound"),
        },
        {"values": table("values", "What is known", columns, rows)},
        figures=(
            bars(
                "What is known about the norm",
                "The norm lies between the first bar and the guaranteed ones.",
                "norm",
                [name for name, _ in drawn],
                {"norm": [value for _, value in drawn]},
            ),
        ),
        warnings=shown.notes,
    )


@result_of.register
def _(shown: LargestSingular, rows: int | None) -> Result:
    columns = [
        rows_of(len(shown.value)),
        (Column("value", "largest singular value", "", Grade.STATISTICAL, "Converges from below."), shown.value),
        (Column("upper", "hardly above", "", Grade.STATISTICAL, "Probability 1e-6 over the seed."), shown.upper()),
        (Column("residual", "relative residual", "", Grade.EXACT), shown.residual),
        (Column("iterations", "steps"), shown.iterations),
        (Column("exhausted", "exact up to rounding"), shown.exhausted),
    ]
    return Result(
        "singular",
        "Largest singular values",
        "How much can each map lengthen a vector?",
        {
            "maps": count(len(shown.value), "maps"),
            "value": band(shown.value, "largest singular value", Grade.STATISTICAL, over="maps"),
            "exhausted": share(shown.exhausted, "exact up to rounding"),
        },
        {"inputs": table("inputs", "Maps", columns, rows)},
        figures=(
            per_input("Largest singular values", "One per map.", "largest singular value", {"value": shown.value}),
        ),
    )


@result_of.register
def _(shown: LayerNorm, rows: int | None) -> Result:
    return _of_layers([shown], rows)


@result_of.register
def _(shown: LayerNorms, rows: int | None) -> Result:
    return _of_layers(shown, rows)


def _of_layers(found: list[LayerNorm], rows: int | None) -> Result:
    columns = [
        (Column("node", "node", node=True), [row.node for row in found]),
        (Column("place", "place"), [row.place for row in found]),
        (Column("value", "norm"), [row.value for row in found]),
        (Column("grade", "grade"), [row.grade.label for row in found]),
        (
            Column("upper", "guaranteed bound", "", Grade.BOUND),
            [row.upper if math.isfinite(row.upper) else None for row in found],
        ),
        (Column("method", "method"), [row.error or row.method for row in found]),
    ]
    values, uppers = [row.value for row in found], [row.upper for row in found]
    if len(found) <= BARS:
        series = {"best estimate": values, "guaranteed bound": uppers}
        figure = bars("Norms of layers", "2-norms.", "norm", [row.place for row in found], series)
    else:
        both = [line("best estimate", values), line("guaranteed bound", uppers, "dashed")]
        figure = lines(
            "Norms of layers", "2-norms, in the order of the graph.", range(len(found)), both, "layer", "norm"
        )
    summary = {"layers": count(len(found), "layers")}
    if len(found) == 1:
        only = found[0]
        summary = {
            "value": Quantity(only.value, only.grade, "", f"norm of {only.place}", only.lower, only.upper, "guaranteed")
        }
    elif found:
        worst = max(found, key=lambda row: row.value if math.isfinite(row.value) else -1)
        summary["largest"] = Quantity(worst.value, worst.grade, "", f"largest norm, of {worst.place}")
    tables = {"layers": table("layers", "Layers", columns, rows)}
    return Result(
        "norms", "Norms of layers", "How much can each layer lengthen a change?", summary, tables, figures=(figure,)
    )
