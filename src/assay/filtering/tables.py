"""Tables of the filtering analysis."""

from __future__ import annotations

import math
from typing import Any

from assay.filtering.result import FilteringResult
from assay.grade import Grade
from assay.results import Column, Table


def unit_table(found: FilteringResult) -> Table:
    """One row per unit: its scores against what is left of it, averaged over filters, with classes."""
    columns = [
        Column("node", "node", node=True),
        Column("unit", "unit"),
        Column("weights", "weights", "", None, "how many weights are filtered together"),
        Column(
            "clean",
            "S clean",
            "",
            Grade.SAMPLED,
            "performance on clean data above the share of weights left",
            lens="Fragility, clean data (below 0: fragile)",
        ),
        Column("clean_class", "class, clean"),
    ]
    adversarial = found.baseline.adversarial is not None
    if adversarial:
        kind = found.attack
        columns += [
            Column(
                "adversarial",
                "S adversarial",
                "",
                Grade.SAMPLED,
                f"performance under attack ({kind}) above the share of weights left",
                lens="Fragility, under attack (below 0: fragile)",
            ),
            Column("low", "from", "", Grade.SAMPLED, f"{found.config.level:.0%} bootstrap interval"),
            Column("high", "to", "", Grade.SAMPLED, f"{found.config.level:.0%} bootstrap interval"),
            Column("adversarial_class", "class, adversarial"),
            Column("difference", "S difference", "", Grade.SAMPLED, f"attacked minus clean performance ({kind})"),
            Column("difference_class", "class, difference"),
        ]
    if adversarial and found.adaptive and found.attack == "static":
        columns.append(
            Column("attacked_anew", "S difference, attacked anew", "", Grade.SAMPLED, "mean over the filters attacked")
        )
    columns.append(Column("removed", "removed", "", Grade.EXACT, "share of weights removed, over all thresholds"))
    return Table.from_records(
        "units",
        "Units: what is left when their weights are filtered away",
        columns,
        [_unit(found, unit) for unit in found.units],
        "Scores are means over the filters; 0 means that performance falls exactly as fast as weights are removed. "
        "Negative: fragile. Positive: the network needs less of this unit than it has, or is better without parts "
        "of it.",
    )


def _unit(found: FilteringResult, unit: str) -> dict[str, Any]:
    variants = found.variants[unit]
    clean = found.score(unit, split="clean")
    record: dict[str, Any] = {
        "node": found.nodes.get(unit),
        "unit": unit,
        "weights": sum(math.prod(each.shape) for each in variants.units),
        "clean": clean.score,
        "clean_class": clean.label,
        "removed": clean.removed,
    }
    if found.baseline.adversarial is None:
        return record
    attacked, difference = found.score(unit), found.score(unit, split="difference")
    record |= {
        "adversarial": attacked.score,
        "low": attacked.low,
        "high": attacked.high,
        "adversarial_class": attacked.label,
        "difference": difference.score,
        "difference_class": difference.label,
    }
    if found.attack == "static" and ("adaptive", unit) in found.scores:
        rows = found.scores["adaptive", unit].rows
        anew = [row.score for row in rows if row.split == "difference" and row.reference == "compressed"
                and row.filter in found.config.filters]  # fmt: skip
        record["attacked_anew"] = sum(anew) / len(anew) if anew else None
    return record


def score_table(found: FilteringResult) -> Table:
    """Every score: unit, filter, split, reference, attack."""
    columns = [
        Column("unit", "unit"),
        Column("filter", "filter"),
        Column("split", "data"),
        Column("attack", "attack", "", None, "made once (static) or on every filtered network (adaptive)"),
        Column("reference", "against", "", None, "compressed: the share of weights left; unfiltered: 1"),
        Column("score", "score", "", Grade.SAMPLED),
        Column("low", "from", "", Grade.SAMPLED),
        Column("high", "to", "", Grade.SAMPLED),
        Column("label", "class"),
        Column("removed", "removed", "", Grade.EXACT),
    ]
    return Table.from_records(
        "scores",
        "All scores",
        columns,
        found.records(),
        f"Intervals: {found.config.level:.0%} bootstrap over samples. A class is given when the interval lies within "
        f"it; robust means within ±{found.config.tau:g}.",
    )


def gain_table(found: FilteringResult) -> Table:
    """By unit, the best threshold, chosen on half of the samples and tested on the others."""
    split = "clean" if found.baseline.adversarial is None else "adversarial"
    columns = [
        Column("unit", "unit"),
        Column("filter", "filter"),
        Column("stress", "stress", "", None, "0 to 1, growing with removal"),
        Column("chosen", "p where chosen", "", Grade.SAMPLED, "relative performance; the best of many, so too good"),
        Column("held_out", "p held out", "", Grade.SAMPLED, "on the other half: unbiased"),
        Column("low", "from", "", Grade.SAMPLED),
        Column("high", "to", "", Grade.SAMPLED),
        Column("antifragile", "antifragile there", "", None, "the whole interval lies above 1"),
    ]
    records = [
        {"unit": unit} | {name: getattr(gain, name) for name in ("filter", "stress", "chosen", "held_out", "low",
                                                                 "high", "antifragile")}
        for unit, gain in found.gains(split).items()
    ]  # fmt: skip
    kind = f", {found.attack} attack" if split == "adversarial" else ""
    return Table.from_records(
        "gains", f"Best filter of each unit, on samples that did not choose it ({split} data{kind})", columns, records
    )
