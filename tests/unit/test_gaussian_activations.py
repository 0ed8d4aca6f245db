"""Moments of activations: 18-digit values, quadrature by mpmath at other points, both precisions, no noise, slopes."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import mpmath
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from assay.errors import UsageError
from assay.gaussian import (
    exponential_left,
    exponential_moments,
    gelu_covariance,
    gelu_gain,
    gelu_moments,
    heaviside_covariance,
    heaviside_moments,
    hermite,
    hermite_coefficients,
    hermite_covariance,
    hinge_coefficients,
    probit_covariance,
    probit_moments,
    relu_covariance,
    sine_left,
    sine_moments,
    smooth_moments,
)

Moments = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


def double(*values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def series(function: Callable[[Tensor], Tensor], width: float = 1.0, kinks: tuple[float, ...] = ()) -> Moments:
    return lambda mean, std: smooth_moments(function, mean, std, width, kinks)


MOMENTS: dict[str, Moments] = {
    "gelu": gelu_moments,
    "gelu_tanh": series(partial(F.gelu, approximate="tanh"), 2.0),
    "silu": series(F.silu, math.pi),
    "sigmoid": series(torch.sigmoid, math.pi),
    "tanh": series(torch.tanh, math.pi / 2),
    "softplus": series(F.softplus, math.pi),
    "elu": series(F.elu, 1.0, (0.0,)),
    "selu": series(F.selu, 1.0, (0.0,)),
    "hardswish": series(F.hardswish, math.inf, (-3.0, 3.0)),
    "heaviside": heaviside_moments,
    "probit": probit_moments,
}
# mean and variance at N(0.7, 1.3^2) and at N(-1, 2^2), by mpmath
VALUES = {
    "gelu": (0.840954699413540624, 1.02545414230068879, 0.318376480476856226, 0.694516965394537955),
    "gelu_tanh": (0.840939824949606737, 1.02563401300201212, 0.318415923285224800, 0.694561249597665616),
    "silu": (0.740288689732775423, 0.948321406083824032, 0.209719385989358652, 0.678715149110557323),
    "sigmoid": (0.629215406010367707, 0.0558844998403935642, 0.352273561474131315, 0.0876786624945902486),
    "tanh": (0.345265283325572712, 0.420276612647892102, -0.352344437701493052, 0.547523610858851562),
    "softplus": (1.26968066797145942, 0.715324979117645145, 0.642495369528833764, 0.663629741392596995),
    "elu": (0.801605739911788298, 1.29498232281555379, -0.114268545252058094, 1.24760986718926907),
    "selu": (0.742901461447166091, 1.75975123142347569, -0.480737372151330496, 1.99934134930076057),
    "heaviside": (0.704870774342614062, 0.208027965820257708, 0.308537538725986896, 0.213342125922897033),
    "probit": (0.665236598092069973, 0.0940070327652438618, 0.327360423009288515, 0.127857911408254740),
    "hardswish": (0.699646528037296308, 0.970752176226252905, 0.187454820089956941, 0.691540147184986522),
}


@pytest.mark.parametrize("name", MOMENTS)
def test_the_table(name: str) -> None:
    """Together with a third, very wide variable, so that every rule of nodes has to serve them all."""
    mean1, variance1, mean2, variance2 = VALUES[name]
    for mean, std in ((double(0.7, -1.0), double(1.3, 2.0)), (double(0.7, -1.0, 0.3), double(1.3, 2.0, 50.0))):
        average, variance, _ = MOMENTS[name](mean, std)
        assert average[:2].tolist() == pytest.approx([mean1, mean2], rel=0, abs=2e-14)
        assert variance[:2].tolist() == pytest.approx([variance1, variance2], rel=0, abs=5e-14)


def test_single_variables_choose_their_own_nodes() -> None:
    for name in MOMENTS:
        mean1, variance1, mean2, variance2 = VALUES[name]
        first, second = (MOMENTS[name](double(mean), double(std))[:2] for mean, std in ((0.7, 1.3), (-1.0, 2.0)))
        found = [float(value) for value in (*first, *second)]
        assert found == pytest.approx([mean1, variance1, mean2, variance2], rel=0, abs=5e-14)


def by_mpmath(function: Callable[[Any], Any], mean: float, std: float, cuts: tuple[float, ...]) -> tuple[float, float]:
    with mpmath.workdps(25):
        points = sorted({mean + std * k for k in range(-9, 10)} | {c for c in cuts if abs(c - mean) < 9 * std})
        quad: Any = mpmath.quad
        average = quad(lambda x: function(x) * mpmath.npdf(x, mean, std), points)
        square = quad(lambda x: (function(x) - average) ** 2 * mpmath.npdf(x, mean, std), points)
        return float(average), float(square)


TRUTHS: dict[str, Callable[[Any], Any]] = {
    "gelu": lambda x: x * mpmath.ncdf(x),
    "silu": lambda x: x / (1 + mpmath.exp(-x)),
    "tanh": mpmath.tanh,
    "softplus": lambda x: mpmath.log1p(mpmath.exp(x)),
    "elu": lambda x: x if x > 0 else mpmath.expm1(x),
    "probit": mpmath.ncdf,
}
POINTS = [(0.3, 1e-3), (-2.0, 0.4), (4.0, 0.9), (-5.0, 3.0), (1.0, 12.0)]


@pytest.mark.parametrize("name", TRUTHS)
def test_other_points(name: str) -> None:
    for mean, std in POINTS:
        average, variance = by_mpmath(TRUTHS[name], mean, std, (-9.0, -4.0, -1.5, 0.0, 1.5, 4.0, 9.0))
        found = MOMENTS[name](double(mean), double(std))
        assert float(found[0]) == pytest.approx(average, rel=2e-11, abs=2e-14)
        assert float(found[1]) == pytest.approx(variance, rel=2e-10)


@pytest.mark.parametrize("name", MOMENTS)
def test_single_precision(name: str) -> None:
    mean, std = torch.linspace(-4, 4, 9).repeat_interleave(5), torch.tensor([1e-4, 0.01, 0.3, 2.0, 30.0]).repeat(9)
    if name == "heaviside":
        mean, std = mean[std > 0.1], std[std > 0.1]
    for single, exact in zip(MOMENTS[name](mean, std), MOMENTS[name](mean.double(), std.double()), strict=True):
        assert single.dtype == torch.float32
        scale = exact.abs() + (1e-3 if name == "heaviside" else 0)
        assert ((single - exact).abs() <= 2e-5 * scale + 1e-6 * std).all()


@pytest.mark.parametrize("name", MOMENTS)
def test_without_noise_and_no_nan_in_slopes(name: str) -> None:
    mean = double(-2.0, -0.5, 0.5, 2.0).requires_grad_()
    std = torch.zeros_like(mean).requires_grad_()
    average, variance, _ = MOMENTS[name](mean, std)
    wide = MOMENTS[name](mean, std + 1e-9)[0]
    assert (variance == 0).all()
    assert torch.allclose(average, wide, rtol=0, atol=1e-8)
    for gradient in torch.autograd.grad((average + variance).sum(), (mean, std)):
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("name", [name for name in MOMENTS if name not in ("elu", "selu", "hardswish")])
def test_derivatives(name: str) -> None:
    mean, std = double(-1.2, 0.4).requires_grad_(), double(0.5, 1.1).requires_grad_()
    assert torch.autograd.gradcheck(MOMENTS[name], (mean, std), atol=1e-7)


@pytest.mark.parametrize("name", MOMENTS)
def test_the_gain_is_the_slope_of_the_mean(name: str) -> None:
    mean, std = double(-1.2, 0.4, 2.0).requires_grad_(), double(0.5, 1.1, 0.2)
    average, _, gain = MOMENTS[name](mean, std)
    assert torch.allclose(torch.autograd.grad(average.sum(), mean)[0], gain, atol=1e-9)


def test_gelu_far_out() -> None:
    """All linear, all zero: nothing cancels, nothing overflows."""
    for dtype in (torch.float64, torch.float32):
        mean, std = torch.tensor([1e4, -1e4, 1e30, -1e30], dtype=dtype), torch.full((4,), 0.5, dtype=dtype)
        average, variance, gain = gelu_moments(mean, std)
        assert average.tolist() == [mean[0], 0, mean[2], 0]
        assert variance.tolist() == [0.25, 0, 0.25, 0]
        assert gain.tolist() == [1, 0, 1, 0]


class TestPairs:
    PLACE = (0.7, 1.3, -0.4, 0.8, 0.6)

    def test_closed_forms(self) -> None:
        assert float(gelu_covariance(*self.PLACE)) == pytest.approx(0.1628733573408186, rel=0, abs=1e-15)
        assert float(heaviside_covariance(*self.PLACE)) == pytest.approx(0.0677632216810915, rel=0, abs=1e-15)
        assert float(probit_covariance(*self.PLACE)) == pytest.approx(0.0407046000424117, rel=0, abs=1e-15)

    @pytest.mark.parametrize(
        ("function", "width", "kinks", "expected"),
        [
            (F.silu, math.pi, (), 0.1714713721926043),
            (torch.sigmoid, math.pi, (), 0.0235113427673311),
            (torch.tanh, math.pi / 2, (), 0.1818788429268723),
            (F.softplus, math.pi, (), 0.1695703739763828),
            (F.elu, 1.0, (0.0,), 0.3656929409456987),
            (F.hardswish, math.inf, (-3.0, 3.0), 0.1807357102544810),
            (F.gelu, 2.0, (), 0.1628733573408186),
        ],
    )
    def test_series(self, function: Any, width: float, kinks: tuple[float, ...], expected: float) -> None:
        a = hermite_coefficients(function, double(0.7, -0.4), double(1.3, 0.8), width, kinks)
        found = hermite_covariance(a[:, 0], a[:, 1], double(0.6).squeeze())
        assert float(found) == pytest.approx(expected, rel=0, abs=2e-15)
        rest = hermite_covariance(a[1:, 0], a[1:, 1], double(0.6).squeeze(), start=2)
        assert float(rest + 0.6 * a[0, 0] * a[0, 1]) == pytest.approx(expected, rel=0, abs=2e-15)

    @pytest.mark.parametrize("rho", [-0.97, -0.3, 0.2, 0.8, 0.999])
    def test_gelu_by_its_series(self, rho: float) -> None:
        """Two independent formulas; for noise as wide as this the series converges at every correlation."""
        mean, std = double(-1.5, 0.4), double(0.6, 0.9)
        a = hermite_coefficients(F.gelu, mean, std, 2.0)
        found = gelu_covariance(mean[0], std[0], mean[1], std[1], rho)
        assert float(found) == pytest.approx(float(hermite_covariance(a[:, 0], a[:, 1], double(rho)[0])), abs=1e-13)

    def test_full_correlation_is_the_variance(self) -> None:
        mean, std = double(-3.0, 0.0, 0.5, 2.0), double(0.1, 5.0, 1.0, 20.0)
        for covariance, moments in ((gelu_covariance, gelu_moments), (probit_covariance, probit_moments)):
            together = covariance(mean, std, mean, std, 1.0)
            assert torch.allclose(together, moments(mean, std)[1], rtol=1e-11, atol=0)

    def test_a_steep_probit_is_a_step(self) -> None:
        found = probit_covariance(*self.PLACE, steepness=1e4)
        assert float(found) == pytest.approx(float(heaviside_covariance(*self.PLACE)), abs=1e-6)

    def test_gelu_reflects(self) -> None:
        """f(x) = x + f(-x): Cov(f(x), f(y)) = Cov(f(-x), f(y)) + c E f'(y)."""
        mean1, std1, mean2, std2, rho = self.PLACE
        mirrored = gelu_covariance(-mean1, std1, mean2, std2, -rho) + rho * std1 * std2 * gelu_gain(mean2, std2)
        assert float(mirrored) == pytest.approx(float(gelu_covariance(*self.PLACE)), abs=1e-15)

    @pytest.mark.parametrize("function", [gelu_covariance, probit_covariance, heaviside_covariance])
    def test_derivatives(self, function: Any) -> None:
        arguments = tuple(double(value).requires_grad_() for value in self.PLACE)
        assert torch.autograd.gradcheck(function, arguments)

    @pytest.mark.parametrize("function", [gelu_covariance, probit_covariance, heaviside_covariance])
    def test_no_noise_on_one_side(self, function: Any) -> None:
        arguments = tuple(double(value).requires_grad_() for value in (0.3, 0.0, 0.4, 1.0, 0.5))
        found = function(*arguments)
        assert float(found) == 0
        assert all(torch.isfinite(gradient).all() for gradient in torch.autograd.grad(found.sum(), arguments))

    def test_hinges(self) -> None:
        """Closed coefficients against quadrature, and their series against the kernel where it converges."""
        mean, std = double(-0.3, 1.1), double(0.7, 1.2)
        closed = hinge_coefficients(mean, std, 0.5)
        numeric = hermite_coefficients(lambda x: torch.relu(x - 0.5), mean, std, math.inf, (0.5,))
        assert torch.allclose(closed[:4], numeric[1:5], rtol=0, atol=1e-13)
        assert torch.allclose(closed, numeric[1:], rtol=0, atol=1e-8)  # he_48 reaches beyond nine deviations
        found = hermite_covariance(numeric[:, 0], numeric[:, 1], double(0.4)[0])
        assert float(found) == pytest.approx(
            float(relu_covariance(mean[0] - 0.5, std[0], mean[1] - 0.5, std[1], 0.4)), abs=1e-13
        )


@pytest.mark.parametrize("rho", [-1.0, -0.4, 0.7, 1.0])
def test_exponentials_and_waves(rho: float) -> None:
    """Against Gauss-Hermite in two dimensions, exact for these entire functions."""
    mean1, std1, mean2, std2 = (double(value) for value in (0.3, 0.8, -0.5, 1.1))
    z, w = double(*hermite(60)).T
    x = mean1 + std1 * z.unsqueeze(1)
    y = mean2 + std2 * (rho * z.unsqueeze(1) + math.sqrt(1 - rho**2) * z)
    weights = w.unsqueeze(1) * w
    for function, moments, left in (
        (torch.exp, exponential_moments, exponential_left),
        (torch.sin, sine_moments, sine_left),
    ):
        f, g = function(x).expand_as(weights), function(y)
        truth = (weights * f * g).sum() - (weights * f).sum() * (weights * g).sum()
        c = rho * std1 * std2
        found = left(mean1, std1, mean2, std2, c) + c * moments(mean1, std1)[2] * moments(mean2, std2)[2]
        assert float(found) == pytest.approx(float(truth), rel=1e-12, abs=1e-14)
        variance = (w * function(mean1 + std1 * z) ** 2).sum() - (w * function(mean1 + std1 * z)).sum() ** 2
        assert float(moments(mean1, std1)[1]) == pytest.approx(float(variance), rel=1e-12)


def test_a_wave_in_very_wide_noise() -> None:
    mean, variance, gain = sine_moments(0.4, 50.0)
    assert [float(value) for value in (mean, variance, gain)] == pytest.approx([0, 0.5, 0], abs=1e-15)
    c = double(2500.0)
    assert float(sine_left(double(0.4), double(50.0), double(0.4), double(50.0), c)) == pytest.approx(0.5)


@pytest.mark.parametrize(
    "moments", [gelu_moments, heaviside_moments, probit_moments, exponential_moments, sine_moments]
)
def test_negative_deviations_are_refused(moments: Any) -> None:
    with pytest.raises(UsageError, match="negative"):
        moments(0.0, -1.0)
