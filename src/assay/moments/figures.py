"""Figures and arrays of the moments analysis."""

from __future__ import annotations

import numpy as np
import torch

from assay.moments.decision_figures import attack_figures, confidence, standing
from assay.moments.evidence import Evidence
from assay.results import Figure
from assay.results.build import pictures


def figures(evidence: Evidence) -> tuple[tuple[Figure, ...], dict[str, np.ndarray]]:
    """What to draw, and the arrays it needs."""
    drawn: list[Figure] = []
    arrays: dict[str, np.ndarray] = {}
    if evidence.classifier:
        drawn.append(_flips(evidence))
    decisions = evidence.decisions
    if decisions is not None:
        stands = standing(decisions)
        drawn += [confidence(evidence, decisions), *([stands] if stands is not None else [])]
    if evidence.levels[-1].sampled_mean is not None:
        drawn += [_spread(evidence), _shift(evidence)]
    if evidence.levels[-1].layers:
        drawn.append(_layers(evidence))
    if evidence.classifier and evidence.clean.shape[1] <= 64:
        drawn.append(_confusion(evidence, arrays))
    _maps(evidence, drawn, arrays)
    if decisions is not None:
        drawn += attack_figures(evidence, decisions, arrays)
    return tuple(drawn), arrays


def _flips(evidence: Evidence) -> Figure:
    x = [level.share for level in evidence.levels]
    series = [
        {
            "label": "mean, propagated",
            "y": [float(level.flip.mean()) for level in evidence.levels],
            "style": "line",
        },
        {
            "label": "95th percentile, propagated",
            "y": [float(level.flip.double().quantile(0.95)) for level in evidence.levels],
            "style": "dashed",
        },
    ]
    if evidence.levels[-1].sampled_flip is not None:
        sampled = [level.sampled_flip for level in evidence.levels if level.sampled_flip is not None]
        total = evidence.draws * len(evidence.rows)
        y = [float(s.mean()) for s in sampled]
        error = [1.96 * (value * (1 - value) / total) ** 0.5 for value in y]
        series.append(
            {
                "label": "mean, sampled (95 % interval)",
                "y": y,
                "low": [v - e for v, e in zip(y, error, strict=True)],
                "high": [v + e for v, e in zip(y, error, strict=True)],
                "style": "points",
            }
        )
    return Figure(
        "lines",
        "How often noise flips a decision",
        "Probability that Gaussian noise changes the decision, against the size of the noise. Lines come from "
        "the analytic moments, "
        "points from sampling the network.",
        {
            "x": x,
            "series": series,
            "x_label": "noise deviation, share of the value range",
            "y_label": "P(flip)",
            "x_log": False,
            "y_log": False,
        },
    )


def _spread(evidence: Evidence) -> Figure:
    series = [
        {
            "label": f"noise {level.share:g}",
            "x": _thin(level.sampled_variance.clamp(min=0).sqrt()),
            "y": _thin(level.variance.clamp(min=0).sqrt()),
        }
        for level in evidence.levels
        if level.sampled_variance is not None
    ]
    return Figure(
        "scatter",
        "Predicted against sampled deviation",
        "One point per input and followed output: deviation of the output under noise. On the diagonal the two agree.",
        {"series": series, "x_label": "sampled sd", "y_label": "predicted sd", "log": True, "diagonal": True},
    )


def _shift(evidence: Evidence) -> Figure:
    base = evidence.clean.gather(1, evidence.outputs)
    series = []
    for level in evidence.levels:
        if level.sampled_mean is None or level.sampled_variance is None:
            continue
        std = level.sampled_variance.clamp(min=1e-300).sqrt()
        series.append(
            {
                "label": f"noise {level.share:g}",
                "x": _thin((level.sampled_mean - base) / std),
                "y": _thin((level.mean - base) / std),
            }
        )
    return Figure(
        "scatter",
        "Predicted against sampled shift of the mean",
        "Noise moves the mean output away from the clean output. Both axes in output deviations; linearisation "
        "would put every point "
        "at height 0.",
        {
            "series": series,
            "x_label": "sampled shift, sd",
            "y_label": "predicted shift, sd",
            "log": False,
            "diagonal": True,
        },
    )


def _layers(evidence: Evidence) -> Figure:
    rows = evidence.levels[-1].layers
    series = [
        {"label": f"noise {level.share:g}", "y": [row.relative for row in level.layers], "style": "line"}
        for level in evidence.levels
        if len(level.layers) == len(rows)
    ]
    return Figure(
        "lines",
        "Noise per signal through the layers",
        "Root mean variance over root mean square of the means, in execution order: where it rises, noise is "
        "amplified.",
        {
            "x": list(range(1, len(rows) + 1)),
            "series": series,
            "x_label": "layer",
            "y_label": "noise per signal",
            "x_log": False,
            "y_log": True,
        },
    )


def _confusion(evidence: Evidence, arrays: dict[str, np.ndarray]) -> Figure:
    level = evidence.levels[-1]
    count = evidence.clean.shape[1]
    shares = torch.zeros(len(level.mean), count, dtype=level.argmax.dtype).scatter(1, evidence.outputs, level.argmax)
    member = torch.nn.functional.one_hot(evidence.outputs[:, 0], count).to(shares.dtype)
    matrix = member.T @ shares / member.sum(0).clamp(min=1).unsqueeze(1)
    arrays["confusion"] = matrix.numpy()
    names = [evidence.subject.output_name(i) for i in range(count)]
    return Figure(
        "matrix",
        "Which class a decision flips to",
        f"Row: decision without noise. Column: decision under noise {level.share:g}. Expected shares from the "
        f"analytic moments.",
        {
            "array": "confusion",
            "row_labels": names,
            "column_labels": names,
            "x_label": "under noise",
            "y_label": "without noise",
            "percent": True,
        },
    )


def _maps(evidence: Evidence, drawn: list[Figure], arrays: dict[str, np.ndarray]) -> None:
    maps, data = evidence.maps, evidence.subject.data
    if maps is None or data is None or data.inputs.dim() != 4:
        return
    inputs = data.inputs[evidence.rows[: len(maps.variance)]]
    arrays["pictures"] = pictures(inputs, evidence.subject.preprocessing.bounds)
    arrays["variance_share"] = maps.variance_share.sum(1).float().numpy()
    shifts = maps.mean_shift
    if shifts is not None:
        arrays["mean_shift"] = shifts.sum(1).float().numpy()
    panels = []
    for i in range(len(inputs)):
        name = evidence.subject.output_name(int(evidence.outputs[i, 0]))
        panels.append({"array": "pictures", "index": [i], "title": name, "diverging": False})
        panels.append({"array": "variance_share", "index": [i], "title": "variance", "diverging": False})
        if shifts is not None:
            panels.append({"array": "mean_shift", "index": [i], "title": "mean shift", "diverging": True})
    caption = (
        f"Beside each input, for the {'decision minus runner-up' if evidence.classifier else 'first output'}: the "
        "share of its variance that the noise of each pixel contributes"
    )
    if shifts is not None:
        caption += (
            ", and how its mean moves per unit of variance of the pixel's noise (below 0: noise there pulls towards "
            "the runner-up)"
            if evidence.classifier
            else ", and how its mean moves per unit of variance of the pixel's noise"
        )
    drawn.append(
        Figure(
            "heatmaps",
            "Which pixels make the decision noisy",
            caption + f". Noise {evidence.levels[-1].share:g}.",
            {"panels": panels, "columns": 4 if shifts is None else 6 if len(inputs) > 1 else 3},
        )
    )


def _thin(values: torch.Tensor, most: int = 400) -> list[float]:
    flat = values.reshape(-1)
    step = max(1, len(flat) // most)
    return [float(v) for v in flat[::step]]
