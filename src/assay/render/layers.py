"""The layer table: the nodes of the graph joined with every table of the results that has one row per node."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from assay.render import text
from assay.results import Audit, Column, Figure, Table

TELLING = 400
MAXIMUM_PROFILES = 10
_REPEATED = frozenset({"index", "place", "layer"})  # every table says again which layer it speaks of


@dataclass(frozen=True)
class LayerColumn:
    """One column as shown.

    Attributes:
        column: what it is.
        source: title of the result it comes from.
        numeric: whether it holds numbers and so can colour the graph.
        main: whether it is one of the few values that matter most.
        texts: what is printed, row by row.
        values: the numbers, or None where there is none; empty for texts.
    """

    column: Column
    source: str
    numeric: bool
    texts: tuple[str, ...]
    values: tuple[float | None, ...] = ()
    main: bool = False

    @property
    def heading(self) -> str:
        """What stands above the column."""
        return text.short(self.column.label or self.column.name.replace("_", " "), 60)

    @property
    def lens(self) -> str:
        """What it is called where the reader chooses by what to colour the graph."""
        return text.short(self.column.lens or self.heading, 60)


@dataclass(frozen=True)
class LayerTable:
    """The joined table.

    Attributes:
        names: node names, one per row, in the order of execution.
        columns: the other columns.
        notes: what could not be joined.
        joined: result key and table name of every table that is part of it.
    """

    names: tuple[str, ...] = ()
    columns: tuple[LayerColumn, ...] = ()
    notes: tuple[str, ...] = ()
    joined: frozenset[tuple[str, str]] = field(default_factory=frozenset)

    @property
    def groups(self) -> list[tuple[str, int]]:
        """Heading and number of columns of each source, in order."""
        found: list[tuple[str, int]] = []
        for column in self.columns:
            count = found.pop()[1] if found and found[-1][0] == column.source else 0
            found.append((column.source, count + 1))
        return found

    @property
    def bytes(self) -> int:
        """At least how much of a page the table takes."""
        return sum(map(len, self.names)) + sum(len(text) + 4 for column in self.columns for text in column.texts)

    @property
    def main(self) -> LayerTable:
        """The same with the columns that matter most."""
        return replace(self, columns=tuple(column for column in self.columns if column.main))

    def telling(self, most: int = TELLING) -> list[int]:
        """Rows, at most about `most`, in order: those whose main values stand out most, as many for each column."""
        numeric = [column for column in self.columns if column.main and column.numeric] or [
            column for column in self.columns if column.numeric
        ]
        if len(self.names) <= most or not numeric:
            return list(range(min(len(self.names), most)))
        chosen: set[int] = set()
        for column in numeric:
            known = [(abs(v), -i) for i, v in enumerate(column.values) if v is not None and v == v]
            chosen |= {-place for _, place in sorted(known, reverse=True)[: most // len(numeric)]}
        return sorted(chosen)

    def profiles(self) -> list[Figure]:
        """Main values along the network, for a page that has no room for the graph."""
        numeric = [column for column in self.columns if column.main and column.numeric]
        return [
            Figure(
                "lines",
                column.lens,
                f"Left to right: the layers in the order in which they run. {column.column.description}".strip(),
                {
                    "x": list(range(1, len(self.names) + 1)),
                    "series": [{"label": column.lens, "y": list(column.values)}],
                    "x_label": "layer",
                    "y_label": column.column.unit,
                },
            )
            for column in numeric[:MAXIMUM_PROFILES]
        ]


def node_column(table: Table) -> int | None:
    """Index of the column that holds node names, or None."""
    return next((index for index, column in enumerate(table.columns) if column.node), None)


def is_numeric(values: Iterable[Any]) -> bool:
    """Whether a column holds numbers, and at least one."""
    numbers = [value for value in values if value is not None]
    return bool(numbers) and all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in numbers)


def join(audit: Audit) -> LayerTable:
    """Join `audit.nodes` with all node tables of the results, in order."""
    sources: list[tuple[str, tuple[str, str] | None, Table, int]] = []
    notes: list[str] = []
    if audit.nodes is not None and audit.nodes.columns:
        sources.append(("Layer", None, audit.nodes, node_column(audit.nodes) or 0))
    for key, result in audit.results.items():
        for name, table in result.tables.items():
            at = node_column(table)
            if at is None:
                continue
            cells = [row[at] for row in table.rows if row[at] is not None]
            if len(set(cells)) < len(cells):
                said = text.short(table.title)
                notes.append(f"{said}: several rows per layer, so it stands with its own section only.")
            elif cells:
                sources.append((result.title or result.name, (key, name), table, at))
    names = _names([[str(row[at]) for row in table.rows if row[at] is not None] for _, _, table, at in sources])
    columns: list[LayerColumn] = []
    for title, origin, table, at in sources:
        found = {str(row[at]): row for row in table.rows}
        repeated = _REPEATED if origin is not None and audit.nodes is not None else {"index"}
        for index, column in enumerate(table.columns):
            if index == at or column.name in repeated:
                continue
            values = [found[name][index] if name in found else None for name in names]
            if not any(value not in (None, "") for value in values):
                continue
            if any(other.column.name == column.name and _same(other, values) for other in columns):
                continue  # two analyses may both repeat the operator or the shape
            columns.append(_column(column, title, values, main=origin is None or bool(column.lens)))
    joined = frozenset(origin for _, origin, _, _ in sources if origin)
    return LayerTable(tuple(names), tuple(_with_main(columns)), tuple(notes), joined)


def _column(column: Column, title: str, values: Sequence[Any], *, main: bool) -> LayerColumn:
    if not is_numeric(values):
        texts = tuple(text.short(text.number(value), 70) for value in values)
        return LayerColumn(column, title, False, texts, main=main)
    numbers = tuple(None if value is None else float(value) for value in values)
    return LayerColumn(column, title, True, tuple(text.column(values)), numbers, main)


def _with_main(columns: Sequence[LayerColumn]) -> list[LayerColumn]:
    """Each source has at least one main value: the first number, where no column says of itself that it is one."""
    have = {column.source for column in columns if column.main}
    made: list[LayerColumn] = []
    for column in columns:
        if column.numeric and column.source not in have:
            have.add(column.source)
            column = replace(column, main=True)
        made.append(column)
    return made


def _names(tables: Sequence[Sequence[str]]) -> list[str]:
    """All names in one order: those that the first table lacks stand behind what they follow in theirs."""
    ordered: list[str] = []
    for names in tables:
        known, last = set(ordered), None
        behind: dict[str | None, list[str]] = {}
        for name in dict.fromkeys(names):
            if name in known:
                last = name
            else:
                behind.setdefault(last, []).append(name)
        first = behind.pop(None, [])
        ordered = [each for name in ordered for each in (name, *behind.get(name, ()))]
        ordered = [*first, *ordered] if last is not None else [*ordered, *first]
    return ordered


def _same(other: LayerColumn, values: Sequence[Any]) -> bool:
    """Whether what is known in both columns agrees."""
    shown = [text.short(text.number(value), 70) for value in values]
    return not other.numeric and all(
        a == b for a, b in zip(other.texts, shown, strict=True) if text.MISSING not in (a, b)
    )
