"""What one parameter does to the nodes that read it, sample by sample: gradients and first-order changes of one layer.

Dense and convolution layers have closed forms by matrix products (per-sample gradients as in Goodfellow 2015,
"Efficient per-example gradient computations"); every other operator goes through `vmap` of its own derivative.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import jvp, vjp, vmap

from assay.graph import Graph, Node, evaluate_node
from assay.inputs import power_of_two_near
from assay.sensitivity.parameters.samples import has_plain_batch, join_samples, split_samples
from assay.sensitivity.parameters.unfold import patches


@dataclass(frozen=True, eq=False)
class Reader:
    """A node that depends on the input and reads a parameter, directly or through nodes that depend on no input.

    Attributes:
        graph: the graph.
        node: the reading node.
        parameter: name of the parameter.
        varying: names of the node's inputs that depend on the graph's input.
        between: nodes between the parameter and the reading node, in order (a transposed weight, for example).
        inner: nodes whose samples vary fastest on the axis they share with something else.
    """

    graph: Graph
    node: Node
    parameter: str
    varying: tuple[str, ...]
    between: tuple[Node, ...]
    inner: frozenset[str] = frozenset()

    @property
    def position(self) -> int | None:
        """The input at which the parameter is read directly, once; None otherwise."""
        places = [place for place, name in enumerate(self.node.inputs) if name == self.parameter]
        derived = {node.name for node in self.between}
        return places[0] if len(places) == 1 and not derived.intersection(self.node.inputs) else None

    def value(self, parameter: Tensor, inputs: Mapping[str, Tensor], batch: int) -> Tensor:
        """The node's value as a function of the parameter, its varying inputs given."""
        values = {**self.graph.parameters, self.parameter: parameter, **inputs}
        for node in self.between:
            values[node.name] = evaluate_node(node, [None if n is None else values[n] for n in node.inputs], batch)
        return evaluate_node(self.node, [None if n is None else values[n] for n in self.node.inputs], batch)

    def contracted(self, values: Mapping[str, Tensor], cotangents: Tensor, weight: Tensor, power: int) -> Tensor | None:
        """Sum of |gradient|^power weight over the parameter's elements, (R, B), where that needs no gradient."""
        x = values.get(self.node.inputs[0] or "")
        plain = self.node.op == "linear" and cotangents.dim() == 3 and has_plain_batch(self.node.spec)
        if x is None or not plain or self.position != 1:
            return None
        if power == 2:
            unit = power_of_two_near(x.abs().amax(-1, keepdim=True))  # products are moderate where factors need not be
            return (((cotangents * unit).square() @ weight) * (x / unit).square()).sum(-1)
        return ((cotangents.abs() @ weight) * x.abs()).sum(-1)

    def gradients(
        self, values: Mapping[str, Tensor], cotangents: Tensor, batch: int, part: slice = slice(None)
    ) -> Tensor:
        """Per-sample gradients with respect to the parameter.

        Args:
            values: of the varying inputs, by name.
            cotangents: (R, ...) derivatives with respect to the node's value, for R seeds.
            batch: samples in the batch.
            part: which samples are wanted.

        Returns:
            (R, b, *shape of the parameter).
        """
        place = self.position
        split = {name: self._split(values[name], name, batch)[part] for name in self.varying}
        delta = self._split(cotangents, self.node.name, batch, lead=1)[:, part]
        shape = self.graph.parameters[self.parameter].shape
        count, rows = delta.shape[:2]
        if self.node.op in ("linear", "conv") and place is not None and self.varying == (self.node.inputs[0],):
            x = split[self.varying[0]]
            if self.node.op == "linear" and place == 1:
                return delta.reshape(count, rows, -1, shape[0]).mT @ x.reshape(rows, -1, shape[1])
            if self.node.op == "linear":
                return delta.reshape(count, rows, -1, *shape).sum(2)
            delta = delta.flatten(1, 2) if delta.shape[2] == 1 else delta
            if delta.dim() == x.dim() and place == 2:
                return delta.reshape(count, rows, shape[0], -1).sum(3)
            if delta.dim() == x.dim():
                attributes = dict(self.node.resolved(1))
                groups = attributes.get("groups", 1)
                unfolded = patches(x.flatten(0, 1), shape[2:], attributes).unflatten(1, (groups, -1))  # (b, g, n, P)
                delta = delta.reshape(count, rows, groups, shape[0] // groups, -1)  # (R, b, g, o, P)
                return (delta @ unfolded.mT).reshape(count, rows, *shape)

        parameter = self.graph.parameters[self.parameter]

        def one(inputs: dict[str, Tensor], seeds: Tensor) -> Tensor:
            pullback = vjp(lambda changed: self.value(changed, inputs, 1), parameter)[1]
            return vmap(lambda seed: pullback(seed)[0])(seeds)

        return vmap(one, in_dims=(0, 1), out_dims=1)(split, delta)

    def moved(self, values: Mapping[str, Tensor], change: Tensor, batch: int) -> Tensor:
        """First-order change of the node's value for a change (B, *shape) of the parameter, one per sample."""
        parameter = self.graph.parameters[self.parameter]
        split = {name: self._split(values[name], name, batch) for name in self.varying}

        def one(inputs: dict[str, Tensor], direction: Tensor) -> Tensor:
            return jvp(lambda changed: self.value(changed, inputs, 1), (parameter,), (direction,))[1]

        with torch.no_grad():
            moved = vmap(one)(split, change.to(parameter.dtype))
        return join_samples(moved, self.node.spec, inner=self.node.name in self.inner)

    def _split(self, value: Tensor, name: str, batch: int, lead: int = 0) -> Tensor:
        return split_samples(value, self.graph[name].spec, batch, inner=name in self.inner, lead=lead)


def readers_of(graph: Graph, parameter: str) -> tuple[Reader, ...]:
    """Every node that depends on the input and reads this parameter, directly or through fixed nodes."""
    derived: dict[str, Node] = {}
    found: list[Reader] = []
    for node in graph:
        if parameter not in node.inputs and not any(name in derived for name in node.inputs):
            continue
        if node.name in graph.dependent:
            varying = tuple(dict.fromkeys(name for name in node.inputs if name in graph.dependent and name is not None))
            found.append(Reader(graph, node, parameter, varying, _between(graph, node, derived)))
        else:
            derived[node.name] = node
    return tuple(found)


def _between(graph: Graph, reader: Node, derived: Mapping[str, Node]) -> tuple[Node, ...]:
    """The fixed nodes that `reader` needs and that are not parameters, in order."""
    needed = {name for name in reader.inputs if name is not None and name not in graph.dependent}
    if not needed.intersection(derived) and needed <= graph.parameters.keys():
        return ()
    chain: list[Node] = []
    for node in reversed(graph.nodes):
        if node.name in needed and node.name not in graph.parameters and node.name not in graph.dependent:
            chain.append(node)
            needed.update(name for name in node.inputs if name is not None)
    return tuple(reversed(chain))
