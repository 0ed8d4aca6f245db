"""Moments of any element-by-element function by quadrature, against 18-digit values."""

from functools import partial

import pytest
import torch
from torch.nn import functional as F

from assay.errors import UsageError
from assay.gaussian import elementwise_moments, hermite, legendre, relu_gain, relu_moments

# function, mean and variance at N(0.7, 1.3^2), at N(-1, 2^2), and the error 64 nodes leave at each of the two
TABLE = {
    "gelu": (0.840954699413540624, 1.02545414230068879, 0.318376480476856226, 0.694516965394537955, 1e-13, 2e-7),
    "gelu_tanh": (0.840939824949606737, 1.02563401300201212, 0.318415923285224800, 0.694561249597665616, 2e-11, 1e-7),
    "silu": (0.740288689732775423, 0.948321406083824032, 0.209719385989358652, 0.678715149110557323, 1e-13, 2e-8),
    "sigmoid": (0.629215406010367707, 0.0558844998403935642, 0.352273561474131315, 0.0876786624945902486, 1e-14, 2e-9),
    "tanh": (0.345265283325572712, 0.420276612647892102, -0.352344437701493052, 0.547523610858851562, 2e-7, 1e-4),
    "softplus": (1.26968066797145942, 0.715324979117645145, 0.642495369528833764, 0.663629741392596995, 1e-14, 4e-10),
    "elu": (0.801605739911788298, 1.29498232281555379, -0.114268545252058094, 1.24760986718926907, 1e-3, 3e-3),
    "selu": (0.742901461447166091, 1.75975123142347569, -0.480737372151330496, 1.99934134930076057, 6e-3, 1e-2),
    "hardswish": (0.699646528037296308, 0.970752176226252905, 0.187454820089956941, 0.691540147184986522, 6e-3, 6e-3),
}
FUNCTIONS = {"gelu_tanh": partial(F.gelu, approximate="tanh")}
KINKS = {"elu": (0.0,), "selu": (0.0,), "hardswish": (-3.0, 3.0)}


def moments_of(name: str, **options):
    function = FUNCTIONS.get(name) or getattr(F, name)
    mean, std = torch.tensor([[0.7, -1.0], [1.3, 2.0]], dtype=torch.float64)
    return elementwise_moments(function, mean, std, **options)


@pytest.mark.parametrize("name", TABLE)
def test_the_table(name):
    mean1, variance1, mean2, variance2, error1, error2 = TABLE[name]
    mean, variance, _ = moments_of(name)
    assert [float(mean[0]), float(variance[0])] == pytest.approx([mean1, variance1], abs=error1, rel=0)
    assert [float(mean[1]), float(variance[1])] == pytest.approx([mean2, variance2], abs=error2, rel=0)


@pytest.mark.parametrize("name", KINKS)
def test_cutting_at_kinks_restores_accuracy(name):
    mean, variance, gain = moments_of(name, kinks=KINKS[name])
    assert mean.tolist() == pytest.approx(TABLE[name][0:4:2], abs=1e-14, rel=0)
    assert variance.tolist() == pytest.approx(TABLE[name][1:4:2], abs=1e-13, rel=0)
    assert (gain > 0).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_cut_integrals_of_relu_are_exact_for_every_width(dtype):
    mean = torch.tensor([[-3.0], [0.0], [0.4], [7.0], [50.0]], dtype=dtype)
    std = torch.tensor([0.0, 1e-3, 1.0, 20.0], dtype=dtype, requires_grad=True)
    found = elementwise_moments(torch.relu, mean, std, kinks=(0.0,))
    exact = (*relu_moments(mean, std), relu_gain(mean, std))
    tolerance = 1e-12 if dtype == torch.float64 else 1e-4
    for value, expected in zip(found[:2], exact[:2], strict=True):
        torch.testing.assert_close(value, expected, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(found[2][:, 2:], exact[2][:, 2:], rtol=tolerance, atol=tolerance)
    assert torch.isfinite(torch.autograd.grad(sum(value.sum() for value in found), std)[0]).all()


def test_more_nodes_are_better():
    errors = [
        abs(float(elementwise_moments(torch.tanh, 0.7, 1.3, nodes)[0]) - 0.345265283325572712)
        for nodes in (4, 16, 64, 200)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-11


def test_polynomials_are_exact_and_constants_have_no_variance():
    mean, std = torch.randn(3, 1, dtype=torch.float64), torch.rand(4, dtype=torch.float64)
    average, variance, gain = elementwise_moments(lambda x: x**3 - 2 * x, mean, std, nodes=8)
    s2 = std**2
    torch.testing.assert_close(average, mean**3 + 3 * mean * s2 - 2 * mean)
    torch.testing.assert_close(gain, 3 * mean**2 + 3 * s2 - 2)
    slope, bend = 3 * mean**2 - 2, 3 * mean
    expected = slope**2 * s2 + 6 * slope * s2**2 + 2 * bend**2 * s2**2 + 15 * s2**3
    torch.testing.assert_close(variance, expected)
    average, variance, gain = elementwise_moments(torch.ones_like, mean, std)
    assert (variance == 0).all()
    assert (average == 1).all()
    assert gain.abs().max() < 1e-12


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_narrow_and_zero_widths(dtype):
    mean = torch.tensor([-0.7, 0.0, 1.1, 200.0], dtype=dtype)
    for std in (0.0, 1e-30, 1e-12, 1e-6, 1e-4, 1e-2):
        average, variance, gain = elementwise_moments(torch.sigmoid, mean, std)
        level = torch.sigmoid(mean)
        slope = level * (1 - level)
        torch.testing.assert_close(average, level, rtol=1e-4, atol=1e-7)
        torch.testing.assert_close(gain, slope, rtol=5e-4, atol=1e-5)
        torch.testing.assert_close(
            variance, (slope * std) ** 2, rtol=5e-2 if dtype == torch.float32 else 1e-3, atol=1e-13
        )
        assert (variance >= 0).all()


def test_large_offsets_do_not_make_the_variance_negative():
    average, variance, _ = elementwise_moments(lambda x: 1e6 + torch.tanh(x), torch.zeros(3), 0.5)
    assert (variance >= 0).all()
    assert average.tolist() == pytest.approx([1e6] * 3)


def test_kinks_converge_slowly_but_surely():
    mean = torch.linspace(-2, 2, 9, dtype=torch.float64)
    average, variance, gain = elementwise_moments(torch.relu, mean, 1.0, nodes=200)
    exact = (*relu_moments(mean, 1.0), relu_gain(mean, 1.0))
    for value, expected in zip((average, variance, gain), exact, strict=True):
        assert (value - expected).abs().max() < 2e-2


def test_derivatives():
    mean = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64, requires_grad=True)
    std = torch.tensor([0.5, 1.5, 0.2], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda m, s: elementwise_moments(F.silu, m, s, 24), (mean, std))
    zero = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    total = sum(value.sum() for value in elementwise_moments(F.silu, mean, zero))
    assert all(torch.isfinite(slope).all() for slope in torch.autograd.grad(total, (mean, zero)))


def test_rules_integrate_what_they_promise():
    for count in (1, 5, 12):
        for power in range(2 * count):
            assert sum(w * x**power for x, w in legendre(count)) == pytest.approx(1 / (power + 1), rel=1e-13)
    double_factorial = 1.0
    for power in range(0, 20, 2):
        assert sum(w * x**power for x, w in hermite(64)) == pytest.approx(double_factorial, rel=1e-12)
        double_factorial *= power + 1


def test_misuse_is_named():
    with pytest.raises(UsageError, match="nodes"):
        elementwise_moments(torch.relu, 0.0, 1.0, nodes=0)
    with pytest.raises(UsageError, match="shape"):
        elementwise_moments(lambda x: x.sum(), torch.zeros(3), 1.0)
