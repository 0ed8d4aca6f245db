"""The whole sensitivity analysis on the trained demo networks, and on models made to trip each rule."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from assay.errors import NumericalError, SubjectError
from assay.grade import Grade
from assay.load.demo import demo_data, demo_model
from assay.results import Result, Status
from assay.sensitivity import SensitivityConfig, analyse, condition_number
from assay.subject import Data, Subject

QUICK = SensitivityConfig(inputs=12, random_directions=20, attack_steps=8, attack_random_starts=1, sections=())


@pytest.fixture(scope="module")
def digits() -> Subject:
    return Subject.from_model(demo_model(), demo_data())


@pytest.fixture(scope="module")
def result(digits: Subject) -> Result:
    return analyse(digits, SensitivityConfig(inputs=100, sections=()))


def status(result: Result, rule: str) -> Status:
    (finding,) = [finding for finding in result.findings if finding.rule == f"sensitivity.{rule}"]
    return finding.status


def test_prediction_meets_measurement_on_a_trained_network(result: Result) -> None:
    assert result.summary["agreement"].value >= 0.9
    assert 0.93 < result.summary["predicted_over_noise"].value < 1.07
    assert result.summary["predicted_over_attack"].value == pytest.approx(1, abs=0.01)
    assert status(result, "prediction") is status(result, "noise_prediction") is Status.PASS
    predicted = np.array(result.tables["inputs"].column("condition_number"))
    measured = np.array(result.tables["inputs"].column("attack_0.001"))
    assert np.corrcoef(np.log(predicted), np.log(measured))[0, 1] > 0.99
    noise = np.array(result.tables["inputs"].column("noise_0.001"))
    rms = np.array(result.tables["inputs"].column("condition_number_rms"))
    assert np.corrcoef(np.log(rms), np.log(noise))[0, 1] > 0.97


def test_the_gap_opens_with_the_size(result: Result) -> None:
    sizes = result.tables["sizes"]
    assert sizes.column("size") == [1e-3, 1e-2, 1e-1]
    agreeing = sizes.column("agreeing")
    assert agreeing[0] > agreeing[1] > agreeing[2]
    assert sizes.column("largest_excess")[2] > 1.1 > sizes.column("largest_excess")[0] > 1
    assert all(factor > 1.5 for factor in sizes.column("understatement"))


def test_the_numbers_in_the_table_are_those_of_the_function(digits: Subject, result: Result) -> None:
    assert digits.data is not None
    table = result.tables["inputs"]
    places = table.column("input")
    assert min(places) == 0
    assert max(places) == 499
    assert len(set(places)) == 100
    expected = condition_number(digits, digits.data.inputs[places])
    np.testing.assert_allclose(table.column("condition_number"), expected.numpy(), rtol=1e-5)
    assert table.column("condition_number") == sorted(table.column("condition_number"), reverse=True)
    np.testing.assert_allclose(table.column("bits_lost"), np.log2(table.column("condition_number")))
    assert digits.data.targets is not None
    assert table.column("class") == [str(int(digits.data.targets[place])) for place in places]


def test_classes_add_up(result: Result) -> None:
    classes = result.tables["classes"]
    assert sum(classes.column("inputs")) == 100
    medians = classes.column("condition_number")
    assert medians == sorted(medians, reverse=True)
    for low, middle, high in zip(classes.column("low"), medians, classes.column("high"), strict=True):
        assert low <= middle <= high


def test_summary_has_grades_and_intervals(result: Result) -> None:
    kappa = result.summary["condition_number"]
    assert kappa.grade is Grade.LINEARISED
    assert kappa.low is not None
    assert kappa.high is not None
    assert kappa.low < kappa.value < kappa.high
    assert "percentile" in kappa.interval
    bits = result.summary["bits_lost"]
    assert bits.unit == "bit"
    assert bits.value == pytest.approx(math.log2(kappa.value), abs=0.05)
    assert result.summary["agreement"].grade is Grade.SAMPLED
    assert result.summary["largest_condition_number"].value == max(result.tables["inputs"].column("condition_number"))


def test_findings_speak(result: Result) -> None:
    rules = [finding.rule for finding in result.findings]
    assert len(rules) == len(set(rules)) == 8
    said = {finding.rule.split(".")[1]: finding for finding in result.findings}
    top = result.tables["inputs"].rows[0]
    assert f"input {top[0]} ({top[1]})" in said["most_fragile_input"].sentence
    assert "not an upper bound" in said["not_a_bound"].sentence
    assert "Sampling alone" in said["sampling_alone"].sentence
    assert result.status is Status.PASS
    assert all(finding.next_step for finding in result.findings if finding.status is not Status.PASS)


def test_figures_are_plain_data(result: Result) -> None:
    assert [figure.kind for figure in result.figures] == ["histogram", "heatmaps", "scatter", "lines", "bars"]
    for figure in result.figures:
        json.dumps(dict(figure.data), allow_nan=False)
        assert figure.title
        assert figure.caption
    heatmaps = result.figures[1].data
    for panel in heatmaps["panels"]:
        colours = (3,) if panel["array"] == "fragile_inputs" else ()
        assert result.arrays[panel["array"]][tuple(panel["index"])].shape == (8, 8, *colours)
    assert result.arrays["worst_direction_vectors"].shape == (6, 1, 8, 8)
    norms = np.sqrt((result.arrays["worst_directions"] ** 2).sum((1, 2)))
    np.testing.assert_allclose(norms, 1, rtol=1e-5)
    lines = result.figures[3].data
    assert all(len(series["y"]) == len(lines["x"]) == 3 for series in lines["series"])


def test_order_and_batches_do_not_matter(digits: Subject) -> None:
    assert digits.data is not None
    data = digits.data.take(12)
    turned = replace(data, inputs=data.inputs.flip(0), targets=data.targets.flip(0))  # type: ignore[union-attr]
    first = analyse(replace(digits, data=data), QUICK)
    second = analyse(replace(digits, data=turned), QUICK.model_copy(update={"batch_size": 5}))
    for column in ("condition_number", "condition_number_rms", "noise_0.01", "attack_0.1"):
        np.testing.assert_allclose(
            first.tables["inputs"].column(column), second.tables["inputs"].column(column), rtol=1e-3
        )
    assert [11 - place for place in second.tables["inputs"].column("input")] == first.tables["inputs"].column("input")


def test_repeats_exactly(digits: Subject) -> None:
    assert analyse(digits, QUICK).tables == analyse(digits, QUICK).tables


def test_regression(digits: Subject) -> None:
    data = demo_data("regression")
    result = analyse(Subject.from_model(demo_model("regression"), data, task="regression"), QUICK)
    assert "classes" not in result.tables
    assert not result.arrays
    assert "class" not in [column.name for column in result.tables["inputs"].columns]
    assert [figure.kind for figure in result.figures] == ["histogram", "scatter", "lines"]
    assert result.summary["predicted_over_noise"].value == pytest.approx(1, abs=0.1)


def subject(model: nn.Module, inputs: Tensor, **keywords: object) -> Subject:
    return Subject.from_model(model.double(), Data(inputs.double()), **keywords)  # type: ignore[arg-type]


class Steps(nn.Module):
    """Rounds its input: the derivative is zero almost everywhere, the response is not."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.round(x * 1000) + 1


def test_a_zero_derivative_is_caught() -> None:
    result = analyse(subject(Steps(), torch.rand(6, 4) + 0.5), QUICK)
    assert status(result, "zero_derivative") is Status.FAIL
    assert status(result, "prediction") is Status.WARN
    assert result.summary["agreement"].value < 0.5
    for figure in result.figures:
        json.dumps(dict(figure.data), allow_nan=False)
    assert all(math.isfinite(quantity.value) for quantity in result.summary.values())


class Ill(nn.Module):
    """Difference of nearly equal numbers."""

    def forward(self, x: Tensor) -> Tensor:
        return (x[:, :1] - x[:, 1:2]).repeat(1, 2) * torch.tensor([1.0, 0.5], dtype=x.dtype)


def test_ill_conditioned_inputs_are_named() -> None:
    inputs = torch.tensor([[1.0, 0.2], [1.0, 0.999], [3.0, -1.0]])
    result = analyse(subject(Ill(), inputs), QUICK)
    (finding,) = [finding for finding in result.findings if finding.rule == "sensitivity.ill_conditioned"]
    assert finding.status is Status.WARN
    assert finding.sentence.startswith("1 of 3 inputs")
    assert finding.place.startswith("input 1 ")
    expected = math.sqrt(2) * math.sqrt(1 + 0.999**2) / 0.001
    assert result.summary["largest_condition_number"].value == pytest.approx(expected, rel=1e-4)


class Cliff(nn.Module):
    """Flat at the data, steep a little beside them."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x.mean(1, keepdim=True), 50 * torch.relu(x[:, :1] - 1.02)], 1)


def test_exceeding_the_prediction_is_a_warning() -> None:
    result = analyse(subject(Cliff(), torch.ones(4, 3)), QUICK)
    assert status(result, "not_a_bound") is Status.WARN
    assert status(result, "prediction") is Status.PASS
    assert result.summary["largest_excess"].value > 10


def test_inputs_without_a_relative_change_are_left_out() -> None:
    inputs = torch.tensor([[1.0, 1.0], [1.0, 0.5], [0.0, 0.0], [2.0, 1.0]])
    result = analyse(subject(Ill(), inputs), QUICK)
    assert sorted(result.tables["inputs"].column("input")) == [1, 3]
    assert "2 of 4 inputs were left out" in result.warnings[0]
    assert "0, 2" in result.warnings[0]
    with pytest.raises(NumericalError, match="exactly zero"):
        analyse(subject(Ill(), torch.ones(3, 2)), QUICK)


def test_many_outputs_say_that_norms_come_from_below() -> None:
    torch.manual_seed(0)
    result = analyse(subject(nn.Linear(8, 80), torch.rand(4, 8)), QUICK)
    assert any("from below" in warning for warning in result.warnings)


def test_changes_lost_in_rounding_are_announced(digits: Subject) -> None:
    fine = QUICK.model_copy(update={"relative_sizes": (1e-5,)})
    result = analyse(digits, fine)
    assert any("rounding" in warning for warning in result.warnings)
    assert [figure.kind for figure in result.figures].count("lines") == 0


def test_progress_runs_once_from_start_to_end(digits: Subject) -> None:
    seen: list[tuple[int, int, str]] = []
    analyse(digits, QUICK, progress=lambda *report: seen.append(report))
    done = [report[0] for report in seen]
    assert done == sorted(done)
    assert done[-1] == 36
    assert {report[1] for report in seen} == {36}
    assert {report[2] for report in seen} == {"condition numbers", "random directions", "attack"}


def test_no_data_is_an_error() -> None:
    with pytest.raises(SubjectError, match="needs inputs"):
        analyse(Subject.from_model(nn.Linear(2, 2), example=torch.zeros(2, 2)))


@pytest.mark.parametrize(
    "settings",
    [
        {"relative_sizes": ()},
        {"relative_sizes": (0.1, 0.01)},
        {"relative_sizes": (0.0,)},
        {"inputs": 0},
        {"steps": 3},
        {"formats": ("fp16", "nonsense")},
        {"formats": ("int99",)},
        {"average_bits": float("inf")},
        {"average_bits": 1.5},
    ],
)
def test_refused_settings(settings: dict) -> None:
    with pytest.raises(ValidationError):
        SensitivityConfig(**settings)


def test_settings_are_described() -> None:
    assert all(field.description for field in SensitivityConfig.model_fields.values())
