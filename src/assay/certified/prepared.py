"""The graph that bounds work on: batch norms folded, double precision, no NaN."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from assay.errors import NumericalError, SubjectError, UsageError
from assay.graph import Graph
from assay.graph.fold import fold_batch_norms
from assay.subject import Subject, as_subject


def bound_graph(model: nn.Module | Subject, example: Tensor | None = None) -> Graph:
    """Captured graph of a model, ready for bounds.

    Args:
        model: a module or Subject; in training mode it is bounded as it is in evaluation mode.
        example: (B, ...) one batch of inputs, needed for a module only.

    Returns:
        The graph in float64, batch norms folded into the layers before them.

    Raises:
        CaptureError: when the model cannot be captured.
        NumericalError: for parameters that are NaN.
        SubjectError: for inputs that are not floating point, or a model whose samples influence each other.
        UsageError: when there is no example input.

    Example:
        >>> graph = bound_graph(nn.Sequential(nn.Linear(2, 3), nn.ReLU()), torch.zeros(2, 2))
        >>> [node.op for node in graph.layers]
        ['linear', 'relu']
    """
    if not isinstance(model, Subject) and example is None:
        raise UsageError(
            "A bound needs the model's input shape.",
            where="example",
            advice="Pass example=x with one batch of inputs, or a Subject, which carries one.",
        )
    if example is not None and not (isinstance(example, Tensor) and example.dtype.is_floating_point):
        kind = example.dtype if isinstance(example, Tensor) else type(example).__name__
        raise SubjectError(
            f"Inputs must be a floating point tensor, got {kind}.", where="example", advice="Convert them: x.float()."
        )
    subject = as_subject(model, None if example is None else _matching(model, example[:2]))
    graph = fold_batch_norms(
        doubled(subject.graph)
    )  # in this order: folding in single precision is no longer the model
    _check_finite(graph)
    return graph


def doubled(graph: Graph) -> Graph:
    """The same graph with its parameters in double precision."""
    parameters = {n: p.detach().double() if p.dtype.is_floating_point else p for n, p in graph.parameters.items()}
    return replace(graph, parameters=parameters)


def _matching(model: nn.Module | Subject, example: Tensor) -> Tensor:
    tensors = model.model.parameters() if isinstance(model, Subject) else getattr(model, "parameters", tuple)()
    return example.detach().to(next((p.dtype for p in tensors if p.dtype.is_floating_point), example.dtype))


def _check_finite(graph: Graph) -> None:
    bad = [n for n, p in graph.parameters.items() if p.dtype.is_floating_point and bool(torch.isnan(p).any())]
    if bad:
        raise NumericalError(
            "Parameters hold NaN.",
            where=", ".join(graph.parameter_names.get(name, name) for name in bad[:5]),
            advice="Load weights that were saved before training diverged.",
        )
