"""Kinks along the paths: how large, from which layers, and a picture of the outputs with them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from assay.grade import Grade
from assay.results import Column, Figure, Finding, Quantity, Section, Status, Table
from assay.smoothness.network import Network
from assay.smoothness.sections.section import Context, Journey

_MARKED = 25
"""Largest kinks that the picture of an output marks."""
_BAND = "5th to 95th percentile over paths and outputs"


def kinks(context: Context) -> Section:
    """Tables of paths and of layers, the outputs along a path, and what stands out."""
    shares = _shares(context)
    tables = {"paths": _paths(context)}
    if context.network is not None:
        tables["layers"] = _layers(context.network, context, shares)
    return Section(
        tables=tables,
        figures=(*_pictures(context), *_bars(shares), *_sizes(context)),
        findings=_findings(context, shares),
        summary=_summary(context),
        warnings=_warnings(context),
    )


def _grade(context: Context) -> Grade:
    return context.journeys[0].smp.grade


def _paths(context: Context) -> Table:
    grade = _grade(context)
    columns = (
        Column("path", "path"),
        Column("movement", "kind"),
        Column("output", "output"),
        Column("smp", "SMP", "", grade, "Sum of the slope jumps |y'(t+) - y'(t-)| of network kinks."),
        Column("dimensionless", "SMP x length / range", "", grade, "The same without units: 0 for a smooth output."),
        Column("share", "share of kinks", "share", grade, "SMP over the total variation of the slope."),
        Column("energy", "kink energy", "", grade, "Sum of the squared jumps over the length."),
        Column("kinks", "kinks", "count", grade, "Network kinks along the path, of all outputs."),
        Column("own", "of the path", "", grade, "SMP of the path's own kinks, not counted in the others."),
    )
    records: list[dict[str, Any]] = []
    for each in context.journeys:
        found = each.smp
        for k in range(len(context.outputs)):
            records.append(
                {
                    "path": each.name,
                    "movement": each.movement,
                    "output": context.output_name(k),
                    "smp": float(found.value[k]),
                    "dimensionless": _number(found.over_range[k]),
                    "share": float(found.share[k]),
                    "energy": float(found.energy[k]),
                    "kinks": round(found.count),
                    "own": float(found.path[k]),
                }
            )
    return Table.from_records(
        "paths",
        "Kinks along paths",
        columns,
        records,
        "A path's parameter runs from 0 to 1. Compare only numbers of one kind of path: SMP grows with the path's "
        "length and the output's scale.",
    )


def _number(value: torch.Tensor) -> float | None:
    return float(value) if bool(torch.isfinite(value)) else None


def _shares(context: Context) -> dict[str, float]:
    """Part of every layer in the SMP, averaged over outputs that have any."""
    parts = {place: rows.sum(0) for place, rows in context.layers.items()}
    if not parts:
        return {}
    total = torch.stack(list(parts.values())).sum(0)
    some = total > 0
    if not bool(some.any()):
        return dict.fromkeys(parts, 0.0)
    return {place: float((part[some] / total[some]).mean()) for place, part in parts.items()}


def _layers(network: Network, context: Context, shares: dict[str, float]) -> Table:
    grade = _grade(context)
    columns = (
        Column("node", "node", node=True),
        Column("layer", "layer"),
        Column("rate", "SMP per unit of path", "", grade, "Mean over paths and outputs of what its units cause."),
        Column(
            "share", "share", "share", grade, "Part in the SMP, mean over outputs.", lens="Kinks (share of the SMP)"
        ),
    )
    records, seen = [], set()
    for node in network.switching:
        place = network.places[node.name]
        if place in seen:
            continue
        seen.add(place)
        records.append(
            {
                "node": node.name,
                "layer": place,
                "rate": float(context.layers[place].mean()),
                "share": shares[place],
            }
        )
    return Table.from_records(
        "layers",
        "Which layers cause the kinks",
        columns,
        records,
        "Every kink arises in one unit, where an activation switches or a pool changes its winner, and reaches the "
        "outputs through the layers after it.",
    )


def _pictures(context: Context) -> tuple[Figure, ...]:
    """The first path of each kind, with its largest kinks marked."""
    firsts: dict[str, Journey] = {}
    for each in context.journeys:
        firsts.setdefault(each.movement, each)
    return tuple(_picture(context, each) for each in firsts.values())


def _picture(context: Context, journey: Journey) -> Figure:
    found = journey.smp
    most = int(found.value.argmax())
    t, y = found.t.numpy(), found.outputs[:, most].numpy()
    marks = np.full(len(t), np.nan)
    listed = found.kinks
    if listed is not None and len(listed):
        size = listed.jump[:, most].abs()
        largest = size.argsort(descending=True)[:_MARKED]
        largest = largest[size[largest] > 0]
        at = listed.t[largest].numpy()
        values = np.interp(at, t, y)
        t = np.concatenate([t, at])
        y = np.concatenate([y, values])
        marks = np.concatenate([marks, values])
        order = np.argsort(t, kind="stable")
        t, y, marks = t[order], y[order], marks[order]
    name = context.output_name(most)
    return Figure(
        "lines",
        f"Output {name} along a path ({journey.movement})",
        f"{journey.name}: the output {name}, which has the largest kinks of those followed, and its {_MARKED} largest "
        "kinks (points). A smooth output has none.",
        {
            "x": t.tolist(),
            "series": [
                {"label": name, "y": y.tolist()},
                {"label": "largest kinks", "y": marks.tolist(), "style": "points"},
            ],
            "x_label": "path parameter",
            "y_label": f"output {name}",
        },
    )


def _bars(shares: dict[str, float]) -> tuple[Figure, ...]:
    if len(shares) < 2:
        return ()
    return (
        Figure(
            "bars",
            "SMP by layer",
            "Part of every layer in the sum of slope jumps of the outputs. The tallest bars make the outputs jitter.",
            {
                "labels": list(shares),
                "series": [{"label": "share", "values": list(shares.values())}],
                "x_label": "share of SMP",
                "horizontal": True,
            },
        ),
    )


def _sizes(context: Context) -> tuple[Figure, ...]:
    sizes = []
    for each in context.journeys:
        if each.smp.kinks is not None and len(each.smp.kinks):
            scale = (each.smp.outputs.amax(0) - each.smp.outputs.amin(0)).clamp(min=1e-300)
            sizes.append((each.smp.kinks.jump.abs() * each.smp.length / scale).flatten())
    every = torch.cat(sizes) if sizes else torch.zeros(0)
    every = every[every > 0]
    if len(every) < 10:
        return ()
    return (
        Figure(
            "histogram",
            "Sizes of single kinks",
            "Slope jumps over the mean slope range / length, all listed kinks: few large ones or many small ones.",
            {
                "series": [{"label": "kinks", "values": every.log10().tolist()}],
                "x_label": "log10 of a kink's |J| x length / range",
            },
        ),
    )


def _summary(context: Context) -> dict[str, Quantity]:
    grade = _grade(context)
    relative = torch.cat([each.smp.over_range for each in context.journeys])
    relative = relative[torch.isfinite(relative)]
    summary = {}
    if len(relative):
        low, middle, high = np.percentile(relative.numpy(), (5, 50, 95)).tolist()
        summary["roughness"] = Quantity(
            middle, grade, "", "SMP x length / range (median)", low, high, _BAND, "lower", "paths.dimensionless.median"
        )
    share = torch.cat([each.smp.share for each in context.journeys])
    low, middle, high = np.percentile(share.numpy(), (5, 50, 95)).tolist()
    summary["share"] = Quantity(
        middle, grade, "share", "kinks in the slope's variation (median)", low, high, _BAND, "lower",
        "paths.share.median",
    )  # fmt: skip
    counts = np.array([each.smp.count for each in context.journeys])
    low, middle, high = np.percentile(counts, (5, 50, 95)).tolist()
    summary["kinks"] = Quantity(
        middle, grade, "count", "kinks per path (median)", low, high, "5th to 95th over paths", "lower",
        "paths.kinks.median",
    )  # fmt: skip
    return summary


def _findings(context: Context, shares: dict[str, float]) -> tuple[Finding, ...]:
    if not any(float(each.smp.value.max()) > 0 for each in context.journeys):
        text = "No kinks were found: the outputs are smooth along these paths."
        return (Finding("smoothness.kinks", Status.PASS, text),)
    worst = max(shares, key=lambda place: shares[place], default="")
    found = [] if context.network is None else [_culprit(context.network, shares, worst)]
    relative = torch.cat([each.smp.over_range for each in context.journeys])
    relative = relative[torch.isfinite(relative)]
    if context.subject.task == "regression" and len(relative):
        middle, limit = float(relative.median()), context.config.rough_above
        rough = middle > limit
        found.append(
            Finding(
                "smoothness.rough",
                Status.WARN if rough else Status.PASS,
                f"Along half of the paths the slope of an output jumps by more than {middle:.3g} times its range over "
                f"the path's length (limit {limit:g}).",
                place=worst if rough else "",
                next_step="See what pools and activations without kinks would gain (remedies)." if rough else "",
            )
        )
    return tuple(found)


def _culprit(network: Network, shares: dict[str, float], worst: str) -> Finding:
    operators = {network.places[node.name]: node.op for node in network.switching}
    pools = sum(shares[place] for place, operator in operators.items() if "pool" in operator)
    return Finding(
        "smoothness.culprit",
        Status.PASS,
        f"{worst} causes {shares[worst]:.0%} of the sum of slope jumps"
        + (f"; max pools cause {pools:.0%} of it." if pools else "."),
        place=worst,
    )


def _warnings(context: Context) -> tuple[str, ...]:
    return tuple(dict.fromkeys(note for each in context.journeys for note in each.smp.notes))
