"""Smoothness index: how close the targets of neighbouring inputs are."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from assay.smoothness.indices import checks
from assay.smoothness.indices.neighbours import Search, nearest

Form = Literal["linear", "exponential"]
Orders = Literal["high", "soft", "anti"]

_AT_ONCE = 2**22  # distances per block


def smoothness_index(
    x: Any,
    targets: Any,
    *,
    form: Form = "linear",
    gamma: float = 1.0,
    order: int = 1,
    kind: Orders = "high",
    standardise: bool = False,
    search: Search = "auto",
) -> float:
    """Whether neighbours in the input space are neighbours in the targets: 1 for smooth data, near 0 for rough ones.

    With d*_ij the distance of the targets of point i and its j-th neighbour in input space, dmin_ij the j-th smallest
    and dmax_i the largest distance of its target from the others, dmean_i the mean distance over all n points, itself
    included (A. Kalhor's smoothness index):

    | form | s_ij |
    |---|---|
    | linear | (dmax_i - d*_ij) / (dmax_i - dmin_ij) |
    | exponential | exp(-gamma (d*_ij - dmin_ij) / dmean_i) |

    | kind | score of a point, over j = 1..order |
    |---|---|
    | high | the smallest s_ij; order 1 is the smoothness index itself |
    | soft | the mean of s_ij |
    | anti | the smallest 1 - s_ij |

    Where dmax_i = dmin_ij (a constant target, most often), no neighbour could be better and the linear s_ij is 1. With
    order 1 every score lies in [0, 1]; beyond, the j-th input neighbour may be closer than the j-th target neighbour,
    and s_ij exceed 1. Of two neighbours equally far away, the one that comes first in the data counts as nearer. It is
    an index of data: it does not see kinks.

    Args:
        x: (n, ...) points, flattened.
        targets: (n,) or (n, k) regression targets.
        form: see above.
        gamma: decay of the exponential form.
        order: number of neighbours, from 1 to n - 1.
        kind: see above.
        standardise: divide every column of points and targets by its standard deviation first.
        search: how neighbours are found; the result is the same.

    Returns:
        Mean score, exact for these data.

    Raises:
        SubjectError: for NaN, fewer than two points, or targets that do not fit.
        UsageError: for an order, form or kind that does not exist.

    Example:
        >>> x, y = [[0.0], [1.0], [2.5], [4.5]], [0.0, 3.0, 1.0, 2.0]
        >>> smoothness_index(x, y), round(smoothness_index(x, y, form="exponential"), 6)
        (0.25, 0.473768)
    """
    scores = smoothnesses(
        x, targets, form=form, gamma=gamma, order=order, kind=kind, standardise=standardise, search=search
    )
    return float(scores.mean())


def smoothnesses(
    x: Any,
    targets: Any,
    *,
    form: Form = "linear",
    gamma: float = 1.0,
    order: int = 1,
    kind: Orders = "high",
    standardise: bool = False,
    search: Search = "auto",
) -> Tensor:
    """Score of every point, whose mean is `smoothness_index`.

    Args:
        x: (n, ...) points, flattened.
        targets: (n,) or (n, k) regression targets.
        form: see `smoothness_index`.
        gamma: decay of the exponential form.
        order: number of neighbours.
        kind: see `smoothness_index`.
        standardise: divide every column of points and targets by its standard deviation first.
        search: how neighbours are found.

    Returns:
        (n,) scores, float64.

    Raises:
        SubjectError: for NaN, fewer than two points, or targets that do not fit.
        UsageError: for an order, form or kind that does not exist.

    Example:
        >>> smoothnesses([[0.0], [1.0], [3.0]], [0.0, 5.0, 1.0]).tolist()
        [0.0, 0.0, 0.0]
    """
    checks.one_of(form, get_args(Form), "form")
    checks.one_of(kind, get_args(Orders), "kind")
    checks.one_of(search, get_args(Search), "search")
    points = checks.points(x)
    values = checks.targets(targets, len(points))
    order = checks.order(order, len(points))
    if standardise:
        points, values = checks.standardised(points), checks.standardised(values)
    spread = spreads(values, order, search)
    return scored(values, nearest(points, order, search).index, spread, form=form, gamma=gamma, kind=kind)


class Spread(NamedTuple):
    """How far the targets of the others lie from each target.

    Attributes:
        smallest: (n, r) the r smallest distances, ascending.
        largest: (n,) the largest.
        mean: (n,) the mean over all n points, itself included.
    """

    smallest: Tensor
    largest: Tensor
    mean: Tensor


def spreads(values: Tensor, order: int, search: Search = "auto") -> Spread:
    """Distances among targets (n, k): n log n operations for one axis, n^2 k in blocks for several."""
    smallest = nearest(values, order, search).distance
    if values.shape[1] == 1:
        return Spread(smallest, *_on_a_line(values[:, 0]))
    largest, mean = [], []
    for rows in values.split(max(1, _AT_ONCE // values.numel())):
        distance = (rows[:, None] - values).square().sum(2).sqrt()
        largest.append(distance.amax(1))
        mean.append(distance.mean(1))
    return Spread(smallest, torch.cat(largest), torch.cat(mean))


def _on_a_line(values: Tensor) -> tuple[Tensor, Tensor]:
    """Largest and mean distance (n,) among numbers (n,): sums of those below and above, from the sorted order."""
    count = len(values)
    largest = torch.maximum(values - values.min(), values.max() - values)
    ascending, order = (values - values.mean()).sort()
    below = torch.arange(count)
    total = torch.cat([ascending.new_zeros(1), ascending.cumsum(0)])
    sums = ascending * (2 * below - count) - total[:-1] + (total[-1] - total[:-1])
    return largest, (sums / count).clamp(min=0)[order.argsort()]


def scored(
    values: Tensor,
    neighbours: Tensor,
    spread: Spread,
    *,
    form: Form = "linear",
    gamma: float = 1.0,
    kind: Orders = "high",
) -> Tensor:
    """Scores (n,) of targets (n, k) with input neighbours (n, r)."""
    distance = (values[neighbours] - values[:, None]).square().sum(2).sqrt()
    largest, mean = spread.largest[:, None], spread.mean[:, None]
    excess, room = distance - spread.smallest, largest - spread.smallest
    if form == "linear":
        possible = room > 1e-12 * largest  # differences of equal distances are rounding
        each = torch.where(possible, 1 - excess / torch.where(possible, room, 1.0), 1.0)
    else:
        each = torch.exp(-gamma * excess / torch.where(mean > 0, mean, 1.0))
    if kind == "soft":
        return each.mean(1)
    return each.amin(1) if kind == "high" else 1 - each.amax(1)
