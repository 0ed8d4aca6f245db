"""Predicted round-off errors: golden numbers, laws of each estimator, and simulation as the truth."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from tests.support.inputs import calls, close, numbers
from tests.support.rounded import POINT, captured, golden, tokens
from torch import Tensor, nn

from assay.errors import UnsupportedOperator, UsageError
from assay.grade import Grade
from assay.graph import OPERATORS
from assay.interpret import check_rule
from assay.sensitivity.roundoff.accumulation import Accumulation
from assay.sensitivity.roundoff.calibration import calibrate
from assay.sensitivity.roundoff.estimate import first_order_coefficients, roundoff_error
from assay.sensitivity.roundoff.floating import FloatFormat, precision
from assay.sensitivity.roundoff.formats import as_format
from assay.sensitivity.roundoff.partial_sums import accumulated_variance
from assay.sensitivity.roundoff.running import Running, stored
from assay.sensitivity.roundoff.running_rules import SUPPORTED, TABLE
from assay.sensitivity.roundoff.simulation import simulate
from assay.sensitivity.roundoff.sites import Precision
from assay.sensitivity.roundoff.summation import evaluate_rounded
from assay.subject import as_subject

ESTIMATORS = ("E2", "E3", "E3-probable", "E4", "E5")


@dataclass(frozen=True)
class Unmasked(FloatFormat):
    """Spacing squared over 12 even where a number other than zero is representable."""

    def error_variance(self, x: Tensor) -> Tensor:
        return torch.where(x == 0, 0.0, self.spacing(x).square() / 12)


# --- golden numbers -------------------------------------------------------------------------------------------------


def test_golden_first_order_coefficients():
    found = first_order_coefficients(golden(), POINT)
    assert found.error[0].tolist() == pytest.approx([12.3107369208, 10.4839929284, 7.4922406031], rel=1e-10)
    assert found.grade is Grade.LINEARISED
    pairs = first_order_coefficients(golden(), POINT, pairs="all")
    assert pairs.rivals is not None
    assert pairs.rivals.tolist() == [[2, 1]]  # the closest rival first
    assert pairs.error[0].tolist() == pytest.approx([11.8488604348, 21.6659630373], rel=1e-10)
    assert pairs.margins[0].tolist() == pytest.approx([1.2625716204, 3.0050821379], rel=1e-10)
    assert (pairs.error / pairs.margins).log2().floor().add(1)[0].tolist() == [4.0, 3.0]


def test_golden_deviation():
    eight, eleven = (Unmasked(f"t{t}", t) for t in (8, 11))
    found = roundoff_error(golden(), POINT, Precision(eight, eight, eight, eight))
    assert found.error[0].tolist() == pytest.approx([5.0775397e-3, 4.5118338e-3, 2.8951022e-3], rel=1e-7)
    finer = roundoff_error(golden(), POINT, Precision(eleven, eleven, eleven, eleven))
    close(finer.error, found.error / 8, 1e-15)
    # the inputs 1/4, 1/2, 3/4, 1 are numbers of the format: their error is zero, and the deviation smaller
    exact = roundoff_error(golden(), POINT, Precision.uniform(8))
    assert bool((exact.error < found.error).all())
    assert float(exact.parts["activations"][..., 0].abs().max()) == 0.0
    assert float(found.parts["activations"][..., 0].min()) > 0.0


# --- each estimator -------------------------------------------------------------------------------------------------


def test_exact_numbers_have_no_error():
    net = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1)).double().requires_grad_(False)
    for layer, weight, bias in ((net[0], [[1.0, -2.0], [0.5, 3.0]], [1.0, -1.0]), (net[2], [[2.0, -0.25]], [4.0])):
        layer.weight.data, layer.bias.data = torch.tensor(weight).double(), torch.tensor(bias).double()
    x = torch.tensor([[3.0, 1.0], [2.0, -4.0]], dtype=torch.float64)
    chosen = Precision.uniform(8)
    assert torch.equal(simulate(net, x, chosen), net(x))
    for estimator in ("E3", "E4", "E5"):
        assert float(roundoff_error(net, x, chosen, estimator=estimator).error.max()) == 0.0
    assert float(roundoff_error(net, x, chosen, estimator="E2").error.max()) < 1e-12


def test_grades_and_shapes():
    net, x = captured("pooled")
    for estimator in ESTIMATORS:
        found = roundoff_error(net, x[:2], Precision.uniform(8), estimator=estimator)  # type: ignore[arg-type]
        assert found.error.shape == (2, 10)
        assert found.by_layer.shape == (2, len(found.layers))
        assert found.contributions is not None
        assert len(found.layers) == 6
        expected = {"E2": Grade.BOUND, "E3": Grade.LINEARISED, "E5": Grade.LINEARISED}
        assert found.grade is expected.get(estimator, Grade.STATISTICAL)


def test_contributions_add_up():
    net, x = captured("residual")
    chosen = Precision.uniform(6, Accumulation("sequential", precision(6)))
    first = roundoff_error(net, x[:3], chosen, estimator="E3")
    assert first.contributions is not None
    close(first.contributions.sum(2), first.error, 1e-12)
    close(torch.stack(list(first.parts.values())).sum((0, 3)), first.error, 1e-12)
    square = roundoff_error(net, x[:3], chosen, estimator="E4")
    assert square.contributions is not None
    close(square.contributions.square().sum(2), square.error.square(), 1e-12)
    known = roundoff_error(net, x[:3], Precision(weights="int4", biases="t6", input="t6"), estimator="E5")
    assert known.contributions is not None
    assert known.change is not None
    close(known.contributions.sum(2), known.change, 1e-12)
    bound = roundoff_error(net, x[:3], Precision.uniform(11), estimator="E2")
    assert bound.contributions is not None
    assert bool((bound.contributions.sum(2) <= bound.error * (1 + 1e-9)).all())  # together errors only grow


def test_the_ladder_is_in_order():
    net, x = captured("pooled")
    chosen = Precision.uniform(11, Accumulation("sequential", precision(11)))
    two, three, probable, four = (
        roundoff_error(net, x, chosen, estimator=e).error for e in ("E2", "E3", "E3-probable", "E4")
    )
    assert bool((two >= three).all() & (three > probable).all() & (probable > four).all())
    certain = roundoff_error(net, x, chosen, estimator="E3-probable", failure=1e-6).error
    assert bool((certain > probable).all() & (certain <= three).all())
    cheap = roundoff_error(net, x, chosen, estimator="E4", partial_sums=False).error
    assert bool((cheap > 1.5 * four).all())


def test_known_change_is_exact_for_one_linear_layer_and_close_for_a_network():
    layer, x = nn.Linear(5, 3).double().requires_grad_(False), numbers(4, 5)
    chosen = Precision(weights="int3", biases="int3")
    found = roundoff_error(layer, x, chosen, estimator="E5")
    assert found.change is not None
    close(found.change, simulate(layer, x, chosen) - layer(x), 1e-12)
    close(found.error, found.change.abs(), 1e-15)
    net, x = captured("pooled")
    for layer in ("0", "2", "5", "9"):
        for bits, tolerance in ((4, 0.25), (6, 0.1), (8, 0.03)):
            layers = {layer: Precision(weights=f"int{bits}")}
            change = roundoff_error(net, x, Precision(), layers=layers, estimator="E5").change
            assert change is not None
            truth = simulate(net, x, Precision(), layers=layers) - net.probe(x)
            assert float(change.square().mean() / truth.square().mean()) == pytest.approx(1.0, abs=tolerance)


@pytest.mark.parametrize("name", ["dense", "pooled", "residual"])
@pytest.mark.parametrize("kind", ["stored", "sequential", "pairwise", "blocked", "mixed"])
def test_deviation_predicts_the_simulated_error(name: str, kind: str):
    net, x = captured(name)
    ratios, middles = [], []
    for significand in (7, 10):  # rounding one set of weights is one draw: several make a mean
        chosen = Precision.uniform(significand, accumulation(kind, significand))
        truth = simulate(net, x, chosen) - net.probe(x)
        found = roundoff_error(net, x, chosen, by_layer=False).error
        ratios.append(float((found.square().mean() / truth.square().mean()).sqrt()))
        middles.append(float((found.norm(dim=1) / truth.norm(dim=1)).median()))
        assert float((truth.abs() <= 3.5 * found).double().mean()) >= 0.97
        for estimator in ("E2", "E3"):
            bound = roundoff_error(net, x, chosen, estimator=estimator, by_layer=False).error
            assert bool((truth.abs() <= bound).all())
    assert 0.9 <= math.exp(sum(map(math.log, ratios)) / len(ratios)) <= 1.4, ratios
    assert 0.9 <= math.exp(sum(map(math.log, middles)) / len(middles)) <= 1.4, middles


def accumulation(kind: str, significand: int) -> Accumulation | None:
    if kind == "stored":
        return None
    if kind == "mixed":
        return Accumulation("mixed", precision(significand), low=precision(significand - 2))
    return Accumulation(kind, precision(significand), block=8 if kind == "blocked" else None)  # type: ignore[arg-type]


def test_draws_give_the_same_deviation():
    net, x = captured("pooled")
    chosen = Precision.uniform(8, Accumulation("sequential", precision(8)))
    for pairs in (None, 3):
        exact = roundoff_error(net, x, chosen, pairs=pairs)
        drawn = roundoff_error(net, x, chosen, pairs=pairs, draws=64)
        ratio = drawn.error / exact.error
        assert drawn.standard_error == pytest.approx(128**-0.5)
        assert abs(float(ratio.square().mean()) - 1) < 0.1
        assert float((ratio - 1).abs().max()) < 6 * drawn.standard_error
        assert drawn.contributions is None
        with pytest.raises(UsageError, match="not computed"):
            _ = drawn.by_layer


def test_transformer():
    module, x = tokens()
    net = as_subject(module, x[:2])
    for chosen in (Precision.uniform(10), Precision.uniform(10, Accumulation("sequential", precision(12)))):
        truth = simulate(net, x, chosen) - net.probe(x)
        for estimator in ("E2", "E3"):
            assert bool((truth.abs() <= roundoff_error(net, x, chosen, estimator=estimator).error).all())
        ratio = (roundoff_error(net, x, chosen).error.square().mean() / truth.square().mean()).sqrt()
        assert 0.7 < float(ratio) < 1.5


def test_formats_of_single_layers_and_integers():
    net, x = captured("pooled")
    fixed, by_layer = calibrate(net, x, Precision.uniform("int8"))
    cases = (
        (Precision.uniform(8), {"0": Precision.uniform(4), "9": Precision(activations="t3", input="t3")}),
        (fixed, by_layer),
        (Precision(weights="int6_channel", activations="int8"), {}),
        (Precision.uniform("e4m3", Accumulation("mixed", "fp32", low="e4m3")), {}),
        (Precision.uniform("fp16", Accumulation("sequential", "fp16")), {}),
    )
    for chosen, layers in cases:
        truth = simulate(net, x, chosen, layers=layers) - net.probe(x)
        bound = roundoff_error(net, x, chosen, layers=layers, estimator="E2", by_layer=False).error
        assert bool((truth.abs() <= bound).all())
        found = roundoff_error(net, x, chosen, layers=layers, by_layer=False).error
        assert 0.7 < float((found.square().mean() / truth.square().mean()).sqrt()) < 1.5


def test_a_weight_used_twice_keeps_one_error():
    """Two opposite uses of one weight cancel; independent errors would not."""
    shared = calls(lambda net, x: net.layer(x) - net.layer(0.5 * x), layer=nn.Linear(4, 3, bias=False)).double()
    x = numbers(5, 4)
    found = roundoff_error(shared, x, Precision(weights="t6"))
    variance = precision(6).error_variance(shared.layer.weight.detach())
    close(found.error.square(), (0.25 * x.square()) @ variance.T, 1e-12)
    assert float(roundoff_error(shared, x, Precision(weights="t6"), estimator="E2").error.min()) > 0


def test_batches_and_single_samples_agree():
    net, x = captured("residual")
    chosen = Precision.uniform(8, Accumulation("sequential", precision(8)))
    for estimator in ESTIMATORS:
        together = roundoff_error(net, x[:3], chosen, estimator=estimator, pairs=2).error  # type: ignore[arg-type]
        for size in (1, 2):
            parts = roundoff_error(net, x[:3], chosen, estimator=estimator, pairs=2, batch_size=size)  # type: ignore[arg-type]
            close(parts.error, together, 1e-9)


# --- rules, sums, storing -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("operator", sorted(SUPPORTED))
def test_every_rule_bounds_its_operator(operator: str):
    check_rule(TABLE, operator)


def test_every_operator_has_a_rule_but_opaque_ones():
    assert set(OPERATORS) - SUPPORTED == {"opaque"}


def test_operators_without_a_rule_are_named():
    net = calls(lambda net, x: net.layer(torch.cumsum(x, 1)), layer=nn.Linear(4, 2)).double()
    with pytest.raises(UnsupportedOperator, match="cumsum"):
        roundoff_error(net, numbers(2, 4), Precision.uniform(8), estimator="E2")
    found = roundoff_error(net, numbers(2, 4), Precision.uniform(8), estimator="E3")
    assert bool((found.error > 0).all())


@pytest.mark.parametrize("name", ["t4", "fp16", "e4m3", "e5m2", "q3.5", "int4", "int5_affine", "int4_channel"])
def test_storing_is_bounded_over_the_whole_interval(name: str):
    target = as_format(name)
    value = numbers(6, 5) * 3
    for size in (0.0, 1e-9, 1e-2, 2.0):
        element = Running(value, size * numbers(6, 5, seed=1).abs())
        bound = stored(element, target).error
        for seed in range(20):
            share = 2 * torch.rand(6, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 1
            moved = value + share * element.error
            assert bool(((target.round(moved) - value).abs() <= bound + 1e-12).all())
    on_grid = target.round(value)
    if not getattr(target, "dynamic", False):
        close(stored(Running(on_grid, torch.zeros_like(on_grid)), target).error, torch.zeros_like(on_grid), 1e-12)


def test_a_scale_taken_from_the_values_grows_with_them():
    """7 may become 9: then the step is 9 / 7, and 0.64 is rounded to 0."""
    target = as_format("int4")
    element = Running(torch.tensor([7.0, 0.64]).double(), torch.tensor([2.0, 0.0]).double())
    moved = target.round(torch.tensor([9.0, 0.64]).double())
    assert moved[1] == 0
    assert float(stored(element, target).error[1]) >= 0.64


def test_nothing_is_promised_beyond_the_range():
    value = torch.tensor([60000.0, 70000.0, 65000.0], dtype=torch.float64)
    error = torch.tensor([1.0, 1.0, 1000.0], dtype=torch.float64)
    bound = stored(Running(value, error), as_format("fp16")).error
    assert torch.isinf(bound).tolist() == [False, True, True]
    layer = nn.Linear(4000, 1).double()
    chosen = Precision(accumulation=Accumulation("sequential", "fp16"))
    found = roundoff_error(layer, torch.ones(1, 4000, dtype=torch.float64), chosen, estimator="E2")
    assert torch.isinf(found.error).all()  # gamma_4001 does not exist in half precision


SUMS = {
    "linear": nn.Linear(24, 6),
    "conv": nn.Conv2d(4, 6, 3, padding=1, groups=2, stride=2),
    "conv_transpose": nn.ConvTranspose2d(4, 4, 3, stride=2, padding=1, output_padding=1),
    "avg_pool": nn.AvgPool2d(3, 2, 1),
    "adaptive_avg_pool": nn.AdaptiveAvgPool2d(4),
}


@pytest.mark.parametrize("op", SUMS)
@pytest.mark.parametrize("kind", ["sequential", "pairwise", "blocked"])
def test_variance_of_partial_sums_is_the_simulated_one(op: str, kind: str):
    from assay.graph import capture

    how, short = accumulation(kind, 9), precision(9)
    assert how is not None
    layer = SUMS[op].double().requires_grad_(False)
    x = short.round(numbers(400, *((24,) if op == "linear" else (4, 6, 6))).relu())  # half of the terms are zero
    graph = capture(layer, x[:2])
    node = next(node for node in graph if node.op == op)
    values = {**graph.parameters, graph.input: x}
    inputs = [None if name is None else values[name] for name in node.inputs]
    inputs = [value if place == 0 or value is None else short.round(value) for place, value in enumerate(inputs)]
    value = OPERATORS[op].evaluate(*inputs, **node.attributes)
    variance = accumulated_variance(node, inputs, value, how, None)
    truth = (evaluate_rounded(node, inputs, lambda: value, how) - value).square()
    assert variance.shape == value.shape
    ratio = float(variance.mean() / truth.mean())
    assert ratio == pytest.approx(1.0, abs=0.2)


def test_sums_that_cancel_are_exact():
    x = torch.tensor([[[[1.5, -1.25], [0.5, -0.75]]]], dtype=torch.float64)  # partial sums 1.5, 0.25, 0.75, 0
    pool = nn.AvgPool2d(2)
    chosen = Precision.uniform(6, Accumulation("sequential", precision(3)))
    net = nn.Sequential(pool, nn.Flatten())
    found = roundoff_error(net, x, chosen)
    assert torch.equal(simulate(net, x, chosen), net(x))
    assert float(found.error.max()) == 0.0


def test_what_a_sum_has_rounded_is_not_rounded_again_when_stored():
    net, x = captured("pooled")
    same = roundoff_error(net, x[:2], Precision.uniform(8, Accumulation("sequential", precision(8))))
    assert float(same.parts["activations"][:, :, 1:].max()) == 0.0
    finer = roundoff_error(net, x[:2], Precision.uniform(8, Accumulation("sequential", precision(12))))
    assert bool((finer.parts["activations"][:, :, 1:].amax(1) > 0).all())


def test_parameters_that_belong_to_no_layer_are_rounded_like_biases():
    net = calls(
        lambda net, x: net.layer(torch.cat([net.token.expand(x.shape[0], -1), x], 1)),
        layer=nn.Linear(5, 3),
        token=nn.Parameter(torch.randn(1, 2)),
    )
    net, x, chosen = net.double().requires_grad_(False), numbers(4, 3), Precision(biases="t3")
    variance = torch.cat([precision(3).error_variance(net.token[0]), torch.zeros(3).double()])
    expected = net.layer.weight.square() @ variance + precision(3).error_variance(net.layer.bias)
    found = roundoff_error(net, x, chosen)
    close(found.error.square(), expected.expand(4, 3), 1e-12)
    assert float(found.parts["biases"][..., 0].min()) > 0
    known = roundoff_error(net, x, chosen, estimator="E5")
    assert known.change is not None
    truth = simulate(net, x, chosen) - net(x)
    close(known.change, truth, 1e-12)
    assert bool((truth.abs() <= roundoff_error(net, x, chosen, estimator="E2").error).all())


# --- refusals -------------------------------------------------------------------------------------------------------


def test_refusals():
    net, chosen = golden(), Precision.uniform(8)
    cases = (
        ({"estimator": "E1"}, "estimator="),
        ({"estimator": "E3", "draws": 8}, "draws=8"),
        ({"estimator": "E4", "failure": 0.1}, "failure=0.1"),
        ({"pairs": 0}, "pairs=0"),
        ({"pairs": torch.tensor([[7]])}, "do not name outputs"),
        ({"pairs": torch.tensor([[0]])}, "top output itself"),
        ({"layers": {"nowhere": chosen}}, "nowhere"),
    )
    for options, message in cases:
        with pytest.raises(UsageError, match=message):
            roundoff_error(net, POINT, chosen, **options)
    with pytest.raises(UsageError, match="errors of outputs"):
        _ = roundoff_error(net, POINT, chosen).margins
