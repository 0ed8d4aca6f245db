"""Fold batch norms into the affine layer before them: one layer where the network has two, equal in value."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from assay.graph.ir import Graph, Node, TensorSpec

_LAYERS = frozenset({"linear", "conv", "conv_transpose"})


def fold_batch_norms(graph: Graph) -> Graph:
    """Every batch norm that alone reads a dense or convolution layer with fixed weights becomes part of that layer.

    The layer keeps its name and module path, and gets weights w gamma / sqrt(var + eps) and the bias that belongs to
    them. A weight that other layers read too stays as it is, and the folded one gets a name of its own.

    Args:
        graph: a captured graph, evaluation mode.

    Returns:
        The rewritten graph; the same object where nothing can be folded.

    Example:
        >>> from assay.graph.from_export import capture
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3)).eval()
        >>> [node.op for node in fold_batch_norms(capture(model, torch.ones(2, 2))).layers]
        ['linear']
    """
    nodes = {node.name: node for node in graph}
    readers: dict[str, int] = {}
    for node in graph:
        for name in node.inputs:
            if name is not None:
                readers[name] = readers.get(name, 0) + 1
    parameters = dict(graph.parameters)
    leaves: dict[str, list[Node]] = {}  # parameter nodes to put before a layer
    renamed: dict[str, str] = {}
    for norm in graph:
        layer = nodes.get(norm.inputs[0] or "") if norm.op == "batch_norm" else None
        if layer is None or readers[layer.name] != 1 or layer.name == graph.output or not foldable(graph, layer, norm):
            continue
        weight, bias = _folded(graph, layer, norm)
        leaves[layer.name] = []
        inputs: list[str | None] = [layer.inputs[0]]
        for place, (value, role) in enumerate(((weight, "weight"), (bias, "bias")), start=1):
            old = layer.inputs[place] if place < len(layer.inputs) else None
            name = old if old is not None and readers[old] == 1 else f"{layer.name}_folded_{role}"
            if name != old:
                spec = TensorSpec(tuple(value.shape), value.dtype)
                leaves[layer.name].append(Node(name, "parameter", (), {}, spec, layer.module_path))
            parameters[name] = value
            inputs.append(name)
        nodes[layer.name] = replace(layer, inputs=tuple(inputs))
        renamed[norm.name] = layer.name
    if not renamed:
        return graph
    order: list[Node] = []
    for node in graph:
        if node.name not in renamed:
            node = nodes[node.name]
            order += leaves.get(node.name, [])
            order.append(replace(node, inputs=tuple(renamed.get(name or "", name) for name in node.inputs)))
    folded = replace(graph, nodes=tuple(order), output=renamed.get(graph.output, graph.output), parameters=parameters)
    return without_unread_parameters(folded)


def without_unread_parameters(graph: Graph) -> Graph:
    """The graph without parameter nodes that no node reads."""
    read = {name for node in graph for name in node.inputs}
    kept = tuple(node for node in graph if node.op != "parameter" or node.name in read or node.name == graph.output)
    names = {node.name for node in kept}
    return replace(
        graph,
        nodes=kept,
        parameters={name: value for name, value in graph.parameters.items() if name in names},
        parameter_names={name: value for name, value in graph.parameter_names.items() if name in names},
    )


def foldable(graph: Graph, layer: Node, norm: Node) -> bool:
    """Whether a batch norm can become part of the layer that it reads: fixed weights for the same channels."""
    fixed = (*layer.inputs[1:], *norm.inputs[1:])
    channels_last = layer.op == "linear" and len(layer.spec.shape) != 2  # the norm's channels are not the layer's
    return (
        layer.op in _LAYERS
        and not channels_last
        and layer.inputs[0] in graph.dependent
        and all(name is None or name in graph.parameters for name in fixed)
    )


def scale_and_shift(graph: Graph, layer: Node, norm: Node) -> tuple[Tensor, Tensor]:
    """Factor per channel of the layer's weights, and the bias of the layer followed by the norm."""
    old = graph.parameters[layer.inputs[2]] if len(layer.inputs) > 2 and layer.inputs[2] is not None else None
    gamma, beta, mean, variance = (None if name is None else graph.parameters[name] for name in norm.inputs[1:5])
    assert variance is not None
    scale = torch.rsqrt(variance + norm.attributes["eps"])
    scale = scale if gamma is None else scale * gamma
    shift = torch.zeros_like(scale) if old is None else old
    shift = (shift if mean is None else shift - mean) * scale
    return scale, shift if beta is None else shift + beta


def _folded(graph: Graph, layer: Node, norm: Node) -> tuple[Tensor, Tensor]:
    """Weight and bias of the layer followed by the norm."""
    weight = graph.parameters[layer.inputs[1] or ""]
    scale, shift = scale_and_shift(graph, layer, norm)
    if layer.op != "conv_transpose":
        return weight * scale.reshape((-1,) + (1,) * (weight.dim() - 1)), shift
    groups = layer.attributes.get("groups", 1)
    by_group = weight.reshape(groups, -1, *weight.shape[1:])  # (groups, in, out, ...)
    scales = scale.reshape((groups, 1, -1) + (1,) * (weight.dim() - 2))
    return (by_group * scales).reshape(weight.shape), shift
