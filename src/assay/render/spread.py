"""How much of the layers stands on the report's page, and what goes to the pages beside it."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from assay.render import beside
from assay.render.environment import page
from assay.render.grid import Grid, grid
from assay.render.layers import LayerTable

PAGE_ROWS = 500
PAGE_BYTES = 500_000
CELL_BYTES = 40
"""At most about; pages of layers have room for twice as much."""


@dataclass(frozen=True)
class Fit:
    """What a page shows: the graph or not, every value per layer or the main ones, every layer or the telling ones.

    Attributes:
        graph: the drawing of the graph.
        everything: all columns of the layer table.
        telling: only layers that stand out.
        table_rows: how many rows of other tables are printed.
    """

    graph: bool
    everything: bool
    telling: bool
    table_rows: int


FITS = (
    Fit(graph=True, everything=True, telling=False, table_rows=200),
    Fit(graph=True, everything=False, telling=False, table_rows=200),
    Fit(graph=False, everything=False, telling=False, table_rows=100),
    Fit(graph=False, everything=False, telling=True, table_rows=40),
    Fit(graph=False, everything=False, telling=True, table_rows=8),
)
"""From the most to the least."""


@dataclass(frozen=True)
class Spread:
    """The layers on the page.

    Attributes:
        here: what stands there.
        notes: what does not.
        links: address and label of each page beside it.
    """

    here: Grid
    notes: Sequence[str] = ()
    links: Sequence[tuple[str, str]] = ()


def spread(joined: LayerTable, fit: Fit, drawn: Container[int], path: Path | None) -> Spread:
    """What of the layer table stands on the report's page.

    Args:
        joined: all layers.
        fit: what the page shows.
        drawn: the layers that the graph on the page shows, so that their names lead there.
        path: where the report will stand; None for one that stands alone.

    Returns:
        The table and what to say of it.
    """
    total = len(joined.names)
    rows = joined.telling() if fit.telling else list(range(total))
    here = joined if fit.everything else joined.main
    notes: list[str] = []
    if len(rows) < total:
        notes.append(f"Shows {len(rows):,} of {total:,} layers, those where one of these values is among the largest.")
    if len(here.columns) < len(joined.columns):
        notes.append(f"Shows {len(here.columns)} of {len(joined.columns)} columns, with the main values per layer.")
    if not notes or path is None:
        notes += ["The saved run has all of them."] if notes else []
        return Spread(grid(here, rows, lambda row: f"#n{row}" if row in drawn else ""), notes)
    folder, parts = beside.folder_of(path).name, _parts(joined)
    links = [(_address(f"{folder}/{name}"), _label(part)) for name, part in parts.items()]
    size = len(parts[beside.page_name(0)])

    def lead(row: int) -> str:
        return f"#n{row}" if row in drawn else f"{links[row // size][0]}#r{row}"

    return Spread(grid(here, rows, lead), notes, links)


def pages(joined: LayerTable, path: Path) -> dict[str, str]:
    """The pages beside a report: every layer with every number.

    Args:
        joined: all layers.
        path: where the report stands.

    Returns:
        HTML by file name.
    """
    parts = _parts(joined)
    labels = [(name, _label(part)) for name, part in parts.items()]
    return {
        name: page(
            "layers.html.j2",
            home=_address(f"../{path.name}"),
            label=_label(part),
            grid=grid(joined, part, lambda row: ""),
            links=labels,
            here=name,
        )
        for name, part in parts.items()
    }


def _parts(joined: LayerTable) -> dict[str, range]:
    """The rows of each page, by its file name."""
    size = max(min(PAGE_ROWS, PAGE_BYTES // (CELL_BYTES * (len(joined.columns) + 4))), 20)
    starts = range(0, len(joined.names), size)
    return {beside.page_name(i): range(start, min(start + size, len(joined.names))) for i, start in enumerate(starts)}


def _label(part: range) -> str:
    return f"{part.start + 1:,} to {part.stop:,}"


def _address(path: str) -> str:
    """A relative path as a link; the point keeps a colon in a name from looking like a protocol."""
    return quote(path if path.startswith(".") else f"./{path}", safe="/.", errors="surrogateescape")
