"""Conformance tests of what can be added to assay: an operator, a rule, an analysis, an export format.

Each raises an AssertionError that lists everything wrong. assay runs them on its own parts; run them on yours, in your
tests. `docs/how-to/extend.md` shows how.
"""

from assay.conformance.analysis import check_analysis
from assay.conformance.operator import check_operator
from assay.conformance.renderer import check_renderer
from assay.interpret import check_rule

__all__ = ["check_analysis", "check_operator", "check_renderer", "check_rule"]
