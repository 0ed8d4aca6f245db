"""What changed in which layer, where the layers of both models go by the same names."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from assay.grade import Grade, combine
from assay.results import Audit, Column, Table

SHOWN = 30
_NAMES = ("place", "layer", "unit")
_ENDS = ("low", "high")
"""Columns that are the ends of an interval say nothing of their own."""


@dataclass(frozen=True)
class Cell:
    """One number of one layer in both runs.

    Attributes:
        analysis: name of the analysis.
        table: name of its table.
        column: the column, of the second run.
        layer: name of the layer.
        node: graph node in the second run.
        before: in the first run.
        after: in the second run.
        grade: the looser of both.
        scale: largest size of a number of this column, over layers and runs; 0 where all are positive.
    """

    analysis: str
    table: str
    column: Column
    layer: str
    node: str
    before: float
    after: float
    grade: Grade
    scale: float = 0.0

    @property
    def ratio(self) -> float | None:
        """After over before, where both are positive."""
        return self.after / self.before if self.before > 0 and self.after > 0 else None

    @property
    def size(self) -> float:
        """How large the change is: the logarithm of the ratio; where signs are mixed, the difference over the scale."""
        if self.before == self.after:
            return 0.0
        if self.ratio is not None and not self.scale:
            return abs(math.log(self.ratio))
        return abs(self.after - self.before) / self.scale


def cells(before: Audit, after: Audit, shared: Sequence[str]) -> tuple[list[Cell], str]:
    """Numbers of layers that both runs have, and a note on how the layers matched; empty when all did.

    Returns:
        Numbers in the order of the second run, and the note.
    """
    found: list[Cell] = []
    seen: tuple[set[str], set[str]] = set(), set()
    for name in shared:
        one, other = before.results[name], after.results[name]
        for key in (key for key in one.tables if key in other.tables):
            first, second = _rows(one.tables[key]), _rows(other.tables[key])
            seen[0].update(first)
            seen[1].update(second)
            found += _matched(name, key, other.tables[key], one.tables[key], first, second)
    return found, _note(*seen)


def changes_table(found: Sequence[Cell]) -> Table:
    """The largest changes, one number of one layer per row."""
    ranked = sorted((cell for cell in found if cell.size > 0), key=lambda cell: -cell.size)[:SHOWN]
    columns = (
        Column("layer", "layer"),
        Column("quantity", "quantity"),
        Column("analysis", "analysis"),
        Column("before", "before"),
        Column("after", "after"),
        Column("ratio", "after / before", "", None, "Empty where one of them is 0 or negative."),
        Column("unit", "unit"),
        Column("grade", "grade", "", None, "The looser of both numbers'."),
    )
    records = [
        {
            "layer": cell.layer,
            "quantity": cell.column.label or cell.column.name,
            "analysis": f"{cell.analysis}.{cell.table}",
            "before": cell.before,
            "after": cell.after,
            "ratio": cell.ratio,
            "unit": cell.column.unit,
            "grade": cell.grade.label,
        }
        for cell in ranked
    ]
    caption = "Changes in layers carry no interval: they say where to look, not whether a difference is real."
    return Table.from_records("layer_changes", "Largest changes in layers", columns, records, caption)


def ratio_table(found: Sequence[Cell]) -> Table | None:
    """One row per layer, one column per quantity: after over before. Colours the graph; None without a ratio."""
    columns: dict[str, Column] = {}
    rows: dict[str, dict[str, Any]] = {}
    for cell in found:
        if cell.ratio is None:
            continue
        name = f"{cell.analysis}_{cell.table}_{cell.column.name}"
        label = f"{cell.column.label or cell.column.name} ×"
        columns.setdefault(name, Column(name, label, "", cell.grade, f"{cell.analysis}, {cell.table}: after / before."))
        rows.setdefault(cell.node, {"node": cell.node, "layer": cell.layer})[name] = cell.ratio
    if not rows:
        return None
    head = (Column("node", "node", node=True), Column("layer", "layer"))
    return Table.from_records(
        "layers",
        "Layers, after over before",
        (*head, *columns.values()),
        list(rows.values()),
        "1 is unchanged, 2 is twice as much after as before.",
    )


def _rows(table: Table) -> Mapping[str, tuple[Any, ...]]:
    """Rows by the layer's name; empty for a table that is not about layers or has several rows for one."""
    if not any(column.node or column.name == "node" for column in table.columns):
        return {}
    named = {column.name for column in table.columns}
    key = next((name for name in _NAMES if name in named), "node")
    names = [str(name) for name in table.column(key)]
    return dict(zip(names, table.rows, strict=True)) if len(set(names)) == len(names) else {}


def _matched(
    analysis: str,
    key: str,
    table: Table,
    earlier: Table,
    first: Mapping[str, tuple[Any, ...]],
    second: Mapping[str, tuple[Any, ...]],
) -> list[Cell]:
    place = {column.name: index for index, column in enumerate(earlier.columns)}
    node = next((i for i, column in enumerate(table.columns) if column.node or column.name == "node"), 0)
    found = []
    for index, column in enumerate(table.columns):
        other = earlier.columns[place[column.name]] if column.name in place else None
        if other is None or column.grade is None or other.grade is None or column.unit != other.unit:
            continue
        if column.name.split("_")[-1] in _ENDS:
            continue
        grade = combine((column.grade, other.grade))
        numbers: dict[str, tuple[float, float, str]] = {}
        for name, row in second.items():
            pair = first[name][place[column.name]] if name in first else None, row[index]
            if all(_is_number(value) for value in pair):
                numbers[name] = float(pair[0]), float(pair[1]), str(row[node])  # type: ignore[arg-type]
        seen = [value for before, after, _ in numbers.values() for value in (before, after)]
        scale = 0.0 if all(value > 0 for value in seen) else max(map(abs, seen), default=0.0)
        found += [
            Cell(analysis, key, column, name, where, before, after, grade, scale)
            for name, (before, after, where) in numbers.items()
        ]
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _note(first: set[str], second: set[str]) -> str:
    both = first & second
    if not first or not second or first == second:
        return ""
    if not both:
        return (
            f"No layer of the second model ({len(second)}) goes by the name of one of the first ({len(first)}): layers "
            "are not compared."
        )
    return (
        f"{len(both)} layers go by the same name in both models and are compared; {len(first - both)} are only in the "
        f"first and {len(second - both)} only in the second."
    )
