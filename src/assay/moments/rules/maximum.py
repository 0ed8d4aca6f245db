"""The larger or smaller of two correlated Gaussians (Clark 1961), from which max pooling is built as a tournament."""

from __future__ import annotations

from torch import Tensor

from assay.covariance.functions import safe_sqrt
from assay.gaussian import maximum_moments, rectified, rectified_covariance, standardise
from assay.grade import Grade
from assay.interpret import Gains
from assay.moments.rules.piecewise import correlations
from assay.moments.rules.table import TABLE
from assay.moments.smoothed import Kernel, Operands, Smoothed


@TABLE.rule("maximum", grade=Grade.CLOSED_FORM, applies=lambda varying: varying == {0, 1})
def maximum(operands: Operands) -> Smoothed:
    """max(x, y) = y + relu(x - y): exact for a Gaussian pair, as is the covariance of two maxima (Clark 1961)."""
    return _extreme(operands, 1.0)


@TABLE.rule("minimum", grade=Grade.CLOSED_FORM, applies=lambda varying: varying == {0, 1})
def minimum(operands: Operands) -> Smoothed:
    """min(x, y) = -max(-x, -y)."""
    return _extreme(operands, -1.0)


def _extreme(operands: Operands, sign: float) -> Smoothed:
    first, second = sign * operands.mean(0), sign * operands.mean(1)
    std1, std2, shared = operands.std(0), operands.std(1), operands.covariance(0, 1)
    mean, _, weight = maximum_moments(first, std1, second, std2, shared)
    gap_std = safe_sqrt(std1.square() + std2.square() - 2 * shared)
    standard = standardise(first - second, gap_std)
    statistics = rectified(standard)
    innovation = gap_std.square() * (statistics.variance - statistics.probability.square()).clamp(min=0)

    def pairs(matrix: Tensor) -> Tensor:
        flat_std, flat_a, flat_gain = (t.reshape(t.shape[0], -1) for t in (gap_std, standard, statistics.probability))
        correlation, scale = correlations(matrix, flat_std)
        both = rectified_covariance(flat_a.unsqueeze(2), flat_a.unsqueeze(1), correlation)
        return scale * both - matrix * flat_gain.unsqueeze(2) * flat_gain.unsqueeze(1)

    shapes = [operands.mean(0).shape, operands.mean(1).shape]
    return Smoothed(sign * mean, Gains(weight, 1 - weight, shapes=shapes), innovation, Kernel((1.0, -1.0), pairs))
