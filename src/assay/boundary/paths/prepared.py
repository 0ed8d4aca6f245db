"""A captured network in float64, cut before its last dense layer so that differences of classes are exact."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from assay.boundary.field import Field
from assay.boundary.paths.zonotope import UNIT, Zonotope, point, propagate, refusals, rounding
from assay.errors import AssayError
from assay.graph import Graph, Node, TensorSpec, evaluate, evaluate_node
from assay.subject import Subject, as_subject

_MONOTONE = frozenset({"log_softmax", "softmax", "identity"})


@dataclass(frozen=True, eq=False)
class Prepared:
    """The part of a network before its last dense layer, and that layer.

    Attributes:
        graph: float64 on the CPU; its output is what the last layer reads, or the logits.
        weight: (K, h) of the last layer, None when the graph ends with the logits.
        bias: (K,) or None.
        units: the largest number of units of a layer, for memory.
        unsupported: places of operators that stop a certificate; or why there is no graph.
    """

    graph: Graph | None
    weight: Tensor | None = None
    bias: Tensor | None = None
    units: int = 1
    unsupported: tuple[str, ...] = ()

    def differences(self, element: Zonotope, own: Tensor) -> Zonotope:
        """f_own - f_j for every class j (0 for j = own), with what rounding did.

        Args:
            element: of the inputs (B, ...).
            own: (B,) classes.

        Returns:
            Element (B, K).
        """
        assert self.graph is not None
        found = propagate(self.graph, element)
        if self.weight is None:
            return _subtracted(found, own)
        parts = [torch.empty(len(own), len(self.weight), dtype=torch.float64) for _ in range(3)]
        for label in own.unique().tolist():
            rows = own == label
            weight = self.weight[label] - self.weight
            gamma = rounding(weight.shape[1] + 4)
            centre, slope, error = found.centre[rows], found.slope[rows], found.error[rows]
            parts[0][rows], parts[1][rows] = centre @ weight.T, slope @ weight.T
            errors = (error + gamma * (centre.abs() + slope.abs())) @ weight.abs().T * (1 + 2 * gamma)
            if self.bias is not None:
                parts[0][rows] += self.bias[label] - self.bias
                errors += gamma * (self.bias.abs() + self.bias[label].abs())
            parts[2][rows] = errors + UNIT * parts[0][rows].abs()
        return Zonotope(*parts)

    def margins(self, x: Tensor, own: Tensor) -> Tensor:
        """Smallest f_own - f_j in float64 at inputs (B, ...): (B,)."""
        assert self.graph is not None
        outputs = evaluate(self.graph, x)
        if self.weight is not None:
            outputs = torch.nn.functional.linear(outputs, self.weight, self.bias)
        others = outputs.scatter(1, own[:, None], -torch.inf).amax(1)
        return outputs.gather(1, own[:, None])[:, 0] - others

    def outside(self, x: Tensor, own: Tensor) -> Tensor:
        """(B,) whether another class is larger whatever rounding did."""
        found = self.differences(point(x), own)
        return (found.centre + found.error < 0).any(1)


def prepared(model: Any, example: Tensor) -> Prepared:
    """Capture a model for certificates.

    Args:
        model: a module, a Subject or a Field of either; a function has no graph.
        example: (B, ...) inputs.

    Returns:
        The network, or the reasons why none can be had.
    """
    model = model.model if isinstance(model, Field) else model
    if not isinstance(model, nn.Module | Subject):
        return Prepared(None, unsupported=("a plain function has no graph",))
    try:
        graph = _double(as_subject(model, example[:2]).graph)
    except AssayError as error:
        return Prepared(None, unsupported=(f"no graph: {error.what}",))
    if graph.output not in graph.dependent:
        return Prepared(None, unsupported=("the output does not depend on the input",))
    refused = refusals(_truncated(graph, _last(graph)))
    if refused:
        return Prepared(None, unsupported=tuple(dict.fromkeys(refused)))
    last = graph[_last(graph)]
    units = max((node.spec.size_per_sample for node in graph.layers), default=1)
    data, weight, bias = (*last.inputs, None, None, None)[:3]
    if last.op == "linear" and len(last.spec.shape) == 2 and data in graph.dependent and weight in graph.parameters:
        assert data is not None
        assert weight is not None
        shift = None if bias is None else graph.parameters.get(bias)
        if graph.parameters[weight].dim() == 2 and (bias is None or shift is not None):
            return Prepared(_truncated(graph, data), graph.parameters[weight], shift, units)
    return Prepared(_truncated(graph, last.name), units=units)


def _last(graph: Graph) -> str:
    """The last node that can change which class is largest."""
    name = graph.output
    while graph[name].op in _MONOTONE and len(graph[name].spec.shape) == 2:
        node = graph[name]
        if node.op != "identity" and node.attributes.get("dim") not in (1, -1):
            break
        assert node.inputs[0] is not None
        name = node.inputs[0]
    return name


def _truncated(graph: Graph, output: str) -> Graph:
    """The part of a graph that one node depends on."""
    needed = {output}
    for node in reversed(graph.nodes):
        if node.name in needed:
            needed.update(name for name in node.inputs if name is not None)
    return graph.replace_nodes(tuple(node for node in graph if node.name in needed | {graph.input}), output)


def _double(graph: Graph) -> Graph:
    """Float64 on the CPU, with everything that does not depend on the input computed once."""
    values = {
        name: value.detach().cpu().double() if value.dtype.is_floating_point else value.detach().cpu()
        for name, value in graph.parameters.items()
    }
    nodes: list[Node] = []
    for node in graph:
        fixed = node.op not in ("input", "parameter") and node.name not in graph.dependent and not node.spec.batched
        if fixed and all(name is None or name in values for name in node.inputs):
            values[node.name] = evaluate_node(node, [None if n is None else values[n] for n in node.inputs], 1)
            spec = TensorSpec(tuple(values[node.name].shape), values[node.name].dtype)
            node = Node(node.name, "parameter", (), {}, spec, node.module_path, node.source)
        nodes.append(node)
    return replace(graph, nodes=tuple(nodes), parameters=values)


def _subtracted(found: Zonotope, own: Tensor) -> Zonotope:
    """Row-wise difference of logits; errors of the two add, that of a class with itself is none."""
    index = own[:, None]
    centre, slope = found.centre.gather(1, index) - found.centre, found.slope.gather(1, index) - found.slope
    size = found.magnitude
    error = found.error.gather(1, index) + found.error + 8 * UNIT * (size + size.gather(1, index))
    return Zonotope(centre, slope, error.scatter(1, index, 0.0))
