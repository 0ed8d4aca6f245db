"""One walk through a graph at many points: values, slopes along a direction, and gradients of switching nodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from assay.errors import NumericalError, UnsupportedOperator
from assay.graph import OPERATORS, BatchSize, Graph, Node, evaluate_node
from assay.probe import forward_product
from assay.smoothness.switches import THRESHOLDS, WINNERS, Factor, candidates

Operands = Sequence[Tensor | None]


@dataclass(frozen=True, eq=False)
class Switch:
    """A node with kinks, at n points; units are the places in its flattened value.

    Attributes:
        node: the node.
        inputs: (n, units) values z that an elementwise function takes; (n, candidates) for a maximum.
        slopes: z' along the tangents, of the same shape.
        thresholds: (level, change of slope: a number or (units,)) of an elementwise function; empty for a maximum.
        winners: (n, units) place among the candidates that every maximum takes; None for an elementwise function.
        output: (n, ...) its value, part of a recorded computation where adjoints were asked for.
    """

    node: Node
    inputs: Tensor
    slopes: Tensor
    thresholds: tuple[tuple[float, Factor], ...]
    winners: Tensor | None
    output: Tensor

    @property
    def units(self) -> int:
        """Elements of its value per sample."""
        return self.node.spec.size_per_sample


@dataclass(frozen=True, eq=False)
class Sweep:
    """What one walk saw at n points.

    Attributes:
        values: (n, K) selected outputs.
        slopes: (n, K) their derivatives along the tangents.
        switches: every switching node.
    """

    values: Tensor
    slopes: Tensor
    switches: tuple[Switch, ...]
    recorded: Tensor

    def adjoint(self, output: int) -> tuple[Tensor, ...]:
        """Gradient of one output with respect to the value of every switching node, (n, units) each.

        Needs a sweep with `adjoints=True`. One backward pass.

        Returns:
            One gradient per switch.
        """
        wanted = [switch.output for switch in self.switches]
        if not wanted:
            return ()
        if not self.recorded.requires_grad:  # no switching node reaches the output
            return tuple(torch.zeros(len(self.values), s.units, dtype=torch.float64) for s in self.switches)
        found = torch.autograd.grad(
            self.recorded[:, output].sum(), wanted, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        return tuple(per_sample(s.node, g, len(self.values)) for s, g in zip(self.switches, found, strict=True))

    def adjoints(self) -> tuple[Tensor, ...]:
        """The same of all outputs, (K, n, units) each."""
        by_output = [self.adjoint(k) for k in range(self.values.shape[1])]
        return tuple(torch.stack(parts) for parts in zip(*by_output, strict=True))


def walk(
    graph: Graph,
    x: Tensor,
    xdot: Tensor,
    switching: frozenset[str],
    projection: Tensor | None,
    *,
    adjoints: bool,
    linked: Tensor | None,
    last: Tensor | None,
) -> Sweep:
    """See `Network.sweep`.

    Returns:
        The sweep; without `adjoints`, nothing is kept for a backward pass.

    Raises:
        NumericalError: when an output is NaN or infinite.
    """
    values: dict[str, Tensor] = {**graph.parameters, graph.input: x}
    tangents: dict[str, Tensor] = {graph.input: xdot}
    switches: list[Switch] = []
    side = torch.ones(len(x), dtype=torch.float64) if last is None else torch.where(last, -1.0, 1.0).double()
    context = _Context(len(x), adjoints, linked if len(x) > 1 else None, side)
    for node in graph:
        if node.op in ("input", "parameter"):
            continue
        operands = [None if name is None else values[name] for name in node.inputs]
        moving = [None if name is None else tangents.get(name) for name in node.inputs]
        if node.name in switching:
            switch, tangent = _switch(node, operands, moving, context)
            switches.append(switch)
            values[node.name], tangents[node.name] = switch.output, tangent
        else:
            with torch.set_grad_enabled(adjoints):
                values[node.name] = evaluate_node(node, operands, len(x))
            if any(one is not None for one in moving):
                tangents[node.name] = tangent_of(node, [_plain(one) for one in operands], moving, len(x))
        for name in node.inputs:
            if name is not None and graph.last_use.get(name) == node.name and name not in graph.parameters:
                values.pop(name, None)
                tangents.pop(name, None)
    recorded, slopes = values[graph.output], tangents.get(graph.output)
    recorded = recorded.reshape(len(x), -1)
    slopes = torch.zeros_like(recorded) if slopes is None else slopes.reshape(len(x), -1)
    if projection is not None:
        with torch.set_grad_enabled(adjoints):
            recorded, slopes = recorded @ projection, slopes @ projection
    found = recorded.detach()
    if not bool(torch.isfinite(found).all() and torch.isfinite(slopes).all()):
        raise NumericalError(
            "The network returns NaN or infinity along the path.",
            where="path",
            advice="Check the weights and the path.",
        )
    return Sweep(found, slopes.detach(), tuple(switches), recorded)


def per_sample(node: Node, value: Tensor, samples: int) -> Tensor:
    """Value of a node as (samples, units).

    Returns:
        A view where possible.

    Raises:
        UnsupportedOperator: when samples cannot be told apart in it.
    """
    axes = [axis for axis, size in enumerate(node.spec.shape) if isinstance(size, BatchSize)]
    if len(axes) != 1 or value.shape[axes[0]] % samples:
        error = apart(node)
        raise error
    return value.movedim(axes[0], 0).reshape(samples, -1)


def apart(node: Node) -> UnsupportedOperator:
    """The error for a node inside which samples of a batch cannot be told apart."""
    return UnsupportedOperator(
        f"The samples of a batch cannot be told apart inside {node.place}.",
        where=node.place,
        advice='Use estimator="sampled", which needs outputs only.',
    )


def _plain(value: Tensor | None) -> Tensor | None:
    return None if value is None else value.detach()


def tangent_of(node: Node, operands: Operands, moving: Operands, batch: int) -> Tensor:
    """Derivative of one node's value along the tangents of its inputs."""
    varying = frozenset(i for i, one in enumerate(moving) if one is not None)
    operator, attributes = OPERATORS[node.op], dict(node.resolved(batch))
    with torch.no_grad():
        if operator.affine_in(varying):
            mixed = [moving[i] if i in varying else one for i, one in enumerate(operands)]
            return operator.linear_part(mixed, varying, attributes)
    places = sorted(varying)

    def function(*parts: Tensor) -> Tensor:
        filled = list(operands)
        for place, part in zip(places, parts, strict=True):
            filled[place] = part
        return operator.evaluate(*filled, **attributes)

    return forward_product(function, [_needed(operands[i]) for i in places], [_needed(moving[i]) for i in places])[1]


def _needed(value: Tensor | None) -> Tensor:
    assert value is not None
    return value


@dataclass(frozen=True)
class _Context:
    """What the treatment of ties needs: batch, recording, which rows are neighbours, which ones look back."""

    batch: int
    adjoints: bool
    linked: Tensor | None
    side: Tensor
    """(n,) 1 for rows that look along the tangent, -1 for rows that look back."""

    def beside(self, value: Tensor, rest: Tensor) -> tuple[Tensor, Tensor]:
        """Rows of a value after and before every row; `rest` where there is no neighbour."""
        assert self.linked is not None
        linked = self.linked[:-1].reshape(-1, *[1] * (value.dim() - 1))
        after = torch.cat([torch.where(linked, value[1:], rest[:-1]), rest[-1:]])
        before = torch.cat([rest[:1], torch.where(linked, value[:-1], rest[1:])])
        return after, before


def _switch(node: Node, operands: Operands, moving: Operands, context: _Context) -> tuple[Switch, Tensor]:
    build = _maximum if node.op in WINNERS else _elementwise
    switch, tangent = build(node, operands, moving, context)
    if context.adjoints and not switch.output.requires_grad:
        switch.output.requires_grad_(True)  # the recorded computation starts here
    return switch, tangent


_TINY = 1e-15


def _elementwise(node: Node, operands: Operands, moving: Operands, context: _Context) -> tuple[Switch, Tensor]:
    x, slope, batch = _needed(operands[0]), _needed(moving[0]), context.batch
    found = THRESHOLDS[node.op]([x.detach(), *operands[1:]], node.attributes)
    used = x
    for one in found:
        push = _off(x.detach(), slope, one.level, context)
        used = used if push is None else used + push
    with torch.set_grad_enabled(context.adjoints):
        value = evaluate_node(node, [used, *operands[1:]], batch)
    tangent = tangent_of(node, [used.detach(), *(_plain(one) for one in operands[1:])], [slope, *moving[1:]], batch)
    shape = (1, *x.shape[1:])
    thresholds = tuple(
        (one.level, one.change.expand(shape).reshape(-1) if isinstance(one.change, Tensor) else float(one.change))
        for one in found
    )
    inputs, slopes = (per_sample(node, one, batch) for one in (x.detach(), slope))
    return Switch(node, inputs, slopes, thresholds, None, value), tangent


def _off(x: Tensor, slope: Tensor, level: float, context: _Context) -> Tensor | None:
    """A nudge off the threshold, of no weight, for units exactly on it; None where there are none.

    A unit that moves goes where its tangent points. One that rests there (behind a ReLU that is off, say) goes where
    the path takes it next, or else came from: adjoints through it are one-sided, and the neighbour says which side
    counts.

    Returns:
        What to add to x, or None.
    """
    on = x == level
    if not bool(on.any()):
        return None
    if len(x) == context.batch:
        ahead = torch.sign(slope) * context.side.reshape(-1, *[1] * (x.dim() - 1))
    else:
        ahead = torch.sign(slope)
    if context.linked is not None and len(x) == context.batch:
        side = torch.sign(x - level)
        after, before = context.beside(side, torch.zeros_like(side))
        ahead = torch.where(ahead != 0, ahead, torch.where(after != 0, after, before))
    return ahead * on * (_TINY * max(abs(level), 1e-200))


def _maximum(node: Node, operands: Operands, moving: Operands, context: _Context) -> tuple[Switch, Tensor]:
    used = [_plain(one) for one in operands]
    still = [
        torch.zeros_like(value) if tangent is None and value is not None else tangent
        for value, tangent in zip(used, moving, strict=True)
    ]
    if any(one is not None and len(one) != context.batch for one in moving):
        raise apart(node)
    winners = WINNERS[node.op](_ahead(used, still, context), node.attributes)
    inputs, slopes = candidates(node.op, used), candidates(node.op, still)
    chosen, earlier = winners.reshape(context.batch, -1), None
    if context.linked is not None:
        chosen, earlier = _settled(inputs, slopes, chosen, context)
    with torch.set_grad_enabled(context.adjoints):
        tracked = candidates(node.op, operands)
        value = tracked.gather(1, chosen)
        if earlier is not None:  # a window that ties between a past and a coming winner: what moves either counts
            other = tracked.gather(1, earlier)
            value = value + (other - other.detach()) * (earlier != chosen)
        value = value.reshape(winners.shape)
    tangent = slopes.gather(1, chosen).reshape(winners.shape)
    return Switch(node, inputs, slopes, (), chosen, value), tangent


def _ahead(values: Operands, tangents: Operands, context: _Context) -> Operands:
    """Values a rounding error further along the tangent: ties go to who wins there."""
    size = max(float(v.abs().amax()) for v in values if v is not None)
    speed = max(float(v.abs().amax()) for v in tangents if v is not None)
    if not (size > 0 or speed > 0) or speed == 0:
        return values
    step = 1e-14 * (size if size > 0 else 1.0) / speed
    moved: list[Tensor | None] = []
    for value, tangent in zip(values, tangents, strict=True):
        if value is None or tangent is None:
            moved.append(value)
            continue
        side = context.side.reshape(-1, *[1] * (value.dim() - 1)) if len(value) == context.batch else 1.0
        moved.append(value + (step * side) * tangent)
    return moved


def _settled(inputs: Tensor, slopes: Tensor, winners: Tensor, context: _Context) -> tuple[Tensor, Tensor | None]:
    """Winners of windows that tie settled by the rows before and after, and the past winners where those differ."""
    best, steep = inputs.gather(1, winners), slopes.gather(1, winners)

    def tied(other: Tensor) -> Tensor:
        return (other != winners) & (inputs.gather(1, other) == best) & (slopes.gather(1, other) == steep)

    after, before = context.beside(winners, winners)
    next_ties, past_ties = tied(after), tied(before)
    if not bool(next_ties.any() | past_ties.any()):
        return winners, None
    chosen = torch.where(next_ties, after, torch.where(past_ties, before, winners))
    earlier = torch.where(past_ties, before, chosen)
    return chosen, earlier if bool((earlier != chosen).any()) else None
