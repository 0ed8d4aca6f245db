"""The graph without what hides kinks or makes false ones: idle nodes, copies, thresholds that are never crossed."""

from __future__ import annotations

from dataclasses import replace

from assay.graph import Graph, Node, pool_before_activation

_NOT_NEGATIVE = frozenset({"relu", "abs", "sigmoid", "hardsigmoid", "softplus", "exp", "softmax"})
_KEEPS_SIGN = frozenset(
    {"max_pool", "adaptive_max_pool", "avg_pool", "adaptive_avg_pool", "mean", "sum", "amax", "reshape", "permute"}
    | {"slice", "select", "part", "expand", "flip", "roll", "cat", "minimum", "mul"}
)
_STRAIGHT_ABOVE = frozenset({"relu", "leaky_relu", "prelu", "elu", "abs"})
"""Identical to their input where that is not negative (ELU up to its scale)."""


def simplified(graph: Graph) -> Graph:
    """Equal in value, easier to measure kinks in.

    Dropped are nodes that the output does not need, dropout and copies (a pool then sees the activation before them),
    and activations of values that are never negative (such as the ReLU of a ReLU), which touch their threshold without
    crossing it. Activations that never decrease move behind the max pools that alone read them.

    Returns:
        The rewritten graph.
    """
    return _without_untouched_thresholds(pool_before_activation(_without_copies(_without_idle(graph))))


def _without_idle(graph: Graph) -> Graph:
    needed = {graph.output}
    for node in reversed(graph.nodes):
        if node.name in needed:
            needed.update(name for name in node.inputs if name is not None)
    return graph.replace_nodes(tuple(n for n in graph if n.name in needed or n.op in ("input", "parameter")))


def _without_copies(graph: Graph) -> Graph:
    return _bypassed(graph, frozenset(node.name for node in graph if node.op == "identity"))


def _bypassed(graph: Graph, names: frozenset[str]) -> Graph:
    """Readers of these nodes read their first inputs instead; the output stays a node of its own."""
    source: dict[str, str] = {}
    kept: list[Node] = []
    for node in graph:
        inputs = tuple(source.get(name or "", name) for name in node.inputs)
        if node.name in names and inputs[0] is not None:
            if node.name != graph.output:
                source[node.name] = inputs[0]
                continue
            node = replace(node, op="identity", attributes={})
            inputs = inputs[:1]
        kept.append(replace(node, inputs=inputs))
    return graph.replace_nodes(tuple(kept))


def _without_untouched_thresholds(graph: Graph) -> Graph:
    positive: set[str] = set()
    untouched: set[str] = set()
    nodes: list[Node] = []
    for node in graph:
        inputs = [name for name in node.inputs if name is not None]
        if node.op in _STRAIGHT_ABOVE and inputs[0] in positive and node.attributes.get("scale", 1.0) == 1.0:
            untouched.add(node.name)
        low = node.attributes.get("low") if node.op == "clip" else None
        if low is not None and low <= 0 and inputs[0] in positive:
            node = replace(node, attributes={**node.attributes, "low": None})
        if (
            node.op in _NOT_NEGATIVE
            or (low is not None and low >= 0)
            or (node.op in _STRAIGHT_ABOVE and inputs[0] in positive)
            or (node.op == "add" and node.attributes.get("alpha", 1) >= 0 and all(name in positive for name in inputs))
            or (node.op == "maximum" and any(name in positive for name in inputs))
            or (node.op in _KEEPS_SIGN and all(name in positive for name in inputs))
        ):
            positive.add(node.name)
        nodes.append(node)
    return _bypassed(graph.replace_nodes(tuple(nodes)), frozenset(untouched))
