"""Conformance of a moments rule: what `check_rule` tries on every sample of the rule's operator.

With no variance the rule must evaluate the operator; its map must be linear, have the transpose it claims and carry
variances of independent elements right; its mean, cross-covariance and variance must agree with sampling where the
rule claims a
closed form.
"""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from assay.grade import Grade
from assay.graph import Node, Operator, Sample, TensorSpec

if TYPE_CHECKING:
    from assay.interpret.rules import Rule

_DRAWS = 10_000
_SIGMAS = 6.0
"""False-alarm rate per number: 2e-9 for a normal statistic."""


def conformance(rule: Rule[Any], operator: Operator, sample: Sample) -> list[str]:
    """Everything that is wrong with a rule on one sample, one sentence each."""
    wrong: list[str] = []
    for varying in _groups(rule, operator, len(sample.inputs)):
        chosen = [sample.inputs[i] for i in varying]
        if rule.grade is Grade.EXACT:
            fits = all(t is not None and t.is_floating_point() and t.shape[0] == chosen[0].shape[0] for t in chosen)  # type: ignore[union-attr]
        else:  # elementwise gains: the batch is the first axis of every random input and of the result
            fits = all(t is not None and t.is_floating_point() and _leads(t, sample) for t in chosen)
        if fits:
            wrong += _check_group(rule, operator, sample, varying)
    return wrong


def _leads(value: Tensor, sample: Sample) -> bool:
    first = sample.inputs[0]
    return first is not None and value.dim() == first.dim() and value.shape[0] == first.shape[0]


def _groups(rule: Rule[Any], operator: Operator, count: int) -> list[frozenset[int]]:
    candidates = [frozenset(group) for size in {1, 2, count} for group in combinations(range(count), size)]
    fits = {group for group in candidates if rule.applies(group)}
    return sorted(fits, key=sorted)


def _check_group(rule: Rule[Any], operator: Operator, sample: Sample, varying: frozenset[int]) -> list[str]:
    from assay.covariance import LowRankPlusDiagonal
    from assay.moments.factor import FactorDomain, FactorElement
    from assay.moments.smoothed import Operands

    generator = torch.Generator().manual_seed(17)
    domain = FactorDomain()
    attributes = dict(sample.attributes)
    node = Node("sample", operator.name, (), attributes, TensorSpec((), torch.float64))

    def smooth(size: float) -> tuple[Any, Operands]:
        values: list[Any] = list(sample.inputs)
        for position in varying:
            mean = values[position]
            factor = size * torch.randn((2, *mean.shape), generator=generator, dtype=mean.dtype)
            rest = size**2 * torch.rand(mean.shape, generator=generator, dtype=mean.dtype)
            values[position] = FactorElement(f"input{position}", mean, LowRankPlusDiagonal(factor, rest))
        operands = Operands(node, operator, values, attributes, domain.between, domain.draw)
        return rule.function(operands), operands

    wrong = []
    point, _ = smooth(0.0)
    truth = operator.evaluate(*sample.inputs, **attributes)
    if not torch.allclose(point.mean, truth, rtol=1e-9, atol=1e-9):
        wrong.append(f"inputs {sorted(varying)}: zero variance does not give the operator's value")
    smoothed, operands = smooth(0.4)
    wrong += _check_map(smoothed, operands, generator)
    if rule.grade is Grade.EXACT:
        wrong += _check_affine(smoothed, operands)
    if rule.grade is Grade.CLOSED_FORM:
        wrong += _check_moments(smoothed, operands)
    return [
        sentence if sentence.startswith("inputs") else f"inputs {sorted(varying)}: {sentence}" for sentence in wrong
    ]


def _check_map(smoothed: Any, operands: Any, generator: torch.Generator) -> list[str]:
    wrong = []
    means = [element.mean for element in operands.elements]
    columns = [torch.randn((3, *m.shape), generator=generator, dtype=m.dtype) for m in means]
    image = smoothed.linear.apply(*columns)
    doubled = smoothed.linear.apply(*(2 * c for c in columns))
    if not torch.allclose(doubled, 2 * image, rtol=1e-9, atol=1e-9):
        wrong.append("the map is not linear")
    cotangents = torch.randn(image.shape, generator=generator, dtype=image.dtype)
    pulled = smoothed.linear.transpose(cotangents)
    left = (cotangents * image).sum()
    right = sum((p * c).sum() for p, c in zip(pulled, columns, strict=True))
    if not torch.allclose(left, torch.as_tensor(right), rtol=1e-8, atol=1e-8):
        wrong.append("the transpose does not belong to the map")
    if operands.operator.squared is not None or operands.operator.elementwise:
        wrong += _check_squared(smoothed, means)
    return wrong


def _check_squared(smoothed: Any, means: list[Tensor]) -> list[str]:
    """Truth: the map applied to one unit vector per element."""
    total: Tensor | float = 0.0
    for position, mean in enumerate(means):
        units = torch.eye(mean.numel(), dtype=mean.dtype).reshape(-1, *mean.shape)
        stacks = [
            units if i == position else torch.zeros((len(units), *m.shape), dtype=m.dtype) for i, m in enumerate(means)
        ]
        total = total + smoothed.linear.apply(*stacks).square().sum(0)
    ones = smoothed.linear.squared(*(torch.ones_like(m) for m in means))
    same = torch.allclose(
        ones.expand(smoothed.mean.shape), torch.as_tensor(total).expand(smoothed.mean.shape), rtol=1e-8, atol=1e-10
    )
    return [] if same else ["variances of independent elements are not carried by squared coefficients"]


def _check_affine(smoothed: Any, operands: Any) -> list[str]:
    """An exact rule says that the map gives every value, and leaves nothing over."""
    draws = operands.draw(operands.elements, 5)
    values = torch.stack(
        [operands.function(*(e.mean + d[i] for e, d in zip(operands.elements, draws, strict=True))) for i in range(5)]
    )
    wrong = []
    if not torch.allclose(values, smoothed.mean + smoothed.linear.apply(*draws), rtol=1e-9, atol=1e-9):
        wrong.append("the mean and the map do not give the operator's values")
    if smoothed.innovation is not None and bool((smoothed.innovation != 0).any()):
        wrong.append("an exact rule has an innovation")
    return wrong


def _check_moments(smoothed: Any, operands: Any) -> list[str]:
    draws = operands.draw(operands.elements, _DRAWS)
    values = torch.func.vmap(
        lambda *d: operands.function(*(e.mean + x for e, x in zip(operands.elements, d, strict=True))), chunk_size=1000
    )(*draws)
    left = values - smoothed.mean
    explained = smoothed.linear.apply(*draws)
    innovation = (
        torch.zeros_like(smoothed.mean)
        if smoothed.innovation is None
        else smoothed.innovation.expand(smoothed.mean.shape)
    )
    wrong = []
    if not _agree(left, torch.zeros_like(smoothed.mean)):
        wrong.append("the mean differs from sampling")
    rest = left - explained
    if not _agree(rest * explained, torch.zeros_like(smoothed.mean)):
        wrong.append("the map is not the best linear fit (cross-covariance differs from sampling)")
    if not _agree(rest.square(), innovation):
        wrong.append("the innovation variance differs from sampling")
    return wrong


def _agree(samples: Tensor, expected: Tensor) -> bool:
    gap = (samples.mean(0) - expected).abs()
    # an event so rare that the draws miss it (a unit that is almost never active) leaves no trace in their
    # deviation: allow ten
    # expected ones of the largest size seen anywhere; all of them are missed with a probability of e^-10
    trace = 10 * float(samples.abs().max()) / samples.shape[0] + 1e-9
    allowed = _SIGMAS * samples.std(0) / samples.shape[0] ** 0.5 + 1e-4 * expected.abs() + trace
    return bool((gap <= allowed).all())
