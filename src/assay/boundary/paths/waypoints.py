"""When halving finds no path: a road map of random waypoints with a margin, searched lazily."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from assay.boundary.paths.margin import clamped
from assay.boundary.paths.search import Search, without_repeats

_NEIGHBOURS = 12
_STEPS = 400
_DEEPER = 8
_GROWTHS = 4


def by_waypoints(search: Search, row: int, start: Tensor, end: Tensor, count: int) -> list[Tensor] | None:
    """A path over random points of the class region, or None.

    Waypoints are drawn around the straight segment at several distances and moved to the wanted margin. Edges between
    near ones are sampled only when the shortest path uses them (a lazy probabilistic road map: Bohlin & Kavraki 2000).

    Args:
        search: margins, checks and randomness.
        row: the row.
        start: (...) input.
        end: (...) input.
        count: waypoints.

    Returns:
        Anchors in order, checked at the search's number of points.
    """
    nodes = _nodes(search, row, start, end, count)
    known: dict[tuple[int, int], bool] = {}
    for _ in range(_GROWTHS):
        way = _lazy_way(search, row, nodes, known)
        if way is not None:
            return shortened(search, row, without_repeats([nodes[i] for i in way]))
        nodes = torch.cat([nodes, _grown(search, row, nodes, count)])
    return None


def _lazy_way(search: Search, row: int, nodes: Tensor, known: dict[tuple[int, int], bool]) -> list[int] | None:
    """Shortest way from node 0 to node 1 over edges between neighbours, sampling only edges that a way uses."""
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import dijkstra

    flat = nodes.flatten(1).double().cpu()
    distances = torch.cdist(flat, flat)
    near = distances.topk(min(_NEIGHBOURS + 1, len(flat)), largest=False).indices
    cost = torch.zeros_like(distances)
    cost.scatter_(1, near, distances.gather(1, near).clamp(min=1e-12))
    cost = torch.maximum(cost, cost.T).fill_diagonal_(0.0)  # 0: no edge
    for (a, b), valid in known.items():
        if not valid:
            cost[a, b] = cost[b, a] = 0.0
    for _ in range(_STEPS):
        length, before = dijkstra(csr_matrix(cost.numpy()), indices=0, return_predecessors=True)
        if length[1] == float("inf"):
            return None
        way = [1]
        while way[-1] != 0:
            way.append(int(before[way[-1]]))
        way.reverse()
        fresh = [(a, b) for a, b in pairwise(way) if (min(a, b), max(a, b)) not in known]
        if not fresh:
            return way
        left, right = (nodes[torch.tensor(side)] for side in zip(*fresh, strict=True))
        rows = torch.full((len(fresh),), row, device=nodes.device)
        for (a, b), valid in zip(fresh, search.check(rows, left, right).valid.tolist(), strict=True):
            known[min(a, b), max(a, b)] = valid
            if not valid:
                cost[a, b] = cost[b, a] = 0.0
    return None


def _grown(search: Search, row: int, nodes: Tensor, count: int) -> Tensor:
    """More waypoints around those that stand alone (the expansion step of Kavraki et al. 1996)."""
    flat = nodes.flatten(1).double().cpu()
    gaps = torch.cdist(flat, flat).topk(min(4, len(flat)), largest=False).values[:, -1]
    generator = search.generators[row]
    chosen = torch.multinomial(gaps.clamp(min=1e-12), count, replacement=True, generator=generator)
    noise = torch.randn((count, *nodes.shape[1:]), generator=generator, dtype=torch.float64)
    size = 2 * gaps[chosen] / nodes[0].numel() ** 0.5
    drawn = nodes[chosen] + (size.reshape((-1,) + (1,) * (nodes.dim() - 1)) * noise).to(nodes)
    return _moved(search, row, drawn)


def _nodes(search: Search, row: int, start: Tensor, end: Tensor, count: int) -> Tensor:
    """The two ends, the same moved inward, and waypoints with at least a part of the wanted margin."""
    generator = search.generators[row]
    place = torch.rand(count, generator=generator, dtype=torch.float64).to(start)
    noise = torch.randn((count, *start.shape), generator=generator, dtype=torch.float64).to(start)
    size = search.radius[row] * 2.0 ** (torch.arange(count, device=start.device) % 4 - 2.0) / start.numel() ** 0.5
    shape = (-1,) + (1,) * start.dim()
    drawn = start + place.reshape(shape) * (end - start) + size.to(start).reshape(shape) * noise
    both = torch.stack([start, end])
    inside = search.inward(torch.full((2,), row, device=start.device), both)
    return torch.cat([both, inside, _moved(search, row, drawn)])


def _moved(search: Search, row: int, drawn: Tensor) -> Tensor:
    """Those of the points that could be moved to a part of the wanted margin."""
    rows = torch.full((len(drawn),), row, device=drawn.device)
    wanted = search.wanted[rows]
    # asked for more than needed: points deep inside see further than points along the edge
    moved, margin = search.move(rows, clamped(drawn, search.bounds), _DEEPER * wanted, search.radius[rows] / 4)
    return moved[margin >= wanted / 8]


def shortened(search: Search, row: int, path: list[Tensor]) -> list[Tensor]:
    """The path without anchors whose neighbours see each other."""
    index = 0
    while index + 2 < len(path):
        later = path[index + 2 :]
        rows = torch.full((len(later),), row, device=path[0].device)
        seen = search.check(rows, torch.stack([path[index]] * len(later)), torch.stack(later)).valid
        if bool(seen.any()):
            path = [*path[: index + 1], *path[index + 2 + int(seen.nonzero()[-1]) :]]
        index += 1
    return path
