"""The rectified covariance kernel and the bivariate normal distribution, against 30-digit values and SciPy."""

import json
from pathlib import Path

import mpmath
import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from assay.gaussian import bivariate, bivariate_normal_cdf, rectified, rectified_covariance, relu_covariance

REFERENCE = Path(__file__).resolve().parents[1] / "reference" / "relu_cov.json"

# mean1, std1, mean2, std2, rho, covariance of the rectified variables: computed with 45 digits
TABLE = (
    (0, 1, 0, 1, 0.5, 0.1453439474302193432756),
    (0, 1, 0, 1, -0.5, -0.1046560525697806567244),
    (0, 1, 0, 1, 0.9999999, 0.3408450069128497478776),
    (0, 1, 0, 1, -0.9999999, -0.1591549430871502521224),
    (0.5, 1, -0.3, 1, 0.8, 0.2537033089125784651037),
    (1, 1, 1, 1, 0.9999999, 0.7510877237100124613779),
    (1, 1, 1, 1, -0.9999999, -0.6896308915073843041319),
    (0.3, 1, 0.3, 1, -0.9999999, -0.3069843810915375054559),
    (8, 1, 8, 1, 0.5, 0.4999999999999993779040),
    (-8, 1, -8, 1, 0.5, 5.671491140326139238624e-23),
    (-8, 1, -8, 1, 0.9999999, 1.807500232194525644806e-17),
    (-8, 1, -8, 1, -0.5, -5.700646248925216326281e-33),
    (8, 1, -8, 1, -0.9, -5.581332954130198096641e-16),
    (2, 1, 2, 1, 0.5, 0.4781905646105565178118),
    (1000, 1, 1000, 1, 1e-6, 1e-6),
)
ORTHANTS = (
    (0.5, -0.3, 0.8, 0.369336568901699066),
    (1, 1.001, 0.9999999, 0.841344269304535615),
    (-3, -3, -0.9, 3.26992399238896114e-43),
    (0, 0, 0.5, 1 / 3),
    (2, -1, -0.6, 0.142832478159839135),
    (-8, -8, 0.5, 1.78866054859018538e-21),
)


def columns(rows, dtype=torch.float64):
    return torch.tensor([[float(value) for value in row] for row in rows], dtype=dtype).T


@pytest.fixture(scope="module")
def reference():
    return columns(json.loads(REFERENCE.read_text()))


def test_the_table():
    *arguments, expected = columns(TABLE)
    assert (relu_covariance(*arguments) - expected).abs().max() < 1e-15
    single = relu_covariance(*(value.float() for value in arguments))
    assert (single.double() - expected).abs().max() < 5e-7


def test_units_scale_with_both_standard_deviations():
    *arguments, expected = columns(TABLE)
    mean1, _, mean2, _, rho = arguments
    scaled = relu_covariance(100 * mean1, 100.0, 1e-3 * mean2, 1e-3, rho)
    assert (scaled - 0.1 * expected).abs().max() < 1e-13 * 0.1


def test_tiny_covariances_keep_their_leading_digits():
    *arguments, expected = columns([row for row in TABLE if row[4] > 0])
    torch.testing.assert_close(relu_covariance(*arguments), expected, rtol=1e-7, atol=0)


def test_624_points(reference):
    a, b, rho, expected = reference
    assert a.numel() == 624
    assert (rectified_covariance(a, b, rho) - expected).abs().max() <= 1e-15
    single = rectified_covariance(a.float(), b.float(), rho.float())
    assert (single.double() - expected).abs().max() <= 5e-7


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_both_forms_agree_where_they_meet(dtype):
    tolerance = 1.5e-15 if dtype == torch.float64 else 5e-7
    generator = torch.Generator().manual_seed(0)
    a, b = 2.5 * torch.randn(2, 20_000, generator=generator, dtype=torch.float64)
    b = torch.where(torch.rand(20_000, generator=generator) < 0.5, b, a + 1e-3 * b)
    sign = torch.randn(20_000, generator=generator, dtype=torch.float64).sign()
    low = 0.0
    for limit in (0.2, 0.5, 0.75, 0.9, 0.94):
        rho = sign * (low + (limit - low) * torch.rand(20_000, generator=generator, dtype=torch.float64).sqrt())
        low = limit
        product = rectified(a).probability * rectified(b).probability
        for rectify, function in ((True, rectified_covariance), (False, bivariate_normal_cdf)):
            truth = bivariate._arc_integral(a, b, rho, 90, rectify) + product * (rho if rectify else 1)
            value = function(a.to(dtype), b.to(dtype), rho.to(dtype))
            assert (value.double() - truth).abs().max() < tolerance


def truth_by_conditioning(a: float, b: float, rho: float) -> tuple[float, float]:
    """Phi2 and K by the one-dimensional integral over the first variable, 30 digits."""
    with mpmath.workdps(30):
        a, b, rho = mpmath.mpf(a), mpmath.mpf(b), mpmath.mpf(rho)
        q = mpmath.sqrt(1 - rho * rho)

        def second(z):
            x = (b + rho * z) / q
            return q * (x * mpmath.ncdf(x) + mpmath.npdf(x))

        kink = -b / rho
        cuts = [kink + step * q for step in (-9, -3, 0, 3, 9)] + [mpmath.mpf(step) for step in (-4, 0, 4)]
        points = [-a, *sorted(point for point in cuts if -a < point < 14), mpmath.mpf(14)]
        orthant = mpmath.quad(lambda z: mpmath.npdf(z) * mpmath.ncdf((b + rho * z) / q), points)
        product = mpmath.quad(lambda z: mpmath.npdf(z) * (z + a) * second(z), points)
        means = [x * mpmath.ncdf(x) + mpmath.npdf(x) for x in (a, b)]
        return float(orthant), float(product - means[0] * means[1])


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(
    ("a", "b", "distance"),
    [(0.4, 0.1, 0.05), (1.2, 1.25, 1e-3), (-0.7, -0.70001, 1e-6), (2.1, 2.1, 1e-9), (-1, 0.9, 1e-2), (0.3, -3, 1e-12)],
)
def test_near_perfect_correlation_against_mpmath(a, b, distance, sign):
    rho = sign * (1 - distance)
    orthant, covariance = truth_by_conditioning(a, sign * b, rho)
    assert float(bivariate_normal_cdf(a, sign * b, rho)) == pytest.approx(orthant, abs=1e-15)
    assert float(rectified_covariance(a, sign * b, rho)) == pytest.approx(covariance, abs=1e-15)


def test_exactly_perfect_correlation():
    a, b = torch.meshgrid(*[torch.linspace(-4, 4, 17, dtype=torch.float64)] * 2, indexing="ij")
    z = torch.linspace(-12, 12, 480_001, dtype=torch.float64)
    weight = torch.exp(-z * z / 2)
    weight = weight / weight.sum()
    for rho in (1.0, -1.0):
        value = rectified_covariance(a, b, rho)
        for i, j in ((0, 0), (3, 12), (8, 8), (16, 16), (16, 2), (10, 5)):
            first, second = (a[i, j] + z).relu(), (b[i, j] + rho * z).relu()
            direct = (weight * first * second).sum() - (weight * first).sum() * (weight * second).sum()
            assert abs(value[i, j] - direct) < 1e-8
    torch.testing.assert_close(rectified_covariance(a, a, 1.0), rectified(a).variance, rtol=1e-14, atol=0)
    assert (bivariate_normal_cdf(a, b, 1.0) - rectified(torch.minimum(a, b)).probability).abs().max() < 2e-16


def test_orthants():
    h, k, rho, expected = columns(ORTHANTS)
    value = bivariate_normal_cdf(h, k, rho)
    assert (value - expected).abs().max() < 1e-15
    assert (value >= 0).all()
    torch.testing.assert_close(value[-1], expected[-1], rtol=1e-7, atol=0)
    single = bivariate_normal_cdf(h.float(), k.float(), rho.float())
    assert (single.double() - expected).abs().max() < 5e-7


def test_orthants_against_scipy():
    rng = np.random.default_rng(5)
    for rho in (-0.99, -0.6, 0.0, 0.3, 0.85, 0.97):
        points = rng.normal(size=(20, 2)) * 1.5
        expected = multivariate_normal([0, 0], [[1, rho], [rho, 1]]).cdf(points)
        value = bivariate_normal_cdf(*torch.tensor(points).T, rho)
        np.testing.assert_allclose(value.numpy(), expected, rtol=0, atol=2e-9)  # the tolerance is SciPy's


def test_forty_thousand_wild_arguments():
    generator = torch.Generator().manual_seed(1)
    n = 40_000
    scale = 10 ** (8 * torch.rand(2, n, generator=generator, dtype=torch.float64) - 2)
    a, b = scale * torch.randn(2, n, generator=generator, dtype=torch.float64)
    b[: n // 2] = a[: n // 2] * (1 + 1e-6 * torch.randn(n // 2, generator=generator, dtype=torch.float64))
    rho = torch.tanh(4 * torch.randn(n, generator=generator, dtype=torch.float64))
    rho[::5] = rho[::5].sign()
    value = rectified_covariance(a, b, rho)
    bound = (rectified(a).variance * rectified(b).variance).sqrt()
    assert torch.isfinite(value).all()
    assert (value.abs() - bound).max() <= 1e-15
    assert torch.isfinite(rectified_covariance(a.float(), b.float(), rho.float())).all()


def test_blocks_and_broadcasting_change_nothing(monkeypatch):
    a = torch.linspace(-3, 3, 13, dtype=torch.float64)
    rho = torch.linspace(-1, 1, 2 * 5 * 13, dtype=torch.float64).reshape(2, 5, 1, 13)
    whole = rectified_covariance(a[:, None], a[None, :], rho)
    assert whole.shape == (2, 5, 13, 13)
    one_by_one = [rectified_covariance(a[i], a[j], rho[1, 3, 0, j]) for i in range(13) for j in range(13)]
    assert torch.equal(whole[1, 3].flatten(), torch.stack(one_by_one))
    monkeypatch.setattr(bivariate, "_BLOCK", 30)
    assert torch.equal(rectified_covariance(a[:, None], a[None, :], rho), whole)
    assert rectified_covariance(torch.zeros(0, 1), torch.zeros(3), 0.5).shape == (0, 3)


def test_derivatives_of_every_order_and_mode():
    generator = torch.Generator().manual_seed(2)
    a = (1.5 * torch.randn(5, 1, generator=generator, dtype=torch.float64)).requires_grad_()
    b = (1.5 * torch.randn(4, generator=generator, dtype=torch.float64)).requires_grad_()
    rho = (1.9 * torch.rand(5, 4, generator=generator, dtype=torch.float64) - 0.95).requires_grad_()
    for function in (rectified_covariance, bivariate_normal_cdf):
        assert torch.autograd.gradcheck(function, (a, b, rho), check_forward_ad=True)
        assert torch.autograd.gradgradcheck(function, (a, b, rho))
    std1, std2 = (torch.full((4,), value, dtype=torch.float64, requires_grad=True) for value in (0.6, 1.7))
    assert torch.autograd.gradcheck(relu_covariance, (a, std1, b, std2, rho))


def test_derivative_keeps_its_accuracy_at_large_means():
    a = torch.tensor([0.5, 1.0, -2.0], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(rectified_covariance(a, 1e6, 0.4).sum(), a)
    # K(a, b, rho) tends to rho Phi(a) as b grows
    torch.testing.assert_close(
        slope, 0.4 * torch.exp(-(a.detach() ** 2) / 2) / (2 * torch.pi) ** 0.5, rtol=1e-13, atol=0
    )


def test_derivative_in_single_precision():
    grid = torch.linspace(-3, 3, 25, dtype=torch.float64)[:, None, None]
    other = torch.tensor([-20.0, -3.0, 0.0, 2.0, 5.0, 12.0, 39.0], dtype=torch.float64)[:, None]
    rho = torch.tensor([-1.0, -0.5, 0.25, 0.875, 1.0], dtype=torch.float64)
    slopes = []
    for dtype in (torch.float32, torch.float64):
        a = grid.to(dtype).requires_grad_()
        value = rectified_covariance(a, other.to(dtype), rho.to(dtype))
        slopes.append(torch.autograd.grad(value, a, torch.ones_like(value), create_graph=False)[0].double() / 35)
    assert (slopes[0] - slopes[1]).abs().max() < 1.5e-7


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_no_derivative_is_nan(dtype):
    values = torch.tensor([0.0, 0.7, -0.7, 8.0, -50.0, 1e6, -1e30], dtype=dtype)
    a = values[:, None, None].clone().requires_grad_()
    b = values[None, :, None].clone().requires_grad_()
    rho = torch.tensor([-1.0, -0.95, 0.0, 0.3, 1.0], dtype=dtype, requires_grad=True)
    std = torch.tensor([0.0, 1.0, 2.0, 1e-30, 1.0], dtype=dtype, requires_grad=True)
    value = relu_covariance(a, std, b, std, rho)
    inputs = (a, b, rho, std)
    first = torch.autograd.grad(value.sum(), inputs, create_graph=True)
    second = torch.autograd.grad(sum(gradient.square().sum() for gradient in first), inputs)
    assert all(torch.isfinite(tensor).all() for tensor in (value, *first, *second))


def test_derivatives_on_the_diagonal_are_those_of_the_variance():
    a = torch.linspace(-3, 3, 7, dtype=torch.float64, requires_grad=True)
    (from_kernel,) = torch.autograd.grad(rectified_covariance(a, a, 1.0).sum(), a)
    (from_variance,) = torch.autograd.grad(rectified(a).variance.sum(), a)
    torch.testing.assert_close(from_kernel, from_variance, rtol=1e-12, atol=1e-15)
    rho = torch.ones(7, dtype=torch.float64, requires_grad=True)
    (by_rho,) = torch.autograd.grad(rectified_covariance(a, a, rho).sum(), rho)
    torch.testing.assert_close(by_rho, rectified(a.detach()).probability, rtol=1e-12, atol=0)


def test_functional_transforms():
    rows = torch.randn(3, 4, dtype=torch.float64)
    rho = 0.3 + 0.7 * torch.eye(4, dtype=torch.float64)

    def matrix(row):
        return relu_covariance(row[:, None], 1.3, row, 1.3, rho)

    torch.testing.assert_close(
        torch.func.vmap(matrix)(rows), torch.stack([matrix(row) for row in rows]), rtol=0, atol=0
    )
    forward, reverse = (transform(matrix)(rows[0]) for transform in (torch.func.jacfwd, torch.func.jacrev))
    torch.testing.assert_close(forward, reverse)
