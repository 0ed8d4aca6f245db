"""How a Gaussian passes the operator: in closed form, also the covariance of any two units.

An elementwise operator needs no rule of its own: assay would integrate it numerically. This one is exact and faster.
"""

from assay.gaussian import PiecewiseLinear
from assay.grade import Grade
from assay.interpret import RuleTable
from assay.moments.rules.elementwise import alone
from assay.moments.rules.piecewise import by_pieces
from assay.moments.smoothed import Operands, Smoothed


def register(table: RuleTable) -> None:
    """Add the rule to the table of the domain that the entry point names."""
    table.rule("dead_zone", grade=Grade.CLOSED_FORM, applies=alone)(_dead_zone)


def _dead_zone(operands: Operands) -> Smoothed:
    width, leak = operands.attributes["width"], operands.attributes["leak"]
    # slope and value far to the left, then the knots and by how much the slope changes there
    return by_pieces(operands, PiecewiseLinear(1.0, (1 - leak) * width, (-width, width), (leak - 1, 1 - leak)))
