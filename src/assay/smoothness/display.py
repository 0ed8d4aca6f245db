"""How kinks, predictions and remedies are displayed: each as a small `Result`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from assay.grade import Grade
from assay.results import Column, Figure, Quantity, Result, Table, result_of
from assay.results.build import BARS, SHOWN_POINTS, array, band, bars, count, line, lines, spread, table
from assay.smoothness.estimators.sampled import SampledSmp
from assay.smoothness.indices.layers import LayerIndex, LayerIndices
from assay.smoothness.kinks import Kinks, Smp
from assay.smoothness.prediction.result import Agreement, Agreements, Prediction
from assay.smoothness.remedies.trial import Remedy

_SMP = "SMP"


@result_of.register
def _(shown: Smp, rows: int | None) -> Result:
    most = int(shown.value.argmax())
    columns = [
        (Column("output", "output"), range(len(shown.value))),
        (Column("smp", _SMP, "", shown.grade, "Sum of slope jumps along the path."), shown.value),
        (Column("over_range", "SMP x length / range", "", shown.grade), shown.over_range),
        (Column("share", "kinks in the slope's variation", "share", shown.grade), shown.share),
        (Column("energy", "energy of kinks", "", shown.grade), shown.energy),
        (Column("path", "kinks of the path itself", "", shown.grade), shown.path),
    ]
    tables = {"outputs": table("outputs", "Outputs", columns, rows)}
    figures = [_along(shown, most)]
    if shown.by_layer:
        tables["layers"] = _layer_table(shown.by_layer, shown.grade, rows)
        figures.append(_layer_bars(shown.by_layer))
    if shown.kinks is not None and len(shown.kinks):
        figures.append(_sizes(shown.kinks))
    summary = {
        "outputs": count(len(shown.value), "outputs"),
        "smp": band(shown.value, _SMP, shown.grade, over="outputs"),
        "kinks": Quantity(float(shown.count), shown.grade, "count", "kinks"),
        "share": band(shown.share, "kinks in the slope's variation", shown.grade, "share", over="outputs"),
    }
    return Result(
        "smp",
        f"Kinks along a path (by {shown.estimator})",
        "How much do slopes of the outputs jump on the way?",
        summary,
        tables,
        figures=tuple(figures),
        warnings=shown.notes,
    )


def _layer_table(by_layer: Mapping[str, Tensor], grade: Grade, rows: int | None) -> Table:
    parts = [float(part.sum()) for part in by_layer.values()]
    total = sum(parts)
    columns = [
        (Column("layer", "layer"), list(by_layer)),
        (Column("smp", "its SMP", "", grade, "Summed over outputs."), parts),
        (Column("share", "share", "share", grade), [part / total if total else math.nan for part in parts]),
    ]
    return table("layers", "Which layers cause the kinks", columns, rows)


def _layer_bars(by_layer: Mapping[str, Tensor]) -> Figure:
    parts = {place: float(part.sum()) for place, part in by_layer.items()}
    largest = sorted(parts, key=lambda place: -parts[place])[: 2 * BARS]
    shown = [place for place in parts if place in set(largest)]
    caption = "Part of every layer in the SMP, summed over outputs."
    return bars("SMP by layer", caption, _SMP, shown, {_SMP: [parts[place] for place in shown]})


def _along(shown: Smp, output: int) -> Figure:
    """One output along the path, its largest kinks marked."""
    t, y = shown.t.detach().double().cpu(), shown.outputs[:, output].detach().double().cpu()
    keep = torch.linspace(0, len(t) - 1, min(len(t), SHOWN_POINTS), dtype=torch.float64).round().long()
    t, y = t[keep], y[keep]
    marks = torch.full_like(y, torch.nan)
    if shown.kinks is not None and len(shown.kinks):
        size = shown.kinks.jump[:, output].abs().cpu()
        largest = size.argsort(descending=True)[:BARS]
        at = shown.kinks.t[largest[size[largest] > 0]].double().cpu()
        right = torch.searchsorted(t, at).clamp(1, max(len(t) - 1, 1)) if len(t) > 1 else torch.zeros_like(at).long()
        left = (right - 1).clamp(min=0)
        within = ((at - t[left]) / (t[right] - t[left]).clamp(min=1e-300)).clamp(0, 1)
        there = y[left] + within * (y[right] - y[left])
        t, order = torch.cat([t, at]).sort(stable=True)
        y = torch.cat([y, there])[order]
        marks = torch.cat([marks, there])[order]
    drawn = [line(f"output {output}", y), line("largest kinks", marks, "points")]
    caption = "The output with the largest SMP, and its largest kinks (points)."
    return lines(f"Output {output} along the path", caption, t, drawn, "path parameter", f"output {output}")


def _sizes(kinks: Kinks) -> Figure:
    size = kinks.jump.norm(dim=1)
    caption = "Slope jumps over all outputs: few large kinks, or many small ones."
    data = {
        "series": [{"label": "kinks", "values": spread(size[size > 0].log10())}],
        "x_label": "log10 of the jump of the slope",
        "y_label": "kinks",
    }
    return Figure("histogram", "Sizes of single kinks", caption, data)


@result_of.register
def _(shown: Kinks, rows: int | None) -> Result:
    size = shown.jump.norm(dim=1)
    columns = [
        (Column("t", "path parameter"), shown.t),
        (Column("layer", "layer"), [shown.layers[index] for index in shown.layer.tolist()]),
        (Column("unit", "unit"), shown.unit),
        (Column("size", "jump of the slope"), size),
    ]
    figure = _sizes(shown)
    return Result(
        "kinks",
        "Kinks along a path",
        "Where do slopes jump, and which unit makes them?",
        {
            "kinks": count(len(shown), "kinks"),
            "layers": count(len(shown.layers), "layers"),
            "size": band(size, "jump of the slope", Grade.EXACT, over="kinks"),
        },
        {"kinks": table("kinks", "Kinks", columns, rows)},
        figures=(figure,),
    )


@result_of.register
def _(shown: SampledSmp, rows: int | None) -> Result:
    strides = [2**power for power in range(len(shown.variation))]
    columns = [(Column("t", "place"), shown.t), (Column("jump", "slope jump"), shown.jump)]
    columns.append(
        (Column("exponent", "exponent", "", None, "1: a kink; 2: a smooth bend; 0: a jump."), shown.exponent)
    )
    caption = "Flat for a smooth output; rising towards small strides for one with kinks."
    return Result(
        "sampled",
        "Kinks from samples",
        "What do samples of an output say about its kinks?",
        {
            "samples": count(shown.samples, "samples"),
            "value": Quantity(shown.value, shown.grade, "", _SMP),
            "kinks": count(len(shown.t), "kinks seen"),
            "density": Quantity(shown.kinks_per_step, shown.grade, "", "kinks per step"),
        },
        {"kinks": table("kinks", "Kinks seen", columns, rows)},
        figures=(
            lines(
                "Variation of the slope by stride",
                caption,
                strides,
                [line("variation", shown.variation)],
                "stride",
                "variation",
                x_log=True,
                y_log=True,
            ),
        ),
        warnings=() if shown.resolved else ("Kinks are denser than the samples resolve: the value is too small.",),
    )


@result_of.register
def _(shown: Prediction, rows: int | None) -> Result:
    columns = [
        (Column("output", "output"), range(len(shown.value))),
        (Column("smp", "SMP per unit of path", "", shown.grade), shown.value),
        (Column("error", "standard error", "", Grade.SAMPLED), shown.error),
        (Column("energy", "energy of kinks", "", shown.grade), shown.energy),
    ]
    tables = {"outputs": table("outputs", "Outputs", columns, rows)}
    if shown.by_layer:
        tables["layers"] = _layer_table(shown.by_layer, shown.grade, rows)
        figure = _layer_bars(shown.by_layer)
    else:
        caption = "Predicted, of every output."
        names = [f"output {index}" for index in range(min(len(shown.value), BARS))]
        figure = bars("SMP by output", caption, _SMP, names, {_SMP: shown.value[:BARS]})
    return Result(
        "prediction",
        f"Predicted kinks ({shown.label})",
        "How many kinks does a path of this kind meet, and how large are they?",
        {
            "outputs": count(len(shown.value), "outputs"),
            "smp": band(shown.value, "SMP per unit of path", shown.grade, over="outputs"),
            "kinks": Quantity(float(shown.count), shown.grade, "", "kinks per unit of path"),
        },
        tables,
        figures=(figure,),
        warnings=shown.notes,
    )


@result_of.register
def _(shown: Agreement, rows: int | None) -> Result:
    return _agreed([shown], rows)


@result_of.register
def _(shown: Agreements, rows: int | None) -> Result:
    return _agreed(shown, rows)


def _agreed(found: Sequence[Agreement], rows: int | None) -> Result:
    predicted = [float(row.predicted.sum()) for row in found]
    measured = [float(row.measured.sum()) for row in found]
    ratio = [one / other if other > 0 else math.nan for one, other in zip(predicted, measured, strict=True)]
    columns = [
        (Column("layer", "layer"), [row.layer for row in found]),
        (Column("predicted", "predicted", "", Grade.STATISTICAL, "Summed over outputs."), predicted),
        (Column("measured", "measured", "", None, "Summed over outputs."), measured),
        (Column("ratio", "predicted over measured"), ratio),
    ]
    drawn = list(found)[: 2 * BARS]
    names, last = [row.layer for row in drawn], found[-1]
    return Result(
        "agreement",
        "Predicted and measured kinks",
        "Does the prediction hold on this path?",
        {
            "layers": count(len(found), "rows"),
            "ratio": band(last.ratio, f"predicted over measured, {last.layer}", Grade.STATISTICAL, over="outputs"),
        },
        {"layers": table("layers", "Layer by layer", columns, rows)},
        figures=(
            bars(
                "Predicted and measured SMP",
                "Summed over outputs.",
                _SMP,
                names,
                {"predicted": predicted[: 2 * BARS], "measured": measured[: 2 * BARS]},
            ),
        ),
    )


@result_of.register
def _(shown: LayerIndex, rows: int | None) -> Result:
    return _indices([shown], rows)


@result_of.register
def _(shown: LayerIndices, rows: int | None) -> Result:
    return _indices(shown, rows)


def _indices(found: Sequence[LayerIndex], rows: int | None) -> Result:
    names = list(dict.fromkeys(name for row in found for name in row.values))
    series = {name: [row.values.get(name, math.nan) for row in found] for name in names}
    columns = [(Column("node", "node", node=True), [row.name for row in found])]
    columns += [(Column("layer", "layer"), [row.place for row in found])]
    columns += [(Column(name, f"{name} index"), values) for name, values in series.items()]
    columns += [(Column("units", "units"), [row.units for row in found])]
    columns += [(Column("grade", "grade"), [row.grade.label for row in found])]
    summary = {"layers": count(len(found), "layers")}
    summary |= {
        name: Quantity(float(values[-1]), found[-1].grade, "", f"{name} index at the end")
        for name, values in series.items()
    }
    drawn = [line(name, values) for name, values in series.items()]
    caption = "From the input to the output: how well neighbours in each layer's values agree."
    return Result(
        "indices",
        "Indices layer by layer",
        "Where in the network do the classes (or targets) become separable?",
        summary,
        {"layers": table("layers", "Layers", columns, rows)},
        figures=(lines("Indices layer by layer", caption, range(len(found)), drawn, "layer", "index"),),
    )


@result_of.register
def _(shown: Remedy, rows: int | None) -> Result:
    columns = [
        (Column("output", "output"), range(len(shown.predicted))),
        (Column("before", "SMP before", "", shown.before.grade), shown.before.value),
        (Column("predicted", "predicted", "", shown.grade), shown.predicted),
        (Column("measured", "after", "", shown.after.grade), shown.measured),
        (Column("gain", "share that goes", "share", shown.after.grade), shown.measured_gain),
    ]
    few = range(min(len(shown.predicted), BARS))
    series = {"before": shown.before.value, "predicted": shown.predicted, "after": shown.measured}
    drawn = {name: array(values)[: len(few)] for name, values in series.items()}
    return Result(
        "remedy",
        f"Remedy: {shown.change}",
        f"What goes when {shown.change} replaces {len(shown.places)} places?",
        {
            "outputs": count(len(shown.predicted), "outputs"),
            "places": count(len(shown.places), "places changed"),
            "gain": band(shown.measured_gain, "share of SMP that goes", shown.after.grade, over="outputs"),
            "predicted": band(shown.predicted_gain, "predicted", shown.grade, over="outputs"),
        },
        {"outputs": table("outputs", "Outputs", columns, rows)},
        figures=(bars("SMP before and after", "Weights as they are.", _SMP, [f"output {k}" for k in few], drawn),),
        warnings=shown.notes,
    )
