"""Gram-Charlier terms of a function of a nearly Gaussian variable: closed forms, mpmath, and a skewed law."""

from __future__ import annotations

from typing import Any

import mpmath
import pytest
import torch
from torch import Tensor

from assay.gaussian import rectified, rectified_covariance, rectified_covariance_matrix
from assay.gaussian.expansion import expansion

POINTS = [(0.0, 1.0), (0.7, 1.3), (-1.0, 2.0), (-2.5, 0.8), (3.0, 1.0)]


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).unsqueeze(0)


def truth(function: Any, mean: float, std: float, kinks: tuple[float, ...]) -> Any:
    """E over the normal law by mpmath, cut at the kinks."""
    mpmath.mp.dps = 30
    cuts = [-14, *sorted((k - mean) / std for k in kinks), 14]
    return lambda g: mpmath.quad(lambda t: g(t, function(mean + std * t)) * mpmath.npdf(t), cuts)


@pytest.mark.parametrize(("mean", "std"), POINTS)
def test_of_relu_equals_closed_forms(mean: float, std: float) -> None:
    found = expansion(torch.relu, column(mean), column(std), kinks=(0.0,))
    a = mean / std
    density = float(mpmath.npdf(a))
    closed = rectified(column(a))
    assert float(found.mean) == pytest.approx(std * float(closed.mean), rel=1e-9, abs=1e-14)
    slopes = [float(closed.probability), density / std, -a * density / std**2, (a * a - 1) * density / std**3]
    slopes += [-(a**3 - 3 * a) * density / std**4, (a**4 - 6 * a * a + 3) * density / std**5]
    for slope, expected in zip(found.slopes, slopes, strict=True):
        assert float(slope) == pytest.approx(expected, rel=1e-7, abs=1e-10)
    innovation = std**2 * float(closed.variance - closed.probability.square())
    assert float(found.variance) == pytest.approx(innovation, rel=1e-8, abs=1e-14)


@pytest.mark.parametrize(("mean", "std"), POINTS)
@pytest.mark.parametrize("name", ["relu", "silu"])
def test_cumulants_of_the_innovation_against_mpmath(name: str, mean: float, std: float) -> None:
    kinks = (0.0,) if name == "relu" else ()
    python = (lambda x: max(x, 0)) if name == "relu" else (lambda x: x / (1 + mpmath.exp(-x)))
    found = expansion(
        torch.relu if name == "relu" else torch.nn.functional.silu, column(mean), column(std), kinks=kinks
    )
    expect = truth(python, mean, std, kinks)
    centre = expect(lambda t, f: f)
    gain = expect(lambda t, f: f * t)
    power = {
        (j, k): expect(lambda t, f, j=j, k=k: t**j * (f - centre - gain * t) ** k) for j in range(4) for k in range(5)
    }
    expected = {
        "variance": power[0, 2],
        "curvature": (power[2, 2] - power[0, 2]) / std**2,
        "xee": power[1, 2] / std,
        "eee": power[0, 3],
        "xxxe": power[3, 1] * std**3,
        "xxee": (power[2, 2] - power[0, 2]) * std**2,
        "xeee": power[1, 3] * std,
        "eeee": power[0, 4] - 3 * power[0, 2] ** 2,
    }
    for field, value in expected.items():
        assert float(getattr(found, field)) == pytest.approx(float(value), rel=2e-5, abs=1e-9), field


def test_series_gives_the_mean_under_a_skewed_law() -> None:
    # a standardised gamma variable with 400 degrees of freedom: skewness 0.1, excess 0.015
    shape = 400.0
    mpmath.mp.dps = 20
    scale = shape**-0.5

    def mean_relu(shift: float) -> float:
        def integrand(g: Any) -> Any:
            log = (shape - 1) * mpmath.log(g) - g - mpmath.loggamma(shape)
            return max((g - shape) * scale + shift, 0) * mpmath.exp(log)

        total: Any = mpmath.quad(integrand, [200, max(shape - shift / scale, 201.0), 650])
        return float(total)

    for shift in (-1.0, 0.0, 0.5):
        terms = expansion(torch.relu, column(shift), column(1.0), kinks=(0.0,))
        third, fourth = 2 * shape**-0.5, 6 / shape
        plain = float(terms.mean)
        series = plain + third / 6 * float(terms.slopes[2]) + fourth / 24 * float(terms.slopes[3])
        series += third**2 / 72 * float(terms.slopes[5])
        exact = mean_relu(shift)
        assert abs(series - exact) < 2e-5
        if shift:
            assert abs(series - exact) < 0.02 * abs(plain - exact)


def test_without_noise_nothing_is_left() -> None:
    found = expansion(torch.relu, column(-1.0, 0.0, 2.0), column(0.0, 0.0, 0.0), kinks=(0.0,))
    assert found.mean.tolist() == [[0.0, 0.0, 2.0]]
    assert not any(bool(slope.any()) for slope in found.slopes)
    assert not bool(found.eeee.any())


def test_float32_agrees_with_float64() -> None:
    generator = torch.Generator().manual_seed(0)
    mean = 3 * torch.randn(1, 50, generator=generator, dtype=torch.float64)
    std = 0.5 + torch.rand(1, 50, generator=generator, dtype=torch.float64)
    double = expansion(torch.relu, mean, std, kinks=(0.0,))
    single = expansion(torch.relu, mean.float(), std.float(), kinks=(0.0,))
    assert single.mean.dtype == torch.float32
    for field in ("variance", "curvature", "xee", "eee", "xxee", "eeee"):
        expected = getattr(double, field)
        assert (getattr(single, field).double() - expected).abs().max() < 2e-5 * (1 + expected.abs().max())


@pytest.mark.parametrize("count", [5, 64, 200])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pair_matrix_equals_the_kernel_of_every_pair(count: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(count)
    a = 2 * torch.randn(2, count, generator=generator, dtype=dtype)
    rows = torch.randn(2, count, 7, generator=generator, dtype=dtype)
    rows = rows / rows.norm(dim=2, keepdim=True)
    correlation = (rows @ rows.mT).clamp(-1, 1)
    found = rectified_covariance_matrix(a, correlation)
    every = rectified_covariance(a.unsqueeze(2), a.unsqueeze(1), correlation)
    diagonal = rectified(a).variance
    every = every - torch.diag_embed(every.diagonal(dim1=1, dim2=2)) + torch.diag_embed(diagonal)
    found = found - torch.diag_embed(found.diagonal(dim1=1, dim2=2)) + torch.diag_embed(diagonal)
    assert torch.allclose(found, every, rtol=0, atol=1e-6 if dtype == torch.float32 else 1e-14)
    assert torch.allclose(found, found.mT, rtol=0, atol=1e-6 if dtype == torch.float32 else 1e-15)


def test_pair_matrix_is_differentiable() -> None:
    generator = torch.Generator().manual_seed(1)
    a = torch.randn(1, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    correlation = torch.full((1, 4, 4), 0.3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(rectified_covariance_matrix, (a, correlation))
