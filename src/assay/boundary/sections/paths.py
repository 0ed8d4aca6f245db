"""Whether inputs of one class are connected inside its region, and pictures of regions."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from assay.boundary.pairs import regimes
from assay.boundary.paths import class_slice, connect
from assay.boundary.paths.connection import Connection
from assay.boundary.sections.section import Context
from assay.grade import Grade
from assay.intervals import wilson
from assay.results import Column, Figure, Finding, Quantity, Section, Status, Table

_RESOLUTION = 60


def paths(context: Context) -> Section:
    """Paths between four kinds of pairs, with certificates where the layers allow them, and slices through regions."""
    config = context.config
    pairs = regimes(context.field, context.inputs, config.pairs, bounds=context.bounds, seed=config.seed)
    left = config.certified_segments
    found: dict[str, _Kind] = {}
    for name, (first, second) in pairs.items():
        if not len(first):
            continue
        certify = left > 0 and context.smoothness != "smooth"
        count = min(left, len(first)) if certify else 0
        parts = [
            connect(context.field, first[rows], second[rows], bounds=context.bounds, certify=proven, seed=config.seed)
            for rows, proven in ((slice(0, count), True), (slice(count, None), False))
            if len(first[rows])
        ]
        left -= count
        found[name] = _Kind(parts)
    slices, arrays = _slices(context)
    if not found:
        return Section(figures=tuple(slices), arrays=arrays, warnings=("There are no pairs of one predicted class.",))
    return Section(
        tables={"paths": _table(found)},
        figures=tuple(slices),
        findings=_findings(found),
        summary=_summary(found),
        warnings=_warnings(found),
        arrays=arrays,
    )


class _Kind:
    """All pairs of one kind: those that were to be certified and the others."""

    def __init__(self, parts: list[Connection]) -> None:
        self.status = [status for part in parts for status in part.status]
        self.reason = [reason for part in parts for reason in part.reason]
        self.length = torch.cat([part.length_ratio for part in parts])
        self.margin = torch.cat([part.min_margin for part in parts])
        self.anchors = torch.cat([part.anchors for part in parts])
        self.straight = torch.cat([part.straight for part in parts])
        self.unsupported = tuple(dict.fromkeys(name for part in parts for name in part.checks.unsupported))
        self.connected = torch.tensor([status != "inconclusive" for status in self.status])


def _table(found: dict[str, _Kind]) -> Table:
    columns = (
        Column("pairs", "pairs"),
        Column("count", "pairs", "count"),
        Column("straight", "straight", "share", Grade.SAMPLED, "Straight segments inside the region."),
        Column("connected", "path found", "share", Grade.SAMPLED),
        Column("low", "from", "share", Grade.SAMPLED, "95 % Wilson interval."),
        Column("certified", "certified", "count", Grade.BOUND, "Paths every point of which is proven to be inside."),
        Column("length", "length ratio", "", Grade.SAMPLED, "Median length over the straight distance."),
        Column("longest", "largest", "", Grade.SAMPLED, "Largest length ratio."),
        Column("anchors", "anchors", "", Grade.SAMPLED, "Mean number of anchors, ends included."),
        Column("margin", "margin", "", Grade.SAMPLED, "Median over paths of the smallest margin."),
        Column("reason", "inconclusive because"),
    )
    records = []
    for name, one in found.items():
        share = float(one.connected.double().mean())
        kept = one.connected
        record: dict[str, Any] = {
            "pairs": name,
            "count": len(one.status),
            "straight": float(one.straight.double().mean()),
            "connected": share,
            "low": wilson(share, len(one.status))[0],
            "certified": one.status.count("certified"),
            "reason": ", ".join(sorted({reason for reason in one.reason if reason})),
        }
        if bool(kept.any()):
            record |= {
                "length": float(one.length[kept].median()),
                "longest": float(one.length[kept].max()),
                "anchors": float(one.anchors[kept].double().mean()),
                "margin": float(one.margin[kept].median()),
            }
        records.append(record)
    return Table.from_records(
        "paths",
        "Paths inside class regions",
        columns,
        records,
        "A path that was found shows that two inputs are connected. Where none was found the answer is open: nothing "
        "here can show that a region is disconnected.",
    )


def _findings(found: dict[str, _Kind]) -> tuple[Finding, ...]:
    count = sum(len(one.status) for one in found.values())
    connected = sum(int(one.connected.sum()) for one in found.values())
    certified = sum(one.status.count("certified") for one in found.values())
    open_ones = count - connected
    return (
        Finding(
            "boundary.connected",
            Status.WARN if open_ones > 0.1 * count else Status.PASS,
            f"Between {connected} of {count} pairs of inputs of one predicted class a path inside the region was found "
            f"(1,000 samples per segment), {certified} of them with a proof; {open_ones} "
            f"{'is' if open_ones == 1 else 'are'} inconclusive.",
            next_step="Inconclusive is not disconnected: give the search more depth (assay.boundary.connect)."
            if open_ones > 0.1 * count
            else "",
        ),
    )


def _summary(found: dict[str, _Kind]) -> dict[str, Quantity]:
    every = torch.cat([one.connected for one in found.values()])
    lengths = torch.cat([one.length[one.connected] for one in found.values()])
    share = float(every.double().mean())
    low, high = wilson(share, len(every))
    summary = {
        "connected": Quantity(
            share, Grade.SAMPLED, "share", "pairs with a path", low, high, "95 % Wilson", confidence=0.95
        ),
    }
    if len(lengths):
        low, middle, high = np.percentile(lengths.numpy(), (5, 50, 95)).tolist()
        summary["length_ratio"] = Quantity(
            middle, Grade.SAMPLED, "", "length of paths over the straight distance (median)", low, high,
            "5th to 95th percentile over pairs",
        )  # fmt: skip
    return summary


def _warnings(found: dict[str, _Kind]) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name for one in found.values() for name in one.unsupported))
    return (f"Paths could not be certified: {'; '.join(names)}.",) if names else ()


def _slices(context: Context) -> tuple[list[Figure], dict[str, np.ndarray]]:
    """Planes through inputs of three predicted classes."""
    chosen = _triples(context)
    if not chosen:
        return [], {}
    panels, arrays = [], {}
    for number, rows in enumerate(chosen):
        cut = class_slice(context.field, context.inputs[rows], resolution=_RESOLUTION)
        key = f"slice_{number}"
        arrays[key] = cut.label.numpy().astype(np.int64)
        panels.append(
            {
                "array": key,
                "extent": list(cut.extent),
                "points": [
                    {"x": float(x), "y": float(y), "label": context.name(row)}
                    for row, (x, y) in zip(rows, cut.points.tolist(), strict=True)
                ],
                "x_label": "distance",
                "y_label": "distance",
            }
        )
    names = [context.subject.output_name(label) for label in range(context.subject.output_count)]
    figure = Figure(
        "regions",
        "Class regions in planes through three inputs",
        "Every point of the plane is an input; the area says which class the network gives it. Lines are decision "
        "boundaries. A plane shows two of many directions: regions that look apart here may meet elsewhere.",
        {"panels": panels, "names": names[:1000]},
    )
    return [figure], arrays


def _triples(context: Context) -> list[list[int]]:
    by_class: dict[int, list[int]] = {}
    for row, label in enumerate(context.points.label.tolist()):
        by_class.setdefault(label, []).append(row)
    labels = sorted(by_class)
    if len(context.inputs) < 3 or len(labels) < 2:
        return []
    found = []
    for number in range(context.config.slices):
        rows: list[int] = []
        for step in range(3):
            group = by_class[labels[(3 * number + step) % len(labels)]]
            rows.append(next((row for row in group if row not in rows), group[0]))
        if len(set(rows)) == 3:
            found.append(rows)
    return found
