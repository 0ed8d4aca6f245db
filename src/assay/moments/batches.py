"""Batches that fit in memory: slices of inputs and their arguments."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from assay.errors import CaptureError
from assay.subject import Subject

CHUNK_BYTES = 600_000_000
"""Memory that one propagation may take."""


def slices(subject: Subject, count: int, method: str, rank: int) -> Iterator[slice]:
    """Slices of inputs whose propagation fits the memory budget."""
    size = max(1, min(count, int(CHUNK_BYTES / _bytes_per_input(subject, method, rank))))
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


def largest_batch_bytes(subject: Subject, count: int, method: str, rank: int) -> int:
    """What the largest batch of `slices` takes, about."""
    each = _bytes_per_input(subject, method, rank)
    return each * max(1, min(count, CHUNK_BYTES // each))


def _bytes_per_input(subject: Subject, method: str, rank: int) -> int:
    try:
        graph = subject.graph
    except CaptureError:
        return 400 * subject.example[0].numel()
    width = max(node.spec.size_per_sample for node in graph if node.name in graph.dependent)
    return 16 * width * width if method != "factor" and width <= 4096 else 16 * width * (rank + 4)


def activations(subject: Subject) -> int:
    """Activations of one forward pass of one input: the unit in which work is budgeted."""
    try:
        return max(1, sum(node.spec.size_per_sample for node in subject.graph.layers))
    except CaptureError:
        return 100 * subject.example[0].numel()


def output_indices(options: dict[str, object], rows: slice | Tensor) -> dict[str, object]:
    """Options of `propagate` for some samples: outputs given per sample are cut too."""
    outputs = options.get("outputs")
    if isinstance(outputs, torch.Tensor) and outputs.dim() == 2:
        return options | {"outputs": outputs[rows]}
    return options
