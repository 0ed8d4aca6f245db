"""What an analysis hands back: quantities with grades, tidy tables, arrays, figures' data, findings, provenance.

Results know nothing of models or graphs: every renderer and the store can be written against this folder alone.
"""

from assay.results.finding import Finding, Status, worst
from assay.results.model import Audit, Figure, Provenance, Quantity, Result
from assay.results.section import Section
from assay.results.table import Column, Table

__all__ = [
    "Audit",
    "Column",
    "Figure",
    "Finding",
    "Provenance",
    "Quantity",
    "Result",
    "Section",
    "Status",
    "Table",
    "worst",
]
