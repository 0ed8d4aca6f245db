"""Norms of layers other than convolutions: activations, pools, moves, resizing, dense layers, sequences."""

from __future__ import annotations

import math
from typing import Any

import mpmath
import pytest
import torch
from tests.support.inputs import numbers
from tests.support.layers import GAINS, convolution, largest, unrolled, waves
from torch import Tensor, nn

from assay.errors import SubjectError, UsageError
from assay.grade import Grade
from assay.norms import activation_gain, local_norm, operator_norm
from assay.norms.gains import largest_slope
from assay.norms.maps import Effort, Matrix
from assay.norms.modules import describe


@pytest.mark.parametrize(
    ("layer", "gain"),
    [
        *GAINS,
        (nn.ReLU(), 1),
        (nn.ReLU6(), 1),
        (nn.LeakyReLU(0.2), 1),
        (nn.LeakyReLU(-3.0), 3),
        (nn.Tanh(), 1),
        (nn.Softplus(beta=3), 1),
        (nn.ELU(0.5), 1),
        (nn.ELU(2.5), 2.5),
        (nn.CELU(2.5), 1),
        (nn.Softsign(), 1),
        (nn.LogSigmoid(), 1),
        (nn.Tanhshrink(), 1),
        (nn.Softshrink(), 1),
        (nn.Hardtanh(-2, 3), 1),
        (nn.PReLU(3, init=-1.5), 1.5),
    ],
    ids=str,
)
def test_activation_gains(layer: nn.Module, gain: float) -> None:
    found = operator_norm(layer.eval(), (3,))
    assert found.value == pytest.approx(gain, abs=1e-6)
    assert found.grade is Grade.EXACT
    assert operator_norm(layer, (3,), method="infinity").value == found.value
    # No pair of numbers is stretched more, and some pair nearly as much.
    points = torch.linspace(-9, 9, 3 * 60_000, dtype=torch.float64).reshape(3, -1).T.double()
    values = layer.double()(points)
    slopes = ((values[1:] - values[:-1]) / (points[1:] - points[:-1])).abs()
    assert 0.999 * gain < float(slopes.max()) <= found.upper * (1 + 1e-9)


def test_maximised_gains_are_right_to_nine_digits() -> None:
    with mpmath.workdps(30):

        def gelu(x: Any) -> Any:
            return mpmath.ncdf(x) + x * mpmath.npdf(x)

        def silu(x: Any) -> Any:
            s = 1 / (1 + mpmath.exp(-x))
            return s + x * s * (1 - s)

        at_gelu, at_silu = mpmath.sqrt(2), mpmath.findroot(lambda x: mpmath.diff(silu, x), 2.4)
        assert activation_gain("gelu")[0] == pytest.approx(float(gelu(at_gelu)), rel=1e-9)
        assert activation_gain("silu")[0] == pytest.approx(float(silu(at_silu)), rel=1e-9)


@pytest.mark.parametrize(
    ("function", "gain"), [(lambda x: torch.sin(50 * x), 50), (lambda x: torch.atan(1e4 * x), 1e4)]
)
def test_maximisation_finds_narrow_peaks(function: Any, gain: float) -> None:
    assert largest_slope(function) == pytest.approx(gain, rel=1e-9)


@pytest.mark.parametrize("operator", ["exp", "log", "power"])
def test_unbounded_slopes_are_an_error(operator: str) -> None:
    with pytest.raises(SubjectError, match="unbounded"):
        activation_gain(operator, **({"exponent": 2.0} if operator == "power" else {}))
    with pytest.raises(SubjectError, match="unbounded"):
        largest_slope(lambda x: x * x)
    with pytest.raises(UsageError):
        activation_gain("conv")


@pytest.mark.parametrize(
    ("layer", "shape", "gain"),
    [
        (nn.MaxPool2d(2, 2), (1, 8, 8), 1),
        (nn.MaxPool2d(3, 2), (1, 9, 9), 2),
        (nn.MaxPool2d(3, 1), (1, 8, 8), 3),
        (nn.MaxPool2d(3, 2, padding=1, ceil_mode=True), (2, 8, 8), 2),
        (nn.MaxPool2d(2, 1, dilation=2), (1, 8, 8), 2),
        (nn.MaxPool2d(2, 2, dilation=3), (1, 8, 8), 1),
        (nn.MaxPool2d(3, 2, dilation=2), (1, 9, 9), 3),
        (nn.MaxPool2d(3, 1), (1, 3, 3), 1),
        (nn.MaxPool1d(3, 1), (1, 8), math.sqrt(3)),
        (nn.MaxPool3d(2, 1), (1, 4, 4, 4), math.sqrt(8)),
        (nn.AdaptiveMaxPool2d(2), (1, 8, 8), 1),
        (nn.AdaptiveMaxPool2d((5, None)), (1, 8, 8), math.sqrt(2)),
    ],
    ids=str,
)
def test_max_pools_attain_their_gain_by_a_spike(layer: nn.Module, shape: tuple[int, ...], gain: float) -> None:
    found = operator_norm(layer, shape)
    size = math.prod(shape)
    spikes = torch.eye(size, dtype=torch.float64).reshape(size, *shape)
    attained = float(layer(spikes).flatten(1).norm(dim=1).max())
    assert found.value == pytest.approx(attained, rel=1e-12)
    assert found.value == pytest.approx(gain, rel=1e-12)
    assert operator_norm(layer, shape, method="infinity").value == 1
    with pytest.raises(UsageError):
        operator_norm(layer, shape, method="frobenius")
    x, y = numbers(50, *shape, seed=1), numbers(50, *shape, seed=2)
    ratio = (layer(x) - layer(y)).flatten(1).norm(dim=1) / (x - y).flatten(1).norm(dim=1)
    assert float(ratio.max()) <= found.upper


LINEAR = [
    (nn.AvgPool2d(2), (2, 8, 8), 0.5),
    (nn.AvgPool2d(3, 1, 1), (2, 8, 8), 0.9212065966),
    (nn.AvgPool2d(3, 2, 1), (2, 8, 8), 0.5035654318),
    (nn.AvgPool2d(3, 2, 1, ceil_mode=True), (1, 6, 6), None),
    (nn.AvgPool2d(3, 2, 1, count_include_pad=False), (1, 7, 5), None),
    (nn.AvgPool2d((3, 2), divisor_override=4), (1, 7, 6), None),
    (nn.AvgPool1d(3, 2), (2, 9), None),
    (nn.AvgPool3d(2), (1, 4, 4, 2), None),
    (nn.AdaptiveAvgPool2d(1), (2, 4, 8), 1 / math.sqrt(32)),
    (nn.AdaptiveAvgPool2d((3, None)), (1, 7, 2), None),
    (nn.AdaptiveAvgPool1d(5), (2, 3), None),
    (nn.Flatten(), (2, 3, 2), 1),
    (nn.Identity(), (4,), 1),
    (nn.Dropout().eval(), (4,), 1),
    (nn.PixelShuffle(2), (4, 2, 3), 1),
    (nn.PixelUnshuffle(2), (1, 4, 2), 1),
    (nn.ChannelShuffle(2), (4, 2, 2), 1),
    (nn.ZeroPad2d((1, 2, 0, 1)), (2, 3, 3), 1),
    (nn.ZeroPad2d(-1), (1, 4, 4), 1),
    (nn.ConstantPad1d(2, 3.5), (1, 4), 1),
    (nn.ReflectionPad2d(1), (1, 4, 4), 2),
    (nn.ReplicationPad2d((0, 2, 1, 1)), (1, 4, 4), math.sqrt(6)),
    (nn.CircularPad2d(2), (1, 3, 4), None),
    (nn.ReflectionPad3d(1), (1, 3, 3, 2), None),
    (nn.Upsample(scale_factor=2), (1, 3, 3), 2),
    (nn.Upsample(scale_factor=2, mode="bilinear"), (1, 8, 8), None),
    (nn.Upsample(size=(5, 7), mode="bilinear", align_corners=True), (1, 3, 4), None),
    (nn.Upsample(scale_factor=1.5, mode="bicubic"), (1, 5, 4), None),
    (nn.Upsample(size=7, mode="nearest-exact"), (2, 3), None),
    (nn.Upsample(scale_factor=2, mode="trilinear"), (1, 2, 2, 3), None),
    (nn.UpsamplingBilinear2d(scale_factor=2), (1, 3, 3), None),
]


@pytest.mark.parametrize(("layer", "shape", "gain"), LINEAR, ids=lambda value: str(value)[:40])
def test_linear_layers_without_weights(layer: nn.Module, shape: tuple[int, ...], gain: float | None) -> None:
    matrix = unrolled(layer, shape)
    truth = largest(matrix)
    found = operator_norm(layer, shape)
    assert found.value == pytest.approx(truth, rel=1e-10)
    assert gain is None or truth == pytest.approx(gain, rel=1e-9)
    assert found.grade is Grade.EXACT
    assert found.lower * (1 - 1e-12) <= truth <= found.upper * (1 + 1e-12)
    for method in ("dense", "lanczos"):
        assert operator_norm(layer, shape, method=method).value == pytest.approx(truth, rel=1e-8)  # type: ignore[arg-type]
    infinity, frobenius = (operator_norm(layer, shape, method=m) for m in ("infinity", "frobenius"))
    assert infinity.value == pytest.approx(float(matrix.abs().sum(1).max()), rel=1e-10)
    assert frobenius.value == pytest.approx(float(matrix.norm()), rel=1e-10)


@pytest.mark.parametrize("shape", [(12,), (5, 12), (2, 3, 12)])
def test_dense_layers(shape: tuple[int, ...]) -> None:
    layer = nn.Linear(12, 7, dtype=torch.float64)
    matrix = unrolled(layer, shape)
    for method in ("auto", "dense", "lanczos"):
        found = operator_norm(layer, shape, method=method)  # type: ignore[arg-type]
        assert found.value == pytest.approx(largest(matrix), rel=1e-8)
        assert found.lower <= largest(matrix) * (1 + 1e-12) <= found.upper * (1 + 1e-9)
    assert operator_norm(layer, shape, method="gram").upper >= largest(matrix)
    assert operator_norm(layer, shape, method="frobenius").value == pytest.approx(float(matrix.norm()), rel=1e-12)
    assert operator_norm(layer, shape, method="infinity").value == pytest.approx(
        float(matrix.abs().sum(1).max()), rel=1e-12
    )


@pytest.mark.parametrize("orientation", [1, -1])
def test_wide_dense_layers_are_bounded_by_blocks_of_rows(orientation: int) -> None:
    """What a layer too wide for its Gram matrix gets, tried with a small limit."""
    weight = waves(*(80, 200)[::orientation])
    truth = largest(weight)
    bounds = Matrix(weight, (weight.shape[1],)).bounds(Effort(matrix=30 * 30))
    assert bounds.keys() == {"frobenius", "schur", "blocks"}
    assert all(value >= truth for value in bounds.values())
    assert bounds["blocks"] < bounds["frobenius"]
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=torch.float64)
    layer.weight.data = weight
    found = operator_norm(layer, (weight.shape[1],), effort=Effort(matrix=30 * 30))
    assert (found.method, found.upper_method) == ("lanczos", "blocks")
    assert found.lower <= truth <= found.upper


def batch_norm(kind: type[nn.Module], gamma: list[float], variance: list[float]) -> Any:
    layer: Any = kind(len(gamma), dtype=torch.float64)
    layer.weight.data = torch.tensor(gamma, dtype=torch.float64)
    layer.running_var = torch.tensor(variance, dtype=torch.float64)
    layer.running_mean = numbers(len(gamma))
    return layer.eval()


def test_folding_a_batch_norm_gains() -> None:
    layer = convolution(3, 4, 3, padding=1)
    norm = batch_norm(nn.BatchNorm2d, [1, 0.5, 2, -1], [1, 4, 0.25, 1])
    both = nn.Sequential(layer, norm)
    assert operator_norm(layer, (3, 6, 6)).value == pytest.approx(1.4107819973, rel=1e-8)
    found = operator_norm(both, (3, 6, 6))
    assert found.value == pytest.approx(5.0692206734, rel=1e-8)
    assert found.value == pytest.approx(largest(unrolled(both, (3, 6, 6))), rel=1e-11)
    separate = operator_norm(layer, (3, 6, 6)).value * operator_norm(norm, (4, 6, 6)).value
    assert separate == pytest.approx(5.6430151302, rel=1e-8)
    assert found.upper < separate
    assert both[1].weight[2] == 2  # untouched


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
def test_batch_norms_on_both_sides_are_folded(transposed: bool, groups: int) -> None:
    layers = nn.Sequential(
        batch_norm(nn.BatchNorm2d, [1, 3, -2, 0.5], [1, 2, 3, 4]),
        convolution(4, 6, 3, stride=2, padding=1, groups=groups, transposed=transposed),
        nn.Identity(),
        nn.Sequential(batch_norm(nn.BatchNorm2d, [1, 2, 3, 4, 5, 6], [1, 1, 4, 1, 2, 1])),
    )
    truth = largest(unrolled(layers.eval(), (4, 5, 5)))
    assert operator_norm(layers, (4, 5, 5)).value == pytest.approx(truth, rel=1e-10)
    for method in ("lanczos", "kernel", "fourier", "gram"):
        found = operator_norm(layers, (4, 5, 5), method=method)  # type: ignore[arg-type]
        assert found.lower <= truth <= found.upper
    assert isinstance(describe(layers, (4, 5, 5)).members, list)  # type: ignore[attr-defined]
    assert len(describe(layers, (4, 5, 5)).members) == 1  # type: ignore[attr-defined]


def test_sequences() -> None:
    linear = nn.Sequential(convolution(2, 3, 3), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(27, 5)).double()
    truth = largest(unrolled(linear, (2, 8, 8)))
    found = operator_norm(linear, (2, 8, 8))
    assert found.value == pytest.approx(truth, rel=1e-10)
    found = operator_norm(linear, (2, 8, 8), effort=Effort(matrix=1))
    assert (found.method, found.upper_method) == ("lanczos", "product")
    assert found.lower <= truth <= found.upper
    assert operator_norm(linear, (2, 8, 8), method="frobenius").value == pytest.approx(
        float(unrolled(linear, (2, 8, 8)).norm()), rel=1e-10
    )
    curved = nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 3)).double()
    found = operator_norm(curved, (4,))
    product = math.prod(operator_norm(layer, (4,)).value for layer in curved)
    assert found.value == pytest.approx(product, rel=1e-9)
    assert found.grade is Grade.BOUND
    assert found.upper >= product
    assert operator_norm(nn.Sequential(), (3,)).value == 1


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (convolution(3, 4, 3), (3, 6, 6)),
        (nn.MaxPool2d(2), (3, 6, 6)),
        (nn.AvgPool1d(2), (3, 6)),
        (batch_norm(nn.BatchNorm2d, [1, 2, 3], [1, 1, 1]), (3, 4, 4)),
        (nn.Sequential(convolution(3, 4, 3), nn.ReLU()), (3, 6, 6)),
    ],
)
def test_a_batch_axis_is_dropped_where_it_can_be_told(layer: nn.Module, shape: tuple[int, ...]) -> None:
    assert operator_norm(layer, (5, *shape)) == operator_norm(layer, shape)


def test_batch_norm_alone() -> None:
    layer = batch_norm(nn.BatchNorm1d, [1, -3, 2], [4, 4, 1])
    for shape in ((3,), (3, 5)):
        found = operator_norm(layer, shape)
        assert found.value == pytest.approx(largest(unrolled(layer, shape)), rel=1e-12)
        assert operator_norm(layer, shape, method="frobenius").value == pytest.approx(
            float(unrolled(layer, shape).norm()), rel=1e-12
        )
    plain = nn.BatchNorm1d(3, affine=False).eval()
    assert operator_norm(plain, (3,)).value == pytest.approx(1 / math.sqrt(1 + 1e-5), rel=1e-9)
    with pytest.raises(SubjectError, match="statistics of the batch"):
        operator_norm(nn.BatchNorm1d(3, track_running_stats=False).eval(), (3,))


def test_normalisations_at_a_point_and_globally() -> None:
    at = torch.tensor([1.0, 2, 4, 8], dtype=torch.float64)
    layer, root = nn.LayerNorm(4, dtype=torch.float64), nn.RMSNorm(4, eps=1e-6, dtype=torch.float64)
    assert local_norm(layer, at).value == pytest.approx(0.3730016638, rel=1e-8)
    assert local_norm(layer, 0 * at).value == pytest.approx(316.2277660168, rel=1e-8)
    assert local_norm(root, at).value == pytest.approx(0.2169304527, rel=1e-8)
    assert local_norm(layer, at).grade is Grade.LINEARISED
    found = operator_norm(layer, (4,))
    assert found.value == pytest.approx(316.2277660168, rel=1e-9)
    assert found.grade is Grade.BOUND
    layer.weight.data[2] = -2
    assert operator_norm(layer, (4,)).upper >= local_norm(layer, 0 * at).value


@pytest.mark.parametrize(
    ("logits", "norm"), [((0, 0), 0.5), ((0, 0, 0), 1 / 3), ((5, 0, 0), 0.0196798597), ((1, 2, 3), 0.3709036420)]
)
def test_softmax(logits: tuple[float, ...], norm: float) -> None:
    at = torch.tensor(logits, dtype=torch.float64)
    assert local_norm(nn.Softmax(-1), at).value == pytest.approx(norm, rel=1e-8)
    assert operator_norm(nn.Softmax(-1), (len(logits),)).value == 0.5
    wall = 40 * torch.nn.functional.one_hot(torch.tensor(0), len(logits)).double()
    assert local_norm(nn.LogSoftmax(-1), wall).value == pytest.approx(math.sqrt(len(logits)), rel=1e-9)
    assert operator_norm(nn.LogSoftmax(-1), (len(logits),)).value == pytest.approx(math.sqrt(len(logits)))


def test_local_norm_of_large_maps_is_a_lower_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("assay.norms.local.MATRIX_LIMIT", 10_000)
    weight = waves(210, 200)

    def function(x: Tensor) -> Tensor:
        return torch.tanh(x @ weight.T)

    found = local_norm(function, torch.zeros(200, dtype=torch.float64))
    truth = largest(weight)
    assert found.value == pytest.approx(truth, rel=1e-3)
    assert found.value <= truth <= found.probable
    assert found.upper == math.inf
