"""Evaluate a graph on numbers: the plain meaning of every node, with values dropped after their last use."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from assay.graph.ir import Graph, Node
from assay.graph.operators import OPERATORS


def evaluate_node(node: Node, inputs: Sequence[Tensor | None], batch: int) -> Tensor:
    """Value of one node given the values of its inputs.

    Returns:
        The value.

    Example:
        >>> import torch
        >>> from assay.graph.from_export import capture
        >>> graph = capture(torch.nn.ReLU(), torch.ones(2, 2))
        >>> evaluate_node(graph.layers[0], [torch.tensor([[-1.0, 2.0]])], 1)
        tensor([[0., 2.]])
    """
    return OPERATORS[node.op].evaluate(*inputs, **node.resolved(batch))


def evaluate(
    graph: Graph,
    x: Tensor,
    *,
    parameters: Mapping[str, Tensor] | None = None,
    observe: Callable[[Node, Tensor], None] | None = None,
) -> Tensor:
    """Value of the graph on a batch; equal to the model's output.

    Args:
        graph: a captured graph.
        x: (B, ...).
        parameters: values that replace those of parameter nodes, by node name.
        observe: called with every computed node and its value.

    Returns:
        (B, K).

    Example:
        >>> import torch
        >>> from assay.graph.from_export import capture
        >>> model, x = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU()), torch.ones(2, 2)
        >>> torch.allclose(evaluate(capture(model, x), x), model(x))
        True
    """
    values: dict[str, Tensor] = {**graph.parameters, **(parameters or {}), graph.input: x}
    for node in graph.nodes:
        if node.op in ("input", "parameter"):
            continue
        value = evaluate_node(node, [None if name is None else values[name] for name in node.inputs], x.shape[0])
        values[node.name] = value
        if observe is not None:
            observe(node, value)
        for name in node.inputs:
            if name is not None and graph.last_use.get(name) == node.name and name not in graph.parameters:
                values.pop(name, None)
    return values[graph.output]
