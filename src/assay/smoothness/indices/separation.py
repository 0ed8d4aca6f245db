"""Separation index: how often the nearest neighbours of a point have its class."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor

from assay.smoothness.indices import checks
from assay.smoothness.indices.neighbours import Search, nearest

Separation = Literal["high", "soft", "anti", "centre"]


def separation_index(
    x: Any,
    labels: Any,
    *,
    order: int = 1,
    kind: Separation = "high",
    standardise: bool = False,
    search: Search = "auto",
) -> float:
    """Share of points whose nearest neighbours have their label: 1 where classes lie apart, near 0 where they mingle.

    Among n points, with the r nearest others of point i by Euclidean distance (A. Kalhor's separation index):

    | kind | score of a point |
    |---|---|
    | high | 1 if all r neighbours share its label, else 0; r = 1 is the separation index itself |
    | soft | share of the r neighbours with its label |
    | anti | 1 if all r neighbours have other labels, else 0 |
    | centre | 1 if no other class has a mean nearer than its own class; `order` does not matter |

    Of two neighbours equally far away, the one that comes first in the data counts as nearer.

    Args:
        x: (n, ...) points, flattened.
        labels: (n,) whole numbers.
        order: r, from 1 to n - 1.
        kind: see above.
        standardise: divide every column by its standard deviation first.
        search: how neighbours are found; the result is the same.

    Returns:
        Mean score, exact for these data.

    Raises:
        SubjectError: for NaN, fewer than two points, or labels that do not fit.
        UsageError: for an order or kind that does not exist.

    Example:
        >>> separation_index([[0.0], [1.0], [3.0], [10.0]], [0, 0, 1, 1])
        0.75
    """
    return float(separations(x, labels, order=order, kind=kind, standardise=standardise, search=search).mean())


def separations(
    x: Any,
    labels: Any,
    *,
    order: int = 1,
    kind: Separation = "high",
    standardise: bool = False,
    search: Search = "auto",
) -> Tensor:
    """Score of every point, whose mean is `separation_index`.

    Args:
        x: (n, ...) points, flattened.
        labels: (n,) whole numbers.
        order: number of neighbours.
        kind: see `separation_index`.
        standardise: divide every column by its standard deviation first.
        search: how neighbours are found.

    Returns:
        (n,) scores in [0, 1], float64.

    Raises:
        SubjectError: for NaN, fewer than two points, or labels that do not fit.
        UsageError: for an order or kind that does not exist.

    Example:
        >>> separations([[0.0], [1.0], [3.0], [10.0]], [0, 0, 1, 1]).tolist()
        [1.0, 1.0, 0.0, 1.0]
    """
    checks.one_of(kind, get_args(Separation), "kind")
    checks.one_of(search, get_args(Search), "search")
    points = checks.points(x)
    classes = checks.labels(labels, len(points))
    points = checks.standardised(points) if standardise else points
    if kind == "centre":
        return centred(points, classes)
    neighbours = nearest(points, checks.order(order, len(points)), search)
    return scored(classes, neighbours.index, kind)


def scored(classes: Tensor, neighbours: Tensor, kind: Separation) -> Tensor:
    """Scores (n,) of points with classes (n,) and neighbours (n, r)."""
    same = (classes[neighbours] == classes[:, None]).double()
    if kind == "soft":
        return same.mean(1)
    return same.amin(1) if kind == "high" else 1 - same.amax(1)


def centred(points: Tensor, classes: Tensor) -> Tensor:
    """Whether the mean of its own class is the nearest one, (n,), for points (n, d) with classes (n,)."""
    count = int(classes.max()) + 1
    means = points.new_zeros(count, points.shape[1]).index_add_(0, classes, points)
    means /= torch.bincount(classes, minlength=count)[:, None]
    distances = torch.stack([(points - mean).square().sum(1) for mean in means], dim=1)
    return (distances.gather(1, classes[:, None])[:, 0] <= distances.amin(1)).double()
