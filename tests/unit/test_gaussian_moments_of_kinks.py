"""Moments behind kinks of drifting paths, and shortcuts of single precision, against quadrature and the long way."""

import pytest
import torch
from scipy import integrate, stats

from assay.errors import UsageError
from assay.gaussian import moving_threshold_kinks
from assay.gaussian.quadrature import hermite
from assay.gaussian.rectified import rectified, where_uncertain


@pytest.mark.parametrize(("slope", "deviation"), [(0.0, 1.3), (0.8, 0.5), (-1.7, 0.9), (2.0, 0.01)])
def test_kinks_of_a_drifting_path_have_the_absolute_moments_of_its_slope(slope: float, deviation: float):
    """Value and slope independent, at the threshold: density times E|s|, E s^2 and E|s|^3."""
    one = torch.ones((), dtype=torch.float64)
    law = moving_threshold_kinks(0 * one, one, slope * one, deviation * one, 0 * one)
    normal = stats.norm(slope, deviation)
    ends = (slope - 12 * deviation, slope + 12 * deviation)
    inside = [0.0] if ends[0] < 0 < ends[1] else None
    for found, power in zip(law, (1, 2, 3), strict=True):
        truth = integrate.quad(lambda s, p=power: abs(s) ** p * normal.pdf(s), *ends, points=inside, epsabs=1e-13)[0]
        assert float(found) == pytest.approx(truth * stats.norm.pdf(0), rel=1e-9)


@pytest.mark.parametrize("std", [0.1, 0.39, 1.0, 3.0])
def test_units_of_certain_sign_are_left_out_only_where_single_precision_sees_no_tail(std: float):
    near = -torch.linspace(0, 14 * std, 40)
    gap = torch.cat([near, torch.full((200,), -1e4)])
    spread = torch.full_like(gap, std)

    def function(mean: torch.Tensor, deviation: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found = rectified(mean / deviation)
        return found[0], deviation * found[1]

    zero = torch.zeros_like(gap), torch.zeros_like(gap)
    for found, truth in zip(where_uncertain(function, zero, gap, spread), function(gap, spread), strict=True):
        torch.testing.assert_close(found, truth, rtol=1e-6, atol=1e-36)


def test_a_rule_has_at_most_300_nodes():
    assert sum(weight for _, weight in hermite(300)) == pytest.approx(1.0)
    with pytest.raises(UsageError):
        hermite(301)
