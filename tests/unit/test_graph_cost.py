"""Operations of a graph against counts by hand, and graphs that travel to other processes."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from assay.graph import capture, evaluate, operations


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(7, 5), (2, 7)),
        (nn.Linear(7, 5), (2, 3, 7)),
        (nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), (2, 4, 9, 9)),
        (nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), (2, 4, 5, 5)),
        (nn.Conv1d(3, 2, 4), (2, 3, 11)),
    ],
)
def test_linear_layers_are_counted_as_torch_counts_them(layer: nn.Module, shape: tuple[int, ...]):
    x = torch.randn(shape)
    graph = capture(layer.eval(), x)
    with FlopCounterMode(display=False) as counter:
        layer(x)
    linear = {node.name for node in graph if node.op in ("linear", "conv", "conv_transpose")}
    counted = sum(value for name, value in operations(graph).items() if name in linear)
    assert counted * shape[0] == pytest.approx(counter.get_total_flops())


def test_matrix_products_and_elementwise_nodes():
    class Product(nn.Module):
        def forward(self, x):
            return (x.transpose(1, 2) @ x).relu()

    graph = capture(Product().eval(), torch.randn(2, 3, 4))
    count = {node.op: operations(graph)[node.name] for node in graph if node.op in ("matmul", "relu")}
    assert count == {"matmul": 2.0 * 16 * 3, "relu": 16.0}


def test_a_graph_survives_pickling():
    network = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2)).eval()
    x = torch.randn(2, 1, 4, 4)
    graph = capture(network, x)
    assert graph.last_use  # values computed once are pickled along
    assert graph.dependent
    copy = pickle.loads(pickle.dumps(graph))
    assert torch.equal(evaluate(copy, x), network(x))
