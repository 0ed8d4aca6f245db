"""How many terms each operator sums, and what kind of sum that is: one rule for every operator of the graph."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal

from assay.errors import SubjectError
from assay.graph import Graph, Node, TensorSpec

Kind = Literal["inner_product", "function", "composite"]

Rule = Callable[[Graph, Node], tuple[Kind, int] | None]


def _ints(spec: TensorSpec, axes: tuple[int, ...], node: Node) -> int:
    count = 1
    for axis in axes:
        size = spec.shape[axis]
        if not isinstance(size, int):
            raise SubjectError(
                "A node sums over the batch, so its rounding depends on the batch.",
                where=node.place,
                advice="Only networks that treat samples one by one can be analysed.",
            )
        count *= size
    return count


def _spec(graph: Graph, node: Node, position: int) -> TensorSpec:
    name = node.inputs[position]
    assert name is not None
    return graph[name].spec


def _moves(graph: Graph, node: Node) -> None:
    return None


def _terms(count: int) -> Rule:
    return lambda graph, node: ("inner_product", count)


def _function(graph: Graph, node: Node) -> tuple[Kind, int]:
    return "function", 1


def _convolution(graph: Graph, node: Node) -> tuple[Kind, int]:
    weight = _spec(graph, node, 1)
    return "inner_product", _ints(weight, tuple(range(1, len(weight.shape))), node)


def _transposed(graph: Graph, node: Node) -> tuple[Kind, int]:
    shape = _spec(graph, node, 1).shape
    dims = len(shape) - 2
    stride, dilation = (_spread(node.attributes.get(key, (1,)), dims) for key in ("stride", "dilation"))
    assert isinstance(shape[0], int)
    count = shape[0] // node.attributes.get("groups", 1)
    for size, step, gap in zip(shape[2:], stride, dilation, strict=True):
        assert isinstance(size, int)
        count *= math.ceil(size / (step // math.gcd(step, gap)))  # taps that can reach one place
    return "inner_product", count


def _spread(values: int | tuple[int, ...], dims: int) -> tuple[int, ...]:
    values = (values,) if isinstance(values, int) else tuple(values)
    return values * dims if len(values) == 1 else values


def _pool(graph: Graph, node: Node) -> tuple[Kind, int]:
    dims = len(node.spec.shape) - 2
    return "inner_product", math.prod(_spread(node.attributes["kernel_size"], dims))


def _adaptive_pool(graph: Graph, node: Node) -> tuple[Kind, int]:
    count = 1
    for size, out in zip(_spec(graph, node, 0).shape[2:], node.spec.shape[2:], strict=True):
        assert isinstance(size, int)
        assert isinstance(out, int)
        count *= max(-(-(i + 1) * size // out) - i * size // out for i in range(out))
    return "inner_product", count


def _reduction(kind: Kind) -> Rule:
    def rule(graph: Graph, node: Node) -> tuple[Kind, int]:
        spec = _spec(graph, node, 0)
        axes = node.attributes.get("dim")
        axes = tuple(range(len(spec.shape))) if axes is None else axes
        return kind, _ints(spec, (axes,) if isinstance(axes, int) else tuple(axes), node)

    return rule


def _matrix(position: int) -> Rule:
    return lambda graph, node: ("inner_product", _ints(_spec(graph, node, position), (-1,), node))


def _normalised(graph: Graph, node: Node) -> tuple[Kind, int]:
    return "composite", math.prod(node.attributes["normalized_shape"])


def _group_norm(graph: Graph, node: Node) -> tuple[Kind, int]:
    return "composite", node.spec.size_per_sample // node.attributes["num_groups"]


def _attention(graph: Graph, node: Node) -> tuple[Kind, int]:
    return "composite", _ints(_spec(graph, node, 1), (-2, -1), node)


def _resize(graph: Graph, node: Node) -> tuple[Kind, int] | None:
    return None if node.attributes["mode"] == "nearest" else ("inner_product", 2 ** (len(node.spec.shape) - 2))


_MOVING_CALLS = (
    "pixel_shuffle pixel_unshuffle channel_shuffle index index_select gather take embedding im2col unfold unfold_copy "
    "repeat repeat_interleave tile stack chunk split split_with_sizes unsafe_split unbind movedim rot90 tril triu "
    "masked_fill diagonal as_strided _to_copy to"
)
_MOVING = frozenset(f"aten.{name}" for name in _MOVING_CALLS.split(" "))


def _opaque(graph: Graph, node: Node) -> tuple[Kind, int] | None:
    if node.attributes["target"].rsplit(".", 1)[0] in _MOVING:
        return None
    return "composite", sum(graph[name].spec.size_per_sample for name in node.inputs if name is not None)


_FUNCTIONS = "leaky_relu prelu elu gelu silu sigmoid hardsigmoid hardswish tanh softplus mish erf exp log sin cos power"
_MOVES = (
    "relu clip abs neg maximum minimum where max_pool adaptive_max_pool amax window "
    "reshape permute slice select part expand pad roll flip identity cat"
)

RULES: Mapping[str, Rule] = MappingProxyType(
    {
        "linear": _convolution,
        "conv": _convolution,
        "conv_transpose": _transposed,
        "batch_norm": _terms(2),
        "resize": _resize,
        "avg_pool": _pool,
        "adaptive_avg_pool": _adaptive_pool,
        "mean": _reduction("inner_product"),
        "sum": _reduction("inner_product"),
        "add": _terms(2),
        "sub": _terms(2),
        "mul": _terms(1),
        "div": _terms(1),
        "matmul": _matrix(0),
        "addmm": _matrix(1),
        "addcmul": _terms(2),
        "layer_norm": _normalised,
        "group_norm": _group_norm,
        "rms_norm": _normalised,
        "vector_norm": _reduction("composite"),
        "softmax": _reduction("composite"),
        "log_softmax": _reduction("composite"),
        "attention": _attention,
        "opaque": _opaque,
    }
    | dict.fromkeys(_FUNCTIONS.split(" "), _function)
    | dict.fromkeys(_MOVES.split(" "), _moves)
)
"""For every operator: kind and fan-in of its site, or None where it selects or moves."""
