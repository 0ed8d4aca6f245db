"""Which samples to take when only some are wanted: the same ones every time, with every class represented."""

from __future__ import annotations

import torch
from torch import Tensor

from assay.errors import UsageError


def chosen_rows(count: int, limit: int | None, labels: Tensor | None = None) -> Tensor:
    """Indices of `limit` out of `count` samples, ascending.

    Evenly spaced; where integer labels are known, evenly spaced in the order of the labels, so that each class keeps
    its share whether the data are sorted, shuffled or cyclic.

    Args:
        count: number of samples there are.
        limit: number wanted; None for all.
        labels: (count,) integer labels, or None (also for regression targets, which are ignored).

    Returns:
        (min(limit, count),) indices.

    Raises:
        UsageError: when the limit is not positive.

    Example:
        >>> chosen_rows(6, 3, torch.tensor([0, 1, 2, 0, 1, 2])).tolist()
        [3, 4, 5]
    """
    if limit is not None and limit < 1:
        raise UsageError(f"limit must be at least 1, got {limit}.", where="limit")
    if limit is None or limit >= count:
        return torch.arange(count)
    spaced = ((2 * torch.arange(limit) + 1) * count) // (2 * limit)
    if labels is None or labels.dtype.is_floating_point or labels.dim() != 1:
        return spaced
    return labels.argsort(stable=True)[spaced].sort().values
