"""Predictions beside the measurement, block by block: the Gaussian plug-in and the kernel Kac-Rice estimate."""

from __future__ import annotations

from typing import Any

import torch

from assay.grade import Grade
from assay.results import Column, Figure, Quantity, Section, Table
from assay.smoothness.measure import smp
from assay.smoothness.prediction import plug_in
from assay.smoothness.sections.section import Context, Journey


def prediction(context: Context) -> Section:
    """One path of each kind: SMP by layer as counted, from densities, and from the Gaussian law."""
    network = context.network
    if network is None:
        return Section()
    firsts: dict[str, Journey] = {}
    for each in context.journeys:
        if float(each.smp.value.sum()) > 0:
            firsts.setdefault(each.movement, each)
    if not firsts:
        return Section()
    rows: dict[str, list[float]] = {}
    drawn: dict[str, None] = {}
    for each in firsts.values():
        density = smp(
            network,
            each.path,
            estimator="kac_rice",
            samples=max(65, 2 * context.config.samples),
        )
        gaussian = plug_in(network, each.path, context.config.samples)
        drawn |= dict.fromkeys(gaussian.notes[1:])
        for place in context.layers:
            zero = torch.zeros(len(context.outputs), dtype=torch.float64)
            parts = (
                each.smp.by_layer.get(place, zero),
                density.by_layer.get(place, zero),
                gaussian.by_layer.get(place, zero) * each.smp.length,
            )
            sums = rows.setdefault(place, [0.0, 0.0, 0.0])
            for index, part in enumerate(parts):
                sums[index] += float((part / each.smp.value.where(each.smp.value > 0, torch.nan)).nanmean())
    count = len(firsts)
    rows = {place: [value / count for value in values] for place, values in rows.items()}
    total = [sum(values[index] for values in rows.values()) for index in range(3)]
    return Section(
        tables={"prediction": _table({**rows, "all": total})},
        figures=(_figure(rows),),
        warnings=tuple(f"Gaussian plug-in, {note}" for note in drawn),
        summary={
            "density": Quantity(
                total[1] / total[0], Grade.STATISTICAL, "", "SMP from densities (Kac-Rice) over counted SMP"
            ),
            "plug_in": Quantity(
                total[2] / total[0], Grade.STATISTICAL, "", "SMP of the Gaussian plug-in over counted SMP"
            ),
        },
    )


def _table(rows: dict[str, list[float]]) -> Table:
    columns = (
        Column("layer", "layer"),
        Column("measured", "counted", "share", Grade.STATISTICAL, "Kinks found between samples."),
        Column(
            "density", "Kac-Rice", "share", Grade.STATISTICAL, "From densities at the kinks; needs no distribution."
        ),
        Column("plug_in", "Gaussian plug-in", "share", Grade.STATISTICAL, "As if every unit were a Gaussian process."),
        Column("ratio", "plug-in over counted", "", Grade.STATISTICAL),
    )
    records: list[dict[str, Any]] = []
    for place, (measured, density, gaussian) in rows.items():
        record = {"layer": place, "measured": measured, "density": density, "plug_in": gaussian}
        records.append(record | ({"ratio": gaussian / measured} if measured > 0 else {}))
    return Table.from_records(
        "prediction",
        "Predicted and counted kinks by layer",
        columns,
        records,
        "In shares of the counted SMP of the outputs, mean over one path of each kind. Where the Gaussian plug-in is "
        "far off, units are not Gaussian along the path: trained networks are like that.",
    )


def _figure(rows: dict[str, list[float]]) -> Figure:
    names = ("counted", "Kac-Rice", "Gaussian plug-in")
    return Figure(
        "bars",
        "Predicted and counted kinks",
        "SMP by layer in shares of all counted: the law of Gaussian units is as good as its bars are near the first.",
        {
            "labels": list(rows),
            "series": [
                {"label": name, "values": [values[index] for values in rows.values()]}
                for index, name in enumerate(names)
            ],
            "x_label": "share of counted SMP",
            "horizontal": True,
        },
    )
