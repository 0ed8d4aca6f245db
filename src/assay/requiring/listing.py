"""Every number that a rule could name, with its present value."""

from __future__ import annotations

import math
from dataclasses import dataclass

from assay.grade import Grade
from assay.results import Audit
from assay.results import paths as named


@dataclass(frozen=True)
class Entry:
    """One path.

    Attributes:
        path: to write into a rule; a column or array of several values still wants a statistic.
        value: the number; None for several.
        low: smallest of several values, or the lower end of the interval.
        high: likewise.
        count: how many values there are.
        missing: how many of them are missing.
        unit: of the values.
        grade: of the values.
        about: what it is.
    """

    path: str
    value: float | None
    low: float | None
    high: float | None
    count: int
    missing: int
    unit: str
    grade: Grade | None
    about: str


def listing(audit: Audit) -> tuple[Entry, ...]:
    """Every path that names numbers, analysis by analysis, summaries first.

    Args:
        audit: the run.

    Returns:
        One entry per path.

    Example:
        >>> from assay.grade import Grade
        >>> from assay.results import Audit, Quantity, Result
        >>> result = Result("sensitivity", "", "", {"kappa": Quantity(12.0, Grade.LINEARISED)})
        >>> [(entry.path, entry.value) for entry in listing(Audit({}, {"sensitivity": result}))]
        [('sensitivity.kappa', 12.0)]
    """
    return tuple(
        _entry(f"{name}.{path}", found)
        for name, result in audit.results.items()
        for path, found in named.listing(result)
    )


def _entry(path: str, found: named.Values) -> Entry:
    quantity = found.quantity
    if quantity is not None:
        return Entry(
            path, quantity.value, quantity.low, quantity.high, 1, int(quantity.value != quantity.value), found.unit,
            found.grade, quantity.label,
        )  # fmt: skip
    present = [float(cell) for cell in found.values if cell is not None and not math.isnan(cell)]
    single = present[0] if len(found.values) == 1 and present else None
    return Entry(
        path, single, min(present, default=None), max(present, default=None), len(found.values),
        len(found.values) - len(present), found.unit, found.grade, "",
    )  # fmt: skip
