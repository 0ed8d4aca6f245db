"""SMP by a kernel in the values of units instead of by crossings: Kac-Rice without an assumption on their law.

E sum |z'| |g| over crossings = density of z at its threshold times E[z'^2 |g| | threshold]; a narrow Gaussian kernel
takes both from samples. It needs no neighbouring samples, so it also works on scattered points; `event` is more precise
where the path is sampled densely.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from assay.grade import Grade
from assay.smoothness.estimators.event import Limits
from assay.smoothness.estimators.rows import Rows, planned
from assay.smoothness.estimators.windows import window_places
from assay.smoothness.kinks import Smp
from assay.smoothness.network import Network
from assay.smoothness.paths.path import Path
from assay.smoothness.switches import WINNERS
from assay.smoothness.walk import Sweep, Switch

WIDTHS = (0.05, 0.1)
"""Kernel widths in standard deviations; the result is extrapolated to width 0 from both."""
_HALVES = 2  # even and odd samples: how far apart they are tells the error


@dataclass(frozen=True, eq=False)
class _Gaps:
    """Distances of units of one node from a kink at n points.

    Attributes:
        distance: (n, units) from the threshold, or between the two largest of a window.
        speed: (n, units) magnitude of its derivative.
        change: jump of the unit's slope per unit of speed.
        spread: (n, units) what varies: its deviation along the path scales the kernel.
        kink: (n, units) number of the kink that a unit has a part in; None where every unit has one of its own.
    """

    distance: Tensor
    speed: Tensor
    change: Tensor | float
    spread: Tensor
    kink: Tensor | None = None

    @property
    def parts(self) -> Tensor | float:
        """(n, units) how many units have a part in the same kink."""
        return 1.0 if self.kink is None else self.kink.flatten().bincount()[self.kink]

    def jumps(self, gradient: Tensor) -> Tensor:
        """(n, units) jump of the output's slope at the kink that each unit has a part in."""
        own = gradient * self.change * self.speed
        if self.kink is None:
            return own
        whole = own.new_zeros(int(self.kink.max()) + 1).index_add_(0, self.kink.flatten(), own.flatten())
        return whole[self.kink]


class _Sums:
    """Running sums, by kernel width.

    Args:
        network: the network.
        outputs: number of outputs.
    """

    def __init__(self, network: Network, outputs: int) -> None:
        widths, layers = len(WIDTHS), len(network.switching)
        self.parts = torch.zeros(widths, _HALVES, layers, outputs, dtype=torch.float64)
        self.energy = torch.zeros(widths, outputs, dtype=torch.float64)
        self.signed = torch.zeros(widths, outputs, dtype=torch.float64)
        self.group = torch.zeros(widths, dtype=torch.float64)
        self.count = torch.zeros(widths, dtype=torch.float64)
        self.units = [torch.zeros(widths, n.spec.size_per_sample, outputs).double() for n in network.switching]

    def add(self, every: list[list[_Gaps]], crossing: list[list[Tensor]], sweep: Sweep, half: Tensor) -> None:
        """Add the rows of a sweep: `crossing` (widths, n, units) are expected crossings of every gap."""
        squares = [[torch.zeros_like(gap.speed) for gap in gaps] for gaps in every]
        for output in range(sweep.values.shape[1]):
            for layer, gradient in enumerate(sweep.adjoint(output)):
                for place, gap in enumerate(every[layer]):
                    jump = gap.jumps(gradient)
                    square = jump.square()
                    squares[layer][place] += square
                    size = jump.abs() * crossing[layer][place]
                    self.parts[:, :, layer, output].index_add_(1, half, size.sum(2))
                    self.units[layer][:, :, output] += size.sum(1)
                    self.energy[:, output] += (square * crossing[layer][place]).sum((1, 2))
                    self.signed[:, output] += (jump * crossing[layer][place]).sum((1, 2))
        for layer, gaps in enumerate(every):
            for place in range(len(gaps)):
                total = squares[layer][place]
                self.count += (crossing[layer][place] * (total > 0)).sum((1, 2))
                self.group += (crossing[layer][place] * total.sqrt()).sum((1, 2))


def kac_rice(
    network: Network,
    path: Path,
    *,
    samples: int = 1025,
    by_unit: bool = False,
    limits: Limits | None = None,
) -> Smp:
    """SMP along any path from densities of units at their thresholds and of ties in windows.

    Kernel widths c = 0.05 and 0.1 standard deviations of a unit, extrapolated as 2 S(0.05) - S(0.1). Of a window the
    two largest count, whose tie is what changes the winner; windows that overlap and have the same two largest have one
    kink together. Kinks are not located: `kinks` is None. Other units that bend at once are counted one by one, and
    units that rest on their threshold for a while distort the result. The number of kinks is rougher than their sum:
    slow crossings weigh most in it.

    Args:
        network: the network.
        path: the path.
        samples: different parameters at which the network is looked at.
        by_unit: whether to attribute to units too.
        limits: memory.

    Returns:
        The estimate, grade statistical; its standard error comes from even and odd samples.
    """
    limits = limits or Limits()
    rows = planned(path, samples)
    weights = _weights(rows)
    tables = {n.name: window_places(network.graph, n) for n in network.switching if n.op in WINNERS}
    deviations, values, slopes = _deviations(network, path, rows, weights, tables, limits)
    sums = _Sums(network, values.shape[1])
    for begin, sweep in _sweeps(network, path, rows, limits, adjoints=True):
        here = torch.arange(begin, begin + len(sweep.values))
        every = _every(sweep, tables, merged=True)
        crossing = [
            [torch.stack([_kernel(gap, d, c) for c in WIDTHS]) * (gap.speed * weights[here, None] / gap.parts)
             for gap, d in pairs]
            for pairs in (zip(*one, strict=True) for one in zip(every, deviations, strict=True))
        ]  # fmt: skip
        sums.add(every, crossing, sweep, here % _HALVES)
    places = [network.places[node.name] for node in network.switching]
    by_half = _extrapolated(sums.parts)  # (halves, layers, K)
    by_layer = by_half.sum(0)
    length = float(path.end) - float(path.start)
    right = ~rows.last
    right[-1] = True
    ends = rows.last.nonzero()[:-1, 0]
    return Smp(
        value=by_layer.sum(0),
        grade=Grade.STATISTICAL,
        estimator="kac_rice",
        group=float(_extrapolated(sums.group)),
        count=float(_extrapolated(sums.count)),
        energy=_extrapolated(sums.energy) / length,
        signed=_extrapolated(sums.signed),
        path=(slopes[ends + 1] - slopes[ends]).abs().sum(0),
        by_layer=dict(zip(places, by_layer, strict=True)),
        length=length,
        samples=len(rows) - int(rows.last.sum()) + 1,
        t=rows.t[right],
        outputs=values[right],
        slopes=slopes[right],
        by_unit=dict(zip(places, map(_extrapolated, sums.units), strict=True)) if by_unit else {},
        error=(by_half[0].sum(0) - by_half[1].sum(0)).abs(),
        notes=("Kinks that coincide are counted one by one, those of overlapping windows together.",),
    )


def _extrapolated(by_width: Tensor) -> Tensor:
    return 2 * by_width[0] - by_width[1]


def _weights(rows: Rows) -> Tensor:
    """(r,) lengths of path that the rows stand for: the trapezoid rule."""
    width = (rows.t[1:] - rows.t[:-1]) * rows.linked[:-1] / 2
    none = torch.zeros(1, dtype=torch.float64)
    return torch.cat([width, none]) + torch.cat([none, width])


def _sweeps(network: Network, path: Path, rows: Rows, limits: Limits, *, adjoints: bool) -> Iterator[tuple[int, Sweep]]:
    """Sweeps over all rows, each row once, with the number of the first row."""
    size, begin = limits.chunk(network), 0
    while begin < len(rows):
        part = rows.part(begin, min(len(rows), begin + size))
        x, tangent = part.points(path)
        yield begin, network.sweep(x, tangent, adjoints=adjoints, linked=part.linked, last=part.last)
        begin += len(part)


def _deviations(
    network: Network, path: Path, rows: Rows, weights: Tensor, tables: dict[str, Tensor], limits: Limits
) -> tuple[list[list[Tensor]], Tensor, Tensor]:
    """Standard deviations (units,) along the path of what kernels are narrow in, outputs and slopes."""
    means: list[list[Tensor]] = []
    squares: list[list[Tensor]] = []
    first: list[list[Tensor]] = []
    values, slopes = [], []
    share = weights / weights.sum()
    for begin, sweep in _sweeps(network, path, rows, limits, adjoints=False):
        weight = share[begin : begin + len(sweep.values), None]
        every = _every(sweep, tables)
        if not first:  # sums about the first row, so that nothing cancels; gaps of windows have no centre but 0
            first = [[g.spread[0].clone() if s.winners is None else torch.zeros_like(g.spread[0]) for g in gaps]
                     for s, gaps in zip(sweep.switches, every, strict=True)]  # fmt: skip
            means, squares = ([[torch.zeros_like(z) for z in shifts] for shifts in first] for _ in range(2))
        for layer, gaps in enumerate(every):
            for place, gap in enumerate(gaps):
                moved = gap.spread - first[layer][place]
                means[layer][place] += (weight * moved).sum(0)
                squares[layer][place] += (weight * moved * moved).sum(0)
        values.append(sweep.values)
        slopes.append(sweep.slopes)
    deviations = [
        [(sq - (0.0 if node.name in tables else 1.0) * m * m).clamp(min=0).sqrt() for m, sq in zip(*pair, strict=True)]
        for node, *pair in zip(network.switching, means, squares, strict=True)
    ]
    return deviations, torch.cat(values), torch.cat(slopes)


def _every(sweep: Sweep, tables: dict[str, Tensor], *, merged: bool = False) -> list[list[_Gaps]]:
    """Gaps of every node; `merged` finds out too which windows have a kink together, which takes a sort."""
    return [_gaps(switch, tables.get(switch.node.name), merged) for switch in sweep.switches]


def _gaps(switch: Switch, table: Tensor | None, merged: bool) -> list[_Gaps]:
    if table is None:
        return [
            _Gaps(switch.inputs - level, switch.slopes.abs(), change, switch.inputs)
            for level, change in switch.thresholds
        ]
    sign = -1.0 if switch.node.op == "minimum" else 1.0
    inside = table >= 0
    seen = torch.where(inside, sign * switch.inputs[:, table.clamp(min=0)], -torch.inf)
    moving = switch.slopes[:, table.clamp(min=0)]
    if table.shape[1] == 1:
        return []
    top, place = seen.topk(2, dim=2)
    steep = moving.gather(2, place)
    gap = top[..., 0] - top[..., 1]
    gap = torch.where(torch.isfinite(gap), gap, 0.0)  # a window with one candidate never ties
    speed = torch.where(inside.sum(1) > 1, (steep[..., 0] - steep[..., 1]).abs(), 0.0)
    return [_Gaps(gap, speed, sign, gap, _shared(table, place) if merged and _overlapping(table) else None)]


def _overlapping(table: Tensor) -> bool:
    """Whether two windows look at a common place."""
    places = table[table >= 0]
    return len(places.unique()) < len(places)


def _shared(table: Tensor, place: Tensor) -> Tensor:
    """Numbers of kinks: equal in windows of a point whose largest two are the same places.

    Args:
        table: (units, k) places of candidates.
        place: (n, units, 2) which of the k are largest.

    Returns:
        (n, units) whole numbers from 0.
    """
    pair = table.clamp(min=0).expand(len(place), -1, -1).gather(2, place)
    size = int(table.max()) + 1
    row = torch.arange(len(place))[:, None]
    return ((row * size + pair[..., 0]) * size + pair[..., 1]).unique(return_inverse=True)[1]


def _kernel(gap: _Gaps, deviation: Tensor, c: float) -> Tensor:
    """Gaussian kernel in the distance; 0 for units that do not vary."""
    width = c * deviation
    varies = (width > 0) & torch.isfinite(width)
    width = torch.where(varies, width, 1.0)
    weight = torch.exp(-0.5 * (gap.distance / width) ** 2) / (width * math.sqrt(2 * math.pi))
    return torch.where(varies & torch.isfinite(gap.distance), weight, 0.0)
