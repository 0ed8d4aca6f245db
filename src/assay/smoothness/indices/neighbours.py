"""Nearest neighbours of every point among the others: exact, with ties settled the same way whatever the search."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

Search = Literal["auto", "blockwise", "tree"]

_MANY = 4096  # points from which a tree pays
_FLAT = 16  # axes up to which a tree pays
_SPARE = 6  # candidates beyond those asked for, which nearly always settle the order
_AT_ONCE = 2**22  # numbers per block


class Neighbours(NamedTuple):
    """Nearest first; at equal distance, the one that comes first in the data.

    Attributes:
        index: (n, k) places of the neighbours of every point.
        distance: (n, k) Euclidean distances.
        tied: (n,) whether the nearest and the second nearest are equally far, so that the order of the data decides.
    """

    index: Tensor
    distance: Tensor
    tied: Tensor


def nearest(points: Tensor, k: int, search: Search = "auto") -> Neighbours:
    """The k nearest other points of every point.

    A fast search (blocks of inner products, or scikit-learn's k-d tree) proposes candidates; their distances are
    computed again from differences, and rows in which rounding or ties could hide a nearer point are searched in full.
    So both searches give the same answer.

    Args:
        points: (n, d) float64, n > k.
        k: how many.
        search: ``blockwise`` takes n^2 d operations; ``tree`` pays for many points with few axes.

    Returns:
        See `Neighbours`.
    """
    count = min(len(points) - 1, max(k, 2) + _SPARE)
    tree = search == "tree" or (search == "auto" and len(points) > _MANY and points.shape[1] <= _FLAT)
    candidates, reach = _by_tree(points, count) if tree else _by_blocks(points, count)
    found, distances = _ordered(points, torch.arange(len(points)), candidates)
    if count < len(points) - 1:
        needed = distances[:, max(k, 2) - 1]
        unsure = (needed >= reach).nonzero().flatten()
        step = max(1, _AT_ONCE // points.numel())
        for rows in unsure.split(step) if len(unsure) else ():
            everyone = torch.arange(len(points)).expand(len(rows), -1)
            others = everyone[everyone != rows[:, None]].reshape(len(rows), len(points) - 1)
            best, far = _ordered(points, rows, others)
            found[rows], distances[rows] = best[:, :count], far[:, :count]
    single = len(points) < 3
    tied = torch.zeros(len(points), dtype=torch.bool) if single else distances[:, 0] == distances[:, 1]
    return Neighbours(found[:, :k], distances[:, :k], tied)


def _by_blocks(points: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Candidates (n, count) and, per point, a distance that all other points exceed."""
    centred = points - points.mean(0)
    square = (centred * centred).sum(1)
    # |fl(<x, y>) - <x, y>| <= d eps |x| |y|, and squares and their sums add a little of the same size
    slack = 4 * (points.shape[1] + 8) * torch.finfo(points.dtype).eps * square.max()
    found, reach = [], []
    for rows in torch.arange(len(points)).split(max(1, _AT_ONCE // len(points))):
        distance = square[rows, None] + square - 2 * centred[rows] @ centred.T
        distance[torch.arange(len(rows)), rows] = torch.inf
        values, index = distance.topk(count, largest=False)
        found.append(index)
        reach.append((values[:, -1] - slack).clamp(min=0).sqrt())
    return torch.cat(found), torch.cat(reach)


def _by_tree(points: Tensor, count: int) -> tuple[Tensor, Tensor]:
    from sklearn.neighbors import NearestNeighbors

    search = NearestNeighbors(n_neighbors=count, algorithm="kd_tree").fit(points.numpy())
    distance, index = search.kneighbors()  # of the points themselves: each is left out of its own neighbours
    return torch.from_numpy(index), torch.from_numpy(distance[:, -1]) * (1 - 1e-12)


def _ordered(points: Tensor, rows: Tensor, candidates: Tensor) -> tuple[Tensor, Tensor]:
    """Candidates (m, c) of the points `rows` by distance, then by place; and their distances, from differences."""
    candidates = candidates.sort(1).values
    distance = torch.empty(candidates.shape, dtype=points.dtype)
    step = max(1, _AT_ONCE // (candidates.shape[1] * points.shape[1]))
    for first in range(0, len(rows), step):
        part = slice(first, first + step)
        distance[part] = (points[candidates[part]] - points[rows[part], None]).square().sum(2).sqrt()
    order = distance.argsort(dim=1, stable=True)
    return candidates.gather(1, order), distance.gather(1, order)
