"""Tables of the moments analysis."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from assay.grade import Grade
from assay.moments.evidence import Evidence, Level, noise_floor
from assay.results import Column, Table

_SHOWN_OUTPUTS = 64


@dataclass(frozen=True)
class Agreement:
    """Propagated against sampled numbers.

    Attributes:
        error: mean absolute error of the mean against sampling, in output deviations.
        floor: what the sampling noise of the referee alone gives.
        net: root mean square error with the sampling noise removed; 0 where it drowns in the noise.
        ratio: propagated over sampled variance.
        ratio_low: lower end of its 95 % interval over inputs.
        ratio_high: upper end.
    """

    error: float
    floor: float
    net: float
    ratio: float
    ratio_low: float
    ratio_high: float


def agreement(level: Level, draws: int, chosen: Tensor | None = None) -> Agreement | None:
    """How propagated moments agree with sampling, over all followed outputs or a chosen (n, m) part of them.

    The variance ratio is the inverse of the mean of sampled / propagated, since only the sampled variance is noisy.

    Returns:
        The comparison; None without a check by sampling.
    """
    if level.sampled_mean is None or level.sampled_variance is None or draws < 2:
        return None
    positive = (level.variance > 0) & (level.sampled_variance > 0)
    chosen = positive if chosen is None else positive & chosen
    if not bool(chosen.any()):
        return None
    scaled = ((level.mean - level.sampled_mean) / level.sampled_variance.clamp(min=1e-300).sqrt())[chosen].double()
    inverse = (level.sampled_variance / level.variance.clamp(min=1e-300)).double()
    rows = torch.stack([inverse[i][chosen[i]].mean() for i in range(len(inverse)) if bool(chosen[i].any())])
    centre = float(inverse[chosen].mean())
    spread = 1.96 * float(rows.std()) / len(rows) ** 0.5 if len(rows) > 1 else math.nan
    mean_square = float(scaled.square().mean()) - 1 / draws
    return Agreement(
        float(scaled.abs().mean()),
        noise_floor(draws),
        math.sqrt(max(mean_square, 0.0)),
        1 / centre,
        1 / (centre + spread) if spread == spread else math.nan,
        1 / (centre - spread) if spread == spread and centre > spread else math.nan,
    )


def level_table(evidence: Evidence) -> Table:
    """One row per noise level."""
    grade = evidence.levels[-1].grade
    columns = [
        Column("share", "noise", "of range", None, "deviation of the noise as a share of the value range"),
        Column("method", "method"),
        Column("std", "output sd", "output", grade, "mean deviation of the followed outputs"),
    ]
    if evidence.classifier:
        columns.append(Column("flip", "P(flip)", "", grade, "mean probability that the decision changes"))
        columns.append(Column("measured", "measured flips", "", Grade.SAMPLED, "share of draws whose decision changed"))
    columns += [
        Column("error", "mean error", "output sd", Grade.SAMPLED, "mean absolute error of the mean against sampling"),
        Column(
            "floor",
            "sampling noise",
            "output sd",
            Grade.SAMPLED,
            "error that sampling alone has at this number of draws",
        ),
        Column(
            "net", "net error", "output sd", Grade.SAMPLED, "root mean square error with the sampling noise removed"
        ),
        Column("ratio", "variance ratio", "", Grade.SAMPLED, "propagated over sampled variance"),
        Column("low", "from", "", Grade.SAMPLED, "lower end of the 95 % interval over inputs"),
        Column("high", "to", "", Grade.SAMPLED, "upper end"),
    ]
    records = []
    for level in evidence.levels:
        record = {"share": level.share, "method": level.method, "std": float(level.variance.clamp(min=0).sqrt().mean())}
        if evidence.classifier:
            record["flip"] = float(level.flip.mean())
            record["measured"] = None if level.sampled_flip is None else float(level.sampled_flip.mean())
        found = agreement(level, evidence.draws)
        if found is not None:
            record |= {
                "error": found.error,
                "floor": found.floor,
                "net": found.net,
                "ratio": found.ratio,
                "low": found.ratio_low,
                "high": found.ratio_high,
            }
        records.append(record)
    caption = f"Means over {len(evidence.rows)} inputs; sampling used {evidence.draws} draws per input and level."
    return Table.from_records("levels", "Noise levels", columns, records, caption)


def output_table(evidence: Evidence) -> Table:
    """One row per output and level: predicted against sampled mean and variance."""
    columns = [
        Column("output", "class" if evidence.classifier else "output"),
        Column("share", "noise", "of range"),
        Column("count", "inputs", "", None, "inputs among whose followed outputs it is"),
        Column("mean", "mean", "output", evidence.levels[-1].grade, "propagated mean, averaged over these inputs"),
        Column("sampled_mean", "sampled mean", "output", Grade.SAMPLED),
        Column("std", "sd", "output", evidence.levels[-1].grade, "root of the averaged propagated variance"),
        Column("sampled_std", "sampled sd", "output", Grade.SAMPLED),
        Column(
            "error",
            "mean error",
            "output sd",
            Grade.SAMPLED,
            "mean absolute error against sampling, its noise included",
        ),
        Column("ratio", "variance ratio", "", Grade.SAMPLED, "propagated over sampled variance"),
    ]
    counts = torch.bincount(evidence.outputs.reshape(-1), minlength=evidence.clean.shape[1])
    shown = counts.argsort(descending=True, stable=True)[:_SHOWN_OUTPUTS]
    shown = [int(i) for i in shown.sort().values if counts[i] > 0]
    records = [_output_record(evidence, level, index) for level in evidence.levels for index in shown]
    caption = "All outputs." if len(shown) == evidence.clean.shape[1] else "The outputs most often among the largest."
    return Table.from_records(
        "outputs", "Per class" if evidence.classifier else "Per output", columns, records, caption
    )


def _output_record(evidence: Evidence, level: Level, index: int) -> dict[str, object]:
    chosen = evidence.outputs == index
    record: dict[str, object] = {
        "output": evidence.subject.output_name(index),
        "share": level.share,
        "count": int(chosen.any(1).sum()),
        "mean": float(level.mean[chosen].mean()),
        "std": float(level.variance[chosen].mean().clamp(min=0).sqrt()),
    }
    found = agreement(level, evidence.draws, chosen)
    if found is not None and level.sampled_mean is not None and level.sampled_variance is not None:
        record |= {
            "sampled_mean": float(level.sampled_mean[chosen].mean()),
            "sampled_std": float(level.sampled_variance[chosen].mean().sqrt()),
            "error": found.error,
            "ratio": found.ratio,
        }
    return record


def input_table(evidence: Evidence) -> Table:
    """One row per input, at every level."""
    targets = evidence.subject.data.targets if evidence.subject.data is not None else None
    grade = evidence.levels[-1].grade
    columns = [Column("input", "input", "", None, "row in the data")]
    if evidence.classifier:
        columns += [Column("label", "label"), Column("decision", "decision"), Column("rival", "likeliest other")]
        for level in evidence.levels:
            columns.append(Column(f"flip_{level.share:g}", f"P(flip) at {level.share:g}", "", grade))
        columns.append(Column("measured", "measured", "", Grade.SAMPLED, "share of flipped draws at the largest noise"))
    else:
        for level in evidence.levels:
            columns.append(Column(f"std_{level.share:g}", f"sd at {level.share:g}", "output", grade))
    name = evidence.subject.output_name
    records = []
    for i, row in enumerate(evidence.rows.tolist()):
        record: dict[str, object] = {"input": row}
        for level in evidence.levels:
            if evidence.classifier:
                record[f"flip_{level.share:g}"] = float(level.flip[i])
            else:
                record[f"std_{level.share:g}"] = float(level.variance[i].clamp(min=0).sqrt().mean())
        last = evidence.levels[-1]
        if evidence.classifier:
            record["label"] = None if targets is None else name(int(targets[row]))
            record["decision"] = name(int(evidence.outputs[i, 0]))
            if last.argmax.shape[1] > 1:
                record["rival"] = name(int(evidence.outputs[i, 1 + int(last.argmax[i, 1:].argmax())]))
            record["measured"] = None if last.sampled_flip is None else float(last.sampled_flip[i])
        records.append(record)
    return Table.from_records("inputs", "Inputs", columns, records)


def layer_table(evidence: Evidence) -> Table:
    """One row per layer at the largest noise level; colours the graph."""
    level = evidence.levels[-1]
    columns = [
        Column("node", "node", node=True),
        Column("place", "layer"),
        Column(
            "noise_per_signal",
            "noise per signal",
            "",
            level.grade,
            "root mean variance over root mean square of the means",
            lens="Noise growth (noise over signal)",
        ),
        Column("noise_sd", "noise sd", "activation", level.grade, "root of the mean variance of the units"),
        Column(
            "new_noise",
            "new noise",
            "share",
            level.grade,
            "share of the variance that this non-linearity made independent",
        ),
        *_shape_columns(level),
        Column("grade", "grade", "", None, "reliability of this layer's numbers"),
    ]
    records = [
        {
            "node": row.node,
            "skewness": row.skewness,
            "excess": row.excess,
            "place": row.place,
            "noise_per_signal": row.relative,
            "noise_sd": math.sqrt(max(row.variance, 0.0)),
            "new_noise": row.innovation_share,
            "grade": row.grade.label,
        }
        for row in level.layers
    ]
    if not _shape_columns(level):
        records = [{key: value for key, value in row.items() if key not in ("skewness", "excess")} for row in records]
    caption = f"At noise {level.share:g} of the range, averaged over inputs and units."
    return Table.from_records("layers", "Noise through the layers", columns, records, caption)


def _shape_columns(level: Level) -> list[Column]:
    if all(row.skewness is None for row in level.layers):
        return []
    return [
        Column("skewness", "skewness", "", level.grade, "largest standardised third cumulant of what this layer bends"),
        Column("excess", "excess", "", level.grade, "largest standardised fourth cumulant; 0 for a Gaussian"),
    ]
