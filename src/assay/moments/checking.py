"""A sampled check beside an analytic result: correction without bias, error bar, and the best of both."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from assay.brief import Brief
from assay.covariance.functions import safe_sqrt

if TYPE_CHECKING:
    from assay.moments.result import Moments

_DOUBTFUL_MEAN, _DOUBTFUL_VARIANCE = 0.1, 0.1
"""Deviations, and share of the variance, from which on a reader is told."""
_SIGNIFICANT = 4.0


@dataclass(frozen=True, eq=False)
class Check(Brief):
    """What sampling said (method ``mc_cv``).

    Attributes:
        mean: (B, K) unbiased.
        standard_error: (B, K) of the mean.
        variance: (B, K) from the draws.
        evaluations: forward passes per input.
        combined: (B, K) the analytic mean drawn towards the sampled one as far as the draws can tell them apart.
        weight: (B,) share of the sampled mean in `combined`, averaged over outputs.
    """

    mean: Tensor
    standard_error: Tensor
    variance: Tensor
    evaluations: int
    combined: Tensor
    weight: Tensor


def checked(analytic: Moments, sampled: Moments, evaluations: int) -> Moments:
    """The analytic result with the sampled one beside it, and a warning where they differ by more than chance.

    The combination estimates the analytic error's size tau (in output deviations) over the outputs of one input, and
    weighs by tau^2 : standard error^2, as empirical Bayes does (Efron and Morris 1973).

    Args:
        analytic: result of any method.
        sampled: result with standard errors for the same outputs.
        evaluations: draws behind it.

    Returns:
        `analytic` with its `check` set.

    Raises:
        ValueError: `sampled` has no standard errors.
    """
    if sampled.standard_error is None:
        raise ValueError("a check needs standard errors")
    spread = safe_sqrt(sampled.variance)
    safe = torch.where(spread > 0, spread, torch.ones_like(spread))
    gap = (sampled.mean - analytic.mean) / safe
    error = sampled.standard_error / safe
    # less one standard error of this estimate: chance alone does not pull a good analytic mean away
    chance = error.square().mean(1, keepdim=True) * (1 + (2 / gap.shape[1]) ** 0.5)
    bias_square = (gap.square().mean(1, keepdim=True) - chance).clamp(min=0)
    total = bias_square + error.square()
    weight = torch.where(
        total > 0, bias_square / torch.where(total > 0, total, torch.ones_like(total)), torch.zeros_like(total)
    )
    check = Check(
        sampled.mean,
        sampled.standard_error,
        sampled.variance,
        evaluations,
        analytic.mean + weight * (sampled.mean - analytic.mean),
        weight.mean(1),
    )
    return replace(analytic, check=check, warnings=(*analytic.warnings, *_doubts(analytic, check, gap, error)))


def _doubts(analytic: Moments, check: Check, gap: Tensor, error: Tensor) -> list[str]:
    doubts = []
    certain = (gap.abs() > _SIGNIFICANT * error) & (gap.abs() > _DOUBTFUL_MEAN)
    if bool(certain.any()):
        worst = float(gap.abs()[certain].max())
        doubts.append(
            f"The mean by {analytic.method!r} is off by up to {worst:.2f} output deviations "
            f"({check.evaluations} draws): use `check.mean`."
        )
    ratio = analytic.variance / torch.where(check.variance > 0, check.variance, torch.ones_like(check.variance))
    noise = _SIGNIFICANT * (2 / check.evaluations) ** 0.5
    unlike = (ratio - 1).abs() > max(_DOUBTFUL_VARIANCE, noise)
    if bool((unlike & (check.variance > 0)).any()):
        doubts.append(
            f"The variance by {analytic.method!r} is {float(ratio.mean()):.2f} of the sampled one on average: "
            "use `check.variance`, or method='mc_cv'."
        )
    return doubts
