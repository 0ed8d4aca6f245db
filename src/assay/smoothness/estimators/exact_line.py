"""Every kink of a piecewise linear network along a straight path, exact up to rounding."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from assay.errors import NumericalError, UsageError
from assay.grade import Grade
from assay.smoothness.estimators import polyline_maxima  # noqa: F401 (it fills the table)
from assay.smoothness.estimators.polyline import END, Marks, Polyline, TooManyRows, segment
from assay.smoothness.estimators.polyline_rules import TABLE, check_piecewise_linear, propagate
from assay.smoothness.kinks import Kinks, Smp
from assay.smoothness.network import Network
from assay.smoothness.paths.path import Path

TABLE.freeze()

MEMORY = 2**29
"""Bytes that the values of a walk may take, unless the caller says otherwise."""
_SHORTEST = 1e-13  # share of a section below which an interval holds no measurable slope
_FEWEST = 2.0**-40  # share of a section below which it is not cut any further
_SILENT = 1e-11  # share of the steepest slope below which a jump is rounding
_CONSISTENT = 1e-7  # share of the outputs' size by which values and slopes may disagree
_ROWS = 16  # more rows at a time are slower: they leave the processor's caches
_GOLDEN = 0.6180339887498949
_PROBES = (0.0, 0.1234, 0.271, 0.419, 0.5772, 0.693, 0.809, 0.9162, 1.0)


@dataclass(frozen=True, eq=False)
class _Section:
    """A straight part of the path, between two of its knots."""

    start: float
    end: float
    first: Tensor
    last: Tensor

    @property
    def tangent(self) -> Tensor:
        return (self.last - self.first) / (self.end - self.start)

    def point(self, share: Tensor) -> Tensor:
        return torch.lerp(self.first, self.last, share.reshape(-1, *[1] * self.first.dim()))

    @property
    def shortest(self) -> float:
        """Share of the section below which two points are too close to tell on which side of a kink they are."""
        step = float((self.last - self.first).abs().max())
        size = max(float(self.first.abs().max()), float(self.last.abs().max()))
        return max(_SHORTEST, 16 * 2.0**-53 * size / step if step else 1.0)


@dataclass(frozen=True, eq=False)
class _Bends:
    """Kinks and intervals of one section: n intervals, n - 1 kinks between them, in shares of the section.

    `low`, `high` (n,) are the ends of the intervals and `values_low`, `values_high` (n, K) the outputs there.
    """

    low: Tensor
    high: Tensor
    values_low: Tensor
    values_high: Tensor
    marks: Marks
    slopes: Tensor

    @property
    def places(self) -> Tensor:
        """(n - 1,) kinks."""
        return (self.high[:-1] + self.low[1:]) / 2


def exact_line(network: Network, line: Path, *, memory: float = MEMORY, by_unit: bool = False) -> Smp:
    """Sum of the magnitudes of slope jumps along a straight path, and every kink with the unit that makes it.

    The breakpoints of every layer are carried through the network (as in ExactLine: Sotoudeh and Thakur, 2019,
    arXiv 1908.06214); the slope between two of them is a Jacobian-vector product at their middle. Values and slopes
    must agree, so a breakpoint that was missed is an error, not a wrong number.

    A path may have knots with straight lines between them; what happens at knots belongs to the path. Where several
    units bend at one place, that is one kink, and belongs to the first of them in the order of the graph. Bends that
    change no output (units that a maximum or a ReLU silences) do not count, nor do kinks at the very ends of the path.

    Args:
        network: piecewise linear.
        line: straight between its knots.
        memory: bytes that the values of a walk may take together. The path is cut into pieces that fit; the result does
            not depend on the pieces.
        by_unit: whether to sum by unit, too.

    Returns:
        Grade exact, in output units per unit of the path's parameter; float64.

    Raises:
        NumericalError: when rounding hides what happens, or the outputs are not finite.
        UnsupportedOperator: for networks that are not piecewise linear, with all operators that are not.
        UsageError: for a path that is curved, or too little memory.

    Example:
        >>> from torch import nn
        >>> from assay.smoothness.paths.line import Line
        >>> network = Network.of(nn.Sequential(nn.ReLU(), nn.Linear(2, 1)), torch.zeros(1, 2))
        >>> line = Line(torch.tensor([-1.0, 1.0]), torch.tensor([1.0, -2.0]))
        >>> exact_line(network, line).kinks.t  # one input crosses zero in the middle, the other one after a third
        tensor([0.3333, 0.5000], dtype=torch.float64)
    """
    check_piecewise_linear(network.graph)
    sections = list(_sections(line))
    parts = [_bends(network, section, memory) for section in sections]
    steepest = torch.stack([part.slopes.abs().amax(0) for part in parts]).amax(0)
    kept: list[tuple[Tensor, Marks, Tensor]] = []
    silent = 0
    for section, part in zip(sections, parts, strict=True):
        jumps = part.slopes[1:] - part.slopes[:-1]
        felt = (jumps.abs() > _SILENT * steepest).any(1)
        silent += int((~felt).sum())
        duration = section.end - section.start
        marks = part.marks.take(felt)
        marks = marks._replace(local=marks.local / duration)
        kept.append((section.start + duration * part.places[felt], marks, jumps[felt]))
    t, jumps = torch.cat([one[0] for one in kept]), torch.cat([one[2] for one in kept])
    marks = Marks(*(torch.cat(column) for column in zip(*(one[1] for one in kept), strict=True)))
    knots = [after.slopes[0] - before.slopes[-1] for before, after in itertools.pairwise(parts)]
    path = torch.stack(knots).abs().sum(0) if knots else torch.zeros_like(steepest)
    places = [network.places.get(node.name, node.place) for node in network.graph]
    at, outputs, slopes = _track(sections, parts)
    length = sections[-1].end - sections[0].start
    return Smp(
        value=jumps.abs().sum(0),
        grade=Grade.EXACT,
        estimator="exact_line",
        group=float(jumps.norm(dim=1).sum()),
        count=len(t),
        energy=jumps.square().sum(0) / length,
        signed=jumps.sum(0),
        path=path,
        by_layer=_by_layer(network, marks, jumps),
        by_unit=_by_unit(network, marks, jumps) if by_unit else {},
        kinks=_listed(t, marks, jumps, places),
        length=length,
        samples=sum(len(part.low) for part in parts),
        t=at,
        outputs=outputs,
        slopes=slopes,
        notes=(f"{silent} more bends of units change no output.",) if silent else (),
    )


def _listed(t: Tensor, marks: Marks, jumps: Tensor, places: list[str]) -> Kinks:
    layers, index = marks.layer.unique(return_inverse=True)
    unit = torch.where(marks.several, -1, marks.unit)
    return Kinks(t, index, unit, marks.local, jumps, tuple(places[layer] for layer in layers.tolist()))


def _by_layer(network: Network, marks: Marks, jumps: Tensor) -> dict[str, Tensor]:
    """Part of every layer with kinks of its own, zero where it made none."""
    return {
        network.places[node.name]: jumps[marks.layer == position].abs().sum(0)
        for position, node in enumerate(network.graph)
        if node in network.switching
    }


def _by_unit(network: Network, marks: Marks, jumps: Tensor) -> dict[str, Tensor]:
    sums: dict[str, Tensor] = {}
    for position, node in enumerate(network.graph):
        if node in network.switching:
            mine = marks.layer == position
            units = torch.zeros(node.spec.size_per_sample, jumps.shape[1], dtype=torch.float64)
            units.index_add_(0, marks.unit[mine], jumps[mine].abs())
            sums[network.places[node.name]] = units
    return sums


def _track(sections: list[_Section], parts: list[_Bends]) -> tuple[Tensor, Tensor, Tensor]:
    """Parameters, outputs and slopes (from the right) at the start of every interval and at the end of the path."""
    t = [s.start + (s.end - s.start) * p.low for s, p in zip(sections, parts, strict=True)]
    end = torch.tensor([sections[-1].end], dtype=torch.float64)
    outputs = [*(part.values_low for part in parts), parts[-1].values_high[-1:]]
    slopes = [*(part.slopes for part in parts), parts[-1].slopes[-1:]]
    return torch.cat([*t, end]), torch.cat(outputs), torch.cat(slopes)


def _sections(line: Path) -> Iterator[_Section]:
    """The path cut at its knots.

    Yields:
        Its straight parts.

    Raises:
        UsageError: unless it is straight between them.
    """
    ends = torch.tensor([line.start, *line.knots, line.end], dtype=torch.float64)
    firsts, lasts = line.at(ends[:-1])[0], line.at(ends[1:], side="left")[0]
    shares = torch.tensor(_PROBES, dtype=torch.float64)
    for place, (start, end) in enumerate(zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True)):
        section = _Section(start, end, firsts[place], lasts[place])
        t = (start + (end - start) * shares).clamp(start, end)
        points, tangents = line.at(t[:-1])
        size = float(torch.maximum(section.first.abs(), section.last.abs()).max()) + 1e-300
        speed = float(tangents.abs().max()) + 16 * 2.0**-53 * size / (end - start)
        off = float((points - section.point(shares[:-1])).abs().max()) / size
        turned = float((tangents - section.tangent).abs().max()) / speed
        if off > 1e-9 or (turned > 1e-6 and off > 64 * 2.0**-53):
            raise UsageError(
                f"The path is curved between {start:g} and {end:g}; kinks are found exactly on straight lines only.",
                where="path",
                advice='Use estimator="event", or join points of the path with Frames.',
            )
        yield section


def _bends(network: Network, section: _Section, memory: float) -> _Bends:
    """Intervals of a section on which all outputs are affine."""
    rows = _rows(network, section, memory)
    low, high = _intervals(rows.t, section.shortest)
    middle = (rows.t[low] + rows.t[high]) / 2
    slopes = _slopes(network, section, middle, memory)
    marks = _joined(rows.marks, high[:-1], low[1:])
    cuts = marks.layer == END
    if bool(cuts.any()):
        jumps = (slopes[1:] - slopes[:-1]).abs()
        bent = (jumps > _SILENT * slopes.abs().amax(0)).any(1)
        if bool((cuts & bent).any()):
            marks = _settled(network, section, rows.t[low], rows.t[high], marks, (cuts & bent).nonzero()[:, 0], memory)
        stays = ~cuts | bent
        whole = torch.ones(1, dtype=torch.bool)
        low, high = low[torch.cat([whole, stays])], high[torch.cat([stays, whole])]
        slopes, marks = slopes[torch.cat([whole, stays])], marks.take(stays)
    found = _Bends(rows.t[low], rows.t[high], rows.values[low], rows.values[high], marks, slopes)
    _check_consistent(found, section)
    return found


def _slopes(network: Network, section: _Section, shares: Tensor, memory: float) -> Tensor:
    """Slopes (n, K) of the outputs at these places, a few rows at a time."""
    tangent = section.tangent
    parts = []
    for some in shares.split(min(_ROWS, network.rows(int(memory)))):
        points = section.point(some)
        parts.append(network.sweep(points, tangent.expand(points.shape), adjoints=False).slopes)
    return torch.cat(parts)


def _check_consistent(found: _Bends, section: _Section) -> None:
    """Outputs must change by slope times time; they do not where a kink was missed."""
    duration = (found.high - found.low)[:, None] * (section.end - section.start)
    change = found.values_high - found.values_low
    expected = found.slopes * duration
    size = torch.maximum(found.values_low.abs().amax(0), found.values_high.abs().amax(0))
    size = torch.maximum(size, expected.abs().amax(0))
    if bool(((change - expected).abs() > _CONSISTENT * size).any()):
        raise NumericalError(
            "Outputs and slopes along the path disagree: rounding hides kinks.",
            where="path",
            advice='Take a longer path, or estimator="event".',
        )


def _rows(network: Network, section: _Section, memory: float) -> Polyline:
    """Selected outputs (m, K) at every breakpoint, at the ends and at cuts."""
    waiting, done = [(0.0, 1.0)], []
    while waiting:
        low, high = waiting.pop()
        try:
            done.append(_piece(network, section, low, high, memory))
        except TooManyRows as stop:
            if high - low < _FEWEST:
                raise UsageError(
                    f"{memory:.3g} bytes do not suffice for this network.", where="memory", advice="Allow more memory."
                ) from stop
            cuts = _cuts(low, high, stop.times)
            waiting += reversed(list(zip([low, *cuts], [*cuts, high], strict=True)))
    if len(done) == 1:
        return done[0]
    # the end of a piece is the start of the next one
    kept = [slice(None), *[slice(1, None)] * (len(done) - 1)]
    t, values = (torch.cat([getattr(p, n)[k] for p, k in zip(done, kept, strict=True)]) for n in ("t", "values"))
    columns = zip(*(p.marks for p in done), strict=True)
    marks = Marks(*(torch.cat([one[k] for one, k in zip(column, kept, strict=True)]) for column in columns))
    return Polyline(t, values, marks)


def _cuts(low: float, high: float, times: float) -> list[float]:
    """Inner ends of equal pieces, moved off round numbers: kinks of hand-made networks are there."""
    count = min(64, max(2, int(times * 1.2) + 1))
    step = (high - low) / count
    return [low + step * (k + 0.1 * (k * _GOLDEN % 1 - 0.5)) for k in range(1, count)]


def _piece(network: Network, section: _Section, low: float, high: float, memory: float) -> Polyline:
    first, last = section.point(torch.tensor([low, high], dtype=torch.float64))
    found = propagate(network.graph, segment(low, high, first, last, memory / 3), memory)
    if isinstance(found, Tensor):  # the outputs do not depend on the input
        t = torch.tensor([low, high], dtype=torch.float64)
        found = Polyline(t, found.expand(2, *found.shape[1:]), Marks.ends(2))
    values = found.flat if network.projection is None else found.flat @ network.projection
    if not bool(torch.isfinite(values).all()):
        raise NumericalError(
            "The network returns NaN or infinity along the path.",
            where="path",
            advice="Check the weights and the path.",
        )
    return found.with_values(values)


def _intervals(t: Tensor, shortest: float) -> tuple[Tensor, Tensor]:
    """First and last row of every interval that is long enough; what lies between two of them is one kink."""
    low = ((t[1:] - t[:-1]) > shortest).nonzero()[:, 0]
    if not len(low):
        low = (t[1:] - t[:-1]).argmax()[None]
    return low, low + 1


def _joined(marks: Marks, first: Tensor, last: Tensor) -> Marks:
    """One mark for all rows from `first` to `last` (n,): the first one in the order of the graph."""
    found = marks.take(first)
    for step in range(1, int((last - first).max()) + 1 if len(first) else 1):
        row = torch.minimum(first + step, last)
        there = marks.take(row)
        new = (row == first + step) & (there.layer != END)
        earlier = new & ((found.layer == END) | (there.layer < found.layer))
        unlike = new & (found.layer != END) & ((there.layer != found.layer) | (there.unit != found.unit))
        chosen = Marks(*(torch.where(earlier, one, other) for one, other in zip(there, found, strict=True)))
        found = chosen._replace(several=chosen.several | unlike | (new & there.several))
    return found


def _settled(
    network: Network, section: _Section, low: Tensor, high: Tensor, marks: Marks, cuts: Tensor, memory: float
) -> Marks:
    """Marks with those of kinks that lie on a cut, found by a short walk across it."""
    for cut in cuts.tolist():
        centre = float(high[cut] + low[cut + 1]) / 2
        reach = 0.5 * min(float(high[cut] - low[cut]), float(high[cut + 1] - low[cut + 1]))
        piece = _piece(network, section, centre - 0.6 * reach, centre + 0.4 * reach, memory)
        inner = torch.arange(1, len(piece) - 1)
        if not len(inner):
            raise NumericalError(
                "A kink lies where the path was cut to save memory, and its unit cannot be found.",
                where="memory",
                advice="Allow more memory, so that the path is cut elsewhere.",
            )
        one = _joined(piece.marks, inner[:1], inner[-1:])
        marks = Marks(*(part.index_copy(0, torch.tensor([cut]), new) for part, new in zip(marks, one, strict=True)))
    return marks
