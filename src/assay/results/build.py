"""Parts of results from tensors, arrays or lists: counts, bands over inputs, tables, figures of a few common forms."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from assay.grade import Grade
from assay.results.model import Figure, Quantity
from assay.results.table import Column, Table, with_left_out

if TYPE_CHECKING:
    import numpy

SHOWN_POINTS = 2000
"""Most values of a series in a figure; more are thinned evenly in rank, which keeps the distribution."""
BARS = 16
PANELS = 3


def array(values: Any) -> numpy.ndarray:
    """A tensor of any device and type, an array or a sequence as a numpy array; floats become float64."""
    import numpy

    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = values.double().numpy() if values.is_floating_point() else values.numpy()
    found = numpy.asarray(values)
    return found.astype(numpy.float64) if found.dtype.kind == "f" else found


def count(number: int, label: str) -> Quantity:
    """A whole number, such as how many inputs there are."""
    return Quantity(int(number), Grade.EXACT, "", label)


def share(flags: Any, label: str, grade: Grade = Grade.EXACT) -> Quantity:
    """Share of true entries; NaN where there are none."""
    found = array(flags)
    return Quantity(float(found.mean()) if found.size else math.nan, grade, "share", label)


def band(values: Any, label: str, grade: Grade, unit: str = "", *, over: str = "inputs") -> Quantity:
    """Median of numbers with their 5th and 95th percentiles; NaN entries are left out.

    Args:
        values: any shape.
        label: what they are.
        grade: of each of them.
        unit: of them.
        over: what they vary over.

    Returns:
        The quantity; without an interval for a single number.

    >>> found = band([1.0, 2.0, 9.0], "distance", Grade.SAMPLED)
    >>> found.value, found.low, found.high, found.interval
    (2.0, 1.0, 9.0, '5th to 95th percentile over inputs')
    """
    import numpy

    every = array(values).ravel()
    known = every[~numpy.isnan(every)]
    if known.size < 2:
        return Quantity(float(known[0]) if known.size else math.nan, grade, unit, label)
    # Existing entries rather than points between them, so that infinite ones do not turn into NaN.
    low, middle, high = numpy.quantile(known, (0.05, 0.5, 0.95), method="inverted_cdf").tolist()
    interval = f"5th to 95th percentile over {over}"
    return Quantity(float(middle), grade, unit, label, float(low), float(high), interval)


def table(
    name: str, title: str, columns: Sequence[tuple[Column, Any]], rows: int | None = None, caption: str = ""
) -> Table:
    """A table from its columns.

    Args:
        name: key of the table.
        title: for people.
        columns: each with its values, all of one length; NaN becomes None.
        rows: most rows; None for all.
        caption: how to read it.

    Returns:
        The table; its caption tells when rows are left out.

    >>> found = table("inputs", "Inputs", [(Column("margin"), [0.5, math.nan, 0.1])], rows=2)
    >>> found.rows, found.caption
    (((0.5,), (None,)), "First 2 of 3 rows; to_frame('inputs') has all.")
    """
    total = len(columns[0][1]) if columns else 0
    shown = total if rows is None else min(rows, total)
    if shown < total:
        caption = with_left_out(caption, name, shown, total)
    cells = [_cells(values, shown) for _, values in columns]
    return Table(name, title, tuple(column for column, _ in columns), tuple(zip(*cells, strict=True)), caption)


def _cells(values: Any, shown: int) -> list[Any]:
    kept = values[:shown]
    plain = array(kept).tolist() if hasattr(kept, "shape") else list(kept)
    return [None if isinstance(cell, float) and math.isnan(cell) else cell for cell in plain]


def rows_of(total: int) -> tuple[Column, range]:
    """The column that numbers inputs from 0, as the batch does."""
    return Column("input", "input", description="Position in the batch, from 0."), range(total)


def per_input(title: str, caption: str, label: str, series: Mapping[str, Any], names: Sequence[str] = ()) -> Figure:
    """Numbers of every input: bars for a few inputs, a histogram for many.

    Args:
        title: of the figure.
        caption: how to read it.
        label: what is measured, with its unit.
        series: one number per input each, by name; no number of an input is drawn where it is not finite.
        names: of the inputs; their positions by default.

    Returns:
        The figure.
    """
    columns = {name: array(values).ravel().astype(float) for name, values in series.items()}
    total = len(next(iter(columns.values())))
    if total > BARS:
        entries = [{"label": name, "values": spread(values)} for name, values in columns.items()]
        return Figure("histogram", title, caption, {"series": entries, "x_label": label, "y_label": "inputs"})
    labels = list(names) or [f"input {row}" for row in range(total)]
    entries = [{"label": name, "values": _finite(values)} for name, values in columns.items()]
    data = {"labels": labels, "series": entries, "x_label": label, "y_label": "", "horizontal": True}
    return Figure("bars", title, caption, data)


def bars(
    title: str,
    caption: str,
    label: str,
    labels: Sequence[str],
    series: Mapping[str, Any],
    *,
    low: Any = None,
    high: Any = None,
    log: bool = False,
) -> Figure:
    """Horizontal bars, with intervals where `low` and `high` are given (then for a single series)."""
    entries: list[dict[str, Any]] = [
        {"label": name, "values": _finite(array(values).astype(float))} for name, values in series.items()
    ]
    if low is not None and high is not None:
        entries[0] |= {"low": _finite(array(low)), "high": _finite(array(high))}
    data = {"labels": [*labels], "series": entries, "x_label": label, "y_label": "", "horizontal": True, "x_log": log}
    return Figure("bars", title, caption, data)


def line(label: str, y: Any, style: str = "line", low: Any = None, high: Any = None) -> dict[str, Any]:
    """One series of a figure of kind ``lines``; not finite values are gaps."""
    entry: dict[str, Any] = {"label": label, "y": _finite(array(y).astype(float)), "style": style}
    if low is not None and high is not None:
        entry |= {"low": _finite(array(low).astype(float)), "high": _finite(array(high).astype(float))}
    return entry


def lines(
    title: str,
    caption: str,
    x: Any,
    series: Sequence[Mapping[str, Any]],
    x_label: str,
    y_label: str,
    *,
    x_log: bool = False,
    y_log: bool = False,
) -> Figure:
    """Lines over a shared x, each made by `line`."""
    data = {
        "x": array(x).tolist() if not isinstance(x, list) else x,
        "series": list(series),
        "x_label": x_label,
        "y_label": y_label,
        "x_log": x_log,
        "y_log": y_log,
    }
    return Figure("lines", title, caption, data)


def pictures(inputs: Any, bounds: tuple[float, float] | None) -> numpy.ndarray:
    """Inputs as they look, for panels of heat maps: in colour, or in shades of grey.

    Args:
        inputs: (n, C, H, W) in the data's range.
        bounds: that range; None takes the smallest and the largest value.

    Returns:
        (n, H, W, 3) from 0 to 1 in single precision.
    """
    import numpy

    values = array(inputs).astype(numpy.float64)
    low, high = bounds or (float(values.min()), float(values.max()))
    scaled = ((values - low) / max(high - low, 1e-12)).clip(0, 1).astype(numpy.float32)
    coloured = scaled if scaled.shape[1] == 3 else scaled.mean(1, keepdims=True).repeat(3, axis=1)
    return coloured.transpose(0, 2, 3, 1)


def maps(
    title: str, caption: str, named: Mapping[str, Any], each: str = "input"
) -> tuple[Figure, dict[str, numpy.ndarray]]:
    """Tensors of the inputs' shape, for the first few inputs: heat maps of pictures, lines over the elements otherwise.

    Args:
        title: of the figure.
        caption: how to read it.
        named: (B, C, H, W), (B, H, W) or (B, ...) each, by name; channels are summed. Maps with negative entries are
            drawn in two colours about 0.
        each: what the first axis counts.

    Returns:
        The figure, and the arrays it refers to.
    """
    import numpy

    chosen = {name: array(values[:PANELS]).astype(float) for name, values in named.items()}
    sample = next(iter(chosen.values()))
    if sample.ndim == 4 or (sample.ndim == 3 and min(sample.shape[1:]) > 1):
        flat = {name: values.sum(1) if values.ndim == 4 else values for name, values in chosen.items()}
        panels = [
            {
                "array": name,
                "index": [row],
                "title": f"{name}, {each} {row}" if len(sample) > 1 else name,
                "diverging": bool((values < 0).any()),
            }
            for row in range(len(sample))
            for name, values in flat.items()
        ]
        columns = len(flat) if len(flat) > 1 else len(sample)
        return Figure("heatmaps", title, caption, {"panels": panels, "columns": columns}), flat
    series = [
        line(f"{name}, {each} {row}" if len(sample) > 1 else name, values[row].ravel()[:SHOWN_POINTS])
        for name, values in chosen.items()
        for row in range(len(sample))
    ]
    size = min(int(numpy.prod(sample.shape[1:])), SHOWN_POINTS)
    return lines(title, caption, range(size), series, "element of the input", ""), {}


def spread(values: Any) -> list[float]:
    """At most `SHOWN_POINTS` of the finite values, sorted and evenly chosen in rank."""
    import numpy

    every = array(values).ravel().astype(float)
    known = numpy.sort(every[numpy.isfinite(every)])
    if known.size > SHOWN_POINTS:
        known = known[numpy.linspace(0, known.size - 1, SHOWN_POINTS).round().astype(int)]
    return known.tolist()


def _finite(values: numpy.ndarray) -> list[float | None]:
    return [float(value) if math.isfinite(value) else None for value in values.ravel().tolist()]
