"""Where the nodes of a drawing go: cells in rows by depth, lanes for branches, tracks for skip connections.

A cell is a node with the norms, activations and rearrangements that follow it. It lies one row below its deepest
source. The longest path keeps its lane, so a plain network is one column; a branch takes the nearest lane that is free
for as long as it lasts; a connection that skips rows runs down a track to the right of its source.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from assay.graph.ir import Graph, Node
from assay.graph.operators import OPERATORS

_TRACKS = 24
"""Tracks beside one lane; with more connections than that at once, they share."""


@dataclass(frozen=True)
class Edge:
    """A connection between cells, by the name of their first node; a `track` runs beside the lane of the source."""

    source: str
    target: str
    track: int | None = None


@dataclass
class Layout:
    """Rows and lanes, by the name of a cell's first node.

    Attributes:
        cells: the nodes of each cell, in topological order.
        row: row of each cell.
        lane: lane of each cell.
        edges: connections between cells.
        tracks: number of tracks to the right of each lane.
    """

    cells: dict[str, list[Node]]
    row: dict[str, int] = field(default_factory=dict)
    lane: dict[str, int] = field(default_factory=dict)
    edges: list[Edge] = field(default_factory=list)
    tracks: list[int] = field(default_factory=list)


def layout(graph: Graph) -> Layout:
    """Place what computes from the input, and the input itself.

    Args:
        graph: a captured graph.

    Returns:
        Rows, lanes and edges; parameters and identities are left out, connections pass through identities.
    """
    read = _sources(graph)
    cells, cell_of = _cells(graph, read)
    sources = {name: tuple(dict.fromkeys(cell_of[s] for s in read[name])) for name in cells}
    readers: dict[str, list[str]] = {name: [] for name in cells}
    for name, found in sources.items():
        for source in found:
            readers[source].append(name)
    plan = Layout(cells)
    for name in cells:
        plan.row[name] = 1 + max((plan.row[source] for source in sources[name]), default=-1)
    chains = _chains(plan, sources, readers)
    _choose_lanes(plan, chains, sources, readers)
    _route(plan, chains, sources)
    return plan


def _sources(graph: Graph) -> dict[str, tuple[str, ...]]:
    """Drawn nodes that each drawn node reads, each once, through identities."""
    drawn = (graph[graph.input], *graph.layers)
    stands_for = {node.name: node.name for node in drawn}
    for node in graph:
        if node.op == "identity" and node.inputs[0] in stands_for:
            stands_for[node.name] = stands_for[node.inputs[0]]
    return {n.name: tuple(dict.fromkeys(stands_for[i] for i in n.inputs if i in stands_for)) for n in drawn}


def _cells(graph: Graph, sources: Mapping[str, tuple[str, ...]]) -> tuple[dict[str, list[Node]], dict[str, str]]:
    """Nodes with what follows them closely: a norm, an activation or a rearrangement that alone reads its source."""
    count: dict[str, int] = {}
    for read in sources.values():
        for name in read:
            count[name] = count.get(name, 0) + 1
    cells: dict[str, list[Node]] = {}
    cell_of: dict[str, str] = {}
    for name, read in sources.items():
        node = graph[name]
        family = OPERATORS[node.op].family if node.op in OPERATORS else ""
        follows = node.op == "batch_norm" or family in ("activation", "shape")
        if follows and len(read) == 1 and count[read[0]] == 1 and read[0] != graph.input:
            cell_of[name] = cell_of[read[0]]
        else:
            cell_of[name] = name
        cells.setdefault(cell_of[name], []).append(node)
    return cells, cell_of


def _chains(plan: Layout, sources: Mapping[str, tuple[str, ...]], readers: Mapping[str, list[str]]) -> list[list[str]]:
    """Paths that each keep one lane: a cell continues its deepest source, a source goes on with its deepest reader."""
    height: dict[str, int] = {}
    for name in reversed(plan.cells):
        height[name] = 1 + max((height[reader] for reader in readers[name]), default=0)
    chains: list[list[str]] = []
    chain_of: dict[str, list[str]] = {}
    for name in plan.cells:
        for source in sources[name]:
            below = [reader for reader in readers[source] if plan.row[reader] == plan.row[source] + 1]
            heir = max(below, key=lambda reader: height[reader], default=None)
            if heir == name and chain_of[source][-1] == source:
                chain_of[name] = chain_of[source]
                chain_of[source].append(name)
                break
        else:
            chain_of[name] = [name]
            chains.append(chain_of[name])
    return chains


def _choose_lanes(
    plan: Layout, chains: list[list[str]], sources: Mapping[str, tuple[str, ...]], readers: Mapping[str, list[str]]
) -> None:
    """Give each chain the free lane nearest to where it comes from, for all rows up to the one that reads its end."""
    taken: list[list[tuple[int, int]]] = []
    for chain in sorted(chains, key=lambda chain: (plan.row[chain[0]], -len(chain))):
        start = plan.row[chain[0]]
        end = max([plan.row[chain[-1]], *(plan.row[reader] - 1 for reader in readers[chain[-1]])])
        near = min((plan.lane[source] for source in sources[chain[0]]), default=0)
        free = [lane for lane, spans in enumerate(taken) if all(end < low or high < start for low, high in spans)]
        lane = min(free, key=lambda lane: (abs(lane - near), lane), default=len(taken))
        if lane == len(taken):
            taken.append([])
        taken[lane].append((start, end))
        plan.lane |= dict.fromkeys(chain, lane)
    plan.tracks = [0] * len(taken)


def _route(plan: Layout, chains: list[list[str]], sources: Mapping[str, tuple[str, ...]]) -> None:
    """Edges to the next row and from the end of a chain go straight; all others of one source share a track."""
    last = {chain[-1] for chain in chains}
    skipping: dict[str, list[str]] = {}
    for name in plan.cells:
        for source in sources[name]:
            if plan.row[name] == plan.row[source] + 1 or source in last:
                plan.edges.append(Edge(source, name))
            else:
                skipping.setdefault(source, []).append(name)
    busy: list[list[int]] = [[] for _ in plan.tracks]  # row where each track of a lane becomes free
    for source in sorted(skipping, key=lambda name: plan.row[name]):
        until = busy[plan.lane[source]]
        start, end = plan.row[source], max(plan.row[target] for target in skipping[source])
        track = next((index for index, row in enumerate(until) if row < start), len(until))
        if track == _TRACKS:
            track = min(range(_TRACKS), key=lambda index: until[index])
        elif track == len(until):
            until.append(end)
        until[track] = max(until[track], end)
        plan.edges.extend(Edge(source, target, track) for target in skipping[source])
    plan.tracks = [len(until) for until in busy]
