"""A captured graph as steps to run: which of them a unit's weights reach, what to keep between masks, what it costs.

For one unit the steps fall into two parts. The *suffix* is every step that its weights reach; the *prefix* is every
other step that the suffix needs, and runs once per batch. Values of the prefix that the suffix reads are the
*frontier*: parallel branches and everything before the unit are among them, so that more is reused than by cutting the
network in two. Nothing is written over that another step, or another mask, still reads.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from assay.errors import UsageError
from assay.filtering.engines.kernels import FRESH, IN_PLACE, QUICK, VIEWS, Kernel, kernel_of, same_gradient
from assay.filtering.units import Unit
from assay.graph import Graph, Node
from assay.subject import Subject

Values = dict[str, Tensor]
PER_ELEMENT = 16  # multiply-accumulates that take as long as one number written
Observe = Callable[[Mapping[str, Tensor]], None]


@dataclass(frozen=True, eq=False)
class Step:
    """One node, ready to run.

    Attributes:
        node: what it computes.
        kernel: how, with the module's own derivative.
        quick: how where no derivative is wanted: `kernel`, a faster one of equal value, or one that writes over the
            first input where nothing else reads that.
        drop: names of values that are not needed after it.
    """

    node: Node
    kernel: Kernel
    quick: Kernel
    drop: tuple[str, ...] = ()
    _resolved: dict[int, Mapping[str, Any]] = field(default_factory=dict, repr=False)

    def attributes(self, batch: int) -> Mapping[str, Any]:
        """Attributes with sizes of this batch filled in, computed once per size."""
        found = self._resolved.get(batch)
        if found is None:
            found = self._resolved[batch] = self.node.resolved(batch)
        return found

    def run(self, values: Values, batch: int) -> None:
        """Compute the value of the node from those it reads."""
        kernel = self.kernel if torch.is_grad_enabled() else self.quick
        inputs = [None if name is None else values[name] for name in self.node.inputs]
        values[self.node.name] = kernel(*inputs, **self.attributes(batch))


@dataclass(frozen=True, eq=False)
class Region:
    """What a unit's weights reach, and what of the rest is needed for it.

    Attributes:
        leaves: names of the parameter nodes that take the changed weights.
        prefix: steps that run once per batch.
        suffix: steps that run for every mask.
        frontier: names of prefix values, or the input, that the suffix reads.
        output: name of the last value.
    """

    leaves: tuple[str, ...]
    prefix: tuple[Step, ...]
    suffix: tuple[Step, ...]
    frontier: tuple[str, ...]
    output: str


class Program:
    """The steps of one captured graph.

    Attributes:
        graph: as captured.
        constants: values of its parameter nodes.
    """

    def __init__(self, graph: Graph, subject: Subject, convert: Callable[[Tensor], Tensor] | None = None) -> None:
        """Prepare the steps.

        Args:
            graph: of the subject.
            subject: whose modules tell apart calls that the graph does not.
            convert: applied to every parameter, such as a change of type; None leaves them.
        """
        self.graph = graph
        self.convert = convert or (lambda tensor: tensor)
        self.constants: Mapping[str, Tensor] = {
            name: self.convert(value.detach()) for name, value in graph.parameters.items()
        }
        self._parameters = dict(subject.model.named_parameters(remove_duplicate=False))
        modules = dict(subject.model.named_modules())
        prefix = "" if subject.preprocessing.is_identity else "model."
        self._modules: dict[str, nn.Module | None] = {
            node.name: modules.get(prefix + node.module_path) for node in graph
        }
        self._nodes = [node for node in graph if node.op not in ("input", "parameter")]
        self._uses = Counter(name for node in graph for name in node.inputs if name is not None)
        self._regions: dict[tuple[str, bool], Region] = {}

    @cached_property
    def same_gradients(self) -> bool:
        """Whether every derivative is surely that of the module, see `kernels.same_gradient`."""
        reached = self.graph.dependent
        return all(same_gradient(node, self._modules[node.name]) for node in self._nodes if node.name in reached)

    @cached_property
    def whole(self) -> Region:
        """The whole network as a suffix, for inputs that differ from mask to mask."""
        return self._region((), {node.name for node in self._nodes})

    def region(self, unit: Unit) -> Region:
        """Where a unit's weights reach: with an empty suffix where the output does not depend on them."""
        return self._regions.get((unit.parameter, False)) or self._keep(unit, False)

    def region_in_order(self, unit: Unit) -> Region:
        """Likewise, with gradients of values that several steps read summed in the order in which the module sums them.

        Sums of three numbers depend on the order. Automatic differentiation adds contributions in the reverse order of
        the steps, which running a later branch before the unit changes. Where that matters, everything after the
        unit's first step is in the suffix.

        Args:
            unit: whose weights are exchanged.

        Returns:
            The region for automatic differentiation.
        """
        return self._regions.get((unit.parameter, True)) or self._keep(unit, True)

    def _keep(self, unit: Unit, ordered: bool) -> Region:
        leaves = tuple(name for name, known in self.graph.parameter_names.items() if known in unit.aliases)
        reached = set(leaves)
        for node in self._nodes:
            if not reached.isdisjoint(node.inputs):
                reached.add(node.name)
        region = self._region(leaves, reached)
        if ordered and region.suffix and self._reordered(region):
            first = next(place for place, node in enumerate(self._nodes) if node.name in reached)
            region = self._region(leaves, {node.name for node in self._nodes[first:]})
        self._regions[unit.parameter, ordered] = region
        return region

    def _reordered(self, region: Region) -> bool:
        """Whether a value with three readers or more meets them in another order than in the graph."""
        place = {node.name: number for number, node in enumerate(self._nodes)}
        readers: dict[str, list[int]] = {}
        for step in (*region.prefix, *region.suffix):
            for name in step.node.inputs:
                if name is not None:
                    readers.setdefault(name, []).append(place[step.node.name])
        dependent = self.graph.dependent
        return any(name in dependent and len(r) > 2 and r != sorted(r) for name, r in readers.items())

    def _region(self, leaves: tuple[str, ...], reached: set[str]) -> Region:
        needed = {self.graph.output}
        for node in reversed(self._nodes):
            if node.name in needed:
                needed.update(name for name in node.inputs if name is not None)
        after = [node for node in self._nodes if node.name in reached and node.name in needed]
        before = [node for node in self._nodes if node.name not in reached and node.name in needed]
        made = {node.name for node in before} | {self.graph.input}
        read = {name for node in after for name in node.inputs if name is not None}
        kept = {name for name in made if name in read}
        if self.graph.output in made:
            kept.add(self.graph.output)
        return Region(
            leaves,
            self._steps(before, kept),
            self._steps(after, {self.graph.output}),
            tuple(name for name in (self.graph.input, *(node.name for node in before)) if name in kept),
            self.graph.output,
        )

    def _steps(self, nodes: Sequence[Node], kept: set[str]) -> tuple[Step, ...]:
        here = {node.name: node for node in nodes}
        last = {name: node.name for node in nodes for name in node.inputs if name in here and name not in kept}
        drop: dict[str, list[str]] = {}
        for name, reader in last.items():
            drop.setdefault(reader, []).append(name)
        steps: list[Step] = []
        for node in nodes:
            kernel = kernel_of(node, self._modules[node.name])
            quick = IN_PLACE.get(node.op) if self._may_overwrite(node, here, kept) else QUICK.get(node.op)
            steps.append(Step(node, kernel, quick or kernel, tuple(drop.get(node.name, ()))))
        return tuple(steps)

    def _may_overwrite(self, node: Node, here: Mapping[str, Node], kept: set[str]) -> bool:
        first = node.inputs[0] if node.inputs else None
        if first is None or first not in here or first in kept or self._uses[first] != 1:
            return False
        source = here[first]
        return source.op in FRESH and source.spec == node.spec

    def operations(self, steps: Sequence[Step]) -> float:
        """Multiply-accumulates of some steps per sample, and `PER_ELEMENT` for every number written."""
        return float(sum(self._operations(step.node) for step in steps))

    def _operations(self, node: Node) -> int:
        if node.op in VIEWS or node.op == "reshape":
            return 0
        inputs = [self.graph[name].spec for name in node.inputs if name is not None]
        written = node.spec.size_per_sample
        if node.op in ("linear", "matmul", "addmm"):
            terms = inputs[1 if node.op == "addmm" else 0].shape[-1]
        elif node.op == "conv":
            terms = math.prod(size for size in inputs[1].shape[1:] if isinstance(size, int))
        elif node.op == "conv_transpose":
            terms = inputs[1].size_per_sample // max(1, int(inputs[1].shape[0]))  # type: ignore[arg-type]
        elif node.op == "attention":
            terms = 2 * inputs[1].size_per_sample // max(1, int(inputs[1].shape[-1]))  # type: ignore[arg-type]
        else:
            terms = 0
        return written * ((terms if isinstance(terms, int) else 0) + PER_ELEMENT)

    def parameter(self, unit: Unit) -> Tensor:
        """The unit's whole parameter.

        Args:
            unit: of this subject.

        Returns:
            The tensor as the model holds it.

        Raises:
            UsageError: for a unit of another model.
        """
        if unit.parameter not in self._parameters:
            raise UsageError(
                f"The model has no parameter {unit.parameter!r}.",
                where=unit.name,
                advice="Select units on the subject that the engine was made for.",
            )
        return self._parameters[unit.parameter]

    def load(self, x: Tensor) -> Values:
        """Values before the first step: parameters and one batch."""
        return {**self.constants, self.graph.input: self.convert(x)}

    def changed(self, region: Region, unit: Unit, weights: Tensor) -> Values:
        """The changed parameter, for every parameter node that stands for it."""
        value = self.convert(unit.put(self.parameter(unit), weights))
        return dict.fromkeys(region.leaves, value)


def run(steps: Iterable[Step], values: Values, batch: int, observe: Observe | None = None) -> None:
    """Run steps in order on `values`, which gains what they compute and loses what was read for the last time."""
    for step in steps:
        step.run(values, batch)
        if observe is not None:
            observe(values)
        for name in step.drop:
            del values[name]


@dataclass(frozen=True)
class Footprint:
    """Bytes of activations in a batch: what is alive at once while a region runs.

    Attributes:
        frontier: what the cache keeps of one batch.
        prefix: most while the prefix runs, the frontier included.
        suffix: most while the suffix runs, besides the frontier.
    """

    frontier: int
    prefix: int
    suffix: int

    def bytes(self, cached: int = 1) -> int:
        """Most bytes alive when the frontiers of `cached` batches are kept: the bound that incremental mode states."""
        return max((cached - 1) * self.frontier + self.prefix, cached * self.frontier + self.suffix)


def footprint(graph: Graph, region: Region, batch: int) -> Footprint:
    """Bytes of activations that a region needs for a batch.

    Counted are the values of the graph, a view with the memory it shows and `reshape` as a copy; not counted are
    inputs, parameters, and what a kernel allocates for itself while it runs (for a convolution, up to a copy of its
    input, its weights and its output in another layout).

    Args:
        graph: that the region belongs to.
        region: from `Program.region`.
        batch: samples.

    Returns:
        Bytes, a bound of what is alive.
    """
    sizes = {
        node.name: math.ceil(node.spec.size_per_sample * (batch if node.spec.batched else 1) * node.spec.dtype.itemsize)
        for node in graph
    }
    roots: dict[str, frozenset[str]] = {}
    for node in graph:
        shared = (name for name in node.inputs if name is not None and name in roots)
        if node.op in ("input", "parameter"):
            roots[node.name] = frozenset()
        elif node.op in VIEWS:
            roots[node.name] = next((roots[name] for name in shared), frozenset())
        elif node.op in ("reshape", "opaque"):
            roots[node.name] = frozenset({node.name}).union(*(roots[name] for name in shared))
        else:
            roots[node.name] = frozenset({node.name})

    def total(names: Iterable[str]) -> int:
        return sum(sizes[root] for root in frozenset().union(*(roots[name] for name in names)))

    def peak(steps: Sequence[Step]) -> int:
        alive: set[str] = set()
        most = 0
        for step in steps:
            alive.add(step.node.name)
            most = max(most, total(alive))
            alive.difference_update(step.drop)
        return most

    return Footprint(total(region.frontier), peak(region.prefix), peak(region.suffix))


def bytes_per_sample(graph: Graph, whole: Region) -> int:
    """Bytes of activations that one more sample in a batch adds to a forward pass."""
    two, one = footprint(graph, whole, 2).suffix, footprint(graph, whole, 1).suffix
    return two - one
