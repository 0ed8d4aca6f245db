"""How the answers of this folder are displayed: each as a small `Result`."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from assay.grade import Grade
from assay.moments.answers import Confusion, Decision
from assay.moments.gaussian_attack import GaussianAttack
from assay.moments.levels import NoiseLevels
from assay.moments.maps import SensitivityMap
from assay.moments.probabilities import Probabilities
from assay.moments.result import Moments
from assay.results import Column, Figure, Quantity, Result, result_of
from assay.results.build import array, band, bars, count, line, lines, maps, per_input, rows_of, table

_MOST = 20  # outputs drawn or in a matrix


@result_of.register
def _(shown: Moments, rows: int | None) -> Result:
    batch, outputs = shown.mean.shape
    grade, std = shown.grade, shown.std
    top, second = _two_largest(shown.mean)
    here = torch.arange(batch, device=shown.mean.device)
    margin = shown.mean[here, top] - shown.mean[here, second]
    covariance = shown.covariance
    spread = (covariance[here, top, top] + covariance[here, second, second] - 2 * covariance[here, top, second]).clamp(
        0
    )
    columns = [
        rows_of(batch),
        (Column("output", "largest output"), _named(shown, top)),
        (Column("mean", "its mean", "", grade), shown.mean[here, top]),
        (Column("std", "its deviation", "", grade), std[here, top]),
    ]
    if outputs > 1:
        columns += [
            (Column("margin", "mean margin", "", grade, "Over the output with the next largest mean."), margin),
            (
                Column("margin_std", "its deviation", "", grade, "From the covariance of the two outputs."),
                spread.sqrt(),
            ),
        ]
    tables = {"inputs": table("inputs", "Outputs under noise", columns, rows)}
    figures, arrays = [_outputs_of_one(shown)], {}
    if shown.layers:
        tables["layers"] = table("layers", "Noise layer by layer", _layer_columns(shown), rows)
        figures.append(_along_layers(shown))
    if 1 < outputs <= _MOST:
        first = covariance[0] / (std[0, :, None] * std[0, None]).clamp(min=1e-300)
        arrays["correlation"] = array(first).round(2)
        names = [str(one) for one in _named(shown, torch.arange(outputs), first=True).tolist()]
        data = {
            "array": "correlation",
            "row_labels": names,
            "column_labels": names,
            "x_label": "output",
            "y_label": "output",
        }
        figures.append(Figure("matrix", "Correlation of the outputs, input 0", "1 on the diagonal.", data))
    summary = {
        "inputs": count(batch, "inputs"),
        "outputs": count(outputs, "outputs"),
        "std": band(std, "output deviation", grade, over="inputs and outputs"),
    }
    question = f"Which mean and covariance do the outputs have under Gaussian noise? Method: {shown.method}."
    return Result(
        "moments", "Moments of the outputs", question, summary, tables, arrays, tuple(figures), warnings=shown.warnings
    )


def _two_largest(values: Tensor) -> tuple[Tensor, Tensor]:
    order = values.topk(min(2, values.shape[1]), dim=1).indices
    return order[:, 0], order[:, -1]


def _named(shown: Moments, position: Tensor, first: bool = False) -> Tensor:
    """Indices of the model's outputs behind positions among those described: per input, or all of the first input."""
    if shown.outputs is None:
        return position
    return shown.outputs[0, position] if first else shown.outputs[torch.arange(len(position)), position]


def _outputs_of_one(shown: Moments) -> Figure:
    mean, std = shown.mean[0].double(), shown.std[0].double()
    order = mean.argsort(descending=True)[:_MOST]
    return bars(
        "Outputs of input 0",
        f"Means of the {len(order)} largest outputs; bars reach two standard deviations of the noise to both sides.",
        "output",
        [f"output {one}" for one in _named(shown, order, first=True).tolist()],
        {"mean": mean[order]},
        low=(mean - 2 * std)[order],
        high=(mean + 2 * std)[order],
    )


def _layer_columns(shown: Moments) -> list[tuple[Column, object]]:
    layers = shown.layers
    return [
        (Column("node", "node", node=True), [layer.node for layer in layers]),
        (Column("place", "place"), [layer.place for layer in layers]),
        (Column("relative", "noise per signal"), [layer.relative for layer in layers]),
        (Column("innovation", "made by the non-linearity", "share"), [layer.innovation_share for layer in layers]),
        (Column("grade", "grade"), [layer.grade.label for layer in layers]),
    ]


def _along_layers(shown: Moments) -> Figure:
    positive = [layer.relative if layer.relative > 0 else math.nan for layer in shown.layers]
    return lines(
        "Noise on its way through the network",
        "Deviation of the noise over the size of the signal after each layer, averaged over units and inputs.",
        list(range(len(positive))),
        [line("noise per signal", positive)],
        "layer",
        "noise per signal",
        y_log=True,
    )


@result_of.register
def _(shown: Decision, rows: int | None) -> Result:
    rest = shown.probabilities.scatter(1, shown.label[:, None], -1.0)
    rival = rest.argmax(1)
    columns = [
        rows_of(len(shown.flip)),
        (Column("decision", "decision"), shown.label),
        (Column("flip", "P(flip)", "", shown.grade, "The largest output is another one."), shown.flip),
        (Column("error", "standard error", "", Grade.SAMPLED, "Of the quadrature behind it."), shown.standard_error),
        (Column("rival", "likeliest rival"), rival),
        (Column("rival_probability", "its probability", "", shown.grade), rest.max(1).values.clamp(min=0)),
    ]
    summary = {
        "inputs": count(len(shown.flip), "inputs"),
        "flip": band(shown.flip, "P(flip)", shown.grade),
        "worst": band(shown.flip.max(), "largest P(flip)", shown.grade),
    }
    figure = per_input(
        "How easily decisions flip",
        "Probability that noise makes another output the largest.",
        "P(flip)",
        {"P(flip)": shown.flip},
    )
    return Result(
        "decision",
        "Decisions under noise",
        "How probable is it that the noise changes the decision?",
        summary,
        {"inputs": table("inputs", "Decisions", columns, rows)},
        figures=(figure,),
        warnings=shown.moments.warnings,
    )


@result_of.register
def _(shown: Confusion, rows: int | None) -> Result:
    classes = len(shown.matrix)
    seen = shown.counts > 0
    kept = shown.matrix.diagonal()
    others = shown.matrix.clone()
    others.fill_diagonal_(-1)
    columns = [
        (Column("class", "class"), range(classes)),
        (Column("inputs", "inputs"), shown.counts),
        (Column("kept", "P(same class)", "", shown.grade), torch.where(seen, kept, torch.nan)),
        (Column("confused", "most often taken for"), others.argmax(1)),
        (Column("confusion", "with probability", "", shown.grade), torch.where(seen, others.max(1).values, torch.nan)),
    ]
    weight = shown.counts.to(kept.dtype)
    summary = {
        "classes": count(int(seen.sum()), "classes with inputs"),
        "inputs": count(int(shown.counts.sum()), "inputs"),
        "kept": band((kept * weight).sum() / weight.sum().clamp(min=1), "P(class of the label)", shown.grade),
    }
    names = [str(index) for index in range(classes)]
    data = {
        "array": "matrix",
        "row_labels": names,
        "column_labels": names,
        "x_label": "decision",
        "y_label": "label",
        "percent": True,
    }
    return Result(
        "confusion",
        "Expected confusion under noise",
        "Which classes does noise mix up?",
        summary,
        {"classes": table("classes", "Classes", columns, rows)},
        {"matrix": array(shown.matrix)},
        (Figure("matrix", "Decisions by label", "Average probability of each decision, in per cent of a row.", data),),
    )


@result_of.register
def _(shown: Probabilities, rows: int | None) -> Result:
    label = shown.clean.argmax(1)
    here = torch.arange(len(label), device=label.device)
    clean, expected, stays = (each[here, label] for each in (shown.clean, shown.expected, shown.argmax))
    columns = [
        rows_of(len(label)),
        (Column("decision", "decision"), label),
        (Column("clean", "softmax without noise", "", Grade.EXACT), clean),
        (Column("expected", "expected softmax", "", shown.grade), expected),
        (Column("error", "standard error", "", Grade.SAMPLED), shown.standard_error[here, label]),
        (Column("stays", "P(decision stays)", "", shown.grade), stays),
    ]
    series = {"softmax without noise": clean, "expected softmax": expected, "P(decision stays)": stays}
    return Result(
        "probabilities",
        "Class probabilities under noise",
        "How sure is the model on average under noise, and how sure may it be?",
        {
            "inputs": count(len(label), "inputs"),
            "expected": band(expected, "expected softmax of the decision", shown.grade),
            "stays": band(stays, "P(decision stays)", shown.grade),
        },
        {"inputs": table("inputs", "Decisions", columns, rows)},
        figures=(
            per_input(
                "Confidence under noise",
                "Where the softmax exceeds P(decision stays) the model is too sure.",
                "probability",
                series,
            ),
        ),
        warnings=shown.moments.warnings,
    )


@result_of.register
def _(shown: NoiseLevels, rows: int | None) -> Result:
    named = {f"P(flip) = {flip:.3g}": shown.sigma[:, column] for column, flip in enumerate(shown.flip)}
    columns = [rows_of(len(shown.label)), (Column("decision", "decision"), shown.label)]
    columns += [(Column(name, f"noise for {name}", "", shown.grade), values) for name, values in named.items()]
    summary = {"inputs": count(len(shown.label), "inputs")}
    summary |= {name: band(values, f"noise for {name}", shown.grade) for name, values in named.items()}
    caption = f"Deviation of the noise in units of the data. Not drawn: inputs that stand more than {shown.highest:g}."
    return Result(
        "levels",
        "Noise that decisions stand",
        "How much noise flips a decision with a given probability?",
        summary,
        {"inputs": table("inputs", "Noise levels", columns, rows)},
        figures=(per_input("Noise that decisions stand", caption, "noise deviation", named),),
    )


@result_of.register
def _(shown: SensitivityMap, rows: int | None) -> Result:
    flat = shown.variance_share.flatten(1)
    columns = [
        rows_of(len(flat)),
        (Column("variance", "output variance", "", shown.grade), shown.variance),
        (Column("explained", "explained", "share", shown.grade, "By single elements of the input."), shown.explained),
        (Column("element", "most sensitive element", "", None, "Index in the flattened input."), flat.argmax(1)),
        (Column("largest", "its share", "share", shown.grade), flat.max(1).values),
    ]
    drawn = {"share of variance": shown.variance_share, "expected Jacobian": shown.jacobian}
    if shown.mean_shift is not None:
        drawn["shift of the mean"] = shown.mean_shift
    caption = "Which elements make the output noisy, which way they push it, and which move its mean."
    figure, arrays = maps("Sensitivity of the output to the input", caption, drawn)
    return Result(
        "sensitivity_map",
        "Sensitivity map",
        "Which elements of the input make the output noisy?",
        {
            "inputs": count(len(flat), "inputs"),
            "elements": count(flat.shape[1], "elements"),
            "explained": band(shown.explained, "explained by single elements", shown.grade, "share"),
        },
        {"inputs": table("inputs", "Inputs", columns, rows)},
        arrays,
        (figure,),
    )


@result_of.register
def _(shown: GaussianAttack, rows: int | None) -> Result:
    rates = table(
        "rates",
        "Fooling rates",
        [
            (Column("noise", "noise"), [rate.noise for rate in shown.rates]),
            (Column("rate", "fooling rate", "share", Grade.SAMPLED), [rate.rate for rate in shown.rates]),
            (Column("low", "from", "share", Grade.SAMPLED, "95 % Wilson interval."), [one.low for one in shown.rates]),
            (Column("high", "to", "share", Grade.SAMPLED, "95 % Wilson interval."), [one.high for one in shown.rates]),
            (Column("trials", "trials"), [rate.trials for rate in shown.rates]),
        ],
        rows,
    )
    columns = [
        rows_of(len(shown.label)),
        (Column("decision", "decision"), shown.label),
        (Column("margin", "margin under the noise", "", shown.grade, "Below 0 it is fooled on average."), shown.margin),
        (Column("fooled", "fooling rate", "share", Grade.SAMPLED), shown.fooled),
        (Column("energy", "energy of the noise", "", Grade.EXACT), shown.energy),
    ]
    first = shown.rates[0]
    summary = {"inputs": count(int(shown.attacked.sum()), "inputs attacked")}
    summary |= {
        rate.noise: Quantity(
            rate.rate, Grade.SAMPLED, "share", f"fooled by {rate.noise}", rate.low, rate.high, "95 % Wilson"
        )
        for rate in shown.rates
    }
    drawn = bars(
        "Chosen noise against noise of chance",
        f"Share of {first.trials:,} noisy inputs whose decision changed, with 95 % Wilson intervals.",
        "fooling rate",
        [rate.noise for rate in shown.rates],
        {"fooling rate": [rate.rate for rate in shown.rates]},
        low=[rate.low for rate in shown.rates],
        high=[rate.high for rate in shown.rates],
    )
    search = lines(
        "The search",
        "Average margin over the inputs; below 0 decisions change on average.",
        range(len(shown.objective)),
        [line("margin", shown.objective)],
        "step",
        "margin",
    )
    noise, arrays = maps("The noise found", "Its mean and its deviation.", {"mean": shown.mean, "deviation": shown.std})
    return Result(
        "attack",
        "Gaussian attack",
        "Which noise of bounded size changes decisions most?",
        summary,
        {"rates": rates, "inputs": table("inputs", "Inputs", columns, rows)},
        arrays,
        (drawn, noise, search),
    )
