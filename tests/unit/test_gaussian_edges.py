"""Corners of the Gaussian formulas that other tests pass by: fields nobody compared, scales other than one."""

from __future__ import annotations

import math

import pytest
import torch
from tests.support.inputs import close, numbers
from torch import Tensor

from assay.gaussian import (
    bivariate_normal_cdf,
    gelu_covariance,
    hermite_covariance,
    legendre,
    maximum_kinks,
    maximum_law,
    price,
    rectified_covariance,
    smoothed_maximum,
    smoothed_relu,
)
from assay.gaussian.expansion import expansion

RAYLEIGH = math.sqrt(2 / math.pi)


def column(*values: float) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


class TestExpansionOfASquare:
    """`square`: expected derivatives of (f - E f)^2, which for powers are moments of a Gaussian."""

    @pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.7, 1.3), (-1.0, 0.4), (2.0, 3.0)])
    def test_of_a_parabola(self, mean: float, std: float) -> None:
        third, fourth, sixth = expansion(torch.square, column(mean), column(std)).square
        close(third, column(24 * mean), 1e-9)
        close(fourth, column(24.0), 1e-9)
        close(sixth, column(0.0), 1e-6)

    @pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.7, 1.3), (-1.0, 0.4), (2.0, 3.0)])
    def test_of_a_cube(self, mean: float, std: float) -> None:
        third, fourth, sixth = expansion(lambda x: x**3, column(mean), column(std)).square
        close(third, column(108 * (mean**3 + 3 * mean * std**2)), 1e-8)
        close(fourth, column(360 * (mean**2 + std**2)), 1e-8)
        close(sixth, column(720.0), 1e-5)

    def test_a_kink_off_the_middle_agrees_with_a_smooth_neighbour(self) -> None:
        """A kink that is named but is none cuts the line without changing the numbers."""
        mean, std = column(0.7, -0.2), column(1.3, 0.6)
        smooth, cut = expansion(torch.square, mean, std), expansion(torch.square, mean, std, kinks=(-1.0, 0.3, 2.0))
        for one, other in zip(smooth.square[:2] + smooth.slopes[:3], cut.square[:2] + cut.slopes[:3], strict=True):
            close(one, other, 1e-7)
        close(smooth.eeee, cut.eeee, 1e-7)

    def test_without_noise(self) -> None:
        found = expansion(torch.square, column(3.0, 2.0), column(0.0, 1.0))
        assert [bool(value[0, 0]) for value in found.square] == [False, False, False]
        assert float(found.square[1][0, 1]) == pytest.approx(24)
        assert float(found.mean[0, 0]) == 9.0


class TestTiesOfManyPaths:
    """Where all differences of slopes have one variance v^2, sizes are Rayleigh: the sum tells rate and energy."""

    @pytest.mark.parametrize("count", [4, 12, 13, 16])
    @pytest.mark.parametrize("speed", [1.0, 2.5])
    def test_rate_and_energy(self, count: int, speed: float) -> None:
        eye = torch.eye(count, dtype=torch.float64)
        law, _ = maximum_kinks(torch.zeros(count, dtype=torch.float64), eye, speed**2 * eye, points=64)
        spread = speed * math.sqrt(2)
        assert float(law.smp) > 0
        assert float(law.rate) == pytest.approx(RAYLEIGH * float(law.smp) / spread, rel=1e-9)
        assert float(law.energy) == pytest.approx(2 * RAYLEIGH * spread * float(law.smp), rel=1e-9)

    @pytest.mark.parametrize("count", [4, 13])
    def test_crossings_of_a_level(self, count: int) -> None:
        eye = torch.eye(count, dtype=torch.float64)
        law = maximum_law(torch.zeros(count, dtype=torch.float64), eye, 4 * eye, (0.5,), points=64)
        (passed,) = law.crossings
        assert float(passed.rate) == pytest.approx(RAYLEIGH * float(passed.smp) / 2, rel=1e-9)
        assert float(passed.energy) == pytest.approx(4 * RAYLEIGH * float(passed.smp), rel=1e-9)
        # density of the largest at the level, times the variance of its slope
        phi, below = math.exp(-0.125) / math.sqrt(2 * math.pi), 0.5 * math.erfc(-0.5 / math.sqrt(2))
        assert float(passed.smp) == pytest.approx(4 * count * phi * below ** (count - 1), rel=2e-3)

    def test_correlated_slopes_of_many_paths(self) -> None:
        """Half of the variance of each slope is shared: differences have the other half, twice."""
        count = 14
        eye = torch.eye(count, dtype=torch.float64)
        apart = maximum_kinks(torch.zeros(count, dtype=torch.float64), eye, 0.5 * eye, points=256)[0]
        shared = maximum_kinks(torch.zeros(count, dtype=torch.float64), eye, 0.5 + 0.5 * eye, points=256)[0]
        # what is shared moves all alike and makes no tie: sum, number and energy stay, up to the points' error
        for one, other in zip(apart, shared, strict=True):
            assert float(other) == pytest.approx(float(one), rel=0.02)

    def test_paths_that_stand_still_have_no_kinks(self) -> None:
        for count in (3, 14):
            eye = torch.eye(count, dtype=torch.float64)
            law = maximum_law(numbers(count), eye, 0 * eye, (0.0,), points=16)
            for part in (*law.ties, *law.crossings):
                assert [float(value) for value in part] == [0.0, 0.0, 0.0]

    @pytest.mark.parametrize("count", [3, 5, 13])
    def test_ties_between_levels(self, count: int) -> None:
        """Independent standard paths: pairs, times the density of a tie at x, times all others below x, over x."""
        eye, levels = torch.eye(count, dtype=torch.float64), (0.2, 1.1)
        law = maximum_law(torch.zeros(count, dtype=torch.float64), eye, 0.5 * eye, levels, points=512)
        assert len(law.ties) == 3
        ends = (-7.0, *levels, 7.0)
        for part, low, high in zip(law.ties, ends[:-1], ends[1:], strict=True):
            nodes, weights = torch.tensor(legendre(60), dtype=torch.float64).unbind(1)
            x = low + (high - low) * nodes
            normal = torch.distributions.Normal(torch.tensor(0.0).double(), 1.0)
            tie = normal.log_prob(x).exp().square() * normal.cdf(x) ** (count - 2)
            expected = count * (count - 1) / 2 * float((weights * (high - low) * tie).sum())
            assert float(part.smp) == pytest.approx(expected, abs=1e-6 if count <= 4 else 6 * float(law.error) + 2e-3)


class TestMostSignsCertain:
    """In single precision, units whose sign is in no doubt are left out of the formulas where they are the majority."""

    @pytest.mark.parametrize("doubtful", [0, 1, 7, 29, 30, 31, 60])
    def test_values_are_those_of_double_precision(self, doubtful: int) -> None:
        mean, std = 4 * numbers(3, 20), numbers(3, 20, seed=1).abs() + 0.1
        places = torch.randperm(60, generator=torch.Generator().manual_seed(2))[doubtful:]
        mean.view(-1)[places] = torch.where(places % 2 == 0, 1.0, -1.0) * (14.0 + places) * std.view(-1)[places]
        mean.view(-1)[places[:3]] = 5.0
        std.view(-1)[places[:3]] = 0.0
        exact, found = smoothed_relu(mean, std), smoothed_relu(mean.float(), std.float())
        for one, other in zip(found, exact, strict=True):
            assert one.dtype == torch.float32
            assert one.shape == (3, 20)
            torch.testing.assert_close(one.double(), other, rtol=2e-6, atol=2e-6)

    def test_a_tie_counts_half_and_nan_stays(self) -> None:
        mean = torch.tensor([0.0, 50.0, -50.0, 60.0, -60.0, 70.0, float("nan")])
        std = torch.tensor([0.0, 1.0, 1.0, 1.0, 0.0, 0.0, 1.0])
        value = smoothed_relu(mean, std)
        double = smoothed_relu(mean.double(), std.double())
        for one, other in zip(value, double, strict=True):
            torch.testing.assert_close(one.double(), other, rtol=1e-6, atol=1e-6, equal_nan=True)
            assert one[:6].isfinite().all()
            assert one[6].isnan()

    @pytest.mark.parametrize("far", [0.0, 40.0])
    def test_the_larger_of_two(self, far: float) -> None:
        first, second = numbers(2, 15, seed=3), numbers(2, 15, seed=4)
        first[:, 3:] += far * torch.where(torch.arange(12) % 2 == 0, 1.0, -1.0)
        deviations = [numbers(2, 15, seed=5 + i).abs() + 0.2 for i in range(2)]
        covariance = 0.3 * deviations[0] * deviations[1]
        arguments = (first, second, deviations[0].square(), deviations[1].square(), covariance)
        exact = smoothed_maximum(*arguments)
        found = smoothed_maximum(*(value.float() for value in arguments))
        for one, other in zip(found, exact, strict=True):
            torch.testing.assert_close(one.double(), other, rtol=5e-6, atol=5e-5)


@pytest.mark.parametrize("end", [1.0, -1.0])
def test_a_correlation_beyond_one_by_rounding_has_the_derivatives_of_one(end: float) -> None:
    a, b = column(0.3, -1.0, 2.0), column(-0.2, 0.5, 1.0)
    for function in (rectified_covariance, bivariate_normal_cdf):
        slopes = []
        for excess in (0.0, 5e-10):
            arguments = [a.clone(), b.clone(), torch.full_like(a, end * (1 + excess))]
            for value in arguments:
                value.requires_grad_()
            slopes.append(torch.autograd.grad(function(*arguments).sum(), arguments))
        for exact, found in zip(*slopes, strict=True):
            assert found.isfinite().all()
            close(found, exact, 1e-12)


class TestPieces:
    """Large tensors are computed in pieces: the numbers are those of one piece, wherever the cuts fall."""

    @pytest.mark.parametrize("block", [1, 4, 20, 45, 139, 140])
    @pytest.mark.parametrize("shape", [(7, 5, 4), (35, 4), (140,), (1, 140), (140, 1)])
    def test_of_the_curvature_integral(
        self, shape: tuple[int, ...], block: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        mean1, mean2 = numbers(*shape, seed=1), numbers(*shape, seed=2)
        std1, std2 = numbers(*shape, seed=3).abs() + 0.1, numbers(shape[-1], seed=4).abs() + 0.1
        arguments = (mean1, std1, mean2, std2, torch.tanh(numbers(*shape, seed=5)))
        whole = gelu_covariance(*arguments)
        monkeypatch.setattr(price, "_BLOCK", block)
        pieces = gelu_covariance(*arguments)
        assert pieces.shape == shape
        close(pieces, whole, 1e-13)


def test_a_series_of_one_term_and_of_none() -> None:
    three, two, rho = torch.tensor([[3.0]]), torch.tensor([[2.0]]), torch.tensor([0.5])
    assert hermite_covariance(three, two, rho).tolist() == [3.0]
    assert hermite_covariance(three, two, rho, start=3).tolist() == [0.75]
    assert hermite_covariance(0 * three, two, rho).tolist() == [0.0]
    assert hermite_covariance(torch.ones(2, 0), torch.ones(2, 0), torch.ones(0)).shape == (0,)
