"""Separation and smoothness of data as they flow through the layers of a network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from assay.certified.prepared import doubled
from assay.errors import SubjectError, UnsupportedOperator, UsageError
from assay.grade import Grade
from assay.graph import Graph, Node, evaluate
from assay.inputs import prepared, rows_per_pass
from assay.results import Displayed
from assay.smoothness.indices import checks, separation, smoothness
from assay.smoothness.indices.neighbours import nearest
from assay.smoothness.walk import per_sample
from assay.subject import Subject

Task = Literal["auto", "classification", "regression"]

_SAME_GEOMETRY = frozenset({"reshape", "permute", "roll", "flip", "identity"})
_MEMORY = 2**28  # bytes of layer values that are kept at a time


@dataclass(frozen=True, eq=False)
class LayerIndex(Displayed):
    """Indices of the data as one layer represents them.

    Attributes:
        place: module path and operator, or ``input``.
        name: the node of the graph.
        units: numbers per input that the layer makes.
        kept: numbers per input that were compared; fewer than `units` where the layer was sketched.
        values: ``separation`` and ``centre`` for labels; ``linear`` and ``exponential`` for regression targets.
        ties: share of inputs with several nearest neighbours, of which the first in the data counted.
        grade: exact for these data; sampled where the layer was sketched.
    """

    place: str
    name: str
    units: int
    kept: int
    values: Mapping[str, float]
    ties: float
    grade: Grade


class LayerIndices(Displayed, tuple[LayerIndex, ...]):
    """The rows of `layer_indices`, shown as one table."""


def layer_indices(
    model: nn.Module | Subject,
    x: Tensor,
    y: Tensor,
    *,
    task: Task = "auto",
    order: int = 1,
    gamma: float = 1.0,
    width: int | None = 4096,
    seed: int = 0,
    batch_size: int | None = None,
) -> LayerIndices:
    """Separation index (labels) or smoothness index (regression targets) of the input and of every layer's values.

    In a trained network they tend to rise from layer to layer. They are indices of data and do not see kinks.

    A layer of more than `width` numbers is sketched to `width` of them: every unit is added, with a random sign, to one
    random place (Charikar, Chen, Farach-Colton, Finding frequent items in data streams, 2002), which keeps squared
    distances in the mean with a relative standard deviation of at most sqrt(2 / width). Layers that only rearrange are
    left out, as are values that cannot be told apart by sample.

    Args:
        model: module or Subject.
        x: (n, ...) inputs, n >= 2.
        y: (n,) labels, or (n,) or (n, k) regression targets.
        task: by default, whole-number types are labels and others targets.
        order: neighbours that must agree, see `separation_index` and `smoothness_index`.
        gamma: decay of the exponential form.
        width: most numbers per layer and input; None for all.
        seed: of the sketches.
        batch_size: inputs per pass; by memory when not given.

    Returns:
        One row for the input and one per layer, in the order of the graph. Time n^2 width per layer, memory
        n^2 / block plus 256 MiB of values or one layer, whichever is more.

    Raises:
        CaptureError: when the model cannot be captured.
        SubjectError: for data that do not fit the model or each other.
        UsageError: for an order, task or width that does not exist.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
        >>> x, y = torch.eye(2).repeat(3, 1), torch.tensor([0, 1] * 3)
        >>> [(row.place, row.values["separation"]) for row in layer_indices(net, x, y)][0]
        ('input', 1.0)
    """
    checks.one_of(task, ("auto", "classification", "regression"), "task")
    if width is not None and width < 2:
        raise UsageError(f"A sketch of {width} numbers says nothing.", where="width", advice="Choose hundreds or more.")
    subject, x = prepared(model, x)
    points = checks.points(x)
    order = checks.order(order, len(x))
    labels = task == "classification" or (task == "auto" and not torch.as_tensor(y).dtype.is_floating_point)
    score = _Labels(y, len(x), order) if labels else _Targets(y, len(x), order, gamma)
    graph = doubled(subject.graph)
    rows = [score.row("input", graph.input, points.shape[1], _Sketch(points.shape[1], width, seed)(points))]
    kept = [node for node in graph.layers if node.op not in _SAME_GEOMETRY and node.spec.dtype.is_floating_point]
    for group in _groups(kept, len(x), width):
        values = _observed(graph, x.double(), group, width, seed, batch_size)
        rows += [
            score.row(node.place, node.name, node.spec.size_per_sample, values.pop(node.name))
            for node in group
            if node.name in values
        ]
    return LayerIndices(rows)


class _Labels:
    def __init__(self, y: Tensor, count: int, order: int) -> None:
        self.classes, self.order = checks.labels(y, count), order

    def row(self, place: str, name: str, units: int, points: Tensor) -> LayerIndex:
        neighbours = nearest(points, self.order)
        values = {
            "separation": float(separation.scored(self.classes, neighbours.index, "high").mean()),
            "centre": float(separation.centred(points, self.classes).mean()),
        }
        return _row(place, name, units, points, values, neighbours.tied)


class _Targets:
    def __init__(self, y: Tensor, count: int, order: int, gamma: float) -> None:
        self.values, self.order, self.gamma = checks.targets(y, count), order, gamma
        self.spread = smoothness.spreads(self.values, order)

    def row(self, place: str, name: str, units: int, points: Tensor) -> LayerIndex:
        neighbours = nearest(points, self.order)
        values = {
            form: float(
                smoothness.scored(self.values, neighbours.index, self.spread, form=form, gamma=self.gamma).mean()
            )
            for form in ("linear", "exponential")
        }
        return _row(place, name, units, points, values, neighbours.tied)


def _row(place: str, name: str, units: int, points: Tensor, values: Mapping[str, float], tied: Tensor) -> LayerIndex:
    kept = points.shape[1]
    grade = Grade.EXACT if kept == units else Grade.SAMPLED
    return LayerIndex(place, name, units, kept, values, float(tied.double().mean()), grade)


class _Sketch:
    """Values (n, units) -> (n, width): sums over random places with random signs; as they are where they fit."""

    def __init__(self, units: int, width: int | None, seed: int) -> None:
        self.width = None if width is None or units <= width else width
        if self.width is not None:
            generator = torch.Generator().manual_seed(seed)
            self.place = torch.randint(self.width, (units,), generator=generator)
            self.sign = 2.0 * torch.randint(2, (units,), generator=generator).double() - 1.0

    def __call__(self, values: Tensor) -> Tensor:
        if self.width is None:
            return values
        return values.new_zeros(len(values), self.width).index_add_(1, self.place, values * self.sign)


def _groups(nodes: list[Node], count: int, width: int | None) -> Iterator[list[Node]]:
    """Layers whose values fit into memory together, in order."""
    group: list[Node] = []
    size = 0
    for node in nodes:
        units = node.spec.size_per_sample
        needed = 8 * count * (units if width is None else min(units, width))
        if group and size + needed > _MEMORY:
            yield group
            group, size = [], 0
        group.append(node)
        size += needed
    if group:
        yield group


def _observed(
    graph: Graph, x: Tensor, group: list[Node], width: int | None, seed: int, batch_size: int | None
) -> dict[str, Tensor]:
    """(n, kept) values of a group of layers."""
    wanted = {node.name: _Sketch(node.spec.size_per_sample, width, seed) for node in group}
    parts: dict[str, list[Tensor]] = {name: [] for name in wanted}

    def observe(node: Node, value: Tensor) -> None:
        if node.name not in wanted:
            return
        try:
            values = per_sample(node, value, len(batch))
        except UnsupportedOperator:
            return
        if not bool(torch.isfinite(values).all()):
            raise SubjectError("A layer returns NaN or infinity.", where=node.place, advice="Check weights and data.")
        parts[node.name].append(wanted[node.name](values))

    for batch in x.split(rows_per_pass(x, batch_size, gradients=True)):
        with torch.no_grad():
            evaluate(graph, batch, observe=observe)
    return {name: torch.cat(found) for name, found in parts.items() if found}
