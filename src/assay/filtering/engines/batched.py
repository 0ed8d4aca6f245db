"""Batched engine: several masks in one pass, where passes are so small that starting them costs as much as they do.

The frontier is shared by all masks. The step that meets the changed weights first runs once for all of them, with the
weights stacked along the output channels of its linear map; from there on masks are further rows of the batch, so that
every later step is one call. (`torch.func.vmap` does the same for stacked weights, but turns every later convolution
into calls that it has to lay out anew.) Steps that meet changed weights again, as tied weights do, run mask by mask.

How many masks run together is a rule in elements, fixed from measurements and never from a clock: as many as keep
`ROWS_ELEMENTS` elements in the largest value. Large networks get one mask at a time by it, which is the incremental
engine to the bit. With several, outputs agree with the naive engine's up to rounding: torch may choose another kernel
for another number of rows.

Memory: that of the incremental engine, with S for `masks_per_pass` times the batch, and the frontier repeated likewise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from assay.filtering.engines.incremental import IncrementalEngine, Kept
from assay.filtering.engines.program import Program, Region, Step, Values
from assay.filtering.units import Unit
from assay.graph import BatchSize, Node

ROWS_ELEMENTS = 2**19  # in the largest value of a pass; beyond it, passes leave the cache and memory is paged anew
WEIGHT_ELEMENTS = 2**22  # of stacked weights


class BatchedEngine(IncrementalEngine):
    """Several masks in one pass. See `engine.Engine` for the methods; attacks run as in the incremental engine."""

    name = "batched"

    def masks_per_pass(self, unit: Unit, samples: int) -> int:
        """How many masks run together: a function of sizes alone."""
        return Stacked(self.program, self.program.region(unit)).masks(unit, min(samples, self.batch_size))

    def _all_masks(
        self, unit: Unit, region: Region, weights: Sequence[Tensor], kept: Sequence[Kept]
    ) -> Iterator[Tensor]:
        stacked = Stacked(self.program, region)
        together = min(stacked.masks(unit, max(cache.batch for cache in kept)), len(weights))
        if together < 2:
            yield from super()._all_masks(unit, region, weights, kept)
            return
        for start in range(0, len(weights), together):
            chosen = range(start, min(start + together, len(weights)))
            changed = [self.program.changed(region, unit, weights[index]) for index in chosen]
            found = [stacked.run(cache, changed) for cache in kept]
            yield from torch.cat(found, 1)


@dataclass(frozen=True, eq=False)
class Stacked:
    """A region that runs for several masks at once: values of the suffix hold their rows one mask after the other."""

    program: Program
    region: Region

    def masks(self, unit: Unit, batch: int) -> int:
        """Masks per pass; 1 where the region cannot be stacked."""
        if not self.possible:
            return 1
        weights = max(1, self.program.parameter(unit).numel())
        return max(1, min(ROWS_ELEMENTS // (batch * self._largest), WEIGHT_ELEMENTS // weights))

    @cached_property
    def possible(self) -> bool:
        """Whether every value of a batch that is made, split or repeated has one axis that is the batch itself."""
        if self.region.output not in self._reached:
            return False
        values = {name for step in self.region.suffix for name in (step.node.name, *step.node.inputs) if name}
        touched = [self._node(name) for name in values if self._changes(name) or name in self.region.frontier]
        touched = [node for node in touched if node.spec.batched and self._is_border(node)]
        return self._node(self.region.output).spec.batched and all(_axis(node) is not None for node in touched)

    def run(self, kept: Kept, changed: Sequence[Values]) -> Tensor:
        """Outputs of all masks on one batch: (masks, B, K)."""
        count, batch = len(changed), kept.batch
        values: Values = {**self.program.constants, **kept.values}
        single: dict[str, list[Tensor]] = {name: [value[name] for value in changed] for name in self.region.leaves}
        with torch.no_grad():
            for step in self.region.suffix:
                self._step(step, values, single, count, batch)
                for name in step.drop:
                    values.pop(name, None)
                    single.pop(name, None)
        return values[self.region.output].unflatten(0, (count, batch))

    @cached_property
    def _reached(self) -> frozenset[str]:
        return frozenset({*self.region.leaves, *(step.node.name for step in self.region.suffix)})

    @cached_property
    def _per_mask(self) -> frozenset[str]:
        """Values kept one by one: the weights, and what is computed from them without the input."""
        names = (step.node.name for step in self.region.suffix if not step.node.spec.batched)
        return frozenset({*self.region.leaves, *names})

    @cached_property
    def _largest(self) -> int:
        """Elements per sample of the largest value of a batch in the suffix."""
        sizes = [step.node.spec for step in self.region.suffix if step.node.spec.batched]
        return max(1, *(spec.size_per_sample for spec in sizes))

    def _node(self, name: str) -> Node:
        return self.program.graph[name]

    def _changes(self, name: str) -> bool:
        return name in self._reached

    def _meets_weights(self, node: Node) -> bool:
        return any(name in self._per_mask for name in node.inputs)

    def _is_border(self, node: Node) -> bool:
        """Whether rows of this value are repeated, split or put together; elsewhere the order of rows is its own."""
        if node.name == self.region.output or node.name in self.region.frontier:
            return True
        readers = [step.node for step in self.region.suffix if node.name in step.node.inputs]
        return self._meets_weights(node) or any(self._meets_weights(reader) for reader in readers)

    def _step(self, step: Step, values: Values, single: dict[str, list[Tensor]], count: int, batch: int) -> None:
        node = step.node
        if not self._meets_weights(node):
            inputs = [None if name is None else self._rows(name, values, count) for name in node.inputs]
            values[node.name] = step.quick(*inputs, **step.attributes(count * batch))
        elif self._stacks(node):
            values[node.name] = self._stack(step, values, single, count, batch)
        else:
            self._one_by_one(step, values, single, count, batch)

    def _rows(self, name: str, values: Values, count: int) -> Tensor:
        """A value with the rows of all masks: what no mask changes is repeated."""
        value = values[name]
        if name in self._reached or name in self.program.constants or not self._node(name).spec.batched:
            return value
        return torch.cat([value] * count, _axis(self._node(name)) or 0)

    def _stacks(self, node: Node) -> bool:
        """Whether only the weight of a plain linear map changes, so that one call serves all masks."""
        if node.op not in ("linear", "conv") or node.inputs[1] not in self._per_mask:
            return False
        rest = [name for place, name in enumerate(node.inputs) if place != 1]
        return node.attributes.get("groups", 1) == 1 and not any(name in self._reached for name in rest)

    def _stack(self, step: Step, values: Values, single: dict[str, list[Tensor]], count: int, batch: int) -> Tensor:
        data, weight, bias = (*step.node.inputs, None)[:3]
        assert data is not None
        assert weight is not None
        shift = None if bias is None else values[bias].repeat(count)
        result = step.quick(values[data], torch.cat(single[weight]), shift, **step.attributes(batch))
        channel = 1 if step.node.op == "conv" else result.dim() - 1
        axis = _axis(step.node) or 0
        result = result.unflatten(channel, (count, -1)).movedim(channel, axis)
        return result.flatten(axis, axis + 1)

    def _one_by_one(self, step: Step, values: Values, single: dict[str, list[Tensor]], count: int, batch: int) -> None:
        found: list[Tensor] = []
        for index in range(count):
            inputs: list[Tensor | None] = []
            for name in step.node.inputs:
                if name is None or name in self._per_mask:
                    inputs.append(None if name is None else single[name][index])
                elif name in self._reached:
                    inputs.append(values[name].narrow(_axis(self._node(name)) or 0, index * batch, batch))
                else:
                    inputs.append(values[name])
            found.append(step.kernel(*inputs, **step.attributes(batch)))
        if step.node.spec.batched:
            values[step.node.name] = torch.cat(found, _axis(step.node) or 0)
        else:
            single[step.node.name] = found


def _axis(node: Node) -> int | None:
    """The axis that is the batch itself; None where there is none, or its rows are in an order of their own."""
    sizes = [(place, size) for place, size in enumerate(node.spec.shape) if isinstance(size, BatchSize)]
    return sizes[0][0] if len(sizes) == 1 and sizes[0][1].multiple == 1 else None
