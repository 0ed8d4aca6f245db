"""Propagation: statements of noise, methods on networks of every kind, gradients, precision, memory, refusals."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from assay.covariance import Dense, Diagonal, LowRankPlusDiagonal
from assay.errors import NumericalError, UsageError
from assay.gaussian import maximum_moments, relu_covariance
from assay.grade import Grade
from assay.load import load_subject
from assay.moments import propagate
from assay.moments.methods import Request
from assay.moments.methods.monte_carlo import draw_outputs
from assay.moments.noise import as_covariance
from assay.subject import Subject

WALKING = ["exact", "gain", "factor", "diagonal"]


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def close(value: Tensor, expected: Tensor, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(value, expected, rtol=tolerance, atol=tolerance)


class Function(nn.Module):
    """Any function as a network."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Branching(nn.Module):
    """Cannot be captured: what it does depends on its input."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.layer(row) if float(row.sum()) > 0 else -self.layer(row) for row in x])


def small(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).double().requires_grad_(False)


class TestNoise:
    mean = numbers(3, 2, 2)

    @pytest.mark.parametrize("noise", [0.5, 1, torch.tensor(0.5), np.float64(0.5)], ids=repr)
    def test_a_number_is_the_variance_of_every_element(self, noise: Any) -> None:
        covariance = as_covariance(noise, self.mean)
        assert isinstance(covariance, Diagonal)
        close(covariance.variance, torch.full((3, 2, 2), float(noise), dtype=torch.float64))

    @pytest.mark.parametrize("shape", [(2, 2), (3, 2, 2), (1, 2, 2), (3, 1, 1), (2, 1), (1, 1)])
    def test_a_tensor_of_variances(self, shape: tuple[int, ...]) -> None:
        variance = numbers(*shape).square()
        for noise in (variance, Diagonal(variance)):
            covariance = as_covariance(noise, self.mean)
            assert isinstance(covariance, Diagonal)
            close(covariance.variance, variance.expand(3, 2, 2))

    @pytest.mark.parametrize("batch", [(), (1,), (3,)])
    def test_a_matrix(self, batch: tuple[int, ...]) -> None:
        root = numbers(*batch, 4, 4)
        matrix = root @ root.mT
        for noise in (matrix, Dense(matrix, (2, 2))):
            covariance = as_covariance(noise, self.mean)
            assert isinstance(covariance, Dense)
            assert covariance.event == (2, 2)
            close(covariance.matrix, matrix.expand(3, 4, 4))

    @pytest.mark.parametrize("batch", [1, 3])
    def test_columns(self, batch: int) -> None:
        factor, rest = numbers(5, batch, 2, 2), numbers(batch, 2, 2).square()
        covariance = as_covariance(LowRankPlusDiagonal(factor, rest), self.mean)
        assert isinstance(covariance, LowRankPlusDiagonal)
        close(covariance.factor, factor.expand(5, 3, 2, 2))
        close(covariance.rest, rest.expand(3, 2, 2))

    def test_the_type_of_the_input_wins(self) -> None:
        for noise in (
            torch.ones(2, 2),
            torch.ones(2, 2, dtype=torch.int64),
            torch.eye(4),
            Diagonal(torch.ones(1, 2, 2)),
        ):
            covariance = as_covariance(noise, self.mean)
            assert all(t.dtype == torch.float64 for t in vars(covariance).values() if isinstance(t, Tensor))

    REFUSED: ClassVar = [
        (-0.1, "negative"),
        (torch.tensor([[1.0, -1.0], [1.0, 1.0]]), "negative"),
        (Diagonal(torch.full((1, 2, 2), -1.0)), "negative"),
        (LowRankPlusDiagonal(torch.ones(1, 1, 2, 2), -torch.ones(1, 2, 2)), "negative"),
        (math.nan, "NaN"),
        (math.inf, "NaN or infinite"),
        (torch.tensor([[math.nan, 1.0], [1.0, 1.0]]), "NaN"),
        (torch.full((4, 4), math.inf), "NaN"),
        (LowRankPlusDiagonal(torch.full((1, 1, 2, 2), math.nan), torch.ones(1, 2, 2)), "NaN"),
        (torch.ones(2), "does not fit"),  # would pass for one variance per column
        (torch.ones(3, 3), "does not fit"),
        (torch.ones(2, 2, 2), "does not fit"),
        (torch.ones(1, 3, 2, 2), "does not fit"),
        (torch.eye(4).expand(2, 4, 4), "does not fit"),
        (Dense(torch.eye(3).unsqueeze(0), (3,)), "does not fit"),
        (Diagonal(torch.ones(1, 3)), "does not fit"),
        (LowRankPlusDiagonal(torch.ones(2, 1, 3), torch.ones(1, 3)), "does not fit"),
        (LowRankPlusDiagonal(torch.ones(2, 2, 2, 2), torch.ones(1, 2, 2)), "does not fit"),
        (torch.eye(4) + torch.ones(4, 4).triu(1), "not symmetric"),
        (torch.eye(4) - torch.ones(4, 4), "negative eigenvalue"),
        ("0.1", "got str"),
        (None, "got NoneType"),
        (np.ones((2, 2)), "got ndarray"),
    ]

    @pytest.mark.parametrize(("noise", "match"), REFUSED)
    def test_refused(self, noise: Any, match: str) -> None:
        with pytest.raises(UsageError, match=match) as caught:
            as_covariance(noise, self.mean)
        assert caught.value.where == "cov"
        assert caught.value.advice

    def test_an_ambiguous_square_is_refused(self) -> None:
        with pytest.raises(UsageError, match="could be variances or a covariance matrix"):
            as_covariance(torch.eye(4), numbers(4, 4))
        assert isinstance(as_covariance(Diagonal(torch.ones(4, 4)), numbers(4, 4)), Diagonal)
        assert isinstance(as_covariance(Dense(torch.eye(4), (4,)), numbers(4, 4)), Dense)

    def test_rounding_is_forgiven(self) -> None:
        root = numbers(4, 2)
        matrix = (root @ root.T).float()
        matrix[0, 1] += 1e-7
        as_covariance(matrix, self.mean.float())


class TestArguments:
    @pytest.mark.parametrize(
        ("arguments", "where"),
        [
            ({"method": "exakt"}, "method"),
            ({"rank": 0}, "propagate"),
            ({"samples": 1}, "propagate"),
            ({"outputs": torch.tensor([3])}, "outputs"),
            ({"outputs": torch.tensor([-1])}, "outputs"),
            ({"outputs": torch.tensor(1)}, "outputs"),
            ({"outputs": torch.tensor([], dtype=torch.int64)}, "outputs"),
            ({"outputs": torch.tensor([0.5])}, "outputs"),
            ({"outputs": torch.tensor([[0], [1], [2]])}, "outputs"),
        ],
    )
    def test_refused(self, arguments: dict[str, Any], where: str) -> None:
        with pytest.raises(UsageError) as caught:
            propagate(small(), numbers(2, 4), 0.1, **arguments)
        assert caught.value.where == where

    @pytest.mark.parametrize(
        "mean", [numbers(4), numbers(0, 4), torch.ones(2, 4, dtype=torch.int64), numbers(2, 4) * math.nan]
    )
    def test_means_are_checked(self, mean: Tensor) -> None:
        with pytest.raises(UsageError) as caught:
            propagate(small(), mean, 0.1)
        assert caught.value.where == "mean"

    def test_means_take_the_type_of_the_model(self) -> None:
        x = numbers(2, 4).float()
        assert propagate(small(), x, 0.1).mean.dtype == torch.float64
        assert propagate(small().float(), x.double(), 0.1).mean.dtype == torch.float32

    def test_infinity_is_an_error_not_a_result(self) -> None:
        with pytest.raises(NumericalError, match="NaN or infinity"):
            propagate(Function(torch.exp), torch.full((1, 2), 80.0), 100.0, method="exact")

    def test_the_model_is_left_alone(self) -> None:
        model = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5), nn.BatchNorm1d(3)).train()
        before = {name: t.clone() for name, t in model.state_dict().items()}
        propagate(model, torch.randn(2, 4), 0.1)
        assert model.training
        assert all(p.requires_grad for p in model.parameters())
        assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


class TestChoice:
    def test_by_size(self) -> None:
        x = torch.zeros(1, 4)
        narrow = propagate(nn.Linear(4, 3), x, 0.1)
        assert (narrow.method, narrow.reason[:28]) == ("exact", "the widest layer has 4 units")
        wide = propagate(nn.Sequential(nn.Linear(4, 5000), nn.ReLU(), nn.Linear(5000, 2)), x, 0.1)
        assert wide.method == "factor"
        assert "5000 units" in wide.reason

    def test_a_model_that_cannot_be_captured_is_linearised(self) -> None:
        model, x = Branching().double(), numbers(3, 4)
        result = propagate(model, x, 0.1)
        assert (result.method, result.grade, result.layers) == ("linearize", Grade.LINEARISED, ())
        assert result.reason
        close(result.mean, model(x).detach())
        close(result.covariance, (0.1 * model.layer.weight @ model.layer.weight.T).detach().expand(3, 3, 3))

    @pytest.mark.parametrize("method", WALKING)
    def test_but_not_silently(self, method: str) -> None:
        from assay.errors import CaptureError

        with pytest.raises(CaptureError):
            propagate(Branching().double(), numbers(3, 4), 0.1, method=method)


class TestGrades:
    def test_of_one_block(self) -> None:
        grades = {
            m: propagate(small(), numbers(2, 4), 0.1, method=m, rank=4).grade for m in (*WALKING, "linearize", "mc")
        }
        assert grades == {
            "exact": Grade.EXACT,
            "gain": Grade.CLOSED_FORM,
            "factor": Grade.CLOSED_FORM,
            "diagonal": Grade.STATISTICAL,
            "linearize": Grade.LINEARISED,
            "mc": Grade.SAMPLED,
        }

    @pytest.mark.parametrize(
        ("function", "grade"),
        [
            (lambda x: torch.relu(torch.relu(x) - 1), Grade.CLOSED_FORM),
            (lambda x: x + torch.relu(x), Grade.EXACT),
            (F.gelu, Grade.CLOSED_FORM),  # variances by quadrature, pairs to first order
            (lambda x: torch.relu(x) + torch.relu(0.3 - x), Grade.CLOSED_FORM),  # two branches meet
            (lambda x: F.max_pool1d(x.unsqueeze(1), 2).flatten(1), Grade.EXACT),
            (lambda x: x.softmax(-1), Grade.LINEARISED),
            (lambda x: torch.relu(x).softmax(-1) + x, Grade.LINEARISED),
        ],
    )
    def test_of_functions(self, function: Any, grade: Grade) -> None:
        assert propagate(Function(function), numbers(2, 4), 0.1, method="exact").grade is grade

    def test_of_a_reduced_rank(self) -> None:
        assert propagate(small(), numbers(2, 4), 0.1, method="factor", rank=3).grade is Grade.STATISTICAL

    def test_of_fallbacks(self) -> None:
        model = nn.Sequential(small(), nn.Softmax(-1))
        assert propagate(model, numbers(2, 4), 0.1, method="exact", fallback="sample").grade is Grade.SAMPLED
        assert propagate(model, numbers(2, 4), 0.1, method="exact").grade is Grade.LINEARISED

    @pytest.mark.parametrize("method", WALKING)
    def test_an_output_that_no_noise_reaches(self, method: str) -> None:
        model = Function(lambda x: x.new_zeros(x.shape[0], 2) + 3)
        result = propagate(model, numbers(2, 4), 0.1, method=method)
        assert (result.mean == 3).all()
        assert (result.covariance == 0).all()
        assert propagate(Function(lambda x: x), numbers(2, 4), 0.1, method=method).variance[0, 0] == pytest.approx(0.1)

    def test_rows_per_layer(self) -> None:
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.AdaptiveMaxPool2d(2), nn.Flatten(), nn.Linear(8, 2)
        )
        for method in WALKING:
            rows = propagate(model, torch.randn(2, 1, 4, 4), 0.1, method=method).layers
            # the pool goes before the activation; of the maxima it consists of, only the last has a row
            assert [row.place for row in rows] == [
                "0 (conv)",
                "2 (adaptive_max_pool)",
                "1 (relu)",
                "3 (reshape)",
                "4 (linear)",
            ]
            assert all(row.variance > 0 and row.relative > 0 for row in rows)
            assert [row.innovation_share > 0 for row in rows].count(True) == 2


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
QUADRATURE = {"silu": 1e-6, "sigmoid": 1e-7, "tanh": 5e-5, "softplus": 1e-7, "gelu_tanh": 1e-5, "gelu": 1e-7}
"""What 64 Gauss-Hermite nodes reach for functions whose poles lie near; closed forms and cut integrals reach 1e-12."""


@pytest.mark.parametrize("name", [name for name in SPECIFIED if name != "square"])
@pytest.mark.parametrize("method", ["exact", "factor", "diagonal"])
def test_one_activation(name: str, method: str) -> None:
    function, *expected = SPECIFIED[name]
    x, variance = torch.tensor([[0.7, -1.0]], dtype=torch.float64), torch.tensor([[1.69, 4.0]], dtype=torch.float64)
    result = propagate(Function(function), x, variance, method=method)
    tolerance = QUADRATURE.get(name, 1e-12)
    assert result.mean[0].tolist() == pytest.approx([expected[0], expected[2]], rel=tolerance, abs=tolerance)
    assert result.variance[0].tolist() == pytest.approx([expected[1], expected[3]], rel=tolerance, abs=tolerance)


PAIRS = {  # covariance at means 0.7, -0.4, deviations 1.3, 0.8, correlation 0.6, by mpmath
    "relu": (F.relu, 0.1574077054626907),
    "leaky_relu": (F.leaky_relu, 0.1605981233187960),
    "relu6": (F.relu6, 0.1573971399078532),
    "hardtanh": (F.hardtanh, 0.2217594035431191),
    "abs": (torch.abs, -0.01110275285885),
}
FIRST_ORDER = {
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


@pytest.mark.parametrize("name", FIRST_ORDER)
def test_a_pair_to_first_order(name: str) -> None:
    function, expected = FIRST_ORDER[name]
    result = propagate(Function(function), PAIR_MEAN, PAIR_NOISE, method="exact")
    assert float(result.covariance[0, 0, 1]) == pytest.approx(expected, rel=0.2)
    assert result.grade is Grade.CLOSED_FORM


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


class TestGradients:
    @pytest.mark.parametrize("method", ["exact", "gain", "factor"])
    def test_with_respect_to_mean_and_noise(self, method: str) -> None:
        model = Subject.from_model(
            nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 3), nn.LeakyReLU(0.1), nn.Linear(3, 2)).double(),
            example=numbers(1, 3),
        )

        def moments(mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
            result = propagate(model, mean, variance, method=method)
            return result.mean, result.covariance

        arguments = numbers(2, 3).requires_grad_(True), (numbers(2, 3, seed=1).square() + 0.2).requires_grad_(True)
        assert torch.autograd.gradcheck(moments, arguments, atol=1e-7)

    def test_through_pools_products_and_smooth_functions(self) -> None:
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv1d(1, 2, 3, padding=1), nn.ReLU(), nn.MaxPool1d(2), nn.Flatten(), nn.Linear(4, 4), nn.GELU()
        ).double()
        model = Subject.from_model(Function(lambda x: net(x) * torch.sigmoid(net(x))), example=numbers(1, 1, 4))

        def moments(mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
            result = propagate(model, mean, variance, method="factor")
            return result.mean, result.variance

        arguments = numbers(1, 1, 4).requires_grad_(True), torch.full((1, 1, 4), 0.3).double().requires_grad_(True)
        assert torch.autograd.gradcheck(moments, arguments, atol=1e-6)

    def test_with_respect_to_a_full_matrix_and_columns(self) -> None:
        model = Subject.from_model(small(), example=numbers(1, 4))

        def dense(root: Tensor) -> Tensor:
            return propagate(model, numbers(1, 4), Dense((root @ root.T).unsqueeze(0), (4,)), method="exact").covariance

        def columns(factor: Tensor) -> Tensor:
            noise = LowRankPlusDiagonal(factor, torch.zeros(1, 4).double())
            return propagate(model, numbers(1, 4), noise, method="factor").covariance

        assert torch.autograd.gradcheck(dense, numbers(4, 4, seed=2).requires_grad_(True), atol=1e-7)
        assert torch.autograd.gradcheck(columns, numbers(2, 1, 4, seed=2).requires_grad_(True), atol=1e-7)

    @pytest.mark.parametrize("method", ["exact", "gain", "factor"])
    @pytest.mark.parametrize("tail", [nn.Identity(), nn.Softmax(-1)], ids=["relu", "softmax"])
    def test_no_noise_gives_no_nan(self, method: str, tail: nn.Module) -> None:
        model = nn.Sequential(
            nn.Conv1d(1, 2, 3, padding=1), nn.ReLU(), nn.MaxPool1d(2), nn.Flatten(), nn.Linear(4, 3), tail
        ).double()
        for noise in (torch.zeros(1, 1, 4), torch.tensor([[[0.0, 1.0, 0.0, 0.5]]])):
            mean, variance = torch.zeros(1, 1, 4).double().requires_grad_(True), noise.double().requires_grad_(True)
            result = propagate(model, mean, variance, method=method)
            (result.mean.sum() + result.covariance.sum() + result.std.sum()).backward()
            assert mean.grad is not None
            assert variance.grad is not None
            assert torch.isfinite(mean.grad).all()
            assert torch.isfinite(variance.grad).all()

    def test_without_noise_the_gradient_of_the_mean_is_the_networks(self) -> None:
        model, x = small(), numbers(2, 4).requires_grad_(True)
        propagate(model, x, 0.0, method="exact").mean.sum().backward()
        assert x.grad is not None
        close(x.grad, torch.autograd.grad(model(x).sum(), x)[0])


@pytest.mark.parametrize("method", ["exact", "gain", "factor"])
def test_single_precision(method: str) -> None:
    from assay.load.demo import demo_data, demo_model

    x = demo_data().inputs[:3]
    single = propagate(demo_model(), x, 0.01, method=method)
    double = propagate(demo_model().double(), x.double(), 0.01, method=method)
    assert single.mean.dtype == torch.float32
    for one, other in ((single.mean, double.mean), (single.covariance, double.covariance)):
        assert (one.double() - other).abs().max() <= 1e-5 * other.abs().max()


class Largest(TorchDispatchMode):
    """Remembers the size of the largest tensor that any operator made."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.elements = max([self.elements, *(t.numel() for t in tree_leaves(result) if isinstance(t, Tensor))])
        return result


def test_the_factor_method_never_holds_a_matrix() -> None:
    """Widths of 2304 and 1536: nothing larger than the columns' copies of a layer; a matrix has 5 million numbers."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.GELU(),
        nn.Flatten(),
        nn.Linear(1152, 5),
    )
    x = torch.randn(1, 1, 12, 12)
    subject = Subject.from_model(model, example=x)
    widest = max(node.spec.size_per_sample for node in subject.graph if node.name in subject.graph.dependent)
    assert widest == 2304
    with Largest() as watched:
        propagate(subject, x, 0.01, method="factor", rank=16)
    assert watched.elements <= 18 * widest * 9  # an unfolded 3 x 3 convolution makes nine copies
    with Largest() as watched:
        propagate(subject, x, 0.01, method="gain")
    assert watched.elements >= widest**2


def test_samples_of_one_input_do_not_depend_on_the_batch_or_each_other() -> None:
    model, x = small(), numbers(2, 4)
    result = propagate(model, x, 0.3, method="mc", samples=3000, seed=5)
    again = propagate(model, x, 0.3, method="mc", samples=3000, seed=5)
    other = propagate(model, x, 0.3, method="mc", samples=3000, seed=6)
    assert torch.equal(result.mean, again.mean)
    assert not torch.equal(result.mean, other.mean)
    assert result.standard_error is not None
    close(result.standard_error, (result.variance / 3000).sqrt())


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
