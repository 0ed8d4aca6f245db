"""Piecewise linear functions of a Gaussian against 18-digit values, mpmath, and their own limits."""

from functools import partial
from itertools import pairwise

import mpmath
import pytest
import torch

from assay.errors import UsageError
from assay.gaussian import (
    ABSOLUTE,
    HARDSIGMOID,
    HARDTANH,
    RELU,
    RELU6,
    PiecewiseLinear,
    clip,
    leaky_relu,
    piecewise_linear_covariance,
    piecewise_linear_moments,
    relu_covariance,
    relu_gain,
    relu_moments,
)

# mean and variance at N(0.7, 1.3^2) and at N(-1, 2^2), then the covariance at (0.7, 1.3, -0.4, 0.8, rho = 0.6)
TABLE = {
    "relu6": (RELU6, 0.942038383893722827, 0.963144074994059767, 0.395476152965769214, 0.680640327036374712),
    "hardtanh": (HARDTANH, 0.375851370140044126, 0.519074592807562320, -0.368746380372507241, 0.633635969630615289),
    "leaky": (leaky_relu(0.01), 0.939624521444646180, 0.967801780839438364, 0.381637183654585939, 0.693326244449521236),
    "abs": (ABSOLUTE, 1.18408994231241653, 0.777931008514578104, 1.79118622960522412, 1.79165189087262135),
}
COVARIANCES = (
    (RELU, 0.1574077054626907),
    (leaky_relu(0.01), 0.1605981233187960),
    (RELU6, 0.1573971399078532),
    (HARDTANH, 0.2217594035431191),
    (ABSOLUTE, -0.01110275285885),
)
ALL = (
    RELU,
    leaky_relu(0.2),
    ABSOLUTE,
    RELU6,
    HARDTANH,
    HARDSIGMOID,
    PiecewiseLinear(0.3, -1.0, (-1.0, 0.2, 2.5), (1, -2, 0.4)),
)


def direct(function: PiecewiseLinear, x):
    value = function.offset + function.slope * x
    for knot, jump in zip(function.knots, function.jumps, strict=True):
        value = value + jump * (x - knot) * (x > knot)
    return value


def truth(function: PiecewiseLinear, mean: float, std: float) -> tuple[float, float, float]:
    """Mean, variance and gain by 40-digit truncated moments between the knots."""
    with mpmath.workdps(60):
        mu, s = mpmath.mpf(mean), mpmath.mpf(std)
        edges = [-mpmath.inf, *((mpmath.mpf(knot) - mu) / s for knot in function.knots), mpmath.inf]
        average = square = gain = mpmath.mpf(0)
        for count, (low, high) in enumerate(pairwise(edges)):
            slope = mpmath.mpf(function.slope) + sum(mpmath.mpf(jump) for jump in function.jumps[:count])
            pairs = zip(function.jumps[:count], function.knots[:count], strict=True)
            height = mpmath.mpf(function.offset) - sum(mpmath.mpf(jump) * mpmath.mpf(knot) for jump, knot in pairs)
            height, run = height + slope * mu, slope * s

            def at(x, power):
                return mpmath.mpf(0) if mpmath.isinf(x) else x**power * mpmath.npdf(x)

            mass = mpmath.ncdf(-low) - mpmath.ncdf(-high) if low > 0 else mpmath.ncdf(high) - mpmath.ncdf(low)
            first, second = at(low, 0) - at(high, 0), mass + at(low, 1) - at(high, 1)
            average += height * mass + run * first
            square += height**2 * mass + 2 * height * run * first + run**2 * second
            gain += slope * mass
        return float(average), float(square - average**2), float(gain)


@pytest.mark.parametrize("name", TABLE)
def test_the_table(name):
    function, *expected = TABLE[name]
    for mean, std, average, variance in ((0.7, 1.3, *expected[:2]), (-1.0, 2.0, *expected[2:])):
        found = piecewise_linear_moments(mean, std, *function)
        assert [float(value) for value in found[:2]] == pytest.approx([average, variance], rel=1e-14, abs=0)
        single = piecewise_linear_moments(torch.tensor(mean), std, *function)
        assert [float(value) for value in single[:2]] == pytest.approx([average, variance], rel=2e-6)


@pytest.mark.parametrize(("function", "expected"), COVARIANCES)
def test_covariances(function, expected):
    arguments = (0.7, 1.3, -0.4, 0.8, 0.6)
    assert float(piecewise_linear_covariance(*arguments, function)) == pytest.approx(expected, abs=1e-14)
    single = piecewise_linear_covariance(*(torch.tensor(value) for value in arguments), function)
    assert float(single) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("function", ALL)
@pytest.mark.parametrize(
    ("mean", "std"),
    [(0.3, 1e-3), (0.0, 0.4), (-8.0, 1.0), (8.0, 1.0), (1e4, 1.0), (-2.0, 9.0), (6.5, 30.0), (50.0, 200.0), (3.0, 1e6)],
)
def test_against_mpmath_for_any_mean_and_width(function, mean, std):
    expected = truth(function, mean, std)
    found = piecewise_linear_moments(mean, std, *function)
    floor = 1e-15 * max(abs(mean), std)
    for value, reference, absolute in zip(found, expected, (floor, 1e-300, 1e-16), strict=True):
        assert float(value) == pytest.approx(reference, rel=2e-13, abs=absolute)
    for value, reference in zip(piecewise_linear_moments(torch.tensor(mean), std, *function), expected, strict=True):
        assert float(value) == pytest.approx(reference, rel=2e-4, abs=3e-6 * max(1.0, abs(reference)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_saturated_units_have_no_variance(dtype):
    mean = torch.tensor([1e4, -1e4, 1e30, -1e30, 60.0], dtype=dtype)
    for function, high, low in ((RELU6, 6.0, 0.0), (HARDTANH, 1.0, -1.0), (HARDSIGMOID, 1.0, 0.0)):
        average, variance, gain = piecewise_linear_moments(mean, 1.0, *function)
        assert average.tolist() == pytest.approx([high, low, high, low, high], abs=1e-6)
        assert variance.tolist() == [0.0] * 5
        assert gain.tolist() == [0.0] * 5
    # one tail beyond 8 standard deviations, where subtracting large terms would leave nothing
    average, variance, _ = piecewise_linear_moments(torch.tensor([-9.0, 9.0], dtype=dtype), 1.0, *HARDTANH)
    assert variance.tolist() == pytest.approx([1.807506447145849e-17] * 2, rel=1e-4)


def test_zero_standard_deviation_is_the_function_itself():
    x = torch.tensor([-7.0, -3.0, -1.0, -0.2, 0.0, 0.2, 1.0, 2.5, 6.0, 9.0], dtype=torch.float64, requires_grad=True)
    std = torch.zeros(10, dtype=torch.float64, requires_grad=True)
    for function in ALL:
        average, variance, gain = piecewise_linear_moments(x, std, *function)
        torch.testing.assert_close(average, direct(function, x), rtol=1e-14, atol=1e-14)
        assert (variance == 0).all()
        covariance = piecewise_linear_covariance(x, std, x, 1.0, 0.5, function)
        assert (covariance == 0).all()
        total = average.sum() + variance.sum() + gain.sum() + covariance.sum()
        assert all(torch.isfinite(slope).all() for slope in torch.autograd.grad(total, (x, std)))


def test_relu_is_the_special_case():
    mean = torch.linspace(-5, 5, 21, dtype=torch.float64)
    average, variance, gain = piecewise_linear_moments(mean, 1.5, *RELU)
    for value, expected in zip((average, variance), relu_moments(mean, 1.5), strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-14, atol=1e-16)
    torch.testing.assert_close(gain, relu_gain(mean, 1.5), rtol=1e-14, atol=1e-16)
    grid = (mean[:, None], 1.5, mean, 0.5, 0.7)
    covariance = piecewise_linear_covariance(*grid, RELU)
    torch.testing.assert_close(covariance, relu_covariance(*grid), rtol=0, atol=1e-15)


@pytest.mark.parametrize("function", ALL)
def test_perfect_correlation_is_the_variance(function):
    mean = torch.linspace(-4, 8, 25, dtype=torch.float64)
    variance = piecewise_linear_moments(mean, 1.7, *function)[1]
    covariance = piecewise_linear_covariance(mean, 1.7, mean, 1.7, 1.0, function)
    torch.testing.assert_close(covariance, variance, rtol=1e-12, atol=1e-14)


def test_two_different_functions():
    covariance = piecewise_linear_covariance(0.2, 1.0, -0.3, 2.0, 0.4, PiecewiseLinear(2.0, 1.0, (), ()), RELU)
    assert float(covariance) == pytest.approx(2 * 0.8 * float(relu_gain(-0.3, 2.0)), rel=1e-14)  # Stein's lemma


def test_a_slope_for_every_channel():
    slope = torch.tensor([0.0, 0.25, -0.5], dtype=torch.float64, requires_grad=True)
    mean = torch.randn(2, 3, 4, dtype=torch.float64)
    rows = leaky_relu(slope.reshape(3, 1))
    average, variance, gain = piecewise_linear_moments(mean, 1.1, *rows)
    for channel, value in enumerate(slope.tolist()):
        single = piecewise_linear_moments(mean[:, channel], 1.1, *leaky_relu(value))
        for whole, part in zip((average, variance, gain), single, strict=True):
            torch.testing.assert_close(whole[:, channel], part, rtol=1e-14, atol=1e-15)
    assert torch.autograd.gradcheck(
        lambda s: piecewise_linear_moments(mean[0], 1.1, *leaky_relu(s.reshape(3, 1))), (slope,)
    )


def test_derivatives():
    mean = torch.tensor([-2.0, 0.4, 1.3, 7.0, 0.5], dtype=torch.float64, requires_grad=True)
    std = torch.tensor([0.8, 1.5, 0.6, 2.2, 90.0], dtype=torch.float64, requires_grad=True)
    rho = torch.tensor([-0.9, 0.2, 0.95, 0.6, 0.1], dtype=torch.float64, requires_grad=True)
    for function in ALL:
        assert torch.autograd.gradcheck(lambda m, s, f=function: piecewise_linear_moments(m, s, *f), (mean, std))
    for function in (ABSOLUTE, HARDTANH):
        covariance = partial(piecewise_linear_covariance, function=function)
        few = [value[:3].detach().requires_grad_() for value in (mean, std, mean.flip(0), std.flip(0) / 4, rho)]
        assert torch.autograd.gradcheck(covariance, few)


def test_the_gain_is_the_slope_of_the_mean():
    mean = torch.linspace(-3, 9, 13, dtype=torch.float64, requires_grad=True)
    for function in ALL:
        for std in (0.3, 2.0, 50.0):
            average, _, gain = piecewise_linear_moments(mean, std, *function)
            torch.testing.assert_close(torch.autograd.grad(average.sum(), mean)[0], gain, rtol=1e-11, atol=1e-14)


def test_knots_must_make_sense():
    for knots, jumps in (((1.0, 0.0), (1.0, 1.0)), ((0.0,), (1.0, 2.0)), ((1.0, 1.0), (1.0, 2.0))):
        with pytest.raises(UsageError, match="knots"):
            piecewise_linear_moments(0.0, 1.0, 0.0, 0.0, knots, jumps)
    with pytest.raises(UsageError, match="knots"):
        piecewise_linear_moments(0.0, 1.0, *clip(2.0, 1.0))
