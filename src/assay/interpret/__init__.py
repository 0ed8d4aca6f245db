"""Interpretation of one graph in different domains: forward and reverse walks, rule tables, fallbacks.

A domain says what travels along the edges (numbers, Gaussians, bounds, kinks) and keeps one table of rules keyed by
canonical operator.
"""

from assay.grade import Grade, combine
from assay.interpret.linear import Gains, JacobianMap, OperatorMap, Tied
from assay.interpret.rules import Domain, RuleTable, check_rule, coverage, unsupported
from assay.interpret.run import Step, backward, forward

__all__ = [
    "Domain",
    "Gains",
    "Grade",
    "JacobianMap",
    "OperatorMap",
    "RuleTable",
    "Step",
    "Tied",
    "backward",
    "check_rule",
    "combine",
    "coverage",
    "forward",
    "unsupported",
]
