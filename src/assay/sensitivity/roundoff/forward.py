"""E2: a running error bound carried forward through the whole graph, rigorous at any precision.

Every value travels with a bound on its error (Higham 2002, section 3.3, running error analysis): operands bring theirs,
sums add c(n) (|W||x| + |b|) on perturbed sizes, storing adds at most half a spacing. Nothing is dropped to first order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from assay.errors import UnsupportedOperator
from assay.graph import OPERATORS, Node
from assay.interpret import forward, unsupported
from assay.sensitivity.roundoff.accumulation import Accumulation, gamma
from assay.sensitivity.roundoff.assignment import SUMMED, Assignment
from assay.sensitivity.roundoff.floating import FloatFormat
from assay.sensitivity.roundoff.integers import FixedPoint
from assay.sensitivity.roundoff.rounding import where_finite
from assay.sensitivity.roundoff.running import Running, Summation, exact, stored
from assay.sensitivity.roundoff.running_rules import TABLE
from assay.sensitivity.roundoff.sites import Site

Active = Callable[[str], bool]


def running_bound(assignment: Assignment, x: Tensor, *, active: Active = lambda node: True) -> Running:
    """Outputs with a guaranteed bound on their error under a precision.

    Args:
        assignment: formats laid over the graph.
        x: (B, ...) float64.
        active: which sites round (by node name; the graph's input for the network's input); all by default.

    Returns:
        Outputs (B, K) and bound (B, K); infinite where nothing can be guaranteed. Grade: bound.

    Raises:
        UnsupportedOperator: listing every node without a rule.
    """
    graph = assignment.graph
    missing = unsupported(graph, TABLE)
    if missing:
        raise UnsupportedOperator(
            f"No rigorous rounding rule for {', '.join(sorted({node.label for node in missing}))}.",
            where=", ".join(node.place for node in missing[:5]),
            advice="Use estimator E3 or E4, which need derivatives only.",
        )
    source = exact(x)
    if assignment.input is not None and active(graph.input):
        source = stored(source, assignment.input)
    elements: dict[str, Running] = {graph.input: source}
    for name, operand in assignment.loose.items():
        if active(graph.input):
            value = graph.parameters[name]
            elements[name] = Running(value, _parameter_error(operand.format, value))
    found = forward(graph, _Rounding(assignment, active), elements, batch=len(x))
    return found if isinstance(found, Running) else exact(found)


def summation(how: Accumulation | None, site: Site) -> Summation:
    """The bound on summing at a site: a bias is one rounding more, a mean divides once more.

    Mixed accumulation also rounds the operands; that is not part of it.

    Returns:
        Constant, underflow and range.
    """
    if how is None or how.format is None:
        return Summation(terms=site.terms)
    extra = site.terms - site.fan_in + (site.op in ("mean", "avg_pool", "adaptive_avg_pool"))
    unit = how.format.unit_roundoff
    assert unit is not None
    constant, floor, largest = gamma(how.roundings(site.fan_in) + extra, unit), 0.0, float("inf")
    if isinstance(how.format, FloatFormat) and how.format.exponent is not None:
        floor, largest = 2 * site.terms * how.format.smallest * (1 + constant), how.format.largest
    return Summation(constant, floor, largest, site.terms)


@dataclass(frozen=True, eq=False)
class _Rounding:
    """The domain: running bounds along the edges."""

    assignment: Assignment
    active: Active

    def apply(self, node: Node, operands: Sequence[Any], live: frozenset[str], batch: int) -> Running:
        laid = self.assignment
        site = laid.sites.get(node.name)
        attributes = dict(node.resolved(batch))
        summing, operands = Summation(), list(operands)
        how = None
        if site is not None:
            summing = Summation(terms=site.terms)
            operands = [self._parameter(node, place, operand) for place, operand in enumerate(operands)]
            if self.active(node.name):
                for place, operand in enumerate(operands):
                    for target in (laid.reading(site, place), laid.low(site, place)):
                        if target is not None and operand is not None:
                            held = operand if isinstance(operand, Running) else exact(operand)
                            operands[place] = operand = stored(held, target)
                how = laid.at[node.name].accumulation
                if node.op in SUMMED:
                    summing = summation(how, site)
        rule = TABLE.lookup(node.op)
        assert rule is not None  # checked before the walk
        element = rule.function(OPERATORS[node.op], operands, attributes, summing)
        element = _constants(element, node, laid)
        if how is not None and how.format is not None and node.op not in SUMMED:
            element = stored(element, how.format)
        storing = laid.storing.get(node.name)
        target = None if storing is None or not self.active(storing.node) else laid.storage(storing)
        return element if target is None else stored(element, target)

    def _parameter(self, node: Node, place: int, operand: Any) -> Any:
        """A parameter with its rounding error, as this node reads it."""
        rounded = self.assignment.operands.get((node.name, place))
        if rounded is None or not self.active(node.name):
            return operand
        value = self.assignment.graph.parameters[rounded.name]
        return Running(value, _parameter_error(rounded.format, value))

    def freeze(self, node: Node, operands: Sequence[Any], batch: int) -> Tensor:
        raise UnsupportedOperator(
            f"The network decides by a computed number ({node.label}), which rounding may change.",
            where=node.place,
            advice="Use estimator E3 or E4, which need derivatives only.",
        )

    def release(self, name: str) -> None:
        return None


def _parameter_error(target: Any, value: Tensor) -> Tensor:
    """Bound on the rounding error of a parameter; infinite entries, as in masks, stay as they are."""
    return where_finite(target.error_bound, value, otherwise=0.0)


def _constants(element: Running, node: Node, assignment: Assignment) -> Running:
    """Bounds of a clip and values of a pad are numbers of the network's format as well."""
    target = assignment.precision.activations
    names = {"clip": ("low", "high"), "pad": ("value",)}.get(node.op, ())
    constants = [node.attributes[name] for name in names if node.attributes.get(name) is not None]
    if not constants or not isinstance(target, (FloatFormat, FixedPoint)):
        return element
    off = float(target.error_bound(torch.tensor([float(c) for c in constants], dtype=torch.float64)).max())
    return element if off == 0 else Running(element.value, element.error + off)
