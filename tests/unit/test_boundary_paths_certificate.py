"""Certificates of segments are never wrong: against dense sampling, and against crossings that samples miss."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from tests.support.boundary_paths import NETWORKS, Thin, leaves, network, points, same_class_segments
from tests.support.fashion import fashion_cnn, fashion_pictures
from torch import nn

from assay.boundary.field import Field
from assay.boundary.paths import certify_segment
from assay.errors import UsageError
from assay.subject import Subject


@pytest.mark.parametrize("name", NETWORKS)
def test_a_hundred_segments_and_no_wrong_certificate(name: str) -> None:
    model = network(name)
    start, end, label = same_class_segments(model, 100)
    found = certify_segment(model, start, end)
    assert torch.equal(found.label, label)
    out = leaves(copy.deepcopy(model).double(), start, end, label, 10_000)
    refuted = torch.tensor([status == "refuted" for status in found.status])
    assert not bool((found.certified & out).any())
    assert bool((found.certified | refuted).all())  # networks this small are always decided
    assert 5 < int(refuted.sum()) < 95
    x = start.double() + found.counterexample.reshape(-1, 1, 1, 1) * (end.double() - start.double())
    predicted = copy.deepcopy(model).double()(x[refuted]).argmax(1)
    assert bool((predicted != label[refuted]).all())
    assert torch.equal(torch.isnan(found.margin), ~found.certified)


def test_fashion_network_certifies_most_segments_in_few_boxes() -> None:
    model, (x, _) = fashion_cnn(), fashion_pictures()
    label = model(x).argmax(1)
    pairs = [(i, j) for i in range(100) for j in range(i + 1, 100) if label[i] == label[j]][:30]
    first, second = (torch.tensor(side) for side in zip(*pairs, strict=True))
    found = certify_segment(model, x[first], x[second])
    assert int(found.certified.sum()) >= 22
    assert "undecided" not in found.status
    assert float(found.boxes.double().mean()) < 15
    out = leaves(copy.deepcopy(model).double(), x[first], x[second], label[first], 300)
    assert not bool((found.certified & out).any())


@pytest.mark.parametrize("width", [1e-3, 1e-6, 1e-9])
@pytest.mark.parametrize("place", [0.123456, 1 / 3, 0.5])
def test_a_thin_crossing_is_never_certified(width: float, place: float) -> None:
    model = Thin(place, width)
    a, b = points((0.0, 0.0)), points((1.0, 0.3))
    found = certify_segment(model, a, b)
    assert found.status == ("refuted",)
    assert abs(float(found.counterexample) - place) <= width
    assert certify_segment(model, a, b, max_boxes=8).status[0] in ("undecided", "refuted")


def test_a_near_miss_is_certified_with_its_margin() -> None:
    model = Thin(0.4, 1e-3)
    with torch.no_grad():
        model.second.bias[1] -= 1.5e-3  # the tent now ends 5e-4 below
    found = certify_segment(model, points((0.0, 0.0)), points((1.0, 0.0)))
    assert found.status == ("certified",)
    assert 0 < float(found.margin) <= 5e-4 + 1e-12


def test_touching_the_boundary_is_undecided() -> None:
    model: Any = nn.Sequential(nn.Linear(1, 2, dtype=torch.float64), nn.ReLU(), nn.Linear(2, 2, dtype=torch.float64))
    with torch.no_grad():
        model[0].weight.copy_(points((1.0,), (-1.0,)))
        model[0].bias.zero_()
        model[2].weight.copy_(points((1.0, 1.0), (0.0, 0.0)))
        model[2].bias.zero_()  # f_0 - f_1 = |x|
    assert certify_segment(model, points((-1.0,)), points((2.0,)), 0, max_boxes=300).status == ("undecided",)


def test_what_cannot_be_certified_says_why() -> None:
    x = torch.zeros(1, 4)
    curved = certify_segment(nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2)), x, x + 1)
    assert curved.status == ("unsupported",)
    assert "tanh" in curved.unsupported[0]
    function = certify_segment(lambda batch: batch[:, :2], x, x + 1)
    assert function.status == ("unsupported",)
    assert "graph" in function.unsupported[0]


def test_subjects_fields_and_modules_agree() -> None:
    model = network("dense")
    start, end, _ = same_class_segments(model, 6)
    plain = certify_segment(model, start, end)
    for other in (Field(model), Subject.from_model(model, start)):
        found = certify_segment(other, start, end)
        assert found.status == plain.status
        assert torch.equal(found.boxes, plain.boxes)


def test_a_row_alone_gives_the_same_verdict() -> None:
    model = network("max pools")
    start, end, _ = same_class_segments(model, 8)
    together = certify_segment(model, start, end)
    for row in range(8):
        alone = certify_segment(model, start[row : row + 1], end[row : row + 1])
        assert alone.status[0] == together.status[row]
        assert int(alone.boxes) == int(together.boxes[row])


def test_a_label_that_does_not_win_is_refuted_at_an_end() -> None:
    model = network("dense")
    start, end, label = same_class_segments(model, 3)
    found = certify_segment(model, start, end, (label + 1) % 4)
    assert found.status == ("refuted",) * 3


def test_ends_and_labels_that_do_not_fit_are_refused() -> None:
    model = network("dense")
    start, end, label = same_class_segments(model, 3)
    with pytest.raises(UsageError, match="shapes"):
        certify_segment(model, start, end[:2])
    with pytest.raises(UsageError, match="4 classes"):
        certify_segment(model, start, end, 4)
    with pytest.raises(UsageError, match="3 classes"):
        certify_segment(model, start, end, label[:2])
