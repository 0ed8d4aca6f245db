"""Figure data made fit for drawing: plain arrays, thinned where the eye could not tell, with a note saying so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy
from numpy.typing import NDArray

from assay.render.text import number, short

LINE_POINTS = 600
SCATTER_POINTS = 1500
BAR_LABELS = 40
MATRIX_CELLS = 20
MAXIMUM_SERIES = 12
MAXIMUM_PANELS = 36


@dataclass
class Notes:
    """What was left out while a figure was drawn, for its caption.

    Attributes:
        compact: thin long series for a small file.
        headroom: inches to keep free above the drawing for a title.
        sentences: what to tell the reader.
    """

    compact: bool = False
    headroom: float = 0.0
    sentences: list[str] = field(default_factory=list)

    def add(self, sentence: str) -> None:
        """Keep a sentence once."""
        if sentence not in self.sentences:
            self.sentences.append(sentence)


def floats(values: Any) -> NDArray[numpy.float64]:
    """A flat float array; None, text and infinities become NaN, which is not drawn."""
    items = values.tolist() if hasattr(values, "tolist") else values
    if not isinstance(items, (list, tuple)):
        items = [] if items is None else [items]
    numbers = [float(v) if isinstance(v, (int, float)) and abs(v) < 1e300 else numpy.nan for v in _flat(items)]
    return numpy.asarray(numbers, dtype=numpy.float64)


def _flat(items: Sequence[Any]) -> list[Any]:
    return [inner for item in items for inner in (_flat(item) if isinstance(item, (list, tuple)) else [item])]


def series(data: Mapping[str, Any], notes: Notes) -> list[Mapping[str, Any]]:
    """The series to draw, at most `MAXIMUM_SERIES`."""
    every = [entry for entry in data.get("series") or [] if isinstance(entry, Mapping)]
    if len(every) > MAXIMUM_SERIES:
        notes.add(f"Shows {MAXIMUM_SERIES} of {len(every):,} series.")
    return every[:MAXIMUM_SERIES]


def label(text: Any, limit: int = 28) -> str:
    """A name as it may stand in a drawing; matplotlib hides labels that start with an underscore."""
    cleaned = short(text if isinstance(text, str) else number(text), limit)
    return f" {cleaned}" if cleaned.startswith("_") else cleaned


def line_points(x: NDArray[numpy.float64], y: NDArray[numpy.float64], notes: Notes) -> NDArray[numpy.intp]:
    """Indices to draw: all, or lowest and highest of each of many short stretches, so that no peak is lost."""
    if not notes.compact or len(x) <= LINE_POINTS:
        return numpy.arange(len(x))
    keep = [0, len(x) - 1]
    for stretch in numpy.array_split(numpy.arange(len(x)), LINE_POINTS // 2):
        finite = stretch[numpy.isfinite(y[stretch])]
        if len(finite):
            keep += [int(finite[numpy.argmin(y[finite])]), int(finite[numpy.argmax(y[finite])])]
        else:
            keep.append(int(stretch[0]))
    notes.add(f"Drawn from {len(set(keep)):,} of {len(x):,} points, peaks kept.")
    return numpy.unique(numpy.asarray(keep, dtype=numpy.intp))


def scatter_points(
    x: NDArray[numpy.float64], y: NDArray[numpy.float64], limit: int, notes: Notes
) -> tuple[NDArray[numpy.float64], NDArray[numpy.float64]]:
    """Finite points, evenly thinned to the limit."""
    finite = numpy.isfinite(x) & numpy.isfinite(y)
    if not finite.all():
        notes.add(f"{int((~finite).sum()):,} of {len(x):,} points are not finite and not shown.")
    x, y = x[finite], y[finite]
    if not notes.compact or len(x) <= limit:
        return x, y
    index = numpy.linspace(0, len(x) - 1, limit).astype(numpy.intp)
    notes.add(f"Shows {limit:,} of {len(x):,} points, evenly chosen.")
    return x[index], y[index]


def picture(array: Any, side: int, notes: Notes) -> NDArray[numpy.float64]:
    """A panel (H, W) or (H, W, 3) as float64, averaged over blocks down to at most `side` pixels a side."""
    image = numpy.asarray(array)
    if image.dtype.kind not in "biuf" or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3):
        raise ValueError(f"a panel must be (H, W) or (H, W, 3) numbers, got {image.dtype} {image.shape}")
    if not image.size:
        raise ValueError(f"a panel is empty: {image.shape}")
    scale = 255.0 if image.ndim == 3 and image.dtype == numpy.uint8 else 1.0
    image = image.astype(numpy.float64) / scale
    image[~numpy.isfinite(image)] = numpy.nan
    block = -(-max(image.shape[:2]) // side)
    if not notes.compact or block <= 1:
        return image
    notes.add(f"Averaged over {block} × {block} pixels.")
    height, width = image.shape[0] // block * block or block, image.shape[1] // block * block or block
    if height > image.shape[0] or width > image.shape[1]:  # a very thin picture: take every block-th pixel instead
        return image[::block, ::block]
    cut = image[:height, :width].reshape(height // block, block, width // block, block, *image.shape[2:])
    return cut.mean(axis=(1, 3))
