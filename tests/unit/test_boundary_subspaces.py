"""Subspaces: profiles, shared directions, noise in subspaces and distances within them, where the truth is known."""

from __future__ import annotations

import math

import pytest
import torch
from tests.support.boundary_subspaces import ball, half_space, linear_module, pair_of, paraboloid
from torch import Tensor

from assay.boundary.points import boundary_point
from assay.boundary.shape.measure import curvature
from assay.boundary.subspaces import (
    asymmetry,
    distance_within,
    first_crossing,
    flat_law,
    gradient_subspace,
    overlap,
    profile,
    relative_curvature,
    semi_random,
    shared_directions,
    subspace_noise,
)
from assay.boundary.subspaces.bases import complement, orthonormal, random_subspace
from assay.boundary.subspaces.spread import mean_interval
from assay.errors import UsageError

ALARM = 5.0


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def ridge(size: int, curved: int) -> tuple:
    """F = x_0 - 3 - 2 sum_{i <= curved} x_i^2: curved in the same few directions everywhere, flat in the others."""
    return pair_of(lambda x: x[:, 0] - 3 - 2 * x[:, 1 : 1 + curved].square().sum(1)), 0.3 * drawn(12, size)


# Bases.


def test_overlap_of_random_subspaces_is_what_chance_gives():
    generator = torch.Generator().manual_seed(0)
    found = [overlap(random_subspace(60, 6, generator), random_subspace(60, 10, generator)) for _ in range(100)]
    shares = torch.tensor([share for share, _ in found])
    assert found[0][1] == 10 / 60
    assert abs(float(shares.mean()) - 10 / 60) < ALARM * float(shares.std()) / 10
    whole = random_subspace(5, 5, generator)
    assert overlap(whole, random_subspace(5, 2, generator)) == (pytest.approx(1.0), 1.0)


def test_complement_is_orthogonal():
    basis = random_subspace(30, 8, torch.Generator().manual_seed(0))
    other = complement(basis, 22, torch.Generator().manual_seed(1))
    assert float((basis @ other.T).abs().max()) < 1e-12
    assert torch.allclose(other @ other.T, torch.eye(22, dtype=torch.float64), atol=1e-12)
    with pytest.raises(UsageError):
        complement(basis, 23, torch.Generator())
    with pytest.raises(UsageError):
        random_subspace(3, 4, torch.Generator())


def test_orthonormal_drops_what_depends():
    rows = drawn(3, 7)
    basis = orthonormal(torch.cat([rows, rows.sum(0, keepdim=True)]))
    assert basis.shape == (3, 7)
    assert torch.allclose(basis @ basis.T, torch.eye(3, dtype=torch.float64), atol=1e-12)
    with pytest.raises(UsageError):
        orthonormal(torch.zeros(2, 3))


def test_mean_interval_covers_as_often_as_it_says():
    samples = drawn(8, 4000)
    _, low, high = mean_interval(samples)
    covered = float(((low < 0) & (high > 0)).double().mean())
    assert abs(covered - 0.95) < ALARM * math.sqrt(0.95 * 0.05 / 4000)
    samples[0, 0] = math.nan
    assert float(mean_interval(samples)[0][0]) == pytest.approx(float(samples[1:, 0].mean()))
    assert math.isinf(float(mean_interval(samples[:1])[1][1]))


# Profile.


def test_profile_of_a_paraboloid():
    bends = [1.0, 0.05, 0.0, -0.02, -0.6]
    x = torch.zeros(3, 6, dtype=torch.float64)
    x[1, 0], x[2, 0] = 0.5, -0.4
    found = profile(paraboloid(0.8, bends), x)
    assert torch.allclose(found.average, torch.tensor(bends, dtype=torch.float64), atol=1e-9)
    assert torch.allclose(found.small, torch.tensor(3 / 5, dtype=torch.float64))
    assert torch.allclose(found.positive, torch.tensor(1.05, dtype=torch.float64), atol=1e-9)
    assert torch.allclose(found.negative, torch.tensor(-0.62, dtype=torch.float64), atol=1e-9)
    assert found.summary["mean"][0] == pytest.approx(0.43 / 5, abs=1e-9)
    assert found.negative_share == 0
    assert found.complete


def test_profile_interval_is_over_inputs():
    x = torch.zeros(4, 3, dtype=torch.float64)
    x[:, 0] = torch.tensor([0.5, 1.0, 1.5, 1.7])
    found = profile(ball(2.0), x)
    assert torch.allclose(found.low, found.high, atol=1e-6)  # the same curvature everywhere
    assert torch.allclose(found.average, torch.tensor(0.5, dtype=torch.float64), atol=1e-6)


def test_profile_of_both_ends_only():
    model, x = paraboloid(1.0, [1.0, *[0.0] * 8, -0.5]), torch.zeros(1, 11, dtype=torch.float64)
    found = profile(model, x, top=1)
    assert torch.allclose(found.average, torch.tensor([1.0, -0.5], dtype=torch.float64), atol=1e-6)
    assert not found.complete
    assert bool(found.small.isnan().all())
    assert bool(found.positive.isnan().all())
    with pytest.raises(UsageError, match="3072"):
        profile(model, torch.zeros(1, 4000, dtype=torch.float64), top="full")


def test_profile_of_a_linear_model_is_zero():
    found = profile(linear_module(5), drawn(2, 5))
    assert bool((found.average == 0).all())
    assert bool(found.small.isnan().all())


# Shared directions.


def test_shared_directions_find_the_curved_ones():
    model, x = ridge(20, 3)
    shared = shared_directions(model, x, per_point=3)
    curved = torch.eye(20, dtype=torch.float64)[1:4]
    assert overlap(shared.directions[:3], curved)[0] > 0.9
    # The same three at every point: the first singular values are near the root of the number of points.
    assert bool((shared.singular_values[:3] > 0.85 * math.sqrt(12)).all())
    assert float(shared.singular_values[3]) < 0.5 * float(shared.singular_values[2])


def test_shared_directions_generalise_and_flat_ones_are_flat():
    model, x = ridge(20, 3)
    shared = shared_directions(model, x, per_point=3)
    unseen = 0.3 * drawn(8, 20, seed=9)
    found = shared.relative_curvature(model, unseen, directions=3)
    assert bool((found.low > 2).all())
    flat = relative_curvature(model, unseen, torch.eye(20, dtype=torch.float64)[-4:])
    assert bool((flat.mean < 0.2).all())
    assert bool((found.ratio.isfinite()).all())


def test_relative_curvature_is_the_ratio_it_says():
    bends, size = [1.0, -0.5, 0.0, 0.25], 5
    model, x = paraboloid(1.0, bends), torch.zeros(1, size, dtype=torch.float64)
    found = relative_curvature(model, x, torch.eye(size, dtype=torch.float64), probes=20_000)
    spread = drawn(200_000, size, seed=4)
    spread = spread / spread.norm(dim=1, keepdim=True)
    random = (spread[:, 1:].square() @ torch.tensor(bends, dtype=torch.float64)).abs().mean()
    expected = torch.tensor([0.0, *bends], dtype=torch.float64).abs() / random
    assert torch.allclose(found.ratio[0], expected, rtol=0.03, atol=1e-6)
    assert float(found.random) == pytest.approx(float(random), rel=0.03)
    at_scale = relative_curvature(model, x, torch.eye(size, dtype=torch.float64), probes=200, estimator="difference")
    exact = relative_curvature(model, x, torch.eye(size, dtype=torch.float64), probes=200)
    assert torch.allclose(at_scale.ratio, exact.ratio, rtol=1e-4, atol=1e-6)
    framed = relative_curvature(
        model, x, torch.eye(size, dtype=torch.float64), probes=200, estimator="frames", scale=3.0
    )
    assert torch.allclose(framed.ratio, exact.ratio, rtol=1e-6, atol=1e-6)  # one frame is exact for a quadratic F
    assert (framed.estimator, at_scale.estimator, exact.estimator) == ("frames", "difference", "exact")
    assert float(at_scale.scale) > 0
    assert float(exact.scale) == 0


def test_relative_curvature_of_a_linear_model_is_unknown():
    found = relative_curvature(linear_module(4), drawn(2, 4), torch.eye(4, dtype=torch.float64), probes=5)
    assert bool(found.ratio.isnan().all())
    with pytest.raises(UsageError):
        relative_curvature(linear_module(4), drawn(2, 4), torch.eye(3, dtype=torch.float64))


def test_gradient_subspace_of_a_linear_model_is_its_normal():
    model = linear_module(6)
    normal = (model.weight[1] - model.weight[0]).detach()
    found = gradient_subspace(model, drawn(4, 6))
    assert found.shape == (1, 6)
    assert abs(float(found[0] @ normal / normal.norm())) == pytest.approx(1.0, abs=1e-9)


def test_subspaces_are_of_one_dimension_and_limited():
    model, x = ridge(20, 3)
    shared = shared_directions(model, x, per_point=3)
    parts = shared.subspaces(3)
    assert {name: tuple(rows.shape) for name, rows in parts.items()} == dict.fromkeys(
        ("curved", "flat", "gradient"), (3, 20)
    )
    assert overlap(parts["curved"], parts["flat"])[0] < 1e-6
    with pytest.raises(UsageError, match="at most"):
        shared.subspaces(15)
    with pytest.raises(UsageError):
        shared_directions(model, x, per_point=0)
    with pytest.raises(UsageError, match="boundary point"):
        shared_directions(pair_of(lambda z: -1 - 0 * z[:, 0]), x)


def test_no_point_may_give_all_its_directions():
    shared = shared_directions(ball(2.0), 0.5 * drawn(6, 4), per_point=50)
    assert shared.per_point == 1


# Noise in subspaces.


def test_noise_flips_exactly_what_geometry_says():
    # A half-space at distance 1 along the first axis: noise of length L in a subspace that holds the axis with m
    # directions crosses when its first coordinate exceeds 1, which is a Beta probability.
    from scipy.stats import beta

    x = torch.zeros(1, 6, dtype=torch.float64)
    axes = torch.eye(6, dtype=torch.float64)
    parts = {"with": axes[:3], "without": axes[3:]}
    model = half_space(axes[0], 1.0)
    found = subspace_noise(model, x, parts, [0.5, 1.5, 3.0], draws=20_000, relative=False)
    for name, m in (("with", 3), ("full", 6)):
        row = found.names.index(name)
        for column, size in enumerate((0.5, 1.5, 3.0)):
            exact = float(beta.sf(min(1.0, 1 / size**2), 0.5, (m - 1) / 2)) / 2
            assert abs(float(found.rate[row, column]) - exact) <= ALARM * math.sqrt(exact * (1 - exact) / 20_000)
    assert bool((found.rate[found.names.index("without")] == 0).all())
    assert bool((found.high[found.names.index("without")] > 0).all())
    assert found.dimensions.tolist() == [3, 3, 3, 6]


def test_noise_is_relative_to_the_input():
    model = half_space(torch.tensor([1.0, 0.0]), 1.0)
    x = torch.tensor([[0.0, 4.0]], dtype=torch.float64)
    line = {"line": torch.tensor([[1.0, 0.0]])}
    rates = subspace_noise(model, x, line, [0.2, 0.3], draws=2000).rate[0]
    assert float(rates[0]) == 0  # 0.8 does not reach the boundary at 1
    assert abs(float(rates[1]) - 0.5) < ALARM * 0.5 / math.sqrt(2000)  # 1.2 does, in one of two directions


def test_interval_of_repeated_draws_knows_that_inputs_differ():
    # Half of the inputs always change and half never: a thousand draws per input tell no more than the inputs do.
    model = pair_of(lambda x: x[:, 0].abs() - 1)
    x = torch.zeros(20, 2, dtype=torch.float64)
    x[:10, 0] = 0.95
    found = subspace_noise(model, x, {"line": torch.tensor([[1.0, 0.0]])}, [0.1], draws=1000, relative=False)
    assert abs(float(found.rate[0, 0]) - 0.25) < 0.01
    assert float(found.high[0, 0] - found.low[0, 0]) > 0.15


def test_curved_against_flat_and_gradient():
    # Curvature towards the input in three directions; the normal is the first axis for all, up to that curvature.
    model = pair_of(lambda x: x[:, 0] - 1 + 2 * x[:, 1:4].square().sum(1))
    x = 0.1 * drawn(200, 30)
    shared = shared_directions(model, x[:40], per_point=3)
    found = subspace_noise(model, x[40:], shared, [1.0, 2.0], dimension=2, draws=5)
    assert found.names == ("curved", "flat", "gradient", "random", "full")
    change, low, high = found.difference("curved", "flat")
    assert bool((low > 0).all())
    assert bool(((low < change) & (change < high)).all())
    back, _, _ = found.difference("flat", "curved")
    assert torch.equal(back, -change)
    place = [found.names.index(name) for name in ("curved", "flat", "gradient")]
    assert float(found.overlap[place[0], place[0]]) == pytest.approx(1.0)
    assert float(found.overlap[place[0], place[1]]) < 1e-9
    assert float(found.chance[place[0], place[2]]) == pytest.approx(2 / 30)
    assert float(found.overlap[place[0], place[2]]) == float(found.overlap[place[2], place[0]])
    with pytest.raises(UsageError):
        found.difference("curved", "nowhere")


def test_difference_of_equal_subspaces_covers_zero():
    axes = torch.eye(4, dtype=torch.float64)
    model = half_space(axes[0], 0.5)
    parts = {"one": axes[:2], "other": axes[:2].flip(0)}
    found = subspace_noise(
        model, torch.zeros(50, 4, dtype=torch.float64) + 0.01 * drawn(50, 4), parts, [1.0], relative=False
    )
    _, low, high = found.difference("one", "other")
    assert bool((low <= 0) & (high >= 0))


def test_noise_belongs_to_the_input():
    model, x = half_space(torch.tensor([1.0, 0.0, 0.0]), 0.8), drawn(6, 3)
    parts = {"plane": torch.eye(3)[:2]}
    together = subspace_noise(model, x, parts, [0.5, 1.0], draws=40)
    alone = [subspace_noise(model, row[None], parts, [0.5, 1.0], draws=40).per_input for row in x]
    assert torch.equal(together.per_input, torch.cat(alone, 2))


@pytest.mark.parametrize(
    ("parts", "sizes", "draws"),
    [({}, [0.1], 1), ({"a": torch.eye(2)}, [0.1], 1), ({"a": torch.eye(3)}, [], 1), ({"a": torch.eye(3)}, [-0.1], 1)],
)
def test_noise_refused(parts: dict, sizes: list, draws: int):
    with pytest.raises(UsageError):
        subspace_noise(ball(1.0), drawn(2, 3), parts, sizes, draws=draws)


# Random subspaces.


@pytest.mark.parametrize(("size", "dimension"), [(784, 25), (30, 4), (10, 10), (8, 5)])
def test_flat_law_is_the_mean_of_the_beta_law(size: int, dimension: int):
    from scipy.stats import beta

    if dimension == size:
        assert flat_law(size, dimension) == 1
        return
    law = beta(dimension / 2, (size - dimension) / 2)
    mean = law.expect(lambda share: math.sqrt(dimension / size / share))
    assert flat_law(size, dimension) == pytest.approx(mean, rel=1e-6)


def test_semi_random_of_a_linear_model_follows_the_law():
    model, x = linear_module(40, seed=2), drawn(150, 40, seed=3)
    found = semi_random(model, x, [8, 20, 40], draws=2)
    weight = (model.weight[1] - model.weight[0]).detach()
    exact = model(x).diff(dim=1).abs()[:, 0].detach() / weight.norm()
    assert torch.allclose(found.distance, exact, rtol=1e-9)
    spread = found.beta.mean(1).std(1) / math.sqrt(len(x))
    assert bool(((found.mean - found.expected).abs() <= ALARM * spread + 1e-9).all())
    assert bool((found.found == 1).all())
    assert bool((found.restricted >= found.distance - 1e-9).all())
    assert torch.allclose(found.restricted[2], found.distance.expand(2, -1), rtol=1e-9)


def test_semi_random_says_where_a_subspace_holds_no_boundary():
    # From outside a ball most lines miss it.
    x = torch.zeros(40, 3, dtype=torch.float64)
    x[:, 0] = 2.0 + 0.01 * drawn(40)
    found = semi_random(ball(1.0), x, [1, 3])
    assert 0 < float(found.found[0]) < 0.5
    assert float(found.found[1]) == 1
    assert math.isinf(float(found.expected[0]))
    hit = found.restricted[0, 0].isfinite()
    assert bool((found.restricted[0, 0][hit] >= found.distance[hit] - 1e-9).all())
    assert torch.allclose(found.distance, x[:, 0] - 1, atol=1e-6)


def test_distance_within_is_the_nearest_point_of_the_section():
    # The section of a ball of radius 2 by the plane through (0, 1, 0) parallel to the axes 0 and 2: a disc of radius
    # sqrt(3), and the input is off its centre.
    x = torch.tensor([[0.6, 1.0, 0.0]], dtype=torch.float64)
    axes = torch.eye(3, dtype=torch.float64)
    found = distance_within(ball(2.0), x, axes[[0, 2]])
    assert float(found) == pytest.approx(math.sqrt(3) - 0.6, abs=1e-6)
    assert float(distance_within(half_space(axes[0], 2.0), x, axes[1:])) != float(found)
    assert bool(distance_within(half_space(axes[0], 2.0), x, axes[1:]).isnan())


def test_full_space_search_agrees_with_boundary_points():
    bends = [0.5, -1.0, 0.2, -0.3, 0.0]
    model, x = paraboloid(1.0, bends), 0.3 * drawn(20, 6)
    found, reference = semi_random(model, x, [6]).distance, boundary_point(model, x, bounds=None).distance
    assert torch.allclose(found, reference, rtol=2e-3)


def test_semi_random_belongs_to_the_input():
    model, x = ball(2.0), 0.4 * drawn(5, 6)
    together = semi_random(model, x, [2], draws=2)
    alone = [semi_random(model, row[None], [2], draws=2).restricted for row in x]
    assert torch.allclose(together.restricted, torch.cat(alone, 2), rtol=1e-9, equal_nan=True)


@pytest.mark.parametrize(("dimensions", "draws"), [([], 1), ([0], 1), ([7], 1), ([2], 0)])
def test_semi_random_refused(dimensions: list, draws: int):
    with pytest.raises(UsageError):
        semi_random(ball(2.0), drawn(2, 6), dimensions, draws=draws)


def test_one_dimension():
    model, x = half_space(torch.tensor([1.0]), 1.0), torch.tensor([[0.25]], dtype=torch.float64)
    found = semi_random(model, x, [1])
    assert float(found.mean) == pytest.approx(1.0)
    noisy = subspace_noise(model, x, {"all": torch.ones(1, 1)}, [1.0], draws=400, relative=False)
    assert abs(float(noisy.rate[0, 0]) - 0.5) < ALARM * 0.5 / 20


# Asymmetry and its control.


def test_first_crossing_is_on_the_boundary_and_first():
    model = pair_of(lambda x: torch.cos(x[:, 0]))  # class 0 between pi / 2 and 3 pi / 2, and so on
    x = torch.tensor([[3.0, 0.0], [3.0, 0.0]], dtype=torch.float64)
    end = torch.tensor([[20.0, 0.0], [3.5, 1.0]], dtype=torch.float64)
    found = first_crossing(model, x, end)
    assert found.found.tolist() == [True, False]
    assert float(found.point[0, 0]) == pytest.approx(1.5 * math.pi, abs=1e-9)
    assert float(found.residual[0]) < 1e-9
    assert float(found.cosine[0]) == pytest.approx(1.0)
    assert bool(found.distance[1].isnan())


def test_mean_curvature_depends_on_where_the_boundary_is_met():
    # F = x_0 - 1 - x_1^2 / 2 (1 - x_1^2): bends away from the origin at the vertex and towards it further out.
    model = pair_of(lambda x: x[:, 0] - 1 - 0.5 * x[:, 1].square() * (1 - x[:, 1].square()))
    generator = torch.Generator().manual_seed(0)
    inside = 0.05 * torch.randn(
        30, 2, generator=generator, dtype=torch.float64
    )  # nearer to the vertex than to the rest
    outside = torch.tensor([3.0, 0.0]) + 0.2 * torch.randn(30, 2, generator=generator, dtype=torch.float64)
    found = asymmetry(model, torch.cat([inside, outside]), reach=20.0)
    assert set(found.rows()) == {"nearest", "between", "random"}
    points = found.between
    assert points.count == 60
    assert float(points.points.residual.max()) < 1e-9
    exact = curvature(model, points.points, top="full")
    assert torch.allclose(points.mean, exact.mean, atol=1e-6, equal_nan=True)
    assert points.low <= points.average <= points.high
    assert points.negative_low <= points.negative <= points.negative_high
    own = found.nearest.mean[:30]
    assert float((own < 0).double().mean()) == 1.0  # bends away from all inputs near the origin
    assert float((found.random.mean[:30] > 0).double().mean()) > 0.2  # but not where chance meets it


def test_asymmetry_needs_two_classes():
    with pytest.raises(UsageError, match="one predicted class"):
        asymmetry(ball(5.0), 0.1 * drawn(4, 3))
    with pytest.raises(UsageError):
        asymmetry(ball(1.0), drawn(4, 3), reach=0.0)
