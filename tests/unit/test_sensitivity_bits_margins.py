"""Significand bits from margins: the pairwise rule at its edges, bisection, flip rates, minimal bits of networks."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from assay.errors import UsageError
from assay.load.demo import demo_data, demo_model
from assay.sensitivity.bits import (
    bits_by_bisection,
    flip_probability,
    flip_probability_chebyshev,
    margin_bits,
    minimal_bits,
    rivals_of,
    sigma_bits,
    variance_allocation,
)
from assay.sensitivity.bits.margins import quantiles
from assay.sensitivity.roundoff import Precision, gamma, precision, simulate
from assay.sensitivity.roundoff.estimate import first_order_coefficients, roundoff_error


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def sines(first: int, last: int) -> torch.Tensor:
    return torch.sin(torch.arange(first, last + 1, dtype=torch.float64) ** 2)


@pytest.fixture(scope="module")
def golden() -> tuple[nn.Module, torch.Tensor]:
    """The 4-5-3 network whose weights are sin(m^2), and its input."""
    network = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).double()
    first, second = network[0], network[2]
    first.weight.data, second.weight.data = sines(1, 20).reshape(5, 4), sines(21, 35).reshape(3, 5)  # type: ignore[union-attr]
    first.bias.data, second.bias.data = sines(36, 40) / 4 + 1, sines(41, 43) / 4  # type: ignore[union-attr]
    return network.eval(), tensor(1, 2, 3, 4)[None] / 4


class TestMarginRule:
    def test_margin_3_coefficient_9_needs_2_bits(self):
        """Logits W x with W = [[1, 2], [1, -1]] and x = (3, 1): only the weights are rounded."""
        network = nn.Linear(2, 2, bias=False).double()
        network.weight.data = torch.tensor([[1.0, 2.0], [1.0, -1.0]], dtype=torch.float64)
        x = tensor(3, 1)[None]
        found = rivals_of(network(x))
        assert found.margins.tolist() == [[3.0]]
        coefficient = (network.weight[0].abs() + network.weight[1].abs()) @ x[0].abs()
        assert float(coefficient.detach()) == 9
        assert margin_bits(coefficient[None], found.margins[0]).item() == 2

    @pytest.mark.parametrize("k", [-3, 0, 1, 7, 40])
    def test_exact_power_needs_one_more(self, k: int):
        margin = 0.7
        assert margin_bits(tensor(margin * 2.0**k), tensor(margin), smallest=-10).item() == k + 1
        below = math.nextafter(margin * 2.0**k, 0)
        assert margin_bits(tensor(below), tensor(margin), smallest=-10).item() == k

    @given(
        st.lists(st.tuples(st.floats(1e-200, 1e200), st.floats(1e-30, 1e30)), min_size=1, max_size=5),
        st.integers(-3, 3),
    )
    def test_smallest_t_that_keeps_every_margin(self, pairs: list[tuple[float, float]], smallest: int):
        c, m = tensor(*(c for c, _ in pairs)), tensor(*(m for _, m in pairs))
        t = margin_bits(c, m, smallest=smallest).item()
        assert bool((torch.ldexp(c, torch.tensor(-int(t))) < m).all())
        if t > smallest:
            assert not bool((torch.ldexp(c, torch.tensor(1 - int(t))) < m).all())

    def test_ties_and_exact_arithmetic(self):
        assert margin_bits(tensor(1.0), tensor(0.0)).item() == math.inf
        assert margin_bits(tensor(0.0), tensor(1e-9)).item() == 1
        assert margin_bits(tensor(math.inf), tensor(1.0)).item() == math.inf
        assert margin_bits(tensor(0.0), tensor(0.0)).item() == math.inf
        with pytest.raises(UsageError):
            margin_bits(tensor(math.nan), tensor(1.0))

    def test_one_output_decides_nothing(self):
        with pytest.raises(UsageError, match="at least 2"):
            rivals_of(torch.zeros(3, 1))

    def test_sigma_halves_with_every_bit(self):
        margins = tensor(1.0, 0.25)
        for t in range(4, 12):
            sigma = tensor(0.3, 0.1) * 2.0 ** (8 - t)
            assert (
                sigma_bits(sigma, margins, reference=t).item() == sigma_bits(sigma / 4, margins, reference=t + 2).item()
            )
        needed = int(sigma_bits(tensor(0.3, 0.1), margins, reference=8).item())
        assert 3 * 0.1 * 2.0 ** (8 - needed) < 0.25 <= 3 * 0.1 * 2.0 ** (9 - needed)


class TestBisection:
    @given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=6))
    def test_agrees_with_the_closed_form(self, ratios: list[float]):
        c = tensor(*ratios)[:, None]
        margins = torch.ones_like(c)
        closed = margin_bits(c, margins)
        assert torch.equal(bits_by_bisection(lambda t: c * 2.0**-t, margins), closed)

    def test_gamma_has_a_pole(self):
        """n = 1000 terms of size 1, margin 0.5: gamma is infinite up to t = 9 and must count as too large."""

        def error(t: int) -> torch.Tensor:
            return tensor(gamma(1000, 2.0**-t))[None]

        t = int(bits_by_bisection(error, tensor(0.5)[None]).item())
        assert gamma(1000, 2.0**-9) == math.inf
        assert gamma(1000, 2.0**-t) < 0.5 <= gamma(1000, 2.0 ** (1 - t))
        assert t == 12

    def test_out_of_reach(self):
        assert bits_by_bisection(lambda t: tensor(1.0)[None], tensor(0.5)[None], largest=20).item() == math.inf


class TestFlipRate:
    def test_union_bound_of_two_rivals_by_sampling(self):
        """200,000 draws; the bound may only be above, by at most the probability that both overtake."""
        sigma, margins = tensor(1.0, 2.0), tensor(1.5, 4.0)
        draws = torch.randn(200_000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * sigma
        measured = float((draws > margins).any(1).double().mean())
        both = float((draws > margins).all(1).double().mean())
        expected = flip_probability(sigma, margins).item()
        assert expected - both == pytest.approx(measured, abs=5 * math.sqrt(0.1 / 200_000))

    def test_chebyshev_is_looser(self):
        sigma = torch.linspace(0.01, 1.0, 50, dtype=torch.float64)[:, None]
        margins = torch.ones_like(sigma)
        assert bool((flip_probability_chebyshev(sigma, margins) >= flip_probability(sigma, margins)).all())

    def test_no_error_flips_ties_only(self):
        assert flip_probability(tensor(0.0), tensor(1.0)).item() == 0
        assert flip_probability(tensor(0.0), tensor(0.0)).item() == 1

    def test_far_tail_does_not_vanish(self):
        assert flip_probability(tensor(1.0), tensor(30.0)).item() == pytest.approx(4.906713927148187e-198, rel=1e-9)


def test_quantiles_are_order_statistics():
    bits = tensor(*range(1, 101))
    assert quantiles(bits, (0.5, 0.9, 0.99, 1.0)) == {0.5: 50, 0.9: 90, 0.99: 99, 1.0: 100}
    assert quantiles(tensor(1, math.inf), (0.5, 1.0)) == {0.5: 1, 1.0: math.inf}


class TestMinimalBits:
    def test_golden_network(self, golden: tuple[nn.Module, torch.Tensor]):
        network, x = golden
        found = first_order_coefficients(network, x, pairs="all")
        order = found.rivals[0].tolist()  # type: ignore[index]
        by_rival = dict(zip(order, zip(found.error[0].tolist(), found.margins[0].tolist(), strict=True), strict=True))
        assert by_rival[1] == pytest.approx((21.6659630373, 3.0050821379), rel=1e-9)
        assert by_rival[2] == pytest.approx((11.8488604348, 1.2625716204), rel=1e-9)
        each = [margin_bits(tensor(by_rival[j][0]), tensor(by_rival[j][1])).item() for j in (1, 2)]
        assert each == [3, 4]
        assert minimal_bits(network, x, rule="first-order").network == 4

    def test_rules_are_ordered_and_never_below_the_truth(self):
        network, x = demo_model(), demo_data().inputs[:30]
        ladder = [minimal_bits(network, x, rule=rule) for rule in ("3-sigma", "first-order", "guaranteed")]
        for found in ladder:
            assert found.under_predicted == 0
        for tighter, looser in pairwise(ladder):
            assert bool((tighter.bits <= looser.bits).all())
        statistical = ladder[0]
        assert statistical.overhead is not None
        assert 0.3 < statistical.overhead <= 1.6
        assert statistical.network <= 9
        assert ladder[2].overhead > 5  # type: ignore[operator]

    def test_flip_rate_beside_the_measured_one(self):
        found = minimal_bits(demo_model(), demo_data().inputs[:150], rule="2-sigma", rivals=3, significands=range(1, 5))
        assert found.true_flip_rate is not None
        compared = [(found.flip_rate[t], rate) for t, rate in found.true_flip_rate.items() if rate >= 0.01]
        assert len(compared) >= 2
        for expected, measured in compared:
            assert measured / 3 < expected < 3 * measured
        assert all(found.flip_rate[t] <= found.flip_rate_chebyshev[t] for t in found.flip_rate)
        assert found.bits_for(0.02) is not None

    def test_truth_is_the_simulation(self):
        network, x = demo_model(), demo_data().inputs[:40]
        found = minimal_bits(network, x, rule="first-order")
        assert found.true_bits is not None
        exact = network(x).argmax(1)
        for t in (1, 2, 3, 5):
            kept = simulate(network, x, Precision.uniform(precision(t))).argmax(1) == exact
            assert not bool((~kept & (found.true_bits <= t)).any())
            assert found.true_flip_rate is not None
            assert found.true_flip_rate[t] == pytest.approx(1 - float(kept.double().mean()))

    def test_sums_in_few_bits_need_more(self):
        network, x = demo_model(), demo_data().inputs[:6]
        exact = minimal_bits(network, x, rule="guaranteed", truth=False)
        summed = minimal_bits(network, x, rule="guaranteed", truth=False, accumulation="sequential")
        assert bool((summed.bits > exact.bits).all())
        assert bool(summed.bits.isfinite().all())

    def test_scaled_deviations_are_those_estimated(self):
        network, x = demo_model(), demo_data().inputs[:10]
        at = {t: roundoff_error(network, x, Precision.uniform(precision(t)), pairs="all").error for t in (8, 12)}
        torch.testing.assert_close(at[8] / 16, at[12], rtol=0.1, atol=0)

    def test_errors(self):
        with pytest.raises(UsageError, match="Unknown rule"):
            minimal_bits(demo_model(), demo_data().inputs[:2], rule="three")
        with pytest.raises(UsageError, match="one output"):
            minimal_bits(nn.Linear(3, 1), torch.rand(2, 3))


def test_nan_is_no_margin_and_no_coefficient():
    nan = torch.tensor([math.nan])
    for coefficients, margins in ((nan, torch.ones(1)), (torch.ones(1), nan)):
        with pytest.raises(UsageError, match="numbers"):
            margin_bits(coefficients, margins)
    for wrong in (math.nan, math.inf):
        with pytest.raises(UsageError, match="finite"):
            variance_allocation(torch.tensor([wrong, 4.0]), torch.ones(2), 0.05)
