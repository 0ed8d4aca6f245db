"""Rounding as noise: what moments say about decisions when a network is stored in given number formats.

The error of every rounding is taken as independent noise of variance spacing^2 / 12 on weights and stored activations,
and carried through the network by moments: an estimator beside those of `sensitivity.roundoff`, which are first order
where this one follows the noise through every non-linearity.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from assay.errors import UsageError
from assay.graph import Graph, evaluate
from assay.moments.answers import Decision, flip_probability
from assay.moments.propagation import checked_input
from assay.sensitivity.roundoff.assignment import Assignment
from assay.sensitivity.roundoff.sites import Precision, prepared_graph
from assay.subject import Subject


def rounding_noise(model: nn.Module | Subject, x: Tensor, precision: Precision) -> dict[str, Tensor]:
    """Variances of the rounding errors of weights, biases and stored activations, ready for `moments` (`noise_on`).

    Errors of accumulation are not among them. A batch norm is rounded as part of the layer before it: noise on the
    folded weights is told in the units of the weights that the model has.

    Args:
        model: a module or Subject that can be captured.
        x: (B, ...) inputs; activations' spacings are those of their values at x.
        precision: formats of weights, biases and activations.

    Returns:
        Variances by parameter name (the parameter's shape) and by graph node (B, ...). Grade: statistical.

    Raises:
        CaptureError: when the model cannot be captured.
        UsageError: for accumulation, or weights that are computed from others.

    Example:
        >>> layer = nn.Linear(2, 1, bias=False)
        >>> layer.weight.data = torch.tensor([[0.3, 0.5]])
        >>> noise = rounding_noise(layer, torch.ones(1, 2), Precision(weights="t2"))
        >>> [round(float(value), 6) for value in noise["weight"][0]]  # spacing 1/8; 0.5 is exact
        [0.001302, 0.0]
    """
    if precision.accumulation is not None:
        raise UsageError(
            "Errors of accumulation are no noise on weights or activations.",
            where="precision",
            advice="Use roundoff_error, or leave accumulation out.",
        )
    subject, x = checked_input(model, x)
    graph, given = prepared_graph(subject), subject.graph
    assignment = Assignment.of(graph, precision)
    noise: dict[str, Tensor] = {}
    for (node, place), operand in assignment.operands.items():
        leaf = _origin(given, node, place, operand.role)
        if leaf is None:
            continue
        variance = operand.format.error_variance(assignment.graph.parameters[operand.name])
        scale = _scale(graph, given, node) if given[node].inputs[1:] and leaf in given[node].inputs else None
        if scale is not None:
            shape = [
                -1 if axis == assignment.sites[node].weight_axis or variance.dim() == 1 else 1
                for axis in range(variance.dim())
            ]
            variance = variance / scale.double().square().reshape(shape)
        noise[given.parameter_names[leaf]] = variance.to(x.dtype)
    stored = {_end(graph, given, site.node): site for site in assignment.sites.values()}
    values: dict[str, Tensor] = {}
    evaluate(given, x, observe=lambda node, value: values.update({node.name: value} if node.name in stored else {}))
    for name, site in stored.items():
        target = assignment.at[site.node].activations
        if target is not None and name in values:
            noise[name] = target.error_variance(values[name].double()).to(x.dtype)
    return noise


def rounded_decisions(model: nn.Module | Subject, x: Tensor, precision: Precision, **options: Any) -> Decision:
    """Probability that rounding to these formats changes each decision, by moments.

    Args:
        model: a classifier, or a Subject, that can be captured.
        x: (B, ...) inputs.
        precision: formats of weights, biases and activations.
        options: passed on to `propagate`, such as ``method="factor"``.

    Returns:
        Decision. The moments behind it are statistical: the rounding error of one given network is not random.

    Raises:
        CaptureError: when the model cannot be captured.
        UsageError: for accumulation, or weights that are computed from others.
    """
    subject, x = checked_input(model, x)
    noise = rounding_noise(subject, x, precision)
    if precision.input is None:
        return flip_probability(subject, x, 0.0, noise_on=noise, **options)
    variance = precision.input.error_variance(x.double()).to(x.dtype)
    return flip_probability(subject, x, variance, noise_on=noise, **options)


def _origin(given: Graph, node: str, place: int, role: str) -> str | None:
    """Parameter node of the model that carries an operand of the prepared graph; None for a bias it does not have."""
    inputs = given[node].inputs
    leaf = inputs[place] if place < len(inputs) else None
    if leaf is None and role == "biases":
        norm = _norm(given, node)
        leaf = None if norm is None else given[norm].inputs[2]
    if leaf is None:
        return None
    if leaf not in given.parameter_names or given[leaf].op != "parameter":
        raise UsageError(
            "Weights that are computed from others have no noise of their own.",
            where=given[node].place,
            advice="Fold them first (remove the parametrisation).",
        )
    return leaf


def _norm(given: Graph, node: str) -> str | None:
    """The batch norm that reads a layer."""
    return next((reader.name for reader in given if reader.op == "batch_norm" and reader.inputs[0] == node), None)


def _end(graph: Graph, given: Graph, node: str) -> str:
    """Node of the model's graph whose value a node of the prepared graph has."""
    norm = _norm(given, node)
    return node if norm is None or norm in _names(graph) else norm


def _scale(graph: Graph, given: Graph, node: str) -> Tensor | None:
    """What folding multiplied a layer's channels by; None where nothing was folded into it."""
    norm = _norm(given, node)
    if norm is None or norm in _names(graph):
        return None
    reader = given[norm]
    weight, variance = (
        None if name is None else given.parameters[name] for name in (reader.inputs[1], reader.inputs[4])
    )
    assert variance is not None
    scale = torch.rsqrt(variance + reader.attributes["eps"])
    return scale if weight is None else scale * weight


def _names(graph: Graph) -> Mapping[str, Any]:
    return {node.name: node for node in graph}
