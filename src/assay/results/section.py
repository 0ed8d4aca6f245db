"""A part of a result, as one section of an analysis hands it back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from assay.results.finding import Finding
from assay.results.model import Figure, Quantity, Result
from assay.results.table import Table

if TYPE_CHECKING:
    import numpy


@dataclass(frozen=True)
class Section:
    """Part of a Result: whatever it has of each.

    Example:
        >>> Section(warnings=("Only 12 inputs were used.",)).warnings
        ('Only 12 inputs were used.',)
    """

    tables: Mapping[str, Table] = field(default_factory=dict)
    figures: tuple[Figure, ...] = ()
    findings: tuple[Finding, ...] = ()
    summary: Mapping[str, Quantity] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    arrays: Mapping[str, numpy.ndarray] = field(default_factory=dict)


def joined(name: str, title: str, question: str, sections: Sequence[Section], notes: Sequence[str] = ()) -> Result:
    """One result of all sections, in their order, with notes before their warnings."""
    tables, summary, arrays = {}, {}, {}
    for section in sections:
        tables |= section.tables
        summary |= section.summary
        arrays |= section.arrays
    return Result(
        name=name,
        title=title,
        question=question,
        summary=summary,
        tables=tables,
        arrays=arrays,
        figures=tuple(figure for section in sections for figure in section.figures),
        findings=tuple(finding for section in sections for finding in section.findings),
        warnings=(*notes, *(warning for section in sections for warning in section.warnings)),
    )
