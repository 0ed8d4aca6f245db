"""Mean, variance and gain of one rectified Gaussian, against 25-digit values and mpmath."""

import mpmath
import pytest
import torch

from assay.gaussian import comonotone_covariance, rectified, relu_gain, relu_moments, standardise

# mean, std, mean of relu, variance of relu: computed with 50 digits
TABLE = (
    (0, 1, 0.3989422804014326779399, 0.3408450569081046642311),
    (1, 1, 1.083315470587686298383, 0.7510878078416090295321),
    (-1, 1, 0.08331547058768629838306, 0.06839831570452313236164),
    (0.5, 2, 1.072689396447160276003, 1.780507459705102046003),
    (-3, 0.5, 7.817848979854832139556e-11, 1.211144185766769472135e-11),
    (8, 1, 8.000000000000000075503, 0.9999999999999987738829),
    (-8, 1, 7.550262411946498913739e-17, 1.807506447145849355185e-17),
    (-20, 1, 1.370012494729579943149e-90, 1.359912914707380877760e-91),
    (-37, 1, 1.545199190512202459264e-301, 8.334217629427723405526e-303),
    (1000, 1, 1000, 1),
    (1e4, 0.01, 10000, 1e-4),
    (-0.001, 1e-4, 7.474560254589328036569e-29, 1.452927695711980294043e-33),
    (1e-12, 1e-6, 3.989427804016321490801e-7, 3.408454558504759106542e-13),
)


def test_the_table_to_twelve_digits():
    mean, std, expected_mean, expected_variance = torch.tensor(TABLE, dtype=torch.float64).T
    average, variance = relu_moments(mean, std)
    torch.testing.assert_close(average, expected_mean, rtol=1e-12, atol=0)
    torch.testing.assert_close(variance, expected_variance, rtol=1e-12, atol=0)


def test_the_table_in_single_precision():
    # below -8 standard deviations float32 itself runs out; the two rows at -10 and -1e-12 change by rounding the input
    rows = [row for row in TABLE if row[0] / row[1] >= -8]
    mean, std, expected_mean, expected_variance = torch.tensor(rows, dtype=torch.float64).T
    average, variance = relu_moments(mean.float(), std.float())
    assert average.dtype == torch.float32
    torch.testing.assert_close(average.double(), expected_mean, rtol=1e-5, atol=0)
    torch.testing.assert_close(variance.double(), expected_variance, rtol=1e-5, atol=0)


@pytest.mark.parametrize("a", [-30.3, -9.7, -3.001, -2.999, -2.0, -0.3, 0.2, 2.5, 6.1])
def test_against_mpmath_across_the_switch_of_formulas(a):
    with mpmath.workdps(60):
        x = mpmath.mpf(a)
        below, phi = mpmath.ncdf(x), mpmath.npdf(x)
        g = x * below + phi
        v = (1 + x * x) * below + x * phi - g * g
        expected = torch.tensor([float(below), float(g), float(v)], dtype=torch.float64)
    torch.testing.assert_close(torch.stack(tuple(rectified(a))), expected, rtol=2e-13, atol=0)


def test_single_precision_is_never_negative_and_close():
    a = torch.linspace(-13, 13, 4001)
    for value, reference in zip(rectified(a), rectified(a.double()), strict=True):
        assert (value >= 0).all()
        near = a > -8
        torch.testing.assert_close(value[near].double(), reference[near], rtol=1e-5, atol=0)
    assert relu_moments(torch.tensor(1e4), 1.0)[1] == 1.0


def test_zero_and_extreme_standard_deviations():
    mean = torch.tensor([2.0, 0.0, -2.0, 1e30, -1e30, 3.0], requires_grad=True)
    std = torch.tensor([0.0, 0.0, 0.0, 1.0, 1.0, 1e-38], requires_grad=True)
    average, variance = relu_moments(mean, std)
    assert average.tolist() == pytest.approx([2.0, 0.0, 0.0, 1e30, 0.0, 3.0])
    assert variance.tolist() == [0.0, 0.0, 0.0, 1.0, 0.0, 0.0]
    assert relu_gain(mean, std).tolist() == [1.0, 0.5, 0.0, 1.0, 0.0, 1.0]
    for output in (average, variance, relu_gain(mean, std)):
        for gradient in torch.autograd.grad(output.sum(), (mean, std), retain_graph=True):
            assert torch.isfinite(gradient).all()
    assert torch.autograd.grad(average.sum(), mean)[0].tolist() == [1.0, 0.0, 0.0, 1.0, 0.0, 1.0]
    assert standardise(torch.tensor(float("inf")), torch.tensor(1.0)) == 40.0


def test_derivatives_of_every_order_and_mode():
    generator = torch.Generator().manual_seed(3)
    mean = (3 * torch.randn(4, 1, generator=generator, dtype=torch.float64)).requires_grad_()
    std = (0.3 + torch.rand(3, generator=generator, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(relu_moments, (mean, std), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(relu_moments, (mean, std))
    assert torch.autograd.gradcheck(relu_gain, (mean, std), check_forward_ad=True)


def test_functional_transforms():
    mean = torch.linspace(-2, 2, 12, dtype=torch.float64).reshape(3, 4)
    mapped = torch.func.vmap(lambda row: relu_moments(row, 1.0)[1], in_dims=1)(mean)
    torch.testing.assert_close(mapped, relu_moments(mean, 1.0)[1].T, rtol=0, atol=1e-16)
    slopes = torch.func.vmap(torch.func.grad(lambda x: relu_moments(x, 0.7)[0]))(mean.flatten())
    torch.testing.assert_close(slopes, relu_gain(mean, 0.7).flatten(), rtol=1e-13, atol=0)


def comonotone_truth(a: float, b: float) -> float:
    with mpmath.workdps(40):
        low, high = sorted((mpmath.mpf(a), mpmath.mpf(b)))
        below, phi = mpmath.ncdf(low), mpmath.npdf(low)
        product = (low * high + 1) * below + high * phi
        return float(product - (low * below + phi) * (high * mpmath.ncdf(high) + mpmath.npdf(high)))


@pytest.mark.parametrize(
    ("a", "b"),
    [(0, 0), (1, -2), (-2, 1), (-9, -9), (-9, -8.5), (-9, 8), (9, 8), (0.1, 0.1000001), (30, -7), (1e6, 0.3)],
)
def test_one_variable_rectified_twice(a, b):
    pair = (torch.tensor(value, dtype=torch.float64) for value in (a, b))
    assert float(comonotone_covariance(*pair)) == pytest.approx(comonotone_truth(a, b), rel=1e-12, abs=0)
