"""Sampling with a control variate: unbiased, honest about its error, and far less noisy than plain sampling."""

from __future__ import annotations

import math

import pytest
import torch
from tests.support.inputs import numbers
from tests.support.networks import digits, mean_error, random_network, trained_mlp, variance_ratio
from torch import Tensor, nn

from assay.covariance import Dense, Diagonal, LowRankPlusDiagonal, project, to_dense
from assay.errors import UsageError
from assay.grade import Grade
from assay.load import load_subject
from assay.moments import propagate
from assay.moments.guided import guided, sobol_normal
from assay.moments.methods.control_variate import replicates_of


class TestGuidedDraws:
    @pytest.mark.parametrize("form", ["diagonal", "low rank", "dense"])
    def test_functionals_are_white_and_draws_have_the_covariance(self, form: str) -> None:
        if form == "diagonal":
            covariance = Diagonal(0.5 + numbers(1, 6).square())
        elif form == "low rank":
            covariance = LowRankPlusDiagonal(numbers(2, 1, 6), 0.2 + numbers(1, 6, seed=1).square())
        else:
            root = numbers(1, 6, 6)
            covariance = Dense(root @ root.mT, (6,))
        plan = guided(covariance, numbers(2, 1, 6, seed=2))
        count = len(plan.functionals)
        gram = project(covariance, plan.functionals, plan.functionals)[0]
        assert count == 6
        assert plan.complete
        assert torch.allclose(gram, torch.eye(6, dtype=torch.float64), atol=1e-9)
        columns = plan.columns.flatten(1)
        assert torch.allclose(columns.T @ columns, to_dense(covariance).matrix[0], atol=1e-9)

    def test_large_inputs_keep_their_covariance_around_the_guided_directions(self) -> None:
        variance = 0.5 + torch.rand(1, 300, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        plan = guided(Diagonal(variance), numbers(3, 1, 300))
        assert (len(plan.functionals), plan.complete) == (3, False)
        draws = plan.draw(sobol_normal(1 << 15, 3, 0), torch.Generator().manual_seed(1))
        assert (draws.var(0) / variance[0] - 1).abs().max() < 6 * math.sqrt(2 / (1 << 15))  # 2e-9 per element
        found = draws @ plan.functionals.flatten(1).T
        assert torch.allclose(found, sobol_normal(1 << 15, 3, 0), atol=1e-9)

    def test_repeated_guides_count_once(self) -> None:
        row = numbers(1, 1, 200)
        assert (
            len(guided(Diagonal(torch.ones(1, 200, dtype=torch.float64)), torch.cat([row, 2 * row])).functionals) == 1
        )

    def test_sobol_points_are_standard_normal(self) -> None:
        points = sobol_normal(4096, 5, 3)
        assert points.mean(0).abs().max() < 1e-3
        assert (points.var(0) - 1).abs().max() < 5e-3
        assert bool(torch.isfinite(points).all())

    @pytest.mark.parametrize(
        ("samples", "expected"), [(2, (2, 1)), (16, (8, 2)), (100, (12, 8)), (1000, (15, 64)), (4096, (8, 512))]
    )
    def test_replicates_spend_no_more_than_asked(self, samples: int, expected: tuple[int, int]) -> None:
        assert replicates_of(samples) == expected
        assert expected[0] * expected[1] <= samples


class TestEstimates:
    def test_a_linear_network_is_known_exactly(self) -> None:
        layer = nn.Linear(5, 3, dtype=torch.float64)
        x = numbers(1, 5)
        found = propagate(layer, x, 0.3, method="mc_cv", samples=128)
        assert torch.allclose(found.mean, layer(x), atol=1e-10)
        assert torch.allclose(found.covariance[0], 0.3 * layer.weight @ layer.weight.T, atol=1e-9)
        assert found.standard_error is not None
        assert found.standard_error.max() < 1e-10
        assert found.grade == Grade.SAMPLED

    def test_unbiased_with_honest_standard_errors(self) -> None:
        # one hidden layer: `exact` is the truth
        network, mean, covariance = random_network(3, [5, 20, 4], 0.5)
        truth = propagate(network, mean, covariance, method="exact")
        scores = []
        for seed in range(60):
            found = propagate(network, mean, covariance, method="mc_cv", samples=256, seed=seed)
            assert found.standard_error is not None
            scores.append(((found.mean - truth.mean) / found.standard_error)[0])
        stacked = torch.stack(scores)
        # t with about 7 degrees of freedom: deviation 1.18; the mean of 60 has deviation 0.15
        assert 0.8 < float(stacked.std()) < 1.6
        assert stacked.mean(0).abs().max() < 0.9

    def test_covariance_is_unbiased(self) -> None:
        network, mean, covariance = random_network(3, [5, 20, 4], 0.5)
        truth = propagate(network, mean, covariance, method="exact").covariance
        every = [
            propagate(network, mean, covariance, method="mc_cv", samples=256, seed=s).covariance for s in range(60)
        ]
        stacked = torch.stack(every)
        error = stacked.std(0) / 60**0.5
        assert ((stacked.mean(0) - truth).abs() < 5 * error + 1e-4).all()

    def test_less_noise_than_plain_sampling_on_a_trained_network(self) -> None:
        network, x = trained_mlp(6, 128), digits()[0][1500:1504]
        reference = propagate(network, x, 0.25**2, method="mc_cv", samples=1 << 16, seed=99)
        plain = propagate(network, x, 0.25**2, method="mc", samples=4096, seed=1)
        found = propagate(network, x, 0.25**2, method="mc_cv", samples=4096, seed=1)
        assert mean_error(found, reference) < 0.01
        assert mean_error(found, reference) < 0.4 * mean_error(plain, reference)
        assert abs(variance_ratio(found, reference) - 1) < 0.03

    def test_where_closure_fails(self) -> None:
        # means and covariance by quasi-Monte Carlo with 2 million points, standard error 1.7e-5
        network, mean, covariance = random_network(2, [6, *[16] * 6, 2], 0.25)
        found = propagate(network, mean, covariance, method="mc_cv", samples=4096)
        truth, spread = torch.tensor([-0.873902, -0.422362]), torch.tensor([0.101792, 0.060793])
        assert ((found.mean[0] - truth).abs() / spread.sqrt()).max() < 0.02
        assert (found.variance[0] / spread - 1).abs().max() < 0.05
        assert float(found.covariance[0, 0, 1]) == pytest.approx(0.065569, rel=0.05)

    def test_pictures(self) -> None:
        subject = load_subject("demo")
        assert subject.data is not None
        x = subject.data.inputs[:2]
        reference = propagate(subject, x, 0.01, method="mc", samples=60_000, seed=5)
        found = propagate(subject, x, 0.01, method="mc_cv", samples=2048)
        assert found.standard_error is not None
        assert reference.standard_error is not None
        total = (found.standard_error.square() + reference.standard_error.square()).sqrt()
        assert ((found.mean - reference.mean).abs() < 6 * total).all()


class TestContract:
    def test_batch_equals_loop_and_seeds_repeat(self) -> None:
        network, mean, covariance = random_network(5, [4, 10, 3], 0.3)
        x = torch.cat([mean, mean + 0.5])
        together = propagate(network, x, covariance, method="mc_cv", samples=200, seed=4)
        alone = propagate(network, x[1:], covariance, method="mc_cv", samples=200, seed=4)
        other = propagate(network, x[1:], covariance, method="mc_cv", samples=200, seed=5)
        assert torch.allclose(together.mean[1:], alone.mean, atol=1e-12)
        assert torch.allclose(together.covariance[1:], alone.covariance, atol=1e-12)
        assert not torch.allclose(alone.mean, other.mean, atol=1e-9)

    def test_wanted_outputs_and_many_outputs(self) -> None:
        network, mean, covariance = random_network(5, [4, 10, 50], 0.3)
        every = propagate(network, mean, covariance, method="mc_cv", samples=512)
        some = propagate(network, mean, covariance, method="mc_cv", samples=512, outputs=torch.tensor([7, 3]))
        assert every.mean.shape == (1, 50)
        assert some.mean.shape == (1, 2)
        assert every.standard_error is not None
        assert ((every.mean[:, [7, 3]] - some.mean).abs() < 8 * every.standard_error[:, [7, 3]] + 1e-6).all()

    def test_without_a_graph_the_plain_jacobian_serves(self) -> None:
        class Branching(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return torch.relu(x) if float(x.sum()) > -1e9 else x

        x = numbers(1, 3)
        found = propagate(Branching(), x, 0.5, method="mc_cv", samples=2048)
        closed = propagate(nn.ReLU(), x, 0.5, method="exact")
        assert "plain Jacobian" in found.warnings[0]
        assert found.standard_error is not None
        assert ((found.mean - closed.mean).abs() < 8 * found.standard_error).all()

    def test_linear_features_alone(self) -> None:
        network, mean, covariance = random_network(5, [4, 10, 3], 0.3)
        truth = propagate(network, mean, covariance, method="exact")
        plain = propagate(network, mean, covariance, method="mc_cv", samples=4096, quadratic=False)
        assert mean_error(plain, truth) < 0.01

    def test_no_noise(self) -> None:
        network, mean, covariance = random_network(5, [4, 10, 3], 0.3)
        found = propagate(network, mean, 0 * covariance, method="mc_cv", samples=64)
        assert torch.allclose(found.mean, network(mean), atol=1e-12)
        assert float(found.covariance.abs().max()) < 1e-20


class TestCheck:
    def test_attaches_an_unbiased_mean_and_warns_where_closure_fails(self) -> None:
        network, mean, covariance = random_network(2, [6, *[16] * 6, 2], 0.25)
        found = propagate(network, mean, covariance, method="exact", check=4096)
        assert found.check is not None
        truth, spread = torch.tensor([-0.873902, -0.422362]), torch.tensor([0.101792, 0.060793]).sqrt()
        assert ((found.check.mean[0] - truth).abs() / spread).max() < 0.02
        assert any("sampled" in warning for warning in found.warnings)
        plain = propagate(network, mean, covariance, method="exact")
        assert torch.equal(found.mean, plain.mean)
        assert plain.check is None

    def test_combination_keeps_a_good_analytic_mean(self) -> None:
        network, mean, covariance = random_network(3, [5, 20, 12], 0.5)
        found = propagate(network, mean, covariance, method="exact", check=64)  # exact is the truth
        assert found.check is not None
        combined = (found.check.combined - found.mean).square().mean()
        sampled = (found.check.mean - found.mean).square().mean()
        assert combined < 0.3 * sampled
        assert not found.warnings

    def test_combination_follows_the_draws_where_closure_is_far_off(self) -> None:
        network, x = trained_mlp(6, 128), digits()[0][1500:1502]
        found = propagate(network, x, 0.5**2, method="linearize", check=2048)
        assert found.check is not None
        assert found.check.weight.min() > 0.9
        gap = (found.check.combined - found.check.mean).abs() / found.check.standard_error
        assert gap.max() < 1.0

    @pytest.mark.parametrize(("method", "check"), [("mc", 64), ("mc_cv", 64), ("exact", 3), ("exact", -1)])
    def test_nonsense_is_refused(self, method: str, check: int) -> None:
        with pytest.raises(UsageError, match="check"):
            propagate(nn.Linear(2, 2), torch.zeros(1, 2), 1.0, method=method, check=check)
