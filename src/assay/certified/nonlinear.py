"""Global constants of operators that are neither affine nor elementwise, and why some have none."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from assay.graph import Node

_NO_CONSTANT = {
    "layer_norm": "it divides by statistics of its own input, so only a local number means anything",
    "attention": "dot-product attention has no global Lipschitz constant",
    "mul": "a product of two tensors that both depend on the input grows without bound",
    "div": "a quotient by a tensor that depends on the input grows without bound",
    "where": "a condition that depends on the input jumps",
    "opaque": "no rule is known for this operator",
}
_NO_CONSTANT |= dict.fromkeys(("group_norm", "rms_norm"), _NO_CONSTANT["layer_norm"])
_NO_CONSTANT |= dict.fromkeys(("matmul", "addmm", "addcmul", "linear", "conv", "conv_transpose"), _NO_CONSTANT["mul"])


def reason_against(node: Node) -> str:
    """Why a node has no global constant."""
    return _NO_CONSTANT.get(node.op, f"no finite constant is known for {node.label}")


def bend_gain(node: Node, source: torch.Size, kind: str, varying: frozenset[int], target: torch.Size) -> float | None:
    """Global Lipschitz constant of a node in its varying inputs taken together; None where there is none.

    Of maxima over windows, softmax (at most 1/2 in either norm, where two classes share the probability), log-softmax,
    vector norms and pairwise maxima.

    Args:
        node: the node.
        source: shape of its first varying input, one sample.
        kind: norm, ``2`` or ``inf``.
        varying: positions that depend on the input.
        target: shape of the node, one sample.

    Returns:
        The constant.
    """
    infinity = kind == "inf"
    if node.op in ("max_pool", "adaptive_max_pool"):
        return 1.0 if infinity else math.sqrt(math.prod(_overlaps(node, source, target)))
    if node.op == "amax":
        return 1.0
    if node.op in ("maximum", "minimum"):
        copies = target.numel() / source.numel()
        return 1.0 if infinity or copies <= 1 else math.sqrt(copies)
    if node.op == "softmax":
        return 0.5
    if node.op == "log_softmax":
        return 2.0 if infinity else math.sqrt(source[node.attributes["dim"]])
    if node.op == "vector_norm":
        count = source.numel() / target.numel()
        order = float(node.attributes.get("ord", 2))
        gains = {1.0: (math.sqrt(count), count), 2.0: (1.0, math.sqrt(count)), math.inf: (1.0, 1.0)}
        return gains[order][infinity] if order in gains else None
    return None


def _overlaps(node: Node, source: torch.Size, target: torch.Size) -> list[int]:
    """Per axis, the most windows that share one element: attained by a spike there."""
    counts = []
    for size, axis in zip(source[2:], _taps(node, source, target), strict=True):
        seen = [0] * size
        for window in axis:
            for place in window:
                seen[place] += 1
        counts.append(max(seen))
    return counts


def _taps(node: Node, source: torch.Size, target: torch.Size) -> list[list[list[int]]]:
    """Per axis and window, the places of its elements."""
    sizes, outputs = source[2:], target[2:]
    if node.op == "adaptive_max_pool":
        return [
            [list(range(i * size // out, -(-(i + 1) * size // out))) for i in range(out)]
            for size, out in zip(sizes, outputs, strict=True)
        ]
    dims = len(sizes)
    kernel = _spread(node.attributes["kernel_size"], dims)
    stride = _spread(node.attributes.get("stride") or kernel, dims)
    padding = _spread(node.attributes.get("padding", (0,)), dims)
    dilation = _spread(node.attributes.get("dilation", (1,)), dims)
    return [
        [[i * s + t * d - p for t in range(k) if 0 <= i * s + t * d - p < size] for i in range(out)]
        for size, out, k, s, p, d in zip(sizes, outputs, kernel, stride, padding, dilation, strict=True)
    ]


def windows(node: Node, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Elements that each window of a max pool reads.

    Args:
        node: a max pool.
        source: (1, C, ...) what it reads.
        target: (1, C, ...) what it returns.

    Returns:
        Places in the flat source, (T, 1, C, ...) for windows of at most T elements, and which of them exist.
    """
    flat = torch.zeros(1, dtype=torch.long)
    exists = torch.ones(1, dtype=torch.bool)
    for size, axis in zip(source.shape[2:], _taps(node, source.shape, target.shape), strict=True):
        longest = max(len(window) for window in axis)
        places = torch.tensor([[*w, *[0] * (longest - len(w))] for w in axis]).T  # (taps, windows)
        there = torch.tensor([[True] * len(w) + [False] * (longest - len(w)) for w in axis]).T
        taps, dims = flat.shape[0], flat.dim() - 1
        flat = flat[:, None, ..., None] * size + places.reshape(1, longest, *[1] * dims, -1)
        exists = exists[:, None, ..., None] & there.reshape(1, longest, *[1] * dims, -1)
        flat, exists = flat.flatten(0, 1), exists.flatten(0, 1)
        assert flat.shape[0] == taps * longest
    per_channel = math.prod(source.shape[2:])
    offset = torch.arange(source.shape[1]).reshape(1, 1, -1, *[1] * (source.dim() - 2)) * per_channel
    shape = (flat.shape[0], *target.shape)
    return (flat[:, None, None] + offset).expand(shape), exists[:, None, None].expand(shape)


def _spread(values: Sequence[int] | int, dims: int) -> tuple[int, ...]:
    given = (values,) if isinstance(values, int) else tuple(values)
    return given * dims if len(given) == 1 else given
