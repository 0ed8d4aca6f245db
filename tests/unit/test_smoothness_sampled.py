"""Kinks from samples: definitions by hand, invariances, the known bias, scaling of every kink."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.support.smoothness_forensics import gaussian_process, random_kinks

from assay.errors import NumericalError, UsageError
from assay.smoothness.estimators.sampled import KNOWN_BIAS, recovered_share, sampled, smp_sampled

GRID = np.linspace(0, 1, 11)


@pytest.mark.parametrize(("tau", "height"), [(0.3, 2.0), (0.35, 1.0), (0.325, 1.5), (0.1, 2.0), (0.9, 2.0)])
def test_one_kink_wherever_it_falls(tau, height):
    y = np.abs(GRID - tau)
    assert smp_sampled(y, 0.1) == pytest.approx(2, abs=1e-12)
    assert smp_sampled(y, 0.1, form="height") == pytest.approx(height, abs=1e-12)
    assert smp_sampled(y, 0.1, form="variation") == pytest.approx(2, abs=1e-12)
    found = sampled(y, 0.1)
    assert found.t.tolist() == pytest.approx([tau])
    assert found.jump.tolist() == pytest.approx([2.0])


@pytest.mark.parametrize(("count", "variation"), [(100, 25.1162), (200, 25.1286), (400, 25.1317)])
def test_a_sine_has_no_kinks(count, variation):
    y, h = np.sin(2 * np.pi * np.arange(count + 1) / count), 1 / count
    assert smp_sampled(y, h, form="height") == pytest.approx(8 * math.sin(math.pi * h) ** 2 / h, abs=1e-9)
    assert smp_sampled(y, h, form="variation") == pytest.approx(variation, abs=1e-4)
    assert smp_sampled(y, h) < 0.03 * variation


@pytest.mark.parametrize("sharpness", [20.0, 100.0, 1000.0])
def test_a_softened_kink(sharpness):
    y = np.logaddexp(0, sharpness * np.arange(-400, 401) * 0.01) / sharpness
    bh = sharpness * 0.01
    expected = 2 / bh * math.log(math.cosh(bh / 2))
    assert smp_sampled(y, 0.01, form="height") == pytest.approx(expected, abs=1e-9)
    assert smp_sampled(y, 0.01, form="variation") == pytest.approx(1, abs=1e-9)


@given(st.integers(0, 10**6), st.floats(-3, 3).filter(lambda c: abs(c) > 0.1))
@pytest.mark.parametrize("form", ["mass", "height", "variation"])
def test_scaling_tilting_and_time(form, seed, factor):
    y = random_kinks(np.random.default_rng(seed), 200, 0.05)[0]
    value = smp_sampled(y, 0.5, form=form)
    tilted = factor * y - 2 * np.arange(200) + 7
    assert smp_sampled(tilted, 0.5, form=form) == pytest.approx(abs(factor) * value, rel=1e-9, abs=1e-9)
    assert smp_sampled(y[::-1], 0.5, form=form) == pytest.approx(value, rel=1e-9, abs=1e-9)
    assert smp_sampled(y, 0.25, form=form) == pytest.approx(2 * value)


@pytest.mark.parametrize(
    ("density", "height", "variation"), [(0.005, 0.75, 1.0), (1.0, 0.414, 0.692), (20, 0.1, 0.182)]
)
def test_known_bias_of_random_kinks(density, height, variation):
    y, jumps = random_kinks(np.random.default_rng(0), 60_001, density)
    smp = np.abs(jumps).sum()
    assert smp_sampled(y, 1.0, form="height") / smp == pytest.approx(height, abs=0.02)
    assert smp_sampled(y, 1.0, form="variation") / smp == pytest.approx(variation, abs=0.02)
    assert recovered_share(density) == pytest.approx(variation, abs=0.01)
    energy = np.square(jumps).sum() / 60_000
    bends = [np.square(y[2 * k :] - 2 * y[k:-k] + y[: -2 * k]).mean() / (2 / 3 * energy * k**3) for k in (1, 2, 4, 8)]
    if density >= 1:
        assert bends == pytest.approx([1] * 4, abs=0.03)


@pytest.mark.parametrize("density", [0.005, 0.2, 1.0, 5.0])
def test_the_resolution_is_estimated(density):
    found = sampled(random_kinks(np.random.default_rng(3), 20_001, density)[0], 1.0)
    assert found.kinks_per_step == pytest.approx(density, rel=0.25)
    assert found.resolved == (density < 0.5)


def test_variation_is_flat_for_smooth_tracks_and_rises_for_kinked_ones():
    smooth = sampled(np.sin(np.arange(3000) / 300), 1 / 300)
    kinked = sampled(random_kinks(np.random.default_rng(0), 20_001, 20.0)[0], 1.0)
    assert abs(smooth.growth) < 0.01
    assert kinked.growth == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("step", [0.025, 0.00625])
def test_isolated_kinks_on_a_smooth_track(step):
    t = np.arange(0, 20, step)
    smooth = gaussian_process(np.random.default_rng(1), 1, samples=len(t), length=20.0)[0]
    rng = np.random.default_rng(2)
    places, jumps = rng.uniform(1, 19, 10), rng.choice([-1, 1], 10) * rng.uniform(0.5, 2, 10)
    y = smooth + (jumps * np.maximum(t[:, None] - places, 0)).sum(1)
    assert smp_sampled(y, step) / np.abs(jumps).sum() == pytest.approx(1, abs=0.03)
    found = sampled(y, step)
    sharp = found.exponent[found.jump.abs() > 0.4]
    assert len(sharp) == 10
    assert ((sharp - 1).abs() < 0.15).all()


def test_exponents_tell_a_jump_and_a_bump_from_a_kink():
    t = np.arange(2001) / 2000
    jump = sampled(np.where(t > 0.5, 1.0, 0.0) + 0.01 * np.sin(t), 1 / 2000)
    assert jump.exponent[jump.jump.abs().argmax()].item() == pytest.approx(0, abs=0.1)
    bump = sampled(0.01 * np.sin(t) + np.exp(-np.square((t - 0.5) / 0.01)), 1 / 2000)
    assert bump.exponent[bump.jump.abs().argmax()].item() > 1.5


def test_several_outputs_and_tensors():
    y = torch.stack([torch.linspace(-1, 1, 11).abs(), 3 * torch.linspace(-1, 1, 11).abs()], 1).double()
    found = smp_sampled(y, 0.2)
    assert found.dtype == torch.float64
    assert found.tolist() == pytest.approx([2, 6], rel=1e-6)


@pytest.mark.parametrize(
    ("y", "step", "form", "error"),
    [
        (np.zeros(2), 1.0, "mass", UsageError),
        (np.zeros((5, 2, 2)), 1.0, "mass", UsageError),
        (np.zeros(5), 0.0, "mass", UsageError),
        (np.zeros(5), 1.0, "area", UsageError),
        (np.array([0.0, np.nan, 0.0]), 1.0, "mass", NumericalError),
    ],
)
def test_errors(y, step, form, error):
    with pytest.raises(error):
        smp_sampled(y, step, form=form)


def test_constant_tracks_and_the_table():
    assert smp_sampled(np.ones(30), 1.0) == 0
    assert sampled(np.ones(30), 1.0).kinks_per_step == 0
    assert len({len(each) for each in KNOWN_BIAS.values()}) == 1
    assert recovered_share(5.0) == pytest.approx(0.353)


@pytest.mark.parametrize("y", ["abc", None, [[1, 2, 3], [4]], np.ones(5) * 1j, np.zeros((5, 0))], ids=str)
def test_samples_must_be_real_numbers(y):
    with pytest.raises(UsageError):
        smp_sampled(y, 0.1)


@pytest.mark.parametrize("step", [None, "a", 1j])
def test_a_step_that_is_no_number(step):
    with pytest.raises(UsageError, match="step must be positive"):
        smp_sampled(GRID, step)
