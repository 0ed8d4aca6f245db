"""Number formats: the error they bring to the outputs, by three estimators and by really rounding, layer by layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from assay.errors import AssayError
from assay.grade import Grade
from assay.results import Column, Figure, Finding, Section, Status, Table
from assay.sensitivity.bits.margins import flip_probability
from assay.sensitivity.roundoff import Precision, layer_exponent_bits, simulate
from assay.sensitivity.roundoff.estimate import RoundoffError, roundoff_error
from assay.sensitivity.sections.section import Context, correlation

_RIVALS = 5
_SHOWN = 20
_ESTIMATORS = ("E4", "E3", "E2")
_TRUSTED = (0.5, 2.0)

_COLUMNS = (
    Column("format", "format"),
    Column("bits", "bits", "bit", None, "Storage of one number."),
    Column("flips", "decisions changed", "share", Grade.SAMPLED, "Really rounded: share of changed top outputs."),
    Column(
        "measured", "error", "output", Grade.SAMPLED, "Really rounded: root mean square change of a logit difference."
    ),
    Column("E4", "statistical / measured", "", Grade.STATISTICAL, "Standard deviation by the adjoint; 1 is right."),
    Column(
        "correlation", "correlation", "", Grade.SAMPLED, "Of the logarithms of E4 and the measured error, by input."
    ),
    Column("E3", "first-order bound / measured", "", Grade.LINEARISED, "Median over inputs of bound over error."),
    Column("E2", "guaranteed bound / measured", "", Grade.BOUND, "Median over inputs of the running bound over error."),
    Column("violations", "guarantee broken", "count", Grade.SAMPLED, "Errors above the guaranteed bound: must be 0."),
    Column("expected_flips", "changes expected", "share", Grade.STATISTICAL, "Sum of Gaussian tails over rivals."),
)


def roundoff(context: Context) -> Section:
    """Weights, biases, input and every stored activation in each of the formats; sums are exact."""
    x = context.inputs[context.picked()]
    names = context.config.formats
    records: list[dict[str, Any]] = []
    shares: dict[str, RoundoffError] = {}
    notes: list[str] = []
    for name in names:
        try:
            record, found = _one(context, x, name)
        except AssayError as error:
            notes.append(f"Format {name}: {error.what}")
            continue
        records.append(record)
        shares[name] = found
    if not records:
        return Section(warnings=tuple(notes))
    table = Table.from_records(
        "formats",
        "Number formats",
        _COLUMNS,
        records,
        f"Everything stored in one format (weights, biases, input, activations; sums exact), over {len(x)} inputs and "
        f"differences of the top output and its {_rivals(context)} closest rivals.",
    )
    layers = _layers(context, x, next(iter(shares)), next(iter(shares.values())))
    tables = {"formats": table} | ({} if layers is None else {"precision": layers})
    figures = () if layers is None else (_figure(layers, next(iter(shares))),)
    return Section(tables, figures, _findings(records), {}, tuple(notes))


def _rivals(context: Context) -> int:
    return min(_RIVALS, context.subject.output_count - 1)


def _one(context: Context, x: Tensor, name: str) -> tuple[dict[str, Any], RoundoffError]:
    precision = Precision.uniform(name)
    pairs = _rivals(context) or None
    rounded = simulate(context.subject, x, precision, allow_overflow=True)
    found = {
        estimator: roundoff_error(
            context.subject,
            x,
            precision,
            estimator=estimator,
            pairs=pairs,
            by_layer=estimator == "E4",
            batch_size=1 if context.large else None,
        )
        for estimator in _ESTIMATORS
    }
    exact = found["E4"]
    change = _pairs(rounded - exact.outputs, exact).numpy()
    size = np.abs(change)
    finite = np.isfinite(size).all(1)
    typical = float(np.sqrt(np.square(size[finite]).mean())) if finite.any() else math.inf
    record: dict[str, Any] = {"format": name, "bits": Precision.uniform(name).weights.bits, "measured": typical}  # type: ignore[union-attr]
    deviation = exact.error.numpy()
    if finite.any() and typical > 0:
        record["E4"] = float(np.sqrt(np.square(deviation[finite]).mean())) / typical
        record["correlation"] = correlation(*(np.square(v[finite]).mean(1) for v in (deviation, size)))
        for estimator in ("E3", "E2"):
            bound = found[estimator].error.numpy()[finite]
            record[estimator] = float(np.median(bound.max(1) / np.maximum(size[finite].max(1), 1e-300)))
    # rounding in the simulator's double precision itself is allowed for
    slack = 1e-9 * float(exact.outputs.abs().max())
    record["violations"] = int((size > found["E2"].error.numpy() * (1 + 1e-9) + slack).sum())
    if pairs is not None:
        flipped = (rounded.argmax(1) != exact.outputs.argmax(1)).double()
        record["flips"] = float(flipped.mean())
        record["expected_flips"] = float(flip_probability(exact.error, exact.margins).mean())
    return record, exact


def _pairs(values: Tensor, found: RoundoffError) -> Tensor:
    if found.rivals is None:
        return values
    top = found.outputs.argmax(1, keepdim=True)
    return values.gather(1, top) - values.gather(1, found.rivals)


def _layers(context: Context, x: Tensor, name: str, found: RoundoffError) -> Table | None:
    if found.contributions is None:
        return None
    squares = found.contributions.square().sum(1)  # (B, L)
    share = (squares / squares.sum(1, keepdim=True).clamp(min=1e-300)).mean(0)
    ranges = layer_exponent_bits(context.subject, x, 8)
    records = []
    for index, node in enumerate(found.layers):
        row = ranges.get(node)
        records.append(
            {
                "node": node,
                "place": context.graph[node].place if index else "input",
                "share": float(share[index]),
                "exponent_bits": None if row is None else row.ieee_bits,
                "largest": None if row is None else row.largest,
            }
        )
    return Table.from_records(
        "precision",
        "Where precision is lost",
        (
            Column("node", "node", node=True),
            Column("place", "layer"),
            Column(
                "share",
                f"share of the {name} error",
                "share",
                Grade.STATISTICAL,
                "Of the variance of the outputs.",
                lens=f"Share of the rounding error in {name}",
            ),
            Column(
                "exponent_bits", "exponent bits", "bit", Grade.EXACT, "Fewest that hold these activations, as IEEE."
            ),
            Column("largest", "largest value", "", Grade.EXACT, "Of the activations over these inputs."),
        ),
        records,
        f"What rounding each layer's weights and result to {name} adds to the error, over {len(x)} inputs.",
    )


def _figure(layers: Table, name: str) -> Figure:
    pairs = sorted(zip(layers.column("share"), layers.column("place"), strict=True), reverse=True)[:_SHOWN]
    return Figure(
        "bars",
        f"Where {name} loses precision",
        "Share of the variance of the outputs' round-off error that each layer brings in; the largest first.",
        {
            "labels": [place for _, place in pairs],
            "series": [{"label": "share", "values": [share for share, _ in pairs]}],
            "x_label": "share of the variance",
            "y_label": "",
            "horizontal": True,
        },
    )


def _findings(records: Sequence[dict[str, Any]]) -> tuple[Finding, ...]:
    broken = sum(record["violations"] for record in records)
    guarantee = Finding(
        "sensitivity.roundoff_guarantee",
        Status.PASS if broken == 0 else Status.ERROR,
        f"No measured error exceeds its guaranteed bound, over {len(records)} formats."
        if broken == 0
        else f"{broken} measured errors exceed a bound that should be guaranteed.",
        next_step="" if broken == 0 else "Report this: a guaranteed bound must never be exceeded.",
    )
    kept = [record for record in records if record.get("flips") == 0]
    ratios = {record["format"]: record["E4"] for record in records if record.get("E4") is not None}
    off = {name: ratio for name, ratio in ratios.items() if not _TRUSTED[0] <= ratio <= _TRUSTED[1]}
    said = ", ".join(f"{name} {ratio:.2g}" for name, ratio in ratios.items())
    trust = Finding(
        "sensitivity.roundoff_estimate",
        Status.WARN if off else Status.PASS,
        f"Statistical round-off estimate over the measured error: {said}.",
        next_step="Where it is far from 1, values overflow or vanish in that format, or rounding is too coarse for "
        "first order: go by the measured error."
        if off
        else "",
    )
    if not any("flips" in record for record in records):
        return guarantee, trust
    fewest = min(kept, key=lambda record: record["bits"], default=None)
    sentence = (
        f"The smallest of the formats that changes none of the decisions is {fewest['format']} ({fewest['bits']} bits)."
        if fewest
        else "Every one of the formats changes some of the decisions."
    )
    return guarantee, trust, Finding("sensitivity.safe_format", Status.PASS, sentence)
