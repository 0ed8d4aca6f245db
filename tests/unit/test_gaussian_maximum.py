"""The larger of two Gaussians: Clark's moments, ties, and means so far apart that naive formulas break."""

import pytest
import torch

from assay.gaussian import maximum_moments, relu_covariance, relu_gain, relu_moments


def test_known_values():
    mean, variance, weight = maximum_moments(1.0, 1.0, 0.5, 2.0, 0.6)
    assert float(mean) == pytest.approx(1.55312397358834535, rel=1e-14)
    assert float(variance) == pytest.approx(1.61384532130399021, rel=1e-14)
    assert float(weight) == pytest.approx(0.601215520581225516, rel=1e-14)


def test_tournament_of_four():
    mean, variance, _ = maximum_moments(0.0, 1.0, 0.0, 1.0, 0.0)
    mean, variance, weight = maximum_moments(mean, variance.sqrt(), mean, variance.sqrt(), 0.0)
    assert float(mean) == pytest.approx(1.03001004525103194, rel=1e-14)
    assert float(variance) == pytest.approx(0.464701411274756428, rel=1e-14)
    assert float(weight) == 0.5


def test_against_the_decomposition_y_plus_relu():
    generator = torch.Generator().manual_seed(4)
    mean1, mean2 = 2 * torch.randn(2, 200, generator=generator, dtype=torch.float64)
    std1, std2 = 0.2 + 2 * torch.rand(2, 200, generator=generator, dtype=torch.float64)
    rho = 1.9 * torch.rand(200, generator=generator, dtype=torch.float64) - 0.95
    covariance = rho * std1 * std2
    mean, variance, weight = maximum_moments(mean1, std1, mean2, std2, covariance)
    gap = (std1**2 + std2**2 - 2 * covariance).sqrt()
    lead, lead_variance = relu_moments(mean1 - mean2, gap)
    torch.testing.assert_close(mean, mean2 + lead, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(weight, relu_gain(mean1 - mean2, gap), rtol=1e-12, atol=1e-14)
    expected = std2**2 + 2 * (covariance - std2**2) * weight + lead_variance
    torch.testing.assert_close(variance, expected, rtol=1e-11, atol=1e-12)
    # with a constant the maximum is relu
    mean, variance, _ = maximum_moments(mean1, std1, 0.0, 0.0, 0.0)
    for value, reference in zip((mean, variance), relu_moments(mean1, std1), strict=True):
        torch.testing.assert_close(value, reference, rtol=1e-9, atol=1e-14)


def test_against_samples():
    # six million pairs; a correct formula fails a bound of six standard errors once in 10^8 runs
    generator = torch.Generator().manual_seed(5)
    x, z = torch.randn(2, 6_000_000, generator=generator, dtype=torch.float64)
    y = 0.3 + 1.5 * (-0.4 * x + (1 - 0.16) ** 0.5 * z)
    largest = torch.maximum(x, y)
    mean, variance, weight = maximum_moments(0.0, 1.0, 0.3, 1.5, -0.6)
    assert abs(largest.mean() - mean) < 6 * (variance / 6e6).sqrt()
    fourth = ((largest - mean) ** 2).var()
    assert abs(((largest - mean) ** 2).mean() - variance) < 6 * (fourth / 6e6).sqrt()
    assert abs((x > y).double().mean() - weight) < 6 * (0.25 / 6e6) ** 0.5
    assert float(relu_covariance(0.0, 1.0, 0.3, 1.5, -0.4)) < 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_padding_and_ties(dtype):
    mean1 = torch.tensor([-1e30, -1e30, 0.5, 0.5, 0.5, 0.7], dtype=dtype, requires_grad=True)
    mean2 = torch.tensor([-1e30, 0.25, -1e30, 0.5, 0.5, 0.2], dtype=dtype, requires_grad=True)
    std1 = torch.tensor([0.0, 0.0, 2.0, 1.0, 0.0, 0.0], dtype=dtype, requires_grad=True)
    std2 = torch.tensor([0.0, 3.0, 0.0, 1.0, 0.0, 0.0], dtype=dtype, requires_grad=True)
    covariance = torch.tensor([0.0, 0.0, 0.0, 1.0, 0.0, 0.0], dtype=dtype, requires_grad=True)
    inputs = (mean1, std1, mean2, std2, covariance)
    mean, variance, weight = maximum_moments(*inputs)
    assert mean.tolist() == torch.tensor([-1e30, 0.25, 0.5, 0.5, 0.5, 0.7], dtype=dtype).tolist()
    assert variance.tolist() == [0.0, 9.0, 4.0, 1.0, 0.0, 0.0]
    assert weight.tolist() == [0.5, 0.0, 1.0, 0.5, 0.5, 1.0]
    gradients = torch.autograd.grad(mean.sum() + variance.sum() + weight.sum(), inputs)
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    fixed = tuple(value.detach() for value in inputs)
    _, tangents = torch.func.jvp(maximum_moments, fixed, tuple(torch.ones_like(value) for value in fixed))
    assert all(torch.isfinite(tangent).all() for tangent in tangents)


def test_symmetry():
    one, two = (torch.linspace(-3, 3, 7, dtype=torch.float64), 1.2), (torch.tensor(0.3, dtype=torch.float64), 0.4)
    here, there = maximum_moments(*one, *two, 0.2), maximum_moments(*two, *one, 0.2)
    for first, second in zip(here[:2], there[:2], strict=True):
        torch.testing.assert_close(first, second, rtol=1e-14, atol=0)
    torch.testing.assert_close(here[2] + there[2], torch.ones(7, dtype=torch.float64), rtol=0, atol=1e-15)


def test_derivatives():
    inputs = [
        torch.tensor(values, dtype=torch.float64, requires_grad=True)
        for values in ([0.3, -1.0, 0.0], [1.0, 0.7, 2.0], [0.1, 2.0, 0.0], [0.5, 1.4, 1.0], [0.2, -0.6, 1.1])
    ]
    assert torch.autograd.gradcheck(maximum_moments, inputs, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(maximum_moments, inputs)
