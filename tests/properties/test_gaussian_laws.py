"""Laws that moments of Gaussians obey for every argument."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from assay.gaussian import (
    ABSOLUTE,
    HARDTANH,
    RELU6,
    bivariate_normal_cdf,
    distribution,
    elementwise_moments,
    leaky_relu,
    maximum_moments,
    piecewise_linear_covariance,
    piecewise_linear_moments,
    rectified,
    rectified_covariance,
    relu_covariance,
    relu_gain,
    relu_moments,
)

means = st.one_of(st.floats(-6, 6), st.sampled_from([-1e6, -40.0, -8.0, 0.0, 8.0, 40.0, 1e6]))
deviations = st.one_of(st.floats(1e-3, 1e3), st.sampled_from([0.0, 1e-12, 1.0]))
correlations = st.one_of(
    st.floats(-1, 1),
    st.sampled_from([-1.0, -0.9, 0.0, 0.2, 0.5, 0.75, 0.9, 1.0]),
    st.floats(0.9, 1),
    st.floats(-1, -0.9),
)
scales = st.floats(1e-6, 1e6)
pieces = st.sampled_from([RELU6, HARDTANH, ABSOLUTE, leaky_relu(0.1)])


def double(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


def close(value, expected, tolerance: float = 2e-15) -> bool:
    return abs(float(value) - float(expected)) <= tolerance


@given(means, means, correlations)
def test_the_kernel_is_symmetric(a, b, rho):
    assert close(rectified_covariance(a, b, rho), rectified_covariance(b, a, rho))
    assert close(bivariate_normal_cdf(a, b, rho), bivariate_normal_cdf(b, a, rho))


@given(means, means, correlations)
def test_reflecting_both_variables(a, b, rho):
    p, q = distribution(double(a)), distribution(double(b))
    assert close(rectified_covariance(a, b, rho), rho * (p + q - 1) + rectified_covariance(-a, -b, rho))
    assert close(bivariate_normal_cdf(a, b, rho), p + q - 1 + bivariate_normal_cdf(-a, -b, rho))


@given(means, means, correlations)
def test_reflecting_one_variable(a, b, rho):
    p = distribution(double(a))
    assert close(rectified_covariance(a, b, -rho), -rho * p + rectified_covariance(a, -b, rho))
    assert close(bivariate_normal_cdf(a, b, -rho), p - bivariate_normal_cdf(a, -b, rho))


@given(means, means, correlations)
def test_bounds(a, b, rho):
    value = float(rectified_covariance(a, b, rho))
    assert abs(value) <= float((rectified(a).variance * rectified(b).variance).sqrt()) + 1e-15
    assert value * rho >= -1e-15
    assert 0 <= float(bivariate_normal_cdf(a, b, rho)) <= float(distribution(double(min(a, b)))) + 1e-15


@given(means, means)
def test_the_kernel_rises_with_correlation(a, b):
    rho = torch.linspace(-1, 1, 201, dtype=torch.float64)
    for function in (rectified_covariance, bivariate_normal_cdf):
        assert (function(a, b, rho).diff() >= -2e-15).all()


@given(means, correlations)
def test_a_variable_with_itself(a, rho):
    assert close(rectified_covariance(a, a, 1.0), rectified(a).variance)
    assert close(rectified_covariance(a, 0.3, 0.0), 0.0)
    assert close(bivariate_normal_cdf(a, 50.0, rho), distribution(double(a)))


@given(means, deviations)
def test_reflection_of_one_variable(mean, std):
    here, there = relu_moments(mean, std)[0], relu_moments(-mean, std)[0]
    assert float(here) - float(there) == pytest.approx(mean, rel=1e-13, abs=1e-15 * std)
    assert close(relu_gain(mean, std) + relu_gain(-mean, std), 1.0, 1e-15)
    assert float(here) >= max(mean, 0.0)
    assert 0 <= float(relu_moments(mean, std)[1]) <= std**2 * (1 + 1e-15)


@given(means, deviations, means, deviations, correlations, scales)
def test_units_do_not_matter(mean1, std1, mean2, std2, rho, k):
    mean, variance = relu_moments(mean1, std1)
    scaled_mean, scaled_variance = relu_moments(k * mean1, k * std1)
    # at |a| = 40 a mean is rounded by 40^2 units at most
    assert float(scaled_mean) == pytest.approx(k * float(mean), rel=1e-11, abs=1e-250)
    assert float(scaled_variance) == pytest.approx(k * k * float(variance), rel=1e-11, abs=1e-250)
    covariance = relu_covariance(mean1, std1, mean2, std2, rho)
    scaled = relu_covariance(k * mean1, k * std1, mean2, std2, rho)
    assert close(scaled, k * covariance, 1e-13 * k * std1 * std2)


@given(means, means, correlations, deviations)
def test_a_constant_has_no_covariance(mean1, mean2, rho, std):
    assert float(relu_covariance(mean1, 0.0, mean2, std, rho)) == 0.0
    mean, variance = relu_moments(mean1, 0.0)
    assert (float(mean), float(variance)) == (max(mean1, 0.0), 0.0)


@given(means, deviations, means, deviations, correlations, pieces)
def test_piecewise_linear_functions_obey_cauchy_schwarz(mean1, std1, mean2, std2, rho, function):
    _, variance1, gain = piecewise_linear_moments(mean1, std1, *function)
    _, variance2, _ = piecewise_linear_moments(mean2, std2, *function)
    covariance = piecewise_linear_covariance(mean1, std1, mean2, std2, rho, function)
    assert float(variance1) >= 0
    assert abs(float(gain)) <= 1 + 1e-15
    assert abs(float(covariance)) <= float((variance1 * variance2).sqrt()) + 2e-14 * std1 * std2


@given(means, deviations, st.floats(-3, 3), st.floats(-3, 3))
def test_affine_functions_are_exact(mean, std, slope, offset):
    for average, variance, gain in (
        piecewise_linear_moments(mean, std, slope, offset, (), ()),
        elementwise_moments(lambda x: offset + slope * x, double(mean), std, nodes=6),
    ):
        size = abs(mean) + std + 1
        assert float(average) == pytest.approx(offset + slope * mean, rel=1e-12, abs=1e-13 * size)
        deviation = float(variance) ** 0.5
        assert deviation == pytest.approx(abs(slope) * std, rel=1e-9, abs=1e-14 * size)
        assert float(gain) == pytest.approx(slope, rel=1e-8, abs=1e-9)


@given(means, deviations, means, deviations, st.floats(-1, 1))
def test_the_maximum_exceeds_both(mean1, std1, mean2, std2, rho):
    covariance = rho * std1 * std2
    mean, variance, weight = maximum_moments(mean1, std1, mean2, std2, covariance)
    other_mean, other_variance, other_weight = maximum_moments(mean2, std2, mean1, std1, covariance)
    assert float(mean) >= max(mean1, mean2)
    assert 0 <= float(variance) <= (std1**2 + std2**2) * (1 + 1e-12)
    assert float(mean) == pytest.approx(float(other_mean), rel=1e-13)
    assert float(variance) == pytest.approx(float(other_variance), rel=1e-9, abs=1e-13 * (std1**2 + std2**2))
    assert close(weight + other_weight, 1.0)


@pytest.mark.parametrize(("dtype", "floor"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
@given(seed=st.integers(0, 10**6))
def test_matrices_stay_positive_semidefinite(dtype, floor, seed):
    generator = torch.Generator().manual_seed(seed)
    factor = torch.randn(200, 5, generator=generator, dtype=torch.float64)
    factor = factor / factor.norm(dim=1, keepdim=True)
    mean = 2 * torch.randn(200, generator=generator, dtype=torch.float64)
    rho = (factor @ factor.T).clamp(-1, 1).fill_diagonal_(1.0).to(dtype)
    a = mean.to(dtype)
    for matrix in (
        rectified_covariance(a[:, None], a, rho),
        piecewise_linear_covariance(a[:, None], 1.0, a, 1.0, rho, HARDTANH),
    ):
        eigenvalues = torch.linalg.eigvalsh(matrix.double())
        assert eigenvalues[0] >= -floor * eigenvalues[-1]
        assert (matrix - matrix.T).abs().max() <= floor
