"""Noise that does not come in with the input: on weights and biases, on activations.

Noise on a parameter is one draw for all positions that use it, so what it does to a convolution's output is correlated
over positions. A layer y = W x with independent noise dW and x = mean + dx gains dW mean + dW dx: linear in dW, and a
product of two independent terms. Both are uncorrelated with x, so the layer's own covariance grows and no other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, NoReturn

import torch
from torch import Tensor
from torch.func import jvp, vjp, vmap

from assay.errors import UsageError
from assay.graph import OPERATORS, Graph, Node, evaluate_node
from assay.graph.ir import BatchSize
from assay.moments.smoothed import Operands
from assay.subject import Subject

_ADVICE = "Name a parameter as in model.named_parameters(), a module path such as 'layer1.0.conv1', or a graph node."


@dataclass(frozen=True, eq=False)
class Sources:
    """Independent noise besides the input's.

    Attributes:
        weights: variances by parameter name, of the parameter's shape.
        activations: variances (1 or B, ...) by the name of the graph node whose value they disturb.
    """

    weights: Mapping[str, Tensor] = field(default_factory=dict)
    activations: Mapping[str, Tensor] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.weights or self.activations)


NOTHING = Sources()


def resolve(subject: Subject, noise_on: Mapping[str, float | Tensor], mean: Tensor) -> Sources:
    """What the user names, found in the model.

    Args:
        subject: the model.
        noise_on: variances by name of a parameter, a module (its output) or a graph node: a number, or a tensor of the
            thing's shape (for activations with or without the batch axis).
        mean: (B, ...) input means.

    Returns:
        The sources.

    Raises:
        UsageError: for an unknown name, a shape that does not fit, or a bad variance.
    """
    weights: dict[str, Tensor] = {}
    activations: dict[str, Tensor] = {}
    for name, given in noise_on.items():
        parameter = parameter_name(subject, name)
        if parameter is not None:
            shape = tuple(subject.model.get_parameter(parameter).shape)
            weights[parameter] = _variance(name, given, shape, mean)
            continue
        node = _node(subject.graph, name)
        event = tuple(size for size in node.spec.shape[1:] if isinstance(size, int))
        activations[node.name] = _variance(name, given, event, mean, batch=len(mean))
    return Sources(weights, activations)


def parameter_name(subject: Subject, name: str) -> str | None:
    """First name, in the subject's model, of a parameter that the user names as in the model given; None if none."""
    first: dict[int, str] = {}
    known = {key: first.setdefault(id(p), key) for key, p in subject.model.named_parameters(remove_duplicate=False)}
    for candidate in (name,) if subject.preprocessing.is_identity else (f"model.{name}", name):
        if candidate in known:
            return known[candidate]
    return None


def _node(graph: Graph, name: str) -> Node:
    layers = {node.name: node for node in graph.nodes if node.name in graph.dependent}
    inside = [n for n in graph.layers if n.module_path == name or n.module_path.startswith(f"{name}.")]
    node = layers.get(name) or (inside[-1] if inside else None)
    if node is None:
        raise UsageError(f"Nothing in the model is called {name!r}.", where="noise_on", advice=_ADVICE)
    shape = node.spec.shape
    single = bool(shape) and shape[0] == BatchSize(1) and not any(isinstance(size, BatchSize) for size in shape[1:])
    if not single or not node.spec.dtype.is_floating_point:
        raise UsageError(
            f"The value of {name!r} ({node.spec}, {node.spec.dtype}) cannot carry noise.",
            where="noise_on",
            advice="Choose a floating point activation whose first axis is the batch.",
        )
    return node


def _variance(name: str, given: float | Tensor, shape: tuple[int, ...], mean: Tensor, batch: int = 0) -> Tensor:
    if not isinstance(given, (int, float, Tensor)):
        raise UsageError(
            f"Noise on {name!r} must be a number or a tensor of variances, got {type(given).__name__}.",
            where="noise_on",
            advice="Give a variance.",
        )
    variance = torch.as_tensor(given, dtype=None if isinstance(given, Tensor) else mean.dtype).to(mean)
    fits = [shape] + ([(batch, *shape), (1, *shape)] if batch else [])
    if variance.dim() and tuple(variance.shape) not in fits:
        raise UsageError(
            f"Variances of shape {tuple(variance.shape)} do not fit {name!r} of shape {shape}.",
            where="noise_on",
            advice="Give one number, or one variance per element.",
        )
    if not bool(torch.isfinite(variance).all()) or bool((variance < 0).any()):
        raise UsageError(
            f"A variance for {name!r} is negative, NaN or infinite.", where="noise_on", advice="Give variances >= 0."
        )
    if not batch:
        return variance.expand(shape)
    return variance if variance.dim() == len(shape) + 1 else variance.expand(1, *shape)


def leaf_of(node: str) -> str:
    """Name of the leaf that brings an activation's noise."""
    return f"{node}_noise"


def noisy(node: str) -> str:
    """Name of the node that adds an activation's noise."""
    return f"{node}_noisy"


def with_activation_noise(graph: Graph, sources: Sources) -> Graph:
    """Behind every noisy activation a node that adds a leaf, whose value is 0 until somebody draws it.

    Done before pools and activations are swapped, so that noise enters where the user put it.

    Returns:
        The graph; the same one where there is no such noise.
    """
    if not sources.activations:
        return graph
    nodes: list[Node] = []
    renamed: dict[str, str] = {}
    parameters = dict(graph.parameters)
    for node in graph:
        nodes.append(replace(node, inputs=tuple(renamed.get(name or "", name) for name in node.inputs)))
        if node.name in sources.activations:
            leaf, sum_ = leaf_of(node.name), noisy(node.name)
            parameters[leaf] = torch.zeros((), dtype=node.spec.dtype)
            nodes.append(Node(leaf, "parameter", (), {}, node.spec))
            nodes.append(Node(sum_, "add", (node.name, leaf), {}, node.spec, node.module_path, node.source))
            renamed[node.name] = sum_
    output = renamed.get(graph.output, graph.output)
    return replace(graph, nodes=tuple(nodes), output=output, parameters=parameters)


@dataclass(frozen=True, eq=False)
class Use:
    """One node that reads a noisy parameter, directly or through nodes that depend on parameters alone.

    Attributes:
        name: of the parameter.
        variance: of its elements.
        node: the reader.
        position: input at which the node reads the parameter itself; None where it reads it otherwise.
        tied: whether other nodes read it too.
        value: the parameter.
        derive: the parameter -> the reader's inputs that depend on it, by position.
    """

    name: str
    variance: Tensor
    node: Node
    position: int | None
    tied: bool
    value: Tensor
    derive: Callable[[Tensor], dict[int, Tensor]]

    def function(self, inputs: Sequence[Tensor | None], batch: int) -> Callable[[Tensor], Tensor]:
        """The node's value as a function of the parameter."""
        attributes = self.node.resolved(batch)

        def of(parameter: Tensor) -> Tensor:
            derived = self.derive(parameter)
            filled = [derived.get(place, value) for place, value in enumerate(inputs)]
            return OPERATORS[self.node.op].evaluate(*filled, **attributes)

        return of

    def columns(self, inputs: Sequence[Tensor | None], directions: Tensor, batch: int) -> Tensor:
        """Effect (q, B, ...) of directions (q, *shape) of the parameter."""
        function = self.function(inputs, batch)
        return vmap(lambda direction: jvp(function, (self.value,), (direction,))[1])(directions)

    def gradients(self, inputs: Sequence[Tensor | None], varying: Sequence[int], cotangents: Tensor) -> Tensor:
        """Derivatives (k, n) of one sample's k output combinations, cotangents (k, 1, ...), by the n elements."""
        pullback = vjp(self.function(inputs, 1), self.value)[1]
        return vmap(lambda cotangent: pullback(cotangent)[0])(cotangents).flatten(1)


def uses_of(graph: Graph, sources: Sources) -> dict[str, list[Use]]:
    """The readers of noisy parameters, by node.

    Args:
        graph: the one that will be walked.
        sources: the noise.

    Returns:
        Uses by the name of the reader.
    """
    found: dict[str, list[Use]] = {}
    for name, variance in sources.weights.items():
        leaves = [leaf for leaf, known in graph.parameter_names.items() if known == name and leaf in graph.parameters]
        chain: list[Node] = []
        reached = set(leaves)
        readers: list[Node] = []
        for node in graph:
            if not any(i in reached for i in node.inputs):
                continue
            if node.name in graph.dependent:
                readers.append(node)
            else:
                chain.append(node)
                reached.add(node.name)
        for node in readers:
            places = [place for place, i in enumerate(node.inputs) if i in reached]
            direct = len(places) == 1 and node.inputs[places[0]] in leaves
            derive = _derivation(graph, leaves, chain, node, places)
            position = places[0] if direct else None
            value = graph.parameters[leaves[0]]
            found.setdefault(node.name, []).append(Use(name, variance, node, position, len(readers) > 1, value, derive))
    return found


def _derivation(
    graph: Graph, leaves: list[str], chain: list[Node], node: Node, places: list[int]
) -> Callable[[Tensor], dict[int, Tensor]]:
    def derive(parameter: Tensor) -> dict[int, Tensor]:
        values = {**graph.parameters, **dict.fromkeys(leaves, parameter)}
        if chain:
            for step in graph:
                if step.name not in graph.dependent and step.op != "parameter":
                    inputs = [None if i is None else values[i] for i in step.inputs]
                    values[step.name] = evaluate_node(step, inputs, 1)
        return {place: values[node.inputs[place] or ""] for place in places}

    return derive


def output_variance(use: Use, operands: Operands) -> Tensor | None:
    """Variance (B, ...) that a parameter's noise brings, its product with the input's noise included.

    Exact for independent noise; None where no closed form is known.

    Returns:
        The variance, or None.
    """
    op, place, attributes = operands.operator, use.position, operands.attributes
    if place is None or len(operands.varying) != 1 or place in operands.varying:
        return None
    element = operands.elements[0]
    second = element.mean.square() + element.variance
    if op.name in ("linear", "conv", "conv_transpose") and place == 1:
        return op.squared_part([second, use.variance, None], frozenset({0, 1}), attributes)
    pattern = elementwise_pattern(use, operands)
    if pattern is None:
        return None
    spread = use.variance.reshape(-1)[pattern.index]
    if pattern.factor is None:
        return spread.expand(len(second), *pattern.index.shape)
    centred = (element.mean - pattern.shift).square() + element.variance
    return spread * pattern.factor.square() * centred


class Pattern(NamedTuple):
    """Each output unit u gains dp[index_u] factor_u (x_u - shift_u), or dp[index_u] where there is no factor."""

    index: Tensor
    factor: Tensor | None = None
    shift: Tensor | float = 0.0


def elementwise_pattern(use: Use, operands: Operands) -> Pattern | None:
    """Which element of a parameter each output unit reads, for biases, scales and batch norm; None for others."""
    op, place = operands.operator.name, use.position
    event = operands.elements[0].mean.shape[1:]
    flat = torch.arange(use.variance.numel()).reshape(use.variance.shape)
    one = torch.ones((), dtype=use.variance.dtype)
    if op in ("linear", "conv") and place == 2:
        out = tuple(operands.operator.evaluate(*operands.means, **operands.attributes).shape[1:])
        return Pattern((flat if op == "linear" else flat.reshape(-1, *(1,) * (len(out) - 1))).expand(out))
    if op == "batch_norm" and place in (1, 2):
        shape = (-1, *(1,) * (len(event) - 1))
        index = flat.reshape(shape).expand(event)
        if place == 2:
            return Pattern(index)
        _, _, _, running, variance = operands.values
        factor = torch.rsqrt(variance + operands.attributes["eps"]).reshape(shape)
        return Pattern(index, factor, 0.0 if running is None else running.reshape(shape))
    if op in ("add", "sub", "mul") and flat.dim() <= len(event):
        if op != "mul" and operands.attributes.get("alpha", 1) != 1:
            return None
        out = torch.broadcast_shapes(flat.shape, event)
        if tuple(out) == tuple(event):
            return Pattern(flat.expand(out), one if op == "mul" else None)
    return None


def independent(use: Use, operands: Operands) -> bool:
    """Whether each element of the parameter reaches one output unit only, so that units gain independent noise."""
    op, element = operands.operator.name, operands.elements[0]
    if use.tied or use.position is None or len(operands.varying) != 1:
        return False
    if op == "linear":
        return element.mean.dim() == 2 and use.position in (1, 2)
    pattern = elementwise_pattern(use, operands)
    return pattern is not None and pattern.index.numel() == use.variance.numel()


def output_block(use: Use, operands: Operands, covariance: Tensor) -> Tensor:
    """Covariance (B, n, n) that a parameter's noise adds to a node's own, exactly, given the input's (B, k, k).

    Returns:
        The block.

    Raises:
        UsageError: where a full covariance cannot be had: parameters read by several nodes or through others.
    """
    if use.tied or use.position is None or len(operands.varying) != 1 or use.position in operands.varying:
        refuse_full(use)
    element = operands.elements[0]
    if operands.operator.name in ("linear", "conv") and use.position == 1:
        return _shared_block(use, operands, covariance)
    pattern = elementwise_pattern(use, operands)
    if pattern is None:
        refuse_full(use)
    index = pattern.index.reshape(-1)
    same = (index.unsqueeze(0) == index.unsqueeze(1)) * use.variance.reshape(-1)[index]
    if pattern.factor is None:
        return same.expand(len(element.mean), *same.shape)
    flat = (element.mean - pattern.shift).flatten(1)
    factor = pattern.factor.expand(pattern.index.shape).reshape(-1)
    second = covariance + flat.unsqueeze(2) * flat.unsqueeze(1)
    return same * second * factor * factor.unsqueeze(1)


def refuse_full(use: Use) -> NoReturn:
    """Stop: full covariances do not go with this use.

    Raises:
        UsageError: always.
    """
    raise UsageError(
        f"Full covariances cannot carry the noise on {use.name!r}: {use.node.place} reads it in a way without a closed "
        "form, or is not its only reader.",
        where="noise_on",
        advice="Use method='factor', 'linearize' or 'mc'.",
    )


def _shared_block(use: Use, operands: Operands, covariance: Tensor) -> Tensor:
    """Sum over taps j of V[o, j] E[x_j(p) x_j(q)] for output channels o and positions p, q."""
    weight, mean = use.variance, operands.elements[0].mean
    patches, gather = _patches(operands, mean)  # (B, g, J, P), and the flat place of each, -1 for padding
    padded = torch.nn.functional.pad(covariance, (0, 1, 0, 1))
    places = gather.flatten(0, 1)
    second = padded[:, places.unsqueeze(2), places.unsqueeze(1)].unflatten(1, gather.shape[:2])
    second = second + patches.unsqueeze(4) * patches.unsqueeze(3)
    groups, channels, positions = gather.shape[0], weight.shape[0], gather.shape[2]
    spread = weight.reshape(groups, channels // groups, -1)
    own = torch.einsum("goj,bgjpq->bgopq", spread, second).reshape(len(mean), channels, positions, positions)
    if operands.operator.name == "linear":  # channels are last
        block = torch.einsum("bopq,on->bpoqn", own, torch.eye(channels, dtype=own.dtype))
    else:
        block = torch.einsum("bopq,on->bopnq", own, torch.eye(channels, dtype=own.dtype))
    return block.reshape(len(mean), channels * positions, channels * positions)


def _patches(operands: Operands, mean: Tensor) -> tuple[Tensor, Tensor]:
    """The inputs that each weight meets at each position: values (B, g, J, P) and flat places (g, J, P)."""
    numbers = torch.arange(1, math.prod(mean.shape[1:]) + 1, dtype=torch.float64).reshape(1, *mean.shape[1:])
    if operands.operator.name == "linear":
        values, places = (t.reshape(len(t), -1, t.shape[-1]).mT.unsqueeze(1) for t in (mean, numbers))
    else:
        groups = operands.attributes.get("groups", 1)
        shape = operands.values[1].shape[1:]
        taps = math.prod(shape)
        unit = torch.eye(taps, dtype=torch.float64).reshape(taps, *shape).repeat(groups, *(1,) * len(shape))
        evaluate = operands.operator.evaluate
        values = evaluate(mean, unit.to(mean), None, **operands.attributes).flatten(2).unflatten(1, (groups, taps))
        places = evaluate(numbers, unit, None, **operands.attributes).flatten(2).unflatten(1, (groups, taps))
    return values, places[0].round().long() - 1
