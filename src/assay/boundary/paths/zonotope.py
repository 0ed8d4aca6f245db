"""What a straight segment becomes inside a network: c + e s with s in [-1, 1], and an error around it.

A 1-D zonotope per unit: the part that moves along the segment is kept with its sign, so it cancels in differences;
what an activation bends off is an interval. Float64, and every rule adds what rounding can do to the interval, so the
true value (real arithmetic on the float64 weights) is inside whatever the order of summation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from assay.errors import UnsupportedOperator
from assay.grade import Grade
from assay.graph import OPERATORS, Graph, Node, Operator, Sample
from assay.interpret import RuleTable, forward
from assay.interpret.rules import Rule

UNIT = 2.0**-53
TINY = 1e-290
"""Added to errors: larger than what underflow can lose."""


@dataclass(frozen=True, eq=False)
class Zonotope:
    """All tensors c + e s + d with s in [-1, 1] common to all units and batch-wise, and |d| <= r unit by unit.

    Attributes:
        centre: c (B, ...).
        slope: e (B, ...), per half length of the piece of segment.
        error: r (B, ...), not negative.
    """

    centre: Tensor
    slope: Tensor
    error: Tensor

    @property
    def magnitude(self) -> Tensor:
        """A bound on every unit's absolute value, up to rounding."""
        return self.centre.abs() + self.slope.abs() + self.error

    def map(self, function: Callable[[Tensor], Tensor]) -> Zonotope:
        """The same linear function with coefficients 0 and 1 of all three parts."""
        return Zonotope(function(self.centre), function(self.slope), function(self.error))


ZonotopeRule = Callable[[Sequence[Any], dict[str, Any]], Zonotope]


def rounding(terms: int) -> float:
    """Relative error of a sum of that many products in any order (Higham 2002, eq. 3.5), with room to spare."""
    return (terms + 4) * UNIT / (1 - (terms + 4) * UNIT)


def segment(start: Tensor, end: Tensor, low: Tensor, high: Tensor) -> Zonotope:
    """Pieces of segments as zonotopes.

    Args:
        start: (B, ...) float64.
        end: (B, ...).
        low: (B,) where each piece begins, 0 at the start and 1 at the end.
        high: (B,) where it ends.

    Returns:
        Elements that contain every point of the piece.
    """
    shape = (-1,) + (1,) * (start.dim() - 1)
    middle, half = (low + high).reshape(shape) / 2, (high - low).reshape(shape) / 2
    step = end - start
    error = 8 * UNIT * (start.abs() + step.abs()) + TINY
    return Zonotope(start + middle * step, half * step, error)


def point(x: Tensor) -> Zonotope:
    """A single input as an element without any width."""
    return Zonotope(x, torch.zeros_like(x), torch.zeros_like(x))


class Operands(NamedTuple):
    """Centres, slopes and errors of all inputs of a node; an input that does not vary is its own centre."""

    centres: list[Tensor | None]
    slopes: list[Tensor | None]
    errors: list[Tensor | None]
    varying: frozenset[int]

    @classmethod
    def of(cls, operands: Sequence[Any]) -> Operands:
        """Taken apart; inputs that do not vary are the same in all three lists."""
        varying = frozenset(i for i, one in enumerate(operands) if isinstance(one, Zonotope))
        parts = ([getattr(o, p) if isinstance(o, Zonotope) else o for o in operands] for p in _PARTS)
        return cls(*parts, varying)  # type: ignore[misc]


_PARTS = ("centre", "slope", "error")


def as_zonotope(value: Any) -> Zonotope:
    """An element; a number becomes one without any width."""
    return value if isinstance(value, Zonotope) else point(value)


def _conformance(rule: Rule[ZonotopeRule], operator: Operator, sample: Sample) -> list[str]:
    """Every point of the element must map into the result: ends, middle, random points and errors at their extremes."""
    generator = torch.Generator().manual_seed(7)
    wrong: list[str] = []
    floating = [i for i, v in enumerate(sample.inputs) if v is not None and v.dtype.is_floating_point]
    choices = [frozenset({i}) for i in floating] + [frozenset(floating)]
    for varying in (choice for choice in choices if rule.applies(choice)):
        for width, noise in ((0.0, 0.0), (1e-3, 0.0), (1.0, 0.0), (1.0, 0.3), (0.0, 1.0)):
            operands: list[Any] = list(sample.inputs)
            for i in varying:
                centre = sample.inputs[i]
                assert centre is not None
                draws = torch.randn((2, *centre.shape), generator=generator, dtype=torch.float64)
                operands[i] = Zonotope(centre.double(), width * draws[0], noise * draws[1].abs())
            result = rule.function(operands, dict(sample.attributes))
            for s in (-1.0, -0.3, 0.0, 0.6, 1.0):
                for _ in range(4):
                    values = list(sample.inputs)
                    for i in varying:
                        one = operands[i]
                        sign = 2 * torch.randint(0, 2, one.centre.shape, generator=generator) - 1
                        values[i] = one.centre + s * one.slope + sign * one.error
                    value = operator.evaluate(*values, **sample.attributes)
                    excess = (value - result.centre - s * result.slope).abs() - result.error
                    # the reference is rounded too
                    worst = float((excess - 1e-13 * value.abs()).max())
                    if worst > 1e-13:
                        wrong.append(f"inputs {sorted(varying)}, width {width}, noise {noise}: outside by {worst:.2g}")
    return list(dict.fromkeys(wrong))


TABLE: RuleTable[ZonotopeRule] = RuleTable("segment", conformance=_conformance)
BOUND = Grade.BOUND


class ZonotopeDomain:
    """Carries zonotopes through a graph in float64; see `assay.interpret.forward`."""

    def apply(self, node: Node, operands: Sequence[Any], live: frozenset[str], batch: int) -> Zonotope:
        """Element of a node."""
        varying = frozenset(i for i, one in enumerate(operands) if isinstance(one, Zonotope))
        rule = TABLE.lookup(node.op, varying)
        if rule is None:
            raise _unsupported(node)
        return rule.function(operands, dict(node.resolved(batch)))

    def freeze(self, node: Node, operands: Sequence[Any], batch: int) -> Tensor:
        """Integers and comparisons jump along a segment: refused."""
        raise _unsupported(node)

    def release(self, name: str) -> None:
        """Nothing is kept per node."""


def refusals(graph: Graph) -> list[str]:
    """Places of the nodes that depend on the input and that no zonotope goes through."""
    found = []
    for node in graph.layers:
        varying = frozenset(i for i, name in enumerate(node.inputs) if name in graph.dependent)
        if not node.spec.dtype.is_floating_point or TABLE.lookup(node.op, varying) is None:
            found.append(node.place)
    return found


def propagate(graph: Graph, element: Zonotope) -> Zonotope:
    """The graph's output as a zonotope.

    Args:
        graph: with float64 parameters and no refusals.
        element: of the input (B, ...).

    Returns:
        The element of the output.
    """
    return as_zonotope(forward(graph, ZonotopeDomain(), {graph.input: element}, batch=len(element.centre)))


def affine(operator: Operator, operands: Sequence[Any], attributes: dict[str, Any], errors: Tensor) -> Zonotope:
    """Centre and slope through an affine operator, with an error that is given."""
    inputs = Operands.of(operands)
    return Zonotope(
        operator.evaluate(*inputs.centres, **attributes),
        operator.linear_part(inputs.slopes, inputs.varying, attributes),
        errors,
    )


def _unsupported(node: Node) -> UnsupportedOperator:
    return UnsupportedOperator(
        f"No enclosure of a segment goes through {node.place}.",
        where=node.place,
        advice="Certificates need piecewise linear operators; sampled checks work for every network.",
    )


__all__ = [
    "BOUND",
    "OPERATORS",
    "TABLE",
    "TINY",
    "UNIT",
    "Operands",
    "Zonotope",
    "ZonotopeDomain",
    "affine",
    "as_zonotope",
    "point",
    "propagate",
    "refusals",
    "rounding",
    "segment",
]
