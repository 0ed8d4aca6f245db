"""Cells of tables as plain values, and what a whole column holds: one answer for every format that has types."""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import Enum, StrEnum
from typing import Any, TypeAlias

Cell: TypeAlias = bool | int | float | str | None


class Kind(StrEnum):
    """What the cells of a column are; None is allowed in each."""

    BOOLEAN = "boolean"
    INTEGER = "integer"
    NUMBER = "number"
    TEXT = "text"
    MIXED = "mixed"
    EMPTY = "empty"


def plain(value: Any) -> Cell:
    """A cell as None, bool, int, float or str of the language itself; scalars of numpy and torch become theirs.

    Returns:
        The same value.

    >>> import numpy
    >>> plain(numpy.float64(0.5)), plain(numpy.bool_(True)), plain(None)
    (0.5, True, None)
    """
    if isinstance(value, Enum):
        value = value.value
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, str):
        return readable(value)
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        return plain(value.item())
    return readable(str(value))


def readable(text: str) -> str:
    """Text that UTF-8 can hold: halves of surrogate pairs, which no file may contain, become U+FFFD.

    Returns:
        The text, as an ordinary str.
    """
    return str(text).encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def kind(cells: Sequence[Cell]) -> Kind:
    """What plain cells have in common. Whole numbers among others count as numbers when a float holds them exactly.

    Returns:
        The kind of the column.

    >>> kind([1, 0.5, None]).value, kind([1, "a"]).value, kind([]).value
    ('number', 'mixed', 'empty')
    """
    types = {type(cell) for cell in cells if cell is not None}
    if not types:
        return Kind.EMPTY
    if types == {int, float}:
        exact = all(_fits(cell) for cell in cells if isinstance(cell, int))
        return Kind.NUMBER if exact else Kind.MIXED
    names = {bool: Kind.BOOLEAN, int: Kind.INTEGER, float: Kind.NUMBER, str: Kind.TEXT}
    return names[types.pop()] if len(types) == 1 else Kind.MIXED


def unusual(number: float) -> str:
    """How a number without digits is written where a format has only text for it.

    Returns:
        ``NaN``, ``Infinity`` or ``-Infinity``; empty for a finite number.

    >>> unusual(float("-inf")), unusual(1.5)
    ('-Infinity', '')
    """
    if math.isfinite(number):
        return ""
    return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"


def _fits(whole: int) -> bool:
    """Whether a float holds a whole number exactly."""
    try:
        return int(float(whole)) == whole
    except OverflowError:
        return False
