"""Drawings over two axes: lines, scatter, bars, histogram.

Each takes the drawing to fill, the figure's data, the result's arrays and the notes for the caption.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy

from assay.render import theme, thin
from assay.render.text import number, power_of_ten
from assay.render.thin import Notes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing


def lines(drawing: Drawing, data: Mapping[str, Any], arrays: Mapping[str, Any], notes: Notes) -> None:
    """One line, dashed line or set of points per series over a shared x, with bands or bars for intervals."""
    axes = drawing.add_subplot()
    entries = thin.series(data, notes)
    names = list(data["x"])
    textual = any(isinstance(value, str) for value in names)
    everywhere = numpy.arange(len(names), dtype=float) if textual else thin.floats(names)
    for index, entry in enumerate(entries):
        y = thin.floats(entry["y"])
        if len(y) != len(everywhere):
            raise ValueError(f"series {entry.get('label')!r} has {len(y)} values for {len(everywhere)} x")
        keep = thin.line_points(everywhere, y, notes)
        x, y = everywhere[keep], y[keep]
        colour, style = theme.colour(index), entry.get("style") or "line"
        low, high = (None if entry.get(end) is None else thin.floats(entry[end])[keep] for end in ("low", "high"))
        if style == "points":
            if low is not None and high is not None:
                axes.vlines(x, low, high, color=colour, linewidth=1.2, alpha=0.6)
            axes.plot(x, y, "o", color=colour, markersize=4.5, markeredgewidth=0)
        else:
            if low is not None and high is not None:
                axes.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)
            axes.plot(x, y, color=colour, linestyle="--" if style == "dashed" else theme.dashes(index))
            if len(x) <= 12 and style != "dashed":
                axes.plot(x, y, "o", color=colour, markersize=4, markeredgewidth=0)
    if textual:
        _name_ticks(axes, names)
    _scales(axes, bool(data.get("x_log")) and not textual, bool(data.get("y_log")))
    _finish(axes, data, entries)


def scatter(drawing: Drawing, data: Mapping[str, Any], arrays: Mapping[str, Any], notes: Notes) -> None:
    """Points per series, with the diagonal where both axes measure the same thing."""
    axes = drawing.add_subplot()
    entries = thin.series(data, notes)
    limit = max(thin.SCATTER_POINTS // max(len(entries), 1), 50)
    ends: list[float] = []
    for index, entry in enumerate(entries):
        x, y = thin.scatter_points(thin.floats(entry["x"]), thin.floats(entry["y"]), limit, notes)
        if data.get("log"):
            positive = (x > 0) & (y > 0)
            x, y = x[positive], y[positive]
            if not positive.all():
                notes.add(f"{int((~positive).sum()):,} points at or below zero do not fit the logarithmic axes.")
        alpha = 0.85 if len(x) <= 200 else 0.6
        axes.plot(
            x, y, "o", color=theme.colour(index), markersize=5 if len(x) <= 200 else 3.5, alpha=alpha, markeredgewidth=0
        )
        ends += [float(v) for side in (x, y) if len(side) for v in (side.min(), side.max())]
    if data.get("diagonal") and ends:
        axes.plot([min(ends), max(ends)], [min(ends), max(ends)], color=theme.MUTED, linewidth=1, linestyle="--")
    _scales(axes, bool(data.get("log")), bool(data.get("log")))
    _finish(axes, data, entries)


def bars(drawing: Drawing, data: Mapping[str, Any], arrays: Mapping[str, Any], notes: Notes) -> None:
    """Grouped bars with intervals; a stepped area instead when there are too many to tell apart."""
    axes = drawing.add_subplot()
    entries = thin.series(data, notes)
    names = [thin.label(name, 24) for name in data["labels"]]
    many = len(names) > 3 * thin.BAR_LABELS
    flat = bool(data.get("horizontal")) and not many
    width = 0.78 / max(len(entries), 1)
    position = numpy.arange(len(names), dtype=float)
    for index, entry in enumerate(entries):
        values = thin.floats(entry["values"])
        if len(values) != len(names):
            raise ValueError(f"series {entry.get('label')!r} has {len(values)} values for {len(names)} labels")
        colour, offset = theme.colour(index), (index - (len(entries) - 1) / 2) * width
        low, high = (None if entry.get(end) is None else thin.floats(entry[end]) for end in ("low", "high"))
        if many:
            axes.fill_between(position, values, step="mid", color=colour, alpha=0.35, linewidth=0)
            axes.step(position, values, where="mid", color=colour, linewidth=1)
            continue
        (axes.barh if flat else axes.bar)(position + offset, values, width * 0.92, color=colour)
        if low is not None and high is not None:
            span = axes.hlines if flat else axes.vlines
            span(position + offset, low, high, color=theme.INK, linewidth=1.1)
    if flat:
        drawing.set_figheight(min(max(1.1 + 0.25 * len(names) * max(1, 0.6 * len(entries)), 1.9), 12))
        axes.set_yticks(position, names)
        axes.set_ylim(len(names) - 0.5, -0.5)  # from the top, and with names whose values are not finite
        axes.grid(visible=False, axis="y")
    else:
        _name_ticks(axes, names)
        axes.grid(visible=False, axis="x")
        axes.margins(x=0.02)
    if data.get("x_log") and any((thin.floats(entry["values"]) > 0).any() for entry in entries):
        axes.set_xscale("log", nonpositive="clip")  # bars begin at 0
    _finish(axes, data, entries)


def histogram(drawing: Drawing, data: Mapping[str, Any], arrays: Mapping[str, Any], notes: Notes) -> None:
    """Counts per series over shared bins."""
    axes = drawing.add_subplot()
    entries = thin.series(data, notes)
    columns = [thin.floats(entry["values"]) for entry in entries]
    finite = [column[numpy.isfinite(column)] for column in columns]
    missing = sum(len(a) - len(b) for a, b in zip(columns, finite, strict=True))
    if missing:
        notes.add(f"{missing:,} values are not finite and not shown.")
    together = numpy.concatenate(finite) if finite else numpy.empty(0)
    if len(together):
        edges = numpy.histogram_bin_edges(together, bins=min(max(int(data.get("bins") or 30), 1), 200))
        for index, column in enumerate(finite):
            counts, _ = numpy.histogram(column, edges)
            axes.stairs(counts, edges, fill=True, color=theme.colour(index), alpha=0.3, linewidth=0)
            axes.stairs(counts, edges, color=theme.colour(index), linewidth=1.4)
    axes.set_ylim(bottom=0)
    _finish(axes, {"y_label": "count", **data}, entries)


def _finish(axes: Axes, data: Mapping[str, Any], entries: Sequence[Mapping[str, Any]]) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_xlabel(thin.label(data.get("x_label") or "", 80))
    axes.set_ylabel(thin.label(data.get("y_label") or "", 60))
    for axis, scale in ((axes.xaxis, axes.get_xscale()), (axes.yaxis, axes.get_yscale())):
        if scale == "log":
            low, high = sorted(axis.get_view_interval())
            decades = math.log10(high / low) if low > 0 else math.inf
            axis.set_major_locator(LogLocator(base=10, subs=_ticks_within(decades), numticks=7))
            axis.set_major_formatter(FuncFormatter(_log_tick if decades >= _FEW else _plain_tick))
            axis.set_minor_formatter(NullFormatter())
        elif type(axis.get_major_formatter()).__name__ == "ScalarFormatter":
            axis.set_major_formatter(FuncFormatter(lambda value, _: number(float(value), 4)))
    if len(entries) < 2:
        return
    handles = []
    for index, entry in enumerate(entries):
        if "label" in entry and not entry["label"]:
            continue  # drawn, but part of the entry before it
        points = entry.get("style") == "points" or "y" not in entry or ("x" in entry and "y" in entry)
        boxes = "values" in entry
        line = "None" if points or boxes else "--" if entry.get("style") == "dashed" else theme.dashes(index)
        marker = "s" if boxes else "o" if points else ""
        name = thin.label(entry.get("label") or f"series {index + 1}", 52)
        handles.append(
            Line2D([], [], color=theme.colour(index), linestyle=line, marker=marker, markersize=6, label=name)
        )
    if not handles:
        return
    longest = max(len(str(handle.get_label())) for handle in handles)
    columns = max(1, min(len(handles), 62 // (longest + 6)))
    axes.legend(
        handles=handles, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=columns, borderaxespad=0.3, borderpad=0
    )


def _scales(axes: Axes, x_log: bool, y_log: bool) -> None:
    for wanted, setter, values in ((x_log, axes.set_xscale, "x"), (y_log, axes.set_yscale, "y")):
        points = [line.get_xdata() if values == "x" else line.get_ydata() for line in axes.lines]
        if wanted and any((numpy.asarray(one, dtype=float) > 0).any() for one in points):
            setter("log", nonpositive="mask")


_FEW = 2.0  # decades below which powers of ten alone would leave an axis nearly bare


def _ticks_within(decades: float) -> tuple[float, ...]:
    """Where ticks of a logarithmic axis stand within each decade."""
    return (1.0,) if decades >= _FEW else (1.0, 2.0, 5.0) if decades >= 0.7 else (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0)


def _plain_tick(value: float, _: int) -> str:
    return number(value, 2) if value > 0 else ""


def _log_tick(value: float, _: int) -> str:
    if value <= 0:
        return ""
    exponent = math.log10(value)
    if abs(exponent - round(exponent)) > 1e-6:
        return ""
    return number(value) if -3 <= exponent <= 4 else power_of_ten(round(exponent))


def _name_ticks(axes: Axes, names: Sequence[Any]) -> None:
    every = max(1, math.ceil(len(names) / thin.BAR_LABELS))
    shown = [thin.label(name, 24) for name in names[::every]]
    slanted = sum(len(name) for name in shown) > 52
    axes.set_xticks(range(0, len(names), every), shown)
    if slanted:
        size = 9 if len(shown) <= 24 else 7
        steep = 90 if len(shown) > 24 else 45
        for text in axes.get_xticklabels():
            text.set(
                rotation=steep,
                ha="right" if steep == 45 else "center",
                rotation_mode="anchor" if steep == 45 else "default",
            )
            text.set_fontsize(size)
