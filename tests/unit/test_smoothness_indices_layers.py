import pytest
import torch
from tests.support.inputs import close, numbers
from torch import nn

from assay.errors import SubjectError, UsageError
from assay.smoothness.indices import layer_indices, layers, separation_index, smoothness_index
from assay.smoothness.indices.layers import _Sketch


def pictures():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 5), nn.Tanh(), nn.Linear(5, 3)
    ).double()
    return model, numbers(24, 1, 8, 8)


def test_every_layer_is_compared_with_its_own_values():
    model, x = pictures()
    y, labels = numbers(24, 2, seed=1), torch.arange(24) % 3
    values, represented = x, [x]
    for module in model:
        values = module(values).detach()
        if not isinstance(module, nn.Flatten):
            represented.append(values)
    regression, classes = layer_indices(model, x, y), layer_indices(model, x, labels)
    assert [row.place.split()[-1] for row in regression[1:]] == [
        "(conv)", "(relu)", "(max_pool)", "(linear)", "(tanh)", "(linear)"
    ]  # fmt: skip
    assert regression[0].place == "input"
    for row, other, expected in zip(regression, classes, represented, strict=True):
        assert row.units == row.kept == expected[0].numel()
        assert row.grade == "exact"
        assert row.values["linear"] == pytest.approx(smoothness_index(expected, y))
        assert row.values["exponential"] == pytest.approx(smoothness_index(expected, y, form="exponential"))
        assert other.values["separation"] == separation_index(expected, labels)
        assert other.values["centre"] == separation_index(expected, labels, kind="centre")


def test_order_batches_and_groups_reach_every_layer(monkeypatch):
    model, x = pictures()
    labels = torch.arange(24) % 2
    whole = [row.values for row in layer_indices(model, x, labels, order=3)]
    assert whole[0]["separation"] == separation_index(x, labels, order=3)
    monkeypatch.setattr(layers, "_MEMORY", 8 * 24 * 200)  # several passes over the network
    assert [row.values for row in layer_indices(model, x, labels, order=3, batch_size=5)] == whole


def test_wide_layers_are_sketched_and_say_so():
    model, x = pictures()
    y = x.sum((1, 2, 3))
    rows = layer_indices(model, x, y, width=60)
    assert [row.grade for row in rows[:3]] == ["sampled"] * 3
    assert [row.kept for row in rows[:3]] == [60] * 3
    assert rows[3].grade == "exact"
    again, other = (layer_indices(model, x, y, width=60, seed=seed) for seed in (0, 1))
    assert [row.values for row in again] == [row.values for row in rows]
    assert [row.values for row in other[:2]] != [row.values for row in rows[:2]]
    exact = [row.values for row in layer_indices(model, x, y, width=None)]
    assert [row.values for row in rows[4:]] == exact[4:]


def test_sketches_keep_squared_distances_in_the_mean():
    x, width = numbers(6, 500), 40
    difference = x[:1] - x[1:]
    squares = torch.stack([_Sketch(500, width, seed)(difference).square().sum(1) for seed in range(400)])
    ratio = squares / difference.square().sum(1)
    assert float((ratio.mean(0) - 1).abs().max()) < 5 * (2 / width) ** 0.5 / 20  # five standard errors
    assert float(ratio.std(0).max()) < 1.3 * (2 / width) ** 0.5
    close(_Sketch(500, 500, 0)(x), x)


def test_ties_are_counted():
    dead = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    with torch.no_grad():
        dead[0].bias.fill_(-100.0)
    rows = layer_indices(dead, numbers(10, 3), numbers(10, seed=1))
    assert [row.ties for row in rows] == [0.0, 0.0, 1.0]


def test_the_task_can_be_said():
    model, x = pictures()
    grades = torch.arange(24) % 4
    assert set(layer_indices(model, x, grades)[0].values) == {"separation", "centre"}
    assert set(layer_indices(model, x, grades, task="regression")[0].values) == {"linear", "exponential"}
    assert set(layer_indices(model, x, grades.double(), task="classification")[0].values) == {"separation", "centre"}


def test_a_trained_network_separates_more_from_layer_to_layer():
    torch.manual_seed(1)
    angle = torch.rand(200) * 6.28
    labels = torch.arange(200) % 2
    x = torch.stack([angle.cos(), angle.sin()], dim=1) * (1 + 0.35 * labels[:, None]) + 0.2 * torch.randn(200, 2)
    model = nn.Sequential(nn.Linear(2, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 2))
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(300):
        loss = nn.functional.cross_entropy(model(x), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    rows = layer_indices(model, x, labels)
    assert rows[-1].values["separation"] > rows[0].values["separation"] + 0.05
    assert rows[-1].values["centre"] > rows[0].values["centre"] + 0.1


def test_mistakes_are_named():
    model, x = pictures()
    with pytest.raises(SubjectError, match="one label per point"):
        layer_indices(model, x, torch.zeros(3, dtype=torch.long))
    with pytest.raises(UsageError, match="sketch"):
        layer_indices(model, x, torch.zeros(24), width=1)
    with pytest.raises(UsageError, match="task"):
        layer_indices(model, x, torch.zeros(24), task="ranking")
    with pytest.raises(UsageError, match="order"):
        layer_indices(model, x, torch.zeros(24), order=24)
    with pytest.raises(SubjectError, match="NaN"):
        layer_indices(model, x * torch.nan, torch.zeros(24))
