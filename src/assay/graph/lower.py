"""Rewrite composite operators into simpler ones, for domains that have rules only for the simple ones."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from assay.graph.ir import Graph, Node


def lower_max_pools(graph: Graph) -> Graph:
    """Every max pool as strided windows and a tournament of pairwise maxima, equal in value.

    Returns:
        The rewritten graph. Adaptive max pools are rewritten where the window size is constant; other ones stay. The
        last maximum keeps the pool's name.
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
        if source is None or not _increasing(source) or readers[source.name] != 1 or source.name == graph.output:
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


def _increasing(node: Node) -> bool:
    """Whether a node never decreases: with a negative factor, ELU turns around."""
    factors = (node.attributes.get(name, 1.0) for name in ("alpha", "scale", "input_scale"))
    return node.op in _INCREASING and all(factor >= 0 for factor in factors)


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
    def emit(name: str, op: str, inputs: tuple[str | None, ...], attributes: dict[str, Any]) -> Node:
        return Node(name, op, inputs, attributes, node.spec, node.module_path, node.source)

    if len(windows) == 1:
        yield emit(node.name, "window", node.inputs, windows[0] | {"fill": None})
        return
    names = []
    for index, window in enumerate(windows):
        names.append(f"{node.name}_window{index}")
        yield emit(names[-1], "window", node.inputs, window | {"fill": None})
    count = 0
    while len(names) > 1:
        paired = []
        for first, second in zip(names[::2], names[1::2], strict=False):
            last = len(names) == 2
            paired.append(node.name if last else f"{node.name}_max{count}")
            count += 1
            yield emit(paired[-1], "maximum", (first, second), {})
        names = paired + (names[-1:] if len(names) % 2 else [])
