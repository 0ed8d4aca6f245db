"""Means over inputs with their intervals, where some inputs may be missing."""

from __future__ import annotations

import torch
from torch import Tensor


def mean_interval(values: Tensor, level: float = 0.95) -> tuple[Tensor, Tensor, Tensor]:
    """Mean of columns over inputs and its interval by Student's t; rows that are NaN in a column are left out of it.

    Args:
        values: (B, m) float64, one row per input.
        level: probability that the interval covers, for many inputs or normal values.

    Returns:
        Mean, lower and upper end, (m,) each. NaN where there is no input; infinite ends for a single one.

    Example:
        >>> [round(float(end), 3) for end in mean_interval(torch.tensor([[0.0], [1.0], [2.0]]).double())]
        [1.0, -1.484, 3.484]
    """
    from scipy.stats import t

    present = torch.isfinite(values)
    count = present.sum(0).double()
    mean = torch.where(present, values, 0.0).sum(0) / count
    square = torch.where(present, (values - mean).square(), 0.0).sum(0)
    error = (square / (count - 1) / count).sqrt()
    reach = torch.from_numpy(t.ppf((1 + level) / 2, (count - 1).clamp(min=1).numpy())) * error
    reach = torch.where(count == 1, torch.inf, reach)
    return mean, mean - reach, mean + reach
