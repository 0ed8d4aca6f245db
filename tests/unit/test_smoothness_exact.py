"""Exact kinks on a line against bisection, hand-computed cases and the laws that a sum of slope jumps obeys."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.smoothness_exact import Function, Mixture, Residual, bisected, cnn, measured, mlp
from torch import Tensor, nn

from assay.certified.prepared import bound_graph
from assay.errors import NumericalError, UnsupportedOperator, UsageError
from assay.grade import Grade
from assay.smoothness.estimators import exact_line as module
from assay.smoothness.estimators.exact_line import exact_line
from assay.smoothness.kinks import Smp
from assay.smoothness.network import Network
from assay.smoothness.paths.frames import Frames
from assay.smoothness.paths.line import Line

ZERO, ONE = torch.zeros(1), torch.ones(1)
BENT, TILT = mlp(11), torch.randn(8, 1, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
WHOLE, HIDDEN = (Network.of(part, torch.zeros(1, 8, dtype=torch.float64)) for part in (BENT, BENT[:4]))
WITH_TILT = Function(lambda x: torch.cat([BENT(x), x @ TILT + 7], dim=1))


def smp(model: nn.Module, a: Tensor, b: Tensor, **options) -> Smp:
    return exact_line(*measured(model, a, b), **options)


def ends(seed: int, *shape: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
    return a, b


def assert_equals_bisection(model: nn.Module, a: Tensor, b: Tensor) -> Smp:
    found, truth = smp(model, a, b), bisected(model, a, b)
    assert found.kinks is not None
    assert found.count == len(truth.t) > 5
    torch.testing.assert_close(found.kinks.t, truth.t, rtol=0, atol=1e-9)
    torch.testing.assert_close(found.kinks.jump, truth.jump, rtol=1e-8, atol=1e-9 * float(truth.jump.abs().max()))
    torch.testing.assert_close(found.value, truth.smp, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(sum(found.by_layer.values()), found.value)
    return found


def test_three_hinges() -> None:
    found = smp(
        Function(lambda x: 2 * torch.relu(x - 0.25) - 3 * torch.relu(0.5 - x) + torch.relu(2 * x - 1.5)), ZERO, ONE
    )
    assert found.kinks is not None
    assert found.kinks.t.tolist() == pytest.approx([0.25, 0.5, 0.75], abs=1e-15)
    assert found.slopes[:, 0].tolist() == pytest.approx([3, 5, 2, 4, 4])
    assert found.kinks.local.tolist() == pytest.approx([1, 1, 2])
    assert (float(found.value), float(found.signed), found.count) == pytest.approx((7, 1, 3))
    assert float(found.energy) == pytest.approx(4 + 9 + 4)
    assert found.group == pytest.approx(7)
    assert found.grade is Grade.EXACT
    assert float(found.share) == pytest.approx(1)


def test_kinks_that_cancel_are_none() -> None:
    found = smp(Function(lambda x: torch.relu(x) - torch.relu(-x)), -ONE, ONE)
    assert float(found.value) == 0
    assert found.count == 0
    assert found.notes == ("1 more bends of units change no output.",)


def test_a_maximum_has_no_breakpoint_below_its_envelope() -> None:
    layer = nn.Linear(1, 4).double()
    layer.weight.data = torch.tensor([[1.0], [-1.0], [0.0], [0.0]], dtype=torch.float64)
    layer.bias.data = torch.tensor([0.0, 1.0, 0.8, -9.0], dtype=torch.float64)
    found = smp(nn.Sequential(layer, nn.Unflatten(1, (1, 4)), nn.MaxPool1d(4), nn.Flatten()), ZERO, ONE)
    assert found.kinks is not None
    assert found.kinks.t.tolist() == pytest.approx([0.2, 0.8], abs=1e-15)
    assert found.slopes[:, 0].tolist() == pytest.approx([-1, 0, 1, 1])
    assert float(found.value) == pytest.approx(2)
    assert found.kinks.unit.tolist() == [0, 0]


@pytest.mark.parametrize("swapped", [True, False])
def test_a_rectified_maximum_of_a_single_moving_unit(swapped: bool) -> None:
    layer = nn.Linear(1, 4).double()
    layer.weight.data = torch.tensor([[0.0], [0.0], [0.0], [1.0]], dtype=torch.float64)
    layer.bias.data = torch.tensor([-1.0, -1.0, -1.0, -0.5], dtype=torch.float64)
    model = nn.Sequential(layer, nn.Unflatten(1, (1, 4)), nn.ReLU(), nn.MaxPool1d(4), nn.Flatten())
    network, line = measured(model, ZERO, ONE)
    network = network if swapped else replace(network, graph=bound_graph(model, ZERO[None].double()))
    found = exact_line(network, line)
    assert float(found.value) == pytest.approx(1, abs=1e-14)
    assert found.count == 1


@pytest.mark.parametrize("slope", [0.1, -0.3, 1.0])
def test_prelu_jumps_by_one_less_its_slope(slope: float) -> None:
    model = nn.PReLU().double()
    model.weight.data.fill_(slope)
    found = smp(model, -ONE, torch.tensor([3.0]))
    assert float(found.value) == pytest.approx(4 * (1 - slope), abs=1e-14)
    assert found.count == (slope != 1.0)


@pytest.mark.parametrize("seed", range(3))
def test_random_mlps(seed: int) -> None:
    assert_equals_bisection(mlp(seed), *ends(seed, 8))


@pytest.mark.parametrize("seed", range(2))
def test_random_residual_networks(seed: int) -> None:
    assert_equals_bisection(Residual(seed), *ends(seed, 6))


@pytest.mark.parametrize("seed", range(2))
def test_random_networks_of_all_operators(seed: int) -> None:
    found = assert_equals_bisection(Mixture(seed), *ends(seed, 6))
    assert len(found.by_layer) >= 10


@pytest.mark.parametrize(
    ("activation", "pool"),
    [
        (nn.ReLU(), None),
        (nn.PReLU(init=-0.3), None),
        (nn.ReLU(), nn.MaxPool2d(3, 2, padding=1)),
        (nn.LeakyReLU(0.2), nn.MaxPool2d(2, 2, padding=1, ceil_mode=True)),
        (nn.LeakyReLU(-0.2), nn.MaxPool2d(3, 1, dilation=2)),
        (nn.ReLU6(), None),
    ],
    ids=["ceil", "negative slope", "padding", "padding and ceil", "dilation", "two thresholds"],
)
def test_random_cnns(activation: nn.Module, pool: nn.Module | None) -> None:
    assert_equals_bisection(cnn(3, activation, pool), *ends(3, 2, 9, 9))


def test_sampled_variation_is_at_most_the_exact_sum() -> None:
    for model, shape in ((mlp(5), (8,)), (cnn(5), (2, 9, 9))):
        network, line = measured(model, *ends(5, *shape))
        exact = exact_line(network, line).value
        y = network.values(line.at(torch.linspace(0, 1, 4097, dtype=torch.float64))[0])
        sampled = (y[2:] - 2 * y[1:-1] + y[:-2]).abs().sum(0) * 4096
        assert bool((sampled / exact - 1 < 1e-8).all())
        assert bool((sampled / exact - 1 > -0.065).all())


def test_a_linear_network_has_no_kinks() -> None:
    found = smp(nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 3)), *ends(0, 5))
    assert found.value.tolist() == [0, 0, 0]
    assert (found.count, found.samples, found.group) == (0, 1, 0)
    assert found.by_layer == {}


def test_an_output_that_does_not_depend_on_the_path() -> None:
    found = smp(Function(lambda x: torch.relu(x[:, :1])), torch.tensor([1.0, 0.0]), torch.tensor([1.0, 5.0]))
    assert float(found.value) == 0
    assert found.outputs.tolist() == [[1], [1]]
    assert found.slopes.tolist() == [[0], [0]]


def test_units_that_rest_on_their_threshold_bend_nowhere() -> None:
    model = Function(lambda x: torch.relu(x - x) + torch.relu(0 * x) + torch.relu(x - 0.3))
    found = smp(model, ZERO, ONE)
    assert float(found.value) == pytest.approx(1)
    assert found.count == 1


def test_a_unit_that_touches_zero_bends_once() -> None:
    model = Function(lambda x: torch.relu(torch.relu(x - 0.5)) + torch.relu(-(x - 0.25).abs()))
    found = smp(model, ZERO, ONE)
    assert found.kinks is not None
    assert found.kinks.t.tolist() == pytest.approx([0.5])
    assert float(found.value) == pytest.approx(1)


def test_units_that_cross_together_make_one_kink() -> None:
    layer = nn.Linear(1, 6).double()
    layer.weight.data = torch.tensor([[1.0], [1.0], [3.0], [-1.0], [7.0], [1.0]], dtype=torch.float64)
    layer.bias.data = -0.3 * layer.weight.data[:, 0]
    layer.bias.data[5] = -0.7
    head = nn.Linear(6, 1).double()
    head.weight.data = torch.tensor([[1.0, 1.0, 1.0, 2.0, 1.0, 1.0]], dtype=torch.float64)
    found = smp(nn.Sequential(layer, nn.ReLU(), head), ZERO, ONE, by_unit=True)
    assert found.kinks is not None
    assert found.kinks.t.tolist() == pytest.approx([0.3, 0.7])
    assert found.kinks.unit.tolist() == [-1, 5]
    assert found.kinks.jump[:, 0].tolist() == pytest.approx([14, 1])
    (units,) = found.by_unit.values()
    assert units[:, 0].tolist() == pytest.approx([14, 0, 0, 0, 0, 1])


def test_where_layers_bend_together_the_first_one_counts() -> None:
    model = nn.Sequential(nn.ReLU(), Function(lambda x: x + torch.relu(x - 0.0) + torch.relu(2 * x - 1)))
    found = smp(model, -ONE, ONE)
    assert [float(part) for part in found.by_layer.values()] == pytest.approx([4, 0, 4])


def test_units_sum_to_layers() -> None:
    found = smp(cnn(1), *ends(1, 2, 9, 9), by_unit=True)
    assert found.kinks is not None
    for place, units in found.by_unit.items():
        torch.testing.assert_close(units.sum(0), found.by_layer[place])
    assert found.kinks.layers == tuple(place for place, part in found.by_layer.items() if float(part.sum()) > 0)


def test_every_place_is_the_unit_that_bends() -> None:
    """The unit's own input is zero there, and its jump is its own change of slope."""
    network, line = measured(mlp(4), *ends(4, 8))
    found = exact_line(network, line).kinks
    assert found is not None
    points, tangents = line.at(found.t)
    sweep = network.sweep(points, tangents, adjoints=False)
    for number, (layer, unit) in enumerate(zip(found.layer.tolist(), found.unit.tolist(), strict=True)):
        switch = sweep.switches[layer]
        assert abs(float(switch.inputs[number, unit])) < 1e-13
        before, after = (
            float(network.sweep(line.at(t[None])[0], tangents[:1], adjoints=False).switches[layer].slopes[0, unit])
            for t in (found.t[number] - 1e-8, found.t[number] + 1e-8)
        )
        assert before == pytest.approx(after, rel=1e-9)
        assert float(found.local[number]) == pytest.approx(abs(after), rel=1e-9)


def test_outputs_are_selected_and_projected() -> None:
    model, (a, b) = mlp(6, outputs=3), ends(6, 8)
    everything = smp(model, a, b)
    one = exact_line(*measured(model, a, b, outputs=2))
    torch.testing.assert_close(one.value, everything.value[2:])
    projection = torch.randn(3, 2, dtype=torch.float64)
    both = exact_line(*measured(model, a, b, outputs=projection))
    assert everything.kinks is not None
    torch.testing.assert_close(both.value, (everything.kinks.jump @ projection).abs().sum(0))
    assert everything.group == pytest.approx(float(everything.kinks.jump.norm(dim=1).sum()))


def test_the_track_is_the_networks() -> None:
    network, line = measured(cnn(2), *ends(2, 2, 9, 9))
    found = exact_line(network, line)
    assert found.samples == len(found.t) - 1 >= found.count + 1
    torch.testing.assert_close(found.outputs, network.values(line.at(found.t)[0]))
    change = found.outputs[1:] - found.outputs[:-1]
    torch.testing.assert_close(change, found.slopes[:-1] * (found.t[1:] - found.t[:-1])[:, None], atol=1e-12, rtol=1e-9)


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 10**6), st.booleans())
def test_pool_and_relu_commute(seed: int, ceil: bool) -> None:
    model, (a, b) = cnn(seed, pool=nn.MaxPool2d(3, 2, ceil_mode=ceil)), ends(seed, 2, 9, 9)
    graph = bound_graph(model, a[None])
    swapped = Network.from_graph(graph, tuple(a.shape))
    plain = replace(swapped, graph=graph)
    assert [node.op for node in plain.switching] != [node.op for node in swapped.switching]
    one, other = (exact_line(network, Line(a, b)) for network in (plain, swapped))
    torch.testing.assert_close(one.value, other.value, rtol=1e-10, atol=1e-12)
    assert one.count == other.count


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10**6))
def test_laws(seed: int) -> None:
    """Reversal, cuts, slower paths; an affine map of the output that also adds a linear function of the input."""
    (a, b), projection = ends(seed, 8), torch.tensor([[3.0, 0.0], [0.0, -2.0], [1.0, 1.0]], dtype=torch.float64)
    network, line = measured(WITH_TILT, a, b)
    whole = exact_line(network, line).value
    torch.testing.assert_close(exact_line(network, Line(b, a)).value, whole, rtol=1e-10, atol=1e-12)
    middle = a + 0.37 * (b - a)
    parts = [exact_line(network, Line(*two)).value for two in ((a, middle), (middle, b))]
    torch.testing.assert_close(parts[0] / 0.37 + parts[1] / 0.63, whole, rtol=1e-10, atol=1e-12)
    mapped = exact_line(replace(network, projection=projection), line).value  # the third output is linear
    torch.testing.assert_close(mapped, torch.tensor([3.0, 2.0], dtype=torch.float64) * whole[:2], rtol=1e-10, atol=0)
    slow = exact_line(network, Frames(torch.stack([a, b]), times=[1.0, 3.0]))
    torch.testing.assert_close(slow.value, whole / 2, rtol=1e-10, atol=1e-12)
    assert slow.length == 2


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10**6))
def test_a_network_is_bounded_by_the_sum_of_its_units(seed: int) -> None:
    a, b = ends(seed, 8)
    hidden, total = (exact_line(network, Line(a, b)).value for network in (HIDDEN, WHOLE))
    additive = BENT[4].weight.abs() @ hidden
    assert bool((total <= additive * (1 + 1e-12)).all())
    assert bool((total < additive).any())


@pytest.mark.parametrize("share", [0.4, 0.2, 0.1])
def test_little_memory_changes_nothing(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    network, line = measured(cnn(7), *ends(7, 2, 9, 9))
    pieces = []
    real = module._piece
    monkeypatch.setattr(module, "_piece", lambda *a: pieces.append(real(*a)) or pieces[-1])
    whole = exact_line(network, line)
    assert len(pieces) == 1
    pieces.clear()
    found = exact_line(network, line, memory=share * 8 * 4 * 81 * whole.count)
    assert len(pieces) > 1
    assert found.kinks is not None
    assert whole.kinks is not None
    assert found.count == whole.count
    torch.testing.assert_close(found.kinks.t, whole.kinks.t, rtol=0, atol=1e-12)
    torch.testing.assert_close(found.value, whole.value, rtol=1e-11, atol=0)
    assert torch.equal(found.kinks.unit, whole.kinks.unit)
    assert {k: v.tolist() for k, v in found.by_layer.items()} == {
        k: pytest.approx(v.tolist(), rel=1e-9, abs=1e-12) for k, v in whole.by_layer.items()
    }


def test_a_kink_on_a_cut_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(
        Function(lambda x: x @ torch.ones(1, 4).double() - torch.tensor([0.25, 0.5, 0.7, 0.9], dtype=torch.float64)),
        nn.ReLU(),
    )
    network, line = measured(model, ZERO, ONE)
    whole = exact_line(network, line)
    monkeypatch.setattr(module, "_cuts", lambda low, high, times: [(low + high) / 2])
    found = exact_line(network, line, memory=8 * 4 * 12)
    assert found.kinks is not None
    assert whole.kinks is not None
    assert found.kinks.t.tolist() == pytest.approx([0.25, 0.5, 0.7, 0.9], abs=1e-12)
    assert found.kinks.unit.tolist() == whole.kinks.unit.tolist() == [0, 1, 2, 3]
    assert found.value.tolist() == pytest.approx([1, 1, 1, 1])


def test_memory_that_cannot_hold_two_rows() -> None:
    with pytest.raises(UsageError, match="do not suffice"):
        smp(mlp(0), *ends(0, 8), memory=500)


def test_kinks_of_the_path_are_kept_apart() -> None:
    model = Function(lambda x: torch.relu(x - 0.5))
    found = exact_line(Network.of(model, ZERO[None]), Frames(torch.tensor([[0.0], [1.0], [5.0], [4.0]])))
    assert found.kinks is not None
    assert found.kinks.t.tolist() == pytest.approx([0.5])
    assert float(found.value) == pytest.approx(1)
    assert float(found.path) == pytest.approx(3 + 5)
    assert found.slopes[:, 0].tolist() == pytest.approx([0, 1, 4, -1, -1])
    assert found.t.tolist() == pytest.approx([0, 0.5, 1, 2, 3])


def test_frames_add_up_line_by_line() -> None:
    model = mlp(8)
    frames = torch.stack([*ends(8, 8), *ends(9, 8)])
    network = Network.of(model, frames)
    joined = exact_line(network, Frames(frames))
    single = [exact_line(network, Line(a, b)) for a, b in itertools.pairwise(frames)]
    torch.testing.assert_close(joined.value, torch.stack([one.value for one in single]).sum(0))
    assert joined.count == sum(one.count for one in single)
    assert joined.length == 3


def test_networks_that_are_not_piecewise_linear_are_refused() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.ReLU(), nn.Linear(3, 3), nn.Softmax(1))
    with pytest.raises(UnsupportedOperator) as refused:
        smp(model, *ends(0, 2))
    assert refused.value.where == "1 (tanh), 4 (softmax)"
    with pytest.raises(UnsupportedOperator, match=r"mul"):
        smp(Function(lambda x: torch.relu(x) * x), *ends(0, 2))


def test_curved_paths_are_refused() -> None:
    class Arc:
        start, end, knots = 0.0, 1.0, ()

        def at(self, t: Tensor, *, side: str = "right") -> tuple[Tensor, Tensor]:
            return torch.stack([t, t**2], 1), torch.stack([torch.ones_like(t), 2 * t], 1)

    with pytest.raises(UsageError, match="curved"):
        exact_line(Network.of(mlp(0, inputs=2), torch.zeros(1, 2).double()), Arc())


def test_a_missed_kink_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    network, line = measured(mlp(1), *ends(1, 8))
    real = module.propagate

    def forgetful(*arguments):
        found = real(*arguments)
        keep = torch.ones(len(found), dtype=torch.bool)
        keep[len(found) // 2] = False
        return replace(found, t=found.t[keep], values=found.values[keep], marks=found.marks.take(keep))

    monkeypatch.setattr(module, "propagate", forgetful)
    with pytest.raises(NumericalError, match="disagree"):
        exact_line(network, line)
