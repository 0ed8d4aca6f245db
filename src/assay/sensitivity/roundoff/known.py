"""E5: rounding errors of parameters and input are known, so their first-order effect is one Jacobian-vector product."""

from __future__ import annotations

from torch import Tensor

from assay.sensitivity.roundoff.assignment import Assignment
from assay.sensitivity.roundoff.directional import Changes, first_order_change
from assay.sensitivity.roundoff.formats import Format
from assay.sensitivity.roundoff.forward import Active
from assay.sensitivity.roundoff.rounding import where_finite


def known_change(assignment: Assignment, x: Tensor, *, active: Active = lambda node: True) -> Tensor:
    """J dw for dw = Q(w) - w of all rounded parameters, and of the input: no model of rounding at all.

    Args:
        assignment: formats laid over the graph; formats of activations and accumulation are not looked at.
        x: (B, ...) float64.
        active: which sites' parameters are rounded; the graph's input stands for the network's input and for parameters
            that belong to no site.

    Returns:
        Signed change (B, K) of the outputs. Grade: linearised.
    """
    graph = assignment.graph
    values: dict[str, Tensor] = {}
    if active(graph.input):
        if assignment.input is not None:
            values[graph.input] = assignment.input.round(x) - x
        values |= {
            name: _rounding(operand.format, graph.parameters[name]) for name, operand in assignment.loose.items()
        }
    operands = {
        place: _rounding(operand.format, graph.parameters[operand.name])
        for place, operand in assignment.operands.items()
        if active(place[0])
    }
    if not values and not operands:
        return x.new_zeros(len(x), graph[graph.output].spec.size_per_sample)
    return first_order_change(assignment, x, Changes(values, operands))


def _rounding(target: Format, value: Tensor) -> Tensor:
    """Q(w) - w; infinite entries, as in masks, stay as they are."""
    return where_finite(lambda finite: target.round(finite) - finite, value, otherwise=0.0)
