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
    """Mean and unexplained variance from draws of the inputs; fluctuations still go through the Jacobian at the mean.

    Args:
        function: of tensors (B, ...).
        means: (B, ...) per input.
        draws: zero-mean fluctuations (n, B, ...) per input, drawn jointly.

    Returns:
        The random affine map.
    """
    linear = JacobianMap(function, means)
    values = torch.stack(
        [function(*(m + d[i] for m, d in zip(means, draws, strict=True))) for i in range(draws[0].shape[0])]
    )
    mean = values.mean(0)
    left = values - mean - linear.apply(*draws)
    return Approximated(mean, linear, left.square().mean(0))
