"""SMP by events: every crossing between samples of a path, times the gradient of the output there.

The sum over kinks of |dy/da| |jump of the unit's slope| is exact (adjoint identity); what is estimated is where within
a step a crossing lies, and its slope and gradient there. Slopes come from the cubic through both ends of a step,
gradients from both ends, and samples are added where the two ends disagree most.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from assay.grade import Grade
from assay.smoothness.estimators.rows import Rows, bisected, planned
from assay.smoothness.estimators.tally import Events, Tally, UnitSums, tally
from assay.smoothness.kinks import Kinks, Smp
from assay.smoothness.network import Network
from assay.smoothness.paths.path import Path

_ROUNDS = 6
_LARGEST_REFINED = 1025
_FEWEST_REFINED = 9


@dataclass(frozen=True)
class Limits:
    """What a measurement may hold.

    Attributes:
        memory: bytes that a sweep may use.
        rows: samples per sweep; None for as many as the memory allows.
        listed: kinks that are listed one by one, the largest ones.
    """

    memory: int = 2**29
    rows: int | None = None
    listed: int = 20_000

    def chunk(self, network: Network) -> int:
        """Rows per sweep."""
        return max(2, self.rows) if self.rows is not None else network.rows(self.memory)


def event(
    network: Network,
    path: Path,
    *,
    samples: int = 257,
    refine: bool | None = None,
    by_unit: bool = False,
    limits: Limits | None = None,
) -> Smp:
    """SMP along any path from values, slopes and gradients at samples of it.

    Cost: a value-and-slope sweep and one backward pass per output and sample; with refinement, about twice that.

    Args:
        network: the network.
        path: the path.
        samples: different parameters at which the network is looked at; more where the path has more knots.
        refine: whether to start with a third of the samples and to put the others where they matter; by default where
            there are at most 1,025.
        by_unit: whether to attribute to units too; one more pass where samples are refined.
        limits: memory and length of the list of kinks.

    Returns:
        The estimate, grade statistical.
    """
    limits = limits or Limits()
    whole = planned(path, samples)
    wanted = len(whole.t) - int(whole.last.sum()) + 1  # knots count once
    if refine is None:
        refine = _FEWEST_REFINED <= samples <= _LARGEST_REFINED
    if refine and not network.switching:
        refine = False  # nothing to look for
    base = planned(path, max(2, round(samples / 3) + 2)) if refine else whole
    units = UnitSums() if by_unit else None
    found = _tallied(network, path, base, limits, None if refine else units)
    if refine:
        for left in range(_ROUNDS, 0, -1):
            spare = wanted - _distinct(found)
            if spare <= 0:
                break
            steps = _doubtful(found, -(-spare // left))
            rows = _rows(found)
            found = _replaced(found, steps, _tallied(network, path, bisected(rows, rows_of(rows)[steps]), limits, None))
        if units is not None:
            _tallied(network, path, _rows(found), limits, units)
    return result(network, path, found, units, limits, "event", ())


def rows_of(rows: Rows) -> Tensor:
    """Row that begins each step."""
    return rows.linked.nonzero()[:, 0]


def _tallied(network: Network, path: Path, rows: Rows, limits: Limits, units: UnitSums | None) -> Tally:
    parts = []
    for part in rows.chunks(limits.chunk(network)):
        parts.append(tally(network, path, part, units))
        if len(parts) > 1:
            parts = [_pruned(_joined(parts), limits.listed)]
    return _pruned(parts[0], limits.listed)


def _joined(parts: list[Tally]) -> Tally:
    """Tallies one after the other; rows that occur twice are kept once."""
    steps, shifted = 0, []
    for part in parts:
        shifted.append(Events(part.events.step + steps, *_rest(part.events)))
        steps += len(part.begin)
    events = Events(*(torch.cat([getattr(one, f.name) for one in shifted]) for f in fields(Events)))
    joined = {f.name: torch.cat([getattr(p, f.name) for p in parts]) for f in fields(Tally) if f.name != "events"}
    return _ordered(Tally(**joined, events=events))


def _rest(events: Events) -> tuple[Tensor, ...]:
    return (events.t, events.layer, events.unit, events.local, events.jump)


_OF_ROWS = ("t", "last", "first", "values", "slopes")


def _ordered(found: Tally) -> Tally:
    """Rows in the order of the path, each once; steps in order; events with them."""
    order = (~found.last).double().argsort(stable=True)  # at a knot, the row that looks back comes first
    order = order[found.t[order].argsort(stable=True)]
    t, last = found.t[order], found.last[order]
    fresh = torch.cat([torch.ones(1, dtype=torch.bool), (t[1:] != t[:-1]) | (last[1:] != last[:-1])])
    rows = order[fresh]
    steps = found.begin.argsort(stable=True)
    rank = torch.empty_like(steps)
    rank[steps] = torch.arange(len(steps))
    parts = {
        f.name: getattr(found, f.name)[rows if f.name in _OF_ROWS else steps]
        for f in fields(Tally)
        if f.name != "events"
    }
    events = Events(rank[found.events.step], *_rest(found.events))
    return Tally(**parts, events=events.take(events.t.argsort(stable=True)))


def _pruned(found: Tally, listed: int) -> Tally:
    """The largest kinks only."""
    size = found.events.jump.norm(dim=1)
    if len(size) <= 2 * listed:
        return found
    kept = size.argsort(descending=True, stable=True)[: 2 * listed].sort()[0]
    return replace(found, events=found.events.take(kept))


def _distinct(found: Tally) -> int:
    return len(found.t) - int(found.last.sum()) + 1


def _rows(found: Tally) -> Rows:
    return Rows(found.t, found.last, found.first, ~found.last)


def _doubtful(found: Tally, count: int) -> Tensor:
    """Steps to bisect, ascending: where the outputs' sums are least certain, and among equals the longest."""
    total = found.value.sum(0)
    share = (found.doubt / torch.where(total > 0, total, torch.inf) ** 2).sum(1)
    length = found.end - found.begin
    priority = share + 1e-9 * length / length.sum() * max(1.0, float(share.amax()))
    return priority.argsort(descending=True, stable=True)[:count].sort()[0]


def _replaced(found: Tally, steps: Tensor, finer: Tally) -> Tally:
    """The tally with some steps taken out and finer ones in their place."""
    stays = torch.ones(len(found.begin), dtype=torch.bool)
    stays[steps] = False
    rank = stays.long().cumsum(0) - 1
    kept = found.events.take(stays[found.events.step])
    rest = {
        f.name: getattr(found, f.name) if f.name in _OF_ROWS else getattr(found, f.name)[stays]
        for f in fields(Tally)
        if f.name != "events"
    }
    return _joined([Tally(**rest, events=Events(rank[kept.step], *_rest(kept))), finer])


def result(
    network: Network,
    path: Path,
    found: Tally,
    units: UnitSums | None,
    limits: Limits,
    estimator: str,
    notes: tuple[str, ...],
) -> Smp:
    """Sums over all steps, and the largest kinks."""
    places = [network.places[node.name] for node in network.switching]
    layers = found.by_layer.sum(0)
    length = float(path.end) - float(path.start)
    events, count = found.events, int(found.count.sum())
    if len(events.t) > limits.listed:
        kept = events.jump.norm(dim=1).argsort(descending=True, stable=True)[: limits.listed].sort()[0]
        events = events.take(kept)
    kinks = Kinks(
        events.t, events.layer, events.unit, events.local, events.jump, tuple(places), dropped=count - len(events.t)
    )
    right = ~found.last
    right[-1] = True
    return Smp(
        value=found.value.sum(0),
        grade=Grade.STATISTICAL,
        estimator=estimator,
        group=float(found.group.sum()),
        count=float(count),
        energy=found.energy.sum(0) / length,
        signed=found.signed.sum(0),
        path=path_kinks(found),
        by_layer=dict(zip(places, layers, strict=True)),
        length=length,
        samples=_distinct(found),
        t=found.t[right],
        outputs=found.values[right],
        slopes=found.slopes[right],
        by_unit={} if units is None else {places[layer]: parts for layer, parts in sorted(units.by_layer.items())},
        kinks=kinks,
        error=found.doubt.sum(0).sqrt(),
        notes=notes,
    )


def path_kinks(found: Tally) -> Tensor:
    """(K,) sum of the jumps of the outputs' slopes at the path's own knots."""
    ends = found.last.nonzero()[:-1, 0]  # the last row ends the path
    return (found.slopes[ends + 1] - found.slopes[ends]).abs().sum(0)
