"""Gaussian attacks: closed forms on linear networks, and the digits network measured by sampling."""

from __future__ import annotations

import math

import pytest
import torch
from tests.support.inputs import numbers
from torch import Tensor, nn

from assay.errors import UsageError
from assay.grade import Grade
from assay.load import load_subject
from assay.moments import GaussianAttack, attack, propagate
from assay.preprocess import Preprocessing
from assay.subject import Data, Subject


def linear(classes: int = 2) -> tuple[nn.Linear, Tensor]:
    torch.manual_seed(0)
    return nn.Linear(5, classes).double(), numbers(4, 5)


class Branching(nn.Module):
    """Cannot be captured: what it does depends on its input."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.layer(row) if float(row.detach().sum()) > 0 else self.layer(2 * row) for row in x])


@pytest.fixture(scope="module")
def digits() -> Subject:
    return load_subject("demo")


@pytest.fixture(scope="module")
def pictures(digits: Subject) -> Tensor:
    assert digits.data is not None
    return digits.data.inputs[::25]


@pytest.fixture(scope="module")
def found(digits: Subject, pictures: Tensor) -> GaussianAttack:
    return attack(digits, pictures, mean_bound=0.2, std_bound=0.2, steps=40)


class TestLinear:
    def test_the_mean_goes_to_the_corner(self) -> None:
        """Two classes: every element moves by the whole bound, against the sign of its weight difference."""
        model, x = linear()
        result = attack(model, x, mean_bound=0.3, std_bound=0.0)
        weight = model.weight.detach()
        away = weight[1 - result.label] - weight[result.label]
        torch.testing.assert_close(result.mean, 0.3 * away.sign(), rtol=0.02, atol=0)
        outputs = model(x).detach()
        margin = outputs.max(1).values - outputs.min(1).values
        torch.testing.assert_close(result.margin, margin - 0.3 * away.abs().sum(1), rtol=0.02, atol=1e-6)
        assert result.grade is Grade.EXACT
        assert torch.equal(result.fooled.bool(), result.margin < 0)
        assert result.rates[0].trials == 4
        assert (result.std == 0).all()

    def test_a_target(self) -> None:
        model, x = linear(3)
        x = x[:1]
        target = int(model(x).argmin())
        result = attack(model, x, target=target, mean_bound=3.0, std_bound=0.1)
        assert float(result.margin) < 0
        assert (model(x + result.mean).argmax(1) == target).all()
        assert result.rate("attack").rate > 0.9
        assert result.target is not None
        assert result.target.tolist() == [target]

    def test_inputs_that_have_the_target_count_in_no_rate(self) -> None:
        model, x = linear(3)
        own = model(x).argmax(1)
        result = attack(model, x, target=int(own[0]), mean_bound=0.01, std_bound=0.01, steps=3, draws=50)
        assert torch.equal(result.attacked, own != own[0])
        assert result.rate("attack").trials == 50 * int((own != own[0]).sum())
        alone = attack(model, x[:1], target=int(own[0]), mean_bound=0.01, std_bound=0.01, steps=3, draws=50)
        assert alone.rate("attack").trials == 0
        assert math.isnan(alone.rate("attack").rate)

    def test_pairwise_shrinks_or_grows_the_spread_with_the_sign_of_the_margin(self) -> None:
        """With a margin that no mean can turn, more spread helps; with one that is turned, less does."""
        model = nn.Identity()
        safe = attack(
            model, torch.tensor([[5.0, 0.0]]).double(), mean_bound=0.5, std_bound=0.5, objective="pairwise", steps=120
        )
        torch.testing.assert_close(safe.std, torch.full((1, 2), 0.5).double(), rtol=0.02, atol=0)
        torch.testing.assert_close(safe.margin, torch.tensor([4 / 0.5**0.5]).double(), rtol=0.02, atol=0)
        turned = attack(
            model, torch.tensor([[0.5, 0.0]]).double(), mean_bound=0.5, std_bound=0.5, objective="pairwise", steps=120
        )
        assert (turned.std < 0.05).all()
        assert turned.rate("attack").rate == 1.0


class TestDigits:
    def test_it_stays_in_its_boxes_and_in_the_legal_range(self, found: GaussianAttack, pictures: Tensor) -> None:
        assert found.mean.abs().max() <= 0.2 + 1e-6
        assert found.std.min() >= 0
        assert found.std.max() <= 0.2 + 1e-6
        assert (pictures + found.mean).min() >= -1e-6
        assert (pictures + found.mean).max() <= 1 + 1e-6

    def test_the_power_is_in_the_mean(self, found: GaussianAttack) -> None:
        rates = {row.noise: row.rate for row in found.rates}
        assert list(rates) == ["attack", "mean alone", "spread alone", "isotropic, equal energy"]
        assert rates["attack"] > 0.85
        assert rates["mean alone"] > 0.85
        assert rates["spread alone"] < 0.2
        assert rates["isotropic, equal energy"] < 0.2

    def test_the_margin_is_that_of_the_propagated_mean(
        self, digits: Subject, found: GaussianAttack, pictures: Tensor
    ) -> None:
        moments = propagate(digits, pictures + found.mean, found.std.square(), method="factor", rank=64)
        own = moments.mean.gather(1, found.label.unsqueeze(1))[:, 0]
        rival = moments.mean.scatter(1, found.label.unsqueeze(1), -torch.inf).max(1).values
        torch.testing.assert_close(found.margin, own - rival, rtol=1e-4, atol=1e-4)
        assert found.grade is Grade.CLOSED_FORM
        assert len(found.objective) == 41
        assert found.objective[-1] < found.objective[0] - 3
        # the search keeps the best point of every input, so its last average cannot be better
        assert float(found.margin.mean()) <= float(found.objective[-1]) + 1e-4

    def test_rates_by_fresh_draws(self, digits: Subject, found: GaussianAttack, pictures: Tensor) -> None:
        """400 other draws for each of 20 inputs: both averages have standard errors below 0.0056, six of both."""
        generator = torch.Generator().manual_seed(99)
        for kind, mean, std in (
            ("attack", found.mean, found.std),
            ("spread alone", 0 * found.mean, found.std),
        ):
            flips = 0.0
            for _ in range(400):
                noisy = pictures + mean + std * torch.randn(pictures.shape, generator=generator)
                flips += float((digits.probe(noisy.clamp(0, 1)).argmax(1) != found.label).float().mean()) / 400
            assert abs(found.rate(kind).rate - flips) < 6 * 0.0056 * 2**0.5
        assert float(found.fooled.mean()) == pytest.approx(found.rate("attack").rate)

    def test_energy(self, found: GaussianAttack) -> None:
        expected = (found.mean.square() + found.std.square()).flatten(1).sum(1)
        torch.testing.assert_close(found.energy, expected)

    def test_sparsity_and_smoothness(self, digits: Subject, found: GaussianAttack, pictures: Tensor) -> None:
        sparse = attack(digits, pictures, mean_bound=0.2, std_bound=0.2, steps=40, sparsity=2.0, draws=50)
        silent = float((sparse.mean == 0).float().mean())
        assert silent > float((found.mean.abs() < 0.004).float().mean()) + 0.1
        assert float((sparse.std == 0).float().mean()) > 0.5
        assert sparse.mean.abs().sum() < 0.8 * found.mean.abs().sum()
        smooth = attack(digits, pictures, mean_bound=0.2, std_bound=0.2, steps=40, smoothness=1.0, draws=50)

        def variation(picture: Tensor) -> float:
            return float(picture.diff(dim=-1).abs().sum() + picture.diff(dim=-2).abs().sum())

        assert variation(smooth.mean) < 0.6 * variation(found.mean)
        assert float(smooth.margin.mean()) > float(found.margin.mean())

    @pytest.mark.parametrize("method", ["gain", "sample"])
    def test_other_methods_find_about_the_same(self, digits: Subject, pictures: Tensor, method: str) -> None:
        settings = {"mean_bound": 0.2, "std_bound": 0.2, "steps": 25, "draws": 100}
        by_factor = attack(digits, pictures[:2], **settings)  # type: ignore[arg-type]
        other = attack(digits, pictures[:2], method=method, **settings)  # type: ignore[arg-type]
        assert other.method == method
        assert (other.margin - by_factor.margin).abs().max() < 1.0
        assert other.grade is (Grade.SAMPLED if method == "sample" else Grade.CLOSED_FORM)

    def test_it_repeats(self, digits: Subject, pictures: Tensor) -> None:
        settings = {"mean_bound": 0.1, "std_bound": 0.1, "steps": 5, "draws": 20}
        one = attack(digits, pictures[:3], **settings)  # type: ignore[arg-type]
        two = attack(digits, pictures[:3], **settings)  # type: ignore[arg-type]
        assert torch.equal(one.mean, two.mean)
        assert one.rates == two.rates
        other = attack(digits, pictures[:3], seed=5, **settings)  # type: ignore[arg-type]
        assert torch.equal(one.mean, other.mean)  # 64 columns leave nothing to chance

    def test_few_columns_are_graded_so(self, digits: Subject, pictures: Tensor) -> None:
        result = attack(digits, pictures[:2], mean_bound=0.1, std_bound=0.1, steps=3, rank=16, draws=10)
        assert result.grade is Grade.STATISTICAL


class TestOtherModels:
    def test_a_model_that_cannot_be_captured(self) -> None:
        torch.manual_seed(0)
        result = attack(Branching().double(), numbers(3, 4), mean_bound=3.0, std_bound=0.1)
        assert result.method == "sample"
        assert result.grade is Grade.SAMPLED
        assert result.rate("mean alone").rate > result.rate("isotropic, equal energy").rate

    def test_without_bounds_nothing_is_clipped(self) -> None:
        model = nn.Linear(3, 2).double()
        x = numbers(2, 3)
        free = Subject.from_model(model, Data(x))
        result = attack(free, x, mean_bound=10.0, std_bound=0.0, steps=100)
        assert result.mean.abs().min() > 9
        held = Subject.from_model(model, Data(x.sigmoid()), preprocessing=Preprocessing(bounds=(0.0, 1.0)))
        kept = attack(held, x.sigmoid(), mean_bound=10.0, std_bound=0.0, steps=100)
        assert ((x.sigmoid() + kept.mean) >= -1e-9).all()
        assert ((x.sigmoid() + kept.mean) <= 1 + 1e-9).all()

    @pytest.mark.parametrize(
        ("settings", "where"),
        [
            ({"mean_bound": -1.0, "std_bound": 0.1}, "mean_bound"),
            ({"mean_bound": 0.0, "std_bound": 0.0}, "mean_bound"),
            ({"mean_bound": math.inf, "std_bound": 0.1}, "mean_bound"),
            ({"mean_bound": 0.1, "std_bound": 0.1, "steps": 0}, "steps"),
            ({"mean_bound": 0.1, "std_bound": 0.1, "draws": 0}, "steps"),
            ({"mean_bound": 0.1, "std_bound": 0.1, "lr": 0.0}, "steps"),
            ({"mean_bound": 0.1, "std_bound": 0.1, "objective": "best"}, "objective"),
            ({"mean_bound": 0.1, "std_bound": 0.1, "method": "exact"}, "objective"),
            ({"mean_bound": 0.1, "std_bound": 0.1, "sparsity": -1.0}, "sparsity"),
            ({"mean_bound": 0.1, "std_bound": 0.1, "smoothness": 1.0}, "smoothness"),
            ({"mean_bound": 0.1, "std_bound": 0.1, "target": 2}, "target"),
        ],
    )
    def test_refused(self, settings: dict[str, object], where: str) -> None:
        model, x = linear()
        with pytest.raises(UsageError) as caught:
            attack(model, x, **settings)  # type: ignore[arg-type]
        assert caught.value.where == where

    def test_an_unknown_noise_has_no_rate(self, found: GaussianAttack) -> None:
        with pytest.raises(KeyError, match="mean alone"):
            found.rate("salt")


def test_inputs_are_searched_on_their_own(digits: Subject, pictures: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """One at a time or together: the same noise, up to the order of sums."""
    from assay.moments import gaussian_attack

    together = attack(digits, pictures[:3], mean_bound=0.1, std_bound=0.1, steps=4, draws=20)
    monkeypatch.setattr(gaussian_attack, "_SEARCH_BYTES", 1)
    alone = attack(digits, pictures[:3], mean_bound=0.1, std_bound=0.1, steps=4, draws=20)
    torch.testing.assert_close(alone.margin, together.margin, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(alone.objective, together.objective, rtol=1e-3, atol=1e-3)
    assert alone.mean.shape == together.mean.shape
