"""Two-stage linearisation: everything before and after one non-linearity is linear (Bibi, Alfadly, Ghanem 2018)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor
from torch.func import vjp, vmap

from assay.covariance import project
from assay.errors import UsageError
from assay.grade import Grade, combine
from assay.graph import OPERATORS, Graph, Node, evaluate, evaluate_node
from assay.moments.dense import DenseDomain
from assay.moments.domain import operands_of, smooth
from assay.moments.methods.monte_carlo import _row as row_of
from assay.moments.methods.request import Request, read_nodes
from assay.moments.result import Moments

PIECEWISE = frozenset({"relu", "leaky_relu", "prelu", "clip", "abs", "hardsigmoid"})
"""Operators that count as a ReLU: piecewise linear, with closed forms for every pair of units."""

_CHUNK_ELEMENTS = 20_000_000
"""Activations that one batch of reverse passes may hold."""


def two_stage(
    request: Request,
    *,
    relu: int = -1,
    point: Tensor | None = None,
    covariance: Literal["exact", "paper"] = "exact",
) -> Moments:
    """The network as C relu(A x + a) + D x + c, linearised before and after one ReLU, and the moments of that.

    D is zero unless a skip connection passes the ReLU by; then Stein's cross-covariance joins the two terms.

    Cost: a reverse pass per unit of the ReLU and one per wanted output. Memory per input: h (n + h) numbers for h units
    and n input elements (2.5 GB for the 4,096 units of AlexNet's second to last layer); inputs one after the other.

    Args:
        request: what to propagate.
        relu: index among the graph's ReLU-like nodes, in order; negative ones count from the end.
        point: (...) or (B, ...) where to linearise; the input mean when None.
        covariance: ``exact`` for pre-activations of any mean, or ``paper`` for the expressions of CVPR 2018, which take
            pre-activations as if their mean were zero (the arc cosine form) for the covariance alone.

    Returns:
        Moments; linearised, exact where nothing but the chosen ReLU is curved.

    Raises:
        UsageError: when there is no such ReLU, or an option is wrong.

    Source: Bibi, Alfadly, Ghanem, "Analytic expressions for probabilistic moments of PL-DNN with Gaussian input", CVPR
    2018, section 4.
    """
    if covariance not in ("exact", "paper"):
        raise UsageError(
            f"covariance must be 'exact' or 'paper', got {covariance!r}.", where="covariance", advice="Choose one."
        )
    chosen = _chosen(request.captured, relu)
    points = _points(request.mean, point)
    parts = [_one(request, row, chosen, points[row : row + 1], covariance) for row in range(len(request.mean))]
    curved = [node for node in request.captured.layers if node.name != chosen.name and not _affine(request, node)]
    grade = combine([Grade.EXACT if covariance == "exact" and not curved else Grade.LINEARISED])
    mean, matrix = (torch.cat(values) for values in zip(*parts, strict=True))
    return Moments(mean, matrix, grade, "two_stage", request.reason, request.outputs)


def _affine(request: Request, node: Node) -> bool:
    dependent = request.captured.dependent
    return OPERATORS[node.op].affine_in(frozenset(i for i, name in enumerate(node.inputs) if name in dependent))


def _chosen(graph: Graph, index: int) -> Node:
    candidates = [node for node in graph.layers if node.op in PIECEWISE and node.inputs[0] in graph.dependent]
    if not candidates:
        raise UsageError(
            "The network has no ReLU, so there is nothing to put between two linear stages.",
            where="relu",
            advice="Use method='linearize' or 'exact'.",
        )
    if not isinstance(index, int) or not -len(candidates) <= index < len(candidates):
        listing = ", ".join(f"{i}: {node.place}" for i, node in enumerate(candidates[:20]))
        raise UsageError(
            f"relu={index} is out of range: the network has {len(candidates)} ReLU-like nodes.",
            where="relu",
            advice=f"Choose one of {listing}.",
        )
    return candidates[index]


def _points(mean: Tensor, point: Tensor | None) -> Tensor:
    if point is None:
        return mean
    if tuple(point.shape) not in (tuple(mean.shape), tuple(mean.shape[1:]), (1, *mean.shape[1:])):
        raise UsageError(
            f"The point of shape {tuple(point.shape)} does not fit inputs of shape {tuple(mean.shape)}.",
            where="point",
            advice="Give one point per input, or one for all.",
        )
    return point.to(mean).expand(mean.shape)


def _one(request: Request, row: int, node: Node, point: Tensor, form: str) -> tuple[Tensor, Tensor]:
    """Mean (1, m) and covariance (1, m, m) of one input."""
    noise = row_of(request.covariance, row)
    mean = request.mean[row : row + 1]
    first, second = _split(request.captured, node)
    before, rows = _jacobian(first, point)  # h(p), A (h, 1, ...)
    shift = mean - point
    start = before + _applied(rows, shift).reshape(before.shape)
    activated = _activate(request, node, start, project(noise, rows, rows))
    at = evaluate_node(node, [before, *_fixed(request, node)], 1)

    outputs, pullback = vjp(second, point, at)[:2]
    wanted = None if request.outputs is None else request.outputs[row : row + 1]
    alone = replace(request, mean=mean, covariance=noise, outputs=wanted)
    direct, later = vmap(pullback)(alone.seeds(outputs.shape[1]))  # D (m, 1, ...), C (m, 1, ...)
    result = alone.pick(outputs) + _applied(later, activated[0] - at) + _applied(direct, shift)
    centred = (
        activated if form == "exact" else _activate(request, node, torch.zeros_like(start), project(noise, rows, rows))
    )
    flat = later.flatten(1)
    matrix = (flat @ centred[1] @ flat.T).reshape(1, len(flat), len(flat))
    if bool((direct != 0).any()):
        slope = centred[2].reshape(1, -1)  # Cov(x, relu(h)) = S A^T diag(E relu'(h))
        chained = torch.einsum("mh,hb...->mb...", flat * slope, rows)
        cross = project(noise, chained, direct)
        matrix = matrix + cross + cross.mT + project(noise, direct, direct)
    return result, matrix


def _applied(rows: Tensor, x: Tensor) -> Tensor:
    """(1, k) from rows (k, 1, ...) and one sample (1, ...)."""
    return (rows.flatten(1) @ x.reshape(-1)).unsqueeze(0)


def _split(graph: Graph, node: Node) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]:
    """h(x), what the node reads, and f(x, u), the output when the node's value is u."""
    source = node.inputs[0]
    assert source is not None
    early = read_nodes(graph.replace_nodes(graph.nodes, source))
    cut = tuple(replace(n, op="parameter", inputs=(), attributes={}) if n.name == node.name else n for n in graph)
    late = read_nodes(graph.replace_nodes(cut))
    return lambda x: evaluate(early, x), lambda x, u: evaluate(late, x, parameters={node.name: u})


def _jacobian(function: Callable[[Tensor], Tensor], point: Tensor) -> tuple[Tensor, Tensor]:
    """Value and Jacobian rows (h, 1, ...) of one sample, a chunk of units at a time."""
    value, pullback = vjp(function, point)[:2]
    units = value.numel()
    size = max(1, _CHUNK_ELEMENTS // max(1, 8 * (point.numel() + units)))
    rows = []
    for start in range(0, units, size):
        places = torch.arange(start, min(start + size, units))
        seeds = torch.nn.functional.one_hot(places, units).to(value.dtype).reshape(-1, *value.shape)
        rows.append(vmap(pullback)(seeds)[0])
    return value, torch.cat(rows)


def _activate(request: Request, node: Node, mean: Tensor, matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, covariance (h, h) and expected slope of the activation of N(mean, matrix), by its closed form."""
    domain = DenseDomain(exact=True, fallback="error")
    source = node.inputs[0] or ""
    element = domain.lift(source, mean, matrix)
    fixed = _fixed(request, node)
    result = domain.apply(node, [element, *fixed], frozenset({source}), 1)
    block = domain.block(node.name, node.name)[0]
    slope = _slope(node, domain, element, fixed)
    return result.mean, block, slope


def _fixed(request: Request, node: Node) -> list[Tensor | None]:
    return [None if name is None else request.captured.parameters[name] for name in node.inputs[1:]]


def _slope(node: Node, domain: DenseDomain, element: object, fixed: list[Tensor | None]) -> Tensor:
    smoothed, _ = smooth(operands_of(node, [element, *fixed], 1, domain), "error")
    mean = smoothed.mean
    return smoothed.linear.apply(torch.ones_like(mean).unsqueeze(0))[0]


__all__ = ["PIECEWISE", "two_stage"]
