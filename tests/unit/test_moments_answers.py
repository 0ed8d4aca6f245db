"""Flip probabilities, confusion and sensitivity maps against what they estimate."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from tests.support.inputs import numbers
from torch import Tensor, nn

from assay.covariance import Dense, Diagonal, LowRankPlusDiagonal
from assay.errors import UsageError
from assay.grade import Grade
from assay.load import load_subject
from assay.moments import confusion, flip_probability, propagate, sensitivity_map
from assay.moments.maps import patch_sums
from assay.moments.probabilities import argmax_probabilities, candidates
from assay.subject import Data, Subject


def classifier(*widths: int, seed: int = 0, example: Tensor | None = None) -> Subject:
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return Subject.from_model(
        nn.Sequential(*layers[:-1]).double(), example=numbers(2, widths[0]) if example is None else example
    )


class Branching(nn.Module):
    """Cannot be captured: what it does depends on its input."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.layer(row) if float(row.sum()) > 0 else self.layer(2 * row) for row in x])


class TestArgmaxProbabilities:
    @pytest.mark.parametrize("count", [2, 3])
    @pytest.mark.parametrize("seed", range(4))
    def test_against_orthants(self, count: int, seed: int) -> None:
        """P(i is the largest) is the probability that all differences x_j - x_i are negative."""
        from scipy.stats import multivariate_normal

        mean, root = numbers(count, seed=seed), numbers(count, count, seed=seed + 100)
        covariance = root @ root.T
        shares, error = argmax_probabilities(mean.unsqueeze(0), covariance.unsqueeze(0))
        for i in range(count):
            contrast = np.delete(np.eye(count), i, 0)
            contrast[:, i] = -1
            law = multivariate_normal(
                contrast @ mean.numpy(),
                contrast @ covariance.numpy() @ contrast.T,  # pyright: ignore[reportArgumentType]
                allow_singular=True,
            )
            expected = float(law.cdf(np.zeros(count - 1)))
            assert abs(float(shares[0, i]) - expected) < 6 * float(error[0, i]) + 1e-3
        assert float(shares.sum()) == pytest.approx(1)
        assert error.max() < 0.01

    def test_two_outputs_have_a_formula(self) -> None:
        mean, covariance = torch.tensor([[0.3, 0.0]]).double(), torch.tensor([[[1.0, 0.5], [0.5, 2.0]]]).double()
        shares, _ = argmax_probabilities(mean, covariance)
        expected = float(torch.special.erfc(torch.tensor(-0.3 / 2**0.5 / 2**0.5).double()) / 2)
        assert float(shares[0, 0]) == pytest.approx(expected, abs=2e-3)

    def test_certainty_and_singular_covariances(self) -> None:
        mean = torch.tensor([[1.0, 0.0, -1.0]]).double()
        for covariance in (torch.zeros(1, 3, 3).double(), torch.ones(1, 3, 3).double()):
            shares, error = argmax_probabilities(mean, covariance)
            assert shares.tolist() == [[1, 0, 0]]
            assert error.abs().max() == 0

    def test_repeats_and_batches(self) -> None:
        mean, root = numbers(3, 4), numbers(3, 4, 4, seed=1)
        together = argmax_probabilities(mean, root @ root.mT)[0]
        for row in range(3):
            assert torch.equal(
                together[row], argmax_probabilities(mean[row : row + 1], (root @ root.mT)[row : row + 1])[0][0]
            )


class TestFlipProbability:
    def test_against_sampling_in_the_space_of_outputs(self) -> None:
        """The same moments, 400,000 draws: the answer is the orthant probability, whatever the network."""
        subject, x = classifier(6, 20, 5), numbers(3, 6)
        decision = flip_probability(subject, x, 0.3)
        moments = propagate(subject, x, 0.3)
        for row in range(3):
            law = torch.distributions.MultivariateNormal(moments.mean[row], moments.covariance[row])
            torch.manual_seed(row)
            shares = torch.bincount(law.sample((400_000,)).argmax(1), minlength=5) / 400_000
            # six standard errors of a share are at most 0.005
            assert (decision.probabilities[row] - shares).abs().max() < 0.005 + 6 * float(decision.standard_error[row])
        assert torch.equal(decision.label, subject.probe(x).argmax(1))
        torch.testing.assert_close(
            decision.flip, 1 - decision.probabilities.gather(1, decision.label.unsqueeze(1))[:, 0]
        )
        torch.testing.assert_close(decision.probabilities.sum(1), torch.ones(3).double())
        assert decision.grade is moments.grade is Grade.EXACT

    def test_against_sampling_the_network(self) -> None:
        subject = load_subject("demo")
        assert subject.data is not None
        x = subject.data.inputs[::25]
        predicted = flip_probability(subject, x, 0.09, rank=32)
        generator = torch.Generator().manual_seed(0)
        flips = torch.zeros(len(x))
        for _ in range(400):
            noisy = x + 0.3 * torch.randn(x.shape, generator=generator)
            flips += subject.probe(noisy).argmax(1) != predicted.label
        # standard error of one share at most 0.025; of the mean over 20 inputs 0.006; the closure adds about 0.01
        assert 0.05 < float(flips.mean() / 400) < 0.9
        assert abs(float(predicted.flip.mean() - flips.mean() / 400)) < 0.03
        assert (predicted.flip - flips / 400).abs().max() < 0.15

    def test_a_label_can_be_asked_about(self) -> None:
        subject, x = classifier(6, 20, 5), numbers(3, 6)
        own = flip_probability(subject, x, 0.3)
        asked = flip_probability(subject, x, 0.3, label=torch.tensor([0, 1, 4]))
        assert torch.equal(asked.probabilities, own.probabilities)
        torch.testing.assert_close(asked.flip, 1 - own.probabilities[[0, 1, 2], [0, 1, 4]])
        every = flip_probability(subject, x, 0.3, label=torch.tensor(2))
        torch.testing.assert_close(every.flip, 1 - own.probabilities[:, 2])

    def test_no_noise_flips_nothing(self) -> None:
        decision = flip_probability(classifier(6, 20, 5), numbers(3, 6), 0.0)
        assert decision.flip.tolist() == [0, 0, 0]

    def test_as_a_number(self) -> None:
        subject = classifier(6, 20, 5)
        decision = flip_probability(subject, numbers(1, 6), 0.3)
        assert float(decision) == float(decision.flip[0])
        with pytest.raises(TypeError, match="single input"):
            float(flip_probability(subject, numbers(2, 6), 0.3))

    def test_many_outputs(self) -> None:
        """More than 64 outputs: the 16 largest are followed, the label always among them."""
        subject, x = classifier(6, 30, 100), numbers(3, 6)
        clean = subject.probe(x)
        label = clean.argmin(1)
        decision = flip_probability(subject, x, 0.05, label=label)
        assert decision.probabilities.shape == (3, 100)
        assert decision.moments.outputs is not None
        assert decision.moments.outputs.shape == (3, 16)
        assert (decision.moments.outputs[:, 0] == label).all()
        assert set(decision.moments.outputs[0, 1:].tolist()) == set(clean[0].topk(15).indices.tolist())
        assert ((decision.probabilities > 0).sum(1) <= 16).all()
        own = flip_probability(subject, x, 0.05)
        full = propagate(subject, x, 0.05)
        shares, _ = argmax_probabilities(full.mean, full.covariance)
        assert (own.probabilities - shares).abs().max() < 0.02

    def test_up_to_64_outputs_all_are_followed(self) -> None:
        decision = flip_probability(classifier(6, 30, 64), numbers(2, 6), 0.05)
        assert decision.moments.outputs is None

    def test_a_model_that_cannot_be_captured(self) -> None:
        decision = flip_probability(Branching().double(), numbers(3, 4), 0.1)
        assert decision.grade is Grade.LINEARISED
        assert decision.moments.method == "linearize"
        assert ((decision.flip >= 0) & (decision.flip <= 1)).all()

    @pytest.mark.parametrize(
        "label", [torch.tensor([5, 0]), torch.tensor([-1, 0]), torch.tensor([0, 1, 2]), torch.tensor([0.0, 1.0])]
    )
    def test_labels_are_checked(self, label: Tensor) -> None:
        with pytest.raises(UsageError) as caught:
            flip_probability(classifier(6, 5), numbers(2, 6), 0.1, label=label)
        assert caught.value.where == "label"

    def test_a_label_outside_the_outputs_asked_for_has_no_answer(self) -> None:
        subject, x = classifier(6, 5), numbers(2, 6)
        with pytest.raises(UsageError, match="not among the outputs"):
            flip_probability(subject, x, 0.1, label=torch.tensor([0, 1]), outputs=torch.tensor([0, 2]))

    def test_candidates(self) -> None:
        clean = torch.tensor([[0.1, 0.9, 0.5, 0.3]])
        assert candidates(clean, torch.tensor([0]), 3).tolist() == [[0, 1, 2]]
        assert candidates(clean, torch.tensor([1])).tolist() == [[1, 2, 3, 0]]


class TestConfusion:
    def test_rows_average_over_their_inputs(self) -> None:
        subject, x = classifier(6, 20, 4), numbers(7, 6)
        labels = torch.tensor([0, 0, 2, 2, 2, 3, 0])
        found = confusion(subject, x, labels, 0.2)
        shares = flip_probability(subject, x, 0.2).probabilities
        assert found.matrix.shape == (4, 4)
        torch.testing.assert_close(found.matrix[2], shares[2:5].mean(0))
        torch.testing.assert_close(found.matrix[3], shares[5])
        assert (found.matrix[1] == 0).all()
        assert (found.matrix.sum(1) <= 1 + 1e-12).all()
        torch.testing.assert_close(found.matrix[[0, 2, 3]].sum(1), torch.ones(3).double())
        assert found.counts.tolist() == [3, 0, 3, 1]
        assert found.grade is Grade.EXACT

    def test_the_standard_error_is_that_of_a_mean(self) -> None:
        subject, x = classifier(6, 20, 4), numbers(7, 6)
        labels = torch.tensor([0, 0, 2, 2, 2, 3, 0])
        found = confusion(subject, x, labels, 0.2)
        shares = flip_probability(subject, x, 0.2).probabilities
        torch.testing.assert_close(found.standard_error[2], shares[2:5].std(0) / 3**0.5)
        assert torch.isnan(found.standard_error[3]).all()
        assert (found.standard_error[1] == 0).all()

    def test_pairs(self) -> None:
        """P(logit_j > logit_i) on its own, by the formula, averaged over the row's inputs."""
        subject, x = classifier(6, 20, 4), numbers(7, 6)
        labels = torch.tensor([0, 0, 2, 2, 2, 3, 0])
        found = confusion(subject, x, labels, 0.2)
        moments = propagate(subject, x, 0.2)
        for j in (0, 1, 3):
            gap = moments.mean[2:5, j] - moments.mean[2:5, 2]
            covariance = moments.covariance[2:5]
            spread = covariance[:, j, j] + covariance[:, 2, 2] - 2 * covariance[:, j, 2]
            expected = torch.special.erfc(-gap / (2 * spread).sqrt()).mean() / 2
            assert float(found.pairwise[2, j]) == pytest.approx(float(expected))
        assert float(found.pairwise[2, 2]) == 0.5

    @pytest.mark.parametrize("noise", ["number", "variances", "matrix"])
    def test_chunks_change_nothing(self, noise: str) -> None:
        subject, x = classifier(6, 20, 4), numbers(7, 6)
        labels = torch.arange(7) % 4
        roots = numbers(7, 6, 6, seed=4)
        cov: Any = {
            "number": 0.2,
            "variances": numbers(7, 6, seed=3).square(),
            "matrix": roots @ roots.mT / 30,
        }[noise]
        whole = confusion(subject, x, labels, cov, chunk=7)
        pieces = confusion(subject, x, labels, cov, chunk=2)
        for name in ("matrix", "standard_error", "pairwise"):
            torch.testing.assert_close(getattr(whole, name), getattr(pieces, name), equal_nan=True)
        torch.testing.assert_close(whole.matrix, confusion(subject, x, labels, cov).matrix)

    def test_a_whole_data_set_against_sampling(self) -> None:
        """All 500 digits at noise 0.2, 40 draws each: standard error of a cell of 50 inputs at most 0.011."""
        subject = load_subject("demo")
        assert subject.data is not None
        assert subject.data.targets is not None
        x, labels = subject.data.inputs, subject.data.targets
        found = confusion(subject, x, labels, 0.04, method="factor", rank=64)
        generator = torch.Generator().manual_seed(0)
        sampled = torch.zeros(10, 10)
        member = torch.nn.functional.one_hot(labels, 10).float()
        for _ in range(40):
            decided = subject.probe(x + 0.2 * torch.randn(x.shape, generator=generator)).argmax(1)
            sampled += member.T @ torch.nn.functional.one_hot(decided, 10).float() / 40
        sampled /= member.sum(0).unsqueeze(1)
        assert int(found.counts.sum()) == 500
        assert (found.matrix - sampled).abs().max() < 0.03
        assert (found.matrix.diagonal() - sampled.diagonal()).abs().mean() < 0.01

    def test_many_outputs(self) -> None:
        subject, x = classifier(6, 30, 100), numbers(4, 6)
        labels = subject.probe(x).argmin(1)
        found = confusion(subject, x, labels, 0.05)
        assert found.matrix.shape == (100, 100)
        assert int((found.counts > 0).sum()) <= 4
        torch.testing.assert_close(
            found.matrix.sum(1)[found.counts > 0], torch.ones(int((found.counts > 0).sum())).double()
        )
        assert (found.pairwise[labels, labels] == 0.5).all()

    def test_no_noise_is_the_ordinary_confusion_matrix(self) -> None:
        subject, x = classifier(6, 20, 4), numbers(9, 6)
        labels = torch.arange(9) % 4
        expected = torch.zeros(4, 4).double()
        for label, found in zip(labels, subject.probe(x).argmax(1), strict=True):
            expected[label, found] += 1
        expected /= expected.sum(1, keepdim=True)
        torch.testing.assert_close(confusion(subject, x, labels, 0.0).matrix, expected)

    def test_labels_are_checked(self) -> None:
        with pytest.raises(UsageError) as caught:
            confusion(classifier(6, 4), numbers(2, 6), torch.tensor([0, 4]), 0.1)
        assert caught.value.where == "labels"


class TestSensitivityMap:
    def linear(self) -> tuple[nn.Linear, Tensor, Tensor]:
        torch.manual_seed(0)
        return nn.Linear(5, 3).double(), numbers(2, 5), numbers(2, 5, seed=1).square() + 0.1

    @pytest.mark.parametrize("target", [1, torch.tensor([0, 2])], ids=["one", "each"])
    def test_a_linear_network_by_hand(self, target: Any) -> None:
        model, x, variance = self.linear()
        found = sensitivity_map(model, x, variance, target=target)
        rows = model.weight.detach()[torch.as_tensor(target).expand(2)]
        total = (rows.square() * variance).sum(1)
        torch.testing.assert_close(found.variance, total)
        torch.testing.assert_close(found.jacobian, rows)
        torch.testing.assert_close(found.variance_share, rows.square() * variance / total.unsqueeze(1))
        torch.testing.assert_close(found.explained, torch.ones(2).double())
        assert found.grade is Grade.EXACT

    def test_the_difference_of_two_outputs(self) -> None:
        model, x, variance = self.linear()
        found = sensitivity_map(model, x, variance, target=0, versus=torch.tensor([1, 2]))
        rows = model.weight.detach()[0] - model.weight.detach()[[1, 2]]
        torch.testing.assert_close(found.jacobian, rows)
        torch.testing.assert_close(found.variance, (rows.square() * variance).sum(1))

    def test_the_decision_is_the_default(self) -> None:
        model, x, variance = self.linear()
        chosen = model(x).argmax(1)
        torch.testing.assert_close(sensitivity_map(model, x, variance).jacobian, model.weight.detach()[chosen])

    def test_shares_are_what_switching_an_element_off_takes_away(self) -> None:
        model, x, variance = self.linear()
        whole = propagate(model, x, variance, outputs=torch.tensor([1])).variance[:, 0]
        found = sensitivity_map(model, x, variance, target=1)
        for element in range(5):
            less = variance.clone()
            less[:, element] = 0
            lost = 1 - propagate(model, x, less, outputs=torch.tensor([1])).variance[:, 0] / whole
            torch.testing.assert_close(found.variance_share[:, element], lost)

    def test_the_expected_jacobian_of_a_block_is_exact(self) -> None:
        """B diag(Phi) A, by Stein's lemma, and what it leaves unexplained is the non-linearity's."""
        subject, x = classifier(6, 20, 3), numbers(2, 6)
        first, last = subject.model[0], subject.model[2]  # type: ignore[index]
        mean, std = first(x), 0.5 * first.weight.norm(dim=1)
        active = torch.special.erfc(-mean / std / 2**0.5) / 2
        expected = (last.weight[1] * active) @ first.weight
        found = sensitivity_map(subject, x, 0.25, target=1, rank=6)
        torch.testing.assert_close(found.jacobian, expected)
        assert (found.explained < 1).all()
        assert (found.explained > 0.3).all()
        torch.testing.assert_close(found.explained, found.variance_share.sum(1))

    def test_no_noise(self) -> None:
        model, x, _ = self.linear()
        found = sensitivity_map(model, x, 0.0, target=0)
        assert (found.variance_share == 0).all()
        torch.testing.assert_close(found.jacobian, model.weight.detach()[[0, 0]])

    def test_a_model_that_cannot_be_captured(self) -> None:
        model, x = Branching().double(), numbers(3, 4)
        found = sensitivity_map(model, x, 0.1, target=0)
        assert found.grade is Grade.LINEARISED
        sign = torch.where(x.sum(1) > 0, 1.0, 2.0).double()
        torch.testing.assert_close(found.jacobian, sign.unsqueeze(1) * model.layer.weight.detach()[0])
        torch.testing.assert_close(found.explained, torch.ones(3).double())

    @pytest.mark.parametrize(
        "noise",
        [
            Dense(torch.eye(5).unsqueeze(0), (5,)),
            torch.eye(5),
            LowRankPlusDiagonal(torch.ones(1, 1, 5), torch.ones(1, 5)),
        ],
    )
    def test_correlated_noise_has_no_shares(self, noise: Any) -> None:
        model, x, _ = self.linear()
        with pytest.raises(UsageError, match="independent noise"):
            sensitivity_map(model, x, noise)
        sensitivity_map(model, x, Diagonal(torch.ones(1, 5)))

    @pytest.mark.parametrize(("name", "value"), [("target", 3), ("versus", -1), ("target", torch.tensor([0, 1, 2]))])
    def test_indices_are_checked(self, name: str, value: Any) -> None:
        model, x, _ = self.linear()
        with pytest.raises(UsageError) as caught:
            sensitivity_map(model, x, 0.1, **{name: value})
        assert caught.value.where == name


class TestMeanShift:
    def test_a_linear_network_does_not_shift(self) -> None:
        torch.manual_seed(0)
        found = sensitivity_map(nn.Linear(5, 3).double(), numbers(2, 5), 0.3)
        assert found.mean_shift is not None
        assert (found.mean_shift == 0).all()

    def test_a_square_by_hand(self) -> None:
        """E[(w x)^2] has the derivative w^2 with respect to the variance of x, at any noise, and at none."""

        class Square(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.layer = nn.Linear(4, 2).double()

            def forward(self, x: Tensor) -> Tensor:
                y = self.layer(x)
                return y * y

        torch.manual_seed(0)
        model = Square()
        x = numbers(3, 4)
        weight = model.layer.weight.detach()
        for noise in (0.0, 0.5):
            found = sensitivity_map(model, x, noise, target=1, versus=0)
            assert found.mean_shift is not None
            assert found.class_mean_shift is not None
            torch.testing.assert_close(found.class_mean_shift, weight[1].square().expand(3, 4))
            torch.testing.assert_close(found.mean_shift, (weight[1].square() - weight[0].square()).expand(3, 4))

    def test_by_finite_differences_on_digits(self) -> None:
        """Central differences of the propagated mean, pixel by pixel, float64: 64 columns leave nothing to chance."""
        subject = load_subject("demo")
        assert subject.data is not None
        precise = Subject.from_model(
            copy.deepcopy(subject.model).double(),
            Data(subject.data.inputs.double()),
            preprocessing=subject.preprocessing,
        )
        x = subject.data.inputs[87:88].double()
        rival = subject.probe(x.float()).topk(2).indices[:, 1]
        found = sensitivity_map(precise, x, 0.01, versus=rival, rank=64)
        assert found.mean_shift is not None
        assert found.class_mean_shift is not None
        own = int(subject.probe(x.float()).argmax(1))
        for row, column in ((2, 3), (4, 4), (6, 2), (0, 0)):
            values = []
            for sign in (1, -1):
                variance = torch.full_like(x, 0.01)
                variance[0, 0, row, column] += sign * 1e-5
                values.append(propagate(precise, x, variance, method="factor", rank=64).mean[0])
            slope = (values[0] - values[1]) / 2e-5
            assert float(found.class_mean_shift[0, 0, row, column]) == pytest.approx(
                float(slope[own]), rel=1e-3, abs=1e-4
            )
            difference = float(slope[own] - slope[int(rival)])
            assert float(found.mean_shift[0, 0, row, column]) == pytest.approx(difference, rel=1e-3, abs=1e-4)

    def test_few_columns_estimate_it(self) -> None:
        subject = load_subject("demo")
        assert subject.data is not None
        x = subject.data.inputs[:4]
        full = sensitivity_map(subject, x, 0.01, rank=64)
        rough = sensitivity_map(subject, x, 0.01, rank=32, sketches=4)
        assert full.mean_shift is not None
        assert rough.mean_shift is not None
        assert full.grade is Grade.CLOSED_FORM
        assert rough.grade is Grade.STATISTICAL
        error = (rough.mean_shift - full.mean_shift).square().mean().sqrt() / full.mean_shift.square().mean().sqrt()
        assert 0 < error < 0.3

    def test_it_can_be_left_out(self) -> None:
        torch.manual_seed(0)
        found = sensitivity_map(nn.Linear(5, 3).double(), numbers(2, 5), 0.3, mean_shift=False)
        assert found.mean_shift is None
        assert found.class_mean_shift is None

    def test_linearised_means_do_not_move(self) -> None:
        assert sensitivity_map(Branching().double(), numbers(3, 4), 0.1).mean_shift is None


class TestPatches:
    def test_sums(self) -> None:
        values = numbers(2, 3, 5, 7)
        found = patch_sums(values, (2, 3))
        assert found.shape == (2, 3, 3, 3)
        torch.testing.assert_close(found[:, :, 0, 1], values[:, :, :2, 3:6].sum((2, 3)))
        torch.testing.assert_close(found[:, :, 2, 2], values[:, :, 4:, 6:].sum((2, 3)))
        torch.testing.assert_close(found.sum(), values.sum())

    def test_maps_of_patches(self) -> None:
        subject = load_subject("demo")
        assert subject.data is not None
        x = subject.data.inputs[:2]
        fine = sensitivity_map(subject, x, 0.01, rank=64)
        coarse = sensitivity_map(subject, x, 0.01, rank=64, patch=(4, 2))
        assert coarse.variance_share.shape == (2, 1, 2, 4)
        assert fine.mean_shift is not None
        assert coarse.mean_shift is not None
        torch.testing.assert_close(coarse.variance_share[0, 0, 1, 2], fine.variance_share[0, 0, 4:, 4:6].sum())
        torch.testing.assert_close(coarse.mean_shift[0, 0, 0, 3], fine.mean_shift[0, 0, :4, 6:].sum())
        torch.testing.assert_close(coarse.explained, fine.explained)
        assert coarse.jacobian.shape == x.shape

    def test_the_shift_of_a_patch_is_that_of_noise_on_the_patch(self) -> None:
        subject = load_subject("demo")
        assert subject.data is not None
        x = subject.data.inputs[:1]
        coarse = sensitivity_map(subject, x, 0.01, rank=64, patch=(4, 4))
        assert coarse.mean_shift is not None
        own = int(subject.probe(x).argmax(1))
        means = []
        for sign in (1, -1):
            variance = torch.full_like(x, 0.01)
            variance[:, :, :4, 4:] += sign * 1e-3
            means.append(float(propagate(subject, x, variance, method="factor", rank=64).mean[0, own]))
        assert float(coarse.mean_shift[0, 0, 0, 1]) == pytest.approx((means[0] - means[1]) / 2e-3, rel=0.02)

    @pytest.mark.parametrize("patch", [(2, 2), (0, 2)])
    def test_refused(self, patch: tuple[int, int]) -> None:
        x = numbers(2, 5) if patch == (2, 2) else numbers(2, 1, 4, 4)
        model = nn.Sequential(nn.Flatten(), nn.Linear(x[0].numel(), 3)).double()
        with pytest.raises(UsageError) as caught:
            sensitivity_map(model, x, 0.1, patch=patch)
        assert caught.value.where == "patch"
