"""The cumulant method: exact where closure is, and closer than Gaussian closure on every kind of network."""

from __future__ import annotations

import pytest
import torch
from tests.support.networks import digits, mean_error, random_network, trained_mlp, variance_ratio
from torch import Tensor, nn

from assay.covariance import Diagonal
from assay.errors import UsageError
from assay.grade import Grade
from assay.load import load_subject
from assay.moments import propagate
from assay.moments.cumulants import CumulantDomain
from assay.moments.methods import Request
from assay.moments.methods import cumulant as module
from assay.moments.methods.dense import outcome
from assay.subject import Subject

DRAWS = 1 << 15


def he_network(width: int, depth: int, seed: int) -> nn.Sequential:
    generator = torch.Generator().manual_seed(seed)
    layers: list[nn.Module] = []
    for _ in range(depth):
        linear = nn.Linear(width, width, bias=False, dtype=torch.float64)
        linear.weight.data = torch.randn(width, width, generator=generator, dtype=torch.float64) * (2 / width) ** 0.5
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1]).eval()


def layers_of(network: nn.Sequential) -> list[nn.Linear]:
    return [layer for layer in network if isinstance(layer, nn.Linear)]


def truth(model: object, x: Tensor, cov: object, draws: int = DRAWS):  # type: ignore[no-untyped-def]
    return propagate(model, x, cov, method="mc_cv", samples=draws, seed=11)  # type: ignore[arg-type]


class TestExactly:
    def test_one_hidden_layer_equals_exact(self) -> None:
        network, mean, covariance = random_network(3, [5, 12, 3], 0.5)
        closed = propagate(network, mean, covariance, method="exact")
        found = propagate(network, mean, covariance, method="cumulant")
        assert torch.allclose(found.mean, closed.mean, atol=1e-9)
        assert torch.allclose(found.covariance, closed.covariance, atol=1e-9)

    def test_linear_network_and_all_active_units(self) -> None:
        network, mean, covariance = random_network(4, [4, 6, 6, 2], 1e-4)
        first, second, third = layers_of(network)
        first.bias.data.add_(50.0)
        second.bias.data.add_(500.0)
        jacobian = third.weight @ second.weight @ first.weight
        found = propagate(network, mean, covariance, method="cumulant")
        assert torch.allclose(found.covariance[0], jacobian @ covariance @ jacobian.T, atol=1e-10)

    def test_cumulants_of_sums_of_independent_rectified_inputs(self) -> None:
        # z = W relu(x) with independent x: cumulants add up, k_n(z) = sum_i w_i^n k_n(relu(x_i))
        generator = torch.Generator().manual_seed(0)
        weight = torch.randn(3, 5, generator=generator, dtype=torch.float64)
        mean = torch.randn(1, 5, generator=generator, dtype=torch.float64)
        network = nn.Sequential(nn.ReLU(), nn.Linear(5, 3, bias=False, dtype=torch.float64), nn.ReLU()).eval()
        network[1].weight.data = weight
        request = Request(
            Subject.from_model(network, example=mean), mean, Diagonal(torch.ones_like(mean)), None, 1, 2, 0, "error"
        )
        domain = CumulantDomain()
        outcome(request, domain, "cumulant")
        nodes = (mean - 12) + 24 * torch.linspace(0, 1, 400_001, dtype=torch.float64).unsqueeze(1)
        density = torch.exp(-0.5 * (nodes - mean).square()) / (2 * torch.pi) ** 0.5 * (24 / 400_000)
        value = torch.relu(nodes)
        centred = value - (value * density).sum(0)
        second, third, fourth = ((centred**power * density).sum(0) for power in (2, 3, 4))
        variance = weight.square() @ second
        skewness = (weight**3 @ third).abs() / variance**1.5
        excess = (weight**4 @ (fourth - 3 * second.square())).abs() / variance**2
        found = list(domain.shape.values())[-1]
        assert found == pytest.approx((float(skewness.max()), float(excess.max())), rel=1e-6)


class TestCloserThanClosure:
    @pytest.mark.parametrize("seed", [0, 1])
    def test_on_wide_random_networks(self, seed: int) -> None:
        network = he_network(96, 5, seed)
        x = torch.zeros(1, 96, dtype=torch.float64)
        reference = truth(network, x, 1.0, 1 << 17)
        plain = propagate(network, x, 1.0, method="exact")
        found = propagate(network, x, 1.0, method="cumulant")
        assert mean_error(found, reference) < 0.35 * mean_error(plain, reference)
        assert abs(variance_ratio(found, reference) - 1) < 0.25 * abs(variance_ratio(plain, reference) - 1)

    @pytest.mark.parametrize(("depth", "width", "sigma", "limit"), [(3, 256, 0.25, 0.15), (6, 128, 0.25, 0.4)])
    def test_on_trained_networks(self, depth: int, width: int, sigma: float, limit: float) -> None:
        network, x = trained_mlp(depth, width), digits()[0][1500:1504]
        reference = truth(network, x, sigma**2)
        plain = propagate(network, x, sigma**2, method="exact")
        found = propagate(network, x, sigma**2, method="cumulant")
        assert mean_error(found, reference) < limit * mean_error(plain, reference)
        assert abs(variance_ratio(found, reference) - 1) < 0.5 * abs(variance_ratio(plain, reference) - 1)

    def test_with_pools_and_convolutions(self) -> None:
        subject = load_subject("demo")
        assert subject.data is not None
        x = subject.data.inputs[:2]
        reference = truth(subject, x, 0.3**2)
        plain = propagate(subject, x, 0.3**2, method="exact")
        found = propagate(subject, x, 0.3**2, method="cumulant")
        assert mean_error(found, reference) < 0.5 * mean_error(plain, reference)
        assert abs(variance_ratio(found, reference) - 1) < 0.01

    @pytest.mark.parametrize(
        ("side", "mean", "variance", "within"),
        [(2, 1.02937537300396413, 0.491715236874741761, 0.001), (3, 1.4850131622, 0.3573533264, 0.03)],
    )
    def test_largest_of_a_window(self, side: int, mean: float, variance: float, within: float) -> None:
        # independent standard normals (order statistics, Teichroew 1956); the tournament is 5 and 15 % low
        pool = nn.Sequential(nn.MaxPool2d(side), nn.Flatten())
        x = torch.zeros(1, 1, side, side, dtype=torch.float64)
        plain = propagate(pool, x, 1.0, method="exact")
        found = propagate(pool, x, 1.0, method="cumulant")
        assert abs(float(found.mean) - mean) < 1e-4 < abs(float(plain.mean) - mean)
        assert abs(float(found.variance) / variance - 1) < within < 0.05 < abs(float(plain.variance) / variance - 1)

    @pytest.mark.parametrize("activation", [nn.ReLU(), nn.GELU(), nn.LeakyReLU(0.2)])
    def test_with_skip_connections(self, activation: nn.Module) -> None:
        class Residual(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner = nn.ModuleList(nn.Linear(40, 40, dtype=torch.float64) for _ in range(4))
                self.last = nn.Linear(40, 4, dtype=torch.float64)

            def forward(self, x: Tensor) -> Tensor:
                for layer in self.inner:
                    x = x + activation(layer(x))
                return self.last(x)

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(2)
            network = Residual().eval()
            for layer in network.inner:
                assert isinstance(layer, nn.Linear)
                layer.weight.data.mul_(2.5)
        x = torch.full((1, 40), 0.2, dtype=torch.float64)
        reference = truth(network, x, 0.5, 1 << 18)
        plain = propagate(network, x, 0.5, method="exact")
        found = propagate(network, x, 0.5, method="cumulant")
        assert mean_error(found, reference) < 0.5 * mean_error(plain, reference)

    def test_on_a_network_too_narrow_for_closure(self) -> None:
        network, mean, covariance = random_network(2, [6, *[16] * 6, 2], 0.25)
        reference = truth(network, mean, covariance, 1 << 16)
        plain = propagate(network, mean, covariance, method="exact")
        found = propagate(network, mean, covariance, method="cumulant")
        assert mean_error(found, reference) < mean_error(plain, reference)
        assert abs(variance_ratio(found, reference) - 1) < abs(variance_ratio(plain, reference) - 1)


class TestContract:
    def test_batch_equals_loop_whatever_the_chunk(self, monkeypatch: pytest.MonkeyPatch) -> None:
        network, mean, covariance = random_network(5, [4, 10, 10, 3], 0.3)
        x = torch.cat([mean, mean + 0.5, mean - 1.0])
        together = propagate(network, x, covariance, method="cumulant")
        monkeypatch.setattr(module, "_ELEMENTS", 1)
        chunked = propagate(network, x, covariance, method="cumulant")
        assert torch.allclose(together.mean, chunked.mean, atol=1e-12)
        assert torch.allclose(together.covariance, chunked.covariance, atol=1e-12)

    def test_wanted_outputs_and_grade(self) -> None:
        network, mean, covariance = random_network(6, [4, 8, 8, 5], 0.3)
        every = propagate(network, mean, covariance, method="cumulant")
        some = propagate(network, mean, covariance, method="cumulant", outputs=torch.tensor([3, 1]))
        assert torch.allclose(some.mean, every.mean[:, [3, 1]])
        assert every.grade == Grade.CLOSED_FORM

    def test_covariance_has_no_impossible_correlation(self) -> None:
        network, mean, covariance = random_network(7, [3, 6, 6, 6, 6, 4], 4.0)
        found = propagate(network, mean, covariance, method="cumulant")
        bound = found.std.unsqueeze(2) * found.std.unsqueeze(1)
        assert bool((found.covariance.abs() <= bound * (1 + 1e-9)).all())
        assert bool((found.variance > 0).all())

    def test_float32_agrees_with_float64(self) -> None:
        network, mean, covariance = random_network(8, [6, 24, 24, 24, 3], 0.25)
        double = propagate(network, mean, covariance, method="cumulant")
        single = propagate(network.float(), mean.float(), covariance.float(), method="cumulant")
        network.double()
        assert torch.allclose(single.mean.double(), double.mean, atol=2e-5)
        assert torch.allclose(single.covariance.double(), double.covariance, atol=2e-5)

    def test_no_noise_and_dead_units(self) -> None:
        network, mean, covariance = random_network(9, [4, 8, 8, 2], 0.25)
        layers_of(network)[0].bias.data[:3] = -1e4
        with torch.no_grad():
            clean = network(mean)
        still = propagate(network, mean, 0 * covariance, method="cumulant")
        assert torch.allclose(still.mean, clean, atol=1e-12)
        assert not bool(still.covariance.any())
        assert bool(torch.isfinite(propagate(network, mean, covariance, method="cumulant").covariance).all())

    def test_warns_where_the_series_means_little(self) -> None:
        narrow, mean, covariance = random_network(2, [6, *[16] * 6, 2], 4.0)
        assert "too far from Gaussian" in propagate(narrow, mean, covariance, method="cumulant").warnings[0]
        wide, x = trained_mlp(3, 256), digits()[0][1500:1501]
        assert not propagate(wide, x, 0.05**2, method="cumulant").warnings

    def test_too_many_units_are_refused_before_any_work(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "MOST_SOURCES", 10)
        network, mean, covariance = random_network(5, [4, 10, 10, 3], 0.3)
        with pytest.raises(UsageError, match="20 units"):
            propagate(network, mean, covariance, method="cumulant")

    def test_differentiable_in_mean_noise_and_weights(self) -> None:
        network, mean, covariance = random_network(5, [3, 6, 6, 2], 0.3)
        weights = {name: value.detach().clone().requires_grad_() for name, value in network.named_parameters()}

        def answer(point: Tensor, root: Tensor, *values: Tensor) -> Tensor:
            given = dict(zip(weights, values, strict=True))
            found = propagate(network, point, root @ root.mT, method="cumulant", parameters=given)
            return torch.cat([found.mean.flatten(), found.covariance.flatten()])

        root = torch.linalg.cholesky(covariance).requires_grad_()
        arguments = (mean.clone().requires_grad_(), root, *weights.values())
        assert torch.autograd.gradcheck(answer, arguments, atol=1e-6, fast_mode=True)
