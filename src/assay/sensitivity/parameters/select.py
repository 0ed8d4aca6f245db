"""Which parameters of a model an analysis changes, and the graph it changes them in."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from assay.errors import UsageError
from assay.graph import Graph
from assay.graph.fold import fold_batch_norms
from assay.sensitivity.parameters.local import readers_of
from assay.subject import Subject


def folded_graph(subject: Subject) -> Graph:
    """The subject's graph with batch norms folded into the layers before them, as it would be deployed.

    Returns:
        The graph.

    Raises:
        CaptureError: when the model cannot be captured.
    """
    return fold_batch_norms(subject.graph)


def chosen_parameters(subject: Subject, graph: Graph, parameters: str | Sequence[str]) -> tuple[str, ...]:
    """Names of parameter nodes.

    Args:
        subject: the model, to tell its parameters from its buffers.
        graph: its folded graph.
        parameters: ``weights`` for learned tensors of two axes or more, ``all`` for biases and gains as well, or names
            of the graph's parameter nodes or of the model's parameters.

    Returns:
        Names in the graph's order.

    Raises:
        UsageError: for an unknown name, or when nothing is left to change.
    """
    learned = [name for name in graph.parameters if _learned(subject, graph, name)]
    if parameters == "all":
        names = learned
    elif parameters == "weights":
        names = [name for name in learned if graph.parameters[name].dim() >= 2]
    else:
        asked = {parameters} if isinstance(parameters, str) else set(parameters)
        known = {name: {name, graph.parameter_names.get(name, name)} for name in graph.parameters}
        names = [name for name in graph.parameters if known[name] & asked]
        unknown = asked - set().union(*known.values())
        if unknown:
            raise UsageError(
                f"The model has no parameters {', '.join(sorted(unknown))}.",
                where="parameters",
                advice=f"Use 'weights', 'all', or some of {', '.join(sorted(graph.parameter_names.values())[:8])}.",
            )
    used = tuple(name for name in names if readers_of(graph, name))
    if not used:
        raise UsageError(
            "No parameter that the output depends on is left to change.",
            where="parameters",
            advice="Choose parameters='all', or name some.",
        )
    return used


def place_of(graph: Graph, name: str) -> str:
    """Where a reader finds a parameter: its name in the model, else the place of the layer that reads it first."""
    return graph.parameter_names.get(name) or f"{readers_of(graph, name)[0].node.place}, {name}"


def frobenius(value: Tensor) -> float:
    """Euclidean norm of all elements."""
    return float(torch.linalg.vector_norm(value.double()))


def _learned(subject: Subject, graph: Graph, name: str) -> bool:
    if not graph.parameters[name].dtype.is_floating_point:
        return False
    if name not in graph.parameter_names:
        return "_folded_" in name  # a constant of the graph, unless folding made it
    buffers = {buffer for buffer, _ in subject.model.named_buffers()}
    return not {graph.parameter_names[name], f"model.{graph.parameter_names[name]}"} & buffers
