"""First-order change of the outputs when operands and stored values change by known amounts: one forward product."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from assay.graph import evaluate_node
from assay.probe import forward_product
from assay.sensitivity.roundoff.assignment import Assignment


@dataclass(frozen=True)
class Changes:
    """Small changes, all to be made at once.

    Attributes:
        values: of nodes, after they are computed (the input included), and of parameters for readers that are no sites.
        operands: of what one node reads at one place.
    """

    values: Mapping[str, Tensor] = field(default_factory=dict)
    operands: Mapping[tuple[str, int], Tensor] = field(default_factory=dict)


def first_order_change(assignment: Assignment, x: Tensor, changes: Changes) -> Tensor:
    """d/dt of the outputs at t = 0, everything changed by t times its change.

    Args:
        assignment: for the graph in double precision.
        x: (B, ...) float64.
        changes: what changes.

    Returns:
        (B, K).
    """
    graph = assignment.graph
    # a parameter is its own point: adding its change to it would take copies of what is the largest in the network
    own = {place: graph.parameters.get(graph[place[0]].inputs[place[1]] or "") for place in changes.operands}
    points: list[Tensor] = []
    for place, change in changes.operands.items():
        plain = own[place]
        points.append(torch.zeros_like(change) if plain is None else plain)
    points += [torch.zeros_like(change) for change in changes.values.values()]

    def moved(*point: Tensor) -> Tensor:
        operands = dict(zip(changes.operands, point, strict=False))
        added = dict(zip(changes.values, point[len(operands) :], strict=True))
        values: dict[str, Tensor] = dict(graph.parameters)
        for name in added.keys() & graph.parameters.keys():
            values[name] = values[name] + added[name]
        for node in graph:
            if node.op == "parameter":
                continue
            if node.op == "input":
                value = x
            else:
                inputs: list[Tensor | None] = []
                for place, name in enumerate(node.inputs):
                    key = (node.name, place)
                    value = None if name is None else values[name]
                    if value is not None and key in operands:
                        value = value + operands[key] if own[key] is None else operands[key]
                    inputs.append(value)
                value = evaluate_node(node, inputs, x.shape[0])
            values[node.name] = value + added[node.name] if node.name in added else value
            for name in node.inputs:
                if name is not None and graph.last_use.get(name) == node.name and name not in graph.parameters:
                    values.pop(name, None)
        return values[graph.output]

    directions = [*changes.operands.values(), *changes.values.values()]
    if not directions:
        return x.new_zeros(len(x), graph[graph.output].spec.size_per_sample)
    return forward_product(moved, points, directions)[1]
