"""Paths inside regions of known shape: found where they are, inconclusive where not, never through another class."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from tests.support.boundary_paths import (
    Thin,
    annulus,
    box,
    network,
    points,
    same_class_segments,
    spiral,
    torus,
    two_classes,
    union,
    xor,
)
from tests.support.fashion import fashion_cnn, fashion_pictures
from torch import Tensor, nn

from assay.boundary.paths import Connection, connect
from assay.errors import SubjectError, UsageError
from assay.subject import Subject

Model = Callable[[Tensor], Tensor]


def assert_inside(model: Model, found: Connection, count: int = 4001) -> None:
    """Ends as given, every sample in the class, and numbers that fit the path."""
    for row, path in enumerate(found.path):
        if not bool(found.connected[row]):
            assert len(path) == 0
            assert found.reason[row]
            assert int(found.anchors[row]) == 0
            assert torch.isnan(found.length_ratio[row])
            continue
        assert found.reason[row] == ""
        assert len(path) == int(found.anchors[row])
        assert torch.equal(path[0], found.x1[row])
        assert torch.equal(path[-1], found.x2[row])
        steps = torch.linspace(0, 1, count, dtype=path.dtype).reshape((-1,) + (1,) * (path.dim() - 1))
        for a, b in pairwise(path):
            assert bool((model(a + steps * (b - a)).argmax(1) == found.label[row]).all())
        lengths = path.double().diff(dim=0).flatten(1).norm(dim=1)
        distance = (found.x2[row] - found.x1[row]).double().norm()
        assert float(found.length_ratio[row]) == pytest.approx(float(lengths.sum() / distance))
        assert float(found.min_margin[row]) >= 0


def test_a_ball_is_crossed_straight() -> None:
    model = two_classes(lambda x: 4 - x.square().sum(1))
    found = connect(model, points((1.0, 0.5, 0.0)), points((-1.0, 1.0, 0.2)))
    assert found.status == ("found",)
    assert found.anchors.tolist() == [2]
    assert found.straight.tolist() == [True]
    assert found.length_ratio.tolist() == [1.0]
    assert_inside(model, found)


@pytest.mark.parametrize("margin", ["auto", 0.3])
def test_an_annulus_is_walked_around(margin: float | str) -> None:
    model = two_classes(annulus)
    first = points((3.0, 0.0), (3.0, 0.0), (2.05, 0.0), (0.0, -3.9))
    second = points((-3.0, 0.1), (-3.0, 0.0), (-2.02, 0.0), (0.0, 3.99))
    found = connect(model, first, second, margin=margin)  # type: ignore[arg-type]
    assert found.connected.all()
    assert not found.straight.any()
    assert_inside(model, found)


@pytest.mark.parametrize("size", [2, 300])
def test_antipodal_points_with_a_flat_and_broken_gradient_between_them(size: int) -> None:
    """At the midpoint, sqrt(sum x^2) has a gradient that is not a number, and (r - 2)(4 - r) as a polynomial none."""
    ends = torch.zeros(1, size, dtype=torch.float64)
    ends[0, 0] = 3.0
    for inside in (
        lambda x: 1 - (x.square().sum(1).sqrt() - 3).abs(),
        lambda x: 25 - (x.square().sum(1) - 9).square(),
    ):
        found = connect(two_classes(inside), ends, -ends)
        assert found.status == ("found",)
        assert not torch.isnan(found.path[0]).any()
        assert_inside(two_classes(inside), found)


def test_two_half_spaces_are_inconclusive() -> None:
    found = connect(two_classes(lambda x: x[:, 0].abs() - 1), points((2.0, 0.0)), points((-2.0, 0.3)))
    assert found.status == ("inconclusive",)
    assert found.reason[0] in ("depth", "projection")
    assert_inside(two_classes(lambda x: x[:, 0].abs() - 1), found)


def test_midpoints_that_cannot_be_moved_are_inconclusive() -> None:
    """Two small balls in a plateau without any gradient."""
    ends = points((1.0, 0.0, 0.0, 0.0), (-1.0, 0.0, 0.0, 0.0))
    model = two_classes(lambda x: torch.cdist(x, ends).amin(1).lt(1e-3).double() - 0.5)
    found = connect(model, ends[:1], ends[1:], waypoints=20)
    assert found.status == ("inconclusive",)
    assert found.reason == ("projection",)


def test_exclusive_or() -> None:
    model = two_classes(xor)
    found = connect(model, points((1.0, 0.8), (1.0, 0.1), (1.0, 0.8)), points((-1.0, -0.7), (0.1, 1.0), (-1.0, -0.8)))
    assert found.status == ("inconclusive", "found", "inconclusive")
    assert found.reason[0] == "depth"
    assert found.anchors[1] == 2
    assert_inside(model, found)


def test_exclusive_or_with_a_bridge() -> None:
    model = two_classes(lambda x: xor(x) + 10 * torch.relu(x[:, 2]))
    found = connect(model, points((1.0, 0.8, 0.01), (1.0, 0.8, 0.0)), points((-1.0, -0.7, 0.01), (-1.0, -0.7, 0.0)))
    assert found.anchors[0] == 2
    assert_inside(model, found)


@pytest.mark.parametrize(
    ("inside", "first", "second"),
    [
        (torus, (2.0, 0.0, 0.0), (-2.0, 0.0, 0.0)),
        (torus, (2.4, 0.0, 0.0), (-2.4, 0.1, 0.0)),
        (union(box((0.0, 0.0), (3.0, 1.0)), box((0.0, 0.0), (1.0, 3.0))), (2.9, 0.1), (0.9, 2.9)),
        (spiral, (1.0, 0.0), (2.0, 0.0)),
        (spiral, (1.0, 0.0), (3.0, 0.0)),
    ],
    ids=["torus", "torus near its edge", "L", "one turn of a spiral", "two turns of a spiral"],
)
def test_bent_regions_are_connected(inside: Model, first: tuple[float, ...], second: tuple[float, ...]) -> None:
    found = connect(two_classes(inside), points(first), points(second))
    assert found.status == ("found",)
    assert_inside(two_classes(inside), found)


@pytest.mark.parametrize("gap", [0.5, 1e-2, 1e-4, 1e-6])
def test_disjoint_boxes_are_never_connected(gap: float) -> None:
    """Gaps far narrower than the distance of samples."""
    inside = union(box((0.0, 0.0), (1.0, 1.0)), box((1.0 + gap, 0.0), (2.0, 1.0)))
    found = connect(two_classes(inside), points((0.5, 0.5), (0.2, 0.1)), points((1.5, 0.5), (1.9, 0.8)), waypoints=50)
    assert found.status == ("inconclusive", "inconclusive")


def test_ends_of_different_classes() -> None:
    model = two_classes(lambda x: x[:, 0])
    first, second = points((1.0, 0.0), (1.0, 0.0), (-1.0, 0.0)), points((-1.0, 0.0), (1.0, 0.0), (-2.0, 0.0))
    found = connect(model, first, second)
    assert found.status == ("inconclusive", "found", "found")
    assert found.reason[0] == "different classes"
    assert found.label.tolist() == [-1, 0, 1]
    assert found.length_ratio[1] == 1.0
    asked = connect(model, first, second, label=0)
    assert asked.status == ("inconclusive", "found", "inconclusive")
    assert asked.label.tolist() == [0, 0, 0]
    assert asked.reason[2] == "different classes"


def test_ends_just_inside_a_curved_boundary_are_moved_inward() -> None:
    model = two_classes(annulus)
    found = connect(model, points((2.0 + 1e-9, 0.0)), points((-2.0 - 1e-9, 1e-9)), margin=0.5)
    assert found.status == ("found",)
    assert_inside(model, found)
    path = found.path[0]
    for end, anchor in ((path[0], path[1]), (path[-1], path[-2])):  # straight away from the edge
        assert float(annulus(anchor[None])) >= 0.5
        assert float((anchor - end).norm()) == pytest.approx(float(annulus(anchor[None])), rel=1e-2)


def test_anchors_keep_to_the_bounds() -> None:
    """A midpoint would be moved below the bounds to have the margin asked for."""
    inside = lambda x: torch.maximum((x[:, 0] - 0.5).abs() - 0.2, 0.3 - x[:, 1])  # noqa: E731
    found = connect(two_classes(inside), points((0.1, 0.5)), points((0.9, 0.5)), margin=0.5, bounds=(0.0, 1.0))
    assert found.status == ("found",)
    assert float(found.path[0].min()) >= 0.0
    assert float(found.path[0].max()) <= 1.0
    subject = Subject.from_model(network("dense"), torch.rand(4, 1, 6, 6))
    x = torch.rand(2, 1, 6, 6)
    assert connect(subject, x, x).connected.all()


def test_one_row_gives_what_it_gives_in_a_batch() -> None:
    model = two_classes(annulus)
    first, second = points((3.0, 0.0), (2.5, 1.0), (0.0, 3.0)), points((-3.0, 0.0), (-2.5, -1.0), (0.0, -3.0))
    together = connect(model, first, second)
    for row in range(3):
        alone = connect(model, first[row : row + 1], second[row : row + 1])
        torch.testing.assert_close(alone.path[0], together.path[row])
        assert alone.status[0] == together.status[row]


def test_certified_paths_of_a_network() -> None:
    model = network("dense")
    start, end, _ = same_class_segments(model, 40)
    found = connect(model, start, end, certify=True, dense=200)
    assert_inside(model, found, 300)
    assert found.connected.all()
    certified = torch.tensor([status == "certified" for status in found.status])
    assert bool((found.checks.certified[certified] == found.anchors[certified] - 1).all())
    assert int(certified.sum()) >= 38
    assert int((found.checks.boxes > 0).sum()) == 40
    bent = certified & ~found.straight
    assert bool(bent.any())


def test_a_certificate_takes_back_what_samples_found() -> None:
    """A dip narrower than any sampling sees is refuted, and no detour leads around a wall."""
    model = Thin(0.4567, 1e-12)
    first, second = points((0.0, 0.0)), points((1.0, 0.3))
    sampled = connect(model, first, second)
    assert sampled.status == ("found",)
    proven = connect(model, first, second, certify=True)
    assert proven.status == ("inconclusive",)
    assert proven.reason == ("refuted",)
    assert not proven.straight.any()


def test_curved_networks_are_sampled_and_say_so() -> None:
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2)).eval()
    x = torch.zeros(1, 3)
    found = connect(model, x, x + 0.01, certify=True)
    assert found.status == ("found",)
    assert "tanh" in found.checks.unsupported[0]


def test_fashion_pictures_are_connected() -> None:
    model, (x, _) = fashion_cnn(), fashion_pictures()
    label = model(x).argmax(1)
    pairs = [(i, j) for i in range(40) for j in range(i + 1, 40) if label[i] == label[j]][:20]
    first, second = (torch.tensor(side) for side in zip(*pairs, strict=True))
    noisy = x[second] + 0.25 * torch.randn(x[second].shape, generator=torch.Generator().manual_seed(0))
    kept = model(noisy).argmax(1) == label[first]
    found = connect(model, x[first], x[second], dense=200)
    assert found.connected.all()
    assert float(found.length_ratio.max()) < 1.2
    again = connect(model, x[first][kept], noisy[kept], margin=2.0, dense=200)
    assert again.connected.all()
    assert_inside(model, again, 201)


def test_logits_in_other_units_change_nothing() -> None:
    first, second = points((3.0, 0.0)), points((-3.0, 0.1))
    one = connect(two_classes(annulus), first, second)
    large = connect(lambda x: 1000 * two_classes(annulus)(x) + 7, first, second)
    torch.testing.assert_close(one.path[0], large.path[0])
    torch.testing.assert_close(1000 * one.margin, large.margin)


@pytest.mark.parametrize(
    "options",
    [{"margin": 0.0}, {"margin": "big"}, {"depth": -1}, {"points": 0}, {"dense": 0}, {"waypoints": -1}, {"label": 2}],
)
def test_options_out_of_range_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        connect(two_classes(xor), points((1.0, 1.0)), points((2.0, 2.0)), **options)  # type: ignore[arg-type]


def test_inputs_that_do_not_fit_are_refused() -> None:
    with pytest.raises(SubjectError, match="NaN"):
        connect(two_classes(xor), points((1.0, torch.nan)), points((2.0, 2.0)))
    with pytest.raises(UsageError, match="shapes"):
        connect(two_classes(xor), points((1.0, 1.0)), points((2.0, 2.0), (1.0, 1.0)))
