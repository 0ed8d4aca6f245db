"""Training through moments: gradients by mean, noise and weights, also where they are delicate; a loss that falls."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.support.inputs import numbers
from torch import Tensor, nn

from assay.covariance import LowRankPlusDiagonal
from assay.errors import UsageError
from assay.moments import propagate
from assay.subject import Subject


def perceptron() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).double()


def convolutional() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 2, 2), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)
    ).double()


SHAPES = {perceptron: (3,), convolutional: (1, 3, 3)}


@pytest.mark.parametrize("make", [perceptron, convolutional])
@pytest.mark.parametrize("method", ["exact", "gain", "factor", "diagonal", "linearize", "mc", "two_stage", "split"])
def test_gradients_by_mean_variances_and_weights(make: Any, method: str) -> None:
    net, shape = make(), SHAPES[make]
    subject = Subject.from_model(net, example=numbers(1, *shape))
    names = [name for name, _ in net.named_parameters()]
    options: dict[str, Any] = {"split": {"directions": 1, "nodes": 3, "within": "gain"}, "mc": {"samples": 7}}.get(
        method, {}
    )

    def moments(mean: Tensor, variance: Tensor, *parameters: Tensor) -> tuple[Tensor, Tensor]:
        given = dict(zip(names, parameters, strict=True))
        result = propagate(subject, mean, variance, method=method, parameters=given, **options)
        return result.mean, result.covariance

    arguments = [numbers(1, *shape, seed=2), numbers(1, *shape, seed=1).square() + 0.2]
    arguments += [p.detach().clone() for p in net.parameters()]
    assert torch.autograd.gradcheck(moments, [t.requires_grad_(True) for t in arguments], atol=1e-6, eps=1e-6)


@pytest.mark.parametrize("method", ["exact", "gain", "factor", "linearize"])
def test_gradients_by_columns_and_weights(method: str) -> None:
    net = convolutional()
    subject = Subject.from_model(net, example=numbers(1, 1, 3, 3))

    def moments(factor: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        noise = LowRankPlusDiagonal(factor, torch.zeros(1, 1, 3, 3).double())
        result = propagate(subject, numbers(1, 1, 3, 3), noise, method=method, parameters={"0.weight": weight})
        return result.mean, result.covariance

    weight = net[0].weight.detach().clone()  # type: ignore[index,union-attr]
    arguments = numbers(3, 1, 1, 3, 3, seed=4).requires_grad_(True), weight.requires_grad_(True)
    assert torch.autograd.gradcheck(moments, arguments, atol=1e-6)


@pytest.mark.parametrize("method", ["exact", "gain", "factor", "linearize", "diagonal"])
def test_gradients_by_the_noise_of_weights_and_activations(method: str) -> None:
    net = perceptron()
    subject = Subject.from_model(net, example=numbers(1, 3))

    def moments(weight: Tensor, bias: Tensor, activation: Tensor) -> tuple[Tensor, Tensor]:
        noise = {"0.weight": weight, "2.bias": bias, "1": activation}
        result = propagate(subject, numbers(1, 3), 0.1, method=method, noise_on=noise, rank=32)
        return result.mean, result.covariance

    arguments = (numbers(4, 3).square() + 0.1, numbers(3).square() + 0.1, numbers(4, seed=3).square() + 0.1)
    assert torch.autograd.gradcheck(moments, [t.requires_grad_(True) for t in arguments], atol=1e-6)


@pytest.mark.parametrize("method", ["exact", "gain", "factor", "diagonal", "linearize", "mc", "two_stage"])
@pytest.mark.parametrize("kind", ["no noise", "twins", "dead", "dead bias at zero"])
def test_no_nan_where_the_formulas_are_singular(method: str, kind: str) -> None:
    """Zero variance, two identical hidden units (correlation 1), units whose weights are zero."""
    net = perceptron()
    state = {name: p.detach().clone() for name, p in net.named_parameters()}
    if kind == "twins":
        state["0.weight"][1], state["0.bias"][1] = state["0.weight"][0], state["0.bias"][0]
        state["0.weight"][2], state["0.bias"][2] = -state["0.weight"][0], -state["0.bias"][0]
    if kind.startswith("dead"):
        state["0.weight"][1] = 0
        state["0.bias"][1] = 0 if "zero" in kind else -3
    given = {name: p.requires_grad_(True) for name, p in state.items()}
    mean = numbers(2, 3).requires_grad_(True)
    variance = torch.full((2, 3), 0.0 if kind == "no noise" else 0.3).double().requires_grad_(True)
    result = propagate(net, mean, variance, method=method, parameters=given, samples=5)
    (result.mean.sum() + result.covariance.sum() + result.std.sum()).backward()
    for tensor in (mean, variance, *given.values()):
        assert tensor.grad is not None
        assert torch.isfinite(tensor.grad).all()


@pytest.mark.parametrize("method", ["exact", "factor", "linearize", "mc"])
def test_parameters_replace_the_models(method: str) -> None:
    net, other = perceptron(), perceptron()
    with torch.no_grad():
        for p in other.parameters():
            p.mul_(1.3)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    given = dict(other.named_parameters())
    found = propagate(net, numbers(2, 3), 0.1, method=method, parameters=given)
    expected = propagate(other, numbers(2, 3), 0.1, method=method)
    torch.testing.assert_close(found.mean.detach(), expected.mean)
    torch.testing.assert_close(found.covariance.detach(), expected.covariance)
    assert all(torch.equal(p, before[name]) for name, p in net.named_parameters())
    assert all(p.grad is None for p in net.parameters())


def test_unknown_parameters_are_refused() -> None:
    for given in ({"9.weight": torch.zeros(1)}, {"0.weight": torch.zeros(2, 2)}):
        with pytest.raises(UsageError) as caught:
            propagate(perceptron(), numbers(1, 3), 0.1, parameters=given)
        assert caught.value.where == "parameters"


@pytest.mark.parametrize("method", ["exact", "factor"])
def test_training_on_a_robust_loss(method: str) -> None:
    """Cross-entropy at the mean plus the expected curvature's price: half the trace of the outputs' covariance."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 2)).double()
    x = numbers(24, 2)
    labels = (x[:, 0] * x[:, 1] > 0).long()
    subject = Subject.from_model(net, example=x)
    optimiser = torch.optim.Adam(net.parameters(), lr=0.05)
    losses = []
    for _ in range(30):
        moments = propagate(subject, x, 0.05, method=method, parameters=dict(net.named_parameters()))
        loss = nn.functional.cross_entropy(moments.mean, labels) + 0.5 * moments.variance.sum(1).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]
    assert losses[-1] < min(losses[:10])
