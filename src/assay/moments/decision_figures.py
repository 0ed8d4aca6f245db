"""Figures about decisions: confidence under noise, the noise that decisions stand, and the Gaussian attack."""

from __future__ import annotations

import math

import numpy as np

from assay.moments.decisions import Decisions
from assay.moments.evidence import Evidence
from assay.results import Figure
from assay.results.build import pictures

_SHOWN_ATTACKS = 2


def confidence(evidence: Evidence, decisions: Decisions) -> Figure:
    """What the softmax says on average under noise, beside how often the decision stays."""
    levels = evidence.levels
    series = [
        {
            "label": "expected softmax of the decision",
            "y": [float(decisions.clean.mean()), *(float(share.mean()) for share in decisions.expected)],
            "style": "line",
        },
        {
            "label": "P(decision stays)",
            "y": [1.0, *(float(level.argmax[:, 0].mean()) for level in levels)],
            "style": "line",
        },
    ]
    return Figure(
        "lines",
        "Confidence under noise",
        "Average over the inputs. Where the softmax lies above the other line, the model is surer of its decision than "
        "the noise allows; below, it is more careful. Both from the analytic moments of the logits.",
        {
            "x": [0.0, *(level.share for level in levels)],
            "series": series,
            "x_label": "noise deviation, share of the value range",
            "y_label": "probability",
            "x_log": False,
            "y_log": False,
        },
    )


def standing(decisions: Decisions) -> Figure | None:
    """Inputs in order of the noise they stand, a line per flip probability."""
    found = decisions.standing
    count = len(found.share)
    series = []
    missing = []
    for column, flip in enumerate(found.flip):
        ordered = found.share[:, column].sort().values.tolist()
        reached = sum(math.isfinite(value) for value in ordered)
        if reached < count:
            missing.append(f"{count - reached} at {flip:.3g}")
        if reached:
            y = [value if math.isfinite(value) else None for value in ordered]
            series.append({"label": f"P(flip) = {flip:.3g}", "y": y, "style": "line"})
    if not series:
        return None
    left = f" Inputs that stand more than {found.highest:g}, not drawn: {', '.join(missing)}." if missing else ""
    return Figure(
        "lines",
        "How much noise decisions stand",
        "For each input the noise at which its decision flips with the given probability; inputs in order, the least "
        f"stable on the left.{left}",
        {
            "x": [(index + 1) / count for index in range(count)],
            "series": series,
            "x_label": "share of the inputs",
            "y_label": "noise deviation, share of the value range",
            "x_log": False,
            "y_log": False,
        },
    )


def attack_figures(evidence: Evidence, decisions: Decisions, arrays: dict[str, np.ndarray]) -> list[Figure]:
    """Fooling rates side by side and, for pictures, the noise that was found."""
    found = decisions.attack
    if found is None:
        return []
    drawn = [
        Figure(
            "bars",
            "Chosen noise against noise of chance",
            f"Share of noisy inputs whose decision changed, {len(decisions.attacked)} inputs. The attack chooses mean "
            f"and deviation of the noise of every input element, both at most {decisions.attack_bound:g} of the value "
            "range; the others are its parts, and noise of the same energy without any choice. Bars: 95 % Wilson "
            "intervals.",
            {
                "labels": [row.noise for row in found.rates],
                "series": [
                    {
                        "label": "fooling rate",
                        "values": [row.rate for row in found.rates],
                        "low": [row.low for row in found.rates],
                        "high": [row.high for row in found.rates],
                    }
                ],
                "y_label": "",
                "x_label": "fooling rate",
                "horizontal": True,
            },
        )
    ]
    data = evidence.subject.data
    if data is None or data.inputs.dim() != 4:
        return drawn
    shown = decisions.attacked[:_SHOWN_ATTACKS]
    arrays["attacked"] = pictures(data.inputs[evidence.rows[shown]], evidence.subject.preprocessing.bounds)
    arrays["attack_mean"] = found.mean[: len(shown)].sum(1).float().numpy()
    arrays["attack_std"] = found.std[: len(shown)].square().sum(1).sqrt().float().numpy()
    panels = []
    for i, position in enumerate(shown.tolist()):
        name = evidence.subject.output_name(int(evidence.outputs[position, 0]))
        panels.append({"array": "attacked", "index": [i], "title": name, "diverging": False})
        panels.append({"array": "attack_mean", "index": [i], "title": "noise mean", "diverging": True})
        panels.append({"array": "attack_std", "index": [i], "title": "noise sd", "diverging": False})
    drawn.append(
        Figure(
            "heatmaps",
            "The noise that changes decisions most",
            "Beside each input, mean and deviation of the noise that the attack found, summed over channels.",
            {"panels": panels, "columns": 6 if len(panels) > 3 else 3},
        )
    )
    return drawn
