"""The layer table as the templates print it: which rows and columns stand on this page, and where its names lead."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from assay.render.environment import markup, safe
from assay.render.layers import LayerColumn, LayerTable
from assay.render.text import MISSING

LONG = 36
"""Characters from which a text may break into lines."""


@dataclass(frozen=True)
class Row:
    """One layer: its place among all, its name, where the name leads (nowhere when empty) and its cells as HTML."""

    place: int
    name: str
    link: str
    cells: str


@dataclass(frozen=True)
class Choice:
    """An entry of a list to choose from: the column (from 1), or the source (from 0), what it is called, and means."""

    value: int
    label: str
    meaning: str = ""


@dataclass(frozen=True)
class Grid:
    """A layer table, or a part of one.

    Attributes:
        columns: in order; each says of itself what heads it.
        groups: heading and number of columns of each source.
        sources: for each column the place of its source among the groups.
        rows: the layers.
        total: how many layers there are.
        lenses: what the graph can be coloured by, under headings.
        described: heading and description of each column that has one.
    """

    columns: Sequence[LayerColumn] = ()
    groups: Sequence[tuple[str, int]] = ()
    sources: Sequence[int] = ()
    rows: Sequence[Row] = ()
    total: int = 0
    lenses: Sequence[tuple[str, Sequence[Choice]]] = ()
    described: Sequence[tuple[str, str]] = field(default_factory=tuple)

    @property
    def choices(self) -> Sequence[Choice]:
        """Sources whose columns the reader can ask for; none where the main columns are all there are."""
        if all(column.main for column in self.columns):
            return ()
        return [Choice(index, title) for index, (title, _) in enumerate(self.groups)]


def grid(table: LayerTable, rows: Sequence[int], link: Callable[[int], str]) -> Grid:
    """A layer table ready to print.

    Args:
        table: what to print.
        rows: which layers.
        link: where the name of a layer leads; nowhere when empty.

    Returns:
        What the template prints.
    """
    groups = table.groups
    cells = [_cells(column, rows) for column in table.columns]
    return Grid(
        table.columns,
        groups,
        [index for index, (_, count) in enumerate(groups) for _ in range(count)],
        [Row(row, table.names[row], link(row), markup("".join(some))) for row, *some in zip(rows, *cells, strict=True)],
        len(table.names),
        _lenses(table),
        list(dict.fromkeys((c.heading, c.column.description) for c in table.columns if c.column.description)),
    )


def _cells(column: LayerColumn, rows: Sequence[int]) -> list[str]:
    """Cells without their end tags, which HTML lets be omitted: a fifth of a large page. Missing ones are empty."""
    texts = ["" if column.texts[row] == MISSING else column.texts[row] for row in rows]
    if column.numeric:
        return [f"<td>{text}" for text in texts]  # digits, made by us
    return [f'<td class="{"t long" if len(text) > LONG else "t"}">{safe(text)}' for text in texts]


def _lenses(table: LayerTable) -> list[tuple[str, Sequence[Choice]]]:
    """The values that matter most, then all others under the title of what measured them."""
    numeric = [(index, column) for index, column in enumerate(table.columns, 1) if column.numeric]
    found: dict[str, list[Choice]] = {"Main values": []}
    for index, column in numeric:
        heading = "Main values" if column.main else column.source
        found.setdefault(heading, []).append(Choice(index, column.lens, column.column.description))
    return [(heading, choices) for heading, choices in found.items() if choices]
