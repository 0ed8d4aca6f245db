"""The measure of kinks: what it is by definition, the traps that make it wrong, and what leaves it unchanged."""

from dataclasses import fields
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.smoothness_measure import Affine, Bent, Bow, Lambda, cnn, mlp, searched
from torch import Tensor, nn

from assay.errors import CaptureError, SubjectError, UnsupportedOperator, UsageError
from assay.grade import Grade
from assay.smoothness.estimators.event import Limits, event
from assay.smoothness.measure import smp
from assay.smoothness.network import Network
from assay.smoothness.paths import Line

UNIT = Line(torch.tensor([0.0]), torch.tensor([1.0]))
BOTH = Line(torch.tensor([-1.0]), torch.tensor([1.0]))  # t on the path is (x + 1) / 2, so slopes double
BLACK_BOX = ("exact_line", "event", "sampled")


def three_bends(t: Tensor) -> Tensor:
    return 2 * torch.relu(t - 0.25) - 3 * torch.relu(0.5 - t) + torch.relu(2 * t - 1.5)


def windows(t: Tensor) -> Tensor:
    return torch.cat([t, 1 - t, 0 * t + 0.8, 0 * t - 9], 1).amax(1, keepdim=True)


POOLED = [nn.Unflatten(1, (1, 4)), nn.MaxPool1d(4), nn.Flatten()]
LAST_RISES = Affine([0.0, 0.0, 0.0, 1.0], [-1.0, -1.0, -1.0, -0.5])
CASES = {
    "three bends": (Lambda(three_bends), UNIT, 7.0, 3),
    "cancelling": (Lambda(lambda t: torch.relu(t) - torch.relu(-t)), BOTH, 0.0, 0),
    "adding": (Lambda(lambda t: torch.relu(t) + torch.relu(-t)), BOTH, 4.0, 1),
    "absolute": (Lambda(torch.abs), BOTH, 4.0, 1),
    "maximum of four": (Lambda(windows), UNIT, 2.0, 2),
    "minimum": (Lambda(lambda t: torch.minimum(t, 0.3 - t)), UNIT, 2.0, 1),
    "pool after relu": (nn.Sequential(LAST_RISES, nn.ReLU(), *POOLED), UNIT, 1.0, 1),
    "pool after leaky": (nn.Sequential(LAST_RISES, nn.LeakyReLU(0.2), *POOLED), UNIT, 0.8, 1),
    "relu twice": (Lambda(lambda t: torch.relu(torch.relu(t))), BOTH, 2.0, 1),
    "relu of less": (Lambda(lambda t: torch.relu(-torch.relu(t))), BOTH, 0.0, 0),
    "hardtanh": (nn.Hardtanh(-0.5, 0.5), BOTH, 4.0, 2),
    "relu6": (Lambda(lambda t: F.relu6(8 * t)), BOTH, 32.0, 2),
    "hardsigmoid": (Lambda(lambda t: F.hardsigmoid(4 * t)), BOTH, 2 * 8 / 6, 2),
    "prelu": (nn.PReLU(init=0.1), BOTH, 1.8, 1),
    "negative prelu": (nn.PReLU(init=-0.3), BOTH, 2.6, 1),
    "touching": (Lambda(lambda t: torch.relu(torch.abs(t))), BOTH, 4.0, 1),
}


@pytest.mark.parametrize("estimator", BLACK_BOX)
@pytest.mark.parametrize("name", CASES)
def test_known_functions(name: str, estimator: str):
    network, path, truth, count = CASES[name]
    found = smp(network, path, estimator=estimator)
    assert float(found.value) == pytest.approx(truth, rel=1e-7, abs=1e-6 if estimator == "sampled" else 1e-9)
    assert found.count == count
    assert found.group == pytest.approx(truth, abs=1e-6)
    assert float(found.path) == pytest.approx(0, abs=1e-9)


def test_places_and_signed_jumps():
    for estimator in ("exact_line", "event"):
        found = smp(Lambda(three_bends), UNIT, estimator=estimator)
        assert found.kinks is not None
        assert torch.allclose(found.kinks.t, torch.tensor([0.25, 0.5, 0.75]).double(), atol=1e-12)
        assert torch.allclose(found.kinks.jump[:, 0], torch.tensor([2.0, -3.0, 2.0]).double(), atol=1e-9)
        assert float(found.signed) == pytest.approx(1)
        assert float(found.energy) == pytest.approx(17)
        assert found.density == pytest.approx(3)
    no_kink_at_half = smp(Lambda(windows), UNIT, estimator="event").kinks
    assert no_kink_at_half is not None
    assert torch.allclose(no_kink_at_half.t, torch.tensor([0.2, 0.8]).double(), atol=1e-12)


@pytest.mark.parametrize("tied", ["swapped", "skip", "concatenated", "dropout", "scaled"])
def test_windows_that_relu_silenced_do_not_hide_kinks(tied: str):
    """A window of zeros is a tie: the pool's gradient must not go to a unit that never rises."""
    pool = nn.Sequential(*POOLED)

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rise, self.norm, self.pool = LAST_RISES, nn.BatchNorm1d(4).double(), pool
            self.norm.bias.data += 0.3
            self.norm.running_mean += 0.1

        def forward(self, t: Tensor) -> Tensor:
            u = torch.relu(self.rise(t))
            if tied == "skip":  # the ReLU is read twice, so the pool cannot move before it
                return self.pool(u) + 0 * u[:, :1]
            if tied == "concatenated":
                return self.pool(torch.cat([u[:, :2], u[:, 2:]], 1))
            if tied == "dropout":
                return self.pool(F.dropout(u, training=False))
            if tied == "scaled":
                return self.pool(self.norm(u)) * (1 + 1e-5) ** 0.5
            return self.pool(u)

    found = smp(Tied().eval(), UNIT, estimator="event", samples=33)
    assert float(found.value) == pytest.approx(1, abs=1e-9)
    assert found.count == 1


def test_a_path_from_a_black_picture_does_not_kink_at_its_start():
    network = nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 3))
    network.double()
    picture = torch.randn(1, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    line = Line(torch.zeros(1, 8, 8), picture)  # everything is proportional to t: one straight line
    for estimator in ("exact_line", "event"):
        assert smp(network, line, estimator=estimator).value.tolist() == [0, 0, 0]
    found = smp(network, line, estimator="event", samples=17)
    assert torch.allclose(found.slopes[0], found.slopes[-1])


def test_parts_and_records_agree():
    network, a, b = cnn(0)
    found = smp(network, Line(a, b), estimator="event", samples=65, by_unit=True)
    assert found.kinks is not None
    assert torch.allclose(sum(found.by_layer.values()), found.value, rtol=1e-12)
    assert torch.allclose(found.kinks.jump.abs().sum(0), found.value, rtol=1e-12)
    assert torch.allclose(found.kinks.jump.square().sum(0) / found.length, found.energy, rtol=1e-12)
    assert float(found.kinks.jump.norm(dim=1).sum()) == pytest.approx(found.group)
    assert len(found.kinks) == found.count
    assert bool((found.kinks.t[1:] >= found.kinks.t[:-1]).all())
    for layer, part in found.by_layer.items():
        assert torch.allclose(found.by_unit[layer].sum(0), part, rtol=1e-10), layer
    mine = found.kinks.layer == 0
    per_unit = torch.zeros_like(found.by_unit[found.kinks.layers[0]])
    per_unit.index_add_(0, found.kinks.unit[mine], found.kinks.jump[mine].abs())
    assert torch.allclose(per_unit, found.by_unit[found.kinks.layers[0]], rtol=1e-10)
    assert found.samples == len(found.t) == 65
    assert found.grade is Grade.STATISTICAL


def test_chunks_memory_and_lists_change_nothing():
    network, a, b = cnn(1, 10)
    net = Network.of(network, a[None])
    path = Bow(a, b, torch.randn_like(a))
    whole = event(net, path, samples=65, by_unit=True)
    for limits in (Limits(rows=7), Limits(memory=10 * 8 * 6 * net.elements), Limits(listed=5)):
        parts = event(net, path, samples=65, by_unit=True, limits=limits)
        for item in fields(whole):
            one, other = getattr(whole, item.name), getattr(parts, item.name)
            if isinstance(one, Tensor):
                assert torch.allclose(one, other, rtol=1e-9, atol=1e-12), item.name
        assert parts.count == whole.count
        assert all(torch.allclose(whole.by_unit[k], parts.by_unit[k], atol=1e-12) for k in whole.by_unit)
    assert parts.kinks is not None
    assert whole.kinks is not None
    assert (len(parts.kinks), parts.kinks.dropped) == (5, whole.count - 5)
    largest = whole.kinks.jump.norm(dim=1).sort(descending=True)[0][:5]
    assert torch.allclose(parts.kinks.jump.norm(dim=1).sort(descending=True)[0], largest)


def test_kinks_of_the_path_are_told_apart():
    network, a, b = mlp(3)
    points = torch.stack([a, b, a + 1, b - 1])
    bent = Bent(points, [0.0, 0.4, 1.5, 2.0])
    found = smp(network, bent, estimator="event", samples=400)
    pieces = [smp(network, Line(p, q)) for p, q in pairwise(points)]
    widths = [0.4, 1.1, 0.5]
    assert torch.allclose(found.value, sum(p.value / w for p, w in zip(pieces, widths, strict=True)), rtol=0.01)
    turns = [
        (q.slopes[0] / v - p.slopes[-1] / w).abs()
        for (p, w), (q, v) in zip(zip(pieces, widths), zip(pieces[1:], widths[1:]), strict=False)  # noqa: B905
    ]
    assert torch.allclose(found.path, sum(turns), rtol=1e-9)
    assert float(found.path.min()) > 0
    smooth = smp(Affine([2.0], [0.0]), Bent(torch.tensor([[0.0], [1.0], [0.0]]), [0.0, 1.0, 2.0]), estimator="event")
    assert (smooth.value.tolist(), smooth.path.tolist()) == ([0.0], [4.0])
    sampled = smp(Affine([2.0], [0.0]), Bent(torch.tensor([[0.0], [1.0], [0.0]]), [0.0, 1.0, 2.0]), estimator="sampled")
    assert sampled.value.tolist() == [0.0]
    assert sampled.path.tolist() == pytest.approx([4.0])


def test_outputs_can_be_chosen_and_projected():
    network, a, b = mlp(5)
    line = Line(a, b)
    whole = smp(network, line, estimator="event", samples=65, refine=False)
    one = smp(network, line, estimator="event", samples=65, refine=False, outputs=-1)
    several = smp(network, line, estimator="event", samples=65, refine=False, outputs=[2, 0])
    mixed = smp(network, line, estimator="event", samples=65, refine=False, outputs=torch.eye(3)[:, [2, 0]] * 2)
    assert torch.allclose(one.value, whole.value[2:])
    assert torch.allclose(several.value, whole.value[[2, 0]])
    assert torch.allclose(mixed.value, 2 * whole.value[[2, 0]])
    assert torch.allclose(several.outputs, network(whole.t[:, None] * (b - a) + a)[:, [2, 0]])


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.1, 5), st.floats(0.2, 0.8))
def test_invariances(seed: int, factor: float, cut: float):
    network, a, b = mlp(seed, (6, 16, 16, 2))

    class Outside(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([network(x), -3 * network(x) - 2 * x[:, :2] + 7], 1)

    net = Network.of(Outside(), torch.stack([a, b]))
    plain = smp(net, Line(a, b), estimator="event", samples=129, refine=False)
    assert torch.allclose(plain.value[2:], 3 * plain.value[:2])
    slow = smp(net, Bent(torch.stack([a, b]), [0.0, factor]), estimator="event", samples=129, refine=False)
    assert torch.allclose(slow.value * factor, plain.value, rtol=1e-9)
    assert slow.count == plain.count
    middle = torch.lerp(a, b, cut)
    lines = (Line(a, b), Line(b, a), Line(a, middle), Line(middle, b))
    whole, back, head, tail = (smp(net, line, estimator="exact_line").value for line in lines)
    assert torch.allclose(whole, back, rtol=1e-9)
    assert torch.allclose(whole, head / cut + tail / (1 - cut), rtol=1e-9)
    assert torch.allclose(smp(net, Line(b, a), estimator="event", samples=257).value, whole, rtol=0.02)


def test_auto_chooses():
    network, a, b = mlp(0)
    assert smp(network, Line(a, b)).estimator == "exact_line"
    assert smp(network, Line(a, b)).grade is Grade.EXACT
    assert smp(network, Bow(a, b, a)).estimator == "event"
    assert smp(nn.Sequential(network, nn.Tanh()), Line(a, b)).estimator == "event"
    strange = nn.Sequential(network, Lambda(lambda y: torch.sort(y, 1)[0]))
    with pytest.raises(UnsupportedOperator, match="kinks or jumps"):
        smp(strange, Line(a, b), estimator="event")
    fallen = smp(strange, Line(a, b))
    assert (fallen.estimator, fallen.grade) == ("sampled", Grade.SAMPLED)
    assert "Only samples" in fallen.notes[0]
    truth = searched(strange, a, b)[1].abs().sum(0)
    assert torch.allclose(fallen.value, truth, rtol=0.1)
    with pytest.raises(CaptureError):
        smp(Lambda(lambda x: x * 2 if float(x.sum()) > 0 else x), Line(a, b), estimator="event")


def test_smooth_networks_have_none():
    for network in (
        nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 2), nn.Softmax(1)),
        nn.Linear(4, 2),
        nn.ELU(),
    ):
        found = smp(network, Line(torch.zeros(4), torch.ones(4)), estimator="event")
        assert found.value.abs().max() == 0
        assert found.count == 0
        assert not found.by_layer


def test_training_mode_and_single_precision_are_no_obstacle():
    network = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 2)).train()
    line = Line(torch.zeros(4) - 1, torch.ones(4))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    found = smp(network, line, estimator="event", samples=65)
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert torch.allclose(found.value, smp(network.double().eval(), line).value, rtol=1e-6)
    assert found.value.dtype == torch.float64


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"estimator": "guess"}, UsageError),
        ({"samples": 1}, UsageError),
        ({"batch_size": 0}, UsageError),
        ({"outputs": 3}, UsageError),
        ({"outputs": []}, UsageError),
        ({"outputs": torch.ones(2, 2)}, UsageError),
        ({"outputs": torch.full((3, 1), torch.nan)}, UsageError),
    ],
)
def test_mistakes_are_named(arguments: dict, error: type):
    network, a, b = mlp(0)
    with pytest.raises(error):
        smp(network, Line(a, b), **arguments)
    with pytest.raises(UsageError):
        smp(network, (a, b))  # type: ignore[arg-type]
    with pytest.raises(SubjectError):
        smp(network, Line(a[:5], b[:5]))
