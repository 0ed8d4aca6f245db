"""Figures of the filtering analysis, as data for the renderer."""

from __future__ import annotations

import math

import numpy as np

from assay.filtering.recording import Recording
from assay.filtering.result import FilteringResult
from assay.filtering.scores import SPLITS, performance
from assay.results import Figure

NAMES = {"high": "high-pass", "low": "low-pass", "pulse": "pulse"}
MANY = 60  # units that bars can still show


def figures(found: FilteringResult) -> tuple[tuple[Figure, ...], dict[str, np.ndarray]]:
    """All figures in the order they are read, and the arrays that they show."""
    arrays = _curves(found)
    drawn = [_scores(found)]
    drawn += [_landscape(found, arrays)] if len(found.units) > 1 else []
    drawn += _extremes(found)
    if found.adaptive and found.static and found.baseline.adversarial is not None:
        both = _transfer(found)
        drawn += [both] if both is not None else []
    return tuple(drawn), arrays


def _curves(found: FilteringResult) -> dict[str, np.ndarray]:
    """Performance and density over stress: (units, filters, n) each; NaN where nothing was recorded."""
    shape = (len(found.units), len(found.config.filters), found.config.n)
    arrays = {"density": np.full(shape, np.nan, np.float32)}
    for split in SPLITS:
        if found.baseline.split(split) is None:
            continue
        arrays[f"performance_{split}"] = np.full(shape, np.nan, np.float32)
        for row, unit in enumerate(found.units):
            for column, name in enumerate(found.config.filters):
                recording = found.recordings.get(unit, {}).get(name)
                if recording is None or recording.split(split) is None:
                    continue
                arrays["density"][row, column] = recording.density
                p = performance(recording, found.baseline_of(unit), split, found.config.normalise)
                arrays[f"performance_{split}"][row, column] = p
    return arrays


def _scores(found: FilteringResult) -> Figure:
    """Bars per unit, clean and attacked."""
    splits = ["clean"] + (["adversarial"] if found.baseline.adversarial is not None else [])
    units = found.units
    title = "Scores of the units, mean over filters"
    if len(units) > MANY:
        order = sorted(units, key=lambda unit: found.score(unit, split=splits[-1]).score)
        units = (*order[: MANY // 2], *order[-MANY // 2 :])
        title += f" (the {MANY // 2} lowest and highest)"
    series = []
    for split in splits:
        rows = [found.score(unit, split=split) for unit in units]
        series.append(
            {
                "label": split if split == "clean" else f"adversarial ({found.attack} attack)",
                "values": [row.score for row in rows],
                "low": [row.low for row in rows],
                "high": [row.high for row in rows],
            }
        )
    return Figure(
        "bars",
        title,
        "Relative performance minus the share of weights left, integrated over all thresholds, with "
        f"{found.config.level:.0%} bootstrap intervals. Left of 0 the network loses performance faster than weights "
        "(fragile); right of 0 it needs less than it has.",
        {"labels": list(units), "series": series, "x_label": "score", "y_label": "", "horizontal": True},
    )


def _landscape(found: FilteringResult, arrays: dict[str, np.ndarray]) -> Figure:
    """One map per filter: units downwards, stress to the right."""
    split = "adversarial" if "performance_adversarial" in arrays else "clean"
    panels = []
    for column, name in enumerate(found.config.filters):
        key = f"landscape_{name}"
        arrays[key] = np.nan_to_num(arrays[f"performance_{split}"][:, column], nan=0.0)
        panels.append({"array": key, "index": [], "title": NAMES[name], "diverging": False})
    under = f"under attack ({found.attack})" if split == "adversarial" else "on clean data"
    return Figure(
        "heatmaps",
        f"Relative performance {under} over stress",
        "One row per unit, in the order of the network from above; stress grows to the right, from the first weight "
        "removed to the last (for the pulse: from the smallest weights to the largest).",
        {"panels": panels, "columns": len(panels)},
    )


def _extremes(found: FilteringResult) -> list[Figure]:
    """Curves of the unit with the lowest and with the highest score."""
    split = "adversarial" if found.baseline.adversarial is not None else "clean"
    scores = {unit: found.score(unit, split=split).score for unit in found.units}
    known = [unit for unit, value in scores.items() if not math.isnan(value)]
    if not known:
        return []
    lowest, highest = min(known, key=scores.__getitem__), max(known, key=scores.__getitem__)
    drawn = []
    for unit, what in ((lowest, "Lowest score"), (highest, "Highest score"))[: 1 + (lowest != highest)]:
        recorded = found.recordings[unit]
        name = next(each for each in found.config.filters if each in recorded)
        drawn.append(_unit_curves(found, unit, name, recorded[name], what))
    return drawn


def _unit_curves(found: FilteringResult, unit: str, name: str, recording: Recording, what: str) -> Figure:
    series = []
    for split in SPLITS:
        if recording.split(split) is not None and found.baseline.split(split) is not None:
            p = performance(recording, found.baseline_of(unit), split, found.config.normalise)
            series.append({"label": split, "y": p.tolist()})
    series.append({"label": "share of weights left", "y": recording.density.tolist(), "style": "dashed"})
    return Figure(
        "lines",
        f"{what}: {unit}, {NAMES.get(name, name)}",
        "Performance relative to the unfiltered network as weights are removed. Above the dashed line the network "
        "keeps more performance than weights; above 1 it is better than unfiltered.",
        {
            "x": np.linspace(0, 1, found.config.n).tolist(),
            "series": series,
            "x_label": "stress",
            "y_label": "relative performance",
        },
    )


def _transfer(found: FilteringResult) -> Figure | None:
    """Static against adaptive scores, cell by cell."""
    x, y = [], []
    for unit in found.adaptive:
        for name in found.adaptive[unit]:
            if name in found.config.filters:
                x.append(found.score(unit, name, "difference", attack="static").score)
                y.append(found.score(unit, name, "difference", attack="adaptive").score)
    if not x:
        return None
    return Figure(
        "scatter",
        "Does antifragility survive an attack that knows the filter?",
        "One point per unit and filter: attacked minus clean score, with the attack made on the unfiltered network "
        "(across) and made anew on each filtered network (up). Points below the diagonal owe part of their score to an "
        "attack that did not transfer.",
        {
            "series": [{"label": "unit and filter", "x": x, "y": y}],
            "x_label": "S difference, static attack",
            "y_label": "S difference, adaptive attack",
            "diagonal": True,
        },
    )
