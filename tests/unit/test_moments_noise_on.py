"""Noise on weights and activations: against enumeration on linear layers, against sampling on networks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.support.inputs import numbers
from tests.support.watching import Largest
from torch import Tensor, nn

from assay.errors import UsageError
from assay.grade import Grade
from assay.moments import Moments, propagate
from assay.preprocess import Preprocessing
from assay.subject import Subject

WALKING = ["exact", "gain", "factor"]


def close(value: Tensor, expected: Tensor, tolerance: float = 1e-11) -> None:
    torch.testing.assert_close(value, expected, rtol=tolerance, atol=tolerance)


def frozen(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(*layers).double().requires_grad_(False)


class Folded(nn.Module):
    """A layer whose output is one row per sample."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).flatten(1)


def enumerated(layer: nn.Module, x: Tensor, variance: Tensor, noise: dict[str, Tensor]) -> Tensor:
    """Covariance (n, n) of a layer that is affine in its input and in each parameter, one element after the other.

    y = J dx + sum_w (a_w + B_w dx) dw, with a_w = y(w + 1) - y(w) at the mean and B_w = J(w + 1) - J(w).
    """
    model = Folded(layer)
    state = {f"layer.{name}": p.detach() for name, p in layer.named_parameters()}

    def value(point: Tensor, parameters: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(model, parameters, (point,))[0]

    def jacobian(parameters: dict[str, Tensor]) -> Tensor:
        return torch.func.jacrev(lambda point: value(point, parameters))(x).flatten(1)

    base, slope = value(x, state), jacobian(state)
    spread = torch.diag(variance.expand(x.shape).flatten())
    total = slope @ spread @ slope.T
    for name, weights in noise.items():
        for place in range(weights.numel()):
            moved = {key: p.clone() for key, p in state.items()}
            moved[name].view(-1)[place] += 1
            first, second = value(x, moved) - base, jacobian(moved) - slope
            total = total + weights.flatten()[place] * (torch.outer(first, first) + second @ spread @ second.T)
    return total


class Scaled(nn.Module):
    """A factor per channel and an offset per element, as written by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.factor, self.offset = nn.Parameter(torch.randn(2, 1)), nn.Parameter(torch.randn(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor + self.offset


def trained_norm() -> nn.Module:
    torch.manual_seed(0)
    layer = nn.BatchNorm2d(2)
    layer(3 * torch.randn(8, 2, 3, 3) + 1)
    return layer.eval()


LAYERS = {
    "norm": (trained_norm(), (2, 2, 2)),
    "scaled": (Scaled(), (2, 3)),
    "linear": (nn.Linear(4, 3), (4,)),
    "rows": (nn.Linear(3, 2), (2, 3)),
    "conv": (nn.Conv2d(2, 3, 2, padding=1), (2, 2, 2)),
    "strided": (nn.Conv1d(2, 2, 3, stride=2, padding=2, dilation=2), (2, 4)),
    "groups": (nn.Conv2d(2, 4, 2, groups=2, bias=True), (2, 2, 2)),
}


@pytest.mark.parametrize("method", WALKING)
@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("sigma", [0.0, 0.4])
def test_a_layer_is_exact(kind: str, method: str, sigma: float) -> None:
    torch.manual_seed(1)
    layer, shape = LAYERS[kind]
    layer = layer.double().requires_grad_(False)
    x, variance = numbers(2, *shape), sigma * (numbers(1, *shape, seed=1).square() + 0.1)
    noise = {f"layer.{name}": numbers(*p.shape, seed=2).square() for name, p in layer.named_parameters()}
    found = propagate(Folded(layer), x, variance, method=method, noise_on=noise, rank=300)  # type: ignore[arg-type]
    expected = torch.stack([enumerated(layer, row, variance, noise) for row in x.split(1)])
    close(found.covariance, expected)
    close(found.mean, Folded(layer)(x))


@pytest.mark.parametrize("rank", [4, 8])
def test_the_reverse_pass_does_not_depend_on_the_columns(rank: int) -> None:
    """Fewer columns than weights: forwards an estimate, but the covariance of a linear network stays exact."""
    net = frozen(nn.Conv2d(1, 3, 2), nn.Flatten(), nn.Linear(12, 2))
    x, noise = numbers(2, 1, 3, 3), {"0.weight": 0.3, "0.bias": 0.1}
    few = propagate(net, x, 0.0, method="factor", noise_on=noise, rank=rank)
    full = propagate(net, x, 0.0, method="exact", noise_on=noise)
    close(few.covariance, full.covariance)
    assert few.grade is Grade.STATISTICAL


@pytest.mark.parametrize("kind", ["conv", "rows"])
def test_few_columns_keep_the_variances_of_units(kind: str) -> None:
    layer, shape = LAYERS[kind]
    layer = layer.double().requires_grad_(False)
    x = numbers(2, *shape)
    few, full = (
        propagate(Folded(layer), x, 0.2, method=method, noise_on={"layer.weight": 0.3}, rank=rank)
        for method, rank in (("factor", 12), ("exact", 12))
    )
    # rows of layers: mean variance over units, before the reverse pass
    assert few.layers[0].variance == pytest.approx(full.layers[0].variance, rel=1e-9)


def agree(found: Moments, truth: Moments, draws: int) -> None:
    """Within 5 standard errors, for kurtoses up to 9: one false alarm in 1.7 million numbers."""
    assert truth.standard_error is not None
    assert ((found.mean - truth.mean).abs() < 5 * truth.standard_error + 1e-12).all()
    scale = (truth.variance.unsqueeze(1) * truth.variance.unsqueeze(2)).sqrt()
    assert ((found.covariance - truth.covariance).abs() < 5 * scale * (8 / draws) ** 0.5 + 1e-12).all()


NETWORKS: dict[str, tuple[Any, tuple[int, ...], dict[str, float]]] = {
    # weight noise at a certain input makes Gaussian pre-activations: one ReLU on them is exact
    "dense": (
        lambda: frozen(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 2)),
        (3,),
        {"0.weight": 0.3, "0.bias": 0.1, "2.weight": 0.2, "2.bias": 0.05},
    ),
    "convolution": (
        lambda: frozen(nn.Conv2d(1, 2, 2), nn.ReLU(), nn.Conv2d(2, 2, 2), nn.Flatten(), nn.Linear(2, 2)),
        (1, 3, 3),
        {"0.weight": 0.3, "0.bias": 0.1, "2.weight": 0.2, "4.weight": 0.1},
    ),
    "activations": (
        lambda: frozen(nn.Conv2d(1, 2, 2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2)),
        (1, 3, 3),
        {"0": 0.3, "1": 0.2, "3": 0.1},
    ),
}


@pytest.mark.parametrize("kind", NETWORKS)
def test_one_block_against_sampling(kind: str) -> None:
    torch.manual_seed(3)
    make, shape, noise = NETWORKS[kind]
    net, x, draws = make(), numbers(2, *shape), 60_000
    truth = propagate(net, x, 0.0, method="mc", samples=draws, noise_on=noise)
    agree(propagate(net, x, 0.0, method="exact", noise_on=noise), truth, draws)
    agree(propagate(net, x, 0.0, method="factor", noise_on=noise, rank=100), truth, draws)
    none = propagate(net, x, 0.0, method="exact")
    assert (none.variance == 0).all()
    assert (truth.variance > 0).all()


@pytest.mark.parametrize("method", [*WALKING, "linearize", "diagonal"])
def test_small_noise_everywhere_against_the_first_order(method: str) -> None:
    """All methods agree in the limit; `diagonal` for outputs that share no unit."""
    torch.manual_seed(0)
    if method == "diagonal":
        net = frozen(nn.Linear(3, 2), nn.Softplus())
        noise = {"0.weight": 1e-8, "0.bias": 2e-8, "1": 1e-8}
    else:
        net = frozen(nn.Conv1d(1, 2, 2), nn.Softplus(), nn.MaxPool1d(2), nn.Flatten(), nn.Linear(2, 2))
        noise = {"0.weight": 1e-8, "1": 2e-8, "2": 1e-8, "4.weight": 1e-8}
    x = numbers(2, 3) if method == "diagonal" else numbers(2, 1, 3)
    first = propagate(net, x, 1e-8 * (method != "diagonal"), method="linearize", noise_on=noise)
    found = propagate(net, x, 1e-8 * (method != "diagonal"), method=method, noise_on=noise, rank=64)
    close(found.mean, first.mean, 1e-6)
    torch.testing.assert_close(found.covariance, first.covariance, rtol=1e-3, atol=1e-13)


class Tied(nn.Module):
    """One weight at two places, and one that reaches its layer through a product."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(3, 3)
        self.raw = nn.Parameter(torch.randn(2, 3))
        self.gain = nn.Parameter(torch.ones(2, 1))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(self.layer(torch.tanh(self.layer(x))), self.raw * self.gain.exp())


def test_tied_and_derived_weights() -> None:
    net, x = Tied().double().requires_grad_(False), numbers(2, 3)
    noise = {"layer.weight": 1e-8, "raw": 1e-8, "gain": 1e-8}
    first = propagate(net, x, 0.0, method="linearize", noise_on=noise)
    found = propagate(net, x, 0.0, method="factor", noise_on=noise, rank=64)
    torch.testing.assert_close(found.covariance, first.covariance, rtol=1e-3, atol=1e-13)
    assert found.grade is Grade.LINEARISED
    draws = 4000
    agree(first, propagate(net, x, 0.0, method="mc", noise_on=noise, samples=draws), draws)
    for name in ("layer.weight", "raw"):
        with pytest.raises(UsageError, match="Full covariances cannot carry"):
            propagate(net, x, 0.0, method="exact", noise_on={name: 0.1})


def test_names() -> None:
    net, x = frozen(nn.Sequential(nn.Linear(3, 4), nn.ReLU()), nn.Linear(4, 2)), numbers(2, 3)
    node = next(n.name for n in Subject.from_model(net, example=x).graph if n.op == "relu")
    by = {name: propagate(net, x, 0.0, method="exact", noise_on={name: 0.1}) for name in (node, "0", "0.1")}
    for moments in by.values():
        close(moments.covariance, (0.1 * net[1].weight @ net[1].weight.T).expand(2, 2, 2))  # type: ignore[operator,union-attr]
    output = propagate(net, x, 0.0, method="exact", noise_on={"1": torch.tensor([0.1, 0.2])})
    close(output.covariance, torch.diag(torch.tensor([0.1, 0.2])).double().expand(2, 2, 2))


def test_a_name_is_the_models_also_behind_preprocessing() -> None:
    net, x = frozen(nn.Flatten(), nn.Linear(4, 2)), numbers(2, 1, 2, 2)
    subject = Subject.from_model(net, x, preprocessing=Preprocessing(mean=(0.5,), std=(0.5,)))
    for method in ("exact", "factor", "linearize"):
        found = propagate(subject, x, 0.0, method=method, noise_on={"1.weight": 0.1})
        expected = (0.1 * ((x - 0.5) / 0.5).flatten(1).square().sum(1)).reshape(2, 1, 1) * torch.eye(2)
        close(found.covariance, expected)


@pytest.mark.parametrize("method", [*WALKING, "linearize", "mc"])
def test_a_batch_equals_single_inputs(method: str) -> None:
    make, shape, noise = NETWORKS["convolution"]
    net, x = make(), numbers(3, *shape)
    options = {"method": method, "noise_on": noise | {"1": 0.1}, "samples": 20, "rank": 8}
    batch = propagate(net, x, 0.1, **options)
    for row in range(3):
        alone = propagate(net, x[row : row + 1], 0.1, **options)
        close(batch.mean[row], alone.mean[0])
        close(batch.covariance[row], alone.covariance[0])


@pytest.mark.parametrize(
    "noise",
    [
        {"nowhere": 0.1},
        {"0.weight": torch.ones(2)},
        {"0.weight": -0.1},
        {"1": torch.ones(3)},
        {"1": float("nan")},
        {"1": "0.1"},
    ],
)
def test_refused(noise: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as caught:
        propagate(frozen(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 2)), numbers(2, 3), 0.1, noise_on=noise)
    assert caught.value.where == "noise_on"


@pytest.mark.parametrize("method", ["two_stage", "split"])
def test_methods_without_it_name_those_with_it(method: str) -> None:
    net = frozen(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 2))
    with pytest.raises(UsageError, match="does not take noise_on") as caught:
        propagate(net, numbers(2, 3), 0.1, method=method, noise_on={"1": 0.1})
    assert "factor" in caught.value.advice


def test_a_large_weight_takes_few_copies() -> None:
    """24,000 weights: 8 columns and 2 outputs, not a matrix of weights by units."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(40, 60, (2, 5)), nn.ReLU(), nn.Flatten(), nn.Linear(60 * 3 * 2, 2))
    subject = Subject.from_model(net, example=torch.randn(1, 40, 4, 6))
    with Largest() as watched:
        propagate(subject, torch.randn(1, 40, 4, 6), 0.0, method="factor", rank=8, noise_on={"0.weight": 1e-3})
    assert watched.elements <= 16 * 24_000
