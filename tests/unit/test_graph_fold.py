"""Folding of batch norms: the same function with fewer layers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from assay.graph import Graph, evaluate, fold_batch_norms
from assay.subject import Subject


def settled(model: nn.Module) -> nn.Module:
    """The model in float64 with batch norms that do something."""
    torch.manual_seed(0)
    model = model.double().eval()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for name in ("weight", "bias", "running_mean"):
                value = getattr(module, name)
                if value is not None:
                    nn.init.normal_(value)
            if module.running_var is not None:
                nn.init.uniform_(module.running_var, 0.2, 3)
    return model


def graph_of(model: nn.Module, x: Tensor) -> Graph:
    return Subject.from_model(model, example=x).graph


CASES = {
    "conv without bias": (nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Flatten()), (3, 6, 6)),
    "grouped conv": (nn.Sequential(nn.Conv2d(4, 6, 3, groups=2), nn.BatchNorm2d(6), nn.Flatten()), (4, 5, 5)),
    "conv 1d": (nn.Sequential(nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4, affine=False), nn.Flatten()), (3, 6)),
    "transposed": (
        nn.Sequential(nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), nn.BatchNorm2d(6), nn.Flatten()),
        (4, 3, 3),
    ),
    "dense": (nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3)), (5,)),
    "last": (nn.Sequential(nn.Linear(5, 4, bias=False), nn.BatchNorm1d(4)), (5,)),
}


@pytest.mark.parametrize("name", CASES)
def test_equal_in_value_and_without_the_norm(name: str) -> None:
    model, shape = CASES[name]
    model = settled(model)
    x = torch.randn(3, *shape, dtype=torch.float64)
    graph = graph_of(model, x)
    folded = fold_batch_norms(graph)
    assert any(node.op == "batch_norm" for node in graph)
    assert not any(node.op == "batch_norm" for node in folded)
    torch.testing.assert_close(evaluate(folded, x), model(x), rtol=1e-12, atol=1e-12)
    assert {node.name for node in folded if node.op == "parameter"} == set(folded.parameters)


def test_layer_keeps_its_name_and_place() -> None:
    model = settled(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten()))
    graph = graph_of(model, torch.randn(2, 1, 5, 5, dtype=torch.float64))
    (conv,) = (node for node in graph if node.op == "conv")
    kept = fold_batch_norms(graph)[conv.name]
    assert (kept.module_path, kept.spec) == (conv.module_path, conv.spec)


class Shared(nn.Module):
    """One convolution used twice, once before a norm; and a layer whose raw output is read too."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2)
        self.other, self.after = nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)

    def forward(self, x: Tensor) -> Tensor:
        first = self.norm(self.conv(x))
        raw = self.other(self.conv(first))
        return (raw + self.after(raw)).flatten(1)


def test_shared_weights_and_raw_outputs_stay_right() -> None:
    model = settled(Shared())
    x = torch.randn(2, 2, 4, 4, dtype=torch.float64)
    graph = graph_of(model, x)
    folded = fold_batch_norms(graph)
    torch.testing.assert_close(evaluate(folded, x), model(x), rtol=1e-12, atol=1e-12)
    assert sum(node.op == "batch_norm" for node in folded) == 1  # the one whose layer is read twice
    weights = {node.inputs[1] for node in folded if node.op == "conv" and "other" not in node.module_path}
    assert len(weights) == 2


def test_a_norm_alone_stays() -> None:
    model = settled(nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2)))
    graph = graph_of(model, torch.randn(3, 4, dtype=torch.float64))
    assert fold_batch_norms(graph) is graph


def test_norm_over_another_axis_than_the_layers_stays() -> None:
    model = settled(nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(4), nn.Flatten()))
    x = torch.randn(2, 4, 5, dtype=torch.float64)
    graph = graph_of(model, x)
    torch.testing.assert_close(evaluate(fold_batch_norms(graph), x), model(x), rtol=1e-12, atol=1e-12)
