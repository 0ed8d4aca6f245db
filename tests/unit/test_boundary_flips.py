"""Flip probabilities from distance and curvature: known numbers, exact laws, sampling, and propagated moments."""

from __future__ import annotations

import math
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import ndtr
from tests.support.boundary_subspaces import (
    ball,
    flips_on_the_plane,
    half_space,
    linear_module,
    pair_of,
    paraboloid,
    smooth_plane_network,
)

from assay import moments
from assay.boundary.points import boundary_point
from assay.boundary.shape.measure import curvature
from assay.boundary.subspaces import (
    FlipMethod,
    first_crossing,
    flip_probability,
    flip_probability_of,
    sampled_flips,
)
from assay.boundary.subspaces.paraboloid import beyond_paraboloid
from assay.errors import NumericalError, UsageError
from assay.grade import Grade

METHODS: tuple[FlipMethod, ...] = ("exact", "sorm", "high_dimensional", "flat")
ALARM = 5.0  # standard errors: a false alarm in 2 million comparisons


def by_quadrature(bound: float, weight: float, count: float) -> float:
    """P(Z_0 + weight X > bound), X chi-square: Phi(weight x - bound) averaged over x, 30 digits."""
    with mpmath.workdps(30):
        half = mpmath.mpf(count) / 2
        scale = 1 / (2**half * mpmath.gamma(half))

        def integrand(y):
            return 2 * y * mpmath.ncdf(weight * y * y - bound) * (y * y) ** (half - 1) * mpmath.exp(-y * y / 2) * scale

        middle = math.sqrt(count)
        edge = [math.sqrt(bound / weight)] if bound * weight > 0 else []
        ends = sorted({0.0, *(middle + k for k in range(-20, 40) if middle + k > 0), *edge, middle + 90})
        found: Any = mpmath.quad(integrand, ends)
        return float(found)


@pytest.mark.parametrize(
    ("bound", "weight", "count"),
    [
        (2.0, 0.05, 1),
        (2.0, -3.0, 1),
        (2.857, 0.0175, 20),
        (2.0, -0.001, 784),
        (5.0, 10.0, 1),
        (20.0, 1.0, 1),
        (10.0, -0.3, 50),
        (3.0, 0.2, 100),
        (0.0, 0.5, 3),
        (0.0, -5.0, 7),
        (8.0, -20.0, 2),
        (0.001, 1e-9, 4),
    ],
)
def test_integral_has_the_value_of_quadrature_in_another_variable(bound: float, weight: float, count: int):
    found = beyond_paraboloid(bound, np.array([weight]), np.array([float(count)]))
    assert found == pytest.approx(by_quadrature(bound, weight, count), rel=1e-9)


def test_curvatures_of_both_signs():
    # Z + a X - a Y with X, Y of two degrees each: X - Y is Laplace with rate 1/2, which integrates in closed form.
    bound, weight = 3.0, 0.4
    rate = 1 / (2 * weight)
    with mpmath.workdps(30):
        tail: Any = mpmath.quad(
            lambda t: rate / 2 * mpmath.exp(-rate * abs(t)) * mpmath.ncdf(t - bound), [-80, -3, 0, 3, 6, 12, 80]
        )
    found = beyond_paraboloid(bound, np.array([weight, -weight]), np.array([2.0, 2.0]))
    assert found == pytest.approx(float(tail), rel=1e-10)


@pytest.mark.parametrize("bound", [1.0, 6.0, 12.0, 30.0])
def test_plane_has_the_normal_tail_far_out(bound: float):
    assert beyond_paraboloid(bound, np.zeros(3), np.ones(3)) == pytest.approx(float(ndtr(-bound)), rel=1e-10)


@pytest.mark.parametrize("bound", [1e3, 1e5])
def test_weak_noise_part_leaves_the_chi_square_tail(bound: float):
    # With a weight of 1e4 the Gaussian part is nothing: P(X > bound / weight).
    found = beyond_paraboloid(bound, np.array([1e4]), np.array([5.0]))
    assert found == pytest.approx(float(stats.chi2.sf(bound / 1e4, 5)), rel=1e-6)


# Distance, noise, number of curvatures, curvature, and what each method gives.
KNOWN = [
    (2.0, 0.7, 20, 0.05, {"exact": 0.00637, "sorm": 0.00613, "high_dimensional": 0.00635, "flat": 0.00214}),
    (2.0, 0.7, 20, -0.05, {"exact": 0.00071, "sorm": 0.00082, "high_dimensional": 0.00072, "flat": 0.00214}),
    (1.0, 0.5, 784, -0.004, {"exact": 0.00270, "sorm": 0.00476, "high_dimensional": 0.00270, "flat": 0.02275}),
]


@pytest.mark.parametrize(("distance", "noise", "count", "bend", "expected"), KNOWN)
def test_known_numbers(distance: float, noise: float, count: int, bend: float, expected: dict[str, float]):
    for method in METHODS:
        found = float(flip_probability(distance, [bend] * count, noise, method=method))
        assert found == pytest.approx(expected[method], abs=6e-6), method
    assert float(flip_probability(distance, [bend] * count, noise)) == pytest.approx(expected["exact"], abs=6e-6)


@pytest.mark.parametrize(("distance", "noise", "count", "bend", "expected"), KNOWN)
def test_exact_is_what_sampling_gives(
    distance: float, noise: float, count: int, bend: float, expected: dict[str, float]
):
    # The squares of many equal directions are one chi-square variable: 20 million draws cost little.
    rng = np.random.default_rng(7)
    draws, hits = 20_000_000, 0
    for _ in range(10):
        squares = noise**2 * rng.chisquare(count, draws // 10)
        hits += int((noise * rng.standard_normal(draws // 10) + 0.5 * bend * squares > distance).sum())
    share = hits / draws
    exact = float(flip_probability(distance, [bend] * count, noise))
    assert abs(share - exact) < ALARM * math.sqrt(exact / draws)
    assert abs(share - expected["sorm"]) > ALARM * math.sqrt(exact / draws)  # the sample can tell them apart


@pytest.mark.parametrize("method", METHODS)
def test_flat_boundary_is_exact_by_every_method(method: FlipMethod):
    found = flip_probability(torch.tensor([0.0, 0.5, 3.0]), torch.zeros(5), 0.4, method=method)
    assert np.allclose(found.numpy(), ndtr(-np.array([0.0, 0.5, 3.0]) / 0.4), rtol=1e-9)
    none = flip_probability(torch.tensor([0.0, 0.5, 3.0]), torch.zeros(0), 0.4, method=method)
    assert torch.allclose(found, none, rtol=1e-12)


def test_sorm_meets_exact_as_noise_falls():
    errors = []
    for noise in (0.4, 0.2, 0.1):
        exact, sorm = (float(flip_probability(1.0, [0.6, -0.8, 0.3], noise, method=m)) for m in ("exact", "sorm"))
        errors.append(abs(sorm / exact - 1))
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.02


def test_high_dimensional_form_meets_exact_as_dimension_grows():
    errors = []
    for count in (4, 64, 4096):
        bends = torch.full((count,), 1 / math.sqrt(count), dtype=torch.float64)
        exact, normal = (float(flip_probability(1.0, bends, 0.5, method=m)) for m in ("exact", "high_dimensional"))
        errors.append(abs(normal / exact - 1))
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-3


@pytest.mark.parametrize("method", METHODS)
def test_probability_depends_on_shape_not_on_units(method: FlipMethod):
    bends = torch.tensor([0.3, -0.7, 0.0], dtype=torch.float64)
    one = flip_probability(1.5, bends, 0.6, method=method)
    scaled = flip_probability(15.0, bends / 10, 6.0, method=method)
    assert float(one) == pytest.approx(float(scaled), rel=1e-10)


def test_more_curvature_towards_the_input_flips_more():
    values = [float(flip_probability(1.0, [bend] * 3, 0.5)) for bend in (-2.0, -0.5, 0.0, 0.5, 2.0)]
    assert values == sorted(values)


@pytest.mark.parametrize("method", ["exact", "sorm", "high_dimensional"])
def test_rest_counts_as_equal_curvatures(method: FlipMethod):
    listed = flip_probability(1.0, [0.5, *[0.02] * 30], 0.4, method=method)
    summed = flip_probability(1.0, [0.5], 0.4, method=method, rest=(30, 0.6))
    assert float(listed) == pytest.approx(float(summed), rel=1e-10)
    assert float(flip_probability(1.0, [0.5], 0.4, method=method, rest=(0, 0.0))) == float(
        flip_probability(1.0, [0.5], 0.4, method=method)
    )


def test_degenerate_inputs():
    nothing = torch.zeros(0)
    assert float(flip_probability(1.0, [0.3], 0.0)) == 0
    assert float(flip_probability(0.0, nothing, 0.0)) == 0  # nothing moves
    assert float(flip_probability(0.0, nothing, 0.3)) == pytest.approx(0.5, rel=1e-12)
    assert float(flip_probability(math.inf, [0.3], 0.3)) == 0
    found = flip_probability(torch.tensor([math.nan, 1.0, 1.0]), torch.tensor([[0.1], [math.nan], [0.1]]), 0.3)
    assert found.isnan().tolist() == [True, True, False]
    assert float(flip_probability(1.0, [1.0], 1e-320)) == 0
    assert 0 < float(flip_probability(1.0, [-1e80], 1.0)) < 1e-30
    with pytest.raises(NumericalError, match="float64"):
        flip_probability(1.0, [1e300], 1.0)


def test_sorm_says_where_it_breaks_down():
    inside, focus, beyond = (float(flip_probability(2.0, [bend], 0.5, method="sorm")) for bend in (0.4, 0.5, 0.6))
    assert math.isfinite(inside)
    assert math.isnan(focus)
    assert math.isnan(beyond)
    assert math.isnan(float(flip_probability(1.0, [0.999] * 9, 0.9, method="sorm")))  # above 1
    assert 0 < float(flip_probability(2.0, [0.6], 0.5)) < 1  # the exact form has no focus


@pytest.mark.parametrize(
    ("arguments", "settings"),
    [
        ((-1.0, [0.1], 0.3), {}),
        ((1.0, [0.1], -0.3), {}),
        ((1.0, [0.1], math.inf), {}),
        ((1.0, 0.1, 0.3), {}),
        ((torch.ones(3), torch.zeros(2, 4), 0.3), {}),
        ((torch.ones(2, 2), [0.1], 0.3), {}),
        ((1.0, [0.1], 0.3), {"method": "guess"}),
        ((1.0, [0.1], 0.3), {"rest": (-1, 0.0)}),
    ],
)
def test_refused(arguments: tuple, settings: dict):
    with pytest.raises(UsageError):
        flip_probability(*arguments, **settings)


# Whole models.


def test_linear_model_has_the_normal_tail():
    model, x = linear_module(6), torch.randn(5, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = flip_probability_of(model, x, 0.7)
    weight, gap = model.weight[0] - model.weight[1], model(x).diff(dim=1).abs()[:, 0]
    exact = ndtr(-(gap / weight.norm() / 0.7).detach().numpy())
    assert np.allclose(found.probability.numpy(), exact, rtol=1e-7)
    assert torch.equal(found.low, found.high)
    assert found.grade is Grade.LINEARISED or found.grade is Grade.CLOSED_FORM


def test_ball_has_the_noncentral_chi_square_tail():
    size, radius, noise = 6, 4.0, 0.25
    x = torch.zeros(1, size, dtype=torch.float64)
    x[0, 0] = 3.2
    exact = float(stats.ncx2.sf((radius / noise) ** 2, size, (3.2 / noise) ** 2))
    found = flip_probability_of(ball(radius), x, noise, samples=40_000)
    assert found.sampled is not None
    assert abs(float(found.sampled.rate) - exact) < ALARM * float(found.sampled.standard_error)
    # The ball is not its osculating paraboloid, but closer to it than to its tangent plane by far.
    assert abs(float(found.probability) / exact - 1) < 0.02
    assert abs(float(found.flat) / exact - 1) > 0.2
    assert float(found.curvature.principal[0, 0]) == pytest.approx(1 / radius, rel=1e-6)


def test_outside_of_a_ball_flips_less_than_a_plane():
    size, radius, noise = 5, 3.0, 0.4
    x = torch.zeros(1, size, dtype=torch.float64)
    x[0, 0] = 3.5
    exact = float(stats.ncx2.cdf((radius / noise) ** 2, size, (3.5 / noise) ** 2))
    found = flip_probability_of(ball(radius), x, noise)
    assert float(found.probability) < float(found.flat)
    assert abs(float(found.probability) / exact - 1) < 0.1
    assert abs(float(found.flat) / exact - 1) > 0.4


def test_paraboloid_is_exact_against_sampling():
    bends = [0.4, 0.1, -0.3, -0.8, 0.0]
    x = torch.zeros(1, 6, dtype=torch.float64)
    found = flip_probability_of(paraboloid(1.2, bends), x, 0.6, samples=200_000)
    assert found.sampled is not None
    assert float(found.probability) == pytest.approx(float(flip_probability(1.2, bends, 0.6)), rel=1e-6)
    assert abs(float(found.deviation)) < ALARM * float(found.sampled.standard_error)
    assert abs(float(found.flat) - float(found.sampled.rate)) > ALARM * float(found.sampled.standard_error)
    assert found.grade is Grade.CLOSED_FORM


def test_partial_spectrum_uses_the_mean_for_the_rest():
    bends = [0.5, *[-0.02] * 40, -0.6]
    model, x = paraboloid(1.0, bends), torch.zeros(1, 43, dtype=torch.float64)
    whole = flip_probability_of(model, x, 0.4)
    shape = curvature(model, x, top=1, spectrum="lanczos", trace="full", bounds=None)
    part = flip_probability_of(model, x, 0.4, shape=shape)
    assert shape.principal.shape[1] == 2
    assert float(part.probability) == pytest.approx(float(whole.probability), rel=1e-4)
    assert whole.grade is Grade.CLOSED_FORM
    assert part.grade is Grade.STATISTICAL


PLANE = torch.tensor(
    [[-1.06, 1.0], [-0.88, -1.28], [-0.62, -0.87], [0.24, 0.73], [0.67, 1.05], [-0.72, 0.09]], dtype=torch.float64
)


def test_network_by_enumeration():
    network = smooth_plane_network()
    shape = curvature(network, PLANE, top="full", bounds=None)
    noise = 0.3 * shape.distance
    found = flip_probability_of(network, PLANE, noise, shape=shape)
    rows = zip(PLANE, noise, strict=True)
    truth = torch.tensor([flips_on_the_plane(network, row, float(s))[0] for row, s in rows], dtype=torch.float64)
    assert bool(((found.probability / truth - 1).abs() < 0.02).all())
    assert float((found.flat / truth - 1).abs().max()) > 0.15
    assert float((found.flat / truth - 1).abs().mean()) > 5 * float((found.probability / truth - 1).abs().mean())


@pytest.mark.parametrize(("distance", "agreement"), [(0.05, 0.3), (0.005, 0.05)])
def test_network_near_its_boundary_by_enumeration_sampling_and_moments(distance: float, agreement: float):
    network, noise = smooth_plane_network(), 0.6 * distance
    points = boundary_point(network, PLANE, bounds=None)
    x = points.point + (PLANE - points.point) * (distance / points.distance)[:, None]
    found = flip_probability_of(network, x, noise, samples=20_000)
    assert found.sampled is not None
    truth = torch.tensor([flips_on_the_plane(network, row, noise, cells=800)[0] for row in x], dtype=torch.float64)
    assert bool(((found.probability / truth - 1).abs() < 0.005).all())
    assert bool(((found.sampled.rate - truth).abs() < ALARM * found.sampled.standard_error + 1e-4).all())
    assert bool((found.deviation.abs() < ALARM * found.sampled.standard_error).all())
    # Gaussian logits see how the logits bend along the normal as well, which does not move the boundary: looser at this
    # noise, the same as it falls.
    propagated = moments.flip_probability(network, x, noise**2)
    assert bool(((propagated.flip - truth).abs() < agreement * truth + ALARM * propagated.standard_error).all())


def test_a_boundary_point_that_is_not_the_nearest_is_given_away_by_sampling():
    # Class 1 begins at x_0 = 1; a sliver of it at x_0 = -0.5 is nearer, and the point handed in is not on it.
    model = pair_of(lambda x: torch.maximum(x[:, 0] - 1, -0.5 - x[:, 0]))
    x = torch.zeros(1, 3, dtype=torch.float64)
    far = first_crossing(model, x, torch.tensor([[3.0, 0.0, 0.0]], dtype=torch.float64))
    found = flip_probability_of(model, far, 0.4, estimator="difference", scale=0.01, samples=5000)
    assert float(far.distance) == pytest.approx(1.0, abs=1e-9)
    assert float(found.disagreement) < -ALARM
    honest = flip_probability_of(model, x, 0.2, estimator="difference", scale=0.01, samples=5000)
    assert abs(float(honest.disagreement)) < ALARM


def test_half_space_agrees_with_moments_and_sampling():
    model, x = linear_module(4), torch.tensor([[0.2, -0.1, 0.4, 0.0]], dtype=torch.float64)
    shape = flip_probability_of(model, x, 0.5, samples=50_000)
    assert shape.sampled is not None
    decided = moments.flip_probability(model, x, 0.25)
    assert float(shape.probability) == pytest.approx(float(decided.flip), abs=1e-12)  # two outputs: both in closed form
    gap, spread = decided.moments.mean[0].diff().abs(), decided.moments.covariance[0]
    exact = ndtr(-float(gap / (spread[0, 0] + spread[1, 1] - 2 * spread[0, 1]).sqrt()))
    assert float(shape.probability) == pytest.approx(exact, rel=1e-6)
    assert abs(float(shape.deviation)) < ALARM * float(shape.sampled.standard_error)


def test_ball_agrees_with_sampling_where_moments_take_logits_as_gaussian():
    # Both see the same noise; the curved boundary knows the tail, the Gaussian logit is the looser of the two.
    x = torch.tensor([[1.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    noise = 0.3
    exact = float(stats.ncx2.sf((2 / noise) ** 2, 4, (1 / noise) ** 2))
    found = float(flip_probability_of(ball(2.0), x, noise).probability)
    mean, variance = 1 + 4 * noise**2, 4 * noise**2 + 8 * noise**4  # of ||x + noise||^2
    gaussian = float(ndtr(-(4 - mean) / math.sqrt(variance)))
    assert abs(math.log(found / exact)) < abs(math.log(gaussian / exact))
    assert abs(found / exact - 1) < 0.1


def test_sampled_flips_belong_to_the_input():
    model, x = linear_module(5), torch.randn(4, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    together = sampled_flips(model, x, 0.8, samples=500)
    alone = torch.cat([sampled_flips(model, row[None], 0.8, samples=500).rate for row in x])
    assert torch.equal(together.rate, alone)
    assert not torch.equal(together.rate, sampled_flips(model, x, 0.8, samples=500, seed=1).rate)
    assert torch.equal(together.rate, sampled_flips(model, x, 0.8, samples=500, batch_size=7).rate)


def test_sampled_flips_without_noise_and_with_a_rival():
    model = half_space(torch.tensor([1.0, 0.0]), 1.0)
    x = torch.tensor([[0.0, 0.0], [0.9, 0.0]], dtype=torch.float64)
    still = sampled_flips(model, x, 0.0, samples=50)
    assert still.rate.tolist() == [0.0, 0.0]
    assert bool((still.high > 0).all())
    assert bool(still.pair.isnan().all())
    found = sampled_flips(model, x, torch.tensor([0.5, 0.5]), rival=torch.tensor([1, 1]), samples=400)
    assert torch.equal(found.rate, found.pair)
    assert float(found.rate[1]) > float(found.rate[0])
    with pytest.raises(UsageError):
        sampled_flips(model, x, 0.1, samples=0)
    with pytest.raises(UsageError):
        sampled_flips(model, x, -0.1)


def test_not_found_rows_are_nan_and_no_noise_is_zero():
    flat = pair_of(lambda x: -1 - 0 * x[:, 0])  # the decision never changes
    found = flip_probability_of(flat, torch.zeros(1, 3, dtype=torch.float64), 0.5)
    assert bool(found.probability.isnan())
    still = flip_probability_of(ball(2.0), torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64), 0.0)
    assert float(still.probability) == 0
    with pytest.raises(UsageError):
        flip_probability_of(ball(2.0), torch.ones(2, 3, dtype=torch.float64), torch.tensor([0.1, 0.2, 0.3]))
