"""Every moments rule against sampling and its map against its transpose; and the check itself against wrong rules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from assay.grade import Grade
from assay.graph import OPERATORS
from assay.interpret import RuleTable, check_rule
from assay.moments.conformance import _groups, conformance
from assay.moments.rules import TABLE
from assay.moments.rules.maximum import maximum
from assay.moments.rules.piecewise import relu
from assay.moments.rules.product import product
from assay.moments.rules.table import affine, quadrature
from assay.moments.smoothed import Operands, Smoothed

COVERED = [name for name in OPERATORS if TABLE.lookup(name) is not None]
WITHOUT = {
    "vector_norm",
    "log_softmax",
    "log",
    "power",
    "amax",
    "opaque",
}


def test_which_operators_have_a_rule() -> None:
    lowered = {"max_pool", "adaptive_max_pool"}
    assert set(OPERATORS) - set(COVERED) - lowered == WITHOUT


@pytest.mark.parametrize("operator", COVERED)
def test_every_rule_conforms(operator: str) -> None:
    check_rule(TABLE, operator)


@pytest.mark.parametrize("operator", COVERED)
def test_every_rule_was_tried(operator: str) -> None:
    calls = []
    rule = TABLE.lookup(operator)
    assert rule is not None

    def counting(operands: Operands) -> Smoothed:
        calls.append(operands.varying)
        return rule.function(operands)

    row = OPERATORS[operator]
    for sample in row.samples(torch.Generator().manual_seed(0)):
        conformance(replace(rule, function=counting), row, sample)
    assert len(calls) >= 2


def test_the_affine_rule_of_a_product_conforms() -> None:
    """`mul` has a rule of its own for two random factors; with one fixed, the derived rule runs."""
    rule = TABLE.lookup("mul", frozenset({1}))
    assert rule is not None
    assert rule.grade is Grade.EXACT
    row = OPERATORS["mul"]
    (sample, *_) = row.samples(torch.Generator().manual_seed(0))
    assert frozenset({1}) in _groups(rule, row, 2)
    assert conformance(rule, row, sample) == []


class Bent:
    """A linear map with something wrong in it."""

    def __init__(self, inner: Any, **changes: Callable[..., Any]) -> None:
        self.inner = inner
        self.changes = changes

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.inner, name)
        change = self.changes.get(name)
        return method if change is None else lambda *arguments: change(method(*arguments))


def wrong(
    rule: Callable[[Operands], Smoothed], change: Callable[[Smoothed], Smoothed]
) -> Callable[[Operands], Smoothed]:
    return lambda operands: change(rule(operands))


def shifted(amount: float) -> Callable[[Smoothed], Smoothed]:
    return lambda smoothed: replace(smoothed, mean=smoothed.mean + amount)


def bent(**changes: Callable[..., Any]) -> Callable[[Smoothed], Smoothed]:
    return lambda smoothed: replace(smoothed, linear=Bent(smoothed.linear, **changes))


def times(factor: float) -> Callable[[Any], Any]:
    return lambda value: tuple(factor * v for v in value) if isinstance(value, tuple) else factor * value


def innovation(factor: float) -> Callable[[Smoothed], Smoothed]:
    def change(smoothed: Smoothed) -> Smoothed:
        return replace(smoothed, innovation=None if smoothed.innovation is None else factor * smoothed.innovation)

    return change


def scaled_map(factor: float) -> Callable[[Smoothed], Smoothed]:
    return bent(apply=times(factor), transpose=times(factor), squared=times(factor**2))


def squashed(value: Tensor) -> Tensor:
    return value + 0.01 * value.square()


def wrong_where_noisy(operands: Operands) -> Smoothed:
    """Right without noise: the value at the mean."""
    return replace(relu(operands), mean=torch.relu(operands.mean()))


WRONG = [
    ("relu", relu, shifted(0.05), "zero variance does not give"),
    ("relu", wrong_where_noisy, lambda s: s, "mean differs"),
    ("relu", relu, scaled_map(1.2), "not the best linear fit"),
    ("relu", relu, innovation(1.3), "innovation variance differs"),
    ("relu", relu, innovation(0.0), "innovation variance differs"),
    ("relu", relu, bent(transpose=times(-1)), "transpose does not belong"),
    ("relu", relu, bent(squared=lambda v: v.sqrt()), "squared coefficients"),
    ("relu", relu, bent(apply=squashed), "map is not linear"),
    ("gelu", quadrature, scaled_map(0.9), "not the best linear fit"),
    ("tanh", quadrature, innovation(1.5), "innovation variance differs"),
    ("maximum", maximum, scaled_map(1.2), "not the best linear fit"),
    ("maximum", maximum, innovation(2.0), "innovation variance differs"),
    ("mul", product, innovation(0.5), "innovation variance differs"),
    ("mul", product, bent(transpose=lambda pulled: pulled[::-1]), "transpose does not belong"),
    ("linear", affine, shifted(0.05), "zero variance does not give"),
    ("linear", affine, bent(squared=times(1.01)), "squared coefficients"),
    (
        "linear",
        affine,
        lambda s: replace(s, innovation=torch.full_like(s.mean, 0.01)),
        "an exact rule has an innovation",
    ),
    ("conv", affine, bent(transpose=times(1.01)), "transpose does not belong"),
    ("batch_norm", affine, scaled_map(1.01), "do not give the operator's values"),
]


@pytest.mark.parametrize(("operator", "rule", "change", "sentence"), WRONG, ids=[f"{w[0]}: {w[3]}" for w in WRONG])
def test_wrong_rules_are_caught(
    operator: str, rule: Callable[[Operands], Smoothed], change: Callable[[Smoothed], Smoothed], sentence: str
) -> None:
    table: RuleTable[Any] = RuleTable("trial", conformance=conformance)
    registered = TABLE.lookup(operator)
    assert registered is not None
    table.rule(operator, grade=registered.grade, applies=registered.applies)(wrong(rule, change))
    with pytest.raises(AssertionError, match=f"rule trial/{operator}:") as caught:
        check_rule(table, operator)
    assert sentence in str(caught.value)
    assert "sample 0: inputs [" in str(caught.value)


def test_an_approximate_rule_need_not_agree_with_sampling() -> None:
    table: RuleTable[Any] = RuleTable("trial", conformance=conformance)
    table.rule("relu", grade=Grade.LINEARISED)(wrong(relu, innovation(0.0)))
    check_rule(table, "relu")


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("operator", ["relu", "leaky_relu", "clip", "maximum", "minimum", "mul", "gelu"])
def test_other_inputs_conform_too(operator: str, seed: int) -> None:
    check_rule(TABLE, operator, seed=seed)
