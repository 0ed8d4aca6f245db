"""The canonical operators: one table, one row each, grouped by family in one file per family.

To add an operator, add a row to the file of its family (or a new file listed here). Everything else follows from the
row: capture, evaluation, linear part, coverage table and the conformance tests on its sample inputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from assay.graph.operators import activations, affine, arithmetic, normalisation, opaque, pooling, shape
from assay.graph.operators.operator import Aten, Operator, Sample

_FAMILIES = (affine, activations, pooling, arithmetic, shape, normalisation, opaque)

OPERATORS: Mapping[str, Operator] = MappingProxyType(
    {row.name: row for family in _FAMILIES for row in family.OPERATORS}
)

ATEN: Mapping[str, tuple[Operator, Aten]] = MappingProxyType(
    {f"aten.{form.target}": (row, form) for row in OPERATORS.values() for form in row.aten}
)

__all__ = ["ATEN", "OPERATORS", "Aten", "Operator", "Sample"]
