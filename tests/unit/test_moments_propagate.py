"""Propagation: statements of noise, methods on networks of every kind, gradients, precision, memory, refusals."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tests.support.inputs import Function, close, numbers
from tests.support.watching import Largest
from torch import Tensor, nn

from assay.covariance import Dense, Diagonal, LowRankPlusDiagonal
from assay.errors import NumericalError, UsageError
from assay.grade import Grade
from assay.moments import propagate
from assay.moments.noise import as_covariance
from assay.subject import Subject

WALKING = ["exact", "gain", "factor", "diagonal"]


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
            (F.gelu, Grade.EXACT),
            (F.silu, Grade.CLOSED_FORM),  # variances by quadrature, pairs by a series
            (lambda x: torch.relu(x) + torch.relu(0.3 - x), Grade.CLOSED_FORM),  # two branches meet
            (lambda x: F.max_pool1d(x.unsqueeze(1), 2).flatten(1), Grade.EXACT),
            (lambda x: x.log_softmax(-1), Grade.LINEARISED),
            (lambda x: torch.relu(x).log_softmax(-1) + x, Grade.LINEARISED),
            (lambda x: x.softmax(-1), Grade.STATISTICAL),
        ],
    )
    def test_of_functions(self, function: Any, grade: Grade) -> None:
        assert propagate(Function(function), numbers(2, 4), 0.1, method="exact").grade is grade

    def test_of_a_reduced_rank(self) -> None:
        assert propagate(small(), numbers(2, 4), 0.1, method="factor", rank=3).grade is Grade.STATISTICAL

    def test_of_fallbacks(self) -> None:
        model = nn.Sequential(small(), nn.LogSoftmax(-1))
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
