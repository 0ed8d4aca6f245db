"""How many bits: the fewest that keep each decision, and a format for every layer under a budget, run for real."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from assay.errors import AssayError, UsageError
from assay.grade import Grade
from assay.results import Column, Figure, Finding, Quantity, Section, Status, Table
from assay.sensitivity.bits.minimal import MinimalBits, minimal_bits
from assay.sensitivity.bits.plan import Plan, bit_widths
from assay.sensitivity.sections.section import Context

_AGREEMENT = 0.98
_ENOUGH = 40
"""Inputs from which half of them can be kept out of the choosing."""
_BAND = "5th to 95th percentile over inputs"


def bits(context: Context) -> Section:
    """Minimal significand bits by the margin rule beside brute force, and mixed-precision weights within a budget."""
    parts = [_minimal(context)] if context.subject.output_count > 1 and context.subject.task == "classification" else []
    parts.append(_plan(context))
    return Section(
        {name: table for part in parts for name, table in part.tables.items()},
        tuple(figure for part in parts for figure in part.figures),
        tuple(finding for part in parts for finding in part.findings),
        {name: quantity for part in parts for name, quantity in part.summary.items()},
        tuple(warning for part in parts for warning in part.warnings),
        {name: array for part in parts for name, array in part.arrays.items()},
    )


def _minimal(context: Context) -> Section:
    x = context.inputs[context.picked()]
    rivals = min(5, context.subject.output_count - 1)
    found = minimal_bits(context.subject, x, rivals=rivals, significands=range(1, 25 if not context.large else 13))
    assert found.true_bits is not None
    true = found.true_bits.numpy()
    arrays = {"bits_by_input": found.bits.numpy().astype(np.float64), "bits_by_input_true": true.astype(np.float64)}
    label = "significand bits that keep a decision, 3 sigma"
    summary = {
        "minimal_bits": _bits(arrays, "bits_by_input", Grade.STATISTICAL, label),
        "minimal_bits_true": _bits(arrays, "bits_by_input_true", Grade.SAMPLED, "the same by brute force"),
    }
    under = float(found.under_predicted or 0)
    overhead = found.overhead
    sentence = (
        f"{found.network:g} significand bits (the implicit one included) keep all {len(x)} decisions by the 3-sigma "
        f"margin rule; rounding for real, {_whole(true)} do"
        + (f". The rule asks for {overhead:.2g} bits more than needed on average" if overhead is not None else "")
        + (f", and for too few on {under:.0%} of the inputs." if under else ", and never for too few.")
    )
    status = Status.WARN if under else Status.PASS
    next_step = "Add a bit, or use rule='first-order'." if under else ""
    finding = Finding("sensitivity.minimal_bits", status, sentence, next_step=next_step)
    return Section({}, (_flips(found),), (finding,), summary, arrays=arrays)


def _bits(arrays: Mapping[str, np.ndarray], name: str, grade: Grade, label: str) -> Quantity:
    """Median and 90 % range; inf where no number of bits does."""
    low, middle, high = np.quantile(arrays[name], (0.05, 0.5, 0.95), method="nearest")
    return Quantity(
        float(middle), grade, "bit", f"{label} (median)", float(low), float(high), _BAND, "lower", f"{name}.median"
    )


def _whole(true: np.ndarray) -> str:
    return f"{int(true.max())}" if np.isfinite(true).all() else "more than were tried"


def _flips(found: MinimalBits) -> Figure:
    tried = sorted(found.flip_rate)
    shown = [t for t in tried if t <= 12]
    series = [
        {"label": "expected (Gaussian tails)", "y": [min(1.0, found.flip_rate[t]) for t in shown]},
        {"label": "expected at most (Chebyshev)", "y": [min(1.0, found.flip_rate_chebyshev[t]) for t in shown]},
    ]
    if found.true_flip_rate is not None:
        series.append({"label": "rounded for real", "y": [found.true_flip_rate[t] for t in shown]})
    return Figure(
        "lines",
        "Decisions changed by the number of significand bits",
        "Weights, biases, input and activations all stored with t bits, implicit one included: bf16 has 8, fp16 11.",
        {"x": shown, "series": series, "x_label": "significand bits t", "y_label": "share of decisions changed"},
    )


def _plan(context: Context) -> Section:
    config = context.config
    data = context.subject.data
    assert data is not None
    rows = np.linspace(0, len(data) - 1, min(len(data), config.bits_inputs)).round().astype(int)
    inputs = data.inputs[rows]
    labelled = context.subject.task == "classification" and data.targets is not None
    try:
        plan = bit_widths(
            context.subject,
            (inputs, data.targets[rows]) if labelled and data.targets is not None else inputs,
            budget=config.average_bits,
            samples=min(64, 8 if context.large else len(inputs)),
            seed=config.seed,
            holdout=0.5 if len(inputs) >= _ENOUGH else 0.0,
        )
    except UsageError as error:
        return Section(warnings=(f"No bit widths were chosen: {error.what}",))
    table = _widths(plan)
    summary = {
        "bits": Quantity(
            float(max(table.column("bits"))), Grade.SAMPLED, "bit", "most bits of a layer in the plan", better="lower",
            basis="widths.bits.max",
        ),
        "plan_bits": Quantity(
            plan.average_bits, Grade.EXACT, "bit", "average bits per weight of the plan", better="lower"
        ),
        "plan_error": Quantity(
            plan.verified.relative_error, Grade.SAMPLED, "share", "relative output error of the plan, run for real",
            better="lower",
        ),
    }  # fmt: skip
    if plan.uniform is not None:
        summary["uniform_error"] = Quantity(
            plan.uniform.relative_error, Grade.SAMPLED, "share", f"the same with {plan.uniform_format} in every layer",
            better="lower",
        )  # fmt: skip
    return Section({"widths": table}, _curve(plan), (_finding(plan),), summary, plan.notes)


def _widths(plan: Plan) -> Table:
    reader = {name: node.name for node in plan.problem.graph for name in node.inputs if name is not None}
    records: list[dict[str, Any]] = []
    for group, target in plan.problem.of(plan.options):
        if group.kind == "weights":
            records.append(
                {
                    "node": reader[group.node],
                    "place": group.name,
                    "bits": target.bits,
                    "format": target.name,
                    "weights": group.size,
                }
            )
    return Table.from_records(
        "widths",
        "Bits for the weights of each layer",
        (
            Column("node", "node", node=True),
            Column("place", "layer"),
            Column(
                "bits",
                "bits",
                "bit",
                Grade.SAMPLED,
                "Chosen from predictions; the whole plan was run for real.",
                lens="Bits chosen for the weights",
            ),
            Column("format", "format"),
            Column("weights", "weights", "", Grade.EXACT, "How many."),
        ),
        records,
        f"{plan.average_bits:.3g} bits per weight on average, {plan.kind}; biases and activations exact.",
    )


def _curve(plan: Plan) -> tuple[Figure, ...]:
    try:
        points = plan.pareto
    except AssayError:
        return ()
    if len(points) < 2:
        return ()
    return (
        Figure(
            "lines",
            "Predicted output error against size",
            "The best mix of formats for every size; first order.",
            {
                "x": [point.cost for point in points],
                "series": [{"label": "mixed", "y": [point.predicted for point in points]}],
                "x_label": "average bits per weight",
                "y_label": "relative output error",
                "y_log": True,
            },
        ),
    )


def _finding(plan: Plan) -> Finding:
    found, beside = plan.held or plan.verified, plan.uniform
    kept = "" if found.agreement is None else f"keeps {found.agreement:.1%} of the decisions and "
    where = "inputs that had no part in choosing" if plan.held is not None else "inputs that it was chosen by"
    sentence = (
        f"With {plan.average_bits:.3g} bits per weight the quantised network, run for real, {kept}has a relative "
        f"output error of {found.relative_error:.2g} on {found.samples} {where}."
    )
    if beside is not None and plan.kind == "mixed":
        sentence += (
            f" Where it was chosen its error is {plan.verified.relative_error:.2g}, with "
            f"{plan.uniform_format} everywhere {beside.relative_error:.2g}."
        )
    low = found.agreement is not None and found.agreement < _AGREEMENT
    return Finding(
        "sensitivity.bit_widths",
        Status.WARN if low else Status.PASS,
        sentence,
        next_step="Allow more bits: --sensitivity.average-bits." if low else "",
    )
