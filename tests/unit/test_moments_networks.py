"""Propagation through networks of every kind, against mpmath, closed forms of pairs, and sampling."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.support.inputs import Function, close, numbers
from torch import Tensor, nn

from assay.covariance import Dense, Diagonal, LowRankPlusDiagonal, diagonal, to_dense
from assay.gaussian import maximum_moments, relu_covariance
from assay.grade import Grade
from assay.load import load_subject
from assay.moments import propagate
from assay.moments.basis import low_rank
from assay.moments.methods import Request
from assay.moments.methods.monte_carlo import draw_outputs
from assay.moments.noise import as_covariance
from assay.subject import Subject

WALKING = ["exact", "gain", "factor", "diagonal"]


SPECIFIED = {  # mean and variance at N(0.7, 1.3^2) and N(-1, 2^2), by mpmath
    "gelu": (F.gelu, 0.840954699413540624, 1.02545414230068879, 0.318376480476856226, 0.694516965394537955),
    "gelu_tanh": (
        lambda x: F.gelu(x, approximate="tanh"),
        0.840939824949606737,
        1.02563401300201212,
        0.318415923285224800,
        0.694561249597665616,
    ),
    "silu": (F.silu, 0.740288689732775423, 0.948321406083824032, 0.209719385989358652, 0.678715149110557323),
    "sigmoid": (
        torch.sigmoid,
        0.629215406010367707,
        0.0558844998403935642,
        0.352273561474131315,
        0.0876786624945902486,
    ),
    "tanh": (torch.tanh, 0.345265283325572712, 0.420276612647892102, -0.352344437701493052, 0.547523610858851562),
    "softplus": (F.softplus, 1.26968066797145942, 0.715324979117645145, 0.642495369528833764, 0.663629741392596995),
    "relu6": (F.relu6, 0.942038383893722827, 0.963144074994059767, 0.395476152965769214, 0.680640327036374712),
    "hardtanh": (F.hardtanh, 0.375851370140044126, 0.519074592807562320, -0.368746380372507241, 0.633635969630615289),
    "leaky_relu": (
        F.leaky_relu,
        0.939624521444646180,
        0.967801780839438364,
        0.381637183654585939,
        0.693326244449521236,
    ),
    "elu": (F.elu, 0.801605739911788298, 1.29498232281555379, -0.114268545252058094, 1.24760986718926907),
    "selu": (F.selu, 0.742901461447166091, 1.75975123142347569, -0.480737372151330496, 1.99934134930076057),
    "abs": (torch.abs, 1.18408994231241653, 0.777931008514578104, 1.79118622960522412, 1.79165189087262135),
    "hardswish": (F.hardswish, 0.699646528037296308, 0.970752176226252905, 0.187454820089956941, 0.691540147184986522),
    "square": (torch.square, 0.49 + 1.69, 4 * 0.49 * 1.69 + 2 * 1.69**2, 5.0, 4 * 4 + 2 * 16.0),
}


@pytest.mark.parametrize("name", [name for name in SPECIFIED if name != "square"])
@pytest.mark.parametrize("method", ["exact", "factor", "diagonal"])
def test_one_activation(name: str, method: str) -> None:
    function, *expected = SPECIFIED[name]
    x, variance = torch.tensor([[0.7, -1.0]], dtype=torch.float64), torch.tensor([[1.69, 4.0]], dtype=torch.float64)
    result = propagate(Function(function), x, variance, method=method)
    assert result.mean[0].tolist() == pytest.approx([expected[0], expected[2]], rel=1e-12, abs=1e-12)
    assert result.variance[0].tolist() == pytest.approx([expected[1], expected[3]], rel=1e-12, abs=1e-12)


PAIRS = {  # covariance at means 0.7, -0.4, deviations 1.3, 0.8, correlation 0.6, by mpmath
    "relu": (F.relu, 0.1574077054626907),
    "leaky_relu": (F.leaky_relu, 0.1605981233187960),
    "relu6": (F.relu6, 0.1573971399078532),
    "hardtanh": (F.hardtanh, 0.2217594035431191),
    "abs": (torch.abs, -0.01110275285885),
    "gelu": (F.gelu, 0.1628733573408186),
    "silu": (F.silu, 0.1714713721926043),
    "tanh": (torch.tanh, 0.1818788429268723),
    "elu": (F.elu, 0.3656929409456987),
}
PAIR_MEAN, PAIR_NOISE = (
    torch.tensor([[0.7, -0.4]], dtype=torch.float64),
    torch.tensor([[1.69, 0.624], [0.624, 0.64]]).double(),
)


@pytest.mark.parametrize("name", PAIRS)
def test_a_pair_of_activations(name: str) -> None:
    function, expected = PAIRS[name]
    result = propagate(Function(function), PAIR_MEAN, PAIR_NOISE, method="exact")
    assert float(result.covariance[0, 0, 1]) == pytest.approx(
        expected, abs=2e-7
    )  # the noise matrix is rounded to float32
    series = name in ("silu", "tanh", "elu")
    assert result.grade is (Grade.CLOSED_FORM if series else Grade.EXACT)


class TestMaximum:
    def test_a_window_of_two_is_clark(self) -> None:
        mean, noise = (
            torch.tensor([[[1.0, 0.5]]], dtype=torch.float64),
            torch.tensor([[1.0, 0.6], [0.6, 4.0]], dtype=torch.float64),
        )
        pool = nn.Sequential(nn.MaxPool1d(2), nn.Flatten())
        for method in ("exact", "gain", "factor"):
            result = propagate(pool, mean, noise, method=method)
            assert float(result.mean) == pytest.approx(1.55312397358834535, abs=1e-12)
            assert float(result.variance) == pytest.approx(1.61384532130399021, abs=1e-12)

    def test_two_windows_with_their_exact_covariance(self) -> None:
        """max(x1, x2) and max(x3, x4), jointly Gaussian: against 4,000,000 draws."""
        root = numbers(4, 4)
        mean, noise = 0.5 * numbers(1, 1, 4, seed=1), root @ root.T
        result = propagate(nn.Sequential(nn.MaxPool1d(2), nn.Flatten()), mean, noise, method="exact")
        assert result.grade is Grade.EXACT
        draws = mean[0] + numbers(4_000_000, 4, seed=2) @ root.T
        largest = torch.stack([draws[:, :2].amax(1), draws[:, 2:].amax(1)], 1)
        product = (largest[:, 0] - result.mean[0, 0]) * (largest[:, 1] - result.mean[0, 1])
        assert abs(float(product.mean() - result.covariance[0, 0, 1])) < 5 * float(product.std()) / 2000

    def test_four_equal_windows_go_by_tournament(self) -> None:
        result = propagate(
            nn.Sequential(nn.MaxPool2d(2), nn.Flatten()), torch.zeros(1, 1, 2, 2).double(), 1.0, method="exact"
        )
        assert float(result.mean) == pytest.approx(1.03001004525103194, abs=1e-12)
        assert float(result.variance) == pytest.approx(0.464701411274756428, abs=1e-12)

    @pytest.mark.parametrize("method", ["exact", "gain", "factor", "linearize"])
    def test_ties_of_fully_dependent_elements(self, method: str) -> None:
        """All four elements are one variable: so is their maximum."""
        noise = LowRankPlusDiagonal(torch.ones(1, 1, 1, 2, 2).double(), torch.zeros(1, 1, 2, 2).double())
        result = propagate(
            nn.Sequential(nn.MaxPool2d(2), nn.Flatten()), torch.full((1, 1, 2, 2), 0.3).double(), noise, method=method
        )
        close(result.mean, torch.full((1, 1), 0.3).double(), 1e-7)
        close(result.variance, torch.ones(1, 1).double(), 1e-7)

    @pytest.mark.parametrize("method", ["exact", "gain", "factor"])
    def test_padding_is_never_the_largest(self, method: str) -> None:
        pool, x = nn.Sequential(nn.MaxPool2d(3, 2, 1), nn.Flatten()).double(), numbers(2, 2, 4, 4) - 50
        result = propagate(pool, x, 0.01, method=method, rank=40)
        truth = propagate(pool, x, 0.01, method="mc", samples=20_000)
        assert ((result.mean - truth.mean).abs() < 0.02 * truth.std + 6 * truth.standard_error).all()
        assert (result.variance / truth.variance - 1).abs().max() < 0.1

    def test_pooling_first_is_better(self) -> None:
        """ReLU then pool: the pool sees Gaussian pre-activations. Against pooling what the ReLU leaves."""
        from assay.graph import capture, lower_max_pools
        from assay.interpret import forward
        from assay.moments.dense import DenseDomain

        torch.manual_seed(0)
        model = (
            nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
            .double()
            .requires_grad_(False)
        )
        x = numbers(2, 1, 4, 4)
        truth = propagate(model, x, 0.5, method="mc", samples=100_000)
        swapped = propagate(model, x, 0.5, method="exact")
        graph, domain = lower_max_pools(capture(model, x)), DenseDomain()
        start = domain.lift(graph.input, x, torch.diag_embed(torch.full((2, 16), 0.5).double()))
        plain = forward(graph, domain, {graph.input: start}, batch=2)
        scale = truth.std.mean()
        errors = [float((value - truth.mean).abs().mean() / scale) for value in (swapped.mean, plain.mean)]
        assert errors[0] < 0.5 * errors[1]
        assert errors[0] < 0.02
        quiet = propagate(model, x, 0.0, method="exact")
        close(quiet.mean, model(x))

    def test_broadcast_operands(self) -> None:
        """Every element against one of its row, and the exact covariance of all those maxima."""
        model = Function(lambda x: torch.maximum(x[:, :, :2], x[:, :, 2:]).flatten(1))
        mean, root = 0.3 * numbers(1, 2, 3), numbers(6, 6, seed=1)
        result = propagate(model, mean, root @ root.T, method="exact")
        draws = mean + (numbers(1_000_000, 6, seed=2) @ root.T).reshape(-1, 2, 3)
        sampled = torch.maximum(draws[:, :, :2], draws[:, :, 2:]).flatten(1)
        assert (result.mean[0] - sampled.mean(0)).abs().max() < 6 * float(sampled.std(0).max()) / 1000
        assert (result.covariance[0] - sampled.T.cov()).abs().max() < 6 * float(sampled.var(0).max()) * 2**0.5 / 1000
        assert result.grade is Grade.EXACT
        std, first = (root @ root.T).diagonal().sqrt(), mean.flatten()
        clark = maximum_moments(first[0], std[0], first[2], std[2], (root @ root.T)[0, 2])
        assert float(result.mean[0, 0]) == pytest.approx(float(clark[0]), abs=1e-12)


class Squeeze(nn.Module):
    """A convolution whose channels are gated by their own averages."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.down, self.up = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 2, 1), nn.Conv2d(2, 4, 1)
        self.head = nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.conv(x))
        gate = torch.sigmoid(self.up(F.relu(self.down(F.adaptive_avg_pool2d(h, 1)))))
        return self.head((h * gate).flatten(1))


class Mixed(nn.Module):
    """Concatenation, permutation, slices, a stack of two activations, a mean."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.head = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(9, 3)

    def forward(self, x: Tensor) -> Tensor:
        both = torch.cat([F.gelu(self.one(x)), F.leaky_relu(self.two(x), 0.2)], 1).reshape(-1, 3, 4).permute(0, 2, 1)
        return self.head(torch.cat([both[:, 1:3].flatten(1), both.mean(1)], 1))


class Product(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.head = nn.Linear(4, 16), nn.Linear(4, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.one(x) * torch.sigmoid(self.two(x)))


NETWORKS: dict[
    str, tuple[Any, tuple[int, ...], float, float]
] = {  # network, input, error of the mean, error of the variance
    "conv1d": (
        lambda: nn.Sequential(nn.Conv1d(2, 6, 3, stride=2), nn.ReLU(), nn.AvgPool1d(2), nn.Flatten(), nn.Linear(12, 3)),
        (2, 9),
        0.02,
        0.06,
    ),
    "conv_transpose": (
        lambda: nn.Sequential(
            nn.ConvTranspose2d(2, 4, 3, stride=2, output_padding=1),
            nn.SiLU(),
            nn.AdaptiveAvgPool2d((3, 2)),
            nn.Flatten(),
            nn.Linear(24, 3),
        ),
        (2, 3, 3),
        0.02,
        0.06,
    ),
    "upsampled": (
        lambda: nn.Sequential(
            nn.Upsample(scale_factor=2, mode="bilinear"),
            nn.Conv2d(2, 4, 3, groups=2),
            nn.Tanh(),
            nn.Flatten(),
            nn.Linear(64, 3),
        ),
        (2, 3, 3),
        0.02,
        0.06,
    ),
    "adaptive max": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 5, 3, padding=1), nn.ReLU(), nn.AdaptiveMaxPool2d(2), nn.Flatten(), nn.Linear(20, 3)
        ),
        (2, 4, 4),
        0.02,
        0.08,
    ),
    "activations": (
        lambda: nn.Sequential(
            nn.Linear(4, 12), nn.PReLU(12), nn.Linear(12, 12), nn.ELU(), nn.Linear(12, 12), nn.ReLU6(), nn.Linear(12, 3)
        ),
        (4,),
        0.03,
        0.06,
    ),
    "squeeze and excite": (Squeeze, (2, 4, 4), 0.02, 0.08),
    "mixed": (Mixed, (4,), 0.02, 0.06),
    "product": (Product, (4,), 0.02, 0.08),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_against_sampling(name: str) -> None:
    """Within the stated errors in output deviations and variance, and six standard errors of 20,000 draws."""
    build, shape, mean_within, ratio_within = NETWORKS[name]
    torch.manual_seed(1)
    subject = Subject.from_model(build().double(), example=numbers(2, *shape, seed=3))
    x = numbers(2, *shape, seed=3)
    truth = propagate(subject, x, 0.1, method="mc", samples=20_000)
    assert truth.standard_error is not None
    for method in ("exact", "gain", "factor"):
        result = propagate(subject, x, 0.1, method=method, rank=40, fallback="error")
        assert ((result.mean - truth.mean).abs() < mean_within * truth.std + 6 * truth.standard_error).all()
        assert (result.variance / truth.variance - 1).abs().max() < ratio_within + 6 * (2 / 20_000) ** 0.5


@pytest.mark.parametrize(
    ("inputs", "draws"), [(8, 10_000), pytest.param(20, 100_000, marks=pytest.mark.slow)], ids=["quick", "thorough"]
)
def test_the_trained_digits_network(inputs: int, draws: int) -> None:
    """Noise of a tenth of the range; sampling's own mean error, sqrt(2 / (pi draws)), is allowed on top."""
    subject = load_subject("demo")
    assert subject.data is not None
    x = subject.data.inputs[torch.linspace(0, len(subject.data) - 1, inputs).round().long()]
    noise = as_covariance(0.01, x)
    outputs = [
        draw_outputs(Request(subject, x, noise, None, 1, draws, row, "error"), row).double() for row in range(inputs)
    ]
    mean, variance = torch.stack([o.mean(0) for o in outputs]), torch.stack([o.var(0) for o in outputs])
    floor = (2 / math.pi / draws) ** 0.5
    limits = {"exact": (0.005, 0.97), "gain": (0.005, 0.97), "factor": (0.01, 0.95)}
    for method, (error, lowest) in limits.items():
        result = propagate(subject, x, 0.01, method=method, rank=32)
        assert ((result.mean - mean).abs() / variance.sqrt()).mean() < error + floor
        # every sampled variance is off by sqrt(2 / draws); the average over 10 outputs of each input by less
        slack = 3 * (2 / draws / inputs) ** 0.5
        assert lowest - slack < (result.variance / variance).mean() < 1 + slack
    shift = ((propagate(subject, x, 0.01, method="linearize").mean - mean).abs() / variance.sqrt()).mean()
    assert shift > 10 * limits["exact"][0]


def test_covariances_of_activations_are_those_of_the_kernel() -> None:
    mean, root = numbers(1, 5), numbers(5, 5, seed=1)
    noise = root @ root.T
    result = propagate(Function(torch.relu), mean, noise, method="exact")
    std = noise.diagonal().sqrt()
    rho = noise / (std.unsqueeze(0) * std.unsqueeze(1))
    kernel = relu_covariance(
        mean[0].unsqueeze(1), std.unsqueeze(1), mean[0].unsqueeze(0), std.unsqueeze(0), rho.clamp(-1, 1)
    )
    close(result.covariance[0], kernel, 1e-12)


@pytest.mark.parametrize("method", ["exact", "gain", "factor"])
def test_the_product_of_two_correlated_variables(method: str) -> None:
    """Isserlis: E xy = m1 m2 + c, Var xy = m1^2 v2 + m2^2 v1 + 2 m1 m2 c + v1 v2 + c^2."""
    mean, noise = torch.tensor([[0.7, -0.4]]).double(), torch.tensor([[1.69, 0.8], [0.8, 0.64]]).double()
    result = propagate(Function(lambda x: x[:, :1] * x[:, 1:]), mean, noise, method=method)
    (m1, m2), (v1, v2), c = mean[0], noise.diagonal(), noise[0, 1]
    close(result.mean[0, 0], m1 * m2 + c)
    close(result.variance[0, 0], m1**2 * v2 + m2**2 * v1 + 2 * m1 * m2 * c + v1 * v2 + c**2)


class TestColumns:
    """The low-rank form of the input noise stands for it on average over its random directions."""

    def average(self, covariance: Diagonal | Dense, rank: int, guides: Any = None) -> Tensor:
        reduced = [low_rank(covariance, rank, guides, seed=seed)[0] for seed in range(400)]
        return torch.stack([to_dense(one).matrix[0] for one in reduced]).mean(0)

    @pytest.mark.parametrize("guided", [False, True])
    @pytest.mark.parametrize("kind", ["diagonal", "dense"])
    def test_unstructured(self, kind: str, guided: bool) -> None:
        root = numbers(12, 12)
        truth = torch.diag(numbers(12, seed=1).square()) if kind == "diagonal" else root @ root.T
        covariance = Diagonal(truth.diagonal().unsqueeze(0)) if kind == "diagonal" else Dense(truth.unsqueeze(0), (12,))
        guides = numbers(2, 1, 12, seed=2)
        found = self.average(covariance, 4, (lambda: guides) if guided else None)
        # entries of one sketch spread by about 12 / 4 geometric means of the variances: six standard errors of 400
        scale = (truth.diagonal().unsqueeze(0) * truth.diagonal().unsqueeze(1)).sqrt()
        assert ((found - truth).abs() < 6 * 3 * (scale + scale.mean()) / 20).all()
        assert float(found.trace()) == pytest.approx(float(truth.trace()), rel=0.1)

    def test_guides_are_kept(self) -> None:
        """Whatever moves the outputs most is not left to chance: the covariance of the guided combinations is exact."""
        guides = numbers(2, 1, 12, seed=2)
        for seed in range(5):
            reduced, exact = low_rank(Diagonal(torch.ones(1, 12).double()), 4, lambda: guides, seed=seed)
            assert not exact
            gram = torch.einsum("rbn,kbn->kr", reduced.factor, guides)
            close(gram @ gram.T, guides[:, 0] @ guides[:, 0].T, 1e-3)

    def test_pictures_are_coloured(self) -> None:
        """Pixels and 3 x 3 convolutions have their exact variance; distant pixels are uncorrelated on average."""
        variance = numbers(1, 1, 9, 9, seed=3).square()
        covariance = Diagonal(variance)
        reduced, exact = low_rank(covariance, 32)
        assert not exact
        assert reduced.rank <= 32
        close(diagonal(reduced), variance)
        filters = numbers(4, 1, 3, 3)
        images = F.conv2d(reduced.factor[:, 0], filters)
        close(images.square().sum(0), F.conv2d(variance, filters.square())[0])
        apart = self.average(covariance, 32) - torch.diag(variance.flatten())
        scale = (variance.flatten().unsqueeze(0) * variance.flatten().unsqueeze(1)).sqrt()
        assert (apart.abs() < 6 / 20 * scale + 1e-12).all()

    def test_enough_columns_are_exact(self) -> None:
        root = numbers(6, 6)
        for covariance in (Diagonal(numbers(1, 6).square()), Dense((root @ root.T).unsqueeze(0), (6,))):
            reduced, exact = low_rank(covariance, 6)
            assert exact
            close(to_dense(reduced).matrix, to_dense(covariance).matrix, 1e-10)

    def test_the_users_columns_come_first(self) -> None:
        own = LowRankPlusDiagonal(numbers(2, 1, 12), torch.zeros(1, 12).double())
        assert low_rank(own, 1) == (own, True)
        rest = LowRankPlusDiagonal(numbers(2, 1, 12), torch.ones(1, 12).double())
        reduced, exact = low_rank(rest, 6)
        assert not exact
        assert reduced.rank == 6
        close(reduced.factor[:2], rest.factor)
        full, exact = low_rank(rest, 14)
        assert exact
        close(to_dense(full).matrix, to_dense(rest).matrix, 1e-10)
