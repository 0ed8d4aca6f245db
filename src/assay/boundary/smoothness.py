"""Whether a network has second derivatives that mean anything: read off its graph, else asked of the function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import grad, jvp
from torch.nn.attention import SDPBackend, sdpa_kernel

from assay.errors import AssayError
from assay.graph import OPERATORS, Graph
from assay.interpret.rules import varying_positions
from assay.seeding import content_generator
from assay.subject import Subject, as_subject

Smoothness = Literal["smooth", "mixed", "piecewise_linear", "linear"]

PIECEWISE_LINEAR = frozenset(
    {"relu", "leaky_relu", "prelu", "clip", "hardsigmoid", "abs", "max_pool", "adaptive_max_pool", "maximum", "minimum"}
)
"""Operators whose second derivative is zero wherever it exists."""
KINKED = PIECEWISE_LINEAR | {"elu", "hardswish"}
"""Operators with kinks, where the second derivative misses a part of the bend."""
_PROBES = 3


def smoothness_of(model: object, function: Callable[[Tensor], Tensor], x: Tensor) -> Smoothness:
    """Kind of a network: by its operators where it can be captured, else by trying second derivatives.

    Args:
        model: a module or Subject to capture, or anything else.
        function: (B, ...) -> (B, K).
        x: (B, ...) points to try, and the example for the capture.

    Returns:
        ``smooth``, ``mixed`` (curved, but with kinks that second derivatives miss), ``piecewise_linear`` or ``linear``.
    """
    if isinstance(model, nn.Module | Subject):
        try:
            return of_graph(as_subject(model, x[:2]).graph, function, x)
        except AssayError:
            pass  # models that cannot be captured are asked as functions
    return of_function(function, x)


def of_graph(graph: Graph, function: Callable[[Tensor], Tensor], x: Tensor) -> Smoothness:
    """Kind of a captured network: by its operators, and by trying where some of them are unknown.

    Args:
        graph: the network.
        function: (B, ...) -> (B, K), the same network.
        x: (B, ...) points to try.

    Returns:
        As `smoothness_of`.
    """
    curved = kinked = unknown = False
    for node in graph.layers:
        row, varying = OPERATORS[node.op], varying_positions(graph, node)
        if not varying or row.affine_in(varying):
            continue
        kinked |= node.op in KINKED or bool(row.kinks_of(node.attributes))
        unknown |= node.op == "opaque"
        curved |= node.op not in PIECEWISE_LINEAR and not row.piecewise_linear and node.op != "opaque"
    if unknown and not curved:
        tried = of_function(function, x)
        curved = tried == "smooth"
        kinked |= tried == "piecewise_linear"
    return _kind(curved, kinked=kinked)


def of_function(function: Callable[[Tensor], Tensor], x: Tensor) -> Smoothness:
    """Kind of a function, from exact Hessian products at a few points; a curved one counts as smooth: kinks hide."""
    start = x[:1].detach()
    generator = content_generator(start, 0)
    scale = float(start.abs().max()) or 1.0
    shape = (2 * _PROBES, *start.shape[1:])
    draws = torch.randn(shape, generator=generator, dtype=torch.float64).to(start.device, start.dtype)
    points, directions = start + scale * draws[:_PROBES], draws[_PROBES:]

    def total(point: Tensor, weights: Tensor) -> Tensor:
        return (function(point[None])[0] * weights).sum()

    outputs = function(start).shape[1]
    weights = torch.randn(outputs, generator=generator, dtype=torch.float64).to(start.device, start.dtype)
    gradients: list[Tensor] = []
    curved = False
    with sdpa_kernel(SDPBackend.MATH):
        for point, direction in zip(points, directions, strict=True):
            gradient, product = jvp(grad(lambda z: total(z, weights)), (point,), (direction,))[:2]
            gradients.append(gradient)
            curved |= bool((product != 0).any())
    same = all(torch.equal(one, gradients[0]) for one in gradients[1:])
    return _kind(curved, kinked=not curved and not same)


def _kind(curved: bool, *, kinked: bool) -> Smoothness:
    if curved:
        return "mixed" if kinked else "smooth"
    return "piecewise_linear" if kinked else "linear"
