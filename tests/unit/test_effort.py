"""Levels of effort: what they begin at, what a budget of operations lowers, and what the user set, which stays."""

import pytest
import torch
from torch import nn

from assay.analyses import BUILT_IN
from assay.boundary import effort as boundary
from assay.boundary.config import BoundaryConfig
from assay.effort import Estimate, begun, per_pass
from assay.filtering import effort as filtering
from assay.filtering.analysis import analyse
from assay.filtering.config import FilteringConfig
from assay.filtering.planning import too_long
from assay.filtering.report import examine
from assay.forecast import forecast
from assay.load import load_subject
from assay.moments import effort as moments
from assay.moments.config import MomentsConfig
from assay.sensitivity import effort as sensitivity
from assay.sensitivity.config import SensitivityConfig
from assay.smoothness import effort as smoothness
from assay.smoothness.config import SmoothnessConfig
from assay.subject import Data, Subject

PARTS = {
    "moments": (moments, MomentsConfig),
    "sensitivity": (sensitivity, SensitivityConfig),
    "filtering": (filtering, FilteringConfig),
    "boundary": (boundary, BoundaryConfig),
    "smoothness": (smoothness, SmoothnessConfig),
}


@pytest.fixture(scope="module")
def demo() -> Subject:
    return load_subject("demo")


@pytest.fixture(scope="module")
def heavy() -> Subject:
    """A network of 1.2 billion operations a pass, never run here, and 400 inputs of it."""
    layers = [nn.Conv2d(64, 64, 3, padding=1) for _ in range(4)]
    network = nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1), *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 5)
    )
    x = torch.zeros(1, 3, 64, 64).expand(400, 3, 64, 64)
    return Subject.from_model(network, Data(x, torch.arange(400) % 5))


@pytest.mark.parametrize("name", PARTS)
def test_levels_are_ordered_and_keep_what_was_set(name: str, demo: Subject):
    module, kind = PARTS[name]
    low, middle, high = (module.fitted(kind(effort=level), demo)[0] for level in ("quick", "standard", "thorough"))
    assert low.inputs < middle.inputs < high.inputs if hasattr(middle, "inputs") else low.paths < middle.paths
    key = "inputs" if hasattr(middle, "inputs") else "paths"
    asked, notes = module.fitted(kind(effort="quick", **{key: 77}), demo)
    assert getattr(asked, key) == 77
    assert not any(f"{key} =" in note for note in notes)
    assert BUILT_IN[name].config is kind


@pytest.mark.parametrize("name", PARTS)
def test_a_small_network_gets_the_defaults(name: str, demo: Subject):
    module, kind = PARTS[name]
    assert module.fitted(kind(), demo) == (kind(), ())


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("level", ["quick", "standard", "thorough"])
def test_a_large_network_gets_less_the_same_every_time_and_is_told(name: str, level: str, heavy: Subject):
    module, kind = PARTS[name]
    config = kind(effort=level)
    fitted, notes = module.fitted(config, heavy)
    assert module.fitted(config, heavy) == (fitted, notes)
    assert kind.model_validate(fitted.model_dump()) == fitted  # whatever is lowered stays legal
    changed = {key for key, value in fitted if value != dict(begun(config))[key]}
    assert all(any(key in note for note in notes) for key in changed - {"sections", "parts", "certified_inputs"})
    assert bool(changed) == bool(notes)


def test_effort_and_budget_order_the_operations_of_a_sweep(heavy: Subject):
    spent = []
    for level in ("quick", "standard", "thorough"):
        config, _ = filtering.fitted(FilteringConfig(effort=level), heavy)
        needed = filtering.operations(config, heavy)
        assert needed <= filtering.budget(config)
        spent.append(needed)
    assert spent[0] < spent[1] < spent[2]
    least, notes = filtering.fitted(FilteringConfig(budget=0.001), heavy)
    assert (least.mode, least.n, least.inputs) == ("static", 5, 20)
    assert "mode = static" in notes[0]
    assert "even with few inputs" in too_long(heavy, FilteringConfig(budget=0.001))
    assert too_long(heavy, FilteringConfig()) == ""
    kept, _ = filtering.fitted(FilteringConfig(budget=0.001, mode="both", n=25), heavy)
    assert (kept.mode, kept.n, kept.inputs) == ("both", 25, 20)


@pytest.mark.parametrize(
    ("config", "inputs", "thresholds"),
    [
        (FilteringConfig(effort="quick", filters=("high",), draws=100), 40, 13),
        (FilteringConfig(effort="quick", n=7, filters=("high",), draws=100), 40, 7),
        (FilteringConfig(budget=0.001, filters=("high",), draws=100), 20, 5),
    ],
)
def test_the_sweep_that_runs_is_the_one_that_was_fitted(config: FilteringConfig, inputs: int, thresholds: int):
    found = examine(load_subject("demo", limit=40), config)
    assert found.arrays["performance_clean"].shape[1:] == (1, thresholds)
    assert found.arrays["performance_by_input_clean"].shape == (inputs,)


def test_effort_counts_without_an_audit():
    found = analyse(load_subject("demo", limit=20), attack=None, effort="quick")
    assert found.config.n == 13


def test_screening_is_given_up_before_thresholds(heavy: Subject):
    whole = filtering.operations(FilteringConfig(inputs=256), heavy)
    config, notes = filtering.fitted(FilteringConfig(budget=whole / 1e9 / 2), heavy)
    assert (config.mode, config.n) == ("static", 25)
    assert "inputs = 256" in notes[0]


def test_processes_follow_the_length_of_a_sweep(demo: Subject, heavy: Subject, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(4)), raising=False)
    assert filtering.processes(FilteringConfig(), demo) == 1
    assert filtering.processes(FilteringConfig(), heavy) == 4
    assert filtering.processes(FilteringConfig(threads=2), heavy) == 2

    class Own(nn.Sequential):
        """Defined where another process may not find it."""

    alone = Subject.from_model(Own(*heavy.model.children()), heavy.data)
    assert filtering.processes(FilteringConfig(), alone) == 1


def test_parts_of_the_sensitivity_analysis_fit_their_budget(heavy: Subject, monkeypatch: pytest.MonkeyPatch):
    whole, _ = sensitivity.fitted(SensitivityConfig(), heavy)
    assert whole.sections == SensitivityConfig().sections
    costs = sensitivity.section_costs(whole, heavy)
    dearest = max(costs, key=lambda name: costs[name])
    monkeypatch.setattr(sensitivity, "SECTIONS_BUDGET", 0.99 * sum(costs.values()) * per_pass(heavy))
    less, notes = sensitivity.fitted(SensitivityConfig(), heavy)
    assert set(whole.sections) - set(less.sections) == {dearest}
    assert any(dearest in note for note in notes)
    assert sensitivity.fitted(SensitivityConfig(sections=whole.sections), heavy)[0].sections == whole.sections


def test_a_forecast_adds_up(demo: Subject):
    found = forecast(demo, only=["moments", "smoothness"])
    assert [step.name for step in found.steps] == ["moments", "smoothness"]
    assert all(step.seconds is not None for step in found.steps)
    assert found.seconds[1] == pytest.approx(sum(step.seconds[1] for step in found.steps if step.seconds))
    assert found.speed > 0
    regression = forecast(load_subject("demo:regression", limit=10), only=["boundary"])
    assert [step.runs for step in regression.steps] == [False]
    assert regression.seconds == (0.0, 0.0, 0.0)
    assert str(Estimate("in words")) == "in words"
