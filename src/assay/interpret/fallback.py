"""What a domain does with an operator it has no rule for: linearise it at the mean, or sample it. Never silently."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from assay.interpret.linear import JacobianMap


class Approximated(NamedTuple):
    """A function replaced by a random affine one.

    Attributes:
        mean: (B, ...) mean of the output.
        linear: the map its inputs' fluctuations go through.
        innovation: variance (B, ...) of what the map does not explain; None when linearised.
    """

    mean: Tensor
    linear: JacobianMap
    innovation: Tensor | None


def linearise(function: Callable[..., Tensor], means: Sequence[Tensor]) -> Approximated:
    """Value and Jacobian at the mean: right for small noise."""
    return Approximated(function(*means), JacobianMap(function, means), None)


def sampled(function: Callable[..., Tensor], means: Sequence[Tensor], draws: Sequence[Tensor]) -> Approximated:
    """Mean, best multiple of the Jacobian at the mean, and what that leaves, over draws and their opposites.

    The multiple is each output's own: the slope of its values against their linear part, so that a function that bends
    off (a saturating one) passes on no more than it does on average.

    Args:
        function: of tensors (B, ...).
        means: (B, ...) per input.
        draws: zero-mean fluctuations (n, B, ...) per input, drawn jointly; a function is evaluated twice per draw.

    Returns:
        The random affine map.
    """
    both = [torch.cat([draw, -draw]) for draw in draws]
    steps = JacobianMap(function, means).apply(*both)
    values = torch.stack(
        [function(*(m + d[i] for m, d in zip(means, both, strict=True))) for i in range(both[0].shape[0])]
    )
    mean = values.mean(0)
    power = steps.square().sum(0)
    moving = power > 0
    slope = ((values - mean) * steps).sum(0) / torch.where(moving, power, torch.ones_like(power))
    slope = torch.where(moving, slope, torch.ones_like(slope))
    left = values - mean - slope * steps
    return Approximated(mean, JacobianMap(lambda *point: slope * function(*point), means), left.square().mean(0))
