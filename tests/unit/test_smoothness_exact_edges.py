"""Corners of the walk along a line: kinks closer than rounding, values in pieces, a network that does not listen."""

from __future__ import annotations

import pytest
import torch
from tests.support.inputs import Function, numbers
from tests.support.smoothness_exact import measured
from torch import Tensor, nn

from assay.smoothness.estimators import polyline_rules
from assay.smoothness.estimators.exact_line import _intervals, _joined, exact_line
from assay.smoothness.estimators.polyline import END, Marks

ZERO, ONE = torch.zeros(1), torch.ones(1)


def marks(*rows: tuple[int, int, bool]) -> Marks:
    layer, unit, several = zip(*rows, strict=True)
    local = [float(10 * place + 1) for place in range(len(rows))]
    return Marks(torch.tensor(layer), torch.tensor(unit), torch.tensor(several), torch.tensor(local).double())


def joined_by_hand(rows: Marks, first: int, last: int) -> tuple[int, int, bool, float]:
    """The first mark of the earliest layer; several where any says so, or two of them name different units."""
    real = [place for place in range(first, last + 1) if int(rows.layer[place]) != END]
    if not real:
        return END, int(rows.unit[first]), False, float(rows.local[first])
    best = min(real, key=lambda place: (int(rows.layer[place]), place))
    names = {(int(rows.layer[place]), int(rows.unit[place])) for place in real}
    several = len(names) > 1 or any(bool(rows.several[place]) for place in real)
    return int(rows.layer[best]), int(rows.unit[best]), several, float(rows.local[best])


def test_rows_that_are_one_kink_have_the_mark_of_the_earliest_layer() -> None:
    rows = marks(
        (END, END, False), (5, 1, False), (3, 2, False), (3, 2, False), (3, 7, False),
        (4, 0, True), (END, END, False), (2, 6, False), (9, 9, False), (END, END, False),
    )  # fmt: skip
    spans = [(first, last) for first in range(10) for last in range(first, 10)]
    first, last = (torch.tensor(column) for column in zip(*spans, strict=True))
    found = _joined(rows, first, last)
    for place, (low, high) in enumerate(spans):
        layer, unit, several, local = joined_by_hand(rows, low, high)
        assert int(found.layer[place]) == layer, (low, high)
        assert bool(found.several[place]) == several, (low, high)
        if layer != END:
            assert (int(found.unit[place]), float(found.local[place])) == (unit, local), (low, high)


def test_no_rows_are_no_kinks() -> None:
    none = torch.zeros(0, dtype=torch.long)
    assert len(_joined(marks((1, 1, False)), none, none).layer) == 0


def test_intervals_too_short_to_have_a_slope_are_left_out() -> None:
    t = torch.tensor([0.0, 0.25, 0.25 + 1e-14, 0.75, 1.0], dtype=torch.float64)
    low, high = _intervals(t, 1e-13)
    assert low.tolist() == [0, 2, 3]
    assert high.tolist() == [1, 3, 4]
    low, high = _intervals(t, 2.0)
    assert (low.tolist(), high.tolist()) == ([2], [3]), "where none is long enough, the longest"


@pytest.mark.parametrize("distance", [3e-15, 2e-14])
def test_two_kinks_closer_than_rounding_are_one(distance: float) -> None:
    model = Function(lambda x: torch.relu(x - 0.5) + torch.relu(2 * (x - 0.5 - distance)))
    found = exact_line(*measured(model, ZERO, ONE))
    assert found.kinks is not None
    assert found.count == 1
    assert float(found.value) == pytest.approx(3)
    assert float(found.kinks.t) == pytest.approx(0.5, abs=1e-13)


def test_kinks_far_enough_apart_are_two() -> None:
    model = Function(lambda x: torch.relu(x - 0.5) + torch.relu(2 * (x - 0.5 - 1e-9)))
    found = exact_line(*measured(model, ZERO, ONE))
    assert found.count == 2
    assert float(found.value) == pytest.approx(3)


def test_a_network_that_does_not_depend_on_its_input() -> None:
    class Deaf(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(numbers(3))

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(self.weight) + torch.zeros_like(x)

    found = exact_line(*measured(Deaf().double(), torch.zeros(3), torch.ones(3)))
    assert found.count == 0
    assert not found.value.any()


@pytest.mark.parametrize("columns", [1, 3000, 20000, 10**9])
@pytest.mark.parametrize("kind", ["convolution", "transposed"])
def test_convolutions_a_few_rows_at_a_time(kind: str, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(2, 3, 3) if kind == "convolution" else nn.ConvTranspose2d(2, 3, 3)
    model = nn.Sequential(layer, nn.ReLU(), nn.Conv2d(3, 2, 2, stride=2), nn.ReLU(), nn.Flatten()).double()
    line = [numbers(2, 6, 6, seed=1), numbers(2, 6, 6, seed=2)]
    whole = exact_line(*measured(model, *line))
    monkeypatch.setattr(polyline_rules, "_COLUMNS", columns)
    parts = exact_line(*measured(model, *line))
    assert whole.count > 20
    assert parts.count == whole.count
    torch.testing.assert_close(parts.value, whole.value, rtol=1e-12, atol=0)
