"""Laws of predicted round-off: what is guaranteed is never exceeded, whatever the network, format and order of sums."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.inputs import close
from tests.support.rounded import random_net
from torch import Tensor, nn

from assay.sensitivity.roundoff.accumulation import Accumulation
from assay.sensitivity.roundoff.estimate import RoundoffError, first_order_coefficients, roundoff_error
from assay.sensitivity.roundoff.floating import precision
from assay.sensitivity.roundoff.simulation import simulate
from assay.sensitivity.roundoff.sites import Precision
from assay.subject import Subject, as_subject

NETS = st.integers(0, 10_000)
KINDS = st.sampled_from(["sequential", "pairwise", "blocked", "mixed"])


def excess(net: Subject, x: Tensor, chosen: Precision, found: RoundoffError) -> float:
    """Largest excess of the simulated error over the predicted one, double precision's own rounding taken off."""
    exact = net.probe(x)
    truth = (simulate(net, x, chosen) - exact).abs()
    return float((truth - found.error - 1e-13 * (1 + exact.abs())).max())


@given(NETS, st.integers(2, 24))
@settings(max_examples=25)
def test_bounds_hold_for_storage_in_any_precision(seed: int, significand: int):
    net, x = random_net(seed)
    chosen = Precision.uniform(significand)
    for estimator in ("E2", "E3"):
        assert excess(net, x, chosen, roundoff_error(net, x, chosen, estimator=estimator, by_layer=False)) <= 0


@given(NETS, st.integers(8, 14), KINDS)
@settings(max_examples=25)
def test_bounds_hold_for_sums_in_any_order(seed: int, significand: int, kind: str):
    net, x = random_net(seed)
    low = precision(significand - 3) if kind == "mixed" else None
    how = Accumulation(kind, precision(significand), block=3 if kind == "blocked" else None, low=low)  # type: ignore[arg-type]
    chosen = Precision.uniform(significand, how)
    for estimator in ("E2", "E3"):
        assert excess(net, x, chosen, roundoff_error(net, x, chosen, estimator=estimator, by_layer=False)) <= 0


@given(NETS, st.sampled_from(["fp16", "bf16", "e4m3", "e5m2", "int4", "int8", "q5.6"]))
@settings(max_examples=15)
def test_the_guaranteed_bound_holds_in_real_formats(seed: int, name: str):
    net, x = random_net(seed)
    chosen = Precision.uniform(name)
    found = roundoff_error(net, x, chosen, estimator="E2", by_layer=False)
    truth = (simulate(net, x, chosen, allow_overflow=True) - net.probe(x)).abs()
    slack = 1e-13 * (1 + net.probe(x).abs())
    assert bool((torch.isinf(found.error) | (truth <= found.error + slack)).all())


@given(NETS, st.integers(3, 20))
@settings(max_examples=10)
def test_one_bit_more_halves_what_is_first_order(seed: int, significand: int):
    net, x = random_net(seed)
    coefficient = first_order_coefficients(net, x).error
    found = roundoff_error(net, x, Precision.uniform(significand), estimator="E3").error
    assert bool((found <= coefficient * 2.0**-significand * (1 + 1e-12)).all())  # half a spacing is at most u |v|


@given(st.permutations(range(5)), st.integers(3, 12))
@settings(max_examples=6)
def test_permuting_hidden_units_changes_nothing(order: list[int], significand: int):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).double().requires_grad_(False)
    moved = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).double().requires_grad_(False)
    moved[0].weight.data, moved[0].bias.data = net[0].weight.data[order], net[0].bias.data[order]
    moved[2].weight.data, moved[2].bias.data = net[2].weight.data[:, order], net[2].bias.data
    x = torch.randn(3, 4, dtype=torch.float64)
    both = [as_subject(model, x[:2]) for model in (net, moved)]
    for estimator in ("E2", "E3", "E4", "E5"):
        first, second = (
            roundoff_error(model, x, Precision.uniform(significand), estimator=estimator).error for model in both
        )
        close(first, second, 1e-10)
