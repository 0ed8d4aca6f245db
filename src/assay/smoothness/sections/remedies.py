"""What pools and activations without kinks would gain: predicted from the network as it is, measured by the change."""

from __future__ import annotations

from typing import Any

import torch

from assay.errors import UnsupportedOperator, UsageError
from assay.grade import Grade
from assay.results import Column, Finding, Section, Status, Table
from assay.smoothness.remedies import Change, Remedy, changeable, remedy
from assay.smoothness.sections.section import Context

_CHANGES: dict[Change, str] = {
    "average": "max pools become average pools",
    "blur": "max pools become blur pools",
    "silu": "activations become SiLU of sharpness {sharpness:g}",
    "softplus": "activations become softplus of sharpness {sharpness:g}",
}
_WORTH = 0.2
"""Share of SMP that a change must take away to be named."""


def remedies(context: Context) -> Section:
    """Every change that has something to replace, tried on the path with the most kinks."""
    config, network = context.config, context.network
    if network is None:
        return Section()
    journey = max(context.journeys, key=lambda each: float(each.smp.count))
    records: list[dict[str, Any]] = []
    tried: list[tuple[str, Remedy]] = []
    warnings: list[str] = []
    for change, described in _CHANGES.items():
        if not changeable(network.graph, change):
            continue
        name = described.format(sharpness=config.sharpness)
        try:
            found = remedy(
                context.subject,
                journey.path,
                change,
                sharpness=config.sharpness,
                outputs=context.outputs,
                samples=config.samples,
            )
        except (UnsupportedOperator, UsageError) as error:
            warnings.append(f"Not tried, {name}: {error.what}")
            continue
        tried.append((name, found))
        records.append(_record(name, found))
    if not records:
        return Section(warnings=tuple(warnings))
    return Section(
        tables={"remedies": _table(records, journey.name)}, findings=_findings(tried), warnings=tuple(warnings)
    )


def _record(name: str, found: Remedy) -> dict[str, Any]:
    record: dict[str, Any] = {
        "change": name,
        "predicted": _mean(found.predicted_gain),
        "measured": _mean(found.measured_gain),
    }
    if found.variation is not None:
        before = found.variation.before
        record |= {
            "step": found.variation.step,
            "seen_predicted": _mean(1 - found.variation.predicted / before.where(before > 0, torch.nan)),
            "seen": _mean(1 - found.variation.measured / before.where(before > 0, torch.nan)),
        }
    return record


def _mean(values: torch.Tensor) -> float | None:
    values = values[torch.isfinite(values)]
    return float(values.mean()) if len(values) else None


def _table(records: list[dict[str, Any]], name: str) -> Table:
    columns = (
        Column("change", "change"),
        Column("predicted", "SMP gone, predicted", "share", Grade.STATISTICAL, "From the network as it is."),
        Column("measured", "SMP gone, measured", "share", Grade.STATISTICAL, "Of the changed network, not retrained."),
        Column("step", "step", "", None, "Step at which the track is sampled for the next two columns."),
        Column("seen_predicted", "variation gone, predicted", "share", Grade.STATISTICAL),
        Column("seen", "variation gone, measured", "share", Grade.STATISTICAL, "Sum of |second difference| / step."),
    )
    return Table.from_records(
        "remedies",
        "What would help",
        columns,
        records,
        f"Along {name}, mean over outputs; negative where kinks are gained. The changed network keeps its weights, so "
        "its answers are worse until it is trained again; retraining changes these numbers, too.",
    )


def _findings(tried: list[tuple[str, Remedy]]) -> tuple[Finding, ...]:
    said = []
    for name, each in tried:
        gain = _mean(each.measured_gain)
        if gain is None or gain < _WORTH:
            continue
        seen = None if each.variation is None else _record(name, each)["seen"]
        left = "" if seen is None else f" ({seen:.0%} of the variation seen at a step of {each.variation.step:.3g})"  # type: ignore[union-attr]
        said.append((gain, f"{gain:.0%} when {name}{left}"))
    if not said:
        text = f"No change that was tried takes away {_WORTH:.0%} of the kinks."
    else:
        listed = "; ".join(text for _, text in sorted(said, reverse=True))
        text = f"Share of SMP that goes, measured on changed networks that keep their weights: {listed}."
    return (Finding("smoothness.remedy", Status.PASS, text),)
