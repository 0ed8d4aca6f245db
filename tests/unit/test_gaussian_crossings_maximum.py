"""Kinks of the largest of several Gaussian paths: known values, two independent formulas, simulated paths."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from tests.support.smoothness_prediction import gaussian_paths, maximum_smp, series_covariance

from assay.errors import UsageError
from assay.gaussian import (
    maximum_kinks,
    maximum_law,
    maximum_smp_by_curvature,
    maximum_smp_variance,
    threshold_kinks,
    threshold_smp_variance,
)
from assay.gaussian.ties import all_negative

PATHS, LENGTH = 2000, 20.0


def eye(count):
    return torch.eye(count, dtype=torch.float64)


def zeros(*shape):
    return torch.zeros(*shape, dtype=torch.float64)


def random_law(count, seed):
    generator = torch.Generator().manual_seed(seed)
    roots = torch.randn((2, count, count), generator=generator, dtype=torch.float64) / count**0.5
    return 0.4 * torch.randn(count, generator=generator, dtype=torch.float64), *(root @ root.T for root in roots)


@pytest.mark.parametrize(("count", "plain", "rectified"), [
    (2, 0.564190, 0.681037), (3, 0.846284, None), (4, 1.029375, 1.045756), (9, 1.485013, 1.485261), (14, 1.703382, None)
])  # fmt: skip
def test_independent_paths(count, plain, rectified):
    law, error = maximum_kinks(zeros(count), eye(count), eye(count))
    assert float(law.smp) == pytest.approx(plain, abs=1e-6 if count <= 4 else 4 * float(error) + 1e-3)
    assert float(error) == 0 if count <= 4 else float(error) < 0.003
    if rectified is not None:
        law, error = maximum_kinks(zeros(count), eye(count), eye(count), floor=0.0)
        assert float(law.smp) == pytest.approx(rectified, abs=1e-6 if count <= 4 else 4 * float(error) + 1e-3)


def test_equicorrelated_paths():
    matrix = 0.6 + 0.4 * eye(4)
    assert float(maximum_kinks(zeros(4), matrix, matrix)[0].smp) == pytest.approx(0.651034, abs=1e-6)


@pytest.mark.parametrize(("count", "floor"), [(3, None), (5, 0.3), (4, -0.2), (7, None)])
def test_two_formulas_agree(count, floor):
    """Ties in pairs against conservation of curvature: seven errors of eight replicates (by chance 2 in 10^4)."""
    mean, values, slopes = random_law(count, 10 + count)
    law, error = maximum_kinks(mean, values, slopes, floor=floor)
    other, doubt = maximum_smp_by_curvature(mean[None], values[None], slopes[None], floor=floor, points=1 << 13)
    assert abs(float(law.smp - other)) < 7 * float(error + doubt) + 1e-9


def test_one_path_above_a_floor_is_a_threshold():
    law, _ = maximum_kinks(torch.tensor([0.4]), torch.tensor([[2.0]]), torch.tensor([[3.0]]), floor=0.1)
    for one, two in zip(law, threshold_kinks(0.4, 2**0.5, 3**0.5, level=0.1), strict=True):
        assert float(one) == pytest.approx(float(two), rel=1e-6)


def test_levels_split_the_ties_and_batches_equal_single_windows():
    laws = [random_law(4, seed) for seed in range(3)]
    mean, values, slopes = (torch.stack(parts) for parts in zip(*laws, strict=True))
    together = maximum_law(mean, values, slopes, (-0.2, 0.5))
    whole = maximum_law(mean, values, slopes)
    torch.testing.assert_close(sum(part.smp for part in together.ties), whole.ties[0].smp, rtol=1e-3, atol=1e-6)
    for n, law in enumerate(laws):
        single = maximum_law(law[0], law[1], law[2], (-0.2, 0.5))
        for one, two in zip((*single.ties, *single.crossings), (*together.ties, *together.crossings), strict=True):
            torch.testing.assert_close(one.smp, two.smp[n])


def test_a_path_that_is_always_below_changes_nothing():
    mean, values, slopes = random_law(3, 5)
    padded = torch.nn.functional.pad
    law = maximum_kinks(mean, values, slopes)[0]
    wide = maximum_kinks(
        torch.cat([mean, mean.new_tensor([-1e3])]), padded(values, (0, 1, 0, 1)), padded(slopes, (0, 1, 0, 1))
    )
    assert float(wide[0].smp) == pytest.approx(float(law.smp), rel=1e-9)


def test_a_path_given_twice_changes_nothing():
    mean, values, slopes = random_law(3, 6)
    twice = [0, 1, 2, 2]
    wide = maximum_kinks(mean[twice], values[twice][:, twice], slopes[twice][:, twice])[0]
    assert float(wide.smp) == pytest.approx(float(maximum_kinks(mean, values, slopes)[0].smp), rel=1e-7)


def test_probabilities_that_all_are_negative():
    matrix = 0.5 + 0.5 * eye(5)
    assert float(all_negative(zeros(1, 5), matrix[None]).mean()) == pytest.approx(1 / 6, abs=2e-3)
    singular = torch.ones(1, 4, 4, dtype=torch.float64)
    assert float(all_negative(zeros(1, 4), singular).mean()) == pytest.approx(0.5, abs=1e-3)
    mean, values, _ = random_law(4, 3)
    draws = torch.distributions.MultivariateNormal(mean, values).sample((400_000,))
    share = float((draws < 0).all(1).double().mean())
    assert float(all_negative(mean[None], values[None]).mean()) == pytest.approx(share, abs=5 * math.sqrt(0.25 / 4e5))


@pytest.mark.parametrize(
    ("count", "floor", "correlation"), [(2, None, 0.0), (4, None, 0.0), (4, 0.0, 0.0), (4, None, 0.6), (9, None, 0.0)]
)
def test_mean_and_deviation_of_simulated_windows(count, floor, correlation):
    """2,000 paths: mean within 2 % and 4 standard errors, deviation within 4 % (2.5 of its errors; seeds are fixed)."""
    step = 0.04
    t = torch.arange(0, LENGTH + step / 2, step, dtype=torch.float64)
    z, slope = gaussian_paths(t, (PATHS, count + 1), seed=count)
    mix = lambda v: math.sqrt(1 - correlation) * v[..., 1:] + math.sqrt(correlation) * v[..., :1]  # noqa: E731
    smp = maximum_smp(mix(z), mix(slope), floor)
    matrix = correlation + (1 - correlation) * eye(count)
    law, error = maximum_kinks(zeros(count), matrix, matrix, floor=floor)
    found = smp.mean() - LENGTH * law.smp
    assert abs(found) < 4 * (smp.std() / PATHS**0.5 + LENGTH * error)
    assert abs(found) < 0.02 * smp.mean()
    variance = maximum_smp_variance(
        LENGTH, zeros(count), lambda tau: series_covariance(tau)[:, None, None] * matrix, floor=floor, points=256
    )
    assert float(smp.std() / variance.value.sqrt()) == pytest.approx(1, abs=0.04)


@pytest.mark.parametrize("offset", [0.3, 0.8, 1.5])
def test_a_field_that_moves_under_the_window(offset):
    """Windows of four neighbours of g(p - t): one path read at four places, so slopes are correlated."""
    step = 0.01
    places = offset * torch.arange(4, dtype=torch.float64)
    t = torch.arange(0, LENGTH + step / 2, step, dtype=torch.float64)
    parts = [gaussian_paths(t - place, (400,), seed=1) for place in places]
    z, slope = (torch.stack(part, -1) for part in zip(*parts, strict=True))
    smp = maximum_smp(z, slope)

    def covariance(tau):
        return series_covariance(tau[:, None, None] - (places[None, :] - places[:, None]))

    gaps = places.unsqueeze(1) - places
    values = series_covariance(gaps)
    small = 1e-3
    slopes = (2 * values - series_covariance(gaps + small) - series_covariance(gaps - small)) / small**2
    law, _ = maximum_kinks(zeros(4), values, slopes)
    assert abs(smp.mean() - LENGTH * law.smp) < 4 * smp.std() / 20
    variance = maximum_smp_variance(LENGTH, zeros(4), covariance, points=256)
    # 400 paths know a deviation to 3.5 %: four of that
    assert float(smp.std() / variance.value.sqrt()) == pytest.approx(1, abs=0.14)


def test_variance_of_one_path_above_a_floor_has_a_closed_form():
    for mean in (0.0, 1.0):
        found = maximum_smp_variance(
            LENGTH, torch.tensor([mean]), lambda tau: torch.exp(-0.5 * tau * tau)[:, None, None], floor=0.0
        )
        truth = threshold_smp_variance(LENGTH, mean, lambda tau: torch.exp(-0.5 * tau * tau))
        assert float(found.value) == pytest.approx(float(truth), rel=0.02)


def test_order_of_the_paths_does_not_matter():
    mean, values, slopes = random_law(4, 9)
    first = float(maximum_kinks(mean, values, slopes)[0].smp)
    for order in itertools.islice(itertools.permutations(range(4)), 5, 8):
        turned = list(order)
        again = maximum_kinks(mean[turned], values[turned][:, turned], slopes[turned][:, turned])[0]
        assert float(again.smp) == pytest.approx(first, rel=1e-9)


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(UsageError):
        maximum_kinks(zeros(3), eye(4), eye(4))
    with pytest.raises(UsageError):
        maximum_smp_variance(0.0, zeros(2), lambda tau: torch.exp(-tau * tau)[:, None, None] * eye(2))
    with pytest.raises(UsageError):
        maximum_smp_variance(1.0, zeros(3), lambda tau: torch.exp(-tau * tau)[:, None, None] * eye(2))
