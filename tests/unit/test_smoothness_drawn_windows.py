"""Laws of many windows from a few drawn ones, against the laws of all of them."""

import pytest
import torch
from tests.support.smoothness_prediction import GaussianPath
from torch import Tensor, nn

from assay.errors import UsageError
from assay.gaussian import every_tie, maximum_law
from assay.smoothness import Network, plug_in
from assay.smoothness.prediction.drawn_windows import laws


def problem(seed: int, windows: int = 300, k: int = 6) -> tuple[Tensor, ...]:
    """Windows of very different means, covariances and sizes; two outputs."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    roots = normal(2, windows, k, k) / k**0.5
    scale = normal(windows).exp()
    size = normal(2, windows).exp()
    covariance, slopes = roots @ roots.mT
    return (
        scale[:, None] * normal(windows, k),
        scale[:, None, None].square() * covariance,
        slopes,
        size,
        size.square(),
    )


def test_sums_of_drawn_windows_are_those_of_all_within_their_standard_error():
    """SMP of 2 outputs, 24 problems of 300 windows of which 60 are drawn: 48 deviations in units of the error given."""
    deviations = []
    for seed in range(24):
        case = problem(seed)
        _, every, powers, _ = laws(*case, None, 16)
        law, smp, energy, error = laws(*case, 60, 16)
        deviations.append((smp - every) / error)
        assert law.smp.shape == law.rate.shape == (300,)
        torch.testing.assert_close(energy, powers, rtol=0.5, atol=0)
    found = torch.cat(deviations)
    # standard normal: the mean square of 24 independent ones is outside 0.4 to 2 with a probability below 0.2 %
    assert 0.4 < float(found.square().mean()) < 2.0
    assert abs(float(found.mean())) < 4 / 24**0.5


def test_rates_of_drawn_windows_add_up_to_those_of_all():
    case = problem(100, windows=2000)
    every, drawn = laws(*case, None, 8)[0], laws(*case, 400, 8)[0]
    assert float(drawn.rate.sum()) == pytest.approx(float(every.rate.sum()), rel=0.1)


def test_few_windows_or_few_candidates_have_their_own_law():
    for case, most in ((problem(1, windows=40), 40), (problem(1, k=4), 10)):
        every, drawn = laws(*case, None, 8), laws(*case, most, 8)
        assert all(torch.equal(one, other) for one, other in zip(every[0], drawn[0], strict=True))
        assert all(torch.equal(one, other) for one, other in zip(every[1:], drawn[1:], strict=True))


def test_windows_that_never_tie_or_never_count():
    mean, covariance, slopes, size, square = problem(3)
    law, smp, energy, error = laws(mean, covariance, 0 * slopes, size, square, 20, 8)
    assert all(not value.any() for value in (*law, smp, energy, error))
    law, smp, energy, error = laws(mean, covariance, slopes, 0 * size, 0 * square, 20, 8)
    assert float(law.rate.sum()) > 0
    assert all(not value.any() for value in (smp, energy, error))


def test_every_tie_is_the_law_of_two_and_above_that_of_more():
    mean, covariance, slopes, _, _ = problem(5)
    two = mean[:, :2], covariance[:, :2, :2], slopes[:, :2, :2]
    for one, other in zip(every_tie(*two), maximum_law(*two).ties[0], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)
    for all_ties, top in zip(
        every_tie(mean, covariance, slopes), maximum_law(mean, covariance, slopes).ties[0], strict=True
    ):
        assert bool((top <= all_ties * (1 + 1e-9)).all())


def test_a_path_through_large_windows():
    """Overlapping windows of nine: 64 of 144 drawn."""
    network = Network.of(
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.MaxPool2d(3, 1), nn.Flatten(), nn.Linear(144, 1)),
        torch.zeros(1, 1, 10, 10),
    )
    path = GaussianPath((1, 10, 10), 4, 20.0)
    every, drawn = plug_in(network, path, 64, windows=None), plug_in(network, path, 64, windows=64)
    assert abs(float(every.value - drawn.value)) < 4 * float(drawn.error)
    assert float(every.error) < float(drawn.error) < 0.2 * float(every.value)
    assert len(every.notes) == 1
    assert "64 draws among 144 windows" in drawn.notes[1]
    with pytest.raises(UsageError, match="1 windows"):
        plug_in(network, path, windows=1)
