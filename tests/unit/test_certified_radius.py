"""The certified radius: exact where it can be, never above a distance at which the class changes, refusals."""

from __future__ import annotations

import math
from functools import lru_cache

import pytest
import torch
from tests.support.fashion import fashion_cnn, fashion_pictures
from tests.support.inputs import calls, close, numbers, seeded
from tests.support.networks import digits, trained_mlp
from torch import Tensor, nn

import assay
from assay.certified import bound_graph, certifiable, certified_ball, certified_radius, lipschitz_bound, obstacles
from assay.certified.relaxed import around
from assay.certified.reverse import Shared, reverse_walk
from assay.certified.search import Tried, largest
from assay.errors import SubjectError, UnsupportedOperator, UsageError
from assay.grade import Grade
from assay.graph import Node, TensorSpec, evaluate_node
from assay.sensitivity import bounds

METHODS = ("auto", "reverse", "joint", "steps", "global")


def linear(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, dtype=torch.float64)
    layer.weight.data = weight
    if bias is not None:
        layer.bias.data = bias
    return layer


def pooled() -> nn.Module:
    layers = [nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 8, 3, padding=1), nn.ReLU()]
    net = nn.Sequential(*layers, nn.MaxPool2d(3, 2, 1), nn.Flatten(), nn.Linear(32, 24), nn.Tanh(), nn.Linear(24, 5))
    return net.double()


def residual() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.first(x)))
        x = torch.relu(x + self.b(torch.nn.functional.silu(self.a(x))))
        x = torch.relu(self.skip(x) + self.d(torch.relu(self.c(x))))
        return self.head(x.mean((2, 3)))

    layers = {
        "first": nn.Conv2d(1, 4, 3, padding=1),
        "norm": nn.BatchNorm2d(4),
        "a": nn.Conv2d(4, 4, 3, padding=1),
        "b": nn.Conv2d(4, 4, 3, padding=1),
        "skip": nn.Conv2d(4, 8, 1, 2),
        "c": nn.Conv2d(4, 8, 3, 2, 1),
        "d": nn.Conv2d(8, 8, 3, padding=1),
        "head": nn.Linear(8, 5),
    }
    return calls(forward, **layers).double()


@lru_cache(maxsize=8)
def case(name: str) -> tuple[nn.Module, Tensor]:
    if name == "digits":
        return trained_mlp(3, 32, 5).double(), digits()[0][1300:1304].double()
    if name.startswith("fashion"):
        return fashion_cnn("silu" if name == "fashion silu" else "relu"), fashion_pictures()[0][:2]
    net = {"pooled": lambda: seeded(pooled), "residual": residual}[name]()
    return net, numbers(3, 1, 8, 8, seed=4) / 2


def distance_found(net: nn.Module, x: Tensor, label: Tensor) -> Tensor:
    """Distance (B,) of some point of another class: from the nearest of several attacks back along a straight line."""
    net = net.double()
    x = x.double()
    best = torch.full((len(x),), math.inf, dtype=torch.float64)
    for start in range(3):
        point = x + (0.01 * start) * numbers(*x.shape, seed=start)
        for _ in range(40):  # towards the nearest linearised boundary, a little further
            point = point.detach().requires_grad_(True)
            outputs = net(point)
            gradients = torch.stack(
                [torch.autograd.grad(outputs[:, j].sum(), point, retain_graph=True)[0] for j in range(outputs.shape[1])]
            ).transpose(0, 1)
            rows = torch.arange(len(x))
            margin = outputs[rows, label][:, None] - outputs
            normals = (gradients - gradients[rows, label][:, None]).flatten(2)
            size = margin.clamp(min=0) / normals.norm(dim=2).clamp(min=1e-12)
            size[rows, label] = math.inf
            rival = size.argmin(1)
            step = normals[rows, rival] / normals[rows, rival].norm(dim=1, keepdim=True).square().clamp(min=1e-12)
            moving = (margin[rows, rival] >= 0).to(x.dtype)[:, None]
            point = (point + (moving * 1.1 * (margin[rows, rival] + 1e-4)[:, None] * step).reshape(x.shape)).detach()
        low, high = torch.zeros(len(x), dtype=x.dtype), torch.ones(len(x), dtype=x.dtype)
        shape = (-1, *[1] * (x.dim() - 1))
        with torch.no_grad():
            fooled = net(point).argmax(1) != label
            for _ in range(40):
                middle = (low + high) / 2
                changed = net(x + middle.reshape(shape) * (point - x)).argmax(1) != label
                low, high = torch.where(changed, low, middle), torch.where(changed, middle, high)
        reached = (high.reshape(shape) * (point - x)).flatten(1).norm(dim=1)
        best = torch.where(fooled, torch.minimum(best, reached), best)
    return best


def test_linear_models_are_exact():
    weight, bias, x = numbers(4, 6, seed=1), numbers(4, seed=2), numbers(5, 6, seed=3)
    outputs = x @ weight.T + bias
    own = outputs.argmax(1)
    distances = (outputs.max(1, keepdim=True).values - outputs) / (weight[own][:, None] - weight).norm(dim=2)
    distances[torch.arange(5), own] = math.inf
    for method in ("auto", "joint", "steps"):
        found = certified_radius(linear(weight, bias), x, method=method)  # type: ignore[arg-type]
        close(found.radius, distances.min(1).values, 1e-9)
        assert bool((found.radius <= distances.min(1).values).all())
    assert found.label.tolist() == own.tolist()
    assert found.grade is Grade.BOUND
    assert found.why == ("",) * 5
    rival = (own + 1) % 4
    close(certified_radius(linear(weight, bias), x, rival=rival).radius, distances[torch.arange(5), rival], 1e-9)


def test_piecewise_linear_models_are_exact_until_a_kink():
    net = nn.Sequential(
        linear(torch.eye(2).double()), nn.ReLU(), linear(torch.tensor([[0.0, 1.0], [1.0, 0.0]]).double())
    )
    x = torch.tensor([[5.0, 4.0], [5.0, 1.0]], dtype=torch.float64)
    found = certified_radius(net, x, tolerance=1e-4)
    close(found.radius[:1], torch.tensor([math.sqrt(0.5)], dtype=torch.float64), 1e-4)  # no kink within 4
    assert 2.0 < float(found.radius[1]) < math.sqrt(8)
    assert 1 < int(found.balls[0]) < 12


def test_what_moves_all_outputs_alike_does_not_count():
    body = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)).double()
    shared = nn.Linear(3, 1).double()
    shared.weight.data *= 100
    x = numbers(3, 3, seed=5)
    alone = certified_radius(seeded(lambda: calls(lambda self, x: self.body(x), body=body)), x)
    together = certified_radius(calls(lambda self, x: self.body(x) + self.shared(x), body=body, shared=shared), x)
    close(together.radius, alone.radius, 1e-6)
    ball = certified_ball(calls(lambda self, x: self.body(x) + self.shared(x), body=body, shared=shared), x, 0.1)
    assert bool((ball.spread > 5).all())


def test_a_softmax_at_the_end_changes_nothing():
    net, x = seeded(lambda: nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))).double(), numbers(3, 4)
    plain = certified_radius(net, x).radius
    for last in (nn.Softmax(1), nn.LogSoftmax(-1)):
        close(certified_radius(nn.Sequential(net, last), x).radius, plain, 1e-12)


@pytest.mark.parametrize("name", ["digits", "pooled", "residual", "fashion", "fashion silu"])
def test_no_attack_is_nearer(name: str):
    net, x = case(name)
    found = certified_radius(net, x)
    distance = distance_found(net, x, found.label)
    assert bool(torch.isfinite(distance).all())
    assert bool((found.radius < distance).all())
    assert bool((found.radius > 0.05 * distance).all())  # and it says something
    within = certified_radius(net, x, upper=distance)
    assert bool((within.radius <= distance).all())
    close(within.radius, found.radius, 0.02)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_stays_below_attacks(method: str):
    for name in ("digits", "residual"):
        net, x = case(name)
        found = certified_radius(net, x, method=method)  # type: ignore[arg-type]
        assert bool((found.radius > 0).all())
        assert bool((found.radius < distance_found(net, x, found.label)).all())


def test_global_is_the_margin_over_the_lipschitz_bound():
    net, x = case("digits")
    found = certified_radius(net, x, method="global")
    close(found.radius, found.margin / (math.sqrt(2) * lipschitz_bound(net, example=x).value), 1e-6)
    assert found.balls.tolist() == [0] * len(x)
    assert bool((certified_radius(net, x).radius > 3 * found.radius).all())


@pytest.mark.parametrize("name", ["pooled", "residual", "fashion"])
def test_units_that_share_a_pass_are_bounded_as_alone(name: str):
    net, x = case(name)
    graph, point = bound_graph(net, x), x[0].double()
    shared, alone = Shared(), Shared()
    for node in graph:
        alone.packings[node.name] = None
    if name == "fashion":
        del alone.packings["conv2d_1"]  # 3,136 units one by one take long
    _, packed = reverse_walk(graph, point, 0.05, {}, shared)
    _, single = reverse_walk(graph, point, 0.05, {}, alone)
    assert any(packing is not None for packing in shared.packings.values())
    for node, both in packed.bounds.items():
        for side, other in zip(both, single.bounds[node], strict=True):
            close(side.shift, other.shift, 1e-9)
            close(side.gradient, other.gradient, 1e-9)


def test_bounds_of_units_hold_and_shrink_with_the_ball():
    net, x = case("pooled")
    graph, point = bound_graph(net, x), x[0].double()
    _, wide = reverse_walk(graph, point, 0.3, {}, Shared())
    _, narrow = reverse_walk(graph, point, 0.1, wide.bounds, Shared())
    weights = torch.eye(5, dtype=torch.float64)[:, None]
    for domain, radius in ((wide, 0.3), (narrow, 0.1), (wide, 0.1)):
        drawn = radius * nn.functional.normalize(numbers(2000, 64, seed=1), dim=1).reshape(-1, 1, 8, 8)
        with torch.no_grad():
            moved = net(point + drawn) - net(point[None])
        assert bool((moved.amax(0) <= domain.above(graph.output, weights).at(radius)).all())
        assert bool((-moved.amin(0) <= domain.above(graph.output, -weights).at(radius)).all())
    tight, loose = (one.above(graph.output, weights).at(0.1) for one in (narrow, wide))
    assert bool((tight <= loose + 1e-9).all())


ELEMENTWISE = [
    ("relu", {}),
    ("leaky_relu", {"negative_slope": 0.2}),
    ("clip", {"low": 0.0, "high": 1.0}),
    ("hardsigmoid", {}),
    ("hardswish", {}),
    ("tanh", {}),
    ("sigmoid", {}),
    ("gelu", {}),
    ("silu", {}),
    ("elu", {"alpha": 1.0, "scale": 1.0, "input_scale": 1.0}),
    ("softplus", {"beta": 1.0, "threshold": 20.0}),
    ("abs", {}),
    ("exp", {}),
    ("erf", {}),
    ("sin", {}),
]


@pytest.mark.parametrize(("op", "attributes"), ELEMENTWISE, ids=[op for op, _ in ELEMENTWISE])
def test_lines_are_on_their_side(op: str, attributes: dict):
    node = Node(op, op, ("x",), attributes, TensorSpec((1,), torch.float64))
    ends = 4 * numbers(2, 1, 400, seed=7)
    low, high = ends.amin(0), ends.amax(0)
    centre = low + torch.rand(1, 400, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * (high - low)
    lines = around(node, (), centre, low, high)
    for share in torch.linspace(0, 1, 101, dtype=torch.float64):
        at = low + share * (high - low)
        change = evaluate_node(node, [at], 1) - evaluate_node(node, [centre], 1)
        assert bool((change <= lines.above.slope * (at - centre) + lines.above.shift + 1e-13).all())
        assert bool((change >= lines.below.slope * (at - centre) + lines.below.shift - 1e-13).all())


def test_lines_around_a_relu():
    node = Node("relu", "relu", ("x",), {}, TensorSpec((1,), torch.float64))
    low, high = torch.tensor([[-1.0, -3.0, 1.0, -2.0]]).double(), torch.tensor([[3.0, 1.0, 2.0, -1.0]]).double()
    lines = around(node, (), torch.tensor([[0.0, 0.0, 1.5, -1.5]]).double(), low, high)
    close(lines.above.slope, torch.tensor([[0.75, 0.25, 1.0, 0.0]]).double())
    close(lines.above.shift, torch.tensor([[0.75, 0.75, 0.0, 0.0]]).double())
    close(lines.below.slope, torch.tensor([[1.0, 0.0, 1.0, 0.0]]).double())
    close(lines.below.shift, torch.zeros(1, 4).double())


def test_brute_force_in_the_plane():
    torch.manual_seed(3)
    net = nn.Sequential(nn.Linear(2, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 3)).double()
    net[0].weight.data *= 3
    x = numbers(6, 2, seed=2)
    found = certified_radius(net, x)
    angles = torch.linspace(0, 2 * math.pi, 721, dtype=torch.float64)
    shares = torch.linspace(0, 1, 60, dtype=torch.float64)
    grid = (shares[:, None, None] * torch.stack([angles.cos(), angles.sin()], 1)).reshape(-1, 2)
    with torch.no_grad():
        for point, radius, label in zip(x, found.radius, found.label, strict=True):
            assert bool((net(point + radius * grid).argmax(1) == label).all())
            if radius < 1:
                assert bool((net(point + 8 * radius * grid).argmax(1) != label).any())


def test_labels_rivals_and_ties():
    net, x = case("digits")
    base = certified_radius(net, x)
    other = (base.label + 1) % 10
    wrong = certified_radius(net, x, label=other)
    assert wrong.radius.tolist() == [0.0] * len(x)
    assert "is predicted instead of" in wrong.why[0]
    assert bool((wrong.margin < 0).all())
    every = torch.stack([certified_radius(net, x[:1], rival=int(j)).radius for j in range(10) if j != base.label[0]])
    assert float(every.min()) == pytest.approx(float(base.radius[0]), rel=0.02)
    assert bool((every >= base.radius[0] * 0.98).all())
    tied = certified_radius(linear(torch.ones(2, 3).double()), numbers(1, 3))
    assert tied.radius.tolist() == [0.0]
    assert tied.why == ("two classes tie within rounding",)
    constant = certified_radius(linear(torch.zeros(2, 3).double(), torch.tensor([1.0, 0.0]).double()), numbers(1, 3))
    assert constant.radius.tolist() == [math.inf]


def test_a_batch_is_its_rows():
    net, x = case("residual")
    found = certified_radius(net, x)
    for row in range(len(x)):
        alone = certified_radius(net, x[row : row + 1])
        close(alone.radius, found.radius[row : row + 1], 1e-9)
        assert int(alone.balls) == int(found.balls[row])


def test_public_names():
    assert assay.certified.certified_radius is assay.sensitivity.certified_radius is certified_radius
    assert assay.sensitivity.certified_ball is certified_ball
    assert bounds.lipschitz_bound is assay.sensitivity.lipschitz_bound is lipschitz_bound
    assert bounds.certified_radius is certified_radius


def test_refusals():
    def attends(self, x: Tensor) -> Tensor:
        return self.head(x * torch.softmax(x, 1))

    net, x = calls(attends, head=nn.Linear(4, 3)), torch.randn(2, 4)
    with pytest.raises(UnsupportedOperator, match="product of two tensors") as caught:
        certified_radius(net, x)
    assert "mul" in caught.value.where
    assert not certifiable(net, x)
    assert "product of two tensors" in obstacles(net, x)[0]
    good = nn.Linear(4, 3)
    assert certifiable(good, x)
    for options in (
        {"method": "magic"},
        {"tolerance": 0.0},
        {"label": 3},
        {"label": torch.zeros(5, dtype=torch.long)},
        {"label": 0.5},
        {"upper": -1.0},
        {"upper": torch.ones(3)},
        {"label": 1, "rival": 1},
    ):
        with pytest.raises(UsageError):
            certified_radius(good, x, **options)  # type: ignore[arg-type]
    with pytest.raises(SubjectError, match="at least two classes"):
        certified_radius(nn.Linear(4, 1), x)
    assert not certifiable(nn.Linear(4, 1), x)
    with pytest.raises(SubjectError):
        certified_radius(nn.Unflatten(1, (2, 2)), x)


def test_the_search_finds_where_the_share_is_one():
    for power in (1.0, 2.0, 5.0):

        def walk(radius: float, power: float = power) -> Tried:
            share = radius / 3 * math.exp(power * radius)
            return Tried(radius, radius if share <= 1 else radius / share, share)

        found, balls = largest(walk, 3.0, math.inf, 0.01)
        assert walk(found).share <= 1 < walk(found * 1.0101).share
        assert balls <= 6
        assert largest(walk, 3.0, found / 2, 0.01)[0] == pytest.approx(found / 2, rel=0.011)
    assert largest(lambda radius: Tried(radius, 0.0, math.inf), 1.0, math.inf, 0.01)[0] == 0.0
