"""Global Lipschitz bounds: golden numbers, legal composition over graphs, and refusals."""

from __future__ import annotations

import math

import pytest
import torch
from tests.support.inputs import calls, numbers, seeded
from tests.support.layers import GAINS
from torch import Tensor, nn

from assay.certified.chain import averaged, eclipse
from assay.certified.slopes import Slopes, slopes
from assay.certified.stretch import Stretch
from assay.errors import CaptureError, NumericalError, SubjectError, UnsupportedOperator, UsageError
from assay.grade import Grade
from assay.graph import Node, TensorSpec
from assay.sensitivity import condition_numbers
from assay.sensitivity.bounds import lipschitz_bound


def dense(*matrices: Tensor, bias: bool = False) -> nn.Sequential:
    """Linear layers of these matrices with ReLU between them."""
    layers: list[nn.Module] = []
    for matrix in matrices:
        layer = nn.Linear(matrix.shape[1], matrix.shape[0], bias=bias, dtype=torch.float64)
        layer.weight.data = matrix.double()
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1]).eval()


def sines(first: int, last: int) -> Tensor:
    return torch.sin(torch.arange(first, last + 1, dtype=torch.float64).square())


def golden() -> nn.Sequential:
    net = dense(sines(1, 20).reshape(5, 4), sines(21, 35).reshape(3, 5), bias=True)
    net[0].bias.data, net[2].bias.data = sines(36, 40) / 4 + 1, sines(41, 43) / 4
    return net


def jacobian_norm(net: nn.Module, x: Tensor, order: float = 2) -> float:
    jacobian = torch.func.vmap(torch.func.jacrev(lambda p: net(p[None])[0]))(x)
    return float(torch.linalg.matrix_norm(jacobian.detach().flatten(2), order).max())


def value(net: nn.Module, *shape: int, **options) -> float:
    return lipschitz_bound(net.double(), example=numbers(2, *shape), **options).value


def test_golden_network():
    x = torch.tensor([[0.25, 0.5, 0.75, 1.0]], dtype=torch.float64)
    found = lipschitz_bound(golden(), example=x)
    expected = {"product": 3.9711059993, "averaged": 3.5675004331, "eclipse": 3.3020125889, "frobenius": 8.1767619381}
    assert found.tried == pytest.approx(expected, rel=1e-8)
    assert found.value == found.tried["eclipse"]
    assert found.grade is Grade.BOUND
    assert [row.gain for row in found.layers] == pytest.approx([2.0689412023, 1.0, 1.9193904568], rel=1e-8)
    assert found.layers[-1].bound == found.value
    for method, number in expected.items():
        assert lipschitz_bound(golden(), example=x, method=method).value == pytest.approx(number, rel=1e-8)  # type: ignore[arg-type]


def test_golden_network_is_in_order():
    net, tried = golden(), lipschitz_bound(golden(), example=torch.zeros(1, 4, dtype=torch.float64)).tried
    first, second = net[0].weight.data, net[2].weight.data
    patterns = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * 5)
    largest = max(float(torch.linalg.matrix_norm(second @ torch.diag(p) @ first, 2)) for p in patterns)
    here = jacobian_norm(net, torch.tensor([[0.25, 0.5, 0.75, 1.0]], dtype=torch.float64))
    assert (here, largest) == pytest.approx((2.6579791618, 3.1638948669), rel=1e-8)
    order = [here, largest, *(tried[name] for name in ("eclipse", "averaged", "product", "frobenius"))]
    assert order == sorted(order)


def test_two_layers_by_hand():
    net = dense(torch.tensor([[1.0, -1.0], [2.0, 0.0]]), torch.tensor([[1.0, 1.0]]))
    assert value(net, 2, method="product") == pytest.approx(2.2882456113 * math.sqrt(2), rel=1e-8)
    assert value(net, 2, method="product", norm="inf") == pytest.approx(4.0, rel=1e-9)
    assert jacobian_norm(net, numbers(500, 2, seed=1), math.inf) <= value(net, 2, norm=math.inf)


def test_residual_and_concatenation():
    def skip(sign: float) -> nn.Module:
        layer = dense(sign * torch.eye(3))
        return calls(lambda self, x: x + self.layer(x), layer=layer)

    assert value(skip(-1.0), 3, method="product") == pytest.approx(2.0, rel=1e-8)
    assert value(skip(-1.0), 3) == pytest.approx(0.0, abs=1e-12)
    assert value(skip(1.0), 3) == pytest.approx(2.0, rel=1e-8)
    both = calls(lambda self, x: torch.cat([x, x], 1))
    assert value(both, 3) == pytest.approx(1.4142135624, rel=1e-8)
    assert value(both, 3, norm="inf") == pytest.approx(1.0, rel=1e-8)
    bent = calls(lambda self, x: torch.cat([torch.relu(x), torch.tanh(x)], 1))
    assert value(bent, 3) == pytest.approx(math.sqrt(2), rel=1e-8)  # attained just above zero
    twice = calls(lambda self, x: x + x)
    assert value(twice, 3) == pytest.approx(2.0, rel=1e-8)
    assert value(calls(lambda self, x: torch.relu(x) - x), 3) == pytest.approx(1.0, rel=1e-8)


def test_residual_block_is_multiplied_out():
    first, second = numbers(5, 4, seed=2), numbers(4, 5, seed=3)
    body = dense(first, second)
    block = calls(lambda self, x: x + self.body(x), body=body)
    norm = torch.linalg.matrix_norm
    expected = norm(torch.eye(4) + second @ first / 2, 2) + norm(second, 2) * norm(first, 2) / 2
    assert value(block, 4, method="averaged") == pytest.approx(float(expected), rel=1e-8)
    assert float(expected) < value(block, 4, method="product")
    assert jacobian_norm(block, 3 * numbers(2000, 4, seed=4)) <= value(block, 4)


def test_averaged_bound_is_the_sum_over_all_cuts():
    matrices = [numbers(4, 3, seed=5), numbers(5, 4, seed=6), numbers(2, 5, seed=7)]
    linears = [stretch_of(matrix) for matrix in matrices]

    def norm(*factors: Tensor) -> float:
        product = factors[0]
        for factor in factors[1:]:
            product = factor @ product
        return float(torch.linalg.matrix_norm(product, 2))

    a, b, c = matrices
    cuts = norm(a, b, c) + norm(a) * norm(b, c) + norm(a, b) * norm(c) + norm(a) * norm(b) * norm(c)
    assert averaged(linears, [Slopes(0, 1)] * 2, "2").value == pytest.approx(cuts / 4, rel=1e-9)
    leaky = Slopes(0.5, 1.0)  # middle 3/4, half 1/4
    expected = (
        9 * norm(a, b, c) + 3 * norm(a) * norm(b, c) + 3 * norm(a, b) * norm(c) + norm(a) * norm(b) * norm(c)
    ) / 16
    assert averaged(linears, [leaky] * 2, "2").value == pytest.approx(expected, rel=1e-9)


def test_eclipse_handles_scaled_slopes_and_activations_at_the_ends():
    linears = [stretch_of(numbers(4, 3, seed=8)), stretch_of(numbers(2, 4, seed=9))]
    plain, quarter = eclipse(linears, [Slopes(0, 1)]), eclipse(linears, [Slopes(0, 0.25)])
    assert isinstance(plain, float)
    assert quarter == pytest.approx(plain / 4, rel=1e-9)
    ends = [Stretch.identity(torch.Size((1, 3))), *linears, Stretch.identity(torch.Size((1, 2)))]
    assert eclipse(ends, [Slopes(0, 0.5), Slopes(0, 1), Slopes(0, 0.5)]) == pytest.approx(plain / 4, rel=1e-9)
    assert "negative" in str(eclipse(linears, [Slopes(-0.1, 1)]))
    assert eclipse([stretch_of(torch.zeros(2, 2, dtype=torch.float64))] * 2, [Slopes(0, 1)]) == 0.0


def stretch_of(matrix: Tensor) -> Stretch:
    norm = float(torch.linalg.matrix_norm(matrix, 2))
    gains = {"2": norm, "inf": float(matrix.abs().sum(1).max()), "frobenius": float(matrix.norm())}
    shapes = torch.Size((1, matrix.shape[1])), torch.Size((1, matrix.shape[0]))
    return Stretch(lambda change: change @ matrix.T, *shapes, gains, ("layer",))


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "gain"), [(2, 2, 0, 1.0), (3, 2, 0, 2.0), (3, 1, 1, 3.0), (3, 2, 1, 2.0)]
)
def test_max_pool_gain_is_attained_by_a_spike(kernel: int, stride: int, padding: int, gain: float):
    pool = nn.MaxPool2d(kernel, stride, padding)
    net = nn.Sequential(pool, nn.Flatten())
    assert value(net, 1, 8, 8) == pytest.approx(gain, rel=1e-12)
    spikes = torch.eye(64, dtype=torch.float64).reshape(64, 1, 8, 8)
    assert float(net(spikes).norm(dim=1).max()) == pytest.approx(gain, rel=1e-12)
    assert value(net, 1, 8, 8, norm="inf") == 1.0


@pytest.mark.parametrize(
    ("layer", "gain"),
    [
        (nn.AvgPool2d(2), 0.5),
        (nn.AvgPool2d(3, 1, 1), 0.9212065966),
        (nn.AvgPool2d(3, 2, 1), 0.5035654318),
        (nn.AdaptiveAvgPool2d(1), 1 / 8),
        (nn.Upsample(scale_factor=2), 2.0),
        (nn.ZeroPad2d(1), 1.0),
        (nn.ReflectionPad2d(1), 2.0),
    ],
)
def test_pools_and_moves(layer: nn.Module, gain: float):
    assert value(nn.Sequential(layer, nn.Flatten()), 1, 8, 8) == pytest.approx(gain, rel=1e-6)


@pytest.mark.parametrize(
    ("layer", "gain"),
    [
        *GAINS,
        (nn.LeakyReLU(0.2), 1.0),
        (nn.LeakyReLU(-3.0), 3.0),
        (nn.PReLU(init=2.0), 2.0),
        (nn.Softplus(), 1.0),
        (nn.ReLU6(), 1.0),
        (nn.Softmax(1), 0.5),
        (nn.LogSoftmax(1), math.sqrt(3)),
    ],
)
def test_activations(layer: nn.Module, gain: float):
    assert value(layer, 3) == pytest.approx(gain, abs=1e-5)
    steep = float(condition_numbers(layer, 6 * numbers(3000, 3, seed=11), kinds=("worst",)).jacobian_norm.max())
    assert steep <= value(layer, 3) * (1 + 1e-7)  # torch's own hardsigmoid derivative has a 1/6 of single precision


def test_batch_norm_is_folded():
    net = seeded(lambda: nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Flatten())).double()
    kernel = sines(1, 108).reshape(4, 3, 3, 3) / math.sqrt(27)
    net[0].weight.data = kernel
    net[1].weight.data = torch.tensor([1.0, 0.5, 2.0, -1.0], dtype=torch.float64)
    net[1].running_var = torch.tensor([1.0, 4.0, 0.25, 1.0], dtype=torch.float64)
    assert value(net, 3, 6, 6) == pytest.approx(5.0692206734, rel=1e-6)


def test_a_shared_module_counts_at_each_call():
    layer = dense(2 * torch.eye(3))
    net = calls(lambda self, x: self.layer(torch.relu(self.layer(x))), layer=layer)
    found = lipschitz_bound(net, example=numbers(2, 3))
    assert found.tried["product"] == pytest.approx(4.0, rel=1e-8)
    assert sum(row.place.startswith("layer") for row in found.layers) == 2


def test_convolutions_are_never_left_out():
    """A bound that only sees the dense layers would be 0.01 times too small here."""
    torch.manual_seed(3)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    for layer in (net[0], net[2]):
        layer.weight.data *= 10
    net = net.double()
    dense_only = float(torch.linalg.matrix_norm(net[5].weight.data, 2))
    reached = jacobian_norm(net, numbers(50, 1, 8, 8))
    found = lipschitz_bound(net, example=numbers(2, 1, 8, 8))
    assert reached > 5 * dense_only
    for number in (*found.tried.values(), value(net, 1, 8, 8, norm="inf") * 8):
        assert isinstance(number, float)
        assert number >= reached


def test_training_mode_is_bounded_as_evaluation_mode_and_left_alone():
    net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout(0.5), nn.ReLU()).double()
    trained = net.train()
    during = value(trained, 3)
    assert all(module.training for module in net.modules())
    assert during == value(net.eval(), 3)


def refused(function, *shape: int, **layers) -> UnsupportedOperator:
    with pytest.raises(UnsupportedOperator) as caught:
        lipschitz_bound(calls(function, **layers).double(), example=numbers(2, *shape))
    return caught.value


def test_every_node_without_a_constant_is_named():
    def forward(self, x):
        x = self.norm(x)
        x = x * torch.sigmoid(self.gate(x))
        return torch.nn.functional.scaled_dot_product_attention(x, x, x).flatten(1)

    error = refused(forward, 3, 8, norm=nn.LayerNorm(8), gate=nn.Linear(8, 8))
    for part in ("norm (layer_norm)", "product of two tensors", "attention"):
        assert part in error.what
    assert "condition_number" in error.advice


@pytest.mark.parametrize(
    "function",
    [
        lambda self, x: x * x,
        lambda self, x: x / (1 + x.abs()),
        lambda self, x: x.exp(),
        lambda self, x: x.square(),
        lambda self, x: torch.cumsum(x, 1),
        lambda self, x: torch.where(x > 0, x, x + 1),
        lambda self, x: x - x.mean(0, keepdim=True),
        lambda self, x: torch.nn.functional.softplus(x, threshold=0.0),
        lambda self, x: torch.nn.functional.rms_norm(x, (4,)),
        lambda self, x: x @ x.T,
    ],
)
def test_no_bound_is_made_up(function):
    with pytest.raises(SubjectError):
        lipschitz_bound(calls(function), example=numbers(2, 4))


def test_bad_requests():
    net, x = dense(torch.eye(2)), torch.zeros(1, 2)
    for options in ({"norm": 1}, {"method": "best"}):
        with pytest.raises(UsageError):
            lipschitz_bound(net, example=x, **options)
    with pytest.raises(UsageError, match="input shape"):
        lipschitz_bound(net)
    with pytest.raises(SubjectError, match="floating point"):
        lipschitz_bound(net, example=torch.zeros(1, 2, dtype=torch.int64))
    with pytest.raises(UnsupportedOperator, match="negative slopes"):
        lipschitz_bound(nn.Sequential(nn.Linear(2, 2), nn.GELU(), nn.Linear(2, 2)), example=x, method="eclipse")
    with pytest.raises(UnsupportedOperator, match="2-norm only"):
        lipschitz_bound(net, example=x, method="frobenius", norm="inf")


def test_broken_parameters_and_control_flow():
    net = dense(torch.tensor([[1.0, math.nan]]))
    with pytest.raises(SubjectError, match="NaN"):
        lipschitz_bound(net, example=torch.zeros(1, 2))
    norm = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).eval()
    norm[1].running_var.fill_(-1.0)
    with pytest.raises(SubjectError):
        lipschitz_bound(norm, example=torch.ones(1, 2))
    small = torch.full((2, 1), -1e-50, dtype=torch.float64)
    with pytest.raises(NumericalError, match="overflows"):
        lipschitz_bound(dense(*[torch.full((1, 1), 1e200, dtype=torch.float64)] * 2), example=small)
    with pytest.raises(CaptureError):
        lipschitz_bound(calls(lambda self, x: x if x.sum() > 0 else -x), example=torch.ones(1, 2))


def test_a_layer_too_large_for_matrices_keeps_its_product():
    net = seeded(lambda: nn.Sequential(nn.Linear(1100, 1100), nn.ReLU(), nn.Linear(1100, 2))).double()
    found = lipschitz_bound(net, example=torch.zeros(1, 1100, dtype=torch.float64))
    assert found.value == found.tried["product"]
    for method in ("averaged", "eclipse"):
        assert "1024" in str(found.tried[method])
    with pytest.raises(UnsupportedOperator, match="1024"):
        lipschitz_bound(net, example=torch.zeros(1, 1100, dtype=torch.float64), method="averaged")


def test_slopes_say_why_there_are_none():
    node = Node("y", "exp", ("x",), {}, TensorSpec((1,), torch.float64))
    assert "exp" in str(slopes(node))
