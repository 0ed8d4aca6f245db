"""The tables of operators and of the calls they stand for: those of assay, and those that other packages add."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from assay import plugins
from assay.graph.operators.operator import Aten, Operator
from assay.plugins import Plugin

Row = TypeVar("Row")
Form = tuple[Operator, Aten]
LEAVES = frozenset({"input", "parameter"})
"""Nodes that are no operators; other packages cannot take their names."""


class _Table(Mapping[str, Row]):
    """Rows by name. Other packages' are loaded when a name is asked for that assay does not know, or for all names."""

    def __init__(self, rows: dict[str, Row]) -> None:
        self.built_in = rows
        self.others: dict[str, Row] = {}

    def _whole(self) -> Mapping[str, Row]:
        load_others()
        return {**self.built_in, **self.others}

    def __getitem__(self, name: str) -> Row:
        row = self.built_in.get(name)
        if row is not None:
            return row
        if name in LEAVES:
            raise KeyError(name)
        load_others()
        return self.others[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._whole())

    def __len__(self) -> int:
        return len(self._whole())


def tables(rows: Sequence[Operator]) -> tuple[Mapping[str, Operator], Mapping[str, Form]]:
    """Make the two tables from the operators of assay."""
    for row in rows:
        OPERATORS.built_in[row.name] = row
        ATEN.built_in.update({form.name: (row, form) for form in row.aten})
    return OPERATORS, ATEN


OPERATORS: _Table[Operator] = _Table({})
ATEN: _Table[Form] = _Table({})
_seen: set[Plugin] = set()


def load_others() -> None:
    """Add the operators of other packages (entry points ``assay.operators``); each package once.

    An entry point names an `Operator` or several. One that cannot be used adds nothing; `plugins.problems` says why.
    """
    for plugin in plugins.installed(plugins.OPERATORS):
        if plugin in _seen:
            continue
        _seen.add(plugin)  # first: its own module may ask for operators
        try:
            found = plugin.load()
        except plugins.PluginError:
            continue
        rows = (found,) if isinstance(found, Operator) else found
        why = _fault(rows)
        if why:
            plugin.refusal(why)
            continue
        for row in rows:
            OPERATORS.others[row.name] = row
            ATEN.others.update({form.name: (row, form) for form in row.aten})
        plugins.credit(plugin, [row.name for row in rows])


def _fault(rows: Any) -> str:
    """Why these cannot be added; empty when they can."""
    if not isinstance(rows, (list, tuple)) or not rows or not all(isinstance(row, Operator) for row in rows):
        return "it must name an assay.graph.Operator, or a tuple of them"
    names = [row.name for row in rows]
    calls = [form.name for row in rows for form in row.aten]
    taken = {**OPERATORS.built_in, **OPERATORS.others}
    bound = {**ATEN.built_in, **ATEN.others}
    for name in names:
        if name in taken or name in LEAVES or names.count(name) > 1:
            return f"there is an operator {name!r} already"
        if not name.isidentifier():
            return f"{name!r} is no name for an operator: use letters, digits and underscores"
    for row in rows:
        if row.elementwise and any(len(form.inputs) > 1 for form in row.aten if form.convert is None):
            return f"{row.name!r} is elementwise in one tensor and takes several: leave the trait out"
    for name in calls:
        if name in bound or calls.count(name) > 1:
            owner = bound[name][0].name if name in bound else "it"
            return f"the call {name} belongs to the operator {owner!r} already"
    return ""
