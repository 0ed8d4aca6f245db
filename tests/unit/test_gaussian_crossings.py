"""Kinks of thresholds along Gaussian paths: known values, simulated paths, quadrature by other means."""

from __future__ import annotations

import math

import mpmath
import pytest
import torch
from tests.support.smoothness_prediction import gaussian_paths, series_covariance, slope_variance, threshold_smp

from assay.errors import NumericalError, UsageError
from assay.gaussian import (
    ABSOLUTE,
    HARDTANH,
    RELU,
    RELU6,
    added_smp,
    equal_maximum_smp,
    folded_mean,
    inherited_maximum_smp,
    inherited_smp,
    jump_distribution,
    largest_of_normals,
    leaky_relu,
    moving_threshold_kinks,
    piecewise_linear_kinks,
    threshold_kinks,
    threshold_smp_variance,
)

PATHS, LENGTH = 4000, 20.0


def smooth(tau):
    return torch.exp(-0.5 * tau * tau)


def test_known_values():
    assert float(threshold_kinks(0.0, 1.0, 1.0).smp) == pytest.approx(0.398942, abs=1e-6)
    assert float(threshold_kinks(1.0, 1.0, 1.0).smp) == pytest.approx(0.241971, abs=1e-6)
    assert float(threshold_kinks(0.0, 1.0, 1.0).rate) == pytest.approx(0.318310, abs=1e-6)
    assert float(threshold_kinks(0.0, 2.0, 4.0).smp) == pytest.approx(3.191538, abs=1e-6)


def test_a_factor_and_the_unit_of_time_scale_as_they_must():
    mean, std, slope_std = torch.tensor([0.3, -1.0]), torch.tensor([1.0, 2.0]), torch.tensor([0.5, 3.0])
    law = threshold_kinks(mean, std, slope_std, level=0.2, change=-0.7)
    scaled = threshold_kinks(3 * mean, 3 * std, 3 * slope_std, level=0.6, change=-0.7)
    faster = threshold_kinks(mean, std, 2 * slope_std, level=0.2, change=-0.7)
    torch.testing.assert_close(scaled.rate, law.rate)
    torch.testing.assert_close(scaled.smp, 3 * law.smp)
    torch.testing.assert_close(scaled.energy, 9 * law.energy)
    torch.testing.assert_close(faster.smp, 4 * law.smp)  # sizes twice as large, twice as many
    # sizes are Rayleigh: the mean size is the scale times sqrt(pi/2), the mean square twice its square
    scale = 0.7 * slope_std
    torch.testing.assert_close(law.smp / law.rate, scale * math.sqrt(math.pi / 2))
    torch.testing.assert_close(law.energy / law.rate, 2 * scale.square())


def test_a_unit_that_never_moves_has_no_kinks():
    law = threshold_kinks(torch.tensor([0.0, 1.0]), torch.zeros(2), torch.zeros(2))
    assert [float(value.abs().max()) for value in law] == [0.0, 0.0, 0.0]


def test_knots_add_up():
    both = threshold_kinks(0.4, 1.2, 0.9).smp + threshold_kinks(0.4, 1.2, 0.9, level=6.0).smp
    assert float(piecewise_linear_kinks(0.4, 1.2, 0.9, RELU6).smp) == pytest.approx(float(both), rel=1e-12)
    leaky = piecewise_linear_kinks(0.4, 1.2, 0.9, leaky_relu(-0.3)).smp
    assert float(leaky) == pytest.approx(1.3 * float(threshold_kinks(0.4, 1.2, 0.9).smp), rel=1e-12)
    assert float(piecewise_linear_kinks(0.0, 1.0, 1.0, ABSOLUTE).smp) == pytest.approx(math.sqrt(2 / math.pi))


@pytest.mark.parametrize(("mean", "sd"), [(0.0, 2.83351), (0.5, None), (1.0, 2.95181), (2.0, None)])
def test_mean_and_deviation_of_simulated_paths(mean, sd):
    """4,000 paths: three standard errors of the mean are met by 99.7 % of seeds; sd within 4 % is 3.5 of its errors."""
    step = 0.025
    z, slope = gaussian_paths(
        torch.arange(0, LENGTH + step / 2, step, dtype=torch.float64), (PATHS,), seed=int(mean * 10)
    )
    smp, count, sizes = threshold_smp(z + mean, slope)
    law = threshold_kinks(mean, 1.0, math.sqrt(slope_variance()))
    assert abs(smp.mean() - LENGTH * law.smp) < 3 * smp.std() / PATHS**0.5
    assert abs(count.mean() - LENGTH * law.rate) < 4 * count.std() / PATHS**0.5
    variance = threshold_smp_variance(LENGTH, mean, series_covariance)
    assert float(smp.std() / variance.sqrt()) == pytest.approx(1, abs=0.04)
    if sd is not None:
        assert math.sqrt(float(variance)) == pytest.approx(sd, rel=1e-4)
    if mean == 0:
        picked = sizes[torch.randperm(len(sizes), generator=torch.Generator().manual_seed(1))[:6000]].sort().values
        claimed = jump_distribution(picked, 1.0)
        places = torch.arange(1, len(picked) + 1, dtype=torch.float64) / len(picked)
        distance = torch.maximum((places - claimed).abs(), (places - 1 / len(picked) - claimed).abs()).max()
        assert float(distance) < 1.63 / math.sqrt(len(picked))


@pytest.mark.parametrize(("duration", "mean"), [(20, 0), (20, 1), (100, 0), (0.5, 0.3)])
def test_variance_against_high_precision(duration, mean):
    with mpmath.workdps(40):
        r = lambda t: mpmath.exp(-t * t / 2)  # noqa: E731
        density = mpmath.exp(-(mpmath.mpf(mean) ** 2) / 2) / mpmath.sqrt(2 * mpmath.pi)

        def pairs(t):
            value, first, second = r(t), -t * r(t), (t * t - 1) * r(t)
            rest = 1 - value**2
            own, joint = 1 - first**2 / rest, -second - value * first**2 / rest
            lean = first * mean / (1 + value)
            height = mpmath.exp(-mean * mean / (1 + value)) / (2 * mpmath.pi * mpmath.sqrt(rest))
            moment = own**2 + 2 * joint**2 + 2 * lean**2 * own - 4 * lean**2 * joint + lean**4
            return (duration - t) * (height * moment - density**2)

        cuts = [c for c in (0, 0.1, 0.5, 1, 2, 4, 8) if c < duration] + [duration]
        truth = duration * density * 2 * mpmath.sqrt(2 / mpmath.pi)
        truth += 2 * mpmath.quad(pairs, cuts, method="gauss-legendre")
    found = threshold_smp_variance(float(duration), float(mean), smooth)
    assert float(found) == pytest.approx(float(mpmath.mpf(truth)), rel=1e-7)


def test_variance_takes_derivatives_scales_and_adds_levels():
    plain = threshold_smp_variance(7.0, 0.4, smooth)
    given = threshold_smp_variance(
        7.0, 0.4, smooth, slopes=(lambda t: -t * smooth(t), lambda t: (t * t - 1) * smooth(t))
    )
    assert float(given) == pytest.approx(float(plain), rel=1e-9)
    # three times the signal at half the speed, sizes halved by the factor of the kink
    slow = threshold_smp_variance(14.0, 1.2, lambda t: 9 * smooth(t / 2), changes=(0.5,))
    assert float(slow) == pytest.approx(float(plain) * (3 / 2 / 2) ** 2, rel=1e-7)


def test_variance_of_a_function_with_two_knots_against_paths():
    step = 0.025
    z, slope = gaussian_paths(torch.arange(0, LENGTH + step / 2, step, dtype=torch.float64), (PATHS,), seed=3)
    smp = threshold_smp(z, slope, -1.0)[0] + threshold_smp(z, slope, 1.0)[0]
    variance = threshold_smp_variance(LENGTH, 0.0, series_covariance, levels=HARDTANH.knots, changes=(1.0, -1.0))
    assert float(smp.std() / variance.sqrt()) == pytest.approx(1, abs=0.04)
    assert abs(smp.mean() - LENGTH * piecewise_linear_kinks(0.0, 1.0, 1.0, HARDTANH).smp) < 4 * smp.std() / PATHS**0.5


def test_a_path_that_is_not_stationary():
    """z(t) = 0.5 - 0.8 t + (1 + t/2) x(t), by quadrature over t, against 4,000 paths (4 standard errors)."""
    step = 0.005
    t = torch.arange(0, 2 + step / 2, step, dtype=torch.float64)
    x, slope = gaussian_paths(t, (PATHS,), seed=8)
    grow = (1 + t / 2).unsqueeze(1)
    z, moving = 0.5 - 0.8 * t.unsqueeze(1) + grow * x, -0.8 + 0.5 * x + grow * slope
    smp, count, _ = threshold_smp(z, moving, 0.25)
    scale = grow[:, 0]
    law = moving_threshold_kinks(
        0.5 - 0.8 * t, scale, -0.8, (0.25 + scale**2).sqrt(), 0.5 * scale, level=0.25, change=-2.0
    )
    for drawn, density in ((2 * smp, law.smp), (count, law.rate)):
        assert abs(drawn.mean() - torch.trapezoid(density, t)) < 4 * drawn.std() / PATHS**0.5


def test_the_stationary_case_of_the_moving_form():
    moving = moving_threshold_kinks(0.3, 1.5, 0.0, 0.7, 0.0, level=-0.2, change=0.4)
    for one, two in zip(moving, threshold_kinks(0.3, 1.5, 0.7, level=-0.2, change=0.4), strict=True):
        torch.testing.assert_close(one, two)


def test_folded_mean_against_quadrature():
    for mean, std in ((0.0, 1.0), (1.3, 0.4), (-0.2, 2.0)):
        truth = mpmath.quad(lambda x, m=mean, s=std: abs(x) * mpmath.npdf(x, m, s), [-20, 0, 20])
        assert float(folded_mean(mean, std)) == pytest.approx(float(mpmath.mpf(truth)), rel=1e-9)


def test_largest_of_normals_against_known_values_and_quadrature():
    known = {2: 1 / math.sqrt(math.pi), 3: 1.5 / math.sqrt(math.pi), 4: 1.029375, 9: 1.485013}
    for count, value in known.items():
        assert largest_of_normals(count) == pytest.approx(value, abs=1e-6)
    for count, value in {1: 1 / math.sqrt(2 * math.pi), 2: 0.681037, 4: 1.045756, 9: 1.485261}.items():
        assert largest_of_normals(count, rectified=True) == pytest.approx(value, abs=1e-6)
    truth = mpmath.quad(lambda x: x * 25 * mpmath.npdf(x) * mpmath.ncdf(x) ** 24, [-10, -2, 0, 2, 4, 12])
    assert largest_of_normals(25) == pytest.approx(float(mpmath.mpf(truth)), rel=1e-10)
    assert float(equal_maximum_smp(4, 1.0, 1.0, correlation=0.6)) == pytest.approx(0.651034, abs=1e-6)
    assert float(equal_maximum_smp(3, 2.0, 3.0)) == pytest.approx(4.5 * known[3], rel=1e-12)


def test_inherited_kinks():
    assert float(inherited_smp(2.0, 0.5, 1.0, RELU)) == pytest.approx(2 * 0.6914624612740131)
    passed = float(inherited_smp(1.0, 0.0, 1.0, HARDTANH))
    assert passed == pytest.approx(0.6826894921370859)
    assert float(inherited_smp(1.0, -0.3, 0.7, leaky_relu(-1.0))) == pytest.approx(1.0)
    smp, winning = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0.5, 0.25, 0.25])
    assert float(inherited_maximum_smp(smp, winning)) == 2.0


def test_adding_is_exact_for_distinct_sources_and_a_bound_for_shared_ones():
    t = torch.linspace(0, 50, 20001, dtype=torch.float64)
    z, slope = gaussian_paths(t, (6,), seed=2)
    weight = torch.tensor([[0.5, -1.0, 2.0, 0.1, -0.3, 1.0]], dtype=torch.float64)
    own = threshold_smp(z, slope)[0]
    crossed = (z[:-1] > 0) != (z[1:] > 0)
    speed = (slope[:-1] + slope[1:]).abs() / 2
    jumps = (crossed * speed) @ weight.T  # of the weighted sum of relus
    assert float(added_smp(weight, own)) == pytest.approx(float(jumps.abs().sum()), rel=0.02)
    # two outputs of the same six units, added with opposite signs: kinks cancel
    shared = torch.stack([jumps[:, 0], -0.9 * jumps[:, 0]]).sum(0).abs().sum()
    bound = added_smp(
        torch.ones(1, 2, dtype=torch.float64), torch.stack([own @ weight[0].abs()] * 2) * torch.tensor([1, 0.9])
    )
    assert float(shared) < 0.2 * float(bound)


def test_impossible_arguments_are_refused():
    for call in (
        lambda: threshold_kinks(0.0, -1.0, 1.0),
        lambda: threshold_kinks(0.0, 1.0, -1.0),
        lambda: moving_threshold_kinks(0.0, 1.0, 0.0, 1.0, 2.0),
        lambda: jump_distribution(1.0, 0.0),
        lambda: largest_of_normals(0),
        lambda: equal_maximum_smp(2, 1.0, 1.0, correlation=-0.5),
        lambda: equal_maximum_smp(2, 1.0, 1.0, correlation=0.5, rectified=True),
        lambda: threshold_smp_variance(0.0, 0.0, smooth),
        lambda: threshold_smp_variance(1.0, 0.0, lambda t: torch.ones_like(t) + 0 * t * t),
        lambda: threshold_smp_variance(1.0, 0.0, smooth, levels=(0.0, 1.0)),
    ):
        with pytest.raises(UsageError):
            call()
    rough = (lambda t: -t * smooth(t), lambda t: (t * t - 1) * smooth(t) + 0.3 * torch.sin(1e7 * t))
    with pytest.raises(NumericalError):
        threshold_smp_variance(1.0, 0.0, smooth, slopes=rough)
