"""The elementwise product of two random tensors: gates, squeeze-and-excite."""

from __future__ import annotations

from torch import Tensor

from assay.grade import Grade
from assay.interpret import Gains
from assay.moments.rules.table import TABLE
from assay.moments.smoothed import Blocks, Kernel, Operands, Smoothed


@TABLE.rule("mul", grade=Grade.CLOSED_FORM, applies=lambda varying: varying == {0, 1})
def product(operands: Operands) -> Smoothed:
    """Mean, variance and covariance of pairs by Isserlis' theorem, exact for Gaussian factors."""
    first, second, shared = operands.mean(0), operands.mean(1), operands.covariance(0, 1)
    variance1, variance2 = operands.values[0].variance, operands.values[1].variance
    mean = first * second + shared
    innovation = (variance1 * variance2 + shared.square()).expand(mean.shape)

    def pairs(block: Blocks) -> Tensor:
        """What is left is the product of both deviations: two of the three pairings."""
        return block(0, 0) * block(1, 1) + block(0, 1) * block(1, 0)

    gains = Gains(second, first, shapes=[first.shape, second.shape])
    return Smoothed(mean, gains, innovation, Kernel(pairs))
