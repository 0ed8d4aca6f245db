"""Plane slices: classes at the right places, distances as in the input space."""

from __future__ import annotations

import pytest
import torch
from tests.support.boundary_paths import annulus, points, two_classes
from tests.support.inputs import numbers

from assay.boundary.paths import class_slice
from assay.errors import UsageError

CORNERS = points((0.0, 0.0, 0.0), (3.0, 0.0, 0.0), (0.0, 0.0, 4.0))


def test_classes_and_margins_are_those_of_the_points() -> None:
    model = two_classes(annulus)
    found = class_slice(model, CORNERS, resolution=21)
    first, second = found.basis
    for row, column in ((0, 0), (3, 17), (20, 20), (11, 4)):
        x = (found.origin + found.first[column] * first + found.second[row] * second)[None]
        logits = model(x)
        assert int(found.label[row, column]) == int(logits.argmax(1))
        assert float(found.margin[row, column]) == pytest.approx(float(logits.diff().abs()))
    assert found.label.unique().tolist() == [0, 1]


def test_the_plane_holds_its_points_with_their_distances() -> None:
    x = numbers(3, 2, 5, seed=2)
    found = class_slice(two_classes(lambda batch: batch.sum((1, 2))), x, resolution=5)
    places, off = found.project(x)
    torch.testing.assert_close(places, found.points)
    assert float(off.max()) < 1e-12
    torch.testing.assert_close(torch.cdist(places, places), torch.cdist(x.flatten(1), x.flatten(1)))
    left, right, bottom, top = found.extent
    assert left < float(places[:, 0].min()) < float(places[:, 0].max()) < right
    assert bottom < float(places[:, 1].min()) < float(places[:, 1].max()) < top
    assert right - left == pytest.approx(top - bottom)


def test_a_point_and_two_directions() -> None:
    directions = points((0.0, 2.0, 0.0), (0.0, 2.0, 1.0))
    found = class_slice(two_classes(annulus), CORNERS[:1], directions=directions, reach=5.0, resolution=11)
    torch.testing.assert_close(found.basis, points((0.0, 1.0, 0.0), (0.0, 0.0, 1.0)))
    assert found.extent == (-5.0, 5.0, -5.0, 5.0)
    radius = (found.first.square() + found.second[:, None].square()).sqrt()
    clear = ((radius - 2).abs() > 1e-9) & ((radius - 4).abs() > 1e-9)
    assert torch.equal((found.label == 0)[clear], ((radius > 2) & (radius < 4))[clear])
    _, off = found.project(points((7.0, 1.0, 1.0)))
    assert float(off) == pytest.approx(7.0)


def test_points_on_a_line_get_a_plane_that_is_the_same_every_time() -> None:
    line = points((0.0, 0.0, 0.0), (1.0, 1.0, 0.0), (2.0, 2.0, 0.0))
    one, two = (class_slice(two_classes(annulus), line, resolution=5) for _ in range(2))
    assert torch.equal(one.basis, two.basis)
    torch.testing.assert_close(one.basis.flatten(1) @ one.basis.flatten(1).T, torch.eye(2, dtype=torch.float64))
    assert float(one.project(line)[1].max()) < 1e-12


def test_what_spans_no_plane_is_refused() -> None:
    model = two_classes(annulus)
    with pytest.raises(UsageError, match="equal"):
        class_slice(model, CORNERS[:1].repeat(3, 1) + 1)
    with pytest.raises(UsageError, match="parallel"):
        class_slice(model, CORNERS[:1], directions=points((1.0, 0.0, 0.0), (2.0, 0.0, 0.0)))
    with pytest.raises(UsageError, match="span no plane"):
        class_slice(model, CORNERS[:2])
    with pytest.raises(UsageError, match="resolution"):
        class_slice(model, CORNERS, resolution=1)
