"""Norms of convolutions: every method against the singular values of the unrolled matrix."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from tests.support.layers import convolution, largest, unrolled, waves
from torch import nn

from assay.errors import AssayError, NumericalError, SubjectError, UnsupportedOperator, UsageError
from assay.grade import Grade
from assay.norms import convolution_bound, gram_norm, operator_norm
from assay.norms.fourier import bounds as fourier_bounds
from assay.norms.fourier import symbol
from assay.norms.maps import Effort
from assay.norms.modules import describe

# layer, size of the image, norm by an independent computation (None: the dense matrix is the only witness)
CASES = {
    "one channel": (convolution(1, 1, 3, padding=1), 8, 1.4495781390),
    "3 to 8": (convolution(3, 8, 3, padding=1), 8, 1.7413056415),
    "stride": (convolution(3, 8, 3, stride=2, padding=1), 8, 1.1517061818),
    "five taps": (convolution(4, 6, 5, stride=2, padding=2), 8, 0.9624377326),
    "depthwise": (convolution(8, 8, 3, padding=1, groups=8), 8, 1.8064589718),
    "groups": (convolution(4, 6, 3, padding=1, groups=2), 8, None),
    "circular": (convolution(3, 8, 3, padding=1, padding_mode="circular"), 8, 1.8558715790),
    "reflect": (convolution(3, 8, 3, padding=1, padding_mode="reflect"), 8, 2.1006691923),
    "transposed": (convolution(3, 4, 3, transposed=True, stride=2, padding=1, output_padding=1), 5, None),
    "larger image": (convolution(3, 8, 3, padding=1), 16, None),
    "one tap": (convolution(5, 7, 1), 4, 1.0434461708),
    "patches": (convolution(3, 4, 2, stride=2), 6, 0.8405865758),
    "row": (convolution(3, 4, (1, 7), padding=(0, 3)), 8, 1.2528755151),
    "dilated": (convolution(3, 8, 3, padding=2, dilation=2), 8, None),
    "replicate": (convolution(3, 8, 3, padding=1, padding_mode="replicate"), 8, 1.8054654849),
    "circular stride": (convolution(3, 8, 3, stride=2, padding=1, padding_mode="circular"), 8, None),
}
every_case = pytest.mark.parametrize("name", CASES)


def of(name: str) -> tuple[nn.Module, tuple[int, int, int], float]:
    layer, size, _ = CASES[name]
    shape = (layer.in_channels, size, size)
    return layer, shape, largest(unrolled(layer, shape))


@every_case
def test_dense_equals_the_recorded_and_the_unrolled_norm(name: str) -> None:
    layer, shape, truth = of(name)
    recorded = CASES[name][2]
    found = operator_norm(layer, shape, method="dense")
    assert found.value == pytest.approx(truth, rel=1e-11)
    assert recorded is None or found.value == pytest.approx(recorded, rel=1e-8)
    assert found.grade is Grade.EXACT
    assert found.lower <= truth <= found.upper
    assert operator_norm(layer, shape).value == pytest.approx(truth, rel=1e-11)


@every_case
def test_lanczos_reaches_the_norm_in_30_steps_from_below(name: str) -> None:
    layer, shape, truth = of(name)
    found = operator_norm(layer, shape, method="lanczos", effort=Effort(steps=30, tolerance=1e-12))
    assert found.value == pytest.approx(truth, rel=1e-8)
    assert found.grade is Grade.STATISTICAL
    assert found.probable_grade in (Grade.STATISTICAL, Grade.BOUND)
    assert found.lower <= truth <= found.probable * (1 + 1e-12) <= found.upper * (1 + 1e-12)
    assert found.upper_grade is Grade.BOUND
    short = operator_norm(layer, shape, method="lanczos", effort=Effort(steps=2))
    assert short.lower <= truth <= short.upper


@every_case
@pytest.mark.parametrize("method", ["kernel", "fourier", "gram"])
def test_bounds_are_never_below(name: str, method: str) -> None:
    layer, shape, truth = of(name)
    found = operator_norm(layer, shape, method=method)  # type: ignore[arg-type]
    assert found.value >= truth * (1 - 1e-12)
    assert found.upper >= found.value
    assert all(value >= truth * (1 - 1e-12) for value in found.bounds.values())
    assert found.grade in (Grade.BOUND, Grade.EXACT)


@pytest.mark.parametrize("name", ["circular", "circular stride", "one tap"])
def test_fourier_is_exact_on_a_circle(name: str) -> None:
    layer, shape, truth = of(name)
    found = operator_norm(layer, shape, method="fourier")
    assert found.value == pytest.approx(truth, rel=1e-10)
    assert found.grade is Grade.EXACT


def test_the_best_circle_is_within_two_percent() -> None:
    layer, shape, truth = of("3 to 8")
    assert operator_norm(layer, shape, method="fourier").value <= 1.0199 * truth
    layer, shape, truth = of("larger image")
    assert operator_norm(layer, shape, method="fourier").value <= 1.01 * truth


def test_a_stride_in_the_symbol_gains() -> None:
    """Ignoring the stride costs a factor above 1.5."""
    layer, shape, truth = of("stride")
    found = operator_norm(layer, shape, method="fourier").value
    assert found <= 1.05 * truth
    assert float(symbol(layer.weight.detach(), (1, 1), (1, 1)).maximum([10, 10])) > 1.5 * truth


@every_case
def test_gram_iteration_is_within_a_permille_of_its_blocks(name: str) -> None:
    layer, _, _ = of(name)
    made = symbol(layer.weight.detach(), layer.stride, layer.dilation, 1 if layer.groups == 1 else layer.groups)
    exact, bound = made.maximum([10, 10], exact=True), made.maximum([10, 10], exact=False, steps=6)
    assert 1 - 1e-12 <= float(bound / exact) <= 1.0013


def test_a_grid_bounds_every_size_of_image() -> None:
    """The grid bound costs the same for any image, and is nearly attained by a large one."""
    layer = convolution(3, 4, 3, dims=1, padding=1)
    truth = largest(unrolled(layer, (3, 400)))
    found = fourier_bounds(describe(layer, (3, 400)), 2e5)["fourier"]  # affords the grids, not the circle of 401
    assert truth <= found <= 1.01 * truth


@pytest.mark.parametrize("size", [1, 2, 3])
def test_circles_leave_room_for_the_padding(size: int) -> None:
    """On a circle as short as the image, taps of opposite sign would cancel that never meet in the layer."""
    layer = convolution(1, 1, 3, dims=1, padding=1)
    layer.weight.data = torch.tensor([[[1.0, 1.0, -2.0]]], dtype=torch.float64)
    assert operator_norm(layer, (1, size), method="fourier").value >= largest(unrolled(layer, (1, size))) * (1 - 1e-12)


def test_power_iteration_stays_below_where_lanczos_has_arrived() -> None:
    layer, shape, truth = of("larger image")
    x = torch.randn(1, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weight = layer.weight.detach()
    for _ in range(10):
        x = F.conv_transpose2d(F.conv2d(x, weight, padding=1), weight, padding=1)
        x = x / x.norm()
    power = float(F.conv2d(x, weight, padding=1).norm())
    found = operator_norm(layer, shape, method="lanczos", effort=Effort(steps=11))
    assert 0.9 * truth < power < found.value <= truth * (1 + 1e-12)


@every_case
def test_other_norms_are_exact(name: str) -> None:
    layer, shape, _ = of(name)
    matrix = unrolled(layer, shape)
    infinity, frobenius = (operator_norm(layer, shape, method=m) for m in ("infinity", "frobenius"))
    assert infinity.value == pytest.approx(float(matrix.abs().sum(1).max()), rel=1e-12)
    assert frobenius.value == pytest.approx(float(matrix.norm()), rel=1e-12)
    assert (infinity.norm, frobenius.norm) == ("inf", "frobenius")
    assert infinity.grade is frobenius.grade is Grade.EXACT


@pytest.mark.parametrize("dims", [1, 3])
@pytest.mark.parametrize("transposed", [False, True])
def test_one_and_three_dimensions(dims: int, transposed: bool) -> None:
    layer = convolution(4, 6, 3, dims=dims, transposed=transposed, stride=2, padding=1, groups=2)
    shape = (4, *([6] if dims == 1 else [3, 4, 3]))
    truth = largest(unrolled(layer, shape))
    for method in ("auto", "lanczos", "fourier", "gram", "kernel"):
        found = operator_norm(layer, shape, method=method)  # type: ignore[arg-type]
        assert found.lower * (1 - 1e-9) <= truth <= found.upper
    assert operator_norm(layer, shape).value == pytest.approx(truth, rel=1e-10)


def test_output_padding_beyond_the_stride() -> None:
    """The adjoint is then a part of a convolution: bounds hold, and the value is that of the part."""
    layer = convolution(2, 3, 3, transposed=True, stride=1, dilation=3, output_padding=2)
    truth = largest(unrolled(layer, (2, 5, 5)))
    found = operator_norm(layer, (2, 5, 5))
    assert found.value == pytest.approx(truth, rel=1e-10)
    assert operator_norm(layer, (2, 5, 5), method="kernel").upper >= truth


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("kernel", [4, (2, 5)])
def test_padding_by_name(padding: str, kernel: int | tuple[int, int]) -> None:
    layer = convolution(2, 3, kernel, padding=padding, dilation=(1, 1))
    truth = largest(unrolled(layer, (2, 7, 7)))
    for method in ("auto", "lanczos"):
        assert operator_norm(layer, (2, 7, 7), method=method).value == pytest.approx(truth, rel=1e-8)  # type: ignore[arg-type]
    assert operator_norm(layer, (2, 7, 7), method="fourier").upper >= truth


def test_large_layers_keep_lower_and_upper_close() -> None:
    """Too large for a dense matrix: single precision Lanczos below, the grid above."""
    layer = nn.Conv2d(3, 16, 3, padding=1, bias=False).eval()
    layer.weight.data = waves(16, 3, 3, 3).float()
    found = operator_norm(layer, (3, 160, 160))
    assert found.method == "lanczos"
    assert found.lower < found.upper <= 1.01 * found.value
    assert found.upper_method == "fourier"


def test_a_zero_kernel_has_norm_zero() -> None:
    layer = convolution(3, 4, 3, padding=1)
    layer.weight.data.zero_()
    for method in ("auto", "dense", "lanczos", "fourier", "gram", "kernel", "infinity", "frobenius"):
        found = operator_norm(layer, (3, 8, 8), method=method)  # type: ignore[arg-type]
        assert (found.value, found.lower, found.upper) == (0.0, 0.0, 0.0)


def test_scaling_a_kernel_scales_every_method() -> None:
    for method in ("auto", "lanczos", "fourier", "gram", "kernel", "infinity", "frobenius"):
        layer = convolution(3, 4, 3, padding=1)
        before = operator_norm(layer, (3, 6, 6), method=method).value  # type: ignore[arg-type]
        layer.weight.data *= 1e-120
        assert operator_norm(layer, (3, 6, 6), method=method).value == pytest.approx(1e-120 * before, rel=1e-9)  # type: ignore[arg-type]


def test_gram_iteration_bounds_and_is_differentiable() -> None:
    matrix = waves(5, 9).requires_grad_(True)
    truth = torch.linalg.matrix_norm(matrix, ord=2)
    bounds = [float(gram_norm(matrix.detach(), steps)) for steps in range(7)]
    assert all(a >= b * (1 - 1e-14) for a, b in zip(bounds, [*bounds[1:], float(truth)], strict=True))
    (found,) = torch.autograd.grad(gram_norm(matrix, 12), matrix)
    (expected,) = torch.autograd.grad(truth, matrix)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)
    assert float(gram_norm(torch.zeros(3, 4))) == 0
    assert float(gram_norm(1e30 * torch.ones(2, 3), 8)) == pytest.approx(math.sqrt(6) * 1e30, rel=1e-5)


@pytest.mark.parametrize("mode", ["zeros", "circular", "reflect"])
def test_the_differentiable_bound_bounds_and_has_the_right_gradient(mode: str) -> None:
    weight = waves(4, 3, 3, 3).requires_grad_(True)
    layer = convolution(3, 4, 3, padding=1, padding_mode=mode)
    bound = convolution_bound(weight, (6, 6), padding=1, padding_mode=mode)
    assert float(bound) >= largest(unrolled(layer, (3, 6, 6)))
    (slope,) = torch.autograd.grad(bound, weight)
    step = 1e-6 * waves(4, 3, 3, 3).cos()
    ahead, behind = (
        float(convolution_bound(weight.detach() + s * step, (6, 6), padding=1, padding_mode=mode)) for s in (1, -1)
    )
    assert float((slope * step).sum()) == pytest.approx((ahead - behind) / 2, rel=1e-5)


def test_the_layer_is_untouched_and_the_seed_counts() -> None:
    layer, shape, _ = of("reflect")
    before = {key: value.clone() for key, value in layer.state_dict().items()}
    state = torch.get_rng_state()
    first, again = (operator_norm(layer, shape, method="lanczos", effort=Effort(steps=5, seed=1)) for _ in range(2))
    assert first == again
    assert first.value != operator_norm(layer, shape, method="lanczos", effort=Effort(steps=5, seed=2)).value
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, before[key]) for key, value in layer.state_dict().items())


@pytest.mark.parametrize(
    ("layer", "shape", "error"),
    [
        (nn.Conv2d(3, 4, 3), (4, 8, 8), UsageError),
        (nn.Conv2d(3, 4, 3), (3, 2, 8), UsageError),
        (nn.Conv2d(3, 4, 3), (8, 8), UsageError),
        (nn.Conv2d(3, 4, 3), (3, 0, 8), UsageError),
        (nn.Conv2d(3, 4, 3, padding=4, padding_mode="reflect"), (3, 4, 4), UsageError),
        (nn.Linear(3, 4), (4,), UsageError),
        (nn.MaxPool2d(3), (3, 2, 2), UsageError),
        (nn.AvgPool2d(3), (3, 2, 2), UsageError),
        (nn.PixelShuffle(2), (3, 4, 4), UsageError),
        (nn.Conv2d(3, 4, 3, dtype=torch.complex64), (3, 8, 8), SubjectError),
        (nn.BatchNorm2d(3), (3, 8, 8), SubjectError),
        (nn.Dropout(), (3,), SubjectError),
        (nn.LazyConv2d(4, 3), (3, 8, 8), SubjectError),
        (nn.LSTM(3, 4), (5, 3), UnsupportedOperator),
        (nn.Sequential(nn.Linear(3, 4), nn.Bilinear(4, 4, 2)), (3,), UnsupportedOperator),
    ],
)
def test_what_has_no_norm_is_an_error(layer: nn.Module, shape: tuple[int, ...], error: type[AssayError]) -> None:
    with pytest.raises(error) as caught:
        operator_norm(layer, shape)
    assert caught.value.where
    assert caught.value.advice


def test_weights_that_are_not_finite_are_an_error() -> None:
    for value in (math.nan, math.inf):
        layer = nn.Linear(3, 3)
        layer.weight.data[0, 0] = value
        with pytest.raises(NumericalError, match="NaN"):
            operator_norm(layer, (3,))


def test_a_subclass_that_computes_something_else_is_an_error() -> None:
    class Doubled(nn.Conv2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    with pytest.raises(UnsupportedOperator, match="Doubled"):
        operator_norm(Doubled(1, 1, 1), (1, 2, 2))


@pytest.mark.parametrize(
    ("layer", "method"),
    [(nn.Linear(3, 3), "fourier"), (nn.Linear(3, 3), "kernel"), (nn.ReLU(), "dense"), (nn.ReLU(), "x")],
)
def test_methods_that_do_not_apply_are_an_error(layer: nn.Module, method: str) -> None:
    with pytest.raises(UsageError):
        operator_norm(layer, (3,), method=method)  # type: ignore[arg-type]


def test_dense_refuses_what_memory_cannot_hold() -> None:
    with pytest.raises(UsageError, match="elements"):
        operator_norm(nn.Conv2d(3, 64, 3), (3, 224, 224), method="dense")


@pytest.mark.parametrize("scale", [1e-310, 1e-200, 1e200, 1e306])
def test_bounds_and_frobenius_survive_scales_whose_squares_do_not(scale: float) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 3, 3, padding=1, bias=False, dtype=torch.float64)
    kernel = torch.randn(layer.weight.shape, dtype=torch.float64)
    layer.weight.data.copy_(kernel)
    ordinary = unrolled(layer, (3, 6, 6))
    layer.weight.data.copy_(kernel * scale)
    truth = largest(ordinary) * scale
    for method in ("lanczos", "fourier", "gram", "kernel"):
        assert truth * (1 - 1e-9) <= operator_norm(layer, (3, 6, 6), method=method).upper < 3 * truth
    frobenius = operator_norm(layer, (3, 6, 6), method="frobenius").value
    assert frobenius == pytest.approx(float(ordinary.norm()) * scale, rel=1e-9)


def test_a_vectors_length_is_a_shape_and_nonsense_is_named() -> None:
    layer = nn.Linear(3, 2)
    assert operator_norm(layer, 3).value == operator_norm(layer, (3,)).value
    for shape in ("3", (3.0,), None):
        with pytest.raises(UsageError, match="whole numbers"):
            operator_norm(layer, shape)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"nn\.Module, got Parameter"):
        operator_norm(layer.weight, (3,))  # type: ignore[arg-type]


def test_random_slopes_have_no_norm_in_training_mode() -> None:
    with pytest.raises(SubjectError, match="random"):
        operator_norm(nn.RReLU(), (4,))
    assert operator_norm(nn.RReLU().eval(), (4,)).value == 1.0
