"""Masks that are the same mask: every ideal filter removes one interval of ranks, so equal intervals are run once.

In sorted order a high-pass filter removes ranks [0, j), a low-pass filter [i, size), a pulse [i, j). Two masks are
equal if and only if these intervals are. Counting only the ranks of weights that are not zero already merges, besides,
masks that differ without changing the filtered tensor. All of it is exact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from assay.errors import UsageError
from assay.filtering.ideal import FILTERS, Cover, Domain, Filter, removed_range, values_of
from assay.results import Displayed


@dataclass(frozen=True, eq=False)
class DistinctMasks(Displayed):
    """All filters of one tensor, with equal filtered tensors merged.

    Attributes:
        weight: the tensor, detached.
        order: (size,) int64, flat positions of the weights by rising value (of abs(w) in the magnitude domain).
        intervals: by filter, (n, 2) int64: the ranks [start, stop) that each threshold removes; (0, 0) for none.
        removed: by filter, (n,) int64, number of weights removed.
        changed: by filter, (n,) int64, number of weights removed that were not zero already.
        rows: by filter, (n,) int64, row of `distinct` that each threshold leads to; -1 for the unfiltered tensor.
        distinct: (m, 2) int64, the different filtered tensors, as intervals of ranks among the nonzero weights.
        degenerate: all weights have one value, so that a filter has nothing to tell them apart by.
    """

    weight: Tensor
    order: Tensor
    intervals: Mapping[Filter, Tensor]
    removed: Mapping[Filter, Tensor]
    changed: Mapping[Filter, Tensor]
    rows: Mapping[Filter, Tensor]
    distinct: Tensor
    degenerate: bool

    def __len__(self) -> int:
        return len(self.distinct)

    def density(self, filter: Filter) -> Tensor:
        """(n,) float64: remaining over all weights at each threshold."""
        return 1 - self.removed[filter].double() / self.order.numel()

    def no_op(self, filter: Filter) -> Tensor:
        """(n,) bool: thresholds at which the filter changes no weight."""
        return self.changed[filter] == 0

    def filtered(self, row: int) -> Tensor:
        """The tensor of one row of `distinct`, removed weights zero; row -1 is the unfiltered tensor.

        Returns:
            A new tensor of the weight's shape, type and device.

        Raises:
            UsageError: for a row that does not exist.
        """
        result = self.weight.clone(memory_format=torch.contiguous_format)
        if row == -1:
            return result
        if not 0 <= row < len(self):
            raise UsageError(f"There is no row {row}.", where="row", advice=f"Use -1 to {len(self) - 1}.")
        flat = result.view(-1)
        nonzero = self.order[flat[self.order] != 0]
        start, stop = self.distinct[row].tolist()
        flat[nonzero[start:stop]] = 0
        return result


def distinct_masks(
    weight: Tensor,
    filters: Sequence[Filter] = FILTERS,
    n: int = 25,
    *,
    domain: Domain = "signed",
    cover: Cover = "paper",
    limits: tuple[float, float] | None = None,
) -> DistinctMasks:
    """The different filtered tensors among all thresholds of some filters, found with one sort.

    Args:
        weight: floating-point weights of any shape, finite.
        filters: which of ``high``, ``low``, ``pulse``.
        n: thresholds of each filter.
        domain: ``signed`` or ``magnitude``.
        cover: width of a pulse, see `masks`.
        limits: range of the thresholds; None takes the tensor's own.

    Returns:
        Which threshold of which filter leads to which tensor. One shared by two filters appears once. Grade: exact.

    Raises:
        NumericalError: for NaN or infinite weights.
        UsageError: as in `masks`.

    Example:
        >>> ternary = torch.tensor([-1.0, 0.0, 1.0]).repeat(100)
        >>> merged = distinct_masks(ternary)
        >>> sum(len(rows) for rows in merged.rows.values()), len(merged)
        (75, 3)
    """
    values = values_of(weight, domain)
    flat = values.reshape(-1).double()
    ordered, order = flat.sort(stable=True)
    # The number of nonzero weights below each rank.
    below = torch.cat([order.new_zeros(1), (ordered != 0).cumsum(0)])
    intervals: dict[Filter, Tensor] = {}
    effective: dict[Filter, Tensor] = {}
    for name in filters:
        lower, upper = (edges.to(flat.device) for edges in removed_range(values, name, n, cover=cover, limits=limits))
        start = torch.searchsorted(ordered, lower)
        stop = torch.searchsorted(ordered, upper, right=name != "pulse").clamp(min=start)
        intervals[name] = _none_as_zero(torch.stack([start, stop], 1))
        effective[name] = _none_as_zero(below[intervals[name]])
    pairs = torch.cat(list(effective.values())) if effective else order.new_zeros(0, 2)
    distinct = torch.unique(pairs[pairs[:, 1] > pairs[:, 0]], dim=0)
    return DistinctMasks(
        weight=weight.detach(),
        order=order,
        intervals=intervals,
        removed={name: pair[:, 1] - pair[:, 0] for name, pair in intervals.items()},
        changed={name: pair[:, 1] - pair[:, 0] for name, pair in effective.items()},
        rows={name: _row_of(pair, distinct) for name, pair in effective.items()},
        distinct=distinct,
        degenerate=bool(weight.min() == weight.max()),
    )


def _none_as_zero(pairs: Tensor) -> Tensor:
    """Empty intervals are one interval, wherever they are."""
    return torch.where((pairs[:, 1] > pairs[:, 0])[:, None], pairs, 0)


def _row_of(pairs: Tensor, distinct: Tensor) -> Tensor:
    if not len(distinct):
        return pairs.new_full((len(pairs),), -1)
    equal = (pairs[:, None] == distinct[None]).all(2)
    return torch.where(equal.any(1), equal.int().argmax(1), -1)
