"""First-order output errors of many changes at once: J dW for every layer and format, from one linearisation.

A tool that measures runs the network once for each layer and format, and a Jacobian-vector product for each would cost
the same. Here the linearisation is shared: one forward pass keeps the inputs of all layers, one reverse pass per
followed direction r keeps g = (df/dz)^T r at the output of every layer, and then each change of a layer's weight needs
only that layer: r . J dW = g . (dW * x), all formats of a layer in one call with their weights stacked as extra output
channels. With L layers, F formats and S directions that is 1 + S + F passes instead of L F. The rounding errors of
activations are taken as they are in the exact network, and need no pass at all: r . J da = g . da. (In the quantised
network their inputs have moved, so they are other numbers of the same size.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from assay.errors import NumericalError, UnsupportedOperator
from assay.graph import OPERATORS, BatchSize, Graph, Node, evaluate
from assay.sensitivity.bits.layers import WeightLayer

if TYPE_CHECKING:
    from assay.sensitivity.roundoff.formats import Format

_BYTES = 256 * 2**20
_STACKED = frozenset({"linear", "conv", "conv_transpose"})

Seeds = Callable[[Tensor, slice], Tensor]
"""From outputs (b, K) and the rows of the batch they belong to, to directions (S, b, K)."""


@dataclass(frozen=True, eq=False)
class FirstOrder:
    """First-order output errors along the followed directions.

    Attributes:
        weights: (F, B, S) per layer: r_s . J_l dW_lf.
        activations: (F, B, S) by node: r_s . J da_f.
        outputs: (B, K) outputs of the exact network.
    """

    weights: tuple[Tensor, ...]
    activations: Mapping[str, Tensor]
    outputs: Tensor


def first_order(
    graph: Graph,
    x: Tensor,
    layers: Sequence[WeightLayer],
    formats: Sequence[Format],
    seeds: Seeds,
    directions: int,
    *,
    activations: Mapping[str, Sequence[Format]] | None = None,
) -> FirstOrder:
    """Products r . J dW of every layer and format, and r . J da of activations, for every sample and direction.

    Args:
        graph: prepared graph.
        x: (B, ...).
        layers: whose weights are rounded.
        formats: to which formats.
        seeds: directions r in the space of the outputs.
        directions: how many of them.
        activations: formats by node whose value is rounded (the graph's input may be one).

    Returns:
        The products. Grade: linearised; the errors themselves are known, not modelled.

    Raises:
        NumericalError: when one of them is NaN or infinite.
    """
    activations = activations or {}
    nodes = [node for layer in layers for node in layer.uses]
    stored = [graph[name] for name in activations]
    layouts = _layouts(graph, x, [*nodes, *stored])
    followed = list(dict.fromkeys([*(node.name for node in nodes), *activations]))
    kept = sum(node.spec.size_per_sample for node in graph.layers)
    kept += directions * sum(graph[name].spec.size_per_sample for name in followed)
    kept += max((len(formats) * node.spec.size_per_sample for node in nodes), default=0)
    rows = max(1, int(_BYTES / (kept * x.element_size())))
    changes = [layer.errors(formats) for layer in layers]
    found: list[FirstOrder] = []
    for begin in range(0, len(x), rows):
        part = slice(begin, min(begin + rows, len(x)))
        values, gradients, outputs = _linearised(graph, x[part], nodes, followed, lambda f, part=part: seeds(f, part))
        count = len(outputs)
        rates = {name: layouts[name].samples(gradient, count) for name, gradient in gradients.items()}
        moved: list[Tensor] = []
        for layer, change in zip(layers, changes, strict=True):
            shares = [_products(node, values, change, layouts[node.name], rates[node.name]) for node in layer.uses]
            moved.append(torch.stack(shares).sum(0) if len(shares) > 1 else shares[0])
        drifted = {}
        for name, targets in activations.items():
            errors = torch.stack([target.round(values[name]) for target in targets]).sub_(values[name])
            drifted[name] = torch.einsum("fbn,sbn->fbs", layouts[name].samples(errors, count), rates[name])
        found.append(FirstOrder(tuple(moved), drifted, outputs))
    result = FirstOrder(
        tuple(torch.cat(rows, 1) for rows in zip(*(part.weights for part in found), strict=True)),
        {name: torch.cat([part.activations[name] for part in found], 1) for name in activations},
        torch.cat([part.outputs for part in found]),
    )
    _check_finite(layers, formats, result)
    return result


def _check_finite(layers: Sequence[WeightLayer], formats: Sequence[Format], found: FirstOrder) -> None:
    named = [(layer.name, value) for layer, value in zip(layers, found.weights, strict=True)]
    for name, value in (*named, *found.activations.items()):
        finite = torch.isfinite(value).flatten(1).all(1)
        if not bool(finite.all()):
            place = int((~finite).nonzero()[0])
            target = formats[place].name if place < len(formats) else "a format"
            raise NumericalError(
                f"The first-order error of rounding to {target} is NaN or infinite.",
                where=name,
                advice="The format overflows on these values, or the model is not differentiable there: leave the "
                "format out, or try the model in double precision.",
            )


def _linearised(
    graph: Graph, x: Tensor, nodes: Sequence[Node], followed: Sequence[str], seeds: Callable[[Tensor], Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
    """Values of the nodes' inputs and of the followed, gradients (S, *value) at the followed, and the outputs."""
    wanted = {*followed, *(name for node in nodes for name in node.inputs)}
    start = x.detach().clone().requires_grad_(True)
    kept: dict[str, Tensor] = {graph.input: start}

    def observe(node: Node, value: Tensor) -> None:
        if node.name in wanted:
            kept[node.name] = value

    with torch.enable_grad():
        outputs = evaluate(graph, start, observe=observe)
        points = [kept[name] for name in followed]
        directions = seeds(outputs.detach())
        rows = [
            torch.autograd.grad(outputs, points, seed, retain_graph=i + 1 < len(directions), allow_unused=True)
            for i, seed in enumerate(directions)
        ]
    gradients = {}
    for place, name in enumerate(followed):
        column = [row[place] for row in rows]
        gradients[name] = torch.stack([torch.zeros_like(points[place]) if g is None else g for g in column])
    return {name: value.detach() for name, value in kept.items()}, gradients, outputs.detach()


@dataclass(frozen=True)
class _Layout:
    """Where the batch is in a node's value: an axis, and whether samples are its slow (major) or fast part."""

    axis: int
    major: bool

    def samples(self, value: Tensor, batch: int) -> Tensor:
        """(S, B, n) from (S, *value)."""
        value = value.movedim(self.axis + 1, 1)
        if not self.major:
            value = value.reshape(len(value), -1, batch, *value.shape[2:]).transpose(1, 2)
        return value.reshape(len(value), batch, -1)


def _layouts(graph: Graph, x: Tensor, nodes: Sequence[Node]) -> dict[str, _Layout]:
    """Layout of every node, proved where an axis mixes samples with something else (tokens, windows)."""
    found: dict[str, _Layout] = {}
    mixed: list[Node] = []
    for node in nodes:
        axes = [axis for axis, size in enumerate(node.spec.shape) if isinstance(size, BatchSize)]
        if len(axes) != 1:
            raise UnsupportedOperator(
                f"A value of shape {node.spec} has {len(axes)} axes that grow with the batch, so its error cannot be "
                "attributed to samples.",
                where=node.place,
                advice="Analyse the parts of the model before and after it on their own.",
            )
        found[node.name] = _Layout(axes[0], True)
        size = node.spec.shape[axes[0]]
        if isinstance(size, BatchSize) and size.multiple > 1:
            mixed.append(node)
    if mixed:  # differentiate sample 0 of two: what is not zero belongs to it
        pair = torch.cat([x[:1], x[:1]])

        def first(outputs: Tensor) -> Tensor:
            seed = torch.zeros_like(outputs)
            seed[0] = torch.linspace(1.0, 2.0, outputs.shape[1], dtype=outputs.dtype)
            return seed[None]

        _, gradients, _ = _linearised(graph, pair, mixed, [node.name for node in mixed], first)
        for node in mixed:
            axis = found[node.name].axis
            for layout in (_Layout(axis, True), _Layout(axis, False)):
                if not bool(layout.samples(gradients[node.name], 2)[:, 1].any()):
                    found[node.name] = layout
                    break
            else:
                raise UnsupportedOperator(
                    "The samples of a batch mix in this layer.",
                    where=node.place,
                    advice="Analyse the parts of the model before and after it on their own.",
                )
    return found


def _products(node: Node, values: Mapping[str, Tensor], change: Tensor, layout: _Layout, gradient: Tensor) -> Tensor:
    """(F, B, S) inner products of the node's first-order changes under dW (F, *weight) with gradients (S, B, n)."""
    batch = gradient.shape[1]
    name = node.inputs[0]
    assert name is not None
    attributes = dict(node.resolved(batch))
    if node.op in _STACKED:
        moved = _stacked_response(node, values[name], change, attributes)
    else:
        operator = OPERATORS[node.op]
        moved = torch.stack([operator.linear_part([values[name], one], frozenset({1}), attributes) for one in change])
    return torch.einsum("fbn,sbn->fbs", layout.samples(moved, batch), gradient)


def _stacked_response(node: Node, source: Tensor, change: Tensor, attributes: dict[str, Any]) -> Tensor:
    """Change of the node's value under every dW, (F, *value), by one call with the weights stacked as channels."""
    groups, formats = int(attributes.get("groups", 1)), len(change)
    if node.op == "conv_transpose":  # (F, in, out / groups, ...) -> (in, F out / groups, ...)
        weight = change.transpose(0, 1).flatten(1, 2)
    else:  # (F, groups out, in, ...) -> (groups F out, in, ...)
        weight = change.unflatten(1, (groups, -1)).transpose(0, 1).flatten(0, 2)
    moved = OPERATORS[node.op].linear_part([source, weight, None], frozenset({1}), attributes)
    if node.op == "linear":
        return moved.unflatten(-1, (formats, -1)).movedim(-2, 0)
    return moved.unflatten(1, (groups, formats, -1)).movedim(2, 0).flatten(2, 3)
