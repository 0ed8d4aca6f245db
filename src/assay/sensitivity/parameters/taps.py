"""A graph as a function of its parameters and of additive changes at its nodes, with products of both Jacobians.

Samples do not interact, so one reverse pass gives the derivative at every node for every sample. What a parameter does
is derived from that layer by layer (see `local`): per-sample gradients of a parameter never need a copy of the network
per sample.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor

from assay.errors import NumericalError, UsageError
from assay.graph import Graph, evaluate_node
from assay.probe import forward_product
from assay.sensitivity.parameters.local import Reader, readers_of
from assay.sensitivity.parameters.samples import has_plain_batch, inner_batches, split_samples


class Taps:
    """A batch's outputs as a function of some parameters and of additive changes at some nodes.

    One forward pass is made when a value or derivative is first asked for, and kept: memory is that of the pass's
    activations. The graph's input counts as a node.

    Args:
        graph: a captured graph, evaluation mode.
        x: (B, ...) inputs.
        parameters: names of parameter nodes to differentiate with respect to.
        nodes: names of nodes to change; the nodes that read a parameter are added.

    Raises:
        UsageError: for a name that the graph does not have.
        UnsupportedOperator: when a parameter is read by a node whose samples cannot be told apart.

    Example:
        >>> from assay.graph import capture
        >>> layer = torch.nn.Linear(2, 1, bias=False)
        >>> _ = layer.weight.data.copy_(torch.tensor([[3.0, -1.0]]))
        >>> x = torch.tensor([[1.0, 2.0], [4.0, 0.0]])
        >>> graph = capture(layer, x)
        >>> taps = Taps(graph, x, parameters=tuple(graph.parameters))
        >>> taps.parameter_gradient(taps.parameters[0], taps.vjp(torch.ones(2, 1)))[:, 0]
        tensor([[1., 2.],
                [4., 0.]])
    """

    def __init__(self, graph: Graph, x: Tensor, *, parameters: Sequence[str] = (), nodes: Sequence[str] = ()) -> None:
        known = {node.name for node in graph}
        wrong = [name for name in parameters if name not in graph.parameters]
        wrong += [name for name in nodes if name not in known or name not in graph.dependent]
        if wrong:
            raise UsageError(
                "Not parameters, or not nodes that depend on the input.",
                where=", ".join(wrong[:5]),
                advice="Take the names from graph.parameters and graph.dependent.",
            )
        self.graph = graph
        self.x = x.detach()
        self.parameters = tuple(parameters)
        self.readers: Mapping[str, tuple[Reader, ...]] = {name: readers_of(graph, name) for name in self.parameters}
        reading = {reader.node.name for group in self.readers.values() for reader in group}
        self.nodes = tuple(node.name for node in graph if node.name in reading or node.name in nodes)
        self._sources = {name for group in self.readers.values() for reader in group for name in reader.varying}
        touched = {*self.nodes, *self._sources}
        shared = [graph[name] for name in touched if not has_plain_batch(graph[name].spec)]
        self.inner = inner_batches(graph, self.x, shared) if shared else frozenset()
        if self.inner:
            self.readers = {
                name: tuple(replace(reader, inner=self.inner) for reader in group)
                for name, group in self.readers.items()
            }

    @cached_property
    def _pass(self) -> tuple[Tensor, dict[str, Tensor]]:
        with torch.enable_grad():
            return _walk(self.graph, self.x.clone().requires_grad_(True), {}, {}, {*self.nodes, *self._sources})

    @property
    def outputs(self) -> Tensor:
        """f(x), (B, K)."""
        return self._pass[0].detach()

    @cached_property
    def values(self) -> Mapping[str, Tensor]:
        """Value of every tapped node, and of what the readers of the parameters read; by node name."""
        return {name: value.detach() for name, value in self._pass[1].items()}

    def per_sample(self, node: str, stacked: Tensor) -> Tensor:
        """Something in a node's shape, behind R seeds, with its samples told apart: (R, ...) to (R, B, ...)."""
        spec = self.graph[node].spec
        return split_samples(stacked, spec, len(self.x), inner=node in self.inner, lead=1)

    def select(self, rows: Tensor) -> Taps:
        """The same function on some of the samples; `rows` holds their indices."""
        return Taps(self.graph, self.x[rows], parameters=self.parameters, nodes=self.nodes)

    def vjp(self, seeds: Tensor) -> dict[str, Tensor]:
        """Derivative of sum_k seeds_k f_k with respect to an additive change at each node.

        Args:
            seeds: (B, K).

        Returns:
            Gradients of each node's shape, by node name; zero where nothing reaches the output.

        Raises:
            NumericalError: for a derivative that is NaN or infinite.
        """
        outputs, kept = self._pass
        tensors = [kept[name] for name in self.nodes]
        grads = torch.autograd.grad(outputs, tensors, seeds.to(outputs.dtype), retain_graph=True, allow_unused=True)
        found: dict[str, Tensor] = {}
        for name, tensor, grad in zip(self.nodes, tensors, grads, strict=True):
            found[name] = torch.zeros_like(tensor) if grad is None else grad.detach()
            if not bool(torch.isfinite(found[name]).all()):
                raise NumericalError(
                    "A derivative is NaN or infinite.",
                    where=self.graph[name].place,
                    advice="The model overflows or is not differentiable there; try it in double precision.",
                )
        return found

    def stacked_vjp(self, seeds: Tensor) -> dict[str, Tensor]:
        """`vjp` for R seeds (R, B, K): gradients (R, B, ...) by node name; R reverse passes."""
        rows = [self.vjp(seed) for seed in seeds]
        return {name: torch.stack([row[name] for row in rows]) for name in self.nodes}

    def parameter_gradient(self, name: str, cotangents: Mapping[str, Tensor]) -> Tensor:
        """Gradient with respect to a parameter, of every sample on its own.

        Args:
            name: the parameter.
            cotangents: what `vjp` returned.

        Returns:
            (B, *shape of the parameter): B times the parameter's size in memory.
        """
        stacked = {key: value.unsqueeze(0) for key, value in cotangents.items()}
        return self.parameter_gradients(name, stacked)[0]

    def parameter_gradients(self, name: str, cotangents: Mapping[str, Tensor]) -> Tensor:
        """`parameter_gradient` for stacked cotangents: (R, B, *shape of the parameter)."""
        total: Tensor | None = None
        for reader in self.readers[name]:
            share = reader.gradients(self.values, cotangents[reader.node.name], len(self.x))
            total = share if total is None else total + share
        assert total is not None  # a parameter node is always read
        return total

    def contracted(
        self,
        name: str,
        cotangents: Mapping[str, Tensor],
        weight: Tensor,
        power: int,
        readers: Sequence[Reader] | None = None,
    ) -> Tensor:
        """Sum over the elements w of a parameter of |df/dw|^power weight_w, for every seed and sample.

        A dense layer of vectors needs no gradient at all: its elements are products delta_o x_i, so the sum is
        (|delta|^p)^T weight (|x|^p). Other layers form per-sample gradients in chunks of bounded size.

        Args:
            name: the parameter.
            cotangents: (R, B, ...) by node name, from `stacked_vjp`.
            weight: of the parameter's shape; variances for power 2, error bounds for power 1.
            power: 1 or 2.
            readers: those of the parameter's readers that share the change; None for all.

        Returns:
            (R, B).
        """
        readers = self.readers[name] if readers is None else readers
        if len(readers) == 1:
            reader = readers[0]
            closed = reader.contracted(self.values, cotangents[reader.node.name], weight, power)
            if closed is not None:
                return closed
        count, batch = next(iter(cotangents.values())).shape[:2]
        rows = max(1, _BYTES // max(1, weight.numel() * weight.element_size()))
        total = weight.new_zeros(count, batch)
        for begin in range(0, batch, max(1, rows // count)):
            end = min(batch, begin + max(1, rows // count))
            part = slice(begin, end)
            for first in range(0, count, rows):
                seeds = slice(first, first + rows)
                gradients: Tensor | None = None
                for reader in readers:
                    share = reader.gradients(self.values, cotangents[reader.node.name][seeds], batch, part)
                    gradients = share if gradients is None else gradients + share
                assert gradients is not None
                size = gradients.square() if power == 2 else gradients.abs()
                total[seeds, part] = size.flatten(2) @ weight.flatten()
        return total

    def moved(self, name: str, change: Tensor) -> dict[str, Tensor]:
        """First-order changes at the readers' values for a change of a parameter, one per sample.

        Args:
            name: the parameter.
            change: (B, *shape of the parameter).

        Returns:
            Changes of the readers' shapes, by node name.
        """
        return {reader.node.name: reader.moved(self.values, change, len(self.x)) for reader in self.readers[name]}

    def jvp(
        self, *, nodes: Mapping[str, Tensor] | None = None, parameters: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """First-order change of the outputs.

        Args:
            nodes: additive changes by node name, of the nodes' shapes (each sample its own).
            parameters: changes of parameters by name, the same for all samples.

        Returns:
            (B, K).
        """
        nodes, parameters = dict(nodes or {}), dict(parameters or {})
        primals = [self.graph.parameters[name] for name in parameters]
        primals += [torch.zeros_like(change) for change in nodes.values()]

        def function(*point: Tensor) -> Tensor:
            changed = dict(zip(parameters, point, strict=False))
            added = dict(zip(nodes, point[len(parameters) :], strict=True))
            return _walk(self.graph, self.x, changed, added, ())[0]

        return forward_product(function, primals, [*parameters.values(), *nodes.values()])[1]


_BYTES = 128_000_000


def _walk(
    graph: Graph, x: Tensor, parameters: Mapping[str, Tensor], added: Mapping[str, Tensor], keep: Iterable[str]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Evaluate with changes added at nodes; the output, and the values named in `keep`."""
    wanted = set(keep)
    kept: dict[str, Tensor] = {}
    values: dict[str, Tensor] = {**graph.parameters, **parameters}
    for node in graph:
        if node.op == "parameter":
            continue
        if node.op == "input":
            value = x
        else:
            value = evaluate_node(node, [None if name is None else values[name] for name in node.inputs], x.shape[0])
        if node.name in added:
            value = value + added[node.name]
        values[node.name] = value
        if node.name in wanted:
            kept[node.name] = value
        for name in node.inputs:
            if name is not None and graph.last_use.get(name) == node.name and name not in graph.parameters:
                values.pop(name, None)
    return values[graph.output], kept
