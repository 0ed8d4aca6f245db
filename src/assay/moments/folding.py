"""Batch norms folded into the layer before them while a walk goes by: no second copy of the weights is kept.

`graph.fold_batch_norms` makes all folded weights beforehand, which for a network like ResNet-50 is as much memory as
eight activations of its widest layer. Here the graph multiplies a layer's weights right before they are used, and the
reverse walk scales what it carries instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from assay.graph import Graph, Node, TensorSpec
from assay.graph.fold import foldable, scale_and_shift
from assay.interpret import OperatorMap


class Rescaled:
    """A layer's linear map followed by a factor per channel.

    Args:
        linear: map of the layer's own weights, in its data.
        scale: factors, broadcasting with the layer's output (B, ...).
    """

    def __init__(self, linear: OperatorMap, scale: Tensor) -> None:
        self.linear = linear
        self.scale = scale

    def apply(self, *columns: Tensor) -> Tensor:
        """(r, B, ...) -> (r, B, ...)."""
        return self.linear.apply(*columns) * self.scale

    def squared(self, *variances: Tensor) -> Tensor:
        """(B, ...) -> (B, ...)."""
        return self.linear.squared(*variances) * self.scale.square()

    def transpose(self, cotangents: Tensor) -> tuple[Tensor, ...]:
        """(k, B, ...) -> (k, B, ...)."""
        return self.linear.transpose(cotangents * self.scale)


class Folded:
    """What a folded layer's weights were made of.

    Args:
        weight: the layer's own weights, (channels out, ...).
        scale: factor per channel.
    """

    def __init__(self, weight: Tensor, scale: Tensor) -> None:
        self.weight = weight
        self.scale = scale

    def rescaled(self, linear: OperatorMap) -> Rescaled:
        """The same map without the folded weights, for keeping."""
        inputs: Sequence[Tensor | None] = (linear.inputs[0], self.weight)
        own = OperatorMap(linear.operator, inputs, frozenset({0}), linear.attributes)
        return Rescaled(own, self.scale.reshape((-1,) + (1,) * (self.weight.dim() - 2)))


def fold_on_the_way(graph: Graph) -> tuple[Graph, Mapping[str, Folded]]:
    """Every batch norm that alone reads a dense or convolution layer with fixed weights becomes part of that layer.

    Args:
        graph: a captured graph, evaluation mode.

    Returns:
        The rewritten graph, equal in value, in which a product of weights and factors comes right before each folded
        layer; and by the layer's name what the product is made of. Transposed convolutions stay as they are.
    """
    nodes = {node.name: node for node in graph}
    readers: dict[str, int] = {}
    for name in (name for node in graph for name in node.inputs if name is not None):
        readers[name] = readers.get(name, 0) + 1
    parameters = dict(graph.parameters)
    folded: dict[str, Folded] = {}
    before: dict[str, list[Node]] = {}
    renamed: dict[str, str] = {}
    for norm in graph:
        layer = nodes.get(norm.inputs[0] or "") if norm.op == "batch_norm" else None
        if layer is None or readers[layer.name] != 1 or layer.name == graph.output or not foldable(graph, layer, norm):
            continue
        if layer.op == "conv_transpose":  # its channels are not the first axis of its weights
            continue
        weight = graph.parameters[layer.inputs[1] or ""]
        scale, shift = scale_and_shift(graph, layer, norm)
        leaves = {"scale": scale.reshape((-1,) + (1,) * (weight.dim() - 1)), "bias": shift}
        # named as capture names parameters: no distribution reaches them
        names = {role: f"p_{layer.name}_folded_{role}" for role in ("scale", "weight", "bias")}
        made = [
            Node(names[role], "parameter", (), {}, TensorSpec(tuple(value.shape), value.dtype), layer.module_path)
            for role, value in leaves.items()
        ]
        spec = TensorSpec(tuple(weight.shape), weight.dtype)
        product = Node(names["weight"], "mul", (layer.inputs[1], names["scale"]), {}, spec, layer.module_path)
        parameters |= {names[role]: value for role, value in leaves.items()}
        before[layer.name] = [*made, product]
        nodes[layer.name] = replace(layer, inputs=(layer.inputs[0], names["weight"], names["bias"]))
        folded[layer.name] = Folded(weight, scale)
        renamed[norm.name] = layer.name
    order: list[Node] = []
    for name in (node.name for node in graph if node.name not in renamed):
        order += before.get(name, [])
        node = nodes[name]
        order.append(replace(node, inputs=tuple(renamed.get(read or "", read) for read in node.inputs)))
    output = renamed.get(graph.output, graph.output)
    return replace(graph, nodes=tuple(order), output=output, parameters=parameters), folded
