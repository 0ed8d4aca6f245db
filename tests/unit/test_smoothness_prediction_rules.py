"""Rules of the domain `kinks` against draws, the Gaussian plug-in along paths, and tables of agreement."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.support.smoothness_prediction import (
    GaussianPath,
    counted,
    he_mlp,
    random_cnn,
    slope_variance,
    smooth_field,
    square_root,
)
from torch import Tensor, nn

from assay.errors import UnsupportedOperator, UsageError
from assay.grade import Grade
from assay.graph import OPERATORS, Node, TensorSpec
from assay.interpret import check_rule
from assay.smoothness.kinks import Smp
from assay.smoothness.network import Network
from assay.smoothness.prediction import Process, agreement, plug_in, predict_network
from assay.smoothness.prediction.conformance import _unlike, conformance
from assay.smoothness.prediction.laws import Bent, Element, Inputs
from assay.smoothness.prediction.rules import TABLE, extreme

BENT = ("relu", "leaky_relu", "prelu", "clip", "abs", "hardsigmoid", "hardswish", "elu", "tanh", "maximum", "minimum")
STRAIGHT = ("linear", "conv", "batch_norm", "avg_pool", "add", "cat", "window")


@pytest.mark.parametrize("operator", [*BENT, *STRAIGHT])
def test_rules_conform(operator):
    check_rule(TABLE, operator)


def test_which_operators_have_a_rule():
    """Smooth ones without a rule are replaced by tangents; pools are lowered; amax is refused."""
    without = {name for name in OPERATORS if TABLE.lookup(name) is None}
    assert {"max_pool", "adaptive_max_pool", "amax"} <= without
    assert not without & {*BENT, *STRAIGHT, "conv_transpose", "resize", "mean", "gelu", "silu", "softplus", "sigmoid"}


def test_a_wrong_rule_is_found_out():
    rule = TABLE.lookup("relu")
    assert rule is not None
    sample = OPERATORS["relu"].samples(torch.Generator().manual_seed(0))[0]

    def changed(**parts: Any):
        def function(inputs: Inputs) -> Bent:
            law = rule.function(inputs)
            assert isinstance(law, Bent)
            return replace(law, **{name: change(getattr(law, name)) for name, change in parts.items()})

        return replace(rule, function=function)

    assert conformance(changed(), OPERATORS["relu"], sample) == []
    wrong = (
        changed(mean=lambda m: m + 0.2),
        changed(variance=lambda v: 1.5 * v),
        changed(squares=lambda s: [[1.5 * s[0][0]]]),
        changed(pairs=lambda f: lambda: (1.5 * f()[0], f()[1])),
        changed(pairs=lambda f: lambda: (f()[0], [[0.5 * f()[1][0][0]]])),
    )
    for rule_ in wrong:
        assert conformance(rule_, OPERATORS["relu"], sample)
    straight = TABLE.lookup("linear")
    assert straight is not None
    sample = OPERATORS["linear"].samples(torch.Generator().manual_seed(0))[0]
    off = replace(straight, function=lambda i: replace(straight.function(i), mean=straight.function(i).mean + 0.1))
    assert conformance(off, OPERATORS["linear"], sample)


@pytest.mark.parametrize("operator", ["maximum", "minimum"])
def test_two_correlated_tensors(operator):
    """Winners' joint probabilities, for inputs whose values and slopes are correlated across both."""
    generator = torch.Generator().manual_seed(2)
    count, draws = 3, 60_000
    roots = torch.randn((2, 2 * count, 2 * count), generator=generator, dtype=torch.float64)
    joint, slopes = (root @ root.T for root in roots)
    means = 0.7 * torch.randn((2, 1, count), generator=generator, dtype=torch.float64)
    cut = (slice(0, count), slice(count, 2 * count))
    inputs = Inputs(
        Node("sample", operator, (), {}, TensorSpec((), torch.float64)),
        OPERATORS[operator],
        [Element("a", means[0], True), Element("b", means[1], True)],
        {},
        lambda a, b: joint[cut[a], cut[b]].diagonal(),
        lambda a, b: joint[cut[a], cut[b]],
    )
    noise = torch.randn((2, draws, 2 * count), generator=generator, dtype=torch.float64)
    z, moved = noise[0] @ roots[0].T + means.reshape(-1), noise[1] @ roots[1].T
    first = z[:, cut[0]] > z[:, cut[1]] if operator == "maximum" else z[:, cut[0]] < z[:, cut[1]]
    y, slope = (torch.where(first, v[:, cut[0]], v[:, cut[1]]) for v in (z, moved))
    law: Bent = extreme(inputs)
    assert _unlike(law, y, slope, [[slopes[cut[a], cut[b]] for b in (0, 1)] for a in (0, 1)]) == []


def test_plug_in_on_random_networks():
    """Per layer within 12 % of what is counted: units of random networks are nearly Gaussian."""
    path = GaussianPath((96,), 5, 40.0)
    network = Network.of(he_mlp(96, 3, 1), torch.zeros(1, 96))
    found = plug_in(network, path, samples=400)
    parts = counted(network, *path.at(torch.linspace(0, 40, 1601, dtype=torch.float64)))
    assert (found.label, found.grade) == ("Gaussian plug-in", Grade.STATISTICAL)
    for layer, part in parts.items():
        assert 40 * float(found.by_layer[layer]) == pytest.approx(float(part), rel=0.12)


def test_plug_in_on_pools():
    """Windows have the law at their own measured moments; ties where the ReLU is silent are in the mean derivative."""
    field = smooth_field(8, 1.5)
    path = GaussianPath((1, 8, 8), 2, 60.0, square_root(field))
    network = Network.of(random_cnn(1, size=8, channels=4), torch.zeros(1, 1, 8, 8))
    found = plug_in(network, path, samples=600)
    parts = counted(network, *path.at(torch.linspace(0, 60, 1801, dtype=torch.float64)), rows=256)
    assert set(parts) == set(found.by_layer)
    assert 60 * float(found.value) == pytest.approx(float(sum(parts.values())), rel=0.25)  # type: ignore[arg-type]


def test_plug_in_fails_where_units_are_not_gaussian_and_is_exact_where_they_are():
    """A unit that rests away from its threshold most of the time: the Gaussian at its moments sees kinks that are not
    there."""

    class Loop:
        start, end, knots = 0.0, 1.0, ()

        def at(self, t: Tensor, *, side: str = "right") -> tuple[Tensor, Tensor]:
            angle = 2 * torch.pi * t.unsqueeze(1)
            return 1.5 + torch.cos(angle), -2 * torch.pi * torch.sin(angle)

    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.ReLU(), nn.Linear(1, 1, bias=False))
    with torch.no_grad():
        for weight in model.parameters():
            weight.fill_(1.0)
    found = plug_in(Network.of(model, torch.zeros(1, 1)), Loop(), samples=100)
    assert float(found.value) > 1  # in truth it never crosses
    with pytest.raises(UsageError):
        plug_in(Network.of(model, torch.zeros(1, 1)), Loop(), samples=1)


def test_plug_in_refuses_windows_of_unequal_size():
    model = nn.Sequential(nn.AdaptiveMaxPool2d(3), nn.Flatten(), nn.Linear(9, 1))
    network = Network.of(model, torch.zeros(1, 1, 7, 7))
    with pytest.raises(UnsupportedOperator):
        plug_in(network, GaussianPath((1, 7, 7), 0, 1.0), samples=4)


def test_agreement_lists_every_block_of_both():
    network = Network.of(he_mlp(64, 2, 3), torch.zeros(1, 64))
    path = GaussianPath((64,), 1, 30.0)
    parts = counted(network, *path.at(torch.linspace(0, 30, 1201, dtype=torch.float64)))
    prediction = predict_network(network, Process(torch.zeros(64), 1.0, slope_variance()))
    value = torch.stack(list(parts.values())).sum(0)
    zero, none = torch.zeros(1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)
    measured = Smp(
        value,
        Grade.STATISTICAL,
        "event",
        0.0,
        1.0,
        zero,
        zero,
        zero,
        {**parts, "other": zero},
        30.0,
        1201,
        zero,
        none,
        none,
    )
    rows = {row.layer: row for row in agreement(prediction, measured)}
    assert list(rows) == ["1 (relu)", "3 (relu)", "other", "all"]
    for layer in parts:
        assert float(rows[layer].ratio) == pytest.approx(1, abs=0.2)
        assert float(rows[layer].predicted) == pytest.approx(30 * float(prediction.by_layer[layer]))
    assert float(rows["all"].measured) == float(value)
    assert bool(rows["other"].ratio.isnan())
    assert float(rows["other"].predicted) == 0
