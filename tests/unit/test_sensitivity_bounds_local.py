"""Local rungs: certified balls, stages, chains, componentwise numbers and the ladder that holds them."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from tests.support.inputs import calls, close, numbers, seeded
from torch import Tensor, nn

from assay.certified.slopes import slopes_between
from assay.errors import NumericalError, SubjectError, UnsupportedOperator, UsageError
from assay.grade import Grade
from assay.graph import OPERATORS, Node, TensorSpec, evaluate
from assay.sensitivity import condition_number, condition_numbers
from assay.sensitivity.bounds import (
    bound_graph,
    certified_ball,
    chain_conditions,
    componentwise_condition,
    infinity_condition,
    ladder,
    layer_norm_jacobian_norm,
    lipschitz_bound,
    rms_norm_jacobian_norm,
    softmax_jacobian_norm,
    stage_norms,
    stages,
    theorem_a,
)


def sines(first: int, last: int) -> Tensor:
    return torch.sin(torch.arange(first, last + 1, dtype=torch.float64).square())


def golden() -> nn.Sequential:
    net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).double()
    net[0].weight.data, net[2].weight.data = sines(1, 20).reshape(5, 4), sines(21, 35).reshape(3, 5)
    net[0].bias.data, net[2].bias.data = sines(36, 40) / 4 + 1, sines(41, 43) / 4
    return net


POINT = torch.tensor([[0.25, 0.5, 0.75, 1.0]], dtype=torch.float64)


def two_layers() -> tuple[nn.Sequential, Tensor]:
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False)).double()
    net[0].weight.data = torch.tensor([[1.0, -1.0], [2.0, 0.0]], dtype=torch.float64)
    net[2].weight.data = torch.tensor([[1.0, 1.0]], dtype=torch.float64)
    return net, torch.tensor([[1.0, 2.0]], dtype=torch.float64)


def conv_net() -> nn.Module:
    """Convolutions, a skip connection, an overlapping max pool, batch norm and a smooth activation."""
    layers = {
        "first": nn.Conv2d(1, 3, 3, padding=1),
        "norm": nn.BatchNorm2d(3),
        "pool": nn.MaxPool2d(3, 2, 1),
        "second": nn.Conv2d(3, 3, 3, padding=1),
        "third": nn.Conv2d(3, 3, 3, padding=1),
        "head": nn.Linear(12, 4),
    }

    def forward(self, x):
        x = self.pool(torch.relu(self.norm(self.first(x))))
        x = torch.relu(x + self.third(torch.nn.functional.silu(self.second(x))))
        return self.head(torch.nn.functional.avg_pool2d(x, 2).flatten(1))

    net = calls(forward, **layers)
    net.norm.running_mean.data, net.norm.running_var.data = torch.randn(3) / 5, torch.rand(3) + 0.5
    return net.double()


def test_diagonal_map():
    net = nn.Linear(2, 2, bias=False).double()
    net.weight.data = torch.diag(torch.tensor([3.0, 1.0], dtype=torch.float64))
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], dtype=torch.float64)
    found = ladder(net, x)
    close(found["kappa"].value, torch.tensor([1.0, 3.0, 1.3416407865], dtype=torch.float64), 1e-8)
    close(found["kappa rms"].value[1:], torch.tensor([2.2360679775, 1.0], dtype=torch.float64), 1e-8)


def test_two_layers_by_hand():
    net, x = two_layers()
    chain = chain_conditions(net, x)
    assert float(chain.input) == pytest.approx(3.6180339887, rel=1e-8)
    assert float(chain.kappa.prod()) == pytest.approx(3.6180339887, rel=1e-8)
    assert float(chain.gains.prod()) == pytest.approx(3.2360679775, rel=1e-8)
    graph = bound_graph(net, x)
    assert float(stage_norms(graph, x).product) == pytest.approx(2.0, rel=1e-10)
    assert float(stage_norms(graph, x, mask="rows").product) == pytest.approx(2 * math.sqrt(2), rel=1e-10)
    assert float(condition_number(net, x)) == pytest.approx(2.2360679775, rel=1e-8)
    assert float(componentwise_condition(net, x)) == pytest.approx(1.0, rel=1e-12)


def test_golden_network():
    net = golden()
    found = ladder(net, POINT, relative=False, radii=(1e-4,))
    assert float(found["masked"].value) == pytest.approx(3.2704476792, rel=1e-8)
    assert float(found["kappa"].value) == pytest.approx(2.6579791618, rel=1e-8)
    assert float(found["ball 0.0001"].value) == pytest.approx(2.6579791618, rel=1e-8)  # no kink is that near
    assert float(infinity_condition(net, POINT)) == pytest.approx(1.9590593224, rel=1e-8)
    assert float(chain_conditions(net, POINT).input) == pytest.approx(2.5106811229, rel=1e-8)
    relative = ladder(net, POINT)
    assert float(relative["kappa"].value) == pytest.approx(1.6804734268, rel=1e-8)
    assert float(relative["kappa rms"].value) == pytest.approx(0.9074812892, rel=1e-8)
    for name, grade in (("global", Grade.BOUND), ("ball 0.01", Grade.BOUND), ("masked", Grade.LINEARISED)):
        assert relative[name].grade is grade


@pytest.mark.parametrize(
    ("logits", "norm"), [((0, 0), 0.5), ((0, 0, 0), 1 / 3), ((5, 0, 0), 0.0196798597), ((1, 2, 3), 0.3709036420)]
)
def test_softmax_jacobian(logits: tuple[int, ...], norm: float):
    at = torch.tensor(logits, dtype=torch.float64)
    assert float(softmax_jacobian_norm(at)) == pytest.approx(norm, rel=1e-8)
    dense = torch.func.jacrev(lambda z: torch.softmax(z, 0))(at)
    assert float(torch.linalg.matrix_norm(dense, 2)) == pytest.approx(norm, rel=1e-8)


def test_normalisation_jacobians():
    x = torch.tensor([1.0, 2.0, 4.0, 8.0], dtype=torch.float64)
    assert float(layer_norm_jacobian_norm(x)) == pytest.approx(0.3730016638, rel=1e-8)
    assert float(layer_norm_jacobian_norm(torch.zeros(4))) == pytest.approx(316.2277660168, rel=1e-8)
    assert float(rms_norm_jacobian_norm(x)) == pytest.approx(0.2169304527, rel=1e-8)
    points, weight = numbers(5, 6, seed=1), numbers(6, seed=2)
    for function, closed in (
        (lambda p: torch.nn.functional.layer_norm(p, (6,), weight), layer_norm_jacobian_norm(points, weight)),
        (lambda p: torch.nn.functional.rms_norm(p, (6,), weight, 1e-6), rms_norm_jacobian_norm(points, weight)),
    ):
        dense = torch.func.vmap(torch.func.jacrev(function))(points)
        close(closed, torch.linalg.matrix_norm(dense, 2), 1e-9)


def test_theorem_by_hand():
    kappa = torch.tensor([2.0, 3.0], dtype=torch.float64)
    found = theorem_a(
        kappa, 0.1, weight_change=torch.tensor([0.01, 0.02]), bias_change=0.5, local_error=torch.tensor([0.0, 0.25])
    )
    first = 2 * (1.01 * 0.1 + 0.01 + 0.5)
    close(found, torch.tensor([first, 3 * (1.02 * first + 0.02 + 0.5 + 0.25)], dtype=torch.float64), 1e-6)
    batch = theorem_a(kappa.expand(4, 2), torch.arange(4.0))
    close(batch[:, 1], 6.0 * torch.arange(4.0, dtype=torch.float64))
    for options in ({"weight_change": -0.1}, {"bias_change": math.nan}, {"local_error": torch.zeros(3)}):
        with pytest.raises(UsageError):
            theorem_a(kappa, **options)


def test_stages_begin_with_layers_and_keep_blocks_whole():
    net, x = conv_net(), numbers(2, 1, 8, 8)
    graph = bound_graph(net, x)
    found = stages(graph)
    assert [len(stage.weighted) for stage in found] == [1, 2, 1]
    assert [stage.joins for stage in found] == [False, True, False]
    assert found[0].start == graph.input
    assert found[-1].end == graph.output
    assert all(before.end == after.start for before, after in pairwise(found))
    value = x
    for stage in found:
        value = evaluate(stage.graph, value)
    close(value, net(x), 1e-12)
    with pytest.raises(UnsupportedOperator, match="chains"):
        chain_conditions(net, x)


def test_rungs_get_tighter():
    net, x = conv_net(), numbers(6, 1, 8, 8, seed=3)
    found = ladder(net, x, groups=(1, 2), radii=(1e-6, 1e-3, 1e-1))
    order = ["product", "averaged", "global", "ball 0.1", "ball 0.001", "ball 1e-06", "kappa"]
    values = torch.stack([found[name].value for name in order])
    assert bool((values[:-1] >= values[1:] * (1 - 1e-9)).all())
    steps = torch.stack([found[name].value for name in ("product", "masked rows", "masked", "masked by 2", "kappa")])
    assert bool((steps[:-1] >= steps[1:] * (1 - 1e-6)).all())
    close(found["ball 1e-06"].value, found["kappa"].value, 1e-3)
    assert [record["rung"] for record in found.records()] == [rung.name for rung in found]
    with pytest.raises(KeyError, match="kappa"):
        found["nothing"]


def test_one_group_of_all_stages_is_the_jacobian():
    net, x = conv_net(), numbers(3, 1, 8, 8)
    whole = stage_norms(bound_graph(net, x), x, group=99)
    close(whole.norm[:, 0], condition_numbers(net, x).jacobian_norm, 1e-9)


@pytest.mark.parametrize("method", ["steps", "joint", "auto"])
@pytest.mark.parametrize("size", [0.01, 0.3, 2.0])
def test_nothing_in_the_ball_moves_further(method, size: float):
    net, x = conv_net(), numbers(3, 1, 8, 8, seed=5)
    found = certified_ball(net, x, size, method=method)
    for seed in range(3):
        changes = numbers(400, 64, seed=seed)
        changes = (size * changes / changes.norm(dim=1, keepdim=True)).reshape(-1, 1, 8, 8)
        for row in range(len(x)):
            moved = (net(x[row] + changes) - net(x[row][None])).detach()
            assert float(moved.norm(dim=1).max()) <= float(found.change[row])
            assert bool((moved.abs().amax(0) <= found.spread[row]).all())
    assert bool((found.lipschitz <= lipschitz_bound(net, example=x).value * (1 + 1e-12)).all())


def test_ball_certifies_functions_without_a_global_constant():
    net = calls(lambda self, x: torch.exp(self.layer(x)) + self.layer(x).square(), layer=nn.Linear(3, 2)).double()
    x = numbers(4, 3)
    found = certified_ball(net, x, 0.5)
    assert found.global_value == math.inf
    pairs = x[:, None] + 0.5 * torch.nn.functional.normalize(numbers(4, 500, 3, seed=1), dim=2) * 0.99
    moved = net(pairs.reshape(-1, 3)).reshape(4, 500, 2) - net(x)[:, None]
    assert bool((moved.norm(dim=2).amax(1) <= found.change).all())
    close(certified_ball(net, x, 1e-9).lipschitz, condition_numbers(net, x).jacobian_norm, 1e-6)


def test_ball_sees_that_another_element_may_win_a_pool():
    def lead(self, x: Tensor) -> Tensor:
        return torch.nn.functional.max_pool1d(10 * x[:, None], 2).flatten(1) - 10 * x[:, :1]

    x = torch.tensor([[0.4, 0.0]], dtype=torch.float64)
    moved = torch.tensor([[0.4 - 0.21, 0.21]], dtype=torch.float64)
    net = calls(lead)
    reached = float((net(moved) - net(x)).abs())
    assert reached == pytest.approx(0.2)
    for method in ("steps", "joint"):
        assert float(certified_ball(net, x, 0.3, method=method).change) >= reached  # type: ignore[arg-type]
        assert float(certified_ball(net, x, 0.15, method="joint").change) == pytest.approx(
            0, abs=1e-12
        )  # nothing else can win


def test_ball_through_wide_layers_keeps_only_norms():
    net = seeded(lambda: nn.Sequential(nn.Linear(1100, 1100), nn.ReLU(), nn.Linear(1100, 3))).double()
    x = numbers(1, 1100)
    found = certified_ball(net, x, 0.1)
    changes = 0.1 * torch.nn.functional.normalize(numbers(200, 1100, seed=1), dim=1)
    assert float((net(x + changes) - net(x)).detach().norm(dim=1).max()) <= float(found.change)
    assert float(found.lipschitz) <= found.global_value * (1 + 1e-12)


ACTIVATIONS = [
    (row.name, sample)
    for row in OPERATORS.values()
    if row.family == "activation"
    for sample in row.samples(torch.Generator().manual_seed(0))
] + [
    ("gelu", None),
    *[("power", type("S", (), {"attributes": {"exponent": e}, "inputs": ()})) for e in (-1.0, 0.5, 1.0, 2.0, 3.0)],
    ("elu", type("S", (), {"attributes": {"alpha": 2.5, "scale": 1.5}, "inputs": ()})),
]


@pytest.mark.parametrize(("name", "sample"), ACTIVATIONS)
def test_slopes_between_hold_every_difference_quotient(name: str, sample):
    attributes = {} if sample is None else dict(sample.attributes)
    fixed = () if sample is None else sample.inputs[1:]
    shape = (20000, 4, 5)
    centre, reach = 2.5 * numbers(*shape), numbers(*shape, seed=1).abs()
    low, high = centre - reach, centre + reach
    node = Node("y", name, ("x",), attributes, TensorSpec(tuple(shape), torch.float64))
    smallest, largest = slopes_between(node, fixed, low, high)
    fraction = torch.rand(2, *shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    a, b = low + fraction[0] * 2 * reach, low + fraction[1] * 2 * reach
    evaluate = OPERATORS[name].evaluate
    quotient = (evaluate(a, *fixed, **attributes) - evaluate(b, *fixed, **attributes)) / (a - b)
    legal = torch.isfinite(quotient) & ((a - b).abs() > 1e-3)
    slack = 1e-10 * (1 + quotient[legal].abs())
    if name in ("softplus",):
        slack = slack + 1e-5  # torch's softplus jumps by 2e-9 at its threshold
    assert bool((quotient[legal] <= largest[legal] + slack).all())
    assert bool((quotient[legal] >= smallest[legal] - slack).all())
    assert int(legal.sum()) > 1000


def test_relative_numbers_need_an_output():
    net = nn.Sequential(nn.Linear(2, 2, bias=False)).double()
    zero = torch.zeros(1, 2, dtype=torch.float64)
    for ask in (
        lambda: ladder(net, zero),
        lambda: componentwise_condition(net, zero),
        lambda: infinity_condition(net, zero),
        lambda: chain_conditions(net, zero),
    ):
        with pytest.raises(NumericalError):
            ask()
    absolute = ladder(net, zero, relative=False)
    norm = float(torch.linalg.matrix_norm(net[0].weight.data, 2))
    assert float(absolute["global"].value) == pytest.approx(norm, rel=1e-9)
    assert float(infinity_condition(net, zero, relative=False)) == pytest.approx(
        float(net[0].weight.data.abs().sum(1).max()), rel=1e-12
    )
    assert absolute["ball 0.01"].value is None


def test_ladder_keeps_local_rungs_where_no_global_bound_exists():
    net = seeded(lambda: nn.Sequential(nn.Linear(6, 6), nn.LayerNorm(6), nn.ReLU(), nn.Linear(6, 3))).double()
    x = numbers(3, 6)
    found = ladder(net, x, groups=(1,))
    for name in ("global", "ball 0.01"):
        assert found[name].value is None
        assert "layer_norm" in found[name].note
    assert bool((found["masked"].value >= found["kappa"].value * (1 - 1e-9)).all())


def test_bad_inputs_and_requests():
    net, x = golden(), POINT
    with pytest.raises(SubjectError, match="NaN"):
        ladder(net, x * math.nan)
    for radius in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(UsageError):
            certified_ball(net, x, radius)
    with pytest.raises(UsageError):
        certified_ball(net, x, 0.1, method="best")  # type: ignore[arg-type]
    with pytest.raises(UsageError):
        ladder(net, x, groups=(0,))
    with pytest.raises(UsageError):
        stage_norms(bound_graph(net, x), x, mask="columns")  # type: ignore[arg-type]
    with pytest.raises(UnsupportedOperator, match="layer_norm"):
        certified_ball(nn.LayerNorm(4).double(), x, 0.1)


def test_folding_single_precision_norms_loses_no_guarantee():
    for seed in range(8):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6)).eval()
        net[1].running_var.uniform_(0.2, 3.0)
        wide = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6)).double().eval()
        wide.load_state_dict(net.state_dict())
        truth = float(torch.linalg.matrix_norm(wide(torch.eye(6).double()) - wide(torch.zeros(1, 6).double()), 2))
        assert truth <= lipschitz_bound(net, example=torch.zeros(1, 6)).value <= truth * (1 + 1e-8)
        assert truth <= float(certified_ball(net, torch.ones(1, 6), 0.1).lipschitz) <= truth * (1 + 1e-8)


def test_a_ball_stays_guaranteed_where_squares_of_its_radius_vanish():
    layers = (nn.Linear(4, 5, bias=False), nn.ReLU(), nn.Linear(5, 3, bias=False))
    net = seeded(lambda: nn.Sequential(*layers).double())
    x = numbers(2, 4).double()
    plain = certified_ball(net, x, 0.01)
    tiny = certified_ball(net, x * 1e-190, 1e-192)
    close(tiny.lipschitz, plain.lipschitz, 1e-6)
    close(tiny.change * 1e190, plain.change, 1e-6)


def test_examples_and_models_of_the_wrong_kind_are_named():
    for example in ([[0.0, 0.0]], numbers(1, 2).numpy()):
        with pytest.raises(SubjectError, match="floating point tensor"):
            lipschitz_bound(nn.Linear(2, 2), example=example)  # type: ignore[arg-type]
    with pytest.raises(SubjectError, match="Module"):
        lipschitz_bound(lambda x: x, example=torch.zeros(1, 2))  # type: ignore[arg-type]


def test_a_detached_path_is_no_derivative_of_zero():
    class Detached(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x).detach()

    for function in (condition_number, componentwise_condition, infinity_condition):
        with pytest.raises(SubjectError, match="no differentiable path"):
            function(Detached(), torch.ones(2, 3))
    dead = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2))
    dead[0].bias.data.fill_(-100.0)
    assert condition_number(dead, torch.ones(2, 3)).tolist() == [0.0, 0.0]  # a derivative that is zero stays one


def test_radii_that_fit_no_inputs_are_named():
    with pytest.raises(UsageError, match="do not fit 2 inputs"):
        certified_ball(nn.Linear(2, 2), torch.ones(2, 2), [0.1, 0.2, 0.3])
