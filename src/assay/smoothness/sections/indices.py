"""How far apart classes lie, or how smoothly targets vary, in the values of every layer."""

from __future__ import annotations

from typing import Any

import torch

from assay.grade import Grade
from assay.results import Column, Figure, Section, Table
from assay.smoothness.indices import LayerIndex, layer_indices
from assay.smoothness.sections.section import Context

_NAMES = {
    "separation": ("separation index", "Share of inputs whose nearest neighbour in this layer has their label."),
    "centre": ("centre separation", "Share of inputs nearest to the mean of their own class."),
    "linear": ("smoothness index", "1 where nearest neighbours have the nearest targets, 0 where the farthest."),
    "exponential": ("exponential form", "The same with exponential decay, which looks at close targets only."),
}


def indices(context: Context) -> Section:
    """Separation index (labels) or smoothness index (regression targets) by layer; nothing without targets."""
    data, config = context.subject.data, context.config
    assert data is not None
    if data.targets is None:
        return Section(warnings=("The data have no labels or targets, so no indices of the layers were computed.",))
    count = min(config.index_inputs, len(data))
    if count < 10:
        return Section(warnings=("Indices of the layers need at least 10 inputs.",))
    rows = torch.linspace(0, len(data) - 1, count, dtype=torch.float64).round().long()
    found = layer_indices(
        context.subject, data.inputs[rows], data.targets[rows], seed=config.seed, batch_size=config.batch_size
    )
    return Section(tables={"indices": _table(found, count)}, figures=(_figure(found),))


def _table(found: tuple[LayerIndex, ...], count: int) -> Table:
    names = list(found[0].values)
    sketched = any(row.grade != Grade.EXACT for row in found)
    grade = Grade.SAMPLED if sketched else Grade.EXACT
    columns = (
        Column("node", "node", node=True),
        Column("layer", "layer"),
        Column("units", "numbers", "count", Grade.EXACT),
        *(Column(name, _NAMES[name][0], "", grade, _NAMES[name][1]) for name in names),
    )
    records: list[dict[str, Any]] = [
        {"node": row.name, "layer": row.place, "units": row.units, **row.values} for row in found
    ]
    note = " Wide layers were sketched by random signs." if sketched else ""
    return Table.from_records(
        "indices",
        "Data in the layers",
        columns,
        records,
        f"Of {count} inputs, by Euclidean nearest neighbours in the values of each layer (Kalhor and others). They "
        f"describe data, not kinks.{note}",
    )


def _figure(found: tuple[LayerIndex, ...]) -> Figure:
    names = list(found[0].values)
    return Figure(
        "lines",
        "Data in the layers",
        "Rising lines: layer by layer, neighbours agree more about what the network is to tell.",
        {
            "x": [row.place for row in found],
            "series": [{"label": _NAMES[name][0], "y": [row.values[name] for row in found]} for name in names],
            "y_label": "index",
        },
    )
