"""Class probabilities under noise, and the noise decisions stand, against closed forms, quadrature and sampling."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from tests.support.inputs import numbers
from torch import Tensor, nn

from assay.errors import UsageError
from assay.grade import Grade
from assay.load import load_subject
from assay.moments import expected_probabilities, flip_probability, noise_level, propagate
from assay.moments.levels import Search
from assay.moments.probabilities import argmax_probabilities, expected_softmax, pairwise_probabilities
from assay.subject import Data, Subject


def classifier(*widths: int, seed: int = 0) -> Subject:
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return Subject.from_model(nn.Sequential(*layers[:-1]).double(), example=numbers(2, widths[0]))


def problem(seed: int, count: int = 10) -> tuple[Tensor, Tensor]:
    """Ten logits of spread 2 with a full covariance, deviations around 1."""
    root = numbers(1, count, count, seed=seed + 1000)
    return 2 * numbers(1, count, seed=seed), root @ root.mT / count


@pytest.fixture(scope="module")
def digits() -> Subject:
    return load_subject("demo")


class Branching(nn.Module):
    """Cannot be captured: what it does depends on its input."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.layer(row) if float(row.sum()) > 0 else self.layer(2 * row) for row in x])


class TestExpectedSoftmax:
    @pytest.mark.parametrize(("mean", "deviation"), [(0.0, 1.0), (2.0, 3.0), (-1.0, 0.2), (6.0, 4.0)])
    def test_two_logits_by_quadrature(self, mean: float, deviation: float) -> None:
        """E[sigmoid(d)] for one Gaussian difference d, by Gauss-Hermite nodes."""
        nodes, weights = np.polynomial.hermite_e.hermegauss(200)
        truth = float((weights / weights.sum() / (1 + np.exp(-(mean + deviation * nodes)))).sum())
        covariance = torch.tensor([[[deviation**2, 0.0], [0.0, 0.0]]]).double()
        share, error = expected_softmax(torch.tensor([[mean, 0.0]]).double(), covariance)
        assert abs(float(share[0, 0]) - truth) < 6 * float(error[0, 0]) + 1e-4
        assert error.max() < 0.002

    def test_against_sampling(self) -> None:
        """Ten problems of ten logits, 200,000 draws each (standard error at most 0.0012): six of both together."""
        for seed in range(10):
            mean, covariance = problem(seed)
            share, error = expected_softmax(mean, covariance)
            torch.manual_seed(seed)
            drawn = torch.distributions.MultivariateNormal(mean[0], covariance[0]).sample((200_000,)).softmax(1)
            own = drawn.std(0) / 200_000**0.5
            assert ((share[0] - drawn.mean(0)).abs() < 6 * (error[0].square() + own.square()).sqrt() + 1e-5).all()

    def test_256_points_err_by_about_a_quarter_percent(self) -> None:
        """The largest error of one scramble of 256 points, averaged over 20 problems of 10 classes."""
        worst, errors = [], []
        for seed in range(20):
            mean, covariance = problem(seed)
            truth, _ = expected_softmax(mean, covariance, points=16384, seed=500)
            coarse, error = expected_softmax(mean, covariance, scrambles=2, seed=10 + 2 * seed)
            worst.append(float((coarse - truth).abs().max()))
            errors.append(float(error.max()))
        assert 0.0002 < np.mean(worst) < 0.004
        assert max(worst) < 0.012
        assert 0.2 < np.mean(worst) / np.mean(errors) < 5

    def test_no_noise_is_the_softmax(self) -> None:
        mean, _ = problem(0)
        share, error = expected_softmax(mean, torch.zeros(1, 10, 10).double())
        torch.testing.assert_close(share, mean.softmax(1))
        assert error.abs().max() < 1e-15

    @pytest.mark.parametrize("singular", [False, True])
    def test_the_derivative_by_differences(self, singular: bool) -> None:
        mean, covariance = problem(3, 4)
        if singular:
            root = numbers(1, 4, 2, seed=9)
            covariance = root @ root.mT
        weights, direction = numbers(1, 4, seed=5), numbers(1, 4, 4, seed=6)
        direction = direction @ direction.mT  # positive, so that a singular covariance may grow along it

        def value(m: Tensor, c: Tensor) -> Tensor:
            return (expected_softmax(m, c, points=16384, scrambles=4)[0] * weights).sum()

        mean.requires_grad_()
        covariance.requires_grad_()
        by_mean, by_covariance = torch.autograd.grad(value(mean, covariance), (mean, covariance))
        with torch.no_grad():
            step = 1e-3
            along = numbers(1, 4, seed=7)
            found = (value(mean + step * along, covariance) - value(mean - step * along, covariance)) / (2 * step)
            assert float((by_mean * along).sum()) == pytest.approx(float(found), rel=1e-3, abs=1e-5)
            wide = 0.02
            one, two = (value(mean, covariance + k * wide * direction) - value(mean, covariance) for k in (1, 2))
            forward = float(4 * one - two) / (2 * wide)  # second order, from one side
            assert float((by_covariance * direction).sum()) == pytest.approx(forward, rel=0.03, abs=1e-3)

    def test_further_logits_take_their_share(self) -> None:
        """A noise-free logit given as `rest` equals the same logit given with zero covariance."""
        mean, covariance = problem(2, 3)
        rest = torch.tensor([0.7]).double()
        share, _ = expected_softmax(mean, covariance, rest=rest)
        drawn = torch.distributions.MultivariateNormal(mean[0], covariance[0])
        torch.manual_seed(0)
        logits = torch.cat([drawn.sample((400_000,)), torch.full((400_000, 1), 0.7).double()], 1)
        assert (share[0] - logits.softmax(1).mean(0)).abs().max() < 0.004
        assert share.shape == (1, 4)
        assert float(share.sum()) == pytest.approx(1)

    @pytest.mark.parametrize("settings", [{"points": 100}, {"points": 1}, {"scrambles": 1}])
    def test_refused(self, settings: dict[str, int]) -> None:
        with pytest.raises(UsageError):
            expected_softmax(*problem(0), **settings)  # type: ignore[arg-type]


class TestPairwise:
    def test_by_hand(self) -> None:
        mean = torch.tensor([[1.0, 0.0, -0.5]]).double()
        covariance = torch.tensor([[[1.0, 0.4, 0.0], [0.4, 0.5, 0.1], [0.0, 0.1, 2.0]]]).double()
        found = pairwise_probabilities(mean, covariance)[0]
        for i in range(3):
            for j in range(3):
                spread = float(covariance[0, i, i] + covariance[0, j, j] - 2 * covariance[0, i, j])
                gap = float(mean[0, i] - mean[0, j])
                truth = 0.5 if i == j else 0.5 * math.erfc(-gap / math.sqrt(2 * spread))
                assert float(found[i, j]) == pytest.approx(truth, abs=1e-12)

    def test_without_noise_it_is_certain(self) -> None:
        found = pairwise_probabilities(torch.tensor([[1.0, 0.0, 0.0]]), torch.ones(1, 3, 3))[0]
        assert found.tolist() == [[0.5, 1.0, 1.0], [0.0, 0.5, 0.5], [0.0, 0.5, 0.5]]

    def test_it_has_a_finite_gradient_without_noise(self) -> None:
        covariance = torch.zeros(1, 3, 3, requires_grad=True)
        mean = torch.tensor([[1.0, 0.0, 0.0]], requires_grad=True)
        pairwise_probabilities(mean, covariance).sum().backward()
        assert mean.grad is not None
        assert torch.isfinite(mean.grad).all()


class TestExpectedProbabilities:
    def test_a_linear_network(self) -> None:
        """Its logits are Gaussian: against 400,000 draws of the input (standard error at most 0.0008)."""
        torch.manual_seed(0)
        model, x = nn.Linear(5, 4).double(), numbers(2, 5)
        found = expected_probabilities(model, x, 0.8)
        noisy = x + 0.8**0.5 * numbers(400_000, 1, 5, seed=3)
        logits = model(noisy.reshape(-1, 5)).detach().reshape(400_000, 2, 4)
        assert (found.expected - logits.softmax(2).mean(0)).abs().max() < 0.006
        winners = torch.nn.functional.one_hot(logits.argmax(2), 4).double().mean(0)
        assert (found.argmax - winners).abs().max() < 0.006
        for i, j in ((0, 1), (2, 3)):
            share = (logits[:, :, i] > logits[:, :, j]).double().mean(0)
            assert (found.pairwise[:, i, j] - share).abs().max() < 0.005
        assert found.grade is Grade.EXACT
        torch.testing.assert_close(found.clean, model(x).softmax(1).detach())
        assert (found.unfollowed == 0).all()

    def test_digits(self, digits: Subject) -> None:
        """20 digits at noise 0.3, 1,000 draws each (standard error of the average below 0.002).

        The closure takes the logits as Gaussian, which at this noise makes the decision 0.017 too likely.
        """
        assert digits.data is not None
        x = digits.data.inputs[::25]
        found = expected_probabilities(digits, x, 0.09, method="factor", rank=64)
        generator = torch.Generator().manual_seed(0)
        sampled = torch.zeros(len(x), 10)
        for _ in range(1000):
            sampled += digits.probe(x + 0.3 * torch.randn(x.shape, generator=generator)).softmax(1) / 1000
        own = found.clean.argmax(1, keepdim=True)
        assert abs(float((found.expected - sampled).gather(1, own).mean())) < 0.025
        assert (found.expected - sampled).abs().max() < 0.08
        assert float(sampled.gather(1, own).mean()) < 0.9 < float(found.clean.gather(1, own).mean())
        torch.testing.assert_close(found.expected.sum(1), torch.ones(len(x)))

    def test_it_is_differentiable_through_the_network(self, digits: Subject) -> None:
        assert digits.data is not None
        x = digits.data.inputs[87:88].clone().requires_grad_()
        variance = torch.tensor(0.04, requires_grad=True)

        def value(at: Tensor, noise: Tensor) -> Tensor:
            return expected_probabilities(digits, at, noise, method="factor", rank=64, points=4096).expected[0, 8]

        by_x, by_noise = torch.autograd.grad(value(x, variance), (x, variance))
        with torch.no_grad():
            step = 0.004
            found = (value(x, variance + step) - value(x, variance - step)) / (2 * step)
            assert float(by_noise) == pytest.approx(float(found), rel=0.05)
            along = by_x / by_x.norm()
            found = (value(x + 0.01 * along, variance) - value(x - 0.01 * along, variance)) / 0.02
            assert float((by_x * along).sum()) == pytest.approx(float(found), rel=0.02)

    def test_many_outputs(self) -> None:
        """More than 64: the 16 largest are followed, the others keep their logits and their share."""
        subject, x = classifier(6, 30, 100), numbers(3, 6)
        found = expected_probabilities(subject, x, 0.05)
        assert ((found.expected > 0).sum(1) == 16).all()
        torch.testing.assert_close(found.expected.sum(1) + found.unfollowed, torch.ones(3).double())
        assert found.grade is Grade.LINEARISED
        assert found.pairwise.shape == (3, 16, 16)
        moments = propagate(subject, x, 0.05)
        truth, _ = expected_softmax(moments.mean, moments.covariance)
        followed = found.expected > 0
        assert (found.expected - truth)[followed].abs().max() < 0.002

    def test_a_model_that_cannot_be_captured(self) -> None:
        found = expected_probabilities(Branching().double(), numbers(3, 4), 0.1)
        assert found.grade is Grade.LINEARISED
        torch.testing.assert_close(found.expected.sum(1), torch.ones(3).double())


class TestNoiseLevel:
    def test_two_classes_have_a_formula(self) -> None:
        """P(flip) = Phi(-margin / (sigma |w|)): sigma = margin / (|w| quantile), and 1/2 is never reached."""
        torch.manual_seed(0)
        model, x = nn.Linear(5, 2).double(), numbers(6, 5)
        flip = (0.01, 0.05, 0.2, 0.5)
        found = noise_level(model, x, flip=flip, lowest=1e-5, highest=1000.0)
        outputs = model(x).detach()
        margin = (outputs[:, 0] - outputs[:, 1]).abs()
        norm = (model.weight[0] - model.weight[1]).detach().norm()
        for column, p in enumerate(flip[:3]):
            truth = margin / norm / -torch.special.ndtri(torch.tensor(p).double())
            # the tolerance of the search, and 4,096 points for a probability of 1 %: 1 % of sigma
            torch.testing.assert_close(found.sigma[:, column], truth, rtol=0.03, atol=0)
            assert (found.reached[:, column] - p).abs().max() < 0.05 * p + 0.001
        # a symmetric pair approaches 1/2 from below; rounding on 4,096 points may touch it far out
        assert (found.sigma[:, 3] > 20 * found.sigma[:, 2]).all()
        assert found.grade is Grade.EXACT
        assert found.propagations < 40

    def test_flips_as_often_as_asked_in_the_network(self, digits: Subject) -> None:
        """Sampled flip rate at the levels found, 500 draws for each of 25 inputs: standard error below 0.004.

        The closure leaves 0.014 at 5 % and 0.034 at 20 %, at noise of 0.29 and 0.38 of the range.
        """
        assert digits.data is not None
        x = digits.data.inputs[::20]
        found = noise_level(digits, x, flip=(0.05, 0.2))
        decided = digits.probe(x).argmax(1)
        generator = torch.Generator().manual_seed(0)
        for column, p in enumerate(found.flip):
            finite = torch.isfinite(found.sigma[:, column])
            assert finite.sum() >= 20
            sigma = found.sigma[finite, column].float().reshape(-1, 1, 1, 1)
            flips = 0.0
            for _ in range(500):
                noise = torch.randn(x[finite].shape, generator=generator)
                flips += float((digits.probe(x[finite] + sigma * noise).argmax(1) != decided[finite]).float().mean())
            assert flips / 500 == pytest.approx(p, abs=0.01 + 0.2 * p)

    def test_a_batch_equals_single_inputs(self, digits: Subject) -> None:
        assert digits.data is not None
        x = digits.data.inputs[:3]
        together = noise_level(digits, x, flip=(0.05,))
        for row in range(3):
            alone = noise_level(digits, x[row : row + 1], flip=(0.05,))
            torch.testing.assert_close(alone.sigma[0], together.sigma[row], rtol=1e-3, atol=0)

    def test_misclassified_inputs_stand_nothing(self) -> None:
        subject, x = classifier(6, 20, 4), numbers(5, 6)
        label = subject.probe(x).argmax(1)
        label[2] = (label[2] + 1) % 4
        found = noise_level(subject, x, label=label, highest=10.0)
        assert found.sigma[2].tolist() == [0, 0, 0]
        assert found.reached[2].tolist() == [1, 1, 1]
        others = torch.arange(5) != 2
        assert (found.sigma[others] > 0).all()
        own = noise_level(subject, x, highest=10.0)
        torch.testing.assert_close(found.sigma[others], own.sigma[others])

    def test_never(self) -> None:
        """A constant classifier does not flip."""
        model = nn.Linear(4, 3).double()
        nn.init.zeros_(model.weight)
        found = noise_level(model, numbers(2, 4))
        assert torch.isinf(found.sigma).all()
        assert (found.reached == 0).all()

    def test_above_at_the_lowest_level(self) -> None:
        model = nn.Identity()
        x = torch.tensor([[1e-9, 0.0], [0.5, 0.0]]).double()
        found = noise_level(model, x, flip=(0.1,), lowest=0.01, highest=2.0, method="exact")
        assert float(found.sigma[0, 0]) == pytest.approx(0.01)
        assert float(found.reached[0, 0]) == pytest.approx(0.5, abs=0.01)
        assert float(found.sigma[1, 0]) == pytest.approx(0.5 / 2**0.5 / 1.28155, rel=0.02)

    def test_units_follow_the_value_range(self) -> None:
        """The same network on data in 0 to 255 stands 255 times the noise."""
        from assay.preprocess import Preprocessing

        torch.manual_seed(0)
        model = nn.Linear(5, 3).double()
        x = torch.rand(3, 5, generator=torch.Generator().manual_seed(1)).double()
        plain = noise_level(model, x, flip=(0.1,))
        scaled = Subject.from_model(
            model, Data(255 * x), preprocessing=Preprocessing(bounds=(0.0, 255.0), scale=(0.0, 1.0))
        )
        found = noise_level(scaled, 255 * x, flip=(0.1,))
        torch.testing.assert_close(found.sigma, 255 * plain.sigma, rtol=1e-6, atol=0)

    def test_a_model_that_cannot_be_captured(self) -> None:
        found = noise_level(Branching().double(), numbers(3, 4), highest=50.0)
        assert found.grade is Grade.LINEARISED
        assert (found.sigma > 0).all()

    def test_many_outputs(self) -> None:
        subject, x = classifier(6, 30, 100), numbers(3, 6)
        found = noise_level(subject, x, flip=(0.2,), method="exact", highest=2.0)
        for row in range(3):
            again = flip_probability(subject, x[row : row + 1], float(found.sigma[row, 0]) ** 2)
            assert float(again) == pytest.approx(0.2, abs=0.01)

    @pytest.mark.parametrize(
        "settings",
        [{"flip": ()}, {"flip": (0.0,)}, {"flip": (1.0,)}, {"lowest": 2.0, "highest": 1.0}, {"tolerance": 0.0}],
    )
    def test_refused(self, settings: dict[str, object]) -> None:
        with pytest.raises(UsageError):
            noise_level(nn.Identity(), torch.tensor([[1.0, 0.0]]), **settings)  # type: ignore[arg-type]

    def test_labels_are_checked(self) -> None:
        with pytest.raises(UsageError) as caught:
            noise_level(nn.Identity(), torch.tensor([[1.0, 0.0]]), label=torch.tensor([2]))
        assert caught.value.where == "label"


class TestSearch:
    def test_finds_the_first_crossing(self) -> None:
        """A probability that rises, falls and rises again: the first rise counts, as far as the grid sees it."""

        def probability(rows: Tensor, sigma: Tensor) -> Tensor:
            t = sigma.log()
            return torch.where(t < -2, 0.6 * torch.sigmoid(8 * (t + 3)), torch.sigmoid(4 * t))

        search = Search(probability, 1, (0.3,), math.exp(-6), math.exp(2), 0.001, grid=17)
        sigma, reached = search.run(torch.zeros(1, dtype=torch.bool))
        assert float(sigma[0, 0]) == pytest.approx(math.exp(-3), rel=0.01)
        assert float(reached[0, 0]) == pytest.approx(0.3, abs=0.01)

    @pytest.mark.parametrize("steepness", [0.5, 3.0, 40.0])
    def test_many_at_once(self, steepness: float) -> None:
        centres = torch.linspace(-3, 0, 7, dtype=torch.float64)

        def probability(rows: Tensor, sigma: Tensor) -> Tensor:
            return torch.special.ndtr(steepness * (sigma.log() - centres[rows]))

        search = Search(probability, 7, (0.1, 0.5), math.exp(-8), math.exp(4), 0.001)
        sigma, _ = search.run(torch.zeros(7, dtype=torch.bool))
        for column, p in enumerate((0.1, 0.5)):
            truth = (centres + torch.special.ndtri(torch.tensor(p).double()) / steepness).exp()
            torch.testing.assert_close(sigma[:, column], truth, rtol=0.003, atol=0)
        assert search.evaluations <= 30


def test_the_larger_of_two_is_known_in_closed_form():
    from scipy.stats import norm

    mean = torch.tensor([[1.0, 0.0], [0.3, 0.9], [2.0, 2.0], [0.0, 1.0], [1.0, 1.0]], dtype=torch.float64)
    covariance = torch.tensor([[2.0, 0.7], [0.7, 0.5]], dtype=torch.float64).expand(5, 2, 2).clone()
    covariance[3:] = 1.0  # both move together: no noise in the difference
    shares, error = argmax_probabilities(mean, covariance)
    wanted = norm.cdf((mean[:3, 0] - mean[:3, 1]).numpy() / (2.0 + 0.5 - 1.4) ** 0.5)
    assert torch.allclose(shares[:3, 0], torch.from_numpy(wanted), rtol=1e-12)
    assert torch.equal(shares[3:], torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64))
    assert torch.allclose(shares.sum(1), torch.ones(5, dtype=torch.float64), rtol=1e-12)
    assert not error.any()
