"""Estimates of kinks against the truth: events with few samples, records of kinks, kernels on a trained network."""

from functools import lru_cache

import numpy as np
import pytest
import torch
from tests.support.smoothness_measure import Bent, BlobPath, Bow, Lambda, cnn, mlp, searched, trained
from torch import Tensor, nn

from assay.errors import SubjectError, UnsupportedOperator, UsageError
from assay.smoothness.estimators.event import event
from assay.smoothness.estimators.rows import bisected, planned
from assay.smoothness.estimators.windows import window_places
from assay.smoothness.kinks import Smp
from assay.smoothness.measure import smp
from assay.smoothness.network import Network
from assay.smoothness.paths import Line
from assay.smoothness.switches import WINNERS, candidates


def variation(network: nn.Module, a: Tensor, b: Tensor, samples: int) -> Tensor:
    """Sum of |second differences| over the step along a line."""
    t = torch.linspace(0, 1, samples, dtype=torch.float64).reshape(-1, *[1] * a.dim())
    with torch.no_grad():
        y = network(a + t * (b - a))
    return (y[2:] - 2 * y[1:-1] + y[:-2]).abs().sum(0) * (samples - 1)


def deep(seed: int):
    """Wide hidden layers."""
    return mlp(seed, (16, 96, 96, 96, 3))


@pytest.mark.parametrize(
    ("make", "seeds"),
    [(mlp, 6), *(pytest.param(make, 20, marks=pytest.mark.slow) for make in (mlp, cnn, deep))],
    ids=["mlp, few", "mlp", "cnn", "deep"],
)
def test_few_samples_are_enough(make, seeds):
    """At 65 samples within 2 %, where the variation between samples misses far more."""
    errors, missed = [], []
    for seed in range(seeds):
        network, a, b = make(seed)
        truth = searched(network, a, b)[1].abs().sum(0)
        found = smp(network, Line(a, b), estimator="event", samples=65)
        assert found.samples == 65
        errors.append(found.value / truth - 1)
        missed.append(variation(network, a, b, 65) / truth - 1)
    error, lost = torch.stack(errors), torch.stack(missed)
    assert float(lost.min()) < -0.3
    assert float(error[lost < -0.3].abs().max()) < 0.02
    assert float(error.abs().max()) < 0.03
    assert float(error.abs().median()) < 0.005
    assert abs(float(error.mean())) < 0.004


@pytest.mark.parametrize("make", [mlp, cnn], ids=["mlp", "cnn"])
def test_many_samples_agree_with_the_exact_measure(make):
    for seed in range(2):
        network, a, b = make(seed)
        places, jumps = searched(network, a, b)
        truth = jumps.abs().sum(0)
        exact = smp(network, Line(a, b), estimator="exact_line")
        assert torch.allclose(exact.value, truth, rtol=1e-8)
        assert exact.count == len(places)
        found = smp(network, Line(a, b), estimator="event", samples=2049, refine=False)
        assert torch.allclose(found.value, truth, rtol=0.01)
        assert found.count == pytest.approx(len(places), rel=0.02)
        assert torch.allclose(found.energy, exact.energy, rtol=0.02)
        assert found.group == pytest.approx(exact.group, rel=0.01)
        assert torch.allclose(found.signed, exact.signed, atol=0.02 * float(truth.max()))
        for layer, part in found.by_layer.items():
            assert torch.allclose(part, exact.by_layer[layer], atol=0.01 * float(truth.max())), layer
        below = variation(network, a, b, 4097) / truth - 1
        assert float(below.min()) > -0.065
        assert float(below.max()) < 1e-8


def test_the_order_of_relu_and_pool_changes_nothing():
    for size in (15,):
        first, a, b = cnn(size, size)
        second, _, _ = cnn(size, size, pool_first=True)
        for estimator in ("exact_line", "event"):
            one, other = (smp(net, Line(a, b), estimator=estimator, samples=65).value for net in (first, second))
            assert torch.allclose(one, other, rtol=1e-10)


def test_the_error_that_is_stated_is_the_error_made():
    ratios = []
    for seed in range(5):
        network, a, b = cnn(seed)
        truth = searched(network, a, b)[1].abs().sum(0)
        found = smp(network, Line(a, b), estimator="event", samples=65)
        ratios.append((found.value - truth) / found.error)
    spread = float(torch.stack(ratios).square().mean().sqrt())
    assert 0.4 < spread < 2.5


def mixed(seed: int = 0) -> nn.Module:
    """Every kind of kink in one network, with a skip, curved activations, and a curved head."""

    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(2, 6, 3, padding=1)
            self.prelu = nn.PReLU(6)
            self.prelu.weight.data = torch.tensor([-0.5, 0.1, 0.3, 1.2, 0.0, -1.5])
            self.pool = nn.MaxPool2d(3, 2, padding=1, ceil_mode=True)
            self.skip = nn.Conv2d(6, 6, 3, padding=1)
            self.norm = nn.BatchNorm2d(6)
            self.norm.running_mean += 0.2
            self.last = nn.Linear(24, 6)

        def forward(self, x: Tensor) -> Tensor:
            u = self.pool(self.prelu(self.conv(x)))
            v = torch.relu(u + nn.functional.hardswish(3 * self.norm(self.skip(u))))
            v = torch.maximum(v, nn.functional.elu(u, 0.4)) - torch.minimum(u, v * 0.5)
            v = nn.functional.hardsigmoid(v) + v.abs() + v.clamp(-0.7, 0.9) + torch.tanh(v)
            w = self.last(nn.functional.adaptive_max_pool2d(v, 2).flatten(1))
            return torch.softmax(torch.cat([w, v.amax((1, 2, 3))[:, None]], 1), 1)[:, :4]

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Mixed().double().eval()


@pytest.mark.slow
def test_every_recorded_kink_is_one():
    """Slopes just before and just after a recorded place differ by the recorded jump."""
    draws = torch.Generator().manual_seed(1)
    a, b, c = torch.randn(3, 2, 7, 7, generator=draws).double()
    network, path = mixed(), Bow(a, b, 0.3 * c)
    net = Network.of(network, a[None])
    assert not net.piecewise_linear
    found = event(net, path, samples=6001, refine=False)
    kinks = found.kinks
    assert kinks is not None
    assert {place.rsplit("(")[-1] for place in kinks.layers} == {
        f"{op})" for op in ("prelu", "max_pool", "hardswish", "relu", "elu", "maximum", "minimum", "hardsigmoid", "abs")
    } | {"clip)", "adaptive_max_pool)", "amax)"}
    alone = torch.ones(len(kinks), dtype=torch.bool)
    alone[1:] &= kinks.t[1:] - kinks.t[:-1] > 4e-6
    alone[:-1] &= kinks.t[1:] - kinks.t[:-1] > 4e-6
    assert int(alone.sum()) > 40
    t = kinks.t[alone]
    sides = [torch.func.jvp(network, *(tuple((v,) for v in path.at(t + off))))[1] for off in (-2e-6, 2e-6)]
    jump = (sides[1] - sides[0]).detach()
    near = (jump - kinks.jump[alone]).norm(dim=1) < 0.02 * jump.norm(dim=1) + 1e-4 * float(jump.norm(dim=1).max())
    assert float(near.double().mean()) > 0.97  # where two kinks share a step, the place of one may be off
    dense = torch.linspace(0, 1, 60001, dtype=torch.float64)
    slopes = torch.cat([net.value_and_slope(*path.at(part))[1] for part in dense.split(4000)])
    turns = slopes[1:] - slopes[:-1]
    big = turns.abs() > 50 * turns.abs().median(0)[0]  # what stands out of smooth curvature
    assert torch.allclose(turns.where(big, 0.0).abs().sum(0), found.value, rtol=0.1)


def test_double_crossings_within_a_step_are_seen():
    hump = Lambda(lambda t: torch.relu(0.01 - (t - 0.53) ** 2))  # above zero on (0.43, 0.63) only
    line = Line(torch.tensor([0.0]), torch.tensor([1.0]))
    found = smp(hump, line, estimator="event", samples=4, refine=False)
    assert found.kinks is not None
    assert torch.allclose(found.kinks.t, torch.tensor([0.43, 0.63]).double())
    assert float(found.value) == pytest.approx(0.4)


@lru_cache(maxsize=1)
def dense() -> Smp:
    return smp(trained(), BlobPath(), estimator="event", samples=2001)


def test_kernels_agree_with_events_on_a_trained_network():
    kernel = smp(trained(), BlobPath(), estimator="kac_rice", samples=2001, by_unit=True)
    assert torch.allclose(kernel.value, dense().value, rtol=0.03)
    assert kernel.group == pytest.approx(dense().group, rel=0.03)
    assert torch.allclose(kernel.energy, dense().energy, rtol=0.06)
    for layer, part in kernel.by_layer.items():
        assert torch.allclose(part, dense().by_layer[layer], rtol=0.1, atol=0.02 * float(dense().value.max())), layer
        assert torch.allclose(kernel.by_unit[layer].sum(0), part, rtol=1e-9)
    assert kernel.error is not None
    assert float((kernel.error / kernel.value).max()) < 0.02
    assert kernel.kinks is None


def test_kernels_see_one_kink_where_overlapping_windows_share_it():
    """Both windows hold the middle two places and change their winner at once."""

    class Shared(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            line = torch.cat([x - 9, torch.sin(5 * x), torch.cos(3 * x), x - 9], dim=1)
            windows = nn.functional.max_pool1d(line[:, None], 3, stride=1)[:, 0]
            return torch.stack([windows[:, 0] - windows[:, 1], windows[:, 0] + windows[:, 1]], dim=1)

    line = Line(torch.tensor([0.0]), torch.tensor([3.0]))
    kernel = smp(Shared().double(), line, estimator="kac_rice", samples=4001)
    event = smp(Shared().double(), line, estimator="event", samples=1001)
    assert float(event.value[0]) < 1e-9 < float(event.value[1])
    assert float(kernel.value[0]) < 1e-9
    assert float(kernel.value[1]) == pytest.approx(float(event.value[1]), rel=0.02)
    assert kernel.count == pytest.approx(event.count, rel=0.06)  # one by one: twice as many
    assert torch.allclose(kernel.energy, event.energy, rtol=0.03, atol=1e-9)


def test_few_samples_of_a_trained_network():
    few = smp(trained(), BlobPath(), estimator="event", samples=129)
    assert torch.allclose(few.value, dense().value, rtol=0.03)
    seen = smp(trained(), BlobPath(), estimator="sampled", samples=129)
    assert float((seen.value / dense().value).max()) < 0.9
    assert any("per step" in note for note in seen.notes)


def test_a_smooth_network_looks_smooth_at_every_scale():
    net, path = trained("tanh"), BlobPath()
    found = smp(net, path, estimator="event", samples=65)
    assert (found.value.tolist(), found.count) == ([0.0, 0.0], 0)
    t = torch.linspace(0, 10, 2001, dtype=torch.float64)
    with torch.no_grad():
        y = net(path.at(t)[0])

    def bends(stride: int) -> Tensor:
        return (y[2 * stride :: stride] - 2 * y[stride:-stride:stride] + y[: -2 * stride : stride]) / (stride * 0.005)

    flat = torch.stack([bends(stride).abs().sum(0) for stride in (1, 2, 4, 8)])
    assert torch.allclose(flat, flat[:1].expand_as(flat), rtol=0.01)
    tops = [bends(stride).abs() for stride in (1, 2, 4)]
    heights = [float(b[1:-1][(b[1:-1] > b[:-2]) & (b[1:-1] > b[2:])].sum()) for b in tops]
    assert heights[0] / heights[1] == pytest.approx(0.5, abs=0.03)
    assert heights[1] / heights[2] == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize(
    ("function", "shape"),
    [
        (nn.MaxPool2d(3, 2, padding=1, ceil_mode=True), (2, 7, 6)),
        (nn.MaxPool2d((2, 3), dilation=(2, 1)), (3, 8, 7)),
        (nn.MaxPool1d(3, 2), (2, 9)),
        (nn.AdaptiveMaxPool2d((3, 2)), (2, 7, 5)),
        (Lambda(lambda x: x.amax((1, 3))), (2, 4, 5)),
        (Lambda(lambda x: x.amax(2, keepdim=True)), (2, 4, 5)),
        (Lambda(lambda x: torch.minimum(x, x.flip(1))), (6, 2)),
    ],
)
def test_windows_are_where_winners_come_from(function: nn.Module, shape: tuple[int, ...]):
    x = torch.randn(5, *shape, generator=torch.Generator().manual_seed(0)).double()
    net = Network.of(nn.Sequential(function, nn.Flatten()), x)
    node = net.switching[0]
    table = window_places(net.graph, node)
    assert table.shape[0] == node.spec.size_per_sample
    sweep = net.sweep(x, x)
    seen = torch.where(table >= 0, sweep.switches[0].inputs[:, table.clamp(min=0)], torch.nan)
    sign = -1 if node.op == "minimum" else 1
    best = (sign * seen).nan_to_num(-torch.inf).amax(2)
    assert torch.equal(sign * best, function(x).flatten(1))
    assert node.op in WINNERS
    assert candidates("max_pool", [x]).shape == (5, x[0].numel())


def test_values_slopes_and_adjoints():
    network = mixed(3)
    x = torch.randn(4, 2, 7, 7, generator=torch.Generator().manual_seed(4)).double()
    tangent = torch.randn(4, 2, 7, 7, generator=torch.Generator().manual_seed(5)).double()
    net = Network.of(network, x, outputs=[3, 1])
    sweep = net.sweep(x, tangent)
    values, slopes = torch.func.jvp(network, (x,), (tangent,))
    assert torch.allclose(sweep.values, values[:, [3, 1]].detach(), rtol=1e-12)
    assert torch.allclose(sweep.slopes, slopes[:, [3, 1]].detach(), rtol=1e-10)
    again = net.value_and_slope(x, tangent)
    assert torch.allclose(again[0], sweep.values)
    assert torch.allclose(again[1], sweep.slopes)
    # the last switching node is the last thing before the head: its adjoint carries the slope on
    assert [g.shape for g in sweep.adjoints()] == [(2, 4, s.units) for s in sweep.switches]
    for switch, gradient in zip(sweep.switches, sweep.adjoint(0), strict=True):
        unit = int(gradient.abs().sum(0).argmax())
        nudge = torch.zeros_like(switch.output)
        nudge.reshape(4, -1)[:, unit] = 1e-6
        changed = rerun(net, x, switch.node.name, nudge)
        assert torch.allclose((changed - sweep.values)[:, 0] / 1e-6, gradient[:, unit], rtol=1e-3, atol=1e-6)


def rerun(net: Network, x: Tensor, name: str, nudge: Tensor) -> Tensor:
    """Outputs when the value of one node is changed."""
    from assay.graph import evaluate_node

    values = {**net.graph.parameters, net.graph.input: x}
    for node in net.graph:
        if node.op not in ("input", "parameter"):
            value = evaluate_node(node, [None if i is None else values[i] for i in node.inputs], len(x))
            values[node.name] = value + nudge if node.name == name else value
    assert net.projection is not None
    return values[net.graph.output] @ net.projection


def test_what_is_not_known_is_refused():
    x = torch.randn(2, 4)
    for function in (lambda x: x * (x > 0), torch.round, lambda x: torch.topk(x, 2)[0], lambda x: x.norm(1, -1, True)):
        with pytest.raises(UnsupportedOperator) as error:
            Network.of(Lambda(function), x)
        assert "sampled" in error.value.advice
    with pytest.raises(SubjectError):
        Network.of(nn.Linear(4, 2), x).sweep(torch.zeros(1, 5).double())


def test_rows_cover_a_path():
    path = Bent(torch.zeros(4, 1), [0.0, 0.1, 3.0, 4.0])
    rows = planned(path, 41)
    assert len(rows) == 41 + 2
    assert rows.t[rows.last].tolist() == [0.1, 3.0, 4.0]
    assert rows.t[rows.first].tolist() == [0.0, 0.1, 3.0]
    assert int(rows.linked.sum()) == 40
    for size in (2, 3, 10, 100):
        steps = [
            (float(part.t[i]), float(part.t[i + 1])) for part in rows.chunks(size) for i in part.linked.nonzero()[:, 0]
        ]
        whole = [(float(rows.t[i]), float(rows.t[i + 1])) for i in rows.linked.nonzero()[:, 0]]
        assert steps == whole
    finer = bisected(rows, rows.linked.nonzero()[[0, 1, 5, 39], 0])
    assert int(finer.linked.sum()) == 8
    assert planned(path, 2).t.tolist() == [0, 0.1, 0.1, 3, 3, 4]


@pytest.mark.parametrize("estimator", ["auto", "exact_line", "event", "sampled"])
def test_points_may_have_a_batch_axis_of_one(estimator):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(27, 2))
    a, b = torch.randn(2, 2, 5, 5)
    plain, batched = Line(a, b), Line(a[None], b[None])
    expected = smp(module, plain, estimator=estimator)
    assert torch.equal(smp(module, batched, estimator=estimator).value, expected.value)
    network = Network.of(module, a[None])
    assert torch.equal(smp(network, batched, estimator=estimator).value, smp(network, plain, estimator=estimator).value)


def test_an_axis_of_one_that_the_model_wants_stays():
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(18, 1))
    assert smp(module, Line(torch.zeros(1, 5, 5), torch.ones(1, 5, 5)), estimator="event").value.shape == (1,)
    with pytest.raises(SubjectError, match=r"shape \(1, 2, 5, 5\)"):  # the path as it was given
        smp(module, Line(torch.zeros(1, 2, 5, 5), torch.ones(1, 2, 5, 5)))


@pytest.mark.parametrize("outputs", ["a", 1.5, np.ones((3, 2)), {0.5}], ids=str)
def test_outputs_that_cannot_be_chosen(outputs):
    with pytest.raises(UsageError):
        smp(nn.Linear(2, 2), Line(torch.zeros(2), torch.ones(2)), outputs=outputs)


def test_outputs_chosen_with_numpy():
    module, path = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 2)), Line(-torch.ones(2), torch.ones(2))
    assert torch.equal(smp(module, path, outputs=np.int64(1)).value, smp(module, path, outputs=1).value)
    both = np.array([[1.0], [-1.0]])
    assert torch.equal(smp(module, path, outputs=both).value, smp(module, path, outputs=torch.tensor(both)).value)


def test_no_memory():
    with pytest.raises(UsageError, match="memory"):
        smp(nn.Linear(2, 2), Line(torch.zeros(2), torch.ones(2)), memory=0)


def test_densities_need_samples():
    network, a, b = mlp(0)
    with pytest.raises(UsageError, match="Densities"):
        smp(network, Line(a, b), estimator="kac_rice", samples=3)


def test_jumps_of_an_output_are_told():
    class Stairs(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.floor(3 * x) + torch.relu(x - 0.4)

    line = Line(torch.zeros(1), torch.ones(1))
    assert any("seems to jump" in note for note in smp(Stairs(), line).notes)
    smooth = smp(nn.Sequential(nn.ReLU(), nn.Softplus()), line, estimator="sampled")
    assert not any("seems to jump" in note for note in smooth.notes)
