"""Paths: short names for the numbers of a result, such as ``inputs.distance[label=3].q05`` or ``bits.max``.

A path is ``quantity[column=value, ...].statistic``; selector and statistic may be left out. The quantity is a key of
the summary, ``table.column``, a column that only one table has, or an array. Names may hold dots: the longest name that
exists wins. A summary quantity with a `basis` stands for that single number, and with a statistic or a selector for the
values it sums up. Values in a selector may stand in quotes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from assay.errors import UsageError
from assay.grade import Grade
from assay.results.model import Quantity, Result
from assay.results.table import Table

_STATISTIC = re.compile(r"(.+)\.(max|min|mean|median|sum|count|q\d{1,2}(?:\.\d+)?)")
STATISTICS = "max, min, mean, median, sum, count, q05 to q99.9"
_SHOWN = 12


@dataclass(frozen=True)
class Path:
    """A path taken apart.

    Attributes:
        name: the quantity.
        where: value that each of these columns must have.
        statistic: one of `STATISTICS`; empty for a single number.
    """

    name: str
    where: Mapping[str, str] = field(default_factory=dict)
    statistic: str = ""


@dataclass(frozen=True)
class Values:
    """What a path without its statistic names.

    Attributes:
        values: numbers, texts or None, one per row or element.
        samples: what each belongs to: the cell of the table's first column, or the place in the array.
        unit: of the values.
        grade: of the values, where they have one.
        quantity: the summary's scalar, where the path names that alone.
    """

    values: Sequence[Any]
    samples: Sequence[Any] = ()
    unit: str = ""
    grade: Grade | None = None
    quantity: Quantity | None = None


def parse(path: str, result: Result) -> Path:
    """Take a path apart.

    Args:
        path: without the name of the analysis.
        result: says which names exist.

    Returns:
        Its parts; the name need not exist.

    Raises:
        UsageError: for a selector that cannot be read.

    Example:
        >>> empty = Result("moments", "", "")
        >>> parse('inputs.flip_0.1[label="a, b"].q95', empty)
        Path(name='inputs.flip_0.1', where={'label': 'a, b'}, statistic='q95')
    """
    name, bracket, rest = path.strip().partition("[")
    where: dict[str, str] = {}
    known = names(result)
    if bracket:
        where, tail = _selector(rest, path)
        if tail and not (tail.startswith(".") and _STATISTIC.fullmatch("x" + tail)):
            raise UsageError(
                f"{tail!r} is no statistic.", where=path, advice=f"After the selector: .{STATISTICS}, or nothing."
            )
        return Path(name.strip(), where, tail[1:])
    found = None if name in known else _STATISTIC.fullmatch(name)
    return Path(name) if found is None else Path(found[1], {}, found[2])


def names(result: Result) -> dict[str, list[str]]:
    """Every quantity that a path may name, with the full names it could stand for; more than one is ambiguous."""
    found: dict[str, list[str]] = {key: [key] for key in result.summary}
    columns: dict[str, list[str]] = {}
    for table_name, table in result.tables.items():
        for column in table.columns:
            full = f"{table_name}.{column.name}"
            found.setdefault(full, [full])
            columns.setdefault(column.name, []).append(full)
    for name, full_names in columns.items():
        found.setdefault(name, full_names)
    for name in result.arrays:
        found.setdefault(name, [name])
    return found


def values(path: Path, result: Result) -> Values:
    """The values that a path names, before its statistic.

    Args:
        path: its parts.
        result: where to look.

    Returns:
        One number for a scalar of the summary; all rows that the selector leaves for a column; all elements of an
        array.

    Raises:
        UsageError: when the name does not exist, is ambiguous, or a selector names what is not there.
    """
    known = names(result)
    if path.name not in known:
        close = get_close_matches(path.name, known, 5, 0.5)
        there = ", ".join(close or list(known)[:_SHOWN])
        raise UsageError(
            f"{result.name} has no quantity {path.name!r}.",
            where=f"{result.name}.{path.name}",
            advice=(f"Did you mean {there}? " if close else f"It has, among others: {there}. ")
            + "`assay check RUN --list` shows all.",
        )
    if len(known[path.name]) > 1:
        raise UsageError(
            f"Several tables have a column {path.name!r}.",
            where=f"{result.name}.{path.name}",
            advice=f"Choose: {', '.join(known[path.name])}.",
        )
    quantity = result.summary.get(path.name)
    if quantity is None:
        return _stored(path, result)
    if not path.statistic and not path.where:
        return Values([quantity.value], (), quantity.unit, quantity.grade, quantity)
    if not quantity.basis:
        raise UsageError(
            f"{path.name} is a single number.",
            where=f"{result.name}.{path.name}",
            advice="Leave out the selector and the statistic.",
        )
    basis = parse(quantity.basis, result)
    found = _stored(Path(basis.name, {**basis.where, **path.where}, path.statistic), result)
    return Values(found.values, found.samples, found.unit or quantity.unit, found.grade or quantity.grade)


def basis(quantity: Quantity, result: Result) -> tuple[Values, str] | None:
    """The values that a scalar of the summary sums up.

    Returns:
        They, and the statistic; None where the quantity has no basis, or it is not there.
    """
    if not quantity.basis:
        return None
    path = parse(quantity.basis, result)
    try:
        return _stored(path, result), path.statistic
    except UsageError:
        return None


def statistic(values: Sequence[Any], name: str) -> float:
    """A statistic of numbers.

    Args:
        values: numbers; None counts as NaN. For `count` also texts.
        name: one of `STATISTICS`.

    Returns:
        The number; NaN where a value is missing, or where there is none.

    Example:
        >>> statistic([1, 2, 4], "max"), statistic([1, 2, 4], "q50"), statistic([1, None], "max")
        (4.0, 2.0, nan)
    """
    import numpy

    if any(value is None or value != value for value in values):
        return math.nan
    if name == "count":
        return float(len(values))
    if not len(values):
        return 0.0 if name == "sum" else math.nan
    numbers = numpy.asarray(values, dtype=numpy.float64)
    if name.startswith("q"):
        return float(numpy.percentile(numbers, float(name[1:])))
    return float(getattr(numpy, name)(numbers))


def listing(result: Result) -> Iterator[tuple[str, Values]]:
    """Every path without a selector or a statistic that names numbers, with its values, summary first.

    Yields:
        Path below the analysis, and what it names. A column is listed by its full name.
    """
    for name, full in names(result).items():
        if full == [name]:
            found = values(Path(name), result)
            if is_numeric(found.values):
                yield name, found


def is_numeric(cells: Sequence[Any]) -> bool:
    """Whether a statistic other than `count` can be taken: numbers, yes and no, missing ones."""
    return all(cell is None or not isinstance(cell, str) for cell in cells) and any(cell is not None for cell in cells)


def _stored(path: Path, result: Result) -> Values:
    """The values of a column or an array."""
    full = names(result).get(path.name, [path.name])[0]
    table_name = next((name for name in result.tables if full.startswith(f"{name}.") and _has(result, name, full)), "")
    if table_name:
        return _of_column(result.tables[table_name], full[len(table_name) + 1 :], path, f"{result.name}.{full}")
    if full not in result.arrays:
        raise UsageError(f"{result.name} has neither table nor array {full!r}.", where=f"{result.name}.{path.name}")
    if path.where:
        raise UsageError(
            f"{full} is an array, which has no columns to select by.",
            where=f"{result.name}.{path.name}",
            advice="Leave out the selector.",
        )
    elements = result.arrays[full].reshape(-1).tolist()
    return Values(elements, range(len(elements)))


def _has(result: Result, table: str, full: str) -> bool:
    return any(column.name == full[len(table) + 1 :] for column in result.tables[table].columns)


def _of_column(table: Table, name: str, path: Path, where: str) -> Values:
    column = next(column for column in table.columns if column.name == name)
    rows = range(len(table.rows))
    for key, wanted in path.where.items():
        if all(key != other.name for other in table.columns):
            raise UsageError(
                f"Table {table.name!r} has no column {key!r} to select by.",
                where=where,
                advice=f"It has: {', '.join(other.name for other in table.columns)}.",
            )
        cells = table.column(key)
        left = [row for row in rows if _is(cells[row], wanted)]
        if not left and path.statistic != "count":
            there = list(dict.fromkeys(str(cells[row]) for row in rows))
            shown = get_close_matches(wanted, there, 5, 0.3) or there[:_SHOWN]
            raise UsageError(
                f"No row has {key} = {wanted!r}{' and what comes before it' if len(path.where) > 1 else ''}.",
                where=where,
                advice=f"There is: {', '.join(shown)}.",
            )
        rows = left
    cells = table.column(name)
    samples = table.column(table.columns[0].name)
    return Values([cells[row] for row in rows], [samples[row] for row in rows], column.unit, column.grade)


def _is(cell: Any, wanted: str) -> bool:
    """Whether a cell is what a selector says: the same text, or the same number."""
    if isinstance(cell, bool):
        return wanted.lower() in (("yes", "true") if cell else ("no", "false"))
    if isinstance(cell, (int, float)):
        try:
            return float(wanted) == cell
        except ValueError:
            return False
    return str(cell) == wanted


def _selector(rest: str, path: str) -> tuple[dict[str, str], str]:
    """Columns and values of a selector, and what follows its bracket."""
    pair = re.compile(r"""\s*([^=\[\]"']+?)\s*=\s*(?:"([^"]*)"|'([^']*)'|([^,\]"']*?))\s*([,\]])""")
    where: dict[str, str] = {}
    position = 0
    while match := pair.match(rest, position):
        key, *quoted, end = match.groups()
        where[key] = next(value for value in quoted if value is not None)
        position = match.end()
        if end == "]":
            return where, rest[position:].strip()
    raise UsageError(
        "The selector cannot be read.",
        where=path,
        advice='Write it as [column=value] or [column="a value, with a comma", other=2].',
    )
