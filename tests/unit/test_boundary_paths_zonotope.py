"""Enclosures of segments: every rule holds every point, bands are as narrow as they can be, rounding is inside."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
import torch
from tests.support.boundary_paths import network, pictures
from tests.support.inputs import numbers
from torch import Tensor, nn

from assay.boundary.paths import TABLE
from assay.boundary.paths.prepared import prepared
from assay.boundary.paths.zonotope import Zonotope, point, propagate, refusals, segment
from assay.boundary.paths.zonotope_bends import hinge, increasing
from assay.boundary.paths.zonotope_maxima import largest
from assay.graph import capture
from assay.interpret import check_rule


@pytest.mark.parametrize("operator", [rule.operator for rule in TABLE])  # type: ignore[attr-defined]
def test_every_rule_holds_every_point(operator: str) -> None:
    check_rule(TABLE, operator)


def element(centre: float, slope: float, error: float) -> Zonotope:
    return Zonotope(*(torch.tensor([value], dtype=torch.float64) for value in (centre, slope, error)))


def test_relu_of_a_segment_through_its_kink() -> None:
    found = hinge(element(0.0, 1.0, 0.0))  # |s| cut at 0: between s / 2 and (s + 1) / 2
    assert float(found.slope) == 0.5
    assert float(found.centre) == pytest.approx(0.25)
    assert float(found.error) == pytest.approx(0.25)


def test_relu_of_an_interval_keeps_half_of_it() -> None:
    found = hinge(element(0.0, 0.0, 1.0))
    assert (float(found.slope), float(found.centre)) == (0.0, 0.5)
    assert float(found.error) == pytest.approx(0.5)


def test_units_away_from_their_kink_stay_exact() -> None:
    on, off = hinge(element(2.0, 1.0, 0.5)), hinge(element(-2.0, 1.0, 0.5))
    assert (float(on.centre), float(on.slope), float(on.error)) == (2.0, 1.0, 0.5)
    assert (float(off.centre), float(off.slope), float(off.error)) == (0.0, 0.0, 0.0)


def width(x: Zonotope, slope: Tensor) -> Tensor:
    """Height of the narrowest band of this slope around ReLU over s and d, by brute force."""
    s = torch.linspace(-1, 1, 2001, dtype=torch.float64)
    top = (x.centre + x.error + x.slope * s).clamp(min=0) - slope * s
    bottom = (x.centre - x.error + x.slope * s).clamp(min=0) - slope * s
    return top.max() - bottom.min()


def test_no_other_slope_gives_a_narrower_band() -> None:
    for c, e, r in numbers(25, 3, seed=1).tolist():
        x = element(c, e, abs(r))
        found = hinge(x)
        best = min(float(width(x, slope)) for slope in torch.linspace(-3, 3, 601, dtype=torch.float64))
        assert 2 * float(found.error) <= best + 2e-2
        assert 2 * float(found.error) >= float(width(x, found.slope)) - 1e-2


def test_clip_away_from_its_bounds_is_linear() -> None:
    x = element(0.5, 0.3, 0.1)
    found = increasing(x, lambda value: value.clamp(0, 1), (0.0, 1.0), x.magnitude + 1)
    assert float(found.slope) == pytest.approx(0.3)
    assert float(found.error) == pytest.approx(0.1)


def test_maximum_of_crossing_lines_has_the_floor_of_the_lowest_crossing() -> None:
    """max(s, -s, 0.4): between 0.4 and 1, with no slope."""
    parts = torch.tensor([[[0.0, 0.0, 0.4]], [[1.0, -1.0, 0.0]], [[0.0, 0.0, 0.0]]], dtype=torch.float64)
    found = largest(Zonotope(*parts))
    assert float(found.slope) == 0.0
    assert float(found.centre) == pytest.approx(0.7)
    assert float(found.error) == pytest.approx(0.3)


def test_a_winner_everywhere_is_the_maximum() -> None:
    parts = torch.tensor([[[3.0, 0.0]], [[1.0, -1.0]], [[0.25, 0.5]]], dtype=torch.float64)
    found = largest(Zonotope(*parts))
    assert (float(found.centre), float(found.slope), float(found.error)) == (3.0, 1.0, 0.25)


def test_curved_operators_are_refused() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.SiLU(), nn.Linear(4, 2)).eval()
    places = refusals(capture(model, torch.randn(2, 3)))
    assert len(places) == 1
    assert "silu" in places[0]


@pytest.mark.parametrize("name", ["dense", "max pools", "residual", "average pool"])
def test_whole_networks_hold_points_of_segments(name: str) -> None:
    model = network(name)
    found = prepared(model, pictures(2))
    assert found.graph is not None
    assert found.unsupported == ()
    start, end = pictures(6, seed=4).double(), pictures(6, seed=5).double()
    low = torch.linspace(0, 0.9, 6, dtype=torch.float64)
    own = model(start.float()).argmax(1)
    result = found.differences(segment(start, end, low, low + 0.1), own)
    for share in torch.linspace(0, 1, 41, dtype=torch.float64):
        t = (low + 0.1 * share).reshape(-1, 1, 1, 1)
        exact = found.differences(point(start + t * (end - start)), own)
        outside = (exact.centre - result.centre - (2 * share - 1) * result.slope).abs() - result.error
        assert float(outside.max()) <= 1e-12


def test_rounding_is_inside_the_error() -> None:
    """The true value, in rational arithmetic, of a network whose sums cancel badly."""
    torch.manual_seed(0)
    model: Any = nn.Sequential(nn.Linear(12, 40), nn.ReLU(), nn.Linear(40, 2)).double().eval()
    with torch.no_grad():
        model[0].weight *= 1e8
        model[2].weight[1] = model[2].weight[0] * (1 + 1e-15)
    graph = capture(model, torch.zeros(2, 12, dtype=torch.float64))
    inputs = numbers(4, 12, seed=3)
    found = propagate(graph, point(inputs))
    off = 0
    for row, x in enumerate(inputs):
        hidden = [max(Fraction(0), value) for value in exactly(model[0], [Fraction(v) for v in x.tolist()])]
        for column, value in enumerate(exactly(model[2], hidden)):
            error = abs(value - Fraction(float(found.centre[row, column])))
            assert error <= Fraction(float(found.error[row, column]))
            off += error > 0
    assert off > 0  # there was something to cover


def exactly(layer: nn.Module, x: list[Fraction]) -> list[Fraction]:
    assert isinstance(layer, nn.Linear)
    rows = zip(layer.weight.tolist(), layer.bias.tolist(), strict=True)
    return [sum((Fraction(w) * v for w, v in zip(row, x, strict=True)), Fraction(b)) for row, b in rows]
