"""Ideal filters against tables and brute force; merged masks, replaced weights, and which weights are filtered."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from tests.support.inputs import numbers
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from assay.errors import NumericalError, SubjectError, UsageError
from assay.filtering import (
    FILTERS,
    distinct_masks,
    is_degenerate,
    masks,
    reinitialised,
    rerandomised,
    select_units,
    stress,
    thresholds,
)
from assay.preprocess import PRESETS
from assay.subject import Subject


def rows(table: str) -> list[list[int]]:
    return [[int(digit) for digit in row] for row in table.split("/")]


def brute_force(weight: Tensor, filter: str, n: int, cover: str = "paper") -> np.ndarray:
    """One comparison at a time, in float64, for values that are exact there."""
    w = weight.double().numpy()
    low, high = w.min(), w.max()
    kept = np.ones((n, *w.shape), bool)
    width = (high - low) / (2 * n) if cover == "paper" else (high - low) / (2 * (n - 1))
    for k, place in product(range(n), np.ndindex(w.shape)):
        rising = high if k == n - 1 else low + k / (n - 1) * (high - low)
        falling = low if k == n - 1 else high - k / (n - 1) * (high - low)
        removed = {
            "high": w[place] <= rising,
            "low": w[place] >= falling,
            "pulse": rising - width <= w[place] < rising + width,
        }
        kept[(k, *place)] = not removed[filter]
    return kept


@pytest.mark.parametrize(
    ("filter", "table"),
    [
        ("high", "01111/00111/00011/00001/00000"),
        ("low", "11110/11100/11000/10000/00000"),
        ("pulse", "01111/10111/11011/11101/11110"),
    ],
)
def test_published_definitions(filter, table):
    kept = masks(torch.tensor([-1.0, -0.5, 0.0, 0.5, 1.0]), filter, 5)
    assert kept.dtype == torch.bool
    assert kept.int().tolist() == rows(table)


def test_a_paper_pulse_has_gaps_and_a_gapless_one_none():
    weight = torch.tensor([0.0, 0.0205, 1.0])
    assert masks(weight, "pulse").all(0).tolist() == [False, True, False]
    assert (~masks(weight, "pulse", cover="gapless")).sum(0).tolist() == [1, 1, 1]


@pytest.mark.parametrize("filter", FILTERS)
@pytest.mark.parametrize("shape", [(7,), (3, 5), (2, 3, 2, 2)])
def test_masks_are_the_definition(filter, shape):
    weight = numbers(*shape, seed=len(shape))
    kept = masks(weight, filter, 9)
    assert kept.shape == (9, *shape)
    assert np.array_equal(kept.numpy(), brute_force(weight, filter, 9))
    assert torch.equal(masks(weight, filter, 9, domain="magnitude"), masks(weight.abs(), filter, 9))
    assert not torch.equal(kept, masks(weight, filter, 9, domain="magnitude"))


def test_gapless_pulses_are_the_definition():
    weight = numbers(40)
    assert np.array_equal(masks(weight, "pulse", 11, cover="gapless").numpy(), brute_force(weight, "pulse", 11, "gap"))


@pytest.mark.parametrize("filter", FILTERS)
@pytest.mark.parametrize("factor", [4.0, 3.0, 2.0**-30])
def test_a_positive_factor_changes_no_mask(filter, factor):
    weight = numbers(500).float()
    assert torch.equal(masks(weight, filter), masks(weight * factor, filter))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_mirror(dtype):
    weight = numbers(200, seed=3).to(dtype)
    for n in (5, 24, 25):
        assert torch.equal(masks(weight, "high", n), masks(-weight, "low", n))
        assert torch.equal(masks(weight, "low", n), masks(-weight, "high", n))
        assert torch.equal(thresholds(weight, "high", n), -thresholds(-weight, "low", n))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_thresholds_are_values_of_the_type_and_end_at_the_extremes(dtype):
    weight = numbers(50, seed=5).to(dtype)
    rising, falling = thresholds(weight, "high"), thresholds(weight, "low")
    assert rising[0] == falling[-1] == weight.min()
    assert rising[-1] == falling[0] == weight.max()
    assert torch.equal(rising, rising.to(dtype).double())
    assert torch.equal(thresholds(weight, "pulse"), rising)
    assert (rising.diff() >= 0).all()
    assert (falling.diff() <= 0).all()
    assert stress(5).tolist() == [0, 0.25, 0.5, 0.75, 1]


def test_thresholds_meet_weights_on_their_grid():
    """Weights on an even grid in float32 tie with the thresholds, which float64 alone would miss by rounding."""
    weight = torch.arange(-5, 6, dtype=torch.float32) * 0.1
    assert masks(weight, "high", 11).sum(1).tolist() == list(range(10, -1, -1))
    assert masks(weight, "low", 11).sum(1).tolist() == list(range(10, -1, -1))


@pytest.mark.parametrize("cover", ["paper", "gapless"])
def test_pulses_hold_the_extremes_where_rounding_swallows_their_width(cover):
    weight = 1e8 + 8 * torch.arange(3, dtype=torch.float32)
    kept = masks(weight, "pulse", 25, cover=cover)
    assert kept.tolist() == [[k != 0, k != 12, k != 24] for k in range(25)]


def test_a_range_that_overflows():
    weight = torch.tensor([-1.5e308, 0.0, 1.5e308], dtype=torch.float64)
    assert masks(weight, "high", 3).int().tolist() == rows("011/001/000")
    assert masks(weight, "low", 3).int().tolist() == rows("110/100/000")
    assert masks(weight, "pulse", 3, cover="gapless").int().tolist() == rows("011/101/110")


def test_common_limits_for_several_tensors():
    small, large = torch.tensor([-0.1, 0.1]), torch.tensor([-1.0, 1.0])
    assert masks(small, "high", 5, limits=(-1.0, 1.0)).int().tolist() == rows("11/11/01/00/00")
    assert masks(large, "high", 5, limits=(-1.0, 1.0)).tolist() == masks(large, "high", 5).tolist()
    assert masks(small, "pulse", 3, limits=(0.5, 1.0)).all()
    with pytest.raises(UsageError, match="limits"):
        masks(small, "high", limits=(1.0, 1.0))


@pytest.mark.parametrize("filter", FILTERS)
def test_constant_tensors_have_one_mask(filter):
    weight = torch.full((3, 2), 0.7)
    assert is_degenerate(weight)
    assert not is_degenerate(torch.tensor([0.0, 1.0]))
    assert not masks(weight, filter).any()
    merged = distinct_masks(weight)
    assert merged.degenerate
    assert len(merged) == 1


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((torch.tensor([1.0, float("nan")]), "high"), NumericalError),
        ((torch.tensor([1.0, float("inf")]), "pulse"), NumericalError),
        ((torch.arange(4), "high"), UsageError),
        ((torch.ones(0), "high"), UsageError),
        ((torch.ones(2), "high", 1), UsageError),
        ((torch.ones(2), "band"), UsageError),
    ],
)
def test_what_cannot_be_filtered_is_refused(arguments, error):
    with pytest.raises(error):
        masks(*arguments)


@pytest.mark.parametrize("settings", [{"domain": "absolute"}, {"cover": "wide"}])
def test_unknown_settings_are_refused(settings):
    with pytest.raises(UsageError, match="There is no"):
        masks(torch.tensor([0.0, 1.0]), "pulse", **settings)


# Merging


def filtered_tensors(weight: Tensor, n: int = 25, **settings) -> dict[tuple[str, int], Tensor]:
    kept = {name: masks(weight, name, n, **settings) for name in FILTERS}
    return {(name, k): torch.where(kept[name][k], weight, 0) for name in FILTERS for k in range(n)}


@pytest.mark.parametrize("settings", [{}, {"domain": "magnitude"}, {"cover": "gapless"}, {"limits": (-0.5, 2.0)}])
@pytest.mark.parametrize("kind", ["normal", "pruned", "ternary", "one", "transposed"])
def test_merged_tensors_are_the_filtered_ones(kind, settings):
    weight = numbers(6, 7, seed=1).float()
    if kind == "pruned":
        weight[weight.abs() < 1] = 0
    elif kind == "ternary":
        weight = weight.round().clamp(-1, 1) + 0.0  # no minus zero
    elif kind == "one":
        weight = torch.tensor([[0.0, 0.0, 2.0]])
    elif kind == "transposed":
        weight = weight.T
    merged = distinct_masks(weight, **settings)
    truth = filtered_tensors(weight, **settings)
    for (name, k), tensor in truth.items():
        assert torch.equal(merged.filtered(int(merged.rows[name][k])), tensor)
        assert merged.removed[name][k] == (~masks(weight, name, **settings)[k]).sum()
        assert merged.changed[name][k] == (tensor != weight).sum()
        assert merged.no_op(name)[k] == torch.equal(tensor, weight)
        kept = float(masks(weight, name, **settings)[k].double().mean())
        assert float(merged.density(name)[k]) == pytest.approx(kept, abs=1e-15)
    different = {tensor.numpy().tobytes() for tensor in truth.values() if not torch.equal(tensor, weight)}
    assert len(merged) == len(different)


def test_weights_on_the_edge_of_a_pulse_belong_to_the_next_one():
    weight = torch.arange(5.0)  # bins [-1, 1), [1, 3), [3, 5]
    assert masks(weight, "pulse", 3, cover="gapless").int().tolist() == rows("01111/10011/11100")
    merged = distinct_masks(weight, n=3, cover="gapless")
    assert merged.intervals["pulse"].tolist() == [[0, 1], [1, 3], [3, 5]]


def test_equal_intervals_are_equal_masks():
    weight = torch.randn(3, 3, generator=torch.Generator().manual_seed(0))
    merged = distinct_masks(weight)
    cells = [(tuple(merged.intervals[f][k].tolist()), masks(weight, f)[k]) for f in FILTERS for k in range(25)]
    for (interval, mask), (other, mask_of_other) in product(cells, cells):
        assert (interval == other) == torch.equal(mask, mask_of_other)
    assert len(merged) <= 25


def test_few_values_give_few_tensors():
    ternary = torch.randint(-1, 2, (64, 64), generator=torch.Generator().manual_seed(0)).float()
    merged = distinct_masks(ternary)
    assert len({tuple(pair) for f in FILTERS for pair in merged.intervals[f].tolist()}) == 7
    assert len(merged) == 3  # and the unfiltered one
    grid = (numbers(16, 16) * 20).round().float()
    assert len(distinct_masks(grid)) < 75


def test_step_filters_end_with_nothing_and_never_put_back():
    merged = distinct_masks(numbers(100))
    for name in ("high", "low"):
        assert (merged.density(name).diff() <= 0).all()
        assert merged.density(name)[-1] == 0
    assert merged.rows["high"][-1] == merged.rows["low"][-1]


def test_rows_that_do_not_exist():
    merged = distinct_masks(numbers(4))
    assert torch.equal(merged.filtered(-1), numbers(4))
    with pytest.raises(UsageError, match="row"):
        merged.filtered(len(merged))


# Replacements


def test_reinitialised_weights_fit():
    weight, initial = torch.zeros(2, 2), torch.ones(2, 2, dtype=torch.float64)
    fresh = reinitialised(weight, initial)
    assert fresh.dtype == torch.float32
    fresh.zero_()
    assert initial.sum() == 4
    with pytest.raises(UsageError, match="shape"):
        reinitialised(weight, torch.ones(4))
    with pytest.raises(NumericalError):
        reinitialised(weight, torch.full((2, 2), float("nan")))


def test_rerandomised_weights_follow_seed_and_name_alone():
    weight = numbers(8, 8).float()
    before = torch.get_rng_state()
    for distribution in ("shuffle", "normal", "layer"):
        layer = nn.Linear(8, 8) if distribution == "layer" else None
        if layer is not None:
            before = torch.get_rng_state()
        settings = {"distribution": distribution, "layer": layer}
        three = rerandomised(weight, draws=3, name="a", **settings)
        torch.rand(3)
        assert torch.equal(rerandomised(weight, draws=1, name="a", **settings)[0], three[0])
        for other in ({"name": "b"}, {"name": "a", "seed": 1}):
            assert not torch.equal(rerandomised(weight, **other, **settings)[0], three[0])
        assert not torch.equal(three[0], three[1])
        torch.set_rng_state(before)
    assert torch.equal(torch.get_rng_state(), before)


def test_distributions_of_fresh_weights():
    weight = numbers(100, 100).float() * 3 + 1
    shuffled = rerandomised(weight)[0]
    assert torch.equal(shuffled.flatten().sort().values, weight.flatten().sort().values)
    normal = rerandomised(weight, distribution="normal", like=0.1 * weight)[0]
    assert abs(float(normal.std() / weight.std()) - 0.1) < 0.0028  # four standard errors, 0.1 / sqrt(20000) each
    assert abs(float(normal.mean()) - 0.1 * float(weight.mean())) < 0.012  # likewise, 0.3 / 100 each


def test_a_layer_draws_anew_as_it_was_drawn_at_first():
    for layer in (nn.Conv2d(3, 5, 3), nn.Linear(7, 5), nn.ConvTranspose2d(4, 2, 3)):
        before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
        state = torch.get_rng_state()
        fresh = rerandomised(layer.weight, distribution="layer", layer=layer)[0]
        assert torch.equal(torch.get_rng_state(), state)
        assert not fresh.requires_grad
        for name, tensor in layer.state_dict().items():
            assert torch.equal(tensor, before[name])
        # torch's default for all of these: uniform on +- 1 / sqrt(fan in), fan in as torch counts it
        limit = 1 / (layer.weight[0].numel()) ** 0.5
        assert 0.8 * limit < float(fresh.abs().max()) <= limit
    with pytest.raises(UsageError, match="draw anew"):
        rerandomised(torch.ones(2), distribution="layer", layer=nn.ReLU())
    with pytest.raises(UsageError, match="draws"):
        rerandomised(torch.ones(2), draws=0)


# Units


class Tied(nn.Module):
    """Two layers with one weight; `shared` tells whether they hold the same Parameter or two on the same memory."""

    def __init__(self, shared: bool) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight if shared else nn.Parameter(self.first.weight.data)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(x)))


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("preset", ["none", "symmetric"])
def test_tied_weights_are_one_unit_and_both_uses_change(shared, preset):
    model = Tied(shared)
    subject = Subject.from_model(model, example=torch.rand(2, 3), preprocessing=PRESETS[preset])
    (unit,) = select_units(subject)
    assert unit.name == "first.weight"
    assert len(unit.aliases) == 2
    for name in ("second", "second.weight", "first.weight"):
        assert select_units(subject, name) == (unit,)
    x = torch.rand(4, 3)
    given = dict(subject.model.named_parameters())[unit.parameter]
    found = subject.call(unit.parameters(torch.zeros_like(given)), x)
    assert torch.equal(found, model.second.bias.detach().expand(4, 3))
    assert not torch.equal(subject.call({}, x), found)


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ConvTranspose2d(4, 2, 2), nn.Flatten(), nn.Linear(2 * 49, 5)
    )


@pytest.mark.parametrize(
    ("include", "names"),
    [
        ("weight", ["0.weight", "2.weight", "4.weight"]),
        ("all", [f"{i}.{name}" for i in (0, 1, 2, 4) for name in ("weight", "bias")]),
        ("0", ["0.weight"]),
        ("0.bias", ["0.bias"]),
        ("0.*", ["0.weight", "0.bias"]),
        (["4", "1"], ["1.weight", "4.weight"]),
        (nn.Linear, ["4.weight"]),
        ((nn.Linear, "0"), ["0.weight", "4.weight"]),
        (lambda name, module, parameter: parameter.dim() == 4, ["0.weight", "2.weight"]),
    ],
)
def test_units_are_chosen_by_name_type_or_function(include, names):
    assert [unit.name for unit in select_units(network(), include)] == names


def test_units_are_left_out():
    assert [unit.name for unit in select_units(network(), exclude=("0", nn.Linear))] == ["2.weight"]


@pytest.mark.parametrize(
    "choice",
    [{"include": "nothing"}, {"include": nn.LSTM}, {"exclude": "nothing"}, {"exclude": "*"}, {"granularity": "row"}],
)
def test_choices_that_match_nothing_are_refused(choice):
    with pytest.raises(UsageError):
        select_units(network(), **choice)


def test_attention_and_recurrent_layers_have_units():
    attention = nn.MultiheadAttention(4, 2)
    assert [u.name for u in select_units(attention)] == ["in_proj_weight", "out_proj.weight"]
    assert [u.name for u in select_units(nn.GRU(3, 2))] == ["weight_ih_l0", "weight_hh_l0"]
    assert [u.name for u in select_units(nn.Sequential(attention), nn.MultiheadAttention)] == ["0.in_proj_weight"]


def test_computed_weights_are_not_skipped_silently():
    model = nn.Sequential(nn.Linear(3, 3), weight_norm(nn.Linear(3, 3)))
    with pytest.raises(SubjectError, match="computed"):
        select_units(model)
    assert [unit.name for unit in select_units(model, "0")] == ["0.weight"]


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, 3, groups=2, bias=False),
        nn.ConvTranspose2d(4, 6, 3, groups=2, bias=False),
        nn.ConvTranspose2d(4, 6, 3, bias=False),
        nn.Conv1d(4, 6, 3, bias=False),
        nn.Linear(4, 6, bias=False),
    ],
    ids=str,
)
def test_a_dropped_channel_is_the_channel_of_the_output(layer):
    units = select_units(layer, granularity="channel")
    assert len(units) == 6
    x = torch.randn(2, 4, *[5] * (layer.weight.dim() - 2))
    weight = layer.weight.detach()
    clean = torch.func.functional_call(layer, {"weight": weight}, (x,))
    for index, unit in enumerate(units):
        assert unit.take(weight).shape == unit.shape
        assert torch.equal(unit.put(weight, unit.take(weight)), weight)
        changed = unit.put(weight, torch.zeros(unit.shape))
        assert (changed == 0).sum() == unit.take(weight).numel()
        dropped = torch.func.functional_call(layer, {"weight": changed}, (x,))
        expected = clean.clone()
        expected[:, index] = 0
        torch.testing.assert_close(dropped, expected)
        with pytest.raises(UsageError, match="shape"):
            unit.put(weight, torch.zeros(1, 1, 1))


@pytest.mark.models("torchvision")
@pytest.mark.parametrize(
    ("name", "count"), [("resnet18", 21), ("resnet50", 54), ("squeezenet1_1", 26), ("shufflenet_v2_x1_0", 57)]
)
def test_unit_counts_of_the_published_networks(name, count):
    import torchvision

    with torch.device("cpu"):
        model = getattr(torchvision.models, name)(weights=None)
    assert len(select_units(model)) == count


def test_weights_without_memory_are_not_taken_for_one_another():
    with torch.device("meta"):
        network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
        network[2].weight = network[0].weight
    assert [unit.aliases for unit in select_units(network)] == [("0.weight", "2.weight"), ("1.weight",)]
