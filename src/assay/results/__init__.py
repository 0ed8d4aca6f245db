"""What an analysis hands back: quantities with grades, tidy tables, arrays, figures' data, findings, provenance.

Results know nothing of models or graphs: every renderer and the store can be written against this folder alone.
"""

from assay.results.displayed import Displayed, result_of
from assay.results.finding import Finding, Status, worst
from assay.results.model import Audit, Better, Figure, Provenance, Quantity, Result
from assay.results.outcome import Outcome, outcomes_of
from assay.results.section import Section
from assay.results.table import Column, Table

__all__ = [
    "Audit",
    "Better",
    "Column",
    "Displayed",
    "Figure",
    "Finding",
    "Outcome",
    "Provenance",
    "Quantity",
    "Result",
    "Section",
    "Status",
    "Table",
    "outcomes_of",
    "result_of",
    "worst",
]
