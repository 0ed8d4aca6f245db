"""The forward walk over a graph in any domain, with liveness, and the reverse walk of its linear maps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from assay.covariance import LinearMap
from assay.graph import Graph, Node, evaluate_node
from assay.interpret.rules import Domain


@dataclass(frozen=True)
class Step:
    """What the reverse walk needs of one node.

    Attributes:
        node: name of the node.
        inputs: names of the inputs the map reads, in the map's order.
        linear: the node's linear map.
        innovation: variance (B, ...) of independent noise the node adds, or None.
        sources: other noise the node adds, correlated between its units; what these are is the domain's affair.

    Example:
        >>> from assay.covariance.linear_map import MatrixMap
        >>> import torch
        >>> Step("y", ("x",), MatrixMap(torch.eye(2))).inputs
        ('x',)
    """

    node: str
    inputs: tuple[str, ...]
    linear: LinearMap
    innovation: Tensor | None = None
    sources: tuple[Any, ...] = ()


def forward(
    graph: Graph,
    domain: Domain[Any],
    elements: Mapping[str, Any],
    *,
    batch: int,
    parameters: Mapping[str, Tensor] | None = None,
    observe: Callable[[Node, Any], None] | None = None,
) -> Any:
    """Element of the graph's output.

    Nodes that do not depend on a given element are evaluated as plain numbers. An element is dropped after its last
    use.

    Args:
        graph: a captured (perhaps lowered) graph.
        domain: what travels along the edges.
        elements: elements by node name: the input, and any other node to be replaced (for noise on weights, on
            activations).
        batch: batch size.
        parameters: values that replace those of parameter nodes, by node name.
        observe: called with every node that has an element, and the element.

    Returns:
        The output's element (a plain tensor when it depends on no given element).

    Example:
        >>> import torch
        >>> from assay.graph import capture
        >>> class Depth:  # through how many operators has a value gone?
        ...     def apply(self, node, operands, live, batch):
        ...         return 1 + max(depth for depth in operands if isinstance(depth, int))
        ...
        ...     def release(self, name):
        ...         pass
        >>> graph = capture(torch.nn.Sequential(torch.nn.ReLU(), torch.nn.Linear(2, 3)), torch.zeros(2, 2))
        >>> forward(graph, Depth(), {graph.input: 0}, batch=1)
        2
    """
    values: dict[str, Tensor] = {**graph.parameters, **(parameters or {})}
    held: dict[str, Any] = dict(elements)
    for node in graph.nodes:
        if node.name in held:
            if observe is not None:
                observe(node, held[node.name])
            continue
        if node.op in ("input", "parameter"):
            continue
        dying = {name for name in node.inputs if name is not None and graph.last_use.get(name) == node.name}
        if any(name in held for name in node.inputs):
            operands = [None if name is None else held.get(name, values.get(name)) for name in node.inputs]
            if node.spec.dtype.is_floating_point:
                held[node.name] = domain.apply(node, operands, frozenset(held) - dying, batch)
                if observe is not None:
                    observe(node, held[node.name])
            else:  # an index or a comparison: a number that no distribution goes through
                values[node.name] = domain.freeze(node, operands, batch)
        else:
            values[node.name] = evaluate_node(node, [None if n is None else values[n] for n in node.inputs], batch)
        for name in dying:
            if held.pop(name, None) is not None:
                domain.release(name)
            elif name not in graph.parameters:
                values.pop(name, None)
    return held.get(graph.output, values.get(graph.output))


def backward(
    steps: Sequence[Step],
    output: str,
    seeds: Tensor,
    visit: Callable[[Step, Tensor], None] = lambda step, cotangents: None,
) -> dict[str, Tensor]:
    """Carry cotangents from the output back through the linear maps.

    Args:
        steps: in forward order.
        output: node the seeds belong to.
        seeds: (k, B, ...) cotangents of the output.
        visit: called with each step and the total derivative of the seeds with respect to its node, (k, B, ...).

    Returns:
        Cotangents (k, B, ...) of every node that no step makes: the inputs.

    Example:
        >>> from assay.covariance.linear_map import MatrixMap
        >>> import torch
        >>> step = Step("y", ("x",), MatrixMap(torch.tensor([[1.0, 2.0]])))
        >>> backward([step], "y", torch.ones(1, 1, 1))
        {'x': tensor([[[1., 2.]]])}
    """
    held: dict[str, Tensor] = {output: seeds}
    for step in reversed(steps):
        cotangents = held.pop(step.node, None)
        if cotangents is None:
            continue
        visit(step, cotangents)
        for name, share in zip(step.inputs, step.linear.transpose(cotangents), strict=True):
            held[name] = held[name] + share if name in held else share
    return held
