"""Drawings of arrays: panels of heat maps or pictures, and the labelled matrix."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy

from assay.render import theme, thin
from assay.render.text import number
from assay.render.thin import Notes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing


GAP, TITLE, BAR = 0.14, 0.27, 0.27  # inches: between panels, above and below each


def heatmaps(drawing: Drawing, data: Mapping[str, Any], arrays: Mapping[str, Any], notes: Notes) -> None:
    """Panels in a grid. Each map has its own range, written on the bar below; diverging ones are symmetric about 0."""
    panels = list(data["panels"])
    if not panels:
        raise ValueError("there are no panels")
    if len(panels) > thin.MAXIMUM_PANELS:
        notes.add(f"Shows {thin.MAXIMUM_PANELS} of {len(panels):,} panels.")
        panels = panels[: thin.MAXIMUM_PANELS]
    columns = min(max(int(data.get("columns") or min(len(panels), 4)), 1), len(panels), 8)
    rows = -(-len(panels) // columns)
    width = theme.WIDE if columns > 2 else theme.WIDTH
    side = 128 if len(panels) <= 4 else 96 if len(panels) <= 12 else 56
    images = [thin.picture(_array(arrays, panel), side, notes) for panel in panels]
    # Placed by hand: matplotlib's constrained layout cuts titles off when pictures keep their proportions.
    cell = (width - GAP * (columns - 1)) / columns
    shapes = [image.shape[0] / image.shape[1] for image in images]
    proper = [shape if 0.2 < shape < 5 else min(max(shape, 0.5), 1.5) for shape in shapes]
    tall = [min(max(proper[row * columns : (row + 1) * columns]), 1.3) * cell for row in range(rows)]
    height = sum(tall) + rows * (TITLE + BAR) + notes.headroom
    drawing.set_layout_engine("none")
    drawing.set_size_inches(width, height)
    top = height - notes.headroom
    for index, (panel, image) in enumerate(zip(panels, images, strict=True)):
        row, column = divmod(index, columns)
        if row and not column:
            top -= TITLE + tall[row - 1] + BAR
        room = tall[row]
        across = min(cell, room / proper[index])
        left = column * (cell + GAP) + (cell - across) / 2
        box = (
            left / width,
            (top - TITLE - across * proper[index]) / height,
            across / width,
            across * proper[index] / height,
        )
        axes = drawing.add_axes(box)
        axes.set_title(thin.label(panel.get("title") or "", max(int(cell * 11), 10)), fontsize=10, color=theme.INK)
        _panel(axes, image, bool(panel.get("diverging")), across * proper[index])


def _panel(axes: Axes, image: numpy.ndarray, diverging: bool, tall: float) -> None:
    axes.grid(visible=False)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    if image.ndim == 3:
        axes.imshow(numpy.clip(numpy.nan_to_num(image), 0, 1), interpolation="none", aspect="auto")
        return
    finite = image[numpy.isfinite(image)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    if diverging:
        high = max(abs(low), abs(high))
        low = -high
    drawn = axes.imshow(
        image,
        cmap=theme.DIVERGING if diverging else theme.SEQUENTIAL,
        vmin=low,
        vmax=high if high > low else low + 1,
        interpolation="none",
        aspect="auto",
    )
    inset = axes.inset_axes((0.25, -0.17 / tall, 0.5, 0.08 / tall))
    inset.imshow(numpy.linspace(0, 1, 64)[None], cmap=drawn.get_cmap(), aspect="auto", interpolation="none")
    inset.set_axis_off()
    middle = -0.13 / tall
    for x, side, value in ((0.23, "right", low), (0.77, "left", high)):
        axes.text(
            x, middle, number(value, 2), transform=axes.transAxes, ha=side, va="center", fontsize=8.5, color=theme.MUTED
        )


def matrix(drawing: Drawing, data: Mapping[str, Any], arrays: Mapping[str, Any], notes: Notes) -> None:
    """A labelled matrix; small ones have their numbers in the cells. With `percent`, entries are fractions."""
    values = thin.picture(_array(arrays, data), 200, notes)
    if values.ndim != 2:
        raise ValueError(f"a matrix has two axes, got {values.shape}")
    rows, columns = values.shape
    axes = drawing.add_subplot()
    side = max(rows, columns)
    drawing.set_size_inches(theme.WIDTH, min(max(theme.WIDTH * 0.6 * rows / columns + 0.7, 2.2), 6))
    finite = values[numpy.isfinite(values)]
    low, high = (min(float(finite.min()), 0.0), float(finite.max())) if finite.size else (0.0, 1.0)
    high = high if high > low else low + 1
    drawn = axes.imshow(values, cmap=_matrix_map(), vmin=low, vmax=high, interpolation="none", aspect="auto")
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.set_xlabel(thin.label(data.get("x_label") or "", 80))
    axes.set_ylabel(thin.label(data.get("y_label") or "", 60))
    for names, count, put in (
        (data.get("column_labels"), columns, axes.set_xticks),
        (data.get("row_labels"), rows, axes.set_yticks),
    ):
        names = [thin.label(name, 18) for name in names or []]
        step = max(1, -(-len(names) // 24))
        usable = len(names) == count
        put(list(range(0, count, step)) if usable else [], names[::step] if usable else [])
    if sum(len(text.get_text()) for text in axes.get_xticklabels()) > 50:
        for text in axes.get_xticklabels():
            text.set(rotation=45, ha="right", rotation_mode="anchor")
    percent = bool(data.get("percent"))
    if side > thin.MATRIX_CELLS:
        bar = drawing.colorbar(drawn, ax=axes, fraction=0.04, pad=0.02)
        bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
        bar.ax.yaxis.set_major_formatter(lambda v, _: f"{100 * v:.0f} %" if percent else number(float(v), 3))
        return
    size = 9 if side <= 8 else 8 if side <= 12 else 6
    for row in range(rows):
        for column in range(columns):
            value = float(values[row, column])
            colour = (
                theme.readable(numpy.asarray(drawn.to_rgba(numpy.array([value])))[0].tolist())
                if numpy.isfinite(value)
                else theme.MUTED
            )
            axes.text(column, row, _cell(value, percent), ha="center", va="center", fontsize=size, color=colour)


def _cell(value: float, percent: bool) -> str:
    if not numpy.isfinite(value):
        return "–"
    if not percent:
        return number(value, 3)
    share = 100 * value
    return (
        "·"
        if share == 0
        else f"{share:.0f}"
        if share >= 9.5 or share == round(share)
        else f"{share:.1f}"
        if share >= 0.05
        else "<0.1"
    )


def _matrix_map() -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("assay", ["#f3f6fa", "#b6cfe9", "#5b95cf", "#2468b4", "#123c70"])


def _array(arrays: Mapping[str, Any], panel: Mapping[str, Any]) -> Any:
    key = panel["array"]
    if key not in arrays:
        raise KeyError(f"the result has no array {key!r}; it has {list(arrays)[:10]}")
    index = panel.get("index")
    return arrays[key] if index is None else arrays[key][tuple(int(i) for i in index)]
