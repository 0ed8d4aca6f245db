"""A graph cut into stages at the nodes that all paths pass, and the norms of the stages' Jacobians at inputs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import jvp

from assay.certified.layer_gain import WEIGHTED
from assay.errors import UsageError
from assay.grade import Grade
from assay.graph import OPERATORS, BatchSize, Graph, Node, evaluate
from assay.inputs import rows_per_pass
from assay.norms.golub_kahan import largest_singular
from assay.probe import Probe
from assay.sensitivity.jacobian import JacobianOperator

Mask = Literal["rows", "both"]
_ROWS = 64  # up to this many outputs a stage's Jacobian is formed row by row
_MOVES = frozenset({"reshape", "permute", "identity", "slice", "select", "part", "roll", "flip", "pad", "window"})
_SELECTS = _MOVES | {"max_pool", "adaptive_max_pool"}


@dataclass(frozen=True, eq=False)
class Stage:
    """A part of the graph between two nodes that every path from input to output passes.

    Attributes:
        start: the node it begins after.
        end: its last node.
        graph: the part as a graph whose input is `start`.
        weighted: its nodes with weights.
        joins: whether several branches meet inside.
    """

    start: str
    end: str
    graph: Graph
    weighted: tuple[Node, ...]
    joins: bool

    @property
    def place(self) -> str:
        """Where a reader finds it."""
        return " + ".join(node.place for node in self.weighted) or self.graph[self.end].place


def part_of(graph: Graph, start: str, end: str) -> Graph:
    """The nodes between two nodes of a graph, as a graph whose input is the first."""
    needed, wanted = {end}, []
    for node in reversed(graph.nodes):
        if node.name in needed and node.name != start:
            wanted.append(node)
            needed.update(name for name in node.inputs if name is not None)
    begin = replace(graph[start], op="input", inputs=(), attributes={})
    return replace(graph, nodes=(begin, *reversed(wanted)), input=start, output=end)


def stages(graph: Graph) -> tuple[Stage, ...]:
    """Stages of a graph: each begins with a weighted layer, or a block of branches that holds some.

    Activations, pools and rearrangements join the stage before them.

    Returns:
        The stages, in order; together they are the graph.
    """
    cuts = _cuts(graph)
    segments = [_stage(graph, start, end) for start, end in pairwise(cuts)]
    bounds = [0]
    for index, segment in enumerate(segments):
        if segment.weighted and any(one.weighted for one in segments[bounds[-1] : index]):
            bounds.append(index)
    bounds.append(len(segments))
    return tuple(_stage(graph, segments[a].start, segments[b - 1].end) for a, b in pairwise(bounds))


def _stage(graph: Graph, start: str, end: str) -> Stage:
    part = part_of(graph, start, end)
    dependent = [node for node in part if node.name in part.dependent and node.name != start]
    joins = any(sum(name in part.dependent for name in node.inputs) > 1 for node in dependent)
    return Stage(start, end, part, tuple(node for node in dependent if node.op in WEIGHTED), joins)


def _cuts(graph: Graph) -> list[str]:
    """Nodes that every path passes and whose value is a batch of floating-point tensors."""
    part = part_of(graph, graph.input, graph.output)
    order = [node for node in part if node.name in part.dependent]
    place = {node.name: index for index, node in enumerate(order)}
    reach, cuts = 0, []
    for index, node in enumerate(order):
        readers = [place[reader.name] for reader in order if node.name in reader.inputs]
        whole = node.spec.shape[:1] == (BatchSize(),) and not any(isinstance(s, BatchSize) for s in node.spec.shape[1:])
        if reach <= index and (node.op == "input" or (whole and node.spec.dtype.is_floating_point)):
            cuts.append(node.name)
        reach = max([reach, *readers])
    return cuts


@dataclass(frozen=True, eq=False)
class StageJacobian:
    """Jacobian of a stage at its inputs, acting on flat vectors; columns of elements that cannot move are zero."""

    operator: JacobianOperator
    mask: Tensor | None

    @property
    def shape(self) -> tuple[int, int, int]:
        """(B, K, n)."""
        return self.operator.shape

    def forward(self, v: Tensor) -> Tensor:
        """J v."""
        return self.operator.forward(v if self.mask is None else v * self.mask)

    def transpose(self, u: Tensor) -> Tensor:
        """J^T u."""
        product = self.operator.transpose(u)
        return product if self.mask is None else product * self.mask

    def select(self, rows: Tensor) -> StageJacobian:
        """The operator of some samples."""
        return StageJacobian(self.operator.select(rows), None if self.mask is None else self.mask[rows])

    def norm(self, seed: int = 0) -> Tensor:
        """(B,) spectral norms: exact up to rounding for at most 64 outputs, else by Lanczos to a relative 1e-6."""
        if self.shape[1] <= _ROWS:
            dense = self.operator.rows().double()
            dense = dense if self.mask is None else dense * self.mask[:, None]
            gram = dense @ dense.mT
            peak = gram.abs().amax((1, 2)).clamp(min=1e-300)
            return (torch.linalg.eigvalsh(gram / peak[:, None, None])[:, -1].clamp(min=0) * peak).sqrt()
        return largest_singular(self, tolerance=1e-5, max_steps=200, seed=seed).value


class _Part(nn.Module):
    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph

    def forward(self, x: Tensor) -> Tensor:
        return evaluate(self.graph, x).flatten(1)


@dataclass(frozen=True, eq=False)
class StageNorms:
    """Local norms of consecutive groups of stages.

    Attributes:
        norm: (B, G) norms of the groups' Jacobians at the inputs.
        places: what each group holds.
        grade: first order; above 64 outputs per group from Lanczos, which approaches the norm from below.
    """

    norm: Tensor
    places: tuple[str, ...]
    grade: Grade = Grade.LINEARISED

    @cached_property
    def product(self) -> Tensor:
        """(B,) never below the norm of the whole Jacobian."""
        return self.norm.prod(1)


def stage_norms(graph: Graph, x: Tensor, *, group: int = 1, mask: Mask = "both", seed: int = 0) -> StageNorms:
    """Norms ||D_l W_l|| of the Jacobians of groups of stages at inputs, pool selections included.

    With ``both``, columns of elements that the stage before holds fixed (D_(l-1) = 0) are left out too. Their product
    lies between ||J|| and the product of the layers' norms. One group of all stages is the Jacobian itself.

    Args:
        graph: a prepared graph (see `prepared.bound_graph`).
        x: (B, ...) inputs.
        group: stages per group, from the input on.
        mask: ``rows`` or ``both``.
        seed: of the Lanczos start.

    Returns:
        (B, G) norms; first order.

    Raises:
        UsageError: for a group that is not positive, or an unknown mask.
    """
    if group < 1 or mask not in ("rows", "both"):
        raise UsageError(f"group={group}, mask={mask!r}.", where="stage_norms", advice="Use group >= 1, rows or both.")
    found = stages(graph)
    groups = [found[i : i + group] for i in range(0, len(found), group)]
    columns = []
    for members in groups:
        part = part_of(graph, members[0].start, members[-1].end)
        tail = _tail(graph, members[0].start) if mask == "both" else None
        values = []
        for piece in x.double().split(rows_per_pass(x.double(), None, gradients=True)):
            kept = values_at(graph, piece, {members[0].start, *([tail] if tail else [])})
            moving = None if tail is None else _moving(graph, tail, members[0].start, kept[tail])
            operator = JacobianOperator(Probe(_Part(part)), kept[members[0].start])
            values.append(StageJacobian(operator, moving).norm(seed))
        columns.append(torch.cat(values))
    return StageNorms(torch.stack(columns, 1), tuple("; ".join(one.place for one in members) for members in groups))


def values_at(graph: Graph, x: Tensor, names: set[str]) -> dict[str, Tensor]:
    """Values of some nodes at inputs, by name."""
    kept = {graph.input: x}
    with torch.no_grad():
        evaluate(graph, x, observe=lambda node, value: kept.update({node.name: value}) if node.name in names else None)
    return kept


def _tail(graph: Graph, cut: str) -> str | None:
    """The node from which on every element of `cut` depends on one element only; None where that is `cut` itself."""
    name = cut
    while True:
        node = graph[name]
        varying = {i for i, source in enumerate(node.inputs) if source in graph.dependent}
        if varying != {0} or not (OPERATORS[node.op].elementwise or node.op in _SELECTS):
            return None if name == cut else name
        name = node.inputs[0] or cut


def _moving(graph: Graph, tail: str, cut: str, value: Tensor) -> Tensor:
    """(B, n) 1 where an element of `cut` moves to first order when those of `tail` do."""
    part = part_of(graph, tail, cut)
    slope = jvp(lambda point: evaluate(part, point), (value,), (torch.ones_like(value),))[1]
    return (slope != 0).to(value.dtype).flatten(1)
