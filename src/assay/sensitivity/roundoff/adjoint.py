"""E3 and E4: first-order error of the outputs from one reverse pass per output or pair of outputs.

Every rounding is a source: a parameter, the input, a stored value, an operand as it is read, the sum inside a node.
With its derivative J from the reverse pass, E3 adds up |J| times a bound on the error, E4 J^2 times a variance.
Parameters are differentiated where they are shared, so the errors of a convolution's weight stay the same at all
positions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor
from torch.func import vjp

from assay.graph import Node, evaluate_node
from assay.sensitivity.parameters.local import Reader
from assay.sensitivity.parameters.taps import Taps
from assay.sensitivity.roundoff.accumulation import Accumulation, gamma_sqrt
from assay.sensitivity.roundoff.assignment import MULTIPLIED, SUMMED, Assignment, Operand
from assay.sensitivity.roundoff.directional import Changes, first_order_change
from assay.sensitivity.roundoff.floating import FloatFormat
from assay.sensitivity.roundoff.formats import Format
from assay.sensitivity.roundoff.forward import summation
from assay.sensitivity.roundoff.partial_sums import accumulated_variance
from assay.sensitivity.roundoff.rounding import where_finite
from assay.sensitivity.roundoff.sites import Site

Part = Literal["weights", "biases", "activations", "accumulation"]
PARTS: tuple[Part, ...] = ("weights", "biases", "activations", "accumulation")


@dataclass(frozen=True)
class Model:
    """What is taken for the size of one rounding error.

    Attributes:
        statistical: variances (E4) instead of bounds (E3).
        probable: for bounds: c(n) that holds with high probability, instead of gamma.
        failure: that probability's complement, per inner product; None for c(n) = sqrt(n) u.
        partial_sums: for variances: from the real partial sums; else from |W||x|, which is cheap and too large.
    """

    statistical: bool
    probable: bool = False
    failure: float | None = None
    partial_sums: bool = True

    @property
    def power(self) -> int:
        """Of the derivative that a size is multiplied by."""
        return 2 if self.statistical else 1

    def size(self, target: Format, value: Tensor) -> Tensor:
        """Bound or variance of rounding a known value; infinite entries, as in masks, stay as they are."""
        return where_finite(target.error_variance if self.statistical else target.error_bound, value, otherwise=0.0)

    def constant(self, how: Accumulation, site: Site) -> float:
        """c(n) of a summing node."""
        if not self.probable:
            return summation(how, site).constant
        assert how.format is not None
        if self.failure is not None:
            return how.probable(site.terms + 1, self.failure)
        assert how.format.unit_roundoff is not None
        return gamma_sqrt(how.roundings(site.terms), how.format.unit_roundoff)


class Adjoint:
    """Sources of rounding error of one batch, to be weighted by derivatives.

    Args:
        assignment: formats laid over the graph.
        x: (B, ...) float64.
        model: what is taken for the size of an error.
    """

    def __init__(self, assignment: Assignment, x: Tensor, model: Model) -> None:
        self.assignment, self.model = assignment, model
        names = {operand.name for operand in assignment.operands.values()} | assignment.loose.keys()
        for site in assignment.sites.values():  # weights that only mixed accumulation rounds
            inputs = assignment.graph[site.node].inputs
            names |= {name for place, name in enumerate(inputs) if name and assignment.low(site, place)}
        names &= assignment.graph.parameters.keys()
        names = [node.name for node in assignment.graph if node.name in names]
        nodes: set[str] = {assignment.graph.input}
        for site in assignment.sites.values():
            nodes |= {site.node, site.stored}
            nodes |= {assignment.graph[site.node].inputs[place] or "" for place in site.varying}
        graph = assignment.graph
        nodes = {name for name in nodes if name in graph.dependent and graph[name].spec.dtype.is_floating_point}
        self.taps = Taps(graph, x, parameters=names, nodes=tuple(nodes))

    @property
    def layers(self) -> tuple[str, ...]:
        """The input, then every site, by node name."""
        return (self.assignment.graph.input, *self.assignment.sites)

    def contributions(self, seeds: Tensor) -> dict[Part, Tensor]:
        """What every layer adds to the error of seeds . f, by part.

        Args:
            seeds: (R, B, K).

        Returns:
            (B, R, L) sums of |J| bound or of J^2 variance, for the L layers.
        """
        laid, cotangents = self.assignment, self.taps.stacked_vjp(seeds)
        index = {name: column for column, name in enumerate(self.layers)}
        count, batch = seeds.shape[:2]
        found: dict[Part, Tensor] = {part: seeds.new_zeros(batch, count, len(index)) for part in PARTS}
        for layer, part, node, size in self.additive:
            found[part][:, :, index[layer]] += self._weighted(cotangents[node], size, node)
        for site, place, part, size in self._operand_sources:
            moved = self._through(site, place, cotangents[site.node])
            found[part][:, :, index[site.node]] += self._weighted(
                moved, size, laid.graph[site.node].inputs[place] or ""
            )
        for layer, part, name, readers, size in self._parameter_sources:
            share = self.taps.contracted(name, cotangents, size, self.model.power, readers)
            found[part][:, :, index[layer]] += share.transpose(0, 1)
        return found

    def _weighted(self, cotangents: Tensor, size: Tensor, node: str) -> Tensor:
        """(B, R) sums of |cotangent|^power size; both in the shape of a node."""
        scaled = cotangents.square() if self.model.power == 2 else cotangents.abs()
        terms = torch.where(cotangents == 0, 0.0, scaled * size)
        return self.taps.per_sample(node, terms).flatten(2).sum(2).transpose(0, 1)

    @cached_property
    def additive(self) -> list[tuple[str, Part, str, Tensor]]:
        """Errors added at nodes: layer, part, node, and their size in the node's shape."""
        laid, values = self.assignment, self.taps.values
        found: list[tuple[str, Part, str, Tensor]] = []
        name = laid.graph.input
        if laid.input is not None:
            found.append((name, "activations", name, self.model.size(laid.input, values[name])))
        for site in laid.sites.values():
            target = laid.storage(site)
            if target is not None:
                size = self.model.size(target, values[site.stored])
                found.append((site.node, "activations", site.stored, size))
            how = laid.at[site.node].accumulation
            if how is not None and how.format is not None:
                found.append((site.node, "accumulation", site.node, self._summed(site, how)))
        return found

    def _summed(self, site: Site, how: Accumulation) -> Tensor:
        """Error of the sums inside a node; of the one rounding of nodes that do not sum."""
        assert how.format is not None
        value = self.taps.values[site.node]
        if site.op not in SUMMED:
            return self.model.size(how.format, value)
        node, inputs = self._resolved(site), self._inputs(site)
        size = evaluate_node(node, [None if tensor is None else tensor.abs() for tensor in inputs], len(value))
        if not self.model.statistical:
            return self.model.constant(how, site) * size
        if self.model.partial_sums and isinstance(how.format, FloatFormat):
            return accumulated_variance(node, inputs, value, how, self._bits(site))
        unit = how.format.unit_roundoff
        assert unit is not None
        return how.roundings(site.terms) * (unit * size).square() / 12

    def _bits(self, site: Site) -> tuple[int, int] | None:
        """Significand bits of both operands of a product, where both are known to be numbers of a float format."""
        how = self.assignment.at[site.node].accumulation
        if how is not None and isinstance(how.low, FloatFormat):
            return how.low.significand, how.low.significand
        found = [self.assignment.known(site, place) for place in MULTIPLIED.get(site.op, ())]
        if len(found) != 2 or not isinstance(found[0], FloatFormat) or not isinstance(found[1], FloatFormat):
            return None
        return found[0].significand, found[1].significand

    @cached_property
    def _operand_sources(self) -> list[tuple[Site, int, Part, Tensor]]:
        """Operands rounded as a node reads them: by the layer's input format, or by mixed accumulation."""
        found: list[tuple[Site, int, Part, Tensor]] = []
        for site in self.assignment.sites.values():
            for place in site.varying:
                value = self._inputs(site)[place]
                targets: tuple[tuple[Part, Format | None], ...] = (
                    ("activations", self.assignment.reading(site, place)),
                    ("accumulation", self.assignment.low(site, place)),
                )
                for part, target in targets:
                    if target is not None and value is not None:
                        found.append((site, place, part, self.model.size(target, value)))
        return found

    @cached_property
    def _parameter_sources(self) -> list[tuple[str, Part, str, tuple[Reader, ...], Tensor]]:
        """Rounded parameters: layer, part, name, the readers that share the error, and its size."""
        laid, graph = self.assignment, self.assignment.graph
        found: list[tuple[str, Part, str, tuple[Reader, ...], Tensor]] = []
        groups: dict[tuple[str, Format], list[Operand]] = {}
        for operand in laid.operands.values():
            groups.setdefault((operand.name, operand.format), []).append(operand)
        for (name, target), operands in groups.items():
            nodes = {operand.node for operand in operands}
            readers = tuple(reader for reader in self.taps.readers[name] if reader.node.name in nodes)
            part: Part = "weights" if operands[0].role == "weights" else "biases"
            found.append((operands[0].node, part, name, readers, self.model.size(target, graph.parameters[name])))
        taken = {(operand.name, operand.node) for operand in laid.operands.values()}
        for name, operand in laid.loose.items():
            readers = tuple(r for r in self.taps.readers[name] if (name, r.node.name) not in taken)
            if readers:
                size = self.model.size(operand.format, graph.parameters[name])
                found.append((graph.input, "biases", name, readers, size))
        for site in laid.sites.values():
            for place, name in enumerate(graph[site.node].inputs):
                low = None if name not in self.taps.readers else laid.low(site, place)
                if low is not None and name is not None:
                    readers = tuple(reader for reader in self.taps.readers[name] if reader.node.name == site.node)
                    size = self.model.size(low, graph.parameters[name])
                    found.append((site.node, "accumulation", name, readers, size))
        return found

    def _resolved(self, site: Site) -> Node:
        node = self.assignment.graph[site.node]
        return replace(node, attributes=node.resolved(len(self.taps.x)))

    def _inputs(self, site: Site) -> list[Tensor | None]:
        graph = self.assignment.graph
        known = {**graph.parameters, **self.taps.values}
        found: list[Tensor | None] = []
        for name in graph[site.node].inputs:
            found.append(None if name is None else known[name] if name in known else self._fixed[name])
        return found

    @cached_property
    def _fixed(self) -> Mapping[str, Tensor]:
        """Values of nodes that do not depend on the input but on the batch's size, such as an expanded token."""
        graph, values = self.assignment.graph, dict(self.assignment.graph.parameters)
        for node in graph:
            if node.op not in ("input", "parameter") and node.name not in graph.dependent:
                inputs = [None if name is None else values[name] for name in node.inputs]
                values[node.name] = evaluate_node(node, inputs, len(self.taps.x))
        return values

    def _through(self, site: Site, place: int, cotangents: Tensor) -> Tensor:
        """Derivatives with respect to one operand of a node, through this node alone; (R, ...)."""
        inputs, node = self._inputs(site), self.assignment.graph[site.node]
        operand = inputs[place]
        assert operand is not None

        def function(changed: Tensor) -> Tensor:
            return evaluate_node(node, [*inputs[:place], changed, *inputs[place + 1 :]], len(self.taps.x))

        pullback: Callable[[Tensor], tuple[Tensor]] = vjp(function, operand)[1]
        return torch.stack([pullback(row)[0] for row in cotangents])


def seeds_for(outputs: Tensor, rivals: Tensor | None) -> Tensor:
    """(R, B, K) seeds that pick every output, or the differences f_top - f_j for the rivals j in (B, R)."""
    batch, count = outputs.shape
    if rivals is None:
        return torch.eye(count, dtype=outputs.dtype)[:, None, :].expand(-1, batch, -1)
    seeds = outputs.new_zeros(rivals.shape[1], batch, count)
    top = outputs.argmax(1)
    rows = torch.arange(batch)
    for place in range(rivals.shape[1]):
        seeds[place, rows, top] = 1.0
        seeds[place, rows, rivals[:, place]] -= 1.0
    return seeds


def random_changes(adjoint: Adjoint, draws: int, seed: int) -> Iterator[Tensor]:
    """First-order changes (B, K) of all outputs under Gaussian errors of the sources' variances, one per draw.

    Errors of parameters are the same for every sample of a batch, as in truth. One forward product each.

    Yields:
        (B, K).
    """
    assignment, taps = adjoint.assignment, adjoint.taps
    generator = torch.Generator().manual_seed(seed)

    def noise(variance: Tensor) -> Tensor:
        return torch.randn(variance.shape, generator=generator, dtype=variance.dtype).mul_(variance.sqrt())

    def drawn_at(place: tuple[str, int], change: Tensor) -> None:
        operands[place] = operands[place] + change if place in operands else change

    for _ in range(draws):
        values: dict[str, Tensor] = {}
        operands: dict[tuple[str, int], Tensor] = {}
        for _, _, node, size in adjoint.additive:
            values[node] = values[node] + noise(size) if node in values else noise(size)
        for site, place, _, size in adjoint._operand_sources:
            drawn_at((site.node, place), noise(size))
        for layer, _, name, readers, size in adjoint._parameter_sources:
            drawn = noise(size)
            if layer == assignment.graph.input:
                values[name] = drawn
                continue
            for node, place in _places(readers, name):
                drawn_at((node, place), drawn)
        yield first_order_change(assignment, taps.x, Changes(values, operands))


def _places(readers: Sequence[Reader], name: str) -> list[tuple[str, int]]:
    return [
        (reader.node.name, place)
        for reader in readers
        for place, operand in enumerate(reader.node.inputs)
        if operand == name
    ]
