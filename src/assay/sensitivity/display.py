"""How condition numbers, measured responses and ladders are displayed: each as a small `Result`."""

from __future__ import annotations

import math

import torch

from assay.grade import Grade
from assay.results import Column, Figure, Result, result_of
from assay.results.build import BARS, band, bars, count, line, lines, maps, per_input, rows_of, table
from assay.sensitivity.bounds.conditions import ChainConditions
from assay.sensitivity.bounds.rungs import Ladder
from assay.sensitivity.condition import ConditionNumbers
from assay.sensitivity.measured import AdversarialResponse, RandomResponse
from assay.sensitivity.parameters.perturbation import ParameterCondition
from assay.sensitivity.parameters.response import ParameterResponse

_KAPPA = "relative output change per relative input change"


@result_of.register
def _(shown: ConditionNumbers, rows: int | None) -> Result:
    columns = [
        rows_of(len(shown.jacobian_norm)),
        (Column("worst", "condition number", "", shown.grade, f"Largest {_KAPPA}."), shown.worst),
        (Column("jacobian_norm", "Jacobian norm", "", shown.grade), shown.jacobian_norm),
        (Column("upper", "hardly above", "", Grade.STATISTICAL, "Probability 1e-6 over the seed."), shown.upper_norm),
        (Column("input_norm", "norm of the input", "", Grade.EXACT), shown.input_norm),
        (Column("output_norm", "norm of the output", "", Grade.EXACT), shown.output_norm),
    ]
    series = {"worst direction": shown.worst}
    summary = {
        "inputs": count(len(shown.jacobian_norm), "inputs"),
        "worst": band(shown.worst, "condition number", shown.grade),
    }
    if shown.frobenius is not None:
        columns.insert(2, (Column("rms", "in random directions", "", shown.grade), shown.rms))
        series["random directions"] = shown.rms
        summary["rms"] = band(shown.rms, "in random directions", shown.grade)
    figure, arrays = maps(
        "The directions that matter most",
        "Unit changes of the input that move the output most.",
        {"change": shown.right},
    )
    both = per_input("Condition numbers", f"{_KAPPA.capitalize()}; first order.", "condition number", series)
    return Result(
        "condition",
        f"Condition numbers (by {shown.method})",
        f"What is the largest {_KAPPA}, for small changes?",
        summary,
        {"inputs": table("inputs", "Inputs", columns, rows)},
        arrays,
        (both, figure),
    )


@result_of.register
def _(shown: RandomResponse, rows: int | None) -> Result:
    columns = [
        (Column("size", "relative size"), list(shown.sizes)),
        (Column("rms", "root mean square", "", shown.grade, "Median over inputs."), shown.rms.median(0).values),
        (Column("mean", "mean", "", shown.grade, "Median over inputs."), shown.mean.median(0).values),
        (Column("maximum", "largest seen", "", shown.grade, "Median over inputs."), shown.maximum.median(0).values),
    ]
    return Result(
        "random",
        "Response to random changes",
        "How much does a random change of the input amplify?",
        {
            "inputs": count(len(shown.rms), "inputs"),
            "directions": count(shown.directions, "directions"),
            "rms": band(shown.rms[:, 0], f"amplification at {shown.sizes[0]:g}", shown.grade),
        },
        {"sizes": table("sizes", "Sizes", columns, rows)},
        figures=(
            _by_size(shown.sizes, {"root mean square": shown.rms, "largest seen": shown.maximum}, "relative size"),
        ),
    )


@result_of.register
def _(shown: AdversarialResponse, rows: int | None) -> Result:
    columns = [
        (Column("size", "relative size"), list(shown.sizes)),
        (Column("median", "median over inputs", "", shown.grade), shown.amplification.median(0).values),
        (Column("largest", "largest", "", shown.grade), shown.amplification.max(0).values),
        (Column("singular", "from the singular vector", "share", Grade.EXACT), shown.from_singular.double().mean(0)),
    ]
    return Result(
        "adversarial",
        "Response to chosen changes",
        "How much does the worst change found amplify?",
        {
            "inputs": count(len(shown.amplification), "inputs"),
            "amplification": band(shown.amplification[:, 0], f"amplification at {shown.sizes[0]:g}", shown.grade),
        },
        {"sizes": table("sizes", "Sizes", columns, rows)},
        figures=(_by_size(shown.sizes, {"largest found": shown.amplification}, "relative size"),),
    )


@result_of.register
def _(shown: ParameterResponse, rows: int | None) -> Result:
    columns = [
        (Column("size", "relative size"), list(shown.sizes)),
        (Column("median", "median over inputs", "", shown.grade), shown.amplification.median(0).values),
        (Column("maximum", "largest seen", "", shown.grade), shown.maximum.max(0).values),
    ]
    return Result(
        "parameters",
        "Response to changed parameters",
        "How much does a change of the parameters amplify?",
        {
            "inputs": count(len(shown.amplification), "inputs"),
            "parameters": count(len(shown.names), "parameters"),
            "amplification": band(shown.amplification[:, 0], f"amplification at {shown.sizes[0]:g}", shown.grade),
        },
        {"sizes": table("sizes", "Sizes", columns, rows)},
        figures=(_by_size(shown.sizes, {"amplification": shown.amplification}, "relative size"),),
    )


def _by_size(sizes: tuple[float, ...], named: dict[str, torch.Tensor], label: str) -> Figure:
    """Medians over the inputs with their middle nine tenths, over the size of the change."""
    drawn = []
    for name, values in named.items():
        low, middle, high = torch.nanquantile(
            values.detach().double().cpu(), torch.tensor([0.05, 0.5, 0.95], dtype=torch.float64), dim=0
        )
        drawn.append(line(name, middle, low=low, high=high))
    caption = "Relative output change per relative change. Median over inputs with 5th to 95th percentile."
    return lines("Amplification", caption, list(sizes), drawn, label, "amplification", x_log=True, y_log=True)


@result_of.register
def _(shown: ParameterCondition, rows: int | None) -> Result:
    each = shown.by_parameter.detach().double().cpu()
    columns = [
        (Column("node", "node", node=True), list(shown.names)),
        (Column("place", "place"), list(shown.places)),
        (Column("median", "condition number", "", shown.grade, "Median over inputs."), each.median(0).values),
        (Column("largest", "largest", "", shown.grade, "Over inputs."), each.max(0).values),
    ]
    caption = f"Relative output change per relative change of one parameter ({shown.kind}); median over inputs."
    if len(shown.names) <= BARS:
        figure = bars(
            "Sensitivity to parameters", caption, "condition number", shown.places, {"": each.median(0).values}
        )
    else:
        low, high = each.min(0).values, each.max(0).values
        drawn = [line("condition number", each.median(0).values, low=low, high=high)]
        figure = lines(
            "Sensitivity to parameters", caption, range(len(shown.names)), drawn, "parameter", "condition number"
        )
    return Result(
        "parameters",
        f"Sensitivity to parameters ({shown.kind}, by {shown.method})",
        "How much do outputs change when weights change a little?",
        {
            "inputs": count(len(each), "inputs"),
            "parameters": count(len(shown.names), "parameters"),
            "network": band(shown.network, "condition number for all of them", shown.grade),
        },
        {"parameters": table("parameters", "Parameters", columns, rows)},
        figures=(figure,),
    )


@result_of.register
def _(shown: Ladder, rows: int | None) -> Result:
    records = shown.records()
    columns = [
        (Column("rung", "rung"), [record["rung"] for record in records]),
        (Column("median", "median"), [record["median"] for record in records]),
        (Column("low", "lowest"), [record["low"] for record in records]),
        (Column("high", "highest"), [record["high"] for record in records]),
        (Column("grade", "grade"), [rung.grade.label for rung in shown]),
        (Column("holds", "holds"), [record["holds"] for record in records]),
        (Column("cost", "cost"), [record["cost"] for record in records]),
        (Column("note", "note"), [record["note"] for record in records]),
    ]
    there = [record for record in records if record["median"] is not None and math.isfinite(record["median"])]
    values = [rung.value for rung in shown if rung.value is not None]
    summary = {
        "rungs": count(len(shown), "rungs"),
        "inputs": count(len(values[0]) if values else 0, "inputs"),
    }
    for rung in (rung for rung in (shown.rungs[0], shown.rungs[-1]) if rung.value is not None):
        summary[rung.name] = band(rung.value, rung.name, rung.grade)
    what = _KAPPA if shown.relative else "output change per input change"
    return Result(
        "ladder",
        "From guaranteed to first order",
        f"What is the {what} at most?",
        summary,
        {"rungs": table("rungs", "Rungs", columns, rows)},
        figures=(
            bars(
                "The ladder",
                f"{what.capitalize()}: median over inputs, bars from lowest to highest. Guaranteed and loose first.",
                what,
                [record["rung"] for record in there],
                {"median": [record["median"] for record in there]},
                low=[record["low"] for record in there],
                high=[record["high"] for record in there],
                log=True,
            ),
        ),
    )


@result_of.register
def _(shown: ChainConditions, rows: int | None) -> Result:
    each = shown.kappa.detach().double().cpu()
    columns = [
        (Column("place", "place"), list(shown.places)),
        (Column("kappa", "condition number", "", shown.grade, "Median over inputs."), each.median(0).values),
        (Column("gain", "gain", "", shown.grade), shown.gains),
        (
            Column("weights", "of its weights", "", shown.grade, "Median over inputs."),
            shown.from_layer.median(0).values,
        ),
    ]
    drawn = [line("condition number", each.median(0).values, low=each.min(0).values, high=each.max(0).values)]
    caption = "Relative change after each layer per relative change before it; median, lowest and highest over inputs."
    return Result(
        "chain",
        "Condition numbers of a chain",
        f"Which layer contributes what to the {_KAPPA}?",
        {
            "inputs": count(len(each), "inputs"),
            "layers": count(len(shown.places), "layers"),
            "input": band(shown.input, "condition number of the chain", shown.grade),
        },
        {"layers": table("layers", "Layers", columns, rows)},
        figures=(
            lines("Layer by layer", caption, range(len(shown.places)), drawn, "layer", "condition number", y_log=True),
        ),
    )
