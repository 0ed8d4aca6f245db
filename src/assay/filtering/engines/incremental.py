"""Incremental engine: for every mask only what the unit's weights reach is run again; the rest is kept per batch.

With the same batches the outputs are those of the naive engine bit for bit, since every step that runs computes what
the module computes, on the same numbers. For evenly loaded networks half of the work is saved, not more.

Memory, besides the model, the inputs and the logits that are not handed out yet:

    max((c - 1) F + P, c F + S) bytes of activations,

where, for one batch, F is the frontier of the unit, P the most that is alive while its prefix runs (F included), S
while its suffix runs (F excluded), and c = max(1, min(batches, CACHE_BYTES // F)) the number of batches whose frontier
is kept; `footprint` computes it. When c is smaller than the number of batches, the logits of all masks are held until
the last batch has passed. An attack anew through every mask keeps the derivative of one batch's prefix instead: at most
three times the sum of the prefix's values.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from assay.attacks import Attack, attacked
from assay.attacks.target import Bounds, checked_batch, input_gradient, loss_of, target_of
from assay.filtering.engines.engine import Held
from assay.filtering.engines.gradient import CleanPoint, fast_gradient
from assay.filtering.engines.naive import without_fast_path
from assay.filtering.engines.program import Observe, Program, Region, Values, footprint, run
from assay.filtering.units import Unit
from assay.subject import Subject

CACHE_BYTES = 2**28


@dataclass(frozen=True)
class Kept:
    """The frontier of one batch."""

    batch: int
    values: Values


class IncrementalEngine:
    """Runs on a captured graph. See `engine.Engine` for the methods.

    Attributes:
        name: ``incremental``.
        why: as in `Engine`.
        batch_size: samples per pass.
        program: the graph that outputs come from.
        observe: called with all values after each step, for tests and tools; None costs nothing.
    """

    name = "incremental"

    def __init__(
        self, subject: Subject, program: Program, *, batch_size: int, why: str = "", exact: Program | None = None
    ) -> None:
        """Prepare.

        Args:
            subject: the model.
            program: of its graph.
            batch_size: samples per pass.
            why: kept as it is.
            exact: the program that gradients come from; None for the same one.
        """
        self.subject, self.program, self.batch_size, self.why = subject, program, batch_size, why
        self.observe: Observe | None = None
        self._exact = exact or program
        self._gradients_agree: dict[str, bool] = {}

    def outputs(self, unit: Unit, weights: Sequence[Tensor], x: Tensor) -> Iterator[Tensor]:
        """Logits (N, K) of each filtered network, see `Engine.outputs`."""
        region = self.program.region(unit)
        parts = x.split(self.batch_size)
        block = self.cached_batches(unit, len(x))
        weights = Held(weights, unit) if block < len(parts) else weights
        waiting: list[list[Tensor]] = [[] for _ in range(len(weights))]
        for start in range(0, len(parts), block):
            kept = [self._keep(region, part) for part in parts[start : start + block]]
            last = start + block >= len(parts)
            for index, logits in enumerate(self._all_masks(unit, region, weights, kept)):
                waiting[index].append(logits.to(x.dtype))
                if last:
                    yield torch.cat(waiting[index])
                    waiting[index] = []

    def attacked(
        self,
        unit: Unit,
        weights: Sequence[Tensor],
        x: Tensor,
        y: Tensor,
        attack: Attack,
        bounds: Bounds | Literal["auto"] = "auto",
    ) -> Iterator[Tensor]:
        """Logits (N, K) of each filtered network on inputs attacked through it, see `Engine.attacked`.

        For our `fgsm` the prefix and its derivative are kept per batch. Other attacks move away from the clean point
        with their first step, so that nothing can be kept: they run on the module.

        Yields:
            (N, K) logits, one per entry of `weights`, in order.
        """
        limits = self.subject.preprocessing.bounds if isinstance(bounds, str) else bounds
        checked_batch(x, y, limits)
        settings = fast_gradient(attack)
        if settings is None or not self.gradients_agree(unit, x, y):
            for index in range(len(weights)):
                changed = self._exact_parameters(unit, weights[index])
                points = attacked(
                    attack, self.subject, x, y, parameters=changed, bounds=limits, batch_size=self.batch_size
                )
                yield self._anew(unit, weights[index], points)
            return
        region = self._exact.region_in_order(unit)
        weights = Held(weights, unit) if len(x) > self.batch_size else weights
        waiting: list[list[Tensor]] = [[] for _ in range(len(weights))]
        parts = list(zip(x.split(self.batch_size), y.split(self.batch_size), strict=True))
        for place, (part, labels) in enumerate(parts):
            clean = CleanPoint(self._exact, region, part, labels)
            for index in range(len(weights)):
                changed = self._exact.changed(region, unit, weights[index])
                points = clean.attacked(changed, settings, limits)
                waiting[index].append(self._anew(unit, weights[index], points))
                if place == len(parts) - 1:
                    yield torch.cat(waiting[index])
                    waiting[index] = []

    def agrees(self, x: Tensor) -> bool:
        """Whether the unfiltered outputs on these inputs are the module's, bit for bit, see `Engine.agrees`."""
        with torch.no_grad(), without_fast_path():
            parts = x.split(self.batch_size)
            return all(torch.equal(self._whole(part, {}), self.subject.model(part.clone())) for part in parts)

    def gradients_agree(self, unit: Unit, x: Tensor, y: Tensor) -> bool:
        """Whether gradients come from the kept prefix: every derivative is known to be that of the module.

        Args:
            unit: whose weights are exchanged.
            x: (N, ...) inputs, of which two are compared, once per unit.
            y: (N,) labels.

        Returns:
            False where attacks run on the module instead.
        """
        found = self._gradients_agree.get(unit.parameter)
        if found is None:
            found = self._gradients_agree[unit.parameter] = self._compare_gradients(unit, x[:2], y[:2])
        return found

    def cached_batches(self, unit: Unit, samples: int) -> int:
        """Number of batches whose frontier is kept at once while `outputs` runs."""
        frontier = footprint(self.program.graph, self.program.region(unit), self.batch_size).frontier
        batches = -(-samples // self.batch_size)
        return max(1, min(batches, CACHE_BYTES // max(1, frontier)))

    def memory(self, unit: Unit, samples: int) -> int:
        """Most bytes of activations that `outputs` keeps alive at once: the formula above."""
        size = footprint(self.program.graph, self.program.region(unit), min(samples, self.batch_size))
        return size.bytes(self.cached_batches(unit, samples))

    def cost(self, unit: Unit, masks: int, samples: int, *, adaptive: bool = False) -> float:
        """Work in multiply-accumulates, see `Engine.cost`."""
        region = self.program.region(unit)
        prefix, suffix = (self.program.operations(steps) for steps in (region.prefix, region.suffix))
        if not adaptive:
            return samples * (prefix + masks * suffix)
        whole = prefix + suffix  # forward through the suffix, backward through all, forward on the attacked inputs
        return samples * (prefix + masks * (suffix + 1.5 * whole + whole))

    def _all_masks(
        self, unit: Unit, region: Region, weights: Sequence[Tensor], kept: Sequence[Kept]
    ) -> Iterator[Tensor]:
        for index in range(len(weights)):
            changed = self.program.changed(region, unit, weights[index])
            yield torch.cat([self._suffix(region, cache, changed) for cache in kept])

    def _keep(self, region: Region, part: Tensor) -> Kept:
        with torch.no_grad():
            values = self.program.load(part)
            run(region.prefix, values, len(part), self.observe)
            return Kept(len(part), {name: values[name] for name in region.frontier})

    def _suffix(self, region: Region, cache: Kept, changed: Values) -> Tensor:
        with torch.no_grad():
            values = {**self.program.constants, **changed, **cache.values}
            run(region.suffix, values, cache.batch, self.observe)
            return values[region.output]

    def _whole(self, part: Tensor, changed: Values) -> Tensor:
        with torch.no_grad():
            values = self.program.load(part) | changed
            run(self.program.whole.suffix, values, len(part))
            return values[self.program.graph.output].to(part.dtype)

    def _anew(self, unit: Unit, weights: Tensor, points: Tensor) -> Tensor:
        changed = self.program.changed(self.program.region(unit), unit, weights)
        return torch.cat([self._whole(part, changed) for part in points.split(self.batch_size)])

    def _exact_parameters(self, unit: Unit, weights: Tensor) -> dict[str, Tensor]:
        return unit.parameters(unit.put(self._exact.parameter(unit), weights))

    def _compare_gradients(self, unit: Unit, x: Tensor, y: Tensor) -> bool:
        if not self._exact.same_gradients:
            return False
        region = self._exact.region_in_order(unit)
        point = CleanPoint(self._exact, region, x, y)
        loss = loss_of(None, y)
        try:
            expected = input_gradient(target_of(self.subject), x, y, loss)
        except RuntimeError:  # a module that writes over what its derivative needs: let the attack itself say so
            return False
        return torch.equal(point.gradient({}, loss), expected)
