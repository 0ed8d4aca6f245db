"""Figures of the sensitivity analysis, as data for the renderer."""

from __future__ import annotations

import numpy as np

from assay.results import Figure, Table
from assay.results.build import pictures
from assay.sensitivity.evidence import Evidence, percentiles


def figures(evidence: Evidence, classes: Table | None) -> tuple[tuple[Figure, ...], dict[str, np.ndarray]]:
    """All figures in the order they are read, and the arrays that they show."""
    drawn = [_histogram(evidence), _scatter(evidence)]
    if len(evidence.config.relative_sizes) > 1:
        drawn.append(_ratios(evidence))
    if classes is not None and len(classes.rows) > 1:
        drawn.append(_classes(classes))
    arrays: dict[str, np.ndarray] = {}
    if evidence.inputs.dim() == 4 and min(evidence.inputs.shape[2:]) > 1 and evidence.config.directions_shown:
        directions, arrays = _directions(evidence)
        drawn.insert(1, directions)
    return tuple(drawn), arrays


def _histogram(evidence: Evidence) -> Figure:
    series = [{"label": "worst direction (κ)", "values": evidence.bits_lost.tolist()}]
    positive = evidence.kappa_rms[evidence.kappa_rms > 0]
    series.append({"label": "random direction (κ rms)", "values": np.log2(positive).tolist()})
    return Figure(
        "histogram",
        "Bits of precision lost from input to output",
        "How many of the inputs lose so many bits of relative precision: log2 of the condition number. Below 0 the "
        "network "
        "damps a change; at 3 it makes a relative change eight times larger.",
        {"series": series, "x_label": "log2 condition number (bits)", "bins": 20},
    )


def _scatter(evidence: Evidence) -> Figure:
    series = [
        {"label": f"relative size {size:g}", "x": kappa.tolist(), "y": measured.tolist()}
        for size, kappa, measured in (
            (size, evidence.kappa[positive], amplification[positive])
            for size, amplification in zip(
                evidence.config.relative_sizes, evidence.attack.amplification.numpy().T, strict=True
            )
            for positive in [(evidence.kappa > 0) & (amplification > 0)]
        )
    ]
    return Figure(
        "scatter",
        "Predicted and measured worst response",
        "Each point is one input at one size of change. On the diagonal the attack did exactly what κ predicts; "
        "above it the "
        "network responded more than to first order, so κ is not an upper bound there.",
        {
            "series": series,
            "x_label": "predicted: κ",
            "y_label": "measured: attack",
            "log": True,
            "diagonal": True,
        },
    )


def _ratios(evidence: Evidence) -> Figure:
    series = []
    for label, values in (
        ("κ / attack", evidence.over_attack),
        ("κ rms / noise", evidence.over_noise),
        ("κ / largest random response", evidence.over_attack * evidence.understatement),
    ):
        low, middle, high = zip(*(percentiles(column) for column in values.T), strict=True)
        series.append({"label": label, "y": list(middle), "low": list(low), "high": list(high)})
    return Figure(
        "lines",
        "Prediction / measurement against the size of the change",
        "Median over inputs with the 5th to 95th percentile. 1 means that the linear prediction is right; the third "
        "line says "
        "how much larger the predicted worst case is than the worst of the random directions.",
        {
            "x": list(evidence.config.relative_sizes),
            "series": series,
            "x_label": "relative size of the input change",
            "y_label": "predicted / measured",
            "x_log": True,
            "y_log": False,
        },
    )


def _classes(classes: Table) -> Figure:
    return Figure(
        "bars",
        "Condition number by class",
        "Median over the inputs of each class; the whiskers reach from its smallest to its largest.",
        {
            "labels": classes.column("class"),
            "series": [
                {
                    "label": "median κ",
                    "values": classes.column("condition_number"),
                    "low": classes.column("low"),
                    "high": classes.column("high"),
                }
            ],
            "x_label": "condition number",
            "y_label": "",
            "horizontal": True,
        },
    )


def _directions(evidence: Evidence) -> tuple[Figure, dict[str, np.ndarray]]:
    rows = np.argsort(-evidence.kappa, kind="stable")[: evidence.config.directions_shown].tolist()
    inputs = evidence.inputs[rows]
    right = evidence.numbers.right[rows].double()
    coloured = inputs.shape[1] > 1  # several channels: show their root sum of squares, which has no sign
    direction = right.square().sum(1).sqrt() if coloured else right[:, 0]
    arrays = {
        "fragile_inputs": pictures(inputs, evidence.subject.preprocessing.bounds),
        "worst_directions": direction.float().numpy(),
        "worst_direction_vectors": right.float().numpy(),
    }
    panels = []
    for place, row in enumerate(rows):
        kappa = float(evidence.kappa[row])
        panels.append({"array": "fragile_inputs", "index": [place], "title": evidence.name(row), "diverging": False})
        panels.append(
            {"array": "worst_directions", "index": [place], "title": f"κ = {kappa:.3g}", "diverging": not coloured}
        )
    figure = Figure(
        "heatmaps",
        "The most fragile inputs and the change that moves each most",
        "Left the input, right the direction of unit length that changes the output most (top right singular vector "
        "of the "
        "Jacobian; its overall sign means nothing)" + (", all channels together." if coloured else "."),
        {"panels": panels, "columns": 4},
    )
    return figure, arrays
