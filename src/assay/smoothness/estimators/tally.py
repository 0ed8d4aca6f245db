"""Kinks of the outputs made of crossings and gradients, and their sums per step of a path."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from assay.smoothness.estimators.crossings import Crossings, crossings
from assay.smoothness.estimators.rows import Rows
from assay.smoothness.network import Network
from assay.smoothness.paths.path import Path

_TOGETHER = 1e-9
"""Crossings closer than this share of a step are one kink: its jump is the sum of theirs, with signs."""
_NOTHING = 1e-12
"""Jumps below this share of the outputs' slopes are rounding."""


@dataclass(frozen=True, eq=False)
class Events:
    """Kinks of the outputs within some steps, one row per kink.

    Attributes:
        step: (m,) index of the step.
        t: (m,) parameter.
        layer: (m,) index of the switching node; of the largest part where several units bend at once.
        unit: (m,) place in its value, -1 where several bend at once.
        local: (m,) jump of the slope of that unit.
        jump: (m, K) jumps of the outputs' slopes.
    """

    step: Tensor
    t: Tensor
    layer: Tensor
    unit: Tensor
    local: Tensor
    jump: Tensor

    def take(self, which: Tensor) -> Events:
        """Some of them."""
        return Events(*(getattr(self, name)[which] for name in ("step", "t", "layer", "unit", "local", "jump")))


@dataclass(frozen=True, eq=False)
class Tally:
    """Sums over the kinks of each of s steps.

    Attributes:
        t: (r,) parameters of the rows.
        last: (r,) rows that look back.
        first: (r,) rows that begin a smooth piece of the path.
        values: (r, K) outputs.
        slopes: (r, K) dy/dt.
        begin: (s,) where each step begins.
        end: (s,) where it ends.
        value: (s, K) sums of |J|.
        energy: (s, K) sums of J^2.
        signed: (s, K) sums of J.
        group: (s,) sums of the Euclidean length of J.
        count: (s,) kinks.
        by_layer: (s, layers, K) parts of `value`.
        doubt: (s, K) variance of `value` from what changes between the ends of a step.
        events: the kinks themselves.
    """

    t: Tensor
    last: Tensor
    first: Tensor
    values: Tensor
    slopes: Tensor
    begin: Tensor
    end: Tensor
    value: Tensor
    energy: Tensor
    signed: Tensor
    group: Tensor
    count: Tensor
    by_layer: Tensor
    doubt: Tensor
    events: Events


@dataclass(eq=False)
class UnitSums:
    """(units, K) sums of |J| per switching node, filled while tallying."""

    by_layer: dict[int, Tensor] = field(default_factory=dict)

    def add(self, layer: int, units: int, unit: Tensor, parts: Tensor) -> None:
        """Add parts (e, K) to units (e,)."""
        if layer not in self.by_layer:
            self.by_layer[layer] = torch.zeros(units, parts.shape[1], dtype=torch.float64)
        self.by_layer[layer].index_add_(0, unit, parts)


def tally(network: Network, path: Path, rows: Rows, by_unit: UnitSums | None = None) -> Tally:
    """Kinks between consecutive rows, one sweep and one backward pass per output.

    Args:
        network: the network.
        path: the path.
        rows: as many as fit in memory.
        by_unit: sums per unit to add to.

    Returns:
        The tally of all steps within the rows.
    """
    x, tangent = rows.points(path)
    sweep = network.sweep(x, tangent, linked=rows.linked, last=rows.last)
    found = crossings(sweep, rows)
    outputs = sweep.values.shape[1]
    begin_jump = [torch.empty(len(one.step), outputs, dtype=torch.float64) for one in found]
    end_jump = [torch.empty_like(one) for one in begin_jump]
    if any(len(one.step) for one in found):
        for k in range(outputs):  # one output at a time: gradients of all units are the largest tensors of all
            for place, (one, gradient) in enumerate(zip(found, sweep.adjoint(k), strict=True)):
                begin_jump[place][:, k] = gradient[one.step, one.unit] * one.local
                end_jump[place][:, k] = gradient[one.step + 1, one.unit] * one.local
    layer = torch.cat([torch.full_like(one.step, place) for place, one in enumerate(found)] or [torch.zeros(0).long()])
    every = _joined(found)
    first, second = (torch.cat(j or [torch.zeros(0, outputs).double()]) for j in (begin_jump, end_jump))
    return _summed(network, rows, sweep.values, sweep.slopes, every, layer, first, second, by_unit)


def _joined(found: list[Crossings]) -> Crossings:
    if not found:
        nothing, none = torch.zeros(0, dtype=torch.float64), torch.zeros(0, dtype=torch.long)
        return Crossings(none, nothing, none, nothing, nothing, nothing)
    return Crossings(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def _summed(
    network: Network,
    rows: Rows,
    values: Tensor,
    slopes: Tensor,
    every: Crossings,
    layer: Tensor,
    first: Tensor,
    second: Tensor,
    by_unit: UnitSums | None,
) -> Tally:
    """Kinks that coincide put together, and everything summed per step."""
    outputs, layers = values.shape[1], len(network.switching)
    order = _sorted(every)
    every, layer, first, second = Crossings(*(p[order] for p in every)), layer[order], first[order], second[order]
    u = every.place[:, None]
    alone = torch.lerp(first.abs(), second.abs(), u)  # an adjoint that changes within the step may change its sign
    kink = _same(every)
    kinks = int(kink[-1]) + 1 if len(kink) else 0
    several = torch.zeros(kinks, dtype=torch.long).index_add_(0, kink, torch.ones_like(kink)) > 1
    lead = _largest(alone, kink, kinks)
    at = u[lead]
    low, high = (torch.zeros(kinks, outputs, dtype=torch.float64).index_add_(0, kink, j) for j in (first, second))
    size, net = torch.lerp(low.abs(), high.abs(), at), torch.lerp(low, high, at)
    jump = torch.where(net < 0, -size, size)
    loud = size > _NOTHING * slopes.abs().amax(0).clamp(min=1e-300)
    jump, size = jump * loud, size * loud
    kept = loud.any(1)

    total = torch.zeros(kinks, outputs, dtype=torch.float64).index_add_(0, kink, alone)
    share = alone * torch.where(total > 0, size / torch.where(total > 0, total, 1.0), 0.0)[kink]
    if by_unit is not None:
        for place, node in enumerate(network.switching):
            mine = layer == place
            by_unit.add(place, node.spec.size_per_sample, every.unit[mine], share[mine])

    numbers = torch.cumsum(rows.linked, 0) - 1  # row -> index among the steps
    steps = int(rows.linked.sum())
    of_kink, of_event = numbers[every.step[lead]], numbers[every.step]

    def summed(parts: Tensor, index: Tensor) -> Tensor:
        return torch.zeros(steps, *parts.shape[1:], dtype=torch.float64).index_add_(0, index, parts)

    by_layer = torch.zeros(steps * layers, outputs, dtype=torch.float64)
    by_layer.index_add_(0, of_event * layers + layer, share)
    begins = rows.linked.nonzero()[:, 0]
    low_t, high_t = rows.t[begins], rows.t[begins + 1]
    t = torch.lerp(low_t[of_kink], high_t[of_kink], every.place[lead])
    events = Events(of_kink, t, layer[lead], torch.where(several, -1, every.unit[lead]), every.local[lead], jump)
    return Tally(
        rows.t,
        rows.last,
        rows.first,
        values,
        slopes,
        low_t,
        high_t,
        summed(size, of_kink),
        summed(jump * jump, of_kink),
        summed(jump, of_kink),
        summed(jump.norm(dim=1), of_kink),
        summed(kept.double(), of_kink),
        by_layer.reshape(steps, layers, outputs),
        summed(_doubt(every, first, second), of_event),
        events.take(kept),
    )


def _sorted(every: Crossings) -> Tensor:
    """Order by step, then by place in it."""
    order = every.place.argsort(stable=True)
    return order[every.step[order].argsort(stable=True)]


def _same(every: Crossings) -> Tensor:
    """(e,) number of the kink that each crossing, in order, belongs to."""
    new = (every.step[1:] != every.step[:-1]) | (every.place[1:] - every.place[:-1] > _TOGETHER)
    return torch.cat([torch.zeros(min(1, len(every.step)), dtype=torch.long), new.long().cumsum(0)])


def _largest(alone: Tensor, kink: Tensor, kinks: int) -> Tensor:
    """(kinks,) crossing with the largest jump in each kink."""
    size = alone.sum(1)
    top = torch.zeros(kinks, dtype=torch.float64).scatter_reduce_(0, kink, size, "amax")
    candidate = torch.where(size == top[kink], torch.arange(len(kink)), len(kink))
    return torch.full((kinks,), len(kink)).scatter_reduce_(0, kink, candidate, "amin")


def _doubt(every: Crossings, first: Tensor, second: Tensor) -> Tensor:
    """Variance (e, K) of |J| were the gradient and the slope at the crossing those of either end of the step."""
    u, local = every.place[:, None], every.local[:, None].abs()
    tiny = torch.where(local > 0, local, 1.0)
    gradient = torch.lerp(first.abs(), second.abs(), u) / tiny
    by_gradient = second.abs() - first.abs()
    by_slope = (every.end.abs() - every.begin.abs())[:, None] * gradient
    return u * (1 - u) * (by_gradient**2 + by_slope**2)
