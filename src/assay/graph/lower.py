"""Rewrite composite operators into simpler ones, for domains that have rules only for the simple ones."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from assay.graph.ir import Graph, Node, TensorSpec


def lower_max_pools(graph: Graph) -> Graph:
    """Every max pool as strided windows and a tournament of pairwise maxima, equal in value.

    Returns:
        The rewritten graph. Adaptive max pools are rewritten where the window size is constant; other ones stay. The
        last maximum keeps the pool's name.

    Example:
        >>> from assay.graph.from_export import capture
        >>> graph = capture(torch.nn.MaxPool1d(2), torch.ones(2, 1, 4))
        >>> [node.op for node in graph.layers], "max_pool" in {node.op for node in lower_max_pools(graph).layers}
        (['max_pool'], False)
    """
    nodes: list[Node] = []
    for node in graph:
        windows = _windows(graph, node) if node.op in ("max_pool", "adaptive_max_pool") else None
        nodes.extend([node] if windows is None else _tournament(node, windows))
    return graph.replace_nodes(tuple(nodes))


_INCREASING = frozenset({"relu", "clip", "sigmoid", "hardsigmoid", "tanh", "softplus", "elu", "erf", "exp"})
_POOLS = frozenset({"max_pool", "adaptive_max_pool"})


def pool_before_activation(graph: Graph) -> Graph:
    """Swap pool(f(x)) into f(pool(x)) where f never decreases and only the pool reads f(x): equal in value.

    The pool then sees pre-activations, which are closer to Gaussian than what a ReLU leaves, and the activation fewer
    units.

    Returns:
        The rewritten graph; the same object where nothing can be swapped.

    Example:
        >>> from assay.graph.from_export import capture
        >>> graph = capture(torch.nn.Sequential(torch.nn.ReLU(), torch.nn.MaxPool1d(2)), torch.ones(2, 1, 4))
        >>> [node.op for node in graph.layers], [node.op for node in pool_before_activation(graph).layers]
        (['relu', 'max_pool'], ['max_pool', 'relu'])
    """
    readers: dict[str, int] = {}
    for node in graph:
        for name in node.inputs:
            if name is not None:
                readers[name] = readers.get(name, 0) + 1
    by_name = {node.name: node for node in graph}
    order = [node.name for node in graph]
    after = {}  # pool -> its activation, which now comes last
    for pool in graph:
        source = by_name.get(pool.inputs[0] or "") if pool.op in _POOLS else None
        if source is None or not _increasing(graph, source) or readers[source.name] != 1 or source.name == graph.output:
            continue
        by_name[pool.name] = replace(pool, inputs=source.inputs)
        by_name[source.name] = replace(source, inputs=(pool.name, *source.inputs[1:]), spec=pool.spec)
        first, second = order.index(source.name), order.index(pool.name)
        order[first], order[second] = pool.name, source.name
        after[pool.name] = source.name
    if not after:
        return graph
    swapped = set(after.values())
    nodes = tuple(
        by_name[name]
        if name in swapped
        else replace(by_name[name], inputs=tuple(after.get(i or "", i) for i in by_name[name].inputs))
        for name in order
    )
    return graph.replace_nodes(nodes, after.get(graph.output, graph.output))


def _increasing(graph: Graph, node: Node) -> bool:
    """Whether a node never decreases and treats all places of a channel alike."""
    if node.op == "leaky_relu":
        return node.attributes.get("negative_slope", 0.01) >= 0
    if node.op == "prelu":
        return _increasing_prelu(node, graph.parameters.get(node.inputs[1] or ""))
    factors = (node.attributes.get(name, 1.0) for name in ("alpha", "scale", "input_scale"))
    return node.op in _INCREASING and all(factor >= 0 for factor in factors)  # a factor below 0 turns ELU around


def _increasing_prelu(node: Node, slopes: Tensor | None) -> bool:
    """Whether fixed slopes are all non-negative, with one for all units or one per channel."""
    if slopes is None or not bool((slopes >= 0).all()):
        return False
    along = slopes.shape if slopes.dim() > 1 else (1, *slopes.shape)
    channels_first = all(size == 1 for axis, size in enumerate(along) if axis != 1)
    return slopes.numel() == 1 or (channels_first and slopes.dim() in (1, len(node.spec.shape)))


def _windows(graph: Graph, node: Node) -> list[dict[str, tuple[int, ...]]] | None:
    source = node.inputs[0]
    assert source is not None
    sizes = [size for size in graph[source].spec.shape[2:] if isinstance(size, int)]
    out = tuple(size for size in node.spec.shape[2:] if isinstance(size, int))
    dims = len(out)
    if node.op == "adaptive_max_pool":
        if any(size % count for size, count in zip(sizes, out, strict=True)):
            return None
        kernel = stride = tuple(size // count for size, count in zip(sizes, out, strict=True))
        padding, dilation = (0,) * dims, (1,) * dims
    else:
        kernel = _spread(node.attributes["kernel_size"], dims)
        stride = _spread(node.attributes.get("stride") or node.attributes["kernel_size"], dims)
        padding = _spread(node.attributes.get("padding", (0,)), dims)
        dilation = _spread(node.attributes.get("dilation", (1,)), dims)
    needed = [(o - 1) * s + d * (k - 1) + 1 for o, s, d, k in zip(out, stride, dilation, kernel, strict=True)]
    pads = tuple(
        pad for size, low, need in zip(sizes, padding, needed, strict=True) for pad in (low, max(0, need - size - low))
    )
    offsets = itertools.product(*(range(k) for k in kernel))
    return [
        {
            "offset": tuple(o * d for o, d in zip(offset, dilation, strict=True)),
            "step": stride,
            "size": out,
            "padding": pads,
        }
        for offset in offsets
    ]


def _spread(values: tuple[int, ...], dims: int) -> tuple[int, ...]:
    return tuple(values) * dims if len(values) == 1 else tuple(values)


def _tournament(node: Node, windows: list[dict[str, tuple[int, ...]]]) -> Iterator[Node]:
    """Windows and pairwise maxima in pairs of pairs; each window right before its use, so that few tensors live."""
    made = itertools.count()

    def emit(name: str, op: str, inputs: tuple[str | None, ...], attributes: dict[str, Any]) -> Node:
        return Node(name, op, inputs, attributes, node.spec, node.module_path, node.source)

    def largest(first: int, count: int) -> list[Node]:
        """Nodes whose last one is the maximum of `count` windows."""
        if count == 1:
            name = node.name if len(windows) == 1 else f"{node.name}_window{first}"
            return [emit(name, "window", node.inputs, windows[first] | {"fill": None})]
        half = 1 << (count - 1).bit_length() - 1  # the largest power of two below the count
        left, right = largest(first, half), largest(first + half, count - half)
        name = node.name if count == len(windows) else f"{node.name}_max{next(made)}"
        return [*left, *right, emit(name, "maximum", (left[-1].name, right[-1].name), {})]

    yield from largest(0, len(windows))


def lower_squares(graph: Graph) -> Graph:
    """Every square as the product of a tensor with itself, equal in value.

    Returns:
        The rewritten graph.

    Example:
        >>> from assay.graph.from_export import capture
        >>> class Square(torch.nn.Module):
        ...     def forward(self, x):
        ...         return x.square()
        >>> [node.op for node in lower_squares(capture(Square(), torch.ones(2, 2))).layers]
        ['mul']
    """
    nodes = [
        replace(node, op="mul", inputs=(node.inputs[0], node.inputs[0]), attributes={})
        if node.op == "power" and node.attributes.get("exponent") == 2
        else node
        for node in graph
    ]
    return graph.replace_nodes(tuple(nodes))


def lower_attention(graph: Graph) -> Graph:
    """Dot-product attention as products and a softmax, where the queries or keys depend on the input; equal in value.

    Returns:
        The rewritten graph. Heads that share keys stay fused. The last product keeps the attention's name.

    Example:
        >>> from assay.graph.from_export import capture
        >>> class Attention(torch.nn.Module):
        ...     def forward(self, x):
        ...         return torch.nn.functional.scaled_dot_product_attention(x, x, x)
        >>> graph = capture(Attention(), torch.ones(2, 3, 4))
        >>> "softmax" in {node.op for node in lower_attention(graph).layers}
        True
    """
    nodes: list[Node] = []
    parameters = dict(graph.parameters)
    for node in graph:
        varying = node.op == "attention" and any(name in graph.dependent for name in node.inputs[:2])
        nodes.extend(_products(graph, node, parameters) if varying and not _shares_keys(graph, node) else [node])
    return replace(graph, nodes=tuple(nodes), parameters=parameters)


def _shares_keys(graph: Graph, node: Node) -> bool:
    shapes = [graph[name].spec.shape for name in node.inputs[:3] if name is not None]
    return len({len(shape) for shape in shapes}) > 1 or len({shape[:-2] for shape in shapes}) > 1


def _products(graph: Graph, node: Node, parameters: dict[str, Tensor]) -> Iterator[Node]:
    query, key, value, mask = (*node.inputs, None)[:4]
    assert query is not None
    assert key is not None
    shape, keys = graph[query].spec.shape, graph[key].spec.shape
    rank, width, floating = len(shape), shape[-1], node.spec.dtype
    assert isinstance(width, int)
    scale = node.attributes.get("scale")
    made = itertools.count()

    def emit(op: str, inputs: tuple[str | None, ...], sizes: tuple[Any, ...], **attributes: Any) -> Node:
        spec = TensorSpec(sizes, floating)
        return Node(f"{node.name}_part{next(made)}", op, inputs, attributes, spec, node.module_path, node.source)

    def constant(value: Tensor) -> Node:
        name = f"{node.name}_constant{next(made)}"
        parameters[name] = value
        return Node(name, "parameter", (), {}, TensorSpec(tuple(value.shape), value.dtype))

    order = (*range(rank - 2), rank - 1, rank - 2)
    turned = emit("permute", (key,), (*keys[:-2], keys[-1], keys[-2]), order=order)
    factor = constant(torch.tensor(width**-0.5 if scale is None else scale, dtype=floating))
    scaled = emit("mul", (query, factor.name), shape)
    sizes: tuple[Any, ...] = (*shape[:-1], keys[-2])
    scores = emit("matmul", (scaled.name, turned.name), sizes)
    yield from (turned, factor, scaled, scores)
    masks: list[tuple[str, bool]] = [] if mask is None else [(mask, graph[mask].spec.dtype == torch.bool)]
    if node.attributes.get("is_causal", False):
        triangle = constant(torch.ones((sizes[-2], sizes[-1]), dtype=torch.bool).tril())
        yield triangle
        masks.append((triangle.name, True))
    for name, allowed in masks:
        if allowed:
            closed = constant(torch.tensor(_CLOSED, dtype=floating))
            yield closed
            scores = emit("where", (name, scores.name, closed.name), sizes)
        else:
            scores = emit("add", (scores.name, name), sizes)
        yield scores
    weights = emit("softmax", (scores.name,), sizes, dim=rank - 1)
    yield weights
    yield replace(node, op="matmul", inputs=(weights.name, value), attributes={})


_CLOSED = -1e4
"""Logit of a masked place: its weight rounds to zero, and every derivative is finite."""


def select_before_permute(graph: Graph) -> Graph:
    """Swap select(permute(x)) into permute(select(x)), equal in value, where only selections read the permuted tensor.

    So the batch stays the first axis where queries, keys and values are taken from one tensor.

    Returns:
        The rewritten graph.

    Example:
        >>> from assay.graph.from_export import capture
        >>> class Last(torch.nn.Module):
        ...     def forward(self, x):
        ...         return x.permute(0, 2, 1)[:, -1]
        >>> graph = capture(Last(), torch.ones(2, 3, 4))
        >>> [node.op for node in select_before_permute(graph).layers]
        ['select', 'permute']
    """
    readers: dict[str, list[Node]] = {}
    for node in graph:
        for name in node.inputs:
            if name is not None:
                readers.setdefault(name, []).append(node)
    swapped = {
        node.name: node
        for node in graph
        if node.op == "permute"
        and node.name != graph.output
        and all(reader.op == "select" for reader in readers.get(node.name, []))
    }
    nodes: list[Node] = []
    for node in graph:
        source = swapped.get(node.inputs[0] or "") if node.inputs and node.op == "select" else None
        if node.name in swapped:
            continue
        nodes.extend([node] if source is None else _selected_first(graph, source, node))
    return graph.replace_nodes(tuple(nodes))


def _selected_first(graph: Graph, permute: Node, select: Node) -> tuple[Node, Node]:
    order = permute.attributes["order"]
    source = permute.inputs[0]
    assert source is not None
    place = order[select.attributes["axis"] % len(order)]
    left = tuple(axis - (axis > place) for axis in order if axis != place)
    sizes = tuple(size for axis, size in enumerate(graph[source].spec.shape) if axis != place)
    name = f"{select.name}_taken"
    taken = replace(
        select,
        name=name,
        inputs=(source,),
        attributes={"axis": place, "index": select.attributes["index"]},
        spec=TensorSpec(sizes, select.spec.dtype),
    )
    return taken, replace(select, op="permute", inputs=(name,), attributes={"order": left})


def lower_composites(graph: Graph) -> Graph:
    """Squares, attention and selections behind a permutation in terms of operators that analyses have rules for.

    Returns:
        The rewritten graph, equal in value.

    Example:
        >>> from assay.graph.from_export import capture
        >>> class Square(torch.nn.Module):
        ...     def forward(self, x):
        ...         return x.square()
        >>> [node.op for node in lower_composites(capture(Square(), torch.ones(2, 2))).layers]
        ['mul']
    """
    return lower_squares(lower_attention(select_before_permute(graph)))
