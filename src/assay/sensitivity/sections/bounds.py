"""The ladder: guaranteed and first-order limits of the response to an input change, beside the worst attack found."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from assay.grade import Grade
from assay.results import Column, Figure, Finding, Section, Status, Table
from assay.sensitivity.bounds.rungs import Ladder, Rung, ladder
from assay.sensitivity.sections.section import Context, correlation

_ROUNDINGS = 16
"""Units in the last place by which the norm of a difference of outputs may be off."""
_GUARANTEED = "guaranteed"
_BALL_UNITS = 20_000
"""Activations per input up to which certified balls, which hold matrices per input, are affordable."""

_COLUMNS = (
    Column("rung", "bound or estimate"),
    Column("kind", "kind"),
    Column("holds", "for"),
    Column("median", "value", "", Grade.BOUND, "Relative output change per relative input change, median over inputs."),
    Column("low", "smallest"),
    Column("high", "largest"),
    Column("over_attack", "over attack", "", Grade.SAMPLED, "Median of value / largest response that an attack found."),
    Column("correlation", "correlation", "", Grade.SAMPLED, "Of its logarithm with that of the attack, over inputs."),
    Column("exceeded", "exceeded", "count", Grade.SAMPLED, "Attacks above it; of a guarantee none may be."),
    Column("note", "note"),
)


def bounds(context: Context) -> Section:
    """Global bounds, certified balls, masked products and condition numbers, loose to tight, against the attack."""
    rows = context.picked(0.5)
    x, attacked = context.inputs[rows], context.attacked[rows].numpy()
    activations = sum(node.spec.size_per_sample for node in context.graph.layers)
    small = activations <= _BALL_UNITS
    found = ladder(
        context.subject,
        x,
        radii=(context.config.relative_sizes[0],) if small else (),
        groups=(1, 2, 3) if small else (1,) if not context.large else (),
        seed=context.config.seed,
    )
    rounding = torch.finfo(x.dtype).eps / context.config.relative_sizes[0]
    records = [_record(rung, attacked, rounding) for rung in found]
    table = Table.from_records(
        "bounds",
        "Ladder of bounds and estimates",
        _COLUMNS,
        records,
        f"From guaranteed and loose to tight and first order, over {len(x)} inputs, beside the strongest attack at "
        f"relative size {context.config.relative_sizes[0]:g}.",
    )
    return Section({"bounds": table}, (_figure(records),), _findings(found, records))


def _record(rung: Rung, attacked: np.ndarray, rounding: float) -> dict[str, Any]:
    # A response is measured in the model's own precision: outputs move by some units in the last place, and a change is
    # rounded as it is added to the input. Where a ball holds no kink its bound is attained, and only that tells them
    # apart. `rounding` is one such unit over the relative size of the change.
    guaranteed = rung.grade in (Grade.BOUND, Grade.EXACT)
    record: dict[str, Any] = {
        "rung": rung.name,
        "kind": _GUARANTEED if guaranteed else "first order",
        "holds": rung.holds,
        "note": rung.note,
    }
    if rung.value is None:
        return record
    values = rung.value.double().numpy()
    seen = (attacked > 0) & (values > 0)
    record |= {"median": float(np.median(values)), "low": float(values.min()), "high": float(values.max())}
    if seen.any():
        record["over_attack"] = float(np.median(values[seen] / attacked[seen]))
    record["correlation"] = correlation(values, attacked)
    record["exceeded"] = int((attacked > values * (1 + 1e-6 + rounding) + _ROUNDINGS * rounding).sum())
    return record


def _figure(records: list[dict[str, Any]]) -> Figure:
    shown = [record for record in records if record.get("over_attack") is not None]
    return Figure(
        "bars",
        "How far each rung lies above the worst attack",
        "Median over inputs of bound or estimate over the largest response found. 1 is tight.",
        {
            "labels": [f"{record['rung']}, {record['kind']}" for record in shown],
            "series": [{"label": "value / attack", "values": [record["over_attack"] for record in shown]}],
            "x_label": "value / attack",
            "y_label": "",
            "horizontal": True,
            "x_log": True,
        },
    )


def _findings(found: Ladder, records: list[dict[str, Any]]) -> tuple[Finding, ...]:
    guarantees = [record for record in records if record["kind"] == _GUARANTEED and record.get("median") is not None]
    if not guarantees:
        reason = next((rung.note for rung in found if rung.name == "global"), "")
        return (
            Finding(
                "sensitivity.guarantee",
                Status.PASS,
                f"No bound holds for all inputs of this model: {reason} Condition numbers hold to first order only.",
            ),
        )
    broken = sum(record["exceeded"] for record in guarantees)
    if broken:
        return (
            Finding(
                "sensitivity.guarantee",
                Status.ERROR,
                f"{broken} attacks exceed a bound that should be guaranteed.",
                next_step="Report this: a guaranteed bound must never be exceeded.",
            ),
        )
    best = min(guarantees, key=lambda record: record["median"])
    everywhere = next((record for record in guarantees if record["rung"] == "global"), best)
    sentence = (
        f"Guaranteed: a relative input change of any size grows at most {everywhere['median']:.3g}-fold (median over "
        f"inputs), {everywhere.get('over_attack', float('nan')):.3g} times the worst attack found"
    )
    if best is not everywhere:
        sentence += f"; for {best['holds']} at most {best['median']:.3g}-fold"
    return (Finding("sensitivity.guarantee", Status.PASS, sentence + "."),)
