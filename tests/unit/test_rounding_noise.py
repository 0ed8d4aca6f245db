"""Rounding as Gaussian noise, carried by moments, beside rounding for real and the adjoint estimate."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from assay.errors import UsageError
from assay.load.demo import demo_data, demo_model
from assay.rounding_noise import rounded_decisions, rounding_noise
from assay.sensitivity import Accumulation, Precision, roundoff_error, simulate
from assay.subject import Subject


@pytest.fixture(scope="module")
def digits() -> Subject:
    return Subject.from_model(demo_model(), demo_data())


@pytest.mark.parametrize("target", ["t3", "e4m3", "bf16"])
def test_size_of_the_error_on_a_trained_network(digits: Subject, target: str) -> None:
    assert digits.data is not None
    x, precision = digits.data.inputs[:60], Precision.uniform(target)
    found = rounded_decisions(digits, x, precision, method="factor")
    real = simulate(digits, x, precision) - digits.probe(x)
    predicted = found.moments.variance.double().mean().sqrt()
    assert 0.8 < float(predicted / real.square().mean().sqrt()) < 1.25
    adjoint = roundoff_error(digits, x, precision, by_layer=False).error.square().mean().sqrt()
    assert 0.85 < float(predicted / adjoint) < 1.15


@pytest.mark.slow
def test_flips_are_expected_as_often_as_they_happen(digits: Subject) -> None:
    assert digits.data is not None
    x, precision = digits.data.inputs, Precision.uniform("t2")
    expected = float(rounded_decisions(digits, x, precision, method="factor").flip.mean())
    happened = float((simulate(digits, x, precision).argmax(1) != digits.probe(x).argmax(1)).double().mean())
    assert happened > 0.01
    assert 1 / 3 < expected / happened < 3


@pytest.mark.parametrize("bias", [True, False])
def test_a_norm_counts_as_part_of_its_layer(bias: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3, bias=bias), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(27, 4))
    for name in ("weight", "bias", "running_mean"):
        nn.init.normal_(getattr(model[1], name))
    nn.init.uniform_(model[1].running_var, 0.1, 4.0)
    model, x, precision = model.eval(), torch.randn(12, 1, 5, 5), Precision.uniform("t6")
    noise = rounding_noise(model, x, precision)
    assert {"0.weight", "0.bias" if bias else "1.bias", "4.weight", "4.bias"} <= set(noise)
    found = rounded_decisions(model, x, precision, method="exact").moments.variance.double().sqrt()
    adjoint = roundoff_error(model, x, precision, by_layer=False).error
    ratio = found / adjoint
    assert 0.9 < float(ratio.median()) < 1.1


def test_nothing_is_rounded_where_everything_is_exact(digits: Subject) -> None:
    assert digits.data is not None
    x = digits.data.inputs[:2]
    assert rounding_noise(digits, x, Precision()) == {}
    assert float(rounded_decisions(digits, x, Precision()).moments.variance.max()) == 0


def test_accumulation_is_refused(digits: Subject) -> None:
    assert digits.data is not None
    precision = Precision(weights="bf16", accumulation=Accumulation("sequential", "fp32"))
    with pytest.raises(UsageError, match="accumulation"):
        rounding_noise(digits, digits.data.inputs[:1], precision)
