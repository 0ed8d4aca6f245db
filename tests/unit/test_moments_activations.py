"""Rules of activations, products and maxima: exact pairs, positive semi-definite, tiny noise, whole networks."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.support.inputs import Function, numbers
from torch import Tensor, nn

from assay.grade import Grade
from assay.moments import Moments, propagate

LEVEL = torch.tensor(0.3, dtype=torch.float64)
FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "silu": F.silu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "softplus": F.softplus,
    "mish": F.mish,
    "elu": F.elu,
    "selu": F.selu,
    "celu": partial(F.celu, alpha=2.0),
    "hardswish": F.hardswish,
    "erf": torch.erf,
    "exp": torch.exp,
    "sin": torch.sin,
    "cos": torch.cos,
    "square": lambda x: x * x,
    "at least": lambda x: torch.maximum(x, LEVEL),
    "at most": lambda x: torch.minimum(LEVEL, x),
    "relu": torch.relu,
    "relu6": F.relu6,
    "hardtanh": F.hardtanh,
    "abs": torch.abs,
}
SERIES = {"gelu_tanh", "silu", "sigmoid", "tanh", "softplus", "mish", "elu", "selu", "celu", "hardswish"}
# mean and variance at N(0.7, 1.3^2) and at N(-1, 2^2), covariance at (0.7, 1.3, -0.4, 0.8, 0.6), by mpmath
VALUES = {
    "gelu": (0.840954699413540624, 1.02545414230068879, 0.318376480476856226, 0.694516965394537955, 0.1628733573408186),
    "silu": (
        0.740288689732775423,
        0.948321406083824032,
        0.209719385989358652,
        0.678715149110557323,
        0.1714713721926043,
    ),
    "sigmoid": (
        0.629215406010367707,
        0.0558844998403935642,
        0.352273561474131315,
        0.0876786624945902486,
        0.0235113427673311,
    ),
    "tanh": (
        0.345265283325572712,
        0.420276612647892102,
        -0.352344437701493052,
        0.547523610858851562,
        0.1818788429268723,
    ),
    "softplus": (
        1.26968066797145942,
        0.715324979117645145,
        0.642495369528833764,
        0.663629741392596995,
        0.1695703739763828,
    ),
    "elu": (0.801605739911788298, 1.29498232281555379, -0.114268545252058094, 1.24760986718926907, 0.3656929409456987),
    "hardswish": (
        0.699646528037296308,
        0.970752176226252905,
        0.187454820089956941,
        0.691540147184986522,
        0.1807357102544810,
    ),
    "relu6": (
        0.942038383893722827,
        0.963144074994059767,
        0.395476152965769214,
        0.680640327036374712,
        0.1573971399078532,
    ),
    "hardtanh": (
        0.375851370140044126,
        0.519074592807562320,
        -0.368746380372507241,
        0.633635969630615289,
        0.2217594035431191,
    ),
    "abs": (1.18408994231241653, 0.777931008514578104, 1.79118622960522412, 1.79165189087262135, -0.01110275285885),
}


def exactly(function: Any, mean: Tensor, noise: Any) -> Moments:
    return propagate(Function(function), mean, noise, method="exact", fallback="error")


@pytest.mark.parametrize("name", VALUES)
def test_the_table(name: str) -> None:
    mean1, variance1, mean2, variance2, pair = VALUES[name]
    mean = torch.tensor([[0.7, -1.0]], dtype=torch.float64)
    noise = torch.tensor([[1.69, 0.0], [0.0, 4.0]], dtype=torch.float64)
    result = exactly(FUNCTIONS[name], mean, noise)
    assert result.mean[0].tolist() == pytest.approx([mean1, mean2], rel=0, abs=1e-12)
    assert result.variance[0].tolist() == pytest.approx([variance1, variance2], rel=0, abs=1e-12)
    mean, noise = (
        torch.tensor([[0.7, -0.4]], dtype=torch.float64),
        torch.tensor([[1.69, 0.624], [0.624, 0.64]]).double(),
    )
    noise = torch.tensor([[1.69, 0.624], [0.624, 0.64]], dtype=torch.float64)
    result = exactly(FUNCTIONS[name], mean, noise)
    assert float(result.covariance[0, 0, 1]) == pytest.approx(pair, rel=0, abs=1e-13)
    assert result.covariance[0, 0, 1] == result.covariance[0, 1, 0]
    assert result.grade is (Grade.CLOSED_FORM if name in SERIES else Grade.EXACT)


def by_quadrature(function: Any, mean: Tensor, noise: Tensor) -> Tensor:
    """Covariance of f(x), f(y) by a fine grid in both directions: converges fast for smooth f, as step^2 at kinks."""
    step = 0.01
    z = torch.arange(-900, 901, dtype=torch.float64) * step
    w = torch.exp(-0.5 * z * z) * step / math.sqrt(2 * math.pi)
    root = torch.linalg.cholesky(noise)
    x = (mean[0] + root[0, 0] * z).unsqueeze(1)
    y = mean[1] + root[1, 0] * z.unsqueeze(1) + root[1, 1] * z
    f, g = function(x).expand_as(y), function(y)
    weights = w.unsqueeze(1) * w
    return (weights * f * g).sum() - (weights * f).sum() * (weights * g).sum()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_pair_elsewhere(name: str) -> None:
    for mean, noise in (
        (torch.tensor([1.2, 0.3]).double(), torch.tensor([[0.25, -0.3], [-0.3, 1.0]]).double()),
        (torch.tensor([-0.8, -0.5]).double(), torch.tensor([[1.0, 0.85], [0.85, 1.0]]).double()),
    ):
        found = exactly(FUNCTIONS[name], mean.unsqueeze(0), noise).covariance[0, 0, 1]
        # kinks cost the grid step^2; a correlation of 0.85 leaves 48 terms of a series a few 1e-9
        assert float(found) == pytest.approx(float(by_quadrature(FUNCTIONS[name], mean, noise)), rel=0, abs=2e-5)
        if name not in ("relu", "relu6", "hardtanh", "abs", "at least", "at most", "elu", "selu", "celu", "hardswish"):
            assert float(found) == pytest.approx(float(by_quadrature(FUNCTIONS[name], mean, noise)), rel=1e-8, abs=1e-8)


@pytest.mark.parametrize("scale", [1e-5, 1e-2, 1.0, 30.0])
@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name != "exp"])
def test_positive_semi_definite_in_both_precisions(name: str, scale: float) -> None:
    """Sixty units driven by five sources; single precision stays near double even against tiny noise."""
    factor, mean = scale * numbers(60, 5), numbers(1, 60, seed=1)
    noise = factor @ factor.T
    result = exactly(FUNCTIONS[name], mean, noise)
    values = torch.linalg.eigvalsh(result.covariance[0])
    assert values.min() >= -1e-12 * values.max()
    if name in ("relu6", "hardtanh") and scale > 10:
        return  # bounded, so much smaller than the noise that their terms cancel in single precision
    single = exactly(FUNCTIONS[name], mean.float(), noise.float())
    assert single.covariance.dtype == torch.float32
    values = torch.linalg.eigvalsh(single.covariance[0].double())
    assert values.min() >= -1e-6 * values.max()
    assert ((single.covariance.double() - result.covariance).abs().max() / result.variance.max()) < 2e-5


@pytest.mark.parametrize("name", FUNCTIONS)
def test_no_noise_and_finite_slopes(name: str) -> None:
    mean = (0.3 * numbers(2, 4)).requires_grad_()
    factor = torch.zeros(4, 4, dtype=torch.float64).requires_grad_()
    result = exactly(FUNCTIONS[name], mean, factor @ factor.T)
    torch.testing.assert_close(result.mean, FUNCTIONS[name](mean), rtol=1e-14, atol=1e-14)
    assert (result.covariance == 0).all()
    total = result.mean.sum() + result.covariance.sum()
    assert all(torch.isfinite(g).all() for g in torch.autograd.grad(total, (mean, factor)))


@pytest.mark.parametrize("name", ["gelu", "silu", "selu", "square", "at least"])
def test_derivatives_of_pairs(name: str) -> None:
    root = (0.7 * numbers(2, 2)).requires_grad_()
    mean = (0.5 * numbers(1, 2, seed=1)).requires_grad_()

    def covariance(mean: Tensor, root: Tensor) -> Tensor:
        return exactly(FUNCTIONS[name], mean, root @ root.T).covariance

    assert torch.autograd.gradcheck(covariance, (mean, root), atol=2e-6)


def agree(result: Moments, draws: Tensor, *, bias: float = 0.0) -> None:
    """Means, variances and covariances within six standard errors, and a share `bias` of the largest variance.

    Six standard errors are passed by chance once in 5e8 numbers; a test here compares fewer than 500.
    """
    left = draws - result.mean[0]
    count = draws.shape[0] ** 0.5
    scale = float(result.variance.max())
    assert (left.mean(0).abs() < 6 * left.std(0) / count + bias * scale**0.5).all()
    products = (left.unsqueeze(2) * left.unsqueeze(1)).flatten(1)
    gap = (products.mean(0) - result.covariance[0].flatten()).abs()
    assert (gap < 6 * products.std(0) / count + bias * scale).all()


DRAWS = 400_000


def gaussian(mean: Tensor, root: Tensor) -> Tensor:
    return mean + numbers(DRAWS, root.shape[1], seed=99) @ root.T


class TestProducts:
    mean, root = 0.7 * numbers(1, 6), 0.6 * numbers(6, 6, seed=1)

    @pytest.mark.parametrize(
        "function",
        [
            lambda x: x[:, :3] * x[:, 3:],
            lambda x: x * x,
            lambda x: (x[:, :2, None] * x[:, 2:].reshape(-1, 2, 2)).flatten(1),  # a gate per channel
            lambda x: (x[:, :2, None] * x[:, None, 2:5]).flatten(1),  # both factors are spread
            lambda x: x[:, :5] * x[:, 1:],  # pairs share variables
        ],
        ids=["two", "square", "gate", "outer", "overlap"],
    )
    def test_pairs_are_exact(self, function: Any) -> None:
        result = exactly(function, self.mean, self.root @ self.root.T)
        assert result.grade is Grade.EXACT
        agree(result, function(gaussian(self.mean, self.root)))

    def test_isserlis(self) -> None:
        noise, m = self.root @ self.root.T, self.mean[0]
        found = exactly(lambda x: x[:, :3] * x[:, 3:], self.mean, noise).covariance[0]
        for p in range(3):
            for q in range(3):
                x, y, z, w = p, p + 3, q, q + 3
                expected = noise[x, z] * noise[y, w] + noise[x, w] * noise[y, z] + m[x] * m[z] * noise[y, w]
                expected += m[x] * m[w] * noise[y, z] + m[y] * m[z] * noise[x, w] + m[y] * m[w] * noise[x, z]
                assert float(found[p, q]) == pytest.approx(float(expected), rel=1e-12, abs=1e-13)

    def test_first_order_pairs_are_not(self) -> None:
        """The comparison sees the difference between both methods."""
        draws = gaussian(self.mean, self.root)
        gain = propagate(Function(lambda x: x * x), self.mean, self.root @ self.root.T, method="gain")
        with pytest.raises(AssertionError):
            agree(gain, draws * draws)


class TestConstants:
    mean, root = 0.5 * numbers(1, 4), numbers(4, 4, seed=1)
    levels = torch.tensor([0.4, -0.3, 0.0, 1.0], dtype=torch.float64)

    @pytest.mark.parametrize(
        "function",
        [
            lambda x: torch.maximum(x, TestConstants.levels),
            lambda x: torch.minimum(TestConstants.levels, x),
            lambda x: torch.maximum(x[:, None], TestConstants.levels.reshape(4, 1)[:2]).flatten(1),
        ],
        ids=["at least", "at most", "spread"],
    )
    def test_pairs_are_exact(self, function: Any) -> None:
        result = exactly(function, self.mean, self.root @ self.root.T)
        assert result.grade is Grade.EXACT
        agree(result, function(gaussian(self.mean, self.root)))

    @pytest.mark.parametrize("method", ["exact", "gain", "factor", "diagonal"])
    def test_a_relu_in_disguise(self, method: str) -> None:
        noise = self.root.square().sum(1)
        pair = [
            propagate(Function(f), self.mean, noise, method=method, fallback="error")
            for f in (lambda x: torch.maximum(x, 0 * LEVEL), torch.relu)
        ]
        torch.testing.assert_close(pair[0].mean, pair[1].mean, rtol=1e-13, atol=1e-13)
        torch.testing.assert_close(pair[0].covariance, pair[1].covariance, rtol=1e-12, atol=1e-13)

    def test_a_constant_of_more_dimensions(self) -> None:
        """The batch is then the second axis, and comes back to the first."""
        levels = self.levels.reshape(1, 1, 4)
        pair = [
            propagate(Function(f), self.mean, 0.5, method="factor", fallback="error")
            for f in (lambda x: torch.maximum(x, levels)[0], lambda x: torch.maximum(x, self.levels))
        ]
        torch.testing.assert_close(pair[0].mean, pair[1].mean)
        torch.testing.assert_close(pair[0].covariance, pair[1].covariance)

    def test_far_levels(self) -> None:
        mean, noise = torch.full((1, 2), 0.3).double(), torch.eye(2).double()
        low = exactly(lambda x: torch.maximum(x, -1e30 * LEVEL), mean, noise)
        high = exactly(lambda x: torch.maximum(x, 1e6 * LEVEL), mean, noise)
        assert torch.equal(low.mean, mean)
        assert torch.equal(low.covariance[0], noise)
        assert (high.mean == 3e5).all()
        assert (high.covariance == 0).all()


class Gated(nn.Module):
    """An inverted residual block: expand, depthwise, squeeze and excite, project, add."""

    def __init__(self, activation: type[nn.Module]) -> None:
        super().__init__()
        self.expand, self.depth = nn.Conv2d(2, 6, 1), nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.down, self.up, self.project = nn.Conv2d(6, 3, 1), nn.Conv2d(3, 6, 1), nn.Conv2d(6, 2, 1)
        self.one, self.two, self.head = activation(), activation(), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.two(self.depth(self.one(self.expand(x))))
        gate = torch.sigmoid(self.up(F.relu(self.down(F.adaptive_avg_pool2d(h, 1)))))
        return self.head((x + self.project(h * gate)).flatten(1))


def perceptron(activation: type[nn.Module]) -> nn.Module:
    return nn.Sequential(nn.Linear(6, 24), activation(), nn.Linear(24, 24), activation(), nn.Linear(24, 4))


@pytest.mark.parametrize("activation", [nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish])
@pytest.mark.parametrize("build", [perceptron, Gated])
def test_networks(build: Callable[[type[nn.Module]], nn.Module], activation: type[nn.Module]) -> None:
    """Against 400,000 draws; Gaussian closure may cost two per cent of the largest variance."""
    torch.manual_seed(0)
    model = build(activation).double().requires_grad_(False)
    x = numbers(1, 6) if build is perceptron else numbers(1, 2, 4, 4)
    result = propagate(model, x, 0.1, method="exact", fallback="error")
    noise = 0.1**0.5 * numbers(DRAWS // 4, *x.shape[1:], seed=3)
    draws = torch.cat([model(x + part) for sign in (1, -1) for part in (sign * noise).split(20_000)])
    agree(result, draws, bias=0.02)


@pytest.mark.parametrize("activation", [nn.GELU, nn.SiLU])
def test_one_layer_is_exact(activation: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 40), activation(), nn.Linear(40, 5)).double().requires_grad_(False)
    x, root = numbers(1, 4), 0.8 * numbers(4, 4, seed=1)
    agree(propagate(model, x, root @ root.T, method="exact"), model(gaussian(x, root)))


class TestSquares:
    """torch.square as the product of a tensor with itself."""

    def test_equal_in_value_and_covered(self) -> None:
        from assay.graph import capture, evaluate
        from assay.graph.lower import lower_squares

        x = numbers(3, 4)
        graph = capture(Function(lambda x: torch.square(x) + x.abs() ** 2 + (x.square() + 1) ** 0.5), x)
        lowered = lower_squares(graph)
        assert [node.op for node in lowered].count("mul") == 3
        assert [node.attributes["exponent"] for node in lowered if node.op == "power"] == [0.5]
        assert torch.equal(evaluate(lowered, x), evaluate(graph, x))

    def test_moments(self) -> None:
        """At N(0.7, 1.69): mean 0.49 + 1.69, variance 4 0.49 1.69 + 2 1.69^2."""
        result = exactly(lambda x: x * x, torch.full((1, 1), 0.7, dtype=torch.float64), 1.69)
        assert float(result.mean) == pytest.approx(2.18, rel=1e-13)
        assert float(result.variance) == pytest.approx(4 * 0.49 * 1.69 + 2 * 1.69**2, rel=1e-13)
