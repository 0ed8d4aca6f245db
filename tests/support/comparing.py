"""Made-up runs to compare: a table of inputs, quantities that sum it up, quantities with intervals of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from assay.grade import Grade
from assay.intervals import wilson
from assay.results import Audit, Column, Finding, Provenance, Quantity, Result, Status, Table

DIGEST = "d" * 64


def provenance(name: str = "probe", *, digest: str = DIGEST, seed: int = 0, **config: Any) -> Provenance:
    """Where a made-up result comes from."""
    return Provenance(name, "net", "m" * 64, "data", digest, config, seed, {"assay": "1", "torch": "2", "threads": "1"})


def measured(
    columns: Mapping[str, Sequence[float | None]],
    *,
    inputs: Sequence[Any] | None = None,
    statistic: str = "median",
    shares: Mapping[str, tuple[float, int]] | None = None,
    findings: Sequence[Finding] = (),
    layers: Mapping[str, float] | None = None,
    **about: Any,
) -> Audit:
    """A run of one analysis.

    Args:
        columns: values of the inputs by name; smaller is better.
        inputs: what the inputs are called; counted when None.
        statistic: of the columns, for the summary.
        shares: measured shares and their trials, by name; larger is better, intervals by Wilson.
        findings: of the analysis.
        layers: one number per layer.
        **about: for `provenance`.
    """
    rows = list(zip(*columns.values(), strict=True))
    names = list(inputs) if inputs is not None else list(range(len(rows)))
    head = (Column("input"), *(Column(name, name, "", Grade.LINEARISED) for name in columns))
    table = Table("inputs", "Inputs", head, tuple((name, *row) for name, row in zip(names, rows, strict=True)))
    summary = {
        name: Quantity(
            float(getattr(np, statistic)([value for value in values if value is not None])),
            Grade.LINEARISED,
            "",
            f"{statistic} {name}",
            better="lower",
            basis=f"inputs.{name}.{statistic}",
        )
        for name, values in columns.items()
    }
    for name, (share, count) in (shares or {}).items():
        ends = wilson(share, count)
        summary[name] = Quantity(share, Grade.SAMPLED, "share", name, *ends, "95 % Wilson", "higher", "", 0.95)
    tables = {"inputs": table}
    if layers is not None:
        columns_ = (Column("node", "node", node=True), Column("place", "layer"), Column("gain", "", "", Grade.EXACT))
        tables["layers"] = Table("layers", "Layers", columns_, tuple((f"n{k}", k, v) for k, v in layers.items()))
    result = Result("probe", "Probe", "?", summary, tables, findings=tuple(findings), provenance=provenance(**about))
    return Audit({"name": "net", "model_digest": "m" * 64, "data": "data"}, {"probe": result})


def finding(rule: str, status: Status) -> Finding:
    """A finding that says which status it has."""
    return Finding(rule, status, f"{rule} is {status.value}")
