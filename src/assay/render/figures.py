"""Figures of results through matplotlib's object interface: no pyplot, no lasting global setting, the same bytes."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import StringIO
from typing import TYPE_CHECKING, Any

from assay.render import theme
from assay.render.thin import Notes
from assay.results import Figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

_settings_lock = threading.RLock()  # matplotlib's settings are global: only one thread may change them for a while


def draw(figure: Figure, arrays: Mapping[str, Any], *, title: bool = True, notes: Notes | None = None) -> Drawing:
    """Draw one figure of a result.

    Args:
        figure: what to draw. Its `kind` names a function of `assay.render.kinds`, `pictures` or `regions`.
        arrays: the result's arrays, which heat maps and matrices refer to by key.
        title: whether the title stands above the drawing.
        notes: collects what was thinned out; with `notes.compact` long series are thinned for a small file.

    Returns:
        A `matplotlib.figure.Figure`, not registered with pyplot.

    Raises:
        ValueError: for an unknown kind or data that do not fit it, naming the figure.

    >>> from assay.results import Figure
    >>> data = {"x": [0, 1], "series": [{"label": "a", "y": [1, 2]}], "x_label": "t", "y_label": "y"}
    >>> len(draw(Figure("lines", "A line", "", data), {}).axes)
    1
    """
    from matplotlib.figure import Figure as Drawing

    from assay.render import kinds, pictures, regions

    drawings = {
        "lines": kinds.lines,
        "scatter": kinds.scatter,
        "bars": kinds.bars,
        "histogram": kinds.histogram,
        "heatmaps": pictures.heatmaps,
        "matrix": pictures.matrix,
        "regions": regions.regions,
    }
    if figure.kind not in drawings:
        raise ValueError(f"figure {figure.title!r}: unknown kind {figure.kind!r}; known are {sorted(drawings)}")
    notes = notes or Notes()
    notes.headroom = 0.4 if title and figure.title else 0.0
    with settings():
        drawing = Drawing(
            figsize=(theme.WIDTH, theme.HEIGHT), layout="constrained", facecolor="white" if title else "none"
        )
        try:
            drawings[figure.kind](drawing, figure.data, arrays, notes)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise ValueError(f"figure {figure.title!r} ({figure.kind}) cannot be drawn: {error}") from error
        if notes.headroom:
            drawing.suptitle(theme.wrapped(figure.title), fontsize=11, color=theme.INK, x=0.02, ha="left")
    return drawing


def to_svg(drawing: Drawing) -> str:
    """The drawing as SVG text: deterministic, without date, with text as text."""
    buffer = StringIO()
    with settings():
        drawing.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


@contextmanager
def settings() -> Iterator[None]:
    """Matplotlib's defaults plus the house style for a while, whatever the user's settings are; these come back."""
    import matplotlib

    with _settings_lock, matplotlib.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # glyphs missing in the measuring font, all-NaN axes: drawn as well as can be
        matplotlib.rcdefaults()
        for name, value in theme.SETTINGS.items():
            matplotlib.rcParams[name] = value  # pyright: ignore[reportArgumentType]
        yield
