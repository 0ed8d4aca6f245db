"""Where the samples of a batch are inside a node's value: usually the first axis, but not always."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from assay.errors import UnsupportedOperator
from assay.graph import BatchSize, Graph, Node, TensorSpec, evaluate


def has_plain_batch(spec: TensorSpec) -> bool:
    """Whether the first axis, and no other, is the batch."""
    return spec.shape[:1] == (BatchSize(),) and not any(isinstance(size, BatchSize) for size in spec.shape[1:])


def split_samples(value: Tensor, spec: TensorSpec, batch: int, *, inner: bool = False, lead: int = 0) -> Tensor:
    """Value of a node with the samples taken to the front: entry b is the node's value on a batch of sample b alone.

    Args:
        value: the node's value on a batch, behind `lead` axes of other meaning.
        spec: the node's.
        batch: samples in the batch.
        inner: whether samples vary fastest on the axis that they share with something else.
        lead: axes before those of the value.

    Returns:
        (*lead, B, ...), a view.

    Raises:
        UnsupportedOperator: when no axis, or several, belong to the batch.
    """
    axes = [axis for axis, size in enumerate(spec.shape) if isinstance(size, BatchSize)]
    if len(axes) != 1:
        raise UnsupportedOperator(
            f"A value of shape {spec} has {len(axes)} axes that grow with the batch, so its samples cannot be told "
            "apart.",
            advice="Analyse the parts of the model before and after it on their own.",
        )
    axis = axes[0] + lead
    return value.unflatten(axis, (-1, batch) if inner else (batch, -1)).movedim(axis + inner, lead)


def join_samples(values: Tensor, spec: TensorSpec, *, inner: bool = False) -> Tensor:
    """The inverse of `split_samples`."""
    axis = next(axis for axis, size in enumerate(spec.shape) if isinstance(size, BatchSize))
    return values.movedim(0, axis + inner).flatten(axis, axis + 1)


def inner_batches(graph: Graph, x: Tensor, nodes: Sequence[Node]) -> frozenset[str]:
    """Which of these nodes share their batch axis with something else in such a way that samples vary fastest.

    Found, and proved for the rest, by running a sample alone and beside another one.

    Returns:
        Names of the nodes.

    Raises:
        UnsupportedOperator: naming the first node whose samples lie in neither order.
    """
    names = {node.name for node in nodes}
    noise = torch.randn(x[-1:].shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(x.dtype)
    pair = torch.cat([0.5 * x[-1:] + 0.1 * noise, x[-1:]])
    together: dict[str, Tensor] = {graph.input: pair}
    alone: dict[str, Tensor] = {graph.input: pair[1:]}

    def keep(found: dict[str, Tensor]) -> Callable[[Node, Tensor], None]:
        return lambda node, value: found.update({node.name: value}) if node.name in names else None

    with torch.no_grad():
        evaluate(graph, pair, observe=keep(together))
        evaluate(graph, pair[1:], observe=keep(alone))
    inner: set[str] = set()
    for node in nodes:
        expected = alone[node.name]
        scale = float(expected.abs().max()) if expected.numel() else 0.0
        for varies_fastest in (False, True):
            last = split_samples(together[node.name], node.spec, 2, inner=varies_fastest)[-1]
            if not expected.numel() or float((last - expected).abs().max()) <= 1e-4 * scale:
                break
        else:
            raise UnsupportedOperator(
                "The samples of a batch do not lie in order in a node's value.",
                where=node.place,
                advice="Call the model with one sample at a time.",
            )
        if varies_fastest:
            inner.add(node.name)
    return frozenset(inner)
