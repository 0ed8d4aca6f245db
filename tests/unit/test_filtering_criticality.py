"""Robust criticality against closed forms and chance; the choice and the interpolation made of it."""

from __future__ import annotations

import math

import pytest
import torch
from tests.support.untouched import assert_same, state_of
from tests.unit.test_filtering_retraining import NETWORK, VALIDATION
from torch import nn
from torch.func import functional_call

from assay.attacks import pgd
from assay.errors import UsageError
from assay.filtering.criticality import (
    Criticality,
    interpolate,
    interpolated,
    least_critical,
    robust_criticality,
)
from assay.filtering.retraining.training import trainable_copy
from assay.filtering.units import select_units
from assay.preprocess import Preprocessing
from assay.subject import Data, Subject

ROWS = robust_criticality(NETWORK, VALIDATION, epsilon=0.05, bounds=(0.0, 1.0))


def losses(changed: dict, x, y) -> tuple[float, float]:
    with torch.no_grad():
        outputs = functional_call(NETWORK, changed, (x,))
        return float(nn.functional.cross_entropy(outputs, y)), float((outputs.argmax(1) == y).double().mean())


def test_worse_than_any_random_change_of_the_same_size():
    x, y = pgd(NETWORK, *VALIDATION, epsilon=0.05, bounds=(0.0, 1.0)), VALIDATION[1]
    base, right = losses({}, x, y)
    parameters = dict(NETWORK.named_parameters())
    assert [row.unit for row in ROWS] == ["0.weight", "4.weight", "8.weight", "11.weight"]
    for row in ROWS:
        assert row.loss == pytest.approx(base, rel=1e-5)
        assert row.accuracy == right
        assert 0.05 < row.norm <= 0.1 + 1e-6
        weight = parameters[row.unit].detach()
        draws = []
        for _ in range(20):
            change = torch.randn_like(weight)
            draws.append(losses({row.unit: weight + 0.1 * weight.norm() * change / change.norm()}, x, y)[0] - base)
        assert row.rise > 2 * max(draws)
        assert row.drop >= 0


def test_linear_layer_in_closed_form():
    """Two classes, one sample: the loss is log(1 + exp(-margin)), and the steepest change of W is known."""
    layer = nn.Linear(3, 2, bias=False, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, -0.5, 0.25], [0.5, 0.75, -1.0]]))
    x, y = torch.tensor([[0.5, 0.25, 1.0]], dtype=torch.float64), torch.tensor([0])
    (row,) = robust_criticality(layer, (x, y), attack=lambda model, x, y: x, epsilon=None, alpha=0.2, steps=40)
    with torch.no_grad():
        outputs = layer(x)[0]
        # The margin is (w0 - w1) x; of all changes of length r it falls most by r |x| sqrt(2).
        margin = float(outputs[0] - outputs[1]) - 0.2 * float(layer.weight.norm()) * float(x.norm()) * math.sqrt(2)
    assert row.changed_loss == pytest.approx(math.log1p(math.exp(-margin)), rel=1e-9)
    assert row.norm == pytest.approx(0.2)


def test_more_room_more_harm_and_batches_do_not_matter():
    small = robust_criticality(NETWORK, VALIDATION, epsilon=0.05, bounds=(0.0, 1.0), alpha=0.02)
    parts = robust_criticality(NETWORK, VALIDATION, epsilon=0.05, bounds=(0.0, 1.0), batch_size=37)
    for less, row, same in zip(small, ROWS, parts, strict=True):
        assert less.rise < row.rise
        assert same.rise == pytest.approx(row.rise, rel=1e-3)


def test_the_worst_point_of_the_path_is_kept():
    """Long steps leap about in the ball; a longer path of the same steps can only find worse."""
    paths = [
        robust_criticality(NETWORK, VALIDATION, epsilon=0.05, include="8", steps=steps, step_size=1.0, alpha=0.5)[
            0
        ].rise
        for steps in range(1, 7)
    ]
    assert paths == sorted(paths)
    assert paths[0] > 0


def test_a_unit_without_influence_is_not_critical():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2), nn.Linear(2, 2))
    with torch.no_grad():
        model[2].weight.zero_()
    x = torch.rand(20, 4)
    first, dead, last = robust_criticality(model, (x, torch.arange(20) % 2), attack=lambda m, x, y: x, epsilon=None)
    assert first.rise == dead.rise == 0  # nothing passes the zero weights; and of zero length, they have no room
    assert dead.norm == 0
    assert last.rise > 0


def test_channels_tied_weights_and_a_subject():
    rows = robust_criticality(
        NETWORK, VALIDATION, epsilon=0.05, include="4", granularity="channel", alpha=0.3, bounds=(0.0, 1.0)
    )
    assert [row.unit for row in rows] == [f"4.weight[{index}]" for index in range(8)]
    (whole,) = robust_criticality(NETWORK, VALIDATION, epsilon=0.05, include="4", alpha=0.3, bounds=(0.0, 1.0))
    assert max(row.rise for row in rows) < whole.rise
    preprocessing = Preprocessing(bounds=(0.0, 1.0), mean=(0.0,), std=(0.5,))
    twice = trainable_copy(NETWORK).eval()
    with torch.no_grad():
        twice[0].weight.mul_(0.5)
    subject = Subject.from_model(twice, Data(*VALIDATION), preprocessing=preprocessing)
    same = robust_criticality(subject, VALIDATION, epsilon=0.05)
    assert [row.rise for row in same] == pytest.approx([row.rise for row in ROWS], rel=1e-3)


def test_the_model_stays_as_it_was():
    model = trainable_copy(NETWORK).train()
    before = state_of(model)
    first = robust_criticality(model, VALIDATION, epsilon=0.05, bounds=(0.0, 1.0))
    assert_same(before, state_of(model))
    assert first == ROWS
    with torch.inference_mode():
        assert robust_criticality(model, VALIDATION, epsilon=0.05, bounds=(0.0, 1.0)) == ROWS


def test_least_critical():
    rows = [
        Criticality(name, 1, 1.0, 1.0 + rise, 1.0, 1.0, 0.1) for name, rise in zip("abcd", [3, 1, 2, 1], strict=True)
    ]
    assert least_critical(rows) == ("b",)
    assert least_critical(rows, 3) == ("b", "c", "d")
    assert least_critical(rows, 0) == ()
    with pytest.raises(UsageError, match="4 units, not 5"):
        least_critical(rows, 5)


def test_interpolation():
    old, new = NETWORK.state_dict(), trainable_copy(NETWORK).state_dict()
    new = {name: value + 1 if value.dtype.is_floating_point else value + 3 for name, value in new.items()}
    for share, expected in ((0.0, old), (1.0, new)):
        mixed = interpolated(old, new, share)
        assert all(torch.equal(mixed[name], expected[name]) for name in old if old[name].dtype.is_floating_point)
        assert mixed["1.num_batches_tracked"] == new["1.num_batches_tracked"]
    torch.testing.assert_close(interpolated(old, new, 0.25)["0.weight"], old["0.weight"] + 0.25)
    with pytest.raises(UsageError, match="names or shapes"):
        interpolated(old, {"0.weight": new["0.weight"]}, 0.5)


def test_interpolation_stops_where_robustness_goes():
    """Towards a network with zero weights everything is lost; towards itself nothing is."""
    old = NETWORK.state_dict()
    ruined = {name: torch.zeros_like(value) for name, value in old.items()}
    share, points = interpolate(NETWORK, ruined, VALIDATION, epsilon=0.05, shares=(0.5, 1.0), bounds=(0.0, 1.0))
    assert share == 0.0
    assert points[1].clean < 0.2
    with torch.no_grad():
        clean = float((NETWORK(VALIDATION[0]).argmax(1) == VALIDATION[1]).double().mean())
    share, points = interpolate(NETWORK, old, VALIDATION, epsilon=0.05, shares=(0.0, 1.0), bounds=(0.0, 1.0))
    assert share == 0.0
    assert points[0].clean == points[1].clean == clean
    assert points[0].robust == points[1].robust == ROWS[0].accuracy


@pytest.mark.parametrize("settings", [{"alpha": 0.0}, {"alpha": math.inf}, {"steps": 0}, {"step_size": 0.0}])
def test_settings_that_do_not_fit(settings):
    with pytest.raises(UsageError, match="cannot be used"):
        robust_criticality(NETWORK, VALIDATION, epsilon=0.05, **settings)


def test_units_are_those_of_select_units():
    names = [unit.name for unit in select_units(NETWORK)]
    assert [row.unit for row in ROWS] == names
    assert [row.weights for row in ROWS] == [54, 432, 512, 160]
