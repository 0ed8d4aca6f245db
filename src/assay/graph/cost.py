"""Cost of a graph in operations: what plans of long work count, and rules that choose between ways to run it."""

from __future__ import annotations

from collections.abc import Mapping

from assay.graph.ir import BatchSize, Graph, Node


def operations(graph: Graph) -> Mapping[str, float]:
    """Additions and multiplications of every node for one sample.

    Dense and convolution layers count two per weight and use, matrix products two per term, everything else one per
    element. It is a measure for comparing nodes and networks, not seconds: small layers are dominated by overhead.

    Args:
        graph: a captured graph.

    Returns:
        Operations by node name; leaves are not in it. Grade: exact for the linear layers.

    Example:
        >>> import torch
        >>> from assay.graph import capture
        >>> layer = capture(torch.nn.Linear(8, 4, bias=False), torch.zeros(2, 8))
        >>> sum(operations(layer).values())
        64.0
    """
    return {node.name: _operations(graph, node) for node in graph if node.op not in ("input", "parameter")}


def _operations(graph: Graph, node: Node) -> float:
    elements = float(node.spec.size_per_sample)
    first = graph[node.inputs[0]].spec if node.inputs and node.inputs[0] is not None else node.spec
    if node.op in ("linear", "conv") and node.inputs[1] is not None:
        weight = graph[node.inputs[1]].spec
        return 2.0 * elements * weight.size_per_sample / max(1, _length(weight.shape[0]))
    if node.op == "conv_transpose" and node.inputs[1] is not None:  # every input meets the weights of its channel
        weight = graph[node.inputs[1]].spec
        return 2.0 * first.size_per_sample * weight.size_per_sample / max(1, _length(weight.shape[0]))
    if node.op == "matmul":
        return 2.0 * elements * _length(first.shape[-1])
    return elements


def _length(size: int | BatchSize) -> int:
    return size if isinstance(size, int) else size.multiple
