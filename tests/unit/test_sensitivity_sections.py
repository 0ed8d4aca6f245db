"""Norms, bounds, parameters, round-off and bits in one result, on the trained demo networks and on models that trip."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from assay.load.demo import demo_data, demo_model
from assay.results import Result, Status
from assay.sensitivity import SensitivityConfig, analyse
from assay.sensitivity.sections import SECTIONS
from assay.subject import Subject

CONFIG = SensitivityConfig(
    inputs=12, random_directions=20, attack_steps=8, attack_random_starts=1, section_inputs=8, bits_inputs=100
)


@pytest.fixture(scope="module")
def result() -> Result:
    return analyse(Subject.from_model(demo_model(), demo_data()), CONFIG)


def status(result: Result, rule: str) -> Status:
    (finding,) = [finding for finding in result.findings if finding.rule == f"sensitivity.{rule}"]
    return finding.status


def column(result: Result, table: str, name: str) -> np.ndarray:
    return np.array(result.tables[table].column(name), dtype=float)


def test_every_section_speaks_and_nothing_was_left_out(result: Result) -> None:
    assert {"norms", "bounds", "parameters", "formats", "precision", "widths"} <= set(result.tables)
    assert not [warning for warning in result.warnings if "left out" in warning]
    json.dumps([dict(figure.data) for figure in result.figures])


def test_norms_are_those_of_the_unrolled_layers(result: Result) -> None:
    head = demo_model().head.weight.detach().double()
    assert column(result, "norms", "norm")[-1] == pytest.approx(float(torch.linalg.matrix_norm(head, 2)), rel=1e-5)
    assert (column(result, "norms", "upper") >= column(result, "norms", "norm")).all()


def test_guarantees_lie_above_the_attack_and_the_estimate_on_it(result: Result) -> None:
    table = result.tables["bounds"]
    rows = {
        row["rung"]: row for row in (dict(zip([c.name for c in table.columns], r, strict=True)) for r in table.rows)
    }
    guaranteed = [row for row in rows.values() if row["kind"] == "guaranteed" and row["median"] is not None]
    assert len(guaranteed) >= 4
    assert all(row["exceeded"] == 0 and row["over_attack"] >= 1 for row in guaranteed)
    assert rows["kappa"]["over_attack"] == pytest.approx(1, abs=0.05)
    assert rows["product"]["median"] > rows["masked rows"]["median"] > rows["kappa"]["median"]
    assert status(result, "guarantee") is Status.PASS


def test_weight_noise_is_predicted(result: Result) -> None:
    assert result.summary["parameter_noise_ratio"].value == pytest.approx(1, abs=0.2)
    assert status(result, "weight_noise") is Status.PASS


def test_formats_in_the_order_of_their_precision(result: Result) -> None:
    errors = dict(zip(result.tables["formats"].column("format"), column(result, "formats", "measured"), strict=True))
    assert errors["fp16"] < errors["bf16"] < errors["e4m3"]
    ratios = column(result, "formats", "E4")
    assert ((ratios > 0.5) & (ratios < 2)).all()
    assert (column(result, "formats", "E3") >= 1).all()
    assert (column(result, "formats", "E2") >= column(result, "formats", "E3")).all()
    assert status(result, "roundoff_guarantee") is Status.PASS
    assert column(result, "precision", "share").sum() == pytest.approx(1)


def test_the_plan_was_run_and_keeps_the_budget(result: Result) -> None:
    widths, counts = column(result, "widths", "bits"), column(result, "widths", "weights")
    average = float((widths * counts).sum() / counts.sum())
    assert result.summary["plan_bits"].value == pytest.approx(average)
    assert average <= CONFIG.average_bits
    assert result.summary["plan_error"].value <= result.summary["uniform_error"].value
    assert result.summary["minimal_bits"].value >= result.summary["minimal_bits_true"].value


def test_regression_has_no_decisions() -> None:
    subject = Subject.from_model(demo_model("regression"), demo_data("regression"), task="regression")
    found = analyse(subject, CONFIG)
    assert "minimal_bits" not in found.summary
    assert "flips" not in set(found.summary)
    assert {"norms", "bounds", "parameters", "formats", "widths"} <= set(found.tables)


class Normalised(nn.Module):
    """Layer norm: no bound holds for all inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.first(x)))


def test_a_bound_that_does_not_exist_is_refused_in_words() -> None:
    torch.manual_seed(0)
    found = analyse(Subject.from_model(Normalised().eval(), torch.randn(8, 6)), CONFIG)
    (finding,) = [f for f in found.findings if f.rule == "sensitivity.guarantee"]
    assert "No bound holds for all inputs" in finding.sentence
    rungs = dict(zip(found.tables["bounds"].column("rung"), found.tables["bounds"].column("median"), strict=True))
    assert rungs["global"] is None
    assert rungs["kappa"] > 0


class Uncapturable(nn.Module):
    """Its path depends on the data."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.layer(row) if float(row.detach().sum()) > 0 else -self.layer(row) for row in x])


def test_without_a_graph_the_rest_stands() -> None:
    torch.manual_seed(0)
    found = analyse(Subject.from_model(Uncapturable().eval(), torch.randn(8, 4)), CONFIG)
    assert any("need a captured model" in warning for warning in found.warnings)
    assert "inputs" in found.tables
    assert "norms" not in found.tables


@pytest.mark.parametrize("name", SECTIONS)
def test_one_section_alone(name: str) -> None:
    subject = Subject.from_model(demo_model(), demo_data())
    config = CONFIG.model_copy(update={"sections": (name,), "section_inputs": 4})
    found = analyse(subject, config)
    others = {"norms", "bounds", "parameters", "formats", "widths"} - {
        {"roundoff": "formats", "bits": "widths"}.get(name, name)
    }
    assert not others & set(found.tables)


def test_an_unknown_format_is_named() -> None:
    subject = Subject.from_model(demo_model(), demo_data())
    found = analyse(subject, CONFIG.model_copy(update={"sections": ("roundoff",), "formats": ("fp16", "float11")}))
    assert found.tables["formats"].column("format") == ["fp16"]
    assert any("float11" in warning for warning in found.warnings)


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.PReLU(4)], ids=["relu", "prelu"])
def test_rounding_of_a_response_breaks_no_guarantee(activation: nn.Module) -> None:
    """Where a ball holds no kink its bound is attained, and a response in single precision may round to more."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), activation, nn.Flatten(), nn.Linear(4 * 36, 3))
    subject = Subject.from_model(model, (torch.rand(20, 1, 8, 8), torch.randint(0, 3, (20,))))
    found = analyse(subject, CONFIG.model_copy(update={"sections": ("bounds", "parameters")}))
    assert status(found, "guarantee") is Status.PASS
    assert max(found.tables["bounds"].column("over_attack")[:6]) > 1
    assert not found.warnings
