"""The table of moments rules, and the two rules that follow from an operator's traits: affine and elementwise."""

from __future__ import annotations

from collections.abc import Callable

from assay.gaussian import TERMS
from assay.grade import Grade
from assay.graph import Operator
from assay.interpret import OperatorMap, RuleTable
from assay.interpret.rules import Rule
from assay.moments.conformance import conformance
from assay.moments.rules.elementwise import alone, by_series
from assay.moments.smoothed import Operands, Smoothed

MomentsRule = Callable[[Operands], Smoothed]

SERIES = f"quadrature, pairs by {TERMS} Hermite terms"
"""Note on functions without a closed form."""


def affine(operands: Operands) -> Smoothed:
    """Affine in the varying inputs: mean and covariance are exact."""
    mean = operands.operator.evaluate(*operands.means, **operands.attributes)
    return Smoothed(
        mean, OperatorMap(operands.operator, operands.means, frozenset(operands.varying), operands.attributes)
    )


def quadrature(operands: Operands) -> Smoothed:
    """Any elementwise function: moments by quadrature cut where it changes, pairs of units by its Hermite series."""
    return by_series(operands, kinks=operands.operator.kinks_of(operands.attributes))


def _derive(operator: Operator) -> Rule[MomentsRule] | None:
    if operator.linear_in:
        return Rule(operator.name, affine, Grade.EXACT, applies=operator.affine_in)
    if operator.elementwise:
        return Rule(operator.name, quadrature, Grade.CLOSED_FORM, SERIES, applies=alone)
    return None


_LOWERED: dict[str, str] = dict.fromkeys(
    ("max_pool", "adaptive_max_pool"), "closed_form (as windows and pairwise maxima)"
)

TABLE: RuleTable[MomentsRule] = RuleTable("moments", _derive, conformance, _LOWERED)

__all__ = ["SERIES", "TABLE", "MomentsRule", "affine", "quadrature"]
