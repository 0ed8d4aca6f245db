"""The walk that certifies a radius: a line above every unit's change, found by carrying units back to the input.

Activations and max pools are replaced by the lines of `relaxed`, which need the interval of every unit before them.
That interval comes from the unit itself, carried back through all the lines before it: change <= g . d + shift, which
is shift + r ||g|| on a ball of radius r. These are the bounds of CROWN (Zhang et al. 2018, arXiv 1811.00866) in the
2-norm, on any graph. What was found on one ball holds on every smaller one, with the radius alone exchanged: a unit
whose slope the old lines already settle is not carried back again.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from assay.certified.nonlinear import bend_gain, reason_against, windows
from assay.certified.packing import Packing, pack
from assay.certified.relaxed import Line, Lines, around, around_pool, uncertain_elements
from assay.certified.slopes import slopes, slopes_between
from assay.errors import UnsupportedOperator
from assay.graph import OPERATORS, Graph, Node, evaluate_node
from assay.interpret import OperatorMap, forward

_PER_PASS = 2**22
_SLACK = 1 + 1e-10  # what rounding in double precision may have taken off a norm
_TINY = 1e-12  # relative to the largest value of a layer: what rounding may do to a pre-activation


class Above(NamedTuple):
    """Bound on the change of some quantities (n,) on a ball of radius r: shift + r gradient."""

    shift: Tensor
    gradient: Tensor

    def at(self, radius: float) -> Tensor:
        """On a ball at most as large as the one that it was found on."""
        return self.shift + _SLACK * radius * self.gradient


class Both(NamedTuple):
    """The same for units and for their negatives."""

    up: Above
    down: Above


@dataclass(frozen=True, eq=False)
class Shared:
    """What holds for all inputs of a network, and is found with the first.

    Attributes:
        straight: bounds of units that are affine in the input, by node.
        packings: how the units of a node are carried back together; None where they cannot be.
    """

    straight: dict[str, Both] = field(default_factory=dict)
    packings: dict[str, Packing | None] = field(default_factory=dict)


class Unbounded(Exception):
    """A slope is not bounded on this ball; a smaller one may do."""


class _Centre(NamedTuple):
    """What travels along the edges: a node's value at the centre, and whether it is affine in the input."""

    name: str
    value: Tensor
    straight: bool


@dataclass(frozen=True, eq=False)
class _Step:
    """How bounds on a node become bounds on its inputs.

    Attributes:
        node: its name.
        inputs: names of those inputs.
        back: from weights (k, 1, ...) of the node to those of its inputs.
        shifts: of the lines above and below (n,), or None where the node is affine.
        reads: the same as `back` with some positive slope for every element that the node reads.
    """

    node: str
    inputs: tuple[str, ...]
    back: Callable[[Tensor], tuple[Tensor, ...]]
    shifts: tuple[Tensor, Tensor] | None = None
    reads: Callable[[Tensor], tuple[Tensor, ...]] | None = None


class ReverseDomain:
    """Carries centres through every operator and keeps the lines; see `assay.interpret.forward`.

    Args:
        graph: the prepared graph.
        radius: of the ball; 0 takes derivatives at the centre.
        known: bounds of units found on a ball that is no smaller.
        shared: what holds for all inputs; grows.
    """

    def __init__(self, graph: Graph, radius: float, known: Mapping[str, Both], shared: Shared) -> None:
        self.graph = graph
        self.radius = radius
        self.bounds: dict[str, Both] = dict(known)
        self.refused: list[tuple[Node, str]] = []
        self._shared = shared
        self._fresh: dict[str, Tensor] = {}  # units found on this very ball
        self._steps: list[_Step] = []
        self._largest = graph[graph.input].spec.size_per_sample

    def walk(self, x: Tensor) -> Tensor:
        """Go from an input (...) to the output; outputs at the centre (K,)."""
        with torch.no_grad():
            found = forward(self.graph, self, {self.graph.input: _Centre(self.graph.input, x[None], True)}, batch=1)
        return (found.value if isinstance(found, _Centre) else found)[0]

    @property
    def affine(self) -> bool:
        """Whether the whole way is affine."""
        return all(step.shifts is None for step in self._steps)

    def apply(self, node: Node, operands: Sequence[Any], live: frozenset[str], batch: int) -> _Centre:
        """Value of a node at the centre, its lines noted."""
        given = {i: one for i, one in enumerate(operands) if isinstance(one, _Centre)}
        varying = frozenset(given)
        numbers = [one.value if isinstance(one, _Centre) else one for one in operands]
        value = evaluate_node(node, numbers, 1)
        self._largest = max(self._largest, value.numel())
        row = OPERATORS[node.op]
        if row.family == "activation" and varying == {0}:
            self._activation(node, given[0], numbers[1:])
        elif row.affine_in(varying):
            back = OperatorMap(row, numbers, varying, dict(node.resolved(1))).transpose
            self._steps.append(_Step(node.name, tuple(given[i].name for i in sorted(given)), back))
            return _Centre(node.name, value, all(one.straight for one in given.values()))
        elif node.op in ("max_pool", "adaptive_max_pool") and varying == {0}:
            self._max_pool(node, given[0], value)
        else:
            self._other(node, list(given.values()), varying, value)
        return _Centre(node.name, value, False)

    def freeze(self, node: Node, operands: Sequence[Any], batch: int) -> Tensor:
        """Integers and comparisons jump: refused."""
        self.refused.append((node, "an integer or a comparison that depends on the input jumps"))
        return evaluate_node(node, [one.value if isinstance(one, _Centre) else one for one in operands], 1)

    def release(self, name: str) -> None:
        """Nothing is kept per node."""

    def reasons(self) -> tuple[str, ...]:
        """Every node that could not be bounded, and why."""
        return tuple({node.name: f"{node.place}: {reason}" for node, reason in self.refused}.values())

    def raise_refusals(self) -> None:
        """Name every node that could not be bounded.

        Raises:
            UnsupportedOperator: if there is any.
        """
        if self.refused:
            raise UnsupportedOperator(
                f"No radius can be certified: {len(self.reasons())} nodes of this model have no bound: "
                + "; ".join(self.reasons())
                + ".",
                where=", ".join(dict.fromkeys(node.name for node, _ in self.refused)),
                advice="Measure instead: the distance that an attack finds is an upper bound.",
            )

    def above(self, name: str, weights: Tensor) -> Above:
        """Bounds on the change of weighted sums of a node's elements.

        Args:
            name: of the node.
            weights: (k, 1, ...) of its shape.

        Returns:
            One bound per sum.
        """
        parts = []
        for part in weights.split(max(1, _PER_PASS // self._largest)):
            shift, gradient = weights.new_zeros(len(part)), weights.new_zeros(len(part))
            for step, reached in self._back(name, part):
                if step is None:
                    gradient = reached.norm(dim=1)
                elif step.shifts is not None:
                    shift = shift + _shifted(reached, step.shifts).sum(1)
            parts.append(Above(shift, gradient))
        return Above(*(torch.cat(each) for each in zip(*parts, strict=True)))

    def _back(self, name: str, weights: Tensor, *, reads: bool = False) -> Iterator[tuple[_Step | None, Tensor]]:
        """What reaches every node on the way back, (k, elements); at the input, without a step."""
        held = {name: weights}
        for step in reversed(self._steps):
            reached = held.pop(step.node, None)
            if reached is None:
                continue
            yield step, reached.flatten(1)
            back = step.reads if reads and step.reads is not None else step.back
            for one, share in zip(step.inputs, back(reached), strict=True):
                held[one] = held[one] + share if one in held else share
        if self.graph.input in held:
            yield None, held[self.graph.input].flatten(1)

    def _ends(
        self, given: _Centre, open_units: Callable[[Tensor, Tensor], Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Ends (1, ...) of the interval of every unit of a node.

        Args:
            given: the node.
            open_units: which of its units (n,) are worth finding on this ball, from their ends by known bounds.

        Returns:
            Lower and upper ends.
        """
        if self.radius == 0:
            return given.value, given.value
        name, count = given.name, given.value.numel()
        if given.straight and name in self._shared.straight:
            self.bounds[name] = self._shared.straight[name]
        elif given.straight:  # there is no line before it: both bounds are norms of its rows
            up = self._found(given, torch.arange(count), 1.0)
            self.bounds[name] = self._shared.straight[name] = Both(up, up)
        else:
            done = self._fresh.get(name, torch.zeros(count, dtype=torch.bool))
            wanted = torch.ones(count, dtype=torch.bool)
            if name in self.bounds and open_units is not None:
                wanted = open_units(*self._known_ends(given))
            wanted = wanted & ~done
            if bool(wanted.any()):
                places = wanted.nonzero()[:, 0]
                new = Both(self._found(given, places, 1.0), self._found(given, places, -1.0))
                self.bounds[name] = _updated(self.bounds.get(name), new, places)
            self._fresh[name] = done | wanted
        return self._known_ends(given)

    def _known_ends(self, given: _Centre) -> tuple[Tensor, Tensor]:
        up, down = (side.at(self.radius).clamp(min=0).reshape(given.value.shape) for side in self.bounds[given.name])
        tiny = _TINY * given.value.abs().max()
        return given.value - down - tiny, given.value + up + tiny

    def _found(self, given: _Centre, places: Tensor, sign: float) -> Above:
        """Bounds on the change of units, or of their negatives."""
        packing = None if given.straight else self._packing(given)
        if packing is not None:
            return self._found_packed(given, places, sign, packing)
        parts = []
        for some in places.split(max(1, _PER_PASS // self._largest)):
            weights = torch.zeros(len(some), given.value.numel(), dtype=given.value.dtype)
            weights[torch.arange(len(some)), some] = sign
            parts.append(self.above(given.name, weights.reshape(-1, *given.value.shape)))
        return Above(*(torch.cat(each) for each in zip(*parts, strict=True)))

    def _found_packed(self, given: _Centre, places: Tensor, sign: float, packing: Packing) -> Above:
        shift, square = (given.value.new_zeros(given.value.numel()) for _ in range(2))
        weights = given.value.new_zeros(int(packing.row.max()) + 1, given.value.numel())
        weights[packing.row[places], places] = sign
        for rows in packing.row[places].unique().split(max(1, _PER_PASS // self._largest)):
            for step, reached in self._back(given.name, weights[rows].reshape(-1, *given.value.shape)):
                if step is None:
                    square = square + packing.totals(self.graph.input, rows, reached.square())
                elif step.shifts is not None:
                    shift = shift + packing.totals(step.node, rows, _shifted(reached, step.shifts))
        return Above(shift[places], square[places].sqrt())

    def _packing(self, given: _Centre) -> Packing | None:
        packings, count = self._shared.packings, given.value.numel()
        if given.name not in packings:

            def back(weights: Tensor) -> dict[str, Tensor]:
                way = self._back(given.name, weights.reshape(-1, *given.value.shape), reads=True)
                return {
                    self.graph.input if step is None else step.node: reached
                    for step, reached in way
                    if step is None or step.shifts is not None
                }

            ends = {self.graph.input, *(step.node for step in self._steps if not step.inputs)}
            packings[given.name] = pack(count, back, ends, max(1, _PER_PASS // self._largest))
        return packings[given.name]

    def _activation(self, node: Node, given: _Centre, fixed: Sequence[Tensor | None]) -> None:
        def open_units(low: Tensor, high: Tensor) -> Tensor:
            least, most = slopes_between(node, fixed, low, high)
            return (least != most).reshape(-1)

        low, high = self._ends(given, open_units)
        if self.radius > 0:
            lines = around(node, fixed, given.value, low, high)
        else:
            least, most = slopes_between(node, fixed, low, high)
            if not bool((torch.isfinite(least) & torch.isfinite(most)).all()):
                reason = slopes(node, fixed)
                self._refuse(node, reason if isinstance(reason, str) else "its slope is not bounded there")
                return
            line = Line((least + most) / 2, torch.zeros_like(low))
            lines = Lines(line, line)

        def back(weights: Tensor) -> tuple[Tensor]:
            return (weights * torch.where(weights > 0, lines.above.slope, lines.below.slope),)

        some = _positive(node, low)
        self._note(node, (given.name,), back, lines, lambda weights: (weights * some,))

    def _max_pool(self, node: Node, given: _Centre, value: Tensor) -> None:
        low, high = self._ends(given, lambda low, high: uncertain_elements(node, low, high, value))
        place, lines = around_pool(node, given.value, low, high, value)

        def back(weights: Tensor) -> tuple[Tensor]:
            kept = weights * torch.where(weights > 0, lines.above.slope, lines.below.slope)
            spread = weights.new_zeros(len(weights), given.value.numel())
            return (spread.index_add_(1, place, kept.flatten(1)).reshape(-1, *given.value.shape),)

        def reads(weights: Tensor) -> tuple[Tensor]:
            taps, present = windows(node, given.value, value)
            spread = weights.new_zeros(len(weights), given.value.numel())
            for tap, there, some in zip(taps, present, _positive(node, taps), strict=True):
                spread.index_add_(1, tap.reshape(-1), (weights * some * there).flatten(1))
            return (spread.reshape(-1, *given.value.shape),)

        self._note(node, (given.name,), back, lines, reads)

    def _other(self, node: Node, given: Sequence[_Centre], varying: frozenset[int], value: Tensor) -> None:
        """Operators with a global constant: how far all of their elements can move in all."""
        gain = bend_gain(node, given[0].value.shape, "2", varying, value.shape)
        if gain is None:
            self._refuse(node, reason_against(node))
            return
        moved = value.new_zeros(())
        for one in given:
            low, high = self._ends(one)
            moved = moved + torch.maximum(high - one.value, one.value - low).square().sum()
        most = torch.full_like(value, gain * _SLACK * float(moved.sqrt()))
        zeros = torch.zeros_like(value)
        self._note(node, (), lambda weights: (), Lines(Line(zeros, most), Line(zeros, -most)))

    def _note(
        self,
        node: Node,
        inputs: tuple[str, ...],
        back: Callable[[Tensor], tuple[Tensor, ...]],
        lines: Lines,
        reads: Callable[[Tensor], tuple[Tensor, ...]] | None = None,
    ) -> None:
        above, below = lines.above.shift.reshape(-1), lines.below.shift.reshape(-1)
        if not bool((torch.isfinite(above) & torch.isfinite(below)).all()):
            raise Unbounded
        self._steps.append(_Step(node.name, inputs, back, (above, below), reads))

    def _refuse(self, node: Node, reason: str) -> None:
        self.refused.append((node, reason))
        self._steps.append(_Step(node.name, (), lambda weights: ()))


def _shifted(reached: Tensor, shifts: tuple[Tensor, Tensor]) -> Tensor:
    """What the shifts of the lines add, by element (k, n)."""
    return reached * torch.where(reached > 0, *shifts)


def _positive(node: Node, like: Tensor) -> Tensor:
    """Random numbers of a node, the same in every walk."""
    generator = torch.Generator().manual_seed(zlib.crc32(node.name.encode()))
    return 0.5 + torch.rand(like.shape, generator=generator, dtype=torch.float64)


def _updated(old: Both | None, new: Both, places: Tensor) -> Both:
    """Known bounds with some units' replaced."""
    if old is None:
        return new

    def changed(before: Tensor, after: Tensor) -> Tensor:
        found = before.clone()
        found[places] = after
        return found

    return Both(
        *(
            Above(*(changed(before, after) for before, after in zip(side, fresh, strict=True)))
            for side, fresh in zip(old, new, strict=True)
        )
    )


def reverse_walk(
    graph: Graph, x: Tensor, radius: float, known: Mapping[str, Both], shared: Shared
) -> tuple[Tensor, ReverseDomain]:
    """Walk to the output on one ball.

    Args:
        graph: the prepared graph.
        x: (...) its centre, float64.
        radius: of the ball; 0 takes derivatives at the centre.
        known: bounds from a larger ball around the same input.
        shared: what holds for all inputs of the graph; grows.

    Returns:
        Outputs at the centre (K,), and the domain, whose `above` bounds what is made of the graph's output.

    Raises:
        UnsupportedOperator: naming every node that cannot be bounded.
        Unbounded: where a slope is not bounded on a ball of this size.
    """
    domain = ReverseDomain(graph, radius, known, shared)
    outputs = domain.walk(x)
    domain.raise_refusals()
    return outputs, domain
