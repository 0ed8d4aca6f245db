"""The layer table: the nodes of the graph joined with every table of the results that has one row per node."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from assay.render import text
from assay.results import Audit, Column, Table

MAXIMUM_ROWS = 2000
_HIDDEN = frozenset({"index"})


@dataclass(frozen=True)
class LayerColumn:
    """One column as shown: where it comes from, how it is headed, and whether it can colour the graph."""

    column: Column
    source: str
    numeric: bool
    texts: tuple[str, ...]

    @property
    def heading(self) -> str:
        """What stands above the column."""
        return text.short(self.column.label or self.column.name.replace("_", " "), 40)


@dataclass(frozen=True)
class LayerTable:
    """The joined table.

    Attributes:
        names: node names, one per row.
        columns: the other columns.
        groups: heading and number of columns of each source, in order.
        notes: what could not be joined or was cut.
        joined: result key and table name of every table that is part of it.
    """

    names: tuple[str, ...] = ()
    columns: tuple[LayerColumn, ...] = ()
    groups: tuple[tuple[str, int], ...] = ()
    notes: tuple[str, ...] = ()
    joined: frozenset[tuple[str, str]] = field(default_factory=frozenset)

    @property
    def bytes(self) -> int:
        """About how much of the page the table takes."""
        return sum(len(name) + 60 for name in self.names) + sum(len(t) + 14 for c in self.columns for t in c.texts)


def node_column(table: Table) -> int | None:
    """Index of the column that holds node names, or None."""
    return next((index for index, column in enumerate(table.columns) if column.node), None)


def is_numeric(values: list[Any]) -> bool:
    """Whether a column holds numbers, and at least one."""
    numbers = [value for value in values if value is not None]
    return bool(numbers) and all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in numbers)


def join(audit: Audit) -> LayerTable:
    """Join `audit.nodes` with all node tables of the results, in order."""
    sources: list[tuple[str, str, Table, int]] = []
    notes: list[str] = []
    for key, result in audit.results.items():
        for name, table in result.tables.items():
            at = node_column(table)
            if at is None:
                continue
            cells = [row[at] for row in table.rows]
            if len(set(cells)) < len(cells):
                notes.append(
                    f"{text.short(table.title)}: several rows per layer, so it stands with its own section only."
                )
            else:
                sources.append((result.title, f"{key}\n{name}", table, at))
    names = _names(audit, [(table, at) for _, _, table, at in sources])
    total = len(names)
    if total > MAXIMUM_ROWS:
        names = names[:MAXIMUM_ROWS]
        notes.append(f"Shows the first {MAXIMUM_ROWS:,} of {total:,} nodes.")
    columns: list[LayerColumn] = []
    groups: list[tuple[str, int]] = []
    if audit.nodes is not None:
        at = node_column(audit.nodes)
        sources.insert(0, ("Layer", "", audit.nodes, 0 if at is None else at))
    for title, _, table, at in sources:
        found = {str(row[at]): row for row in table.rows}
        added = 0
        for index, column in enumerate(table.columns):
            if index == at or column.name in _HIDDEN:
                continue
            values = [found[name][index] if name in found else None for name in names]
            if not any(value not in (None, "") for value in values):
                continue
            if any(other.column.name == column.name and _same(other, values) for other in columns):
                continue  # two analyses may both repeat the operator or the shape
            numeric = is_numeric(values)
            texts = text.column(values) if numeric else [text.short(text.number(value), 70) for value in values]
            columns.append(LayerColumn(column, title, numeric, tuple(texts)))
            added += 1
        if added:
            groups.append((title, added))
    joined = frozenset((key.split("\n")[0], key.split("\n")[1]) for _, key, _, _ in sources if key)
    return LayerTable(tuple(names), tuple(columns), tuple(groups), tuple(notes), joined)


def _names(audit: Audit, tables: list[tuple[Table, int]]) -> list[str]:
    if audit.nodes is not None and audit.nodes.columns:
        tables = [(audit.nodes, node_column(audit.nodes) or 0), *tables]
    ordered: dict[str, None] = {}
    for table, at in tables:
        ordered |= dict.fromkeys(str(row[at]) for row in table.rows if row[at] is not None)
    return list(ordered)


def _same(other: LayerColumn, values: list[Any]) -> bool:
    """Whether what is known in both columns agrees."""
    shown = [text.short(text.number(value), 70) for value in values]
    return not other.numeric and all(
        a == b for a, b in zip(other.texts, shown, strict=True) if text.MISSING not in (a, b)
    )
