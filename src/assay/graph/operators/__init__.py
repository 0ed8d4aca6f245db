"""The canonical operators: one table, one row each, grouped by family in one file per family.

To add an operator, add a row to the file of its family (or a new file listed here). Everything else follows from the
row: capture, evaluation, linear part, coverage table and the conformance tests on its sample inputs. Other packages add
theirs through entry points `assay.operators`.
"""

from __future__ import annotations

from assay.graph.operators import activations, affine, arithmetic, normalisation, opaque, pooling, shape
from assay.graph.operators.operator import Aten, Converted, Inexpressible, Operator, Sample
from assay.graph.operators.registry import tables

_FAMILIES = (affine, activations, pooling, arithmetic, shape, normalisation, opaque)

OPERATORS, ATEN = tables([row for family in _FAMILIES for row in family.OPERATORS])
"""Operators by name, and (operator, form) by the name of a call such as ``aten.relu.default``; read-only."""

__all__ = ["ATEN", "OPERATORS", "Aten", "Converted", "Inexpressible", "Operator", "Sample"]
