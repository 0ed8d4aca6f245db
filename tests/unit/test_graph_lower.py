"""Rewriting of max pools: equal in value for every kind of pool, and only where it is allowed."""

from typing import Any

import pytest
import torch
from torch import Tensor

from assay.graph import (
    BatchSize,
    Graph,
    Node,
    TensorSpec,
    evaluate,
    evaluate_node,
    lower_max_pools,
    pool_before_activation,
)

POOLS: list[tuple[tuple[int, ...], str, dict[str, Any]]] = [
    ((8,), "max_pool", {"kernel_size": (2,), "stride": (2,)}),
    ((9,), "max_pool", {"kernel_size": (3,), "stride": (2,), "padding": (1,), "ceil_mode": True}),
    ((10,), "max_pool", {"kernel_size": (3,), "stride": (1,), "padding": (1,), "dilation": (2,)}),
    ((6, 6), "max_pool", {"kernel_size": (2, 2)}),
    ((6, 6), "max_pool", {"kernel_size": (2,), "stride": ()}),
    ((7, 7), "max_pool", {"kernel_size": (3, 3), "stride": (2, 2), "padding": (1, 1)}),
    ((7, 6), "max_pool", {"kernel_size": (3, 2), "stride": (2, 3), "padding": (1, 0), "ceil_mode": True}),
    ((9, 8), "max_pool", {"kernel_size": (2, 3), "stride": (3, 1), "padding": (1, 1), "dilation": (3, 2)}),
    ((8, 8), "max_pool", {"kernel_size": (3, 3), "stride": (3, 3), "ceil_mode": True}),
    ((6, 6), "max_pool", {"kernel_size": (1, 1), "stride": (2, 2)}),
    ((6, 6), "max_pool", {"kernel_size": (1, 1), "stride": (1, 1)}),
    ((5, 5), "max_pool", {"kernel_size": (5, 5)}),
    ((8, 8), "max_pool", {"kernel_size": (3, 3), "stride": (5, 5)}),
    ((4, 4, 4), "max_pool", {"kernel_size": (2, 2, 2), "stride": (2, 2, 2)}),
    ((5, 4, 6), "max_pool", {"kernel_size": (3, 2, 3), "stride": (2, 1, 2), "padding": (1, 1, 1), "ceil_mode": True}),
    ((8,), "adaptive_max_pool", {"output_size": (4,)}),
    ((6, 4), "adaptive_max_pool", {"output_size": (3, 1)}),
    ((4, 6, 2), "adaptive_max_pool", {"output_size": (2, 2, 1)}),
]
INCREASING = [
    ("relu", {}),
    ("clip", {"low": 0.0, "high": 1.0}),
    ("elu", {"alpha": 1.3}),
    *((name, {}) for name in ("sigmoid", "hardsigmoid", "tanh", "softplus", "erf", "exp")),
]


def chain(size: tuple[int, ...], *calls: tuple[str, dict[str, Any]]) -> tuple[Graph, Tensor]:
    """A graph that applies the calls one after the other, and a batch with ties and with windows below zero."""
    x = torch.randn(3, 2, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64).round(decimals=1) - 1
    nodes = [Node("x", "input", (), {}, spec(x))]
    value = x
    for place, (op, attributes) in enumerate(calls):
        node = Node(f"{op}_{place}", op, (nodes[-1].name,), attributes, spec(x))
        value = evaluate_node(node, [value], 3)
        nodes.append(Node(node.name, op, node.inputs, attributes, spec(value)))
    return Graph(tuple(nodes), "x", nodes[-1].name), x


def spec(value: Tensor) -> TensorSpec:
    return TensorSpec((BatchSize(), *value.shape[1:]), value.dtype)


def shapes(graph: Graph, x: Tensor) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    evaluate(graph, x, observe=lambda node, value: found.update({node.name: tuple(value.shape[1:])}))
    return found


@pytest.mark.parametrize(("size", "op", "attributes"), POOLS)
def test_max_pools_become_windows_and_maxima(size: tuple[int, ...], op: str, attributes: dict[str, Any]):
    graph, x = chain(size, ("relu", {}), (op, attributes), ("tanh", {}))
    lowered = lower_max_pools(graph)
    assert torch.equal(evaluate(lowered, x), evaluate(graph, x))
    assert {node.op for node in lowered} <= {"input", "relu", "tanh", "window", "maximum"}
    assert lowered.output == graph.output
    assert {f"{op}_1"} <= {node.name for node in lowered}  # whoever reads the pool still finds it
    assert all(shape == lowered[name].spec.shape[1:] for name, shape in shapes(lowered, x).items())


def test_a_pool_of_unequal_windows_stays():
    graph, x = chain((7, 7), ("adaptive_max_pool", {"output_size": (3, 3)}))
    lowered = lower_max_pools(graph)
    assert [node.op for node in lowered] == ["input", "adaptive_max_pool"]
    assert torch.equal(evaluate(lowered, x), evaluate(graph, x))


@pytest.mark.parametrize(("size", "op", "attributes"), POOLS)
@pytest.mark.parametrize(("function", "parameters"), INCREASING[:3], ids=[name for name, _ in INCREASING[:3]])
def test_pool_and_activation_change_places(
    size: tuple[int, ...], op: str, attributes: dict[str, Any], function: str, parameters: dict[str, Any]
):
    graph, x = chain(size, ("neg", {}), (function, parameters), (op, attributes), ("cos", {}))
    swapped = pool_before_activation(graph)
    assert [node.op for node in swapped] == ["input", "neg", op, function, "cos"]
    assert torch.equal(evaluate(swapped, x), evaluate(graph, x))
    assert all(shape == swapped[name].spec.shape[1:] for name, shape in shapes(swapped, x).items())
    assert torch.equal(evaluate(lower_max_pools(swapped), x), evaluate(graph, x))


@pytest.mark.parametrize(("function", "parameters"), INCREASING, ids=[name for name, _ in INCREASING])
def test_every_increasing_function_may_change_places(function: str, parameters: dict[str, Any]):
    graph, x = chain((6, 6), (function, parameters), ("max_pool", {"kernel_size": (2, 2)}))
    swapped = pool_before_activation(graph)
    assert [node.op for node in swapped] == ["input", "max_pool", function]
    assert torch.allclose(evaluate(swapped, x), evaluate(graph, x), rtol=1e-14)


def test_pools_and_activations_in_a_row():
    pool = ("max_pool", {"kernel_size": (2, 2)})
    graph, x = chain((8, 8), ("relu", {}), pool, ("relu", {}), pool)
    swapped = pool_before_activation(graph)
    assert [node.op for node in swapped] == ["input", "max_pool", "relu", "max_pool", "relu"]
    assert torch.equal(evaluate(swapped, x), evaluate(graph, x))


@pytest.mark.parametrize(
    ("function", "parameters"),
    [
        ("gelu", {}),
        ("silu", {}),
        ("abs", {}),
        ("neg", {}),
        ("cos", {}),
        ("elu", {"alpha": -1.0}),
        ("leaky_relu", {"negative_slope": -0.5}),
    ],
)
def test_a_function_that_decreases_somewhere_keeps_its_place(function: str, parameters: dict[str, Any]):
    graph, _ = chain((6, 6), (function, parameters), ("max_pool", {"kernel_size": (2, 2)}))
    assert pool_before_activation(graph) is graph


def test_an_activation_that_is_read_elsewhere_keeps_its_place():
    graph, x = chain((6, 6), ("relu", {}), ("max_pool", {"kernel_size": (3, 3), "stride": (1, 1), "padding": (1, 1)}))
    both = Node("sum", "add", ("relu_0", "max_pool_1"), {}, graph["relu_0"].spec)
    shared = Graph((*graph.nodes, both), "x", "sum")
    assert pool_before_activation(shared) is shared
    output = Graph(graph.nodes, "x", "relu_0")
    assert pool_before_activation(output) is output
    twice = Graph((*graph.nodes, Node("sum", "add", ("relu_0", "relu_0"), {}, graph["relu_0"].spec)), "x", "sum")
    assert torch.equal(evaluate(pool_before_activation(twice), x), evaluate(twice, x))
