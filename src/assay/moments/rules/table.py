"""The table of moments rules, and the two rules that follow from an operator's traits: affine and elementwise."""

from __future__ import annotations

from collections.abc import Callable

from assay.gaussian import elementwise_moments
from assay.grade import Grade
from assay.graph import Operator
from assay.interpret import Gains, OperatorMap, RuleTable
from assay.interpret.rules import Rule
from assay.moments.conformance import conformance
from assay.moments.smoothed import Operands, Smoothed

MomentsRule = Callable[[Operands], Smoothed]

NODES = 64
"""Gauss-Hermite nodes for functions without a closed form."""


def affine(operands: Operands) -> Smoothed:
    """Affine in the varying inputs: mean and covariance are exact."""
    mean = operands.operator.evaluate(*operands.means, **operands.attributes)
    return Smoothed(
        mean, OperatorMap(operands.operator, operands.means, frozenset(operands.varying), operands.attributes)
    )


def quadrature(operands: Operands) -> Smoothed:
    """Any elementwise function by quadrature cut at its kinks: mean, slope, and the variance the slope leaves."""
    kinks = operands.operator.kinks
    mean, variance, gain = elementwise_moments(
        operands.function, operands.mean(), operands.std(), nodes=NODES, kinks=kinks
    )
    innovation = (variance - gain.square() * operands.elements[0].variance).clamp(min=0)
    return Smoothed(mean, Gains(gain), innovation)


def _derive(operator: Operator) -> Rule[MomentsRule] | None:
    if operator.linear_in:
        return Rule(operator.name, affine, Grade.EXACT, applies=operator.affine_in)
    if operator.elementwise:
        note = f"Gauss-Hermite, {NODES} nodes"
        return Rule(operator.name, quadrature, Grade.CLOSED_FORM, note, applies=lambda varying: varying == {0})
    return None


_LOWERED: dict[str, str] = dict.fromkeys(
    ("max_pool", "adaptive_max_pool"), "closed_form (as windows and pairwise maxima)"
)

TABLE: RuleTable[MomentsRule] = RuleTable("moments", _derive, conformance, _LOWERED)

__all__ = ["NODES", "TABLE", "MomentsRule", "affine", "quadrature"]
