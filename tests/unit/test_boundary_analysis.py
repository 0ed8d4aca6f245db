"""The boundary analysis on real networks: what it says, what it refuses, what the command line makes of it."""

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from tests.support.fashion import fashion_cnn, fashion_pictures
from torch import nn

from assay.boundary import BoundaryConfig, analyse, boundary_point, plan, regimes
from assay.boundary.effort import fitted
from assay.errors import SubjectError
from assay.load import load_subject
from assay.results import Status
from assay.store import open_run
from assay.subject import Subject

SMALL: dict[str, Any] = {
    "inputs": 60, "spectrum_inputs": 2, "pairs": 2, "certified_segments": 2, "certified_inputs": 2, "noise_draws": 200,
    "probes": 10,
}  # fmt: skip


def demo() -> Subject:
    return load_subject("demo", limit=60)


@pytest.fixture(scope="module")
def found():
    return analyse(demo(), BoundaryConfig(**SMALL))


def test_every_part_answers(found):
    assert set(found.tables) == {"inputs", "bends", "curvature", "flips", "subspaces", "paths", "detection"}
    assert {finding.rule.split(".")[0] for finding in found.findings} == {"boundary"}
    rules = {finding.rule: finding for finding in found.findings}
    assert {
        "boundary.found",
        "boundary.certified",
        "boundary.asymmetry",
        "boundary.connected",
        "boundary.evasion",
    } <= set(rules)
    assert rules["boundary.certified"].status is Status.PASS
    assert "adaptive" in " ".join(found.warnings)
    assert all(math.isfinite(quantity.value) for quantity in found.summary.values())


def test_distances_are_those_of_the_points_and_above_the_certified_ones(found):
    subject = demo()
    assert subject.data is not None
    points = boundary_point(subject, subject.data.inputs, bounds=None)
    frame = found.to_frame("inputs")
    np.testing.assert_allclose(frame["distance"], points.distance, rtol=1e-6)
    known = frame.dropna(subset=["certified"])
    assert len(known) == 2
    assert ((known["certified"] > 0) & (known["certified"] <= known["distance"])).all()


def test_figures_draw(found):
    kinds = set()
    for index, figure in enumerate(found.figures):
        found.plot(index)
        kinds.add(figure.kind)
    assert {"histogram", "matrix", "lines", "scatter", "regions"} <= kinds


def test_progress_ends_where_it_said():
    seen = []
    analyse(demo(), BoundaryConfig(inputs=12, parts=()), progress=lambda done, total, text: seen.append((done, total)))
    assert seen[0][0] == 0
    assert seen[-1][0] == seen[-1][1]


@pytest.mark.slow
def test_same_bytes_twice():
    config = BoundaryConfig(**(SMALL | {"inputs": 20, "parts": ("curvature", "noise", "paths")}))
    first, second = (analyse(demo(), config) for _ in range(2))
    assert [str(table.rows) for table in first.tables.values()] == [str(table.rows) for table in second.tables.values()]
    assert [finding.sentence for finding in first.findings] == [finding.sentence for finding in second.findings]


@pytest.mark.parametrize("activation", ["relu", "silu"])
def test_a_convolutional_network_on_pictures(activation):
    x, y = fashion_pictures()
    subject = Subject.from_model(fashion_cnn(activation), (x[:24], y[:24]))
    config = BoundaryConfig(**(SMALL | {"spectrum_inputs": 1, "parts": ("curvature", "paths")}))
    result = analyse(subject, config)
    assert result.summary["found"].value == 1
    assert result.summary["connected"].value == 1
    assert result.summary["refined"].value < 1
    stated = " ".join(finding.sentence for finding in result.findings)
    assert ("at scale 2.8" in stated) == (activation == "relu")


def test_a_linear_network_is_flat_and_says_so():
    torch.manual_seed(0)
    x = torch.randn(50, 20)
    network = nn.Linear(20, 3)
    result = analyse(Subject.from_model(network, x), BoundaryConfig(**SMALL))
    flat = next(finding for finding in result.findings if finding.rule == "boundary.asymmetry")
    assert "flat" in flat.sentence
    frame = result.to_frame("inputs")
    network.requires_grad_(False)
    logits = network(x)
    gaps = []
    for row, own in enumerate(logits.argmax(1).tolist()):
        gaps.append(
            min(
                float((logits[row, own] - logits[row, other]) / (network.weight[own] - network.weight[other]).norm())
                for other in range(3)
                if other != own
            )
        )
    np.testing.assert_allclose(frame["distance"], gaps, rtol=1e-4)
    certified = frame.dropna(subset=["certified"])
    np.testing.assert_allclose(certified["certified"], certified["distance"], rtol=0.02)


def test_a_constant_network_has_no_boundary():
    last = nn.Linear(4, 2)
    nn.init.zeros_(last.weight)
    last.bias.data = torch.tensor([1.0, 0.0])
    network = nn.Sequential(nn.Flatten(), last)
    result = analyse(Subject.from_model(network, torch.randn(5, 4)), BoundaryConfig(**SMALL))
    assert result.summary["found"].value == 0
    assert set(result.tables) == {"inputs"}
    assert any("nothing else" in warning for warning in result.warnings)


def test_regression_and_missing_data_are_refused():
    with pytest.raises(SubjectError, match="no decision boundary"):
        analyse(load_subject("demo:regression", limit=5))
    with pytest.raises(SubjectError, match="needs data"):
        analyse(Subject.from_model(nn.Linear(3, 2), example=torch.zeros(2, 3)))


def test_large_models_get_less_unless_asked():
    small, notes = fitted(BoundaryConfig(), demo())
    assert small == BoundaryConfig()
    assert notes == ()
    wide = nn.Sequential(nn.Flatten(), *[nn.Linear(3000, 3000) for _ in range(12)], nn.Linear(3000, 3))
    subject = Subject.from_model(wide, torch.zeros(400, 3000))
    less, notes = fitted(BoundaryConfig(), subject)
    assert less.inputs < BoundaryConfig().inputs
    assert "inputs" in notes[0]
    asked, _ = fitted(BoundaryConfig(inputs=100), subject)
    assert asked.inputs == 100
    assert "forward passes" in plan(subject, BoundaryConfig()).text


def test_pairs_share_a_predicted_class_and_come_from_others():
    x, _ = fashion_pictures()
    network = fashion_cnn()
    found = regimes(network, x[:60], 6)
    assert set(found) == {"image-image", "image-perturbed", "image-noise", "perturbed-perturbed"}
    for kind, (first, second) in found.items():
        assert len(first) == len(second) == 6, kind
        assert torch.equal(network(first).argmax(1), network(second).argmax(1))
        assert not torch.equal(first, second)
    known = {tuple(picture.flatten().tolist()) for picture in x[:60]}
    assert all(tuple(picture.flatten().tolist()) in known for picture in found["image-perturbed"][0])
    assert not any(tuple(picture.flatten().tolist()) in known for picture in found["image-perturbed"][1])


@pytest.mark.slow
def test_the_command_line_runs_it(run_cli, tmp_path):
    done = run_cli(
        "audit", "demo", "--only", "boundary", "--limit", "40", "--boundary.inputs", "40", "--boundary.pairs", "2",
        "--boundary.spectrum-inputs", "1", "--boundary.certified-inputs", "1", "--boundary.noise-draws", "100",
        "--boundary.parts", "curvature", "--boundary.parts", "paths", "-o", "run", "--json",
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stderr
    document = json.loads(done.stdout)
    assert list(document["results"]) == ["boundary"]
    tables = open_run(tmp_path / "run").results["boundary"].tables
    assert {"inputs", "bends", "paths"} <= set(tables)
    report = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "decision boundary" in report


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--boundary.noise-levels", "0.5", "--boundary.noise-levels", "0.1"), "increase"),
        (("--boundary.scale", "-1"), "scale"),
    ],
)
def test_flags_that_cannot_be_used_are_one_clear_error(run_cli, flags, said):
    done = run_cli("audit", "demo", "--only", "boundary", "--limit", "12", *flags, "-o", "r")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert said in done.stderr


def test_an_estimator_that_does_not_fit_leaves_out_its_part_and_says_why():
    config = BoundaryConfig(inputs=12, certified_inputs=0, estimator="exact", parts=("curvature",))
    found = analyse(demo(), config)
    assert set(found.tables) == {"inputs"}
    assert any("curvature was left out" in warning and "piecewise linear" in warning for warning in found.warnings)
