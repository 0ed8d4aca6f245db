"""First-order change of the outputs when operands and stored values change by known amounts: one forward product."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from assay.graph import evaluate_node
from assay.sensitivity.parameters.taps import forward_product
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

    def along(t: Tensor) -> Tensor:
        values: dict[str, Tensor] = dict(graph.parameters)
        for name in changes.values.keys() & graph.parameters.keys():
            values[name] = values[name] + t * changes.values[name]
        for node in graph:
            if node.op == "parameter":
                continue
            if node.op == "input":
                value = x
            else:
                inputs: list[Tensor | None] = []
                for place, name in enumerate(node.inputs):
                    change = changes.operands.get((node.name, place))
                    if name is not None and change is not None:
                        plain = graph.parameters.get(name)
                        inputs.append((values[name] if plain is None else plain) + t * change)
                    else:
                        inputs.append(None if name is None else values[name])
                value = evaluate_node(node, inputs, x.shape[0])
            change = changes.values.get(node.name)
            values[node.name] = value if change is None else value + t * change
            for name in node.inputs:
                if name is not None and graph.last_use.get(name) == node.name and name not in graph.parameters:
                    values.pop(name, None)
        return values[graph.output]

    zero = torch.zeros((), dtype=x.dtype)
    return forward_product(along, [zero], [torch.ones_like(zero)])[1]
