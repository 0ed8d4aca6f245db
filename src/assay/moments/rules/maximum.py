"""The larger or smaller of two Gaussians (Clark 1961), from which max pooling is built, or of one and a constant."""

from __future__ import annotations

import torch
from torch import Tensor

from assay.covariance.functions import safe_sqrt
from assay.gaussian import rectified, smoothed_maximum, standardise
from assay.grade import Grade
from assay.interpret import Gains, JacobianMap
from assay.moments.rules.piecewise import rectified_left
from assay.moments.rules.table import TABLE
from assay.moments.smoothed import Blocks, Kernel, Operands, Smoothed
from assay.moments.streamed import Blend


@TABLE.rule("maximum", grade=Grade.CLOSED_FORM)
def maximum(operands: Operands) -> Smoothed:
    """max(x, y) = y + relu(x - y): exact for a Gaussian pair, as is the covariance of two maxima (Clark 1961)."""
    return _extreme(operands, 1.0)


@TABLE.rule("minimum", grade=Grade.CLOSED_FORM)
def minimum(operands: Operands) -> Smoothed:
    """min(x, y) = -max(-x, -y)."""
    return _extreme(operands, -1.0)


def _extreme(operands: Operands, sign: float) -> Smoothed:
    if len(operands.varying) == 1:
        return _against_constant(operands, sign)
    first, second = (operands.mean(0), operands.mean(1)) if sign > 0 else (-operands.mean(0), -operands.mean(1))
    variances = operands.values[0].variance, operands.values[1].variance
    inputs = torch.broadcast_tensors(first, second, *variances, operands.covariance(0, 1))
    mean, weight, innovation = smoothed_maximum(*inputs)

    def pairs(block: Blocks) -> Tensor:
        gap = block(0, 0) - block(0, 1) - block(1, 0) + block(1, 1)
        gap_std = safe_sqrt(variances[0] + variances[1] - 2 * operands.covariance(0, 1))
        return rectified_left(gap, gap_std, standardise(first - second, gap_std))

    blend = Blend(weight, [operands.mean(0).shape, operands.mean(1).shape])
    return Smoothed(mean if sign > 0 else -mean, blend, innovation, Kernel(pairs))


def _against_constant(operands: Operands, sign: float) -> Smoothed:
    """max(x, c) = c + relu(x - c)."""
    (position,) = operands.varying
    mean, std, constant = operands.mean(position), operands.std(position), operands.values[1 - position]
    constant = sign * constant.to(mean)
    standard = standardise(sign * mean - constant, std)
    ahead = standard > 0
    # the part beyond the larger of both means is a small positive tail
    tail = rectified(torch.where(ahead, -standard, standard)).mean
    value = torch.where(ahead, sign * mean, constant) + std * tail
    statistics = rectified(standard)
    innovation = std.square() * (statistics.variance - statistics.probability.square()).clamp(min=0)

    def pairs(block: Blocks) -> Tensor:
        return rectified_left(block(0, 0), std, standard)

    if value.dim() > mean.dim():  # the batch is not the first axis any more
        spread = JacobianMap(lambda x: statistics.probability * x, (mean,))
        return Smoothed(sign * value, spread, innovation.expand(value.shape))
    gains = Gains(statistics.probability, shapes=[mean.shape])
    return Smoothed(sign * value, gains, innovation, Kernel(pairs))
