"""A guaranteed Lipschitz bound of a whole graph: the forward walk in the domain of bounds on the norm of a change."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from assay.certified.change import Change
from assay.certified.domain import ChangeDomain, Layer
from assay.certified.prepared import bound_graph
from assay.errors import NumericalError, UnsupportedOperator, UsageError
from assay.grade import Grade
from assay.graph import Graph
from assay.interpret import forward
from assay.results import Displayed
from assay.subject import Subject

Norm = Literal[2, "2", "inf"]
Method = Literal["auto", "product", "frobenius", "averaged", "eclipse"]
METHODS = ("product", "frobenius", "averaged", "eclipse")


@dataclass(frozen=True)
class LipschitzBound(Displayed):
    """A number that ||f(a) - f(b)|| / ||a - b|| never exceeds, for any two inputs.

    Attributes:
        value: the bound, output units per input unit.
        norm: ``2`` or ``inf``, of input and output.
        method: how it was found; ``auto`` takes the smallest of the legal ones for each stretch of the graph.
        layers: one row per node that computes from the input, in order.
        tried: value of every method, or a sentence that says why it does not apply.
        grade: guaranteed.
    """

    value: float
    norm: str
    method: str
    layers: tuple[Layer, ...]
    tried: Mapping[str, float | str]
    grade: Grade = Grade.BOUND


def lipschitz_bound(
    model: nn.Module | Subject,
    *,
    norm: Norm | float = 2,
    method: Method = "auto",
    example: Tensor | None = None,
) -> LipschitzBound:
    """Guaranteed global Lipschitz bound of a model, per sample, from its graph.

    Layers multiply, sums add, concatenations join by root of sum of squares (infinity norm: maximum), max pools count
    how many windows share an element, activations take their largest slope, and a shared module counts at each of its
    calls. ``averaged`` and ``eclipse`` tighten each stretch of affine layers and activations (and ``averaged`` a skip
    connection around one) where its matrices have at most 1024 rows or columns; ``auto`` takes for each stretch the
    smallest legal bound. Nothing is skipped: where an operator has no finite constant, all such nodes are named.

    The bound is of the function in exact arithmetic, computed in double precision with rounding added. Cost: one norm
    per layer and a few small eigenvalue problems; no data are needed.

    Args:
        model: a module (B, ...) -> (B, K), or a Subject. In training mode it is bounded as in evaluation mode.
        norm: 2 or "inf" (also `math.inf`), of input and output.
        method: ``product``, ``frobenius`` (2-norm only), ``averaged``, ``eclipse`` (2-norm only) or ``auto``.
        example: (B, ...) a batch of inputs, for its shape; a Subject brings its own.

    Returns:
        The bound, grade `bound`.

    Raises:
        CaptureError: when the model cannot be captured as a graph.
        NumericalError: for NaN or infinite parameters, or a bound that overflows.
        UnsupportedOperator: where no global bound exists, or the method does not apply.
        UsageError: for an unknown norm or method.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 2, bias=False), torch.nn.ReLU())
        >>> _ = net[0].weight.data.copy_(torch.tensor([[3.0, 0.0], [0.0, 1.0]]))
        >>> round(lipschitz_bound(net, example=torch.zeros(1, 2)).value, 6)
        3.0
    """
    kind = norm_name(norm)
    if method not in ("auto", *METHODS):
        raise UsageError(
            f"Unknown method {method!r}.", where="lipschitz_bound", advice=f"Use auto, {', '.join(METHODS)}."
        )
    return graph_bound(bound_graph(model, example), kind=kind, method=method)


def norm_name(norm: Norm | float | str) -> str:
    """``2`` or ``inf``.

    Returns:
        The name.

    Raises:
        UsageError: for any other norm.
    """
    name = "inf" if norm in ("inf", math.inf) else "2" if norm in (2, "2") else None
    if name is None:
        raise UsageError(f"Unknown norm {norm!r}.", where="norm", advice="Use 2 or 'inf'.")
    return name


def graph_bound(graph: Graph, *, kind: str = "2", method: str = "auto") -> LipschitzBound:
    """As `lipschitz_bound`, of a prepared graph (see `prepared.bound_graph`).

    Args:
        graph: prepared graph.
        kind: norm, ``2`` or ``inf``.
        method: as there.

    Returns:
        The bound.

    Raises:
        NumericalError: for a bound that overflows.
        UnsupportedOperator: where no global bound exists, or the method does not apply.
    """
    asked = METHODS if method == "auto" else ("product", method)
    domain = ChangeDomain(graph, kind, tuple(dict.fromkeys(asked)), method)
    shape = torch.Size([1, *(int(size) for size in graph[graph.input].spec.shape[1:])])  # type: ignore[arg-type]
    with torch.no_grad():
        found = forward(graph, domain, {graph.input: domain.start(graph.input, shape)}, batch=1)
    domain.raise_refusals()
    bounds = found.bounds if isinstance(found, Change) else dict.fromkeys((*asked, "auto"), 0.0)
    tried: dict[str, float | str] = {}
    for name in asked:
        reason = domain.reasons.get(name)
        tried[name] = bounds[name] if reason is None else reason
    chosen = tried[method] if method != "auto" else bounds["auto"]
    if isinstance(chosen, str):
        raise UnsupportedOperator(
            f"The method {method!r} does not apply: {chosen}.",
            where="lipschitz_bound",
            advice="Use method='auto', which takes the smallest bound that is legal for each part of the graph.",
        )
    if not math.isfinite(chosen):
        raise NumericalError(
            "The bound overflows, or a layer's norm is not known.",
            where=next((row.place for row in domain.layers if not math.isfinite(row.bound)), "graph"),
            advice="Look at .tried with another method, or rescale the layer.",
        )
    return LipschitzBound(chosen, kind, method, tuple(domain.layers), tried)
