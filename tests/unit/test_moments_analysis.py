"""The whole moments analysis on the trained demo networks, and on models made to take every other path."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from assay.errors import SubjectError, UnsupportedOperator
from assay.grade import Grade
from assay.load import load_subject
from assay.moments import MomentsConfig, analyse, expected_probabilities, flip_probability, noise_level, plan, propagate
from assay.moments import decisions as moments_decisions
from assay.moments.evidence import collect, noise_floor
from assay.moments.tables import agreement
from assay.results import Result, Status
from assay.results.arrays import array_keys
from assay.store.encode import array_bytes, result_document, to_bytes
from assay.subject import Data, Subject

QUICK = MomentsConfig(inputs=6, sigmas=(0.05, 0.2), check=300, maps=2, attack_inputs=0)


class Branching(nn.Module):
    """Cannot be captured: what it does depends on its input."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.layer(row) if float(row.sum()) > 0 else self.layer(2 * row) for row in x])


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


@pytest.fixture(scope="module")
def digits() -> Subject:
    return load_subject("demo")


@pytest.fixture(scope="module")
def result(digits: Subject) -> Result:
    return analyse(digits, MomentsConfig(inputs=16, sigmas=(0.05, 0.1, 0.3), check=1000, maps=3))


def subject(model: nn.Module, count: int = 12, outputs: int = 3, **extra) -> Subject:
    torch.manual_seed(0)
    inputs = torch.randn(count, 6, generator=torch.Generator().manual_seed(0))
    targets = torch.arange(count) % outputs
    return Subject.from_model(model, Data(inputs, targets), **extra)


def status(result: Result, rule: str) -> Status:
    (finding,) = [finding for finding in result.findings if finding.rule == f"moments.{rule}"]
    return finding.status


def encoded(result: Result) -> bytes:
    keys = array_keys(result)
    return to_bytes(result_document(result, keys), "test") + array_bytes(result, keys)


class TestDigits:
    def test_levels(self, result: Result) -> None:
        levels = result.tables["levels"]
        assert levels.column("share") == [0.05, 0.1, 0.3]
        for name in ("std", "flip", "measured"):
            assert levels.column(name) == sorted(levels.column(name))
        for predicted, measured in zip(levels.column("flip"), levels.column("measured"), strict=True):
            assert predicted == pytest.approx(measured, abs=0.03)
        assert all(0.85 < ratio < 1.05 for ratio in levels.column("ratio"))
        assert all(
            low < ratio < high
            for low, ratio, high in zip(*(levels.column(n) for n in ("low", "ratio", "high")), strict=True)
        )
        assert all(
            error < 4 * floor for error, floor in zip(levels.column("error"), levels.column("floor"), strict=True)
        )
        assert levels.column("floor") == [pytest.approx(math.sqrt(2 / math.pi / 1000))] * 3

    def test_the_table_holds_the_numbers_of_the_functions(self, digits: Subject, result: Result) -> None:
        assert digits.data is not None
        table = result.tables["inputs"]
        rows = table.column("input")
        assert rows == torch.linspace(0, 499, 16).round().long().tolist()
        decision = flip_probability(
            digits, digits.data.inputs[rows], 0.3**2, method=result.tables["levels"].column("method")[2]
        )
        np.testing.assert_allclose(table.column("flip_0.3"), decision.flip.numpy(), atol=0.01)
        assert table.column("decision") == [str(int(label)) for label in decision.label]
        assert digits.data.targets is not None
        assert table.column("label") == [str(int(digits.data.targets[row])) for row in rows]
        assert all(rival != own for rival, own in zip(table.column("rival"), table.column("decision"), strict=True))

    def test_outputs(self, result: Result) -> None:
        table = result.tables["outputs"]
        assert len(table.column("output")) == 30
        assert set(table.column("count")) == {16}
        for predicted, sampled, std in zip(
            *(table.column(n) for n in ("mean", "sampled_mean", "sampled_std")), strict=True
        ):
            # sampling: six standard errors over 16 inputs of 1,000 draws each; the closure: 0.05 deviations
            assert abs(predicted - sampled) < (6 / math.sqrt(16_000) + 0.05) * std

    def test_layers_follow_the_graph(self, digits: Subject, result: Result) -> None:
        nodes = result.tables["layers"].column("node")
        # pools go before activations, under each other's places
        assert sorted(nodes) == sorted(node.name for node in digits.graph.layers)
        assert nodes[-1] == digits.graph.output
        assert all(value > 0 for value in result.tables["layers"].column("noise_per_signal"))

    def test_summary(self, result: Result) -> None:
        summary = result.summary
        assert set(summary) == {
            "flip_probability",
            "measured_flips",
            "confidence",
            "noise_stood",
            "fooling_rate",
            "output_deviation",
            "mean_error",
            "variance_ratio",
        }
        assert summary["flip_probability"].value == pytest.approx(result.tables["levels"].column("flip")[2])
        assert summary["measured_flips"].grade is Grade.SAMPLED
        low, high = summary["measured_flips"].low, summary["measured_flips"].high
        assert low is not None
        assert high is not None
        assert low < summary["measured_flips"].value < high
        assert summary["variance_ratio"].value == pytest.approx(result.tables["levels"].column("ratio")[2])

    def test_confusion_and_maps(self, digits: Subject, result: Result) -> None:
        matrix = result.arrays["confusion"]
        decided = {int(name) for name in result.tables["inputs"].column("decision")}
        for row in range(10):
            assert matrix[row].sum() == pytest.approx(1 if row in decided else 0, abs=1e-5)
        assert result.arrays["variance_share"].shape == (3, 8, 8)
        assert (
            (result.arrays["variance_share"].sum((1, 2)) > 0.3) & (result.arrays["variance_share"].sum((1, 2)) <= 1.001)
        ).all()

    def test_findings(self, result: Result) -> None:
        assert [finding.rule for finding in result.findings] == [
            "moments.flip_probability",
            "moments.least_stable",
            "moments.noise_stood",
            "moments.confidence",
            "moments.gaussian_attack",
            "moments.agreement",
            "moments.noise_growth",
            "moments.coverage",
        ]
        assert status(result, "flip_probability") is Status.WARN
        assert status(result, "agreement") is status(result, "coverage") is Status.PASS
        assert all(finding.next_step for finding in result.findings if finding.status is Status.WARN)

    def test_little_noise_passes(self, digits: Subject) -> None:
        quiet = analyse(digits, replace_config(sigmas=(0.01,)))
        assert status(quiet, "flip_probability") is status(quiet, "least_stable") is Status.PASS

    def test_two_runs_are_equal_byte_for_byte(self, digits: Subject) -> None:
        first = analyse(digits, QUICK)
        second = analyse(load_subject("demo"), QUICK)
        assert encoded(first) == encoded(second)
        assert encoded(analyse(digits, replace_config(seed=1))) != encoded(first)

    def test_it_can_be_stored(self, result: Result) -> None:
        document = json.loads(to_bytes(result_document(result, array_keys(result)), "test"))
        assert [table["name"] for table in document["tables"]] == [
            "levels",
            "outputs",
            "layers",
            "inputs",
            "standing",
            "attack",
        ]

    def test_progress(self, digits: Subject) -> None:
        seen: list[tuple[int, int, str]] = []
        analyse(digits, QUICK, progress=lambda done, total, text: seen.append((done, total, text)))
        assert [done for done, _, _ in seen] == list(range(1, 15))
        assert {total for _, total, _ in seen} == {14}
        assert seen[0][2] != seen[-1][2]

    @pytest.mark.parametrize("method", ["exact", "gain", "factor", "linearize", "mc"])
    def test_methods(self, digits: Subject, method: str) -> None:
        found = analyse(digits, replace_config(method=method, inputs=3))
        assert found.tables["levels"].column("method") == [method, method]
        assert ("layers" in found.tables) == (method in ("exact", "gain", "factor"))

    def test_sampling_is_not_checked_against_the_same_draws(self, digits: Subject) -> None:
        levels = analyse(digits, replace_config(method="mc", check=300)).tables["levels"]
        assert all(
            error > 0.5 * floor for error, floor in zip(levels.column("error"), levels.column("floor"), strict=True)
        )

    def test_sampling_without_a_check_takes_enough_draws(self, digits: Subject) -> None:
        evidence = collect(digits, replace_config(method="mc", check=0), None)
        assert digits.data is not None
        expected = propagate(digits, digits.data.inputs[evidence.rows[:1]], 0.2**2, method="mc", samples=1000)
        # followed outputs come decision first, all others by size
        torch.testing.assert_close(evidence.levels[1].mean[0], expected.mean[0][evidence.outputs[0]])


def replace_config(**changes) -> MomentsConfig:
    return MomentsConfig(**(QUICK.model_dump() | changes))


class TestOtherModels:
    def test_regression(self) -> None:
        twin = load_subject("demo:regression")
        result = analyse(twin, MomentsConfig(inputs=20, check=500))
        assert set(result.summary) == {"output_deviation", "mean_error", "variance_ratio"}
        assert not {"flip", "measured"} & {column.name for column in result.tables["levels"].columns}
        assert {finding.rule for finding in result.findings} >= {"moments.output_noise", "moments.agreement"}
        assert "confusion" not in result.arrays
        assert not {"standing", "attack"} & set(result.tables)
        assert 0.9 < result.summary["variance_ratio"].value < 1.1
        shares = result.tables["levels"].column("std")
        assert shares[0] < shares[1] < shares[2]
        assert result.tables["inputs"].column("std_0.1")
        assert encoded(result)

    def test_a_model_that_cannot_be_captured(self) -> None:
        result = analyse(subject(Branching()), QUICK)
        assert "layers" not in result.tables
        assert status(result, "coverage") is Status.WARN
        assert result.summary["flip_probability"].grade is Grade.LINEARISED
        assert result.tables["levels"].column("method") == ["linearize", "linearize"]
        assert any("No per-layer numbers" in note for note in result.warnings)
        # away from its branches the model is linear, so linearising agrees with sampling at small noise
        assert result.tables["levels"].column("ratio")[0] == pytest.approx(1, abs=0.15)
        assert encoded(result)
        assert "cannot be captured" in plan(subject(Branching()), QUICK).text

    @pytest.mark.parametrize("method", ["auto", "factor"])
    def test_many_outputs(self, method: str) -> None:
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(6, 40), nn.ReLU(), nn.Linear(40, 100))
        result = analyse(subject(model, outputs=100), replace_config(method=method, top=7))
        assert "confusion" not in result.arrays
        followed = result.tables["outputs"]
        assert len(set(followed.column("output"))) <= 6 * 7
        assert sum(followed.column("count")) == 2 * 6 * 7
        assert result.tables["inputs"].column("rival")
        assert encoded(result)

    def test_operators_without_a_rule_are_named(self) -> None:
        result = analyse(subject(Normed()), QUICK)
        (finding,) = [finding for finding in result.findings if finding.rule == "moments.coverage"]
        assert finding.status is Status.WARN
        assert "body.1 (layer_norm)" in finding.sentence
        assert any("body.1 (layer_norm)" in note for note in result.warnings)
        assert result.tables["layers"].column("grade")[1:] == ["linearised"] * 3
        assert result.tables["layers"].column("grade")[0] == "exact"

    def test_strict(self) -> None:
        model = nn.Sequential(nn.Linear(6, 3), nn.LogSoftmax(dim=1))
        with pytest.raises(UnsupportedOperator) as caught:
            analyse(subject(model), replace_config(fallback="error"))
        assert caught.value.where == "1 (log_softmax)"

    def test_without_data(self, digits: Subject) -> None:
        with pytest.raises(SubjectError, match="need data"):
            analyse(replace(digits, data=None), QUICK)

    def test_without_a_check(self) -> None:
        torch.manual_seed(0)
        result = analyse(subject(nn.Linear(6, 3)), replace_config(check=0))
        assert set(result.summary) >= {"flip_probability", "output_deviation", "confidence"}
        assert not {"measured_flips", "mean_error", "variance_ratio"} & set(result.summary)
        assert status(result, "agreement") is Status.WARN
        assert encoded(result)

    def test_one_input_and_no_targets(self) -> None:
        torch.manual_seed(0)
        one = Subject.from_model(nn.Linear(6, 3), torch.randn(1, 6))
        result = analyse(one, QUICK)
        assert result.tables["inputs"].column("label") == [None]
        assert encoded(result)

    def test_an_affine_model_is_exact(self) -> None:
        torch.manual_seed(0)
        result = analyse(subject(nn.Linear(6, 3)), replace_config(check=2000))
        assert result.summary["output_deviation"].grade is Grade.EXACT
        assert result.summary["variance_ratio"].value == pytest.approx(1, abs=0.03)

    def test_chunks_change_nothing(self, digits: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
        from assay.moments import batches

        whole = collect(digits, QUICK, None)
        monkeypatch.setattr(batches, "CHUNK_BYTES", 1)
        pieces = collect(digits, QUICK, None)
        for one, other in zip(whole.levels, pieces.levels, strict=True):
            torch.testing.assert_close(one.mean, other.mean, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(one.variance, other.variance, rtol=1e-4, atol=1e-5)
            assert [row.node for row in one.layers] == [row.node for row in other.layers]
            np.testing.assert_allclose([r.variance for r in one.layers], [r.variance for r in other.layers], rtol=1e-4)


class TestDecisions:
    def test_confidence_and_noise_are_those_of_the_functions(self, digits: Subject, result: Result) -> None:
        assert digits.data is not None
        table = result.tables["standing"]
        x = digits.data.inputs[table.column("input")]
        found = expected_probabilities(digits, x, 0.3**2)
        own = found.clean.argmax(1, keepdim=True)
        np.testing.assert_allclose(table.column("expected"), found.expected.gather(1, own)[:, 0], atol=0.01)
        np.testing.assert_allclose(table.column("clean"), found.clean.gather(1, own)[:, 0], atol=1e-5)
        np.testing.assert_allclose(
            table.column("stays"), 1 - np.asarray(result.tables["inputs"].column("flip_0.3")), atol=1e-6
        )
        levels = noise_level(digits, x, flip=(0.05,), rank=64, method="factor")
        np.testing.assert_allclose(table.column("noise_0.05"), levels.sigma[:, 0].numpy(), rtol=0.05)
        assert all(
            low <= high for low, high in zip(table.column("noise_0.01"), table.column("noise_0.05"), strict=True)
        )
        assert result.summary["noise_stood"].value in table.column("noise_0.05")

    def test_interpolated_noise_is_close_to_searched_noise(
        self, digits: Subject, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Between levels of 0.05, 0.2 and 0.5: within 12 % for every input, 4 % on average; nothing beyond 0.5."""
        settings = replace_config(method="factor", sigmas=(0.05, 0.2, 0.5), check=0, inputs=16, rank=64)
        searched = collect(digits, settings, None).decisions
        monkeypatch.setattr(moments_decisions, "_SEARCH_BUDGET", 0)
        evidence = collect(digits, settings, None)
        interpolated = evidence.decisions
        assert searched is not None
        assert interpolated is not None
        assert searched.standing.searched
        assert not interpolated.standing.searched
        assert interpolated.standing.highest == 0.5
        assert any("interpolated" in note for note in evidence.warnings)
        one, other = searched.standing.share, interpolated.standing.share
        both = torch.isfinite(other) & (one < 0.49)
        assert int(both.sum()) > 30
        ratio = (other / one)[both].log().abs()
        assert ratio.max() < 0.12
        assert ratio.mean() < 0.04
        assert torch.isinf(other[one > 0.55]).all()

    def test_the_attack(self, result: Result) -> None:
        table = result.tables["attack"]
        rates = dict(zip(table.column("noise"), table.column("rate"), strict=True))
        assert rates["attack"] > rates["isotropic, equal energy"] + 0.3
        assert result.arrays["attack_mean"].shape == (2, 8, 8)
        assert np.abs(result.arrays["attack_mean"]).max() <= 0.3 + 1e-6
        assert result.arrays["mean_shift"].shape == (3, 8, 8)

    def test_large_models_are_not_attacked(self, digits: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(moments_decisions, "_ATTACK_BUDGET", 1e6)
        settings = MomentsConfig(inputs=4, sigmas=(0.05,), check=0, method="factor", attack_steps=3)
        result = analyse(digits, settings)
        assert "attack" not in result.tables
        assert any("No Gaussian attack" in note for note in result.warnings)
        assert "no Gaussian attack" in plan(digits, settings).text
        asked = settings.model_copy(update={"attack_inputs": 2})
        assert "attack" in analyse(digits, asked).tables
        assert "Gaussian attack on 2 inputs" in plan(digits, asked).text

    def test_large_models_have_no_mean_shift(self, digits: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
        from assay.moments import evidence

        monkeypatch.setattr(evidence, "_SHIFT_BUDGET", 1)
        result = analyse(digits, replace_config(inputs=2, method="factor", check=0))
        assert "mean_shift" not in result.arrays
        assert any("mean shift" in note for note in result.warnings)

    def test_weak_decisions_are_a_warning(self, digits: Subject) -> None:
        result = analyse(digits, replace_config(sigmas=(0.4, 0.5), method="factor", check=0))
        assert status(result, "noise_stood") is Status.WARN


class TestAgreement:
    def test_measures_what_was_put_in(self, digits: Subject) -> None:
        """Means off by 0.3 deviations and variances by a factor of 1.5 are found, net of the sampling noise."""
        evidence = collect(digits, replace_config(check=200), None)
        level = evidence.levels[0]
        assert level.sampled_variance is not None
        wrong = replace(level, mean=level.mean + 0.3 * level.sampled_variance.sqrt(), variance=1.5 * level.variance)
        right, found = agreement(level, 200), agreement(wrong, 200)
        assert right is not None
        assert found is not None
        assert right.net < 0.05
        assert right.floor == noise_floor(200)
        assert found.net == pytest.approx(0.3, abs=0.05)
        assert found.ratio == pytest.approx(1.5 * right.ratio)
        assert found.ratio_low < found.ratio < found.ratio_high

    def test_the_interval_covers_what_more_draws_find(self) -> None:
        """The interval holds the ratio that 20 times the draws give, for 5 of 6 seeds (chance of fewer: 4 %)."""
        twin = load_subject("demo:regression")
        settings = MomentsConfig(inputs=30, sigmas=(0.1,))
        level = collect(twin, settings.model_copy(update={"check": 10_000, "seed": 1000}), None).levels[0]
        fine = agreement(level, 10_000)
        assert fine is not None
        covered = 0
        for seed in range(6):
            coarse = agreement(
                collect(twin, settings.model_copy(update={"check": 500, "seed": 100 * seed}), None).levels[0], 500
            )
            assert coarse is not None
            covered += coarse.ratio_low - 0.005 < fine.ratio < coarse.ratio_high + 0.005
        assert covered >= 5

    def test_says_nothing_without_noise(self, digits: Subject) -> None:
        evidence = collect(digits, replace_config(check=1000), None)
        silent = replace(evidence.levels[0], variance=torch.zeros_like(evidence.levels[0].variance))
        assert agreement(silent, 1000) is None


class TestConfig:
    @pytest.mark.parametrize(
        "settings",
        [
            {"sigmas": ()},
            {"sigmas": (0.1, 0.05)},
            {"sigmas": (0.1, 0.1)},
            {"sigmas": (0.0, 0.1)},
            {"sigmas": (math.nan,)},
            {"inputs": 0},
            {"rank": 0},
            {"top": 1},
            {"method": "magic"},
            {"fallback": "guess"},
            {"variance_ratio_within": (1.1, 1.2)},
            {"flip_above": 0},
            {"flip_levels": ()},
            {"flip_levels": (0.5, 0.1)},
            {"flip_levels": (0.5, 1.0)},
            {"attack_steps": 0},
            {"attack_bound": 0.0},
            {"unknown": 1},
        ],
    )
    def test_refused(self, settings: dict[str, object]) -> None:
        with pytest.raises(ValidationError):
            MomentsConfig(**settings)  # type: ignore[arg-type]

    def test_a_plan_says_what_will_run(self, digits: Subject) -> None:
        text = plan(digits, QUICK).text
        assert "6 inputs × 2 noise levels" in text
        assert "3,600 forward passes" in text
        assert "no check" in plan(digits, replace_config(check=0)).text
