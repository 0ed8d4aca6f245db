"""Which engine evaluates a network: by name, or by a rule in elements fixed from measurements."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from assay.attacks.target import chunk_size
from assay.errors import AssayError, UsageError
from assay.filtering.engines.allocator import keep_freed_memory, without_collection
from assay.filtering.engines.batched import ROWS_ELEMENTS, BatchedEngine
from assay.filtering.engines.engine import Engine, Precision
from assay.filtering.engines.incremental import IncrementalEngine
from assay.filtering.engines.naive import NaiveEngine
from assay.filtering.engines.program import Program, bytes_per_sample
from assay.subject import Subject, as_subject

EngineName = Literal["auto", "naive", "incremental", "batched"]
RULE_VERSION = 1  # of everything here that decides which kernels run: a key of stored results
BATCH_BYTES = 2**24  # of activations alive in one pass: what stays near the processor
LARGEST_BATCH = 512


def engine_of(
    subject: Subject | nn.Module,
    name: EngineName = "auto",
    *,
    batch_size: int | None = None,
    precision: Precision | None = None,
) -> Engine:
    """The engine that evaluates filtered versions of a network.

    ``auto`` takes ``batched`` for small networks (no value of a full batch is larger than a pass should be), else
    ``incremental``, and ``naive`` for a model that cannot be captured or whose graph is not equal to the module bit for
    bit on the subject's example; then `why` says so. Neither time nor the machine's load decides anything.

    Args:
        subject: the model; a module is wrapped.
        name: ``naive`` runs the module itself; ``incremental`` what the weights reach, bitwise equal to it;
            ``batched`` several masks in one pass, equal up to rounding; or ``auto``.
        batch_size: samples per pass; None takes as many as keep activations in 16 MiB, at most 512.
        precision: ``bf16`` or ``channels_last`` for outputs that are not exact; attacks stay in full precision.

    Returns:
        An engine. Grade: exact for ``naive`` and ``incremental``.

    Raises:
        AssayError: one of these:
        CaptureError: when an engine that needs the graph was asked for by name, and there is none.
        SubjectError: likewise, without an example input.
        UsageError: for an unknown name or precision, or a batch of no samples.

    Example:
        >>> network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> engine = engine_of(Subject.from_model(network, torch.zeros(5, 4)))
        >>> engine.name, engine.batch_size
        ('batched', 512)
    """
    if name not in get_args(EngineName) or precision not in (None, *get_args(Precision)):
        raise UsageError(
            f"engine={name!r} with precision={precision!r} cannot be used.",
            where="engine",
            advice=f"Engines are {', '.join(get_args(EngineName))}; precisions bf16, channels_last and None.",
        )
    subject = as_subject(subject)
    keep_freed_memory()
    if name == "naive":
        return NaiveEngine(subject, batch_size=batch_size, precision=precision)
    try:
        with without_collection():
            graph = subject.graph
    except AssayError as error:
        if name != "auto":
            raise
        return NaiveEngine(subject, batch_size=batch_size, why=str(error).splitlines()[0], precision=precision)
    exact = Program(graph, subject)
    program = exact if precision is None else Program(graph, subject, _CONVERT[precision])
    largest = max(1, *(step.node.spec.size_per_sample for step in exact.whole.suffix if step.node.spec.batched))
    chosen = BatchedEngine if name == "batched" else IncrementalEngine
    if name == "auto" and LARGEST_BATCH * largest <= ROWS_ELEMENTS:
        chosen = BatchedEngine
    size = _batch_size(subject, exact, batch_size)
    engine = chosen(subject, program, batch_size=size, exact=exact)
    if name == "auto" and not IncrementalEngine(subject, exact, batch_size=size).agrees(subject.example):
        why = "The captured graph agrees with the model up to rounding, not bit for bit."
        return NaiveEngine(subject, batch_size=batch_size, why=why, precision=precision)
    return engine


def _batch_size(subject: Subject, program: Program, asked: int | None) -> int:
    if asked is not None:
        return chunk_size(subject.example, asked)
    room = BATCH_BYTES // max(1, bytes_per_sample(program.graph, program.whole))
    return max(1, min(LARGEST_BATCH, room, chunk_size(subject.example, None)))


def _to_bf16(tensor: Tensor) -> Tensor:
    return tensor.to(torch.bfloat16) if tensor.dtype.is_floating_point else tensor


def _to_channels_last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor


_CONVERT: dict[str, Callable[[Tensor], Tensor]] = {"bf16": _to_bf16, "channels_last": _to_channels_last}
