"""A part of a result, as one section of an analysis hands it back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from assay.results.finding import Finding
from assay.results.model import Figure, Quantity
from assay.results.table import Table

if TYPE_CHECKING:
    import numpy


@dataclass(frozen=True)
class Section:
    """Part of a Result: whatever it has of each."""

    tables: Mapping[str, Table] = field(default_factory=dict)
    figures: tuple[Figure, ...] = ()
    findings: tuple[Finding, ...] = ()
    summary: Mapping[str, Quantity] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    arrays: Mapping[str, numpy.ndarray] = field(default_factory=dict)
