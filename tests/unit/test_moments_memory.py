"""What keeps the low-rank walk small changes no number: folding on the way, columns overwritten, sums that stream."""

from __future__ import annotations

import pytest
import torch
from tests.support.inputs import close, numbers
from torch import Tensor, nn

from assay.covariance import Diagonal, LowRankPlusDiagonal
from assay.gaussian import smoothed_maximum, smoothed_relu
from assay.graph import OPERATORS, evaluate, fold_batch_norms
from assay.interpret import OperatorMap
from assay.moments import propagate
from assay.moments.basis import columns
from assay.moments.folding import fold_on_the_way
from assay.moments.streamed import Blend, carry, in_parts, products
from assay.subject import Subject


class Residual(nn.Module):
    """Every kind of node that overwrites its inputs, with tensors that are read twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6))
        self.second = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU())
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.last = nn.Sequential(nn.Linear(6 * 9, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        y = torch.relu(x) + self.second(x)
        y = torch.relu(y + x) + torch.add(y, x, alpha=0.5)
        return self.last(self.pool(torch.maximum(y, x) + x).flatten(1))


def residual() -> Subject:
    torch.manual_seed(0)
    model = Residual().double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                assert tensor is not None
                tensor.data = torch.rand_like(tensor) + 0.5
    return Subject.from_model(model.eval(), example=numbers(2, 2, 6, 6))


def test_overwritten_columns_give_what_copies_give() -> None:
    """With as many columns as pixels `factor` is `gain`; asking for gradients makes it copy."""
    subject, x = residual(), numbers(2, 2, 6, 6, seed=1)
    found = propagate(subject, x, 0.1, method="factor", rank=72)
    copied = propagate(subject, x.clone().requires_grad_(True), 0.1, method="factor", rank=72)
    close(found.mean, copied.mean.detach(), 1e-10)
    close(found.covariance, copied.covariance.detach(), 1e-10)


def test_the_users_columns_are_not_overwritten() -> None:
    own = numbers(3, 1, 2, 2)
    noise = LowRankPlusDiagonal(own.clone(), torch.zeros(1, 2, 2).double())
    net = nn.Sequential(nn.Flatten(), nn.ReLU(), nn.Linear(4, 2)).double()
    propagate(net, numbers(1, 2, 2), noise, method="factor")
    assert torch.equal(noise.factor, own)


def test_folding_on_the_way_is_folding() -> None:
    graph, x = residual().graph, numbers(2, 2, 6, 6)
    found, folded = fold_on_the_way(graph)
    assert not any(node.op == "batch_norm" for node in found)
    assert len(folded) == 3
    whole = fold_batch_norms(graph)
    close(evaluate(found, x), evaluate(whole, x), 1e-12)
    values: dict[str, Tensor] = {graph.input: x}
    evaluate(whole, x, observe=lambda node, value: values.update({node.name: value}))
    for name, made in folded.items():
        node = whole[name]
        data, *fixed = (None if read is None else values.get(read, whole.parameters.get(read)) for read in node.inputs)
        assert data is not None
        one = OperatorMap(OPERATORS[node.op], [data, *fixed], frozenset({0}), dict(node.resolved(len(x))))
        other = made.rescaled(one)
        inside, outside = numbers(3, *data.shape), numbers(3, *values[name].shape)
        close(other.apply(inside), one.apply(inside), 1e-12)
        close(other.squared(inside[0].square()), one.squared(inside[0].square()), 1e-12)
        close(other.transpose(outside)[0], one.transpose(outside)[0], 1e-12)


@pytest.mark.parametrize("shape", [(4, 1, 7), (3, 2, 5, 4), (2, 3, 40, 50, 60), (2, 1, 100_000)])
def test_sums_over_columns_stream(shape: tuple[int, ...]) -> None:
    first, second = numbers(*shape), numbers(*shape, seed=1)
    close(products(first, second), (first * second).sum(0), 1e-12)
    gaps = (..., slice(1, None, 2))
    close(products(first[gaps], second[gaps]), (first[gaps] * second[gaps]).sum(0), 1e-12)
    variance, signs = first[0].square(), torch.sign(second[:, 0])
    found = first.clone()
    carry(found, variance, list(signs))
    close(found, first + (variance / len(first)).sqrt() * signs.unsqueeze(1), 1e-12)


@pytest.mark.parametrize("count", [1, 8, 9, 40])
def test_columns_go_through_a_map_in_parts(count: int) -> None:
    weight, given = numbers(7, 3, 1, 1), numbers(count, 2, 3, 4, 4)
    linear = OperatorMap(OPERATORS["conv"], [given[0], weight, None], frozenset({0}), {})
    close(in_parts(linear, given, (2, 7, 4, 4)), linear.apply(given), 1e-12)


def test_a_blend_is_its_two_gains() -> None:
    weight, first, second = torch.rand(2, 5).double(), numbers(3, 2, 5), numbers(3, 2, 5, seed=1)
    blend = Blend(weight, [weight.shape, weight.shape])
    truth = weight * first + (1 - weight) * second
    close(blend.apply(first, second), truth, 1e-12)
    close(blend.into(first, second, second.clone()), truth, 1e-12)


@pytest.mark.parametrize("rank", [1, 2, 3, 4, 5, 7, 8, 11, 12, 16, 17, 32, 64])
@pytest.mark.parametrize("event", [(3, 40, 40), (1, 12, 12), (5, 9, 9), (300,)])
def test_no_more_columns_than_asked_for(rank: int, event: tuple[int, ...]) -> None:
    found = columns(Diagonal(torch.ones(1, *event)), rank)
    assert found.covariance.rank + found.innovation <= rank
    assert found.covariance.rank >= rank / 2
    assert not found.exact
    assert (found.innovation > 0) == (rank >= 4)


@pytest.mark.parametrize("scale", [1e-3, 0.05, 1.0])
def test_certain_signs_cost_no_digit(scale: float) -> None:
    """Single precision leaves out units whose sign is certain; double precision does not."""
    mean, std = numbers(40_000, seed=2), numbers(40_000, seed=3).abs() * scale
    mean[:10], std[5:15] = 0, 0
    for found, truth in zip(smoothed_relu(mean.float(), std.float()), smoothed_relu(mean, std), strict=True):
        assert (found - truth).abs().max() <= 5e-6
    other, variance = numbers(40_000, seed=4), std.square()
    single = smoothed_maximum(*(v.float() for v in (mean, other, variance, variance, 0.5 * variance)))
    for found, truth in zip(single, smoothed_maximum(mean, other, variance, variance, 0.5 * variance), strict=True):
        assert (found - truth).abs().max() <= 2e-5
    unknown = torch.full_like(mean, float("nan"), dtype=torch.float32)
    assert smoothed_relu(mean.float(), unknown)[0].isnan().all()
