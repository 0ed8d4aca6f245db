"""Tables of the sensitivity analysis: one row per input, per size of change, per class."""

from __future__ import annotations

from typing import Any

import numpy as np

from assay.grade import Grade
from assay.results import Column, Table
from assay.sensitivity.evidence import Evidence, finite, percentiles

PREDICTED = Grade.LINEARISED
MEASURED = Grade.SAMPLED


def input_table(evidence: Evidence) -> Table:
    """One row per input, the most fragile first."""
    subject, sizes = evidence.subject, evidence.config.relative_sizes
    columns = [Column("input", "input", description="Place in the data, counted from 0.")]
    if evidence.labels is not None:
        columns += [
            Column("class", "class", description="Target class; the predicted one where the data have no targets."),
            Column("predicted", "predicted", description="Predicted class."),
        ]
    columns += [
        Column("condition_number", "κ", "", PREDICTED, "Worst relative output change per relative input change."),
        Column("condition_number_rms", "κ rms", "", PREDICTED, "The same, root mean square over random directions."),
        Column("bits_lost", "bits lost", "bit", PREDICTED, "log2 κ: relative precision lost from input to output."),
        Column("jacobian_norm", "‖J‖", "output per input unit", PREDICTED, "Largest singular value of the Jacobian."),
        Column("output_norm", "‖f(x)‖", "", Grade.EXACT, "Norm of the output: a small one makes κ large."),
    ]
    for size in sizes:
        columns += [
            Column(
                f"noise_{size:g}", f"noise at {size:g}", "", MEASURED, "Measured RMS response to random directions."
            ),
            Column(
                f"attack_{size:g}",
                f"attack at {size:g}",
                "",
                MEASURED,
                "Largest response found: the worst is no smaller.",
            ),
        ]
    records: list[dict[str, Any]] = []
    for row in np.argsort(-evidence.kappa, kind="stable"):
        kappa = float(evidence.kappa[row])
        record: dict[str, Any] = {
            "input": evidence.positions[row],
            "condition_number": kappa,
            "condition_number_rms": float(evidence.kappa_rms[row]),
            "bits_lost": float(np.log2(kappa)) if kappa > 0 else None,
            "jacobian_norm": float(evidence.numbers.jacobian_norm[row]),
            "output_norm": float(evidence.numbers.output_norm[row]),
        }
        if evidence.labels is not None and evidence.predicted is not None:
            record["class"] = subject.output_name(evidence.labels[row])
            record["predicted"] = subject.output_name(evidence.predicted[row])
        for column, size in enumerate(sizes):
            record[f"noise_{size:g}"] = float(evidence.noise.rms[row, column])
            record[f"attack_{size:g}"] = float(evidence.attack.amplification[row, column])
        records.append(record)
    return Table.from_records(
        "inputs",
        "Condition number of every input",
        columns,
        records,
        "Responses are relative output change per relative input change, so they compare directly with κ.",
    )


def size_table(evidence: Evidence) -> Table:
    """One row per relative size: how well the predictions meet the measurements."""
    band = "over inputs"
    columns = (
        Column("size", "relative size", description="Norm of the input change as a share of the input's norm."),
        Column(
            "over_attack", "κ / attack", "", MEASURED, "Median of prediction / worst measured; below 1 κ was exceeded."
        ),
        Column("over_attack_low", "5 %", "", MEASURED, f"5th percentile {band}."),
        Column("over_attack_high", "95 %", "", MEASURED, f"95th percentile {band}."),
        Column(
            "agreeing",
            "agreeing",
            "share",
            MEASURED,
            f"Inputs with κ / attack within ±{evidence.config.agreement:g} of 1.",
        ),
        Column("exceeded", "κ exceeded", "share", MEASURED, "Inputs whose attack went more than 0.1 % above κ."),
        Column("largest_excess", "largest attack / κ", "", MEASURED, "How far above κ the attack went at most."),
        Column(
            "over_noise", "κ rms / noise", "", MEASURED, "Median of prediction / measured RMS over random directions."
        ),
        Column("over_noise_low", "5 %", "", MEASURED, f"5th percentile {band}."),
        Column("over_noise_high", "95 %", "", MEASURED, f"95th percentile {band}."),
        Column(
            "understatement", "attack / random max", "", MEASURED, "By how much random directions understate the worst."
        ),
    )
    records = []
    for column, size in enumerate(evidence.config.relative_sizes):
        low, middle, high = percentiles(evidence.over_attack[:, column])
        noise_low, noise_middle, noise_high = percentiles(evidence.over_noise[:, column])
        records.append(
            {
                "size": size,
                "over_attack": middle,
                "over_attack_low": low,
                "over_attack_high": high,
                "agreeing": float(evidence.agreeing[:, column].mean()),
                "exceeded": exceeded_share(evidence, column),
                "largest_excess": finite(largest_excess(evidence, column)),
                "over_noise": noise_middle,
                "over_noise_low": noise_low,
                "over_noise_high": noise_high,
                "understatement": percentiles(evidence.understatement[:, column])[1],
            }
        )
    return Table.from_records(
        "sizes",
        "Prediction against measurement, by size of the change",
        columns,
        records,
        "κ is the limit for small changes, not an upper bound: at a finite size an attack may exceed it.",
    )


def class_table(evidence: Evidence) -> Table | None:
    """One row per class, the most sensitive first; None for regression."""
    if evidence.labels is None:
        return None
    labels = np.asarray(evidence.labels)
    kind = "target" if evidence.labels_are_targets else "predicted"
    columns = (
        Column("class", "class", description=f"The {kind} class."),
        Column("inputs", "inputs", description="Number of inputs."),
        Column("condition_number", "median κ", "", PREDICTED, "Median worst-case condition number."),
        Column("low", "smallest κ", "", PREDICTED),
        Column("high", "largest κ", "", PREDICTED),
        Column("condition_number_rms", "median κ rms", "", PREDICTED, "Median mean-square condition number."),
    )
    records = []
    for label in np.unique(labels).tolist():
        members = evidence.kappa[labels == label]
        records.append(
            {
                "class": evidence.subject.output_name(label),
                "inputs": len(members),
                "condition_number": float(np.median(members)),
                "low": float(members.min()),
                "high": float(members.max()),
                "condition_number_rms": float(np.median(evidence.kappa_rms[labels == label])),
            }
        )
    records.sort(key=lambda record: -record["condition_number"])
    return Table.from_records("classes", f"Condition number by {kind} class", columns, records)


def largest_excess(evidence: Evidence, column: int) -> float:
    """Largest attack / kappa at one size; infinity where a zero prediction met a response."""
    worst = float(evidence.over_attack[:, column].min())
    return 1 / worst if worst > 0 else float("inf")


def exceeded_share(evidence: Evidence, column: int) -> float:
    """Share of inputs whose attack went more than 0.1 % above kappa at one size."""
    return float((evidence.over_attack[:, column] < 1 / 1.001).mean())
