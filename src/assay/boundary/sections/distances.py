"""How far each decision is from flipping, and to which class."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from assay.boundary.sections.section import Context
from assay.certified import certified_radius
from assay.errors import AssayError
from assay.grade import Grade
from assay.intervals import wilson
from assay.results import Better, Column, Figure, Finding, Quantity, Section, Status, Table

ALIGNED = 0.999
"""Cosine between the way to the boundary and its normal from which a point counts as nearest to first order."""
BAND = "5th to 95th percentile over inputs"

_COLUMNS = (
    Column("input", "input"),
    Column("label", "true class"),
    Column("predicted", "predicted"),
    Column("rival", "nearest other class"),
    Column(
        "distance", "distance", "", Grade.SAMPLED, "Euclidean, to the nearest boundary point found: an upper limit."
    ),
    Column("certified", "certified", "", Grade.BOUND, "No change of the input below this length alters the decision."),
    Column("relative", "relative distance", "", Grade.SAMPLED, "Distance over the Euclidean norm of the input."),
    Column("first", "before refinement", "", Grade.SAMPLED, "Distance of DeepFool's point after bisection."),
    Column(
        "cosine", "cosine", "", Grade.EXACT, "Between the way there and the boundary's normal; 1 at a nearest point."
    ),
    Column("residual", "residual", "", Grade.EXACT, "Difference of the two logits at the point."),
    Column("two", "top two", "", None, "Whether the two classes are the two most likely there."),
)


def distances(context: Context) -> Section:
    """Boundary points of every input, with what vouches for them."""
    points = context.points
    certified, notes = _certified(context)
    norm = context.inputs.flatten(1).double().norm(dim=1)
    relative = points.distance / torch.where(norm == 0, 1.0, norm)
    records = [_record(context, row, relative, certified) for row in range(len(context.inputs))]
    table = Table.from_records(
        "inputs",
        "Nearest boundary points",
        _COLUMNS,
        records,
        "Found by DeepFool, bisection and steps towards the nearest point. A search gives an upper limit of the true "
        "distance; the certified number, where there is one, is a lower limit.",
    )
    rivals, matrix = _rivals(context)
    return Section(
        tables={"inputs": table},
        figures=(_histogram(points.distance[points.found]), *rivals),
        findings=_findings(context, relative, certified),
        summary=_summary(context, relative, certified),
        warnings=notes,
        arrays=matrix,
    )


def _certified(context: Context) -> tuple[dict[int, float], tuple[str, ...]]:
    """Guaranteed distances of a few inputs, by row; and why there are none."""
    rows = context.spread(context.config.certified_inputs)
    if not len(rows):
        return {}, ()
    try:
        found = certified_radius(
            context.subject, context.inputs[rows], label=context.points.label[rows], upper=context.points.distance[rows]
        )
    except AssayError as error:
        return {}, (f"No certified distances: {error.what}",)
    return dict(zip(rows.tolist(), found.radius.tolist(), strict=True)), ()


def _record(context: Context, row: int, relative: Tensor, certified: dict[int, float]) -> dict[str, Any]:
    points, name = context.points, context.subject.output_name
    record: dict[str, Any] = {"input": context.name(row), "predicted": name(int(points.label[row]))}
    if context.labels is not None:
        record["label"] = name(int(context.labels[row]))
    if not bool(points.found[row]):
        return record
    return record | {
        "rival": name(int(points.rival[row])),
        "distance": float(points.distance[row]),
        "certified": certified.get(row),
        "relative": float(relative[row]),
        "first": float(points.first_distance[row]) if bool(torch.isfinite(points.first_distance[row])) else None,
        "cosine": float(points.cosine[row]),
        "residual": float(points.residual[row]),
        "two": "yes" if bool(points.valid[row]) else "no",
    }


def _histogram(distance: Tensor) -> Figure:
    return Figure(
        "histogram",
        "Distance to the decision boundary",
        "How far inputs are from flipping, in the units of the data. Left: decisions that little can change.",
        {"series": [{"label": "inputs", "values": distance.tolist()}], "x_label": "Euclidean distance"},
    )


def _rivals(context: Context) -> tuple[list[Figure], dict[str, np.ndarray]]:
    """Which class lies next to which: shares per predicted class, for up to 30 classes."""
    points = context.points
    seen = sorted(set(points.label[points.found].tolist()) | set(points.rival[points.found].tolist()))
    if not 2 < len(seen) <= 30:
        return [], {}
    place = {label: index for index, label in enumerate(seen)}
    counts = np.zeros((len(seen), len(seen)))
    for own, rival in zip(points.label[points.found].tolist(), points.rival[points.found].tolist(), strict=True):
        counts[place[own], place[rival]] += 1
    totals = counts.sum(1, keepdims=True)
    names = [context.subject.output_name(label) for label in seen]
    figure = Figure(
        "matrix",
        "Which class lies behind the nearest boundary",
        "Rows: the predicted class. Columns: the class on the other side of the nearest boundary point found, as a "
        "share of the row.",
        {
            "array": "rivals",
            "row_labels": names,
            "column_labels": names,
            "x_label": "on the other side",
            "y_label": "predicted",
            "percent": True,
        },
    )
    return [figure], {"rivals": counts / np.where(totals == 0, 1, totals)}


def _summary(context: Context, relative: Tensor, certified: dict[int, float]) -> dict[str, Quantity]:
    points = context.points
    found = points.found
    share = float(found.double().mean())
    low, high = wilson(share, len(found))
    summary = {
        "found": Quantity(
            share, Grade.SAMPLED, "share", "inputs with a boundary point", low, high, "95 % Wilson", confidence=0.95
        ),
    }
    if not bool(found.any()):
        return summary
    summary |= {
        "distance": over_inputs(
            points.distance[found], "distance to the boundary (median)", better="higher", basis="inputs.distance.median"
        ),
        "relative_distance": over_inputs(
            relative[found], "distance over the input's norm (median)", better="higher", basis="inputs.relative.median"
        ),
        "aligned": Quantity(
            float((points.cosine[found] >= ALIGNED).double().mean()),
            Grade.SAMPLED,
            "share",
            f"points with a cosine of {ALIGNED:g} or more",
        ),
    }
    both = found & torch.isfinite(points.first_distance)
    if bool(both.any()):
        gain = points.distance[both] / points.first_distance[both].clamp(min=1e-300)
        summary["refined"] = over_inputs(gain, "refined over DeepFool's distance (median)")
    if certified:
        gaps = torch.tensor([radius / float(points.distance[row]) for row, radius in certified.items()])
        summary["certified_share"] = over_inputs(gaps, "certified over found distance (median)", Grade.BOUND)
    return summary


def over_inputs(
    values: Tensor,
    label: str,
    grade: Grade = Grade.SAMPLED,
    unit: str = "",
    *,
    better: Better | None = None,
    basis: str = "",
) -> Quantity:
    """Median with the band over inputs."""
    low, middle, high = np.percentile(values.double().numpy(), (5, 50, 95)).tolist()
    return Quantity(middle, grade, unit, label, low, high, BAND, better, basis)


def _findings(context: Context, relative: Tensor, certified: dict[int, float]) -> tuple[Finding, ...]:
    points, config = context.points, context.config
    found = points.found
    missing = int((~found).sum())
    rules = [
        Finding(
            "boundary.found",
            Status.WARN if missing else Status.PASS,
            f"A boundary point was found for {int(found.sum())} of {len(found)} inputs.",
            place="" if not missing else context.name(int((~found).nonzero()[0])),
            next_step="" if not missing else "Where none was found the network may be flat there: look at its logits.",
        )
    ]
    if not bool(found.any()):
        return tuple(rules)
    order = torch.where(found, relative, math.inf).argsort()
    nearest = int(order[0])
    middle = float(relative[found].median())
    rules.append(
        Finding(
            "boundary.distance",
            Status.WARN if middle < config.near_below else Status.PASS,
            f"Half of the inputs flip to another class by a change of {100 * middle:.2g}% of their norm or less (found "
            f"by search, an upper limit); the nearest, {context.name(nearest)}, by "
            f"{100 * float(relative[nearest]):.2g}%, from "
            f"{context.subject.output_name(int(points.label[nearest]))} to "
            f"{context.subject.output_name(int(points.rival[nearest]))}.",
            place=context.name(nearest),
            next_step="Train with perturbed inputs, or ask a person to decide near the boundary."
            if middle < config.near_below
            else "",
        )
    )
    if certified:
        safe = [radius / float(points.distance[row]) for row, radius in certified.items()]
        wrong = [row for row, radius in certified.items() if radius > float(points.distance[row]) * (1 + 1e-6)]
        rules.append(
            Finding(
                "boundary.certified",
                Status.ERROR if wrong else Status.PASS,
                f"For {len(safe)} inputs no change below {np.median(safe):.1%} (median) of the distance found can "
                "alter the decision (guaranteed); the true distance lies between the two."
                if not wrong
                else f"A certified distance exceeds a boundary point of {context.name(wrong[0])}: one is wrong.",
                next_step="Report this with the model." if wrong else "",
            )
        )
    if context.labels is not None:
        rules += _right_and_wrong(context, relative)
    return tuple(rules)


def _right_and_wrong(context: Context, relative: Tensor) -> list[Finding]:
    assert context.labels is not None
    points = context.points
    right = points.found & (points.label == context.labels)
    wrong = points.found & ~right
    if int(wrong.sum()) < 5 or int(right.sum()) < 5:
        return []
    from scipy.stats import mannwhitneyu

    test = mannwhitneyu(relative[wrong].numpy(), relative[right].numpy(), alternative="less")
    nearer = test.pvalue < 0.05
    return [
        Finding(
            "boundary.wrong_inputs",
            Status.PASS,
            f"Wrongly classified inputs are {'' if nearer else 'not '}nearer to the boundary (median "
            f"{100 * float(relative[wrong].median()):.2g}% of their norm, right ones "
            f"{100 * float(relative[right].median()):.2g}%; "
            f"Mann-Whitney p = {test.pvalue:.2g}): distance {'tells' if nearer else 'does not tell'} doubtful ones.",
        )
    ]
