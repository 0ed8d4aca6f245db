"""Drawing of class regions: which class a network gives to the points of a plane."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy

from assay.render import theme, thin
from assay.render.thin import Notes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

PANELS = 4
SMALLEST = 0.02  # share of the picture from which a region is named


def regions(drawing: Drawing, data: Mapping[str, Any], arrays: Mapping[str, Any], notes: Notes) -> None:
    """Panels of whole numbers as areas, each named where it is large, with outlines, so that no colour is needed.

    `data`: `panels` with `array` (rows from the bottom up), `extent` (left, right, bottom, top), `points` with `x`, `y`
    and `label`, `title`, `x_label`, `y_label`; `names` of the numbers.

    Raises:
        ValueError: without panels, or for arrays that are not whole numbers over two axes.
    """
    panels = list(data["panels"])
    if not panels:
        raise ValueError("there are no panels")
    if len(panels) > PANELS:
        notes.add(f"Shows {PANELS} of {len(panels):,} panels.")
        panels = panels[:PANELS]
    names = [str(name) for name in data.get("names") or []]
    wide = len(panels) > 1
    shown = [numpy.asarray(arrays[panel["array"]]) for panel in panels]
    if any(values.ndim != 2 or not numpy.issubdtype(values.dtype, numpy.integer) for values in shown):
        raise ValueError("regions are whole numbers over two axes")
    every = numpy.unique(numpy.concatenate([values.ravel() for values in shown]))
    colours = {int(value): theme.colour(place) for place, value in enumerate(every)}
    drawing.set_size_inches(theme.WIDE if wide else theme.WIDTH, 4.0 * -(-len(panels) // 2))
    for index, (panel, values) in enumerate(zip(panels, shown, strict=True)):
        axes = drawing.add_subplot(-(-len(panels) // 2), min(len(panels), 2), index + 1)
        _panel(axes, values, panel, names, colours)


def _panel(
    axes: Axes, values: numpy.ndarray, panel: Mapping[str, Any], names: Sequence[str], colours: Mapping[int, str]
) -> None:
    from matplotlib.colors import ListedColormap

    seen = numpy.unique(values)
    place = numpy.searchsorted(seen, values)
    left, right, bottom, top = (float(end) for end in panel["extent"])
    axes.imshow(
        place,
        cmap=ListedColormap([colours[int(value)] for value in seen]),
        vmin=-0.5,
        vmax=len(seen) - 0.5,
        alpha=0.35,
        extent=(left, right, bottom, top),
        origin="lower",
        interpolation="none",
        aspect="auto",
    )
    rows, columns = values.shape
    across = left + (numpy.arange(columns) + 0.5) * (right - left) / columns
    up = bottom + (numpy.arange(rows) + 0.5) * (top - bottom) / rows
    for index in range(len(seen) - 1 if len(seen) <= 2 else len(seen)):  # two regions share one outline
        axes.contour(across, up, place == index, levels=[0.5], colors=theme.INK, linewidths=0.6)
    near = [(point["x"], point["y"]) for point in panel.get("points") or []]
    taken = numpy.zeros(values.shape, dtype=bool)  # where points and their names stand
    for x, y in near:
        beside = numpy.abs(across - x) < 0.17 * abs(right - left)
        taken |= numpy.outer(numpy.abs(up - y) < 0.08 * abs(top - bottom), beside)
    for value, row, column in _largest(values, seen, taken):
        name = names[value] if value < len(names) else f"class {value}"
        axes.text(across[column], up[row], thin.label(name, 14), ha="center", va="center", fontsize=9, color=theme.INK)
    for point in panel.get("points") or []:
        axes.plot([point["x"]], [point["y"]], "o", color=theme.INK, markersize=4)
        outward = (point["x"] - left) / (right - left) > 0.7  # its name would leave the picture
        axes.annotate(
            thin.label(point.get("label") or "", 18), (point["x"], point["y"]), xytext=(-4 if outward else 4, 4),
            textcoords="offset points", ha="right" if outward else "left", fontsize=8.5, color=theme.INK,
        )  # fmt: skip
    axes.grid(visible=False)
    axes.set_title(thin.label(panel.get("title") or "", 60), fontsize=10, color=theme.INK)
    axes.set_xlabel(thin.label(panel.get("x_label") or "", 60))
    axes.set_ylabel(thin.label(panel.get("y_label") or "", 60))


def _largest(values: numpy.ndarray, seen: numpy.ndarray, taken: numpy.ndarray) -> list[tuple[int, int, int]]:
    """The middle of the largest free piece of every number that is not too small: (number, row, column)."""
    from scipy.ndimage import distance_transform_edt

    found = []
    for value in seen:
        area = values == value
        if area.mean() < SMALLEST:
            continue
        free = area & ~taken
        inside = numpy.pad(free if free.any() else area, 1)
        depth = numpy.asarray(distance_transform_edt(inside))
        row, column = numpy.unravel_index(int(numpy.argmax(depth)), inside.shape)
        found.append((int(value), int(row) - 1, int(column) - 1))
    return found
