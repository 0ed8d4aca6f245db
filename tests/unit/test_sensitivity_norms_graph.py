"""Norms of nodes of captured graphs, tables of whole networks, and a trained network."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from tests.support.inputs import Calls, calls, numbers, seeded
from tests.support.layers import largest
from tests.support.networks import digits, trained_mlp
from torch import Tensor, nn

from assay.errors import SubjectError, UnsupportedOperator, UsageError
from assay.grade import Grade
from assay.graph import Graph, capture, evaluate_node
from assay.norms import layer_norms, node_norm, norm_cost, operator_norm
from assay.norms.maps import Effort


def traced(model: nn.Module, *shape: int) -> Graph:
    return capture(model.double(), numbers(2, *shape))


def matrix_of(graph: Graph, name: str) -> Tensor:
    """Unrolled matrix of a node in its varying inputs, stacked: the truth, from evaluation alone."""
    node = graph[name]
    values: dict[str, Tensor] = dict(graph.parameters)
    for other in graph:
        if other.name not in graph.dependent and other.op != "parameter":
            values[other.name] = evaluate_node(other, [values[i] if i else None for i in other.inputs], 1)
    varying = [i for i in dict.fromkeys(node.inputs) if i in graph.dependent]
    shapes = [[getattr(s, "multiple", s) for s in graph[i or ""].spec.shape] for i in varying]
    sizes = [math.prod(shape) for shape in shapes]

    def at(flat: Tensor) -> Tensor:
        parts = {i: p.reshape(s) for i, p, s in zip(varying, flat.split(sizes), shapes, strict=True)}
        return evaluate_node(node, [None if i is None else (values | parts)[i] for i in node.inputs], 1).flatten()

    zero = at(torch.zeros(sum(sizes), dtype=torch.float64))
    return torch.stack([at(unit) - zero for unit in torch.eye(sum(sizes), dtype=torch.float64)], 1)


def ops(graph: Graph, op: str) -> list[str]:
    return [node.name for node in graph.layers if node.op == op]


class Many(nn.Module):
    """Nearly every linear operator in one forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, padding=1, stride=2, groups=2)
        self.same = nn.Conv2d(4, 4, (2, 3), padding="same", padding_mode="reflect")
        self.up = nn.ConvTranspose2d(4, 3, 3, stride=2, padding=1, output_padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.norm.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
        self.shift = nn.Parameter(torch.randn(3, 1, 1))
        self.mix = nn.Parameter(torch.randn(4, 4))
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.same(self.first(x))
        x = self.norm(self.up(x))
        x = x * self.shift + self.shift
        x = nn.functional.avg_pool2d(x, 3, 2, 1)
        x = nn.functional.pad(x, (1, 0, 0, 2), value=1.0)
        x = nn.functional.interpolate(x, size=(4, 4), mode="bilinear")
        x = (x @ self.mix).transpose(1, 2).flip(1)
        x = torch.cat([x, x - 2 * x.roll(1, 2)], 1) / 3
        x = self.mix @ x[:, :4].transpose(1, 2).mean(3, keepdim=True).expand(-1, -1, -1, 4) - 1
        x = -nn.functional.adaptive_avg_pool2d(x, (3, 1)).sum(3)
        return self.head(x.flatten(1)[:, 1:])


@pytest.fixture(scope="module")
def many() -> Graph:
    return traced(seeded(Many), 2, 6, 6)


def test_every_linear_node_agrees_with_its_matrix(many: Graph) -> None:
    seen = set()
    for node in many.layers:
        matrix = matrix_of(many, node.name)
        truth = largest(matrix)
        found = node_norm(many, node.name)
        assert found.value == pytest.approx(truth, rel=1e-9), node.place
        assert found.grade is Grade.EXACT
        assert found.lower * (1 - 1e-9) <= truth <= found.upper * (1 + 1e-9)
        frobenius, infinity = (node_norm(many, node.name, norm=n) for n in ("frobenius", "inf"))  # type: ignore[arg-type]
        assert frobenius.value == pytest.approx(float(matrix.norm()), rel=1e-9), node.place
        assert infinity.value == pytest.approx(float(matrix.abs().sum(1).max()), rel=1e-9), node.place
        seen.add(node.op)
    assert seen >= {"conv", "conv_transpose", "batch_norm", "mul", "add", "sub", "avg_pool", "pad", "resize", "matmul"}
    assert seen >= {"permute", "flip", "roll", "cat", "slice", "mean", "expand", "neg", "adaptive_avg_pool", "linear"}


def test_lanczos_and_bounds_of_nodes(many: Graph) -> None:
    for name in ops(many, "conv") + ops(many, "conv_transpose") + ops(many, "linear"):
        truth = largest(matrix_of(many, name))
        found = node_norm(many, name, method="lanczos")
        assert found.value == pytest.approx(truth, rel=1e-6)
        assert found.lower <= truth <= found.upper


def test_residuals_and_concatenations() -> None:
    doubled = traced(calls(lambda m, x: x + m.same(x), same=nn.Identity()), 4)
    assert node_norm(doubled, ops(doubled, "add")[0]).value == 2
    cancelled = traced(calls(lambda m, x: m.first(x) - x, first=nn.Linear(4, 4)), 4)
    assert node_norm(cancelled, ops(cancelled, "sub")[0]).value == pytest.approx(math.sqrt(2))
    wide = traced(calls(lambda m, x: m.first(x) + 3 * m.second(x), first=nn.Linear(4, 6), second=nn.Linear(4, 1)), 4)
    name = ops(wide, "add")[0]
    assert node_norm(wide, name).value == pytest.approx(largest(matrix_of(wide, name)))
    assert node_norm(wide, name, norm="frobenius").value == pytest.approx(float(matrix_of(wide, name).norm()))
    both = traced(calls(lambda m, x: torch.cat([x, x], 1)), 4)
    assert node_norm(both, ops(both, "cat")[0]).value == pytest.approx(1.4142135624)


class Curved(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(6)
        self.slope = nn.PReLU(init=-2.0)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.gelu(self.norm(x), approximate="tanh")
        x = self.slope(x).clamp(-1, 1)
        x = torch.maximum(x, x.flip(1)) + x.amax(1, keepdim=True)
        return torch.log_softmax(x.softmax(1), 1)


def test_gains_of_nonlinear_nodes_hold_between_points() -> None:
    graph = traced(Curved().eval(), 6)
    expected = {"layer_norm": 1 / math.sqrt(1e-5), "gelu": 1.128993, "prelu": 2, "clip": 1, "softmax": 0.5}
    for node in graph.layers:
        found = node_norm(graph, node.name)
        if node.op in expected:
            assert found.value == pytest.approx(expected[node.op], rel=1e-6)
        varying = [i for i in node.inputs if i in graph.dependent]
        draws = [
            3 * numbers(2, 400, *[getattr(s, "multiple", s) for s in graph[i or ""].spec.shape][1:], seed=k)
            for k, i in enumerate(varying)
        ]
        both = []
        for side in (0, 1):
            values = dict(zip(varying, (draw[side] for draw in draws), strict=True)) | dict(graph.parameters)
            both.append(evaluate_node(node, [None if i is None else values[i] for i in node.inputs], 400))
        change = sum((draw[0] - draw[1]).flatten(1).square().sum(1) for draw in draws)
        ratio = (both[0] - both[1]).flatten(1).norm(dim=1) / torch.as_tensor(change).sqrt()
        assert float(ratio.max()) <= found.upper * (1 + 1e-12), node.place


def test_windows_folded_into_the_batch() -> None:
    """Two windows per sample: norms of one window, Frobenius norms of both."""
    model = calls(lambda m, x: m.layer(x.reshape(-1, 4)).reshape(x.shape[0], 6), layer=nn.Linear(4, 3))
    graph = traced(model, 8)
    for node in graph.layers:
        matrix = matrix_of(graph, node.name)
        assert node_norm(graph, node.name).value == pytest.approx(largest(matrix), rel=1e-9), node.place
        assert node_norm(graph, node.name, norm="frobenius").value == pytest.approx(float(matrix.norm()), rel=1e-9)


@pytest.mark.parametrize(
    ("model", "op", "error"),
    [
        (calls(lambda m, x: x * x.flip(1)), "mul", SubjectError),
        (calls(lambda m, x: x.exp()), "exp", SubjectError),
        (calls(lambda m, x: x**2), "power", SubjectError),
        (calls(lambda m, x: 1 / x), "power", SubjectError),
        (calls(lambda m, x: x.cumsum(1)), "opaque", UnsupportedOperator),
    ],
)
def test_nodes_without_a_finite_gain_are_an_error(model: Calls, op: str, error: type[Exception]) -> None:
    graph = traced(model, 4)
    with pytest.raises(error):
        node_norm(graph, ops(graph, op)[0])


def test_wrong_requests(many: Graph) -> None:
    for name in ("nothing", many.input, next(iter(many.parameters))):
        with pytest.raises(UsageError, match="not a layer"):
            node_norm(many, name)
    with pytest.raises(UsageError, match="norm"):
        node_norm(many, many.output, norm="nuclear")  # type: ignore[arg-type]


def test_table_of_a_network(many: Graph) -> None:
    calls_made: list[Any] = []
    rows = layer_norms(many, progress=lambda *call: calls_made.append(call))
    assert [row.node for row in rows] == [n.name for n in many.layers if n.name in {r.node for r in rows}]
    listed = "conv conv_transpose batch_norm linear resize mul div matmul avg_pool adaptive_avg_pool"
    assert {many[row.node].op for row in rows} == set(listed.split())
    assert len(calls_made) == len(rows)
    for row in rows:
        truth = largest(matrix_of(many, row.node))
        assert row.lower * (1 - 1e-9) <= truth <= row.upper
        assert row.place == many[row.node].place
        assert row.seconds >= 0
    cost = norm_cost(many)
    assert cost.multiply_adds > 0
    assert (
        norm_cost(many, effort=Effort(steps=200)).multiply_adds > norm_cost(many, effort=Effort(steps=2)).multiply_adds
    )


def test_a_row_that_fails_says_why() -> None:
    model = calls(lambda m, x: m.layer(x) * m.factor, layer=nn.Linear(3, 3), factor=nn.Parameter(torch.ones(3)))
    graph = traced(model, 3)
    with torch.no_grad():
        next(value for name, value in graph.parameters.items() if "factor" in name).fill_(math.nan)
    row = layer_norms(graph)[-1]
    assert math.isnan(row.value)
    assert (row.upper, row.norm) == (math.inf, None)
    assert "NaN" in row.error


def test_a_trained_network_is_bounded_by_the_product_of_its_norms() -> None:
    network = trained_mlp(3, 64)
    graph = capture(network, digits()[0][:2])
    rows = layer_norms(graph)
    assert len(rows) == 4
    assert [row.value for row in layer_norms(network, example=digits()[0][:2])] == [row.value for row in rows]
    for row, layer in zip(rows, (m for m in network if isinstance(m, nn.Linear)), strict=True):
        assert row.value == pytest.approx(float(torch.linalg.matrix_norm(layer.weight.double(), ord=2)), rel=1e-9)
        assert row.value == operator_norm(layer, (64,)).value
    x = digits()[0][:400].double()
    with torch.no_grad():
        y = copy.deepcopy(network).double()(x)
    ratio = (y[1:] - y[:-1]).norm(dim=1) / (x[1:] - x[:-1]).norm(dim=1)
    product = math.prod(row.upper for row in rows)
    assert 1 < float(ratio.max()) < product < 1000
