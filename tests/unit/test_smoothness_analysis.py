"""The smoothness analysis as the audit runs it: on the demo networks, on pictures, and where there is little to say."""

import numpy as np
import pytest
import torch
from tests.support.fashion import fashion_cnn, fashion_pictures
from torch import nn

from assay.errors import SubjectError
from assay.load import load_subject
from assay.results import Status
from assay.smoothness import SmoothnessConfig, plan
from assay.smoothness.analysis import analyse
from assay.smoothness.effort import fitted
from assay.subject import Subject

SMALL = {"paths": 1, "samples": 33, "outputs": 2, "index_inputs": 60}


@pytest.fixture(scope="module")
def found():
    return analyse(load_subject("demo", limit=60), SmoothnessConfig(**SMALL))


def test_every_part_is_there(found):
    assert set(found.tables) == {"paths", "layers", "prediction", "remedies", "indices"}
    assert {finding.rule for finding in found.findings} == {"smoothness.culprit", "smoothness.remedy"}
    assert found.warnings == ()
    paths = found.to_frame("paths")
    assert len(paths) == 2 * 2  # kinds, outputs
    assert set(paths["movement"]) == {"line", "translate"}
    assert (paths["share"] > 0.99).all()  # a piecewise linear network: every bend is a kink
    assert (paths["own"] == 0).all()


def test_parts_of_layers_add_up_and_predictions_stand_beside_them(found):
    layers = found.to_frame("layers")
    assert layers["share"].sum() == pytest.approx(1)
    assert set(layers["node"]) <= {node.name for node in load_subject("demo").graph}
    predicted = found.to_frame("prediction").set_index("layer")
    assert list(predicted.index) == [*layers["layer"], "all"]
    np.testing.assert_allclose(predicted.loc["all", "measured"], 1, rtol=1e-9)
    assert predicted.loc["all", "density"] == pytest.approx(1, abs=0.25)  # few samples of two short paths
    assert (predicted.iloc[:-1]["plug_in"] > 0).all()


def test_remedies_are_measured(found):
    remedies = found.to_frame("remedies")
    assert len(remedies) == 4
    pools = remedies[remedies["change"].str.contains("pools")]
    assert (pools["measured"] > 0.5).all()  # the demo's kinks come from its pools, for the most part
    np.testing.assert_allclose(pools["predicted"], pools["measured"], atol=0.15)
    assert remedies["seen"].notna().sum() == 2


def test_data_in_the_layers(found):
    indices = found.to_frame("indices")
    assert indices["layer"].iloc[0] == "input"
    assert indices["separation"].between(0.5, 1).all()


def test_figures_draw(found):
    kinds = []
    for index, figure in enumerate(found.figures):
        found.plot(index)
        kinds.append(figure.kind)
    assert set(kinds) == {"lines", "bars", "histogram"}


def test_a_regression_network_is_judged():
    subject = load_subject("demo:regression")
    result = analyse(subject, SmoothnessConfig(**SMALL, rough_above=0.1))
    rough = next(finding for finding in result.findings if finding.rule == "smoothness.rough")
    assert rough.status is Status.WARN
    assert rough.place
    assert rough.next_step
    assert set(result.to_frame("paths")["movement"]) == {"line"}  # its inputs are no pictures
    assert {"linear", "exponential"} <= set(result.to_frame("indices").columns)
    calm = analyse(subject, SmoothnessConfig(**SMALL, rough_above=1e6, parts=()))
    assert calm.status is Status.PASS
    assert set(calm.tables) == {"paths", "layers"}


def test_movements_of_pictures():
    x, y = fashion_pictures()
    subject = Subject.from_model(fashion_cnn("relu"), (x[:6], y[:6]))
    config = SmoothnessConfig(
        paths=1, samples=17, outputs=1, movements=("translate", "rotate", "scale", "brightness"), parts=()
    )
    result = analyse(subject, config)
    assert list(result.to_frame("paths")["movement"]) == ["translate", "rotate", "scale", "brightness"]
    assert (result.to_frame("paths")["smp"] > 0).all()


def test_a_smooth_network_has_no_kinks():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 8), nn.SiLU(), nn.Linear(8, 2))
    result = analyse(Subject.from_model(network, torch.randn(30, 4)), SmoothnessConfig(**SMALL))
    assert (result.to_frame("paths")["smp"] == 0).all()
    assert (result.to_frame("paths")["share"] == 0).all()
    assert [finding.rule for finding in result.findings] == ["smoothness.kinks"]
    assert any("no labels" in warning for warning in result.warnings)
    assert len(result.to_frame("layers")) == 0


def test_the_same_twice():
    config = SmoothnessConfig(paths=1, samples=17, outputs=1, movements=("translate",), parts=("remedies",))
    one, two = (analyse(load_subject("demo", limit=20), config) for _ in range(2))
    assert [str(table.rows) for table in one.tables.values()] == [str(table.rows) for table in two.tables.values()]
    assert [finding.sentence for finding in one.findings] == [finding.sentence for finding in two.findings]


def test_progress_ends_where_it_said():
    seen = []
    config = SmoothnessConfig(**SMALL, parts=("indices",))
    analyse(load_subject("demo", limit=60), config, progress=lambda done, total, text: seen.append((done, total)))
    assert seen[0] == (0, 3)
    assert seen[-1] == (3, 3)


def test_what_cannot_be_done_says_so():
    network = nn.Linear(3, 1)
    with pytest.raises(SubjectError, match="at least two inputs"):
        analyse(Subject.from_model(network, torch.randn(1, 3)))
    with pytest.raises(SubjectError, match="no pictures"):
        analyse(Subject.from_model(network, torch.randn(5, 3)), SmoothnessConfig(movements=("rotate",)))
    assert (
        "cannot run"
        in plan(Subject.from_model(network, torch.randn(5, 3)), SmoothnessConfig(movements=("rotate",))).text
    )
    left = analyse(Subject.from_model(network, torch.randn(9, 3)), SmoothnessConfig(movements=("line", "scale")))
    assert any("scale" in warning for warning in left.warnings)


def test_large_networks_get_less_unless_asked(monkeypatch):
    subject = load_subject("demo")
    monkeypatch.setattr("assay.smoothness.effort.BUDGET", 1e9)
    config, notes = fitted(SmoothnessConfig(), subject)
    assert config.paths == 1
    assert config.samples >= 33
    assert any("paths = 1" in note for note in notes)
    asked, _ = fitted(SmoothnessConfig(paths=4, samples=129), subject)
    assert (asked.paths, asked.samples) == (4, 129)
    assert "4 paths of each kind" in plan(subject, SmoothnessConfig(paths=4, samples=129)).text


class Sorted(nn.Module):
    """Sorts, which no capture here knows."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.last = nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x):
        return self.last(torch.sort(torch.relu(self.layer(x)), dim=1).values)


def test_a_network_that_is_seen_from_outside_only():
    torch.manual_seed(0)
    subject = Subject.from_model(Sorted(), (torch.randn(12, 6), torch.randint(0, 2, (12,))))
    result = analyse(subject, SmoothnessConfig(paths=1))
    assert set(result.tables) == {"paths"}
    assert (result.to_frame("paths")["smp"] > 0).all()
    assert any("from outside" in warning for warning in result.warnings)
    assert any("samples" in warning for warning in result.warnings)
    assert result.summary["roughness"].grade.value == "sampled"


def test_a_plan_counts_windows_of_large_pools():
    """36 pairs of nine candidates with seven others each, for at most 1,024 of 3,136 windows and two kinds of paths."""
    subjects = [
        Subject.from_model(nn.Sequential(pool, nn.Flatten(), nn.Linear(3136, 2)), torch.randn(5, 16, 29, 29))
        for pool in (nn.MaxPool2d(3, 2), nn.AvgPool2d(3, 2))
    ]
    large, without = (plan(subject, SmoothnessConfig()) for subject in subjects)
    left_out = plan(subjects[0], SmoothnessConfig(parts=("indices",)))
    assert large.operations is not None
    assert without.operations is not None
    assert large.operations - without.operations > 0.9 * 2 * 1024 * 36 * 7 * 2e6
    assert large.memory > without.memory == left_out.memory
