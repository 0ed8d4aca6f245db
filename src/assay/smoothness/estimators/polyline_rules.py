"""Rules of the domain "line": affine operators act on the rows of a polyline; bends and maxima add rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from assay.errors import UnsupportedOperator
from assay.grade import Grade
from assay.graph import OPERATORS, BatchSize, Graph, Node, Operator, Sample
from assay.interpret import RuleTable, forward
from assay.interpret.rules import Rule, varying_positions
from assay.smoothness.estimators.polyline import NEW, Marks, Polyline, TooManyRows, aligned

LineRule = Callable[[Sequence[Any], dict[str, Any]], Polyline]
_WEIGHTED = frozenset({"linear", "conv", "conv_transpose"})
_COLUMNS = 2**24  # bytes a convolution may unfold at a time


def values_of(operands: Sequence[Any]) -> list[Tensor | None]:
    """Operands with every polyline replaced by its rows."""
    return [one.values if isinstance(one, Polyline) else one for one in operands]


def first_line(operands: Sequence[Any]) -> Polyline:
    """The first operand that varies; all of them have the same rows."""
    return next(one for one in operands if isinstance(one, Polyline))


def _derive(operator: Operator) -> Rule[LineRule] | None:
    if operator.piecewise_linear:
        from assay.smoothness.estimators.polyline_bends import bent

        return Rule(operator.name, bent(operator), Grade.EXACT, "crossings of its thresholds", lambda v: v == {0})
    if not operator.linear_in:
        return None
    run = _convolved if operator.name in ("conv", "conv_transpose") else _whole

    def rule(operands: Sequence[Any], attributes: dict[str, Any]) -> Polyline:
        return first_line(operands).with_values(run(operator, values_of(operands), attributes))

    def applies(varying: frozenset[int]) -> bool:
        return operator.affine_in(varying) and (operator.name not in _WEIGHTED or varying == {0})

    return Rule(operator.name, rule, Grade.EXACT, "affine", applies)


def _whole(operator: Operator, values: list[Tensor | None], attributes: dict[str, Any]) -> Tensor:
    return operator.evaluate(*values, **attributes)


def _convolved(operator: Operator, values: list[Tensor | None], attributes: dict[str, Any]) -> Tensor:
    """A few rows at a time: a convolution in double precision unfolds its whole batch."""
    x, weight = values[0], values[1]
    assert x is not None
    assert weight is not None
    unfolded = 8 * x[0].numel() * weight[0, 0].numel()
    parts = x.split(max(1, _COLUMNS // unfolded))
    first = operator.evaluate(parts[0], *values[1:], **attributes)
    if len(parts) == 1:
        return first
    result = first.new_empty((len(x), *first.shape[1:]))
    place = len(first)
    result[:place] = first
    for part in parts[1:]:
        result[place : place + len(part)] = operator.evaluate(part, *values[1:], **attributes)
        place += len(part)
    return result


def _conformance(rule: Rule[LineRule], operator: Operator, sample: Sample) -> list[str]:
    """The result, interpolated anywhere, must be the operator's value on the operands, interpolated there."""
    generator = torch.Generator().manual_seed(7)
    rows = len(operator.evaluate(*sample.inputs, **sample.attributes))
    floating = [i for i, v in enumerate(sample.inputs) if v is not None and v.dtype.is_floating_point]
    batched = [i for i in floating if len(sample.inputs[i]) == rows]  # type: ignore[arg-type]
    choices = dict.fromkeys([*(frozenset({i}) for i in batched), frozenset(batched)])
    wrong: list[str] = []
    for varying in (choice for choice in choices if choice and rule.applies(choice)):
        operands: list[Any] = [
            # what does not vary is the same in every row
            one[:1].expand(one.shape) if one is not None and one.dim() and len(one) == rows else one
            for one in sample.inputs
        ]
        t = torch.linspace(0, 1, rows, dtype=torch.float64)
        for i in varying:
            shape = sample.inputs[i].shape  # type: ignore[union-attr]
            values = 2 * torch.randn(shape, generator=generator, dtype=torch.float64)
            operands[i] = Polyline(t, values, Marks.ends(rows))
        result = rule.function(operands, dict(sample.attributes))
        for at in torch.rand(60, rows, generator=generator, dtype=torch.float64):
            points = [one.at(at) if isinstance(one, Polyline) else one for one in operands]
            worst = float((operator.evaluate(*points, **sample.attributes) - result.at(at)).abs().max())
            if worst > 1e-12:
                wrong.append(f"inputs {sorted(varying)}: off by {worst:.2g}")
                break
    return wrong


TABLE: RuleTable[LineRule] = RuleTable("line", derive=_derive, conformance=_conformance)


_LINEAR_ATEN = frozenset(
    f"aten.{name}.default"
    for name in ("stack", "repeat", "cumsum", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "im2col")
)
"""Calls without an operator of their own that are linear in all their tensors."""


@TABLE.rule("opaque", grade=Grade.EXACT, note="linear calls only")
def _opaque(operands: Sequence[Any], attributes: dict[str, Any]) -> Polyline:
    values = _whole(OPERATORS["opaque"], values_of(operands), attributes)
    return first_line(operands).with_values(values)


def _has_rule(node: Node, varying: frozenset[int]) -> bool:
    if node.op == "opaque":
        return node.attributes["target"] in _LINEAR_ATEN
    return TABLE.lookup(node.op, varying) is not None


class LineDomain:
    """Carries polylines through a graph; see `assay.interpret.forward`.

    Args:
        graph: the graph that is walked, with batch 1.
        memory: bytes that all values alive together may take.
    """

    def __init__(self, graph: Graph, memory: float = float("inf")) -> None:
        self.graph = graph
        self.memory = memory
        self._positions = {node.name: place for place, node in enumerate(graph)}
        self._sizes: dict[str, float] = {}

    def apply(self, node: Node, operands: Sequence[Any], live: frozenset[str], batch: int) -> Polyline:
        """Element of a node."""
        lines = aligned(operands)
        rows, room = len(first_line(lines)), first_line(lines).room
        needed = 8.0 * rows * node.spec.size_per_sample
        if needed > room:
            raise TooManyRows(needed / room)
        for place, name in enumerate(node.inputs):  # what does not vary was evaluated for a batch of one
            if isinstance(lines[place], Tensor) and name is not None and self.graph[name].spec.batched:
                lines[place] = lines[place].expand(rows, *lines[place].shape[1:])
        varying = frozenset(i for i, one in enumerate(lines) if isinstance(one, Polyline))
        rule = TABLE.lookup(node.op, varying)
        if rule is None or not _has_rule(node, varying):
            raise _unsupported([node])
        result = rule.function(lines, dict(node.resolved(rows)))
        position = self._positions[node.name]
        layer = torch.where(result.marks.layer == NEW, position, result.marks.layer)
        self._sizes[node.name] = 8.0 * result.values.numel()
        alive = sum(self._sizes.values())
        if alive > self.memory:
            raise TooManyRows(alive / self.memory)
        return replace(result, marks=result.marks._replace(layer=layer), made=position)

    def freeze(self, node: Node, operands: Sequence[Any], batch: int) -> Tensor:
        """Integers and comparisons jump along a segment: refused."""
        raise _unsupported([node])

    def release(self, name: str) -> None:
        """The value of this node is read no more."""
        self._sizes.pop(name, None)


def check_piecewise_linear(graph: Graph) -> None:
    """Refuse a graph that is not piecewise linear in its input, or mixes the batch axis with others.

    Raises:
        UnsupportedOperator: with the places of all such nodes.
    """
    refused = [
        node
        for node in graph.layers
        if not node.spec.dtype.is_floating_point
        or not _has_rule(node, varying_positions(graph, node))
        or [size for size in node.spec.shape if isinstance(size, BatchSize)] != [BatchSize(1)]
        or not isinstance(node.spec.shape[0], BatchSize)
    ]
    if refused:
        error: UnsupportedOperator = _unsupported(refused)
        raise error


def propagate(graph: Graph, element: Polyline, memory: float = float("inf")) -> Polyline | Tensor:
    """The graph's output along a polyline of inputs.

    Args:
        graph: with float64 parameters, one that `check_piecewise_linear` accepts.
        element: inputs.
        memory: bytes that all values alive together may take.

    Returns:
        The output; a plain tensor (1, ...) when it does not depend on the input.

    Raises:
        TooManyRows: when the memory does not suffice.
    """
    with torch.no_grad():
        return forward(graph, LineDomain(graph, memory), {graph.input: element}, batch=1)


def _unsupported(nodes: Sequence[Node]) -> UnsupportedOperator:
    places = ", ".join(node.place for node in nodes[:8]) + (", ..." if len(nodes) > 8 else "")
    return UnsupportedOperator(
        "Kinks are found exactly for piecewise linear networks only, row by row of a batch.",
        where=places,
        advice='Use estimator="event", which takes any network whose kinks are known.',
    )
