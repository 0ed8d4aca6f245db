"""The check of a rule of the table `kinks`: linear maps against differences, switches against draws."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import jvp, vmap

from assay.errors import UnsupportedOperator
from assay.graph import OPERATORS, Node, Operator, Sample, TensorSpec
from assay.interpret.rules import Rule as Registered
from assay.smoothness.prediction.laws import Bent, Element, Inputs, Rule, Straight

_DRAWS = 8_000
_BAND = 6.0
"""Standard errors allowed: a right rule fails once in 10^8 comparisons."""
_RARE = 0.2


def conformance(rule: Registered[Rule], operator: Operator, sample: Sample) -> list[str]:
    """What is wrong with a rule on one sample of its operator.

    Args:
        rule: of the table `kinks`.
        operator: its row.
        sample: inputs and attributes.

    Returns:
        One sentence for each fault.
    """
    floating = [i for i, v in enumerate(sample.inputs) if v is not None and v.dtype.is_floating_point]
    choices = dict.fromkeys([*(frozenset({i}) for i in floating), frozenset(floating)])
    return [
        f"inputs {sorted(varying)}: {fault}"
        for varying in choices
        if varying and rule.applies(varying)
        for fault in _faults(rule, operator, sample, sorted(varying))
    ]


def _faults(rule: Registered[Rule], operator: Operator, sample: Sample, varying: list[int]) -> list[str]:
    generator = torch.Generator().manual_seed(11)
    values: list[Any] = list(sample.inputs)
    sizes = []
    for place in varying:
        centre = values[place]
        sizes.append(centre.numel())
        values[place] = Element(str(place), centre.double(), True)
    total = sum(sizes)
    factors = torch.randn((2, total, total + 2), generator=generator, dtype=torch.float64) / total**0.5
    joint, slopes = (factor @ factor.T for factor in factors)
    ends = torch.tensor([0, *sizes]).cumsum(0).tolist()
    cut = {place: slice(ends[k], ends[k + 1]) for k, place in enumerate(varying)}
    inputs = Inputs(
        Node("sample", operator.name, (), {}, TensorSpec((), torch.float64)),
        OPERATORS[operator.name],
        values,
        dict(sample.attributes),
        lambda a, b: joint[cut[a], cut[b]].diagonal(),
        lambda a, b: joint[cut[a], cut[b]],
    )
    if len(varying) > 1 and not operator.linear_in and len(set(sizes)) > 1:
        return []
    try:
        found = rule.function(inputs)
    except UnsupportedOperator:
        return []  # a rule may refuse, aloud, what it cannot do
    means = [values[place].mean for place in varying]
    if isinstance(found, Straight):
        return _crooked(found, inputs, means, generator)
    noise = torch.randn((2, _DRAWS, total + 2), generator=generator, dtype=torch.float64)
    draws, motions = noise[0] @ factors[0].T, noise[1] @ factors[1].T
    steps = [draws[:, cut[p]].reshape(-1, *m.shape) for p, m in zip(varying, means, strict=True)]
    moves = [motions[:, cut[p]].reshape(-1, *m.shape) for p, m in zip(varying, means, strict=True)]

    def along(*both: Tensor) -> tuple[Tensor, Tensor]:
        half = len(both) // 2
        points = tuple(m + s for m, s in zip(means, both[:half], strict=True))
        value, slope = jvp(inputs.evaluate, points, both[half:])[:2]
        return value, slope

    y, moved = (part.reshape(_DRAWS, -1) for part in vmap(along)(*steps, *moves))
    return _unlike(found, y, moved, [[slopes[cut[a], cut[b]] for b in varying] for a in varying])


def _crooked(found: Straight, inputs: Inputs, means: Sequence[Tensor], generator: torch.Generator) -> list[str]:
    steps = [torch.randn((2, *m.shape), generator=generator, dtype=torch.float64) for m in means]
    image = found.linear.apply(*steps)
    truth = torch.stack(
        [inputs.evaluate(*(m + s[k] for m, s in zip(means, steps, strict=True))) - found.mean for k in range(2)]
    )
    back = torch.randn(image.shape, generator=generator, dtype=torch.float64)
    pulled = sum(float((a * b).sum()) for a, b in zip(found.linear.transpose(back), steps, strict=True))
    faults = []
    if not torch.allclose(found.mean, inputs.evaluate(*means)):
        faults.append("the mean is not the value at the mean")
    if not torch.allclose(image, truth, atol=1e-9):
        faults.append("the map is not the operator's linear part")
    if abs(pulled - float((image * back).sum())) > 1e-8 * (1 + abs(pulled)):
        faults.append("the transpose does not belong to the map")
    return faults


def _unlike(found: Bent, y: Tensor, moved: Tensor, slopes: list[list[Tensor]]) -> list[str]:
    values, joint = found.pairs()
    values = values - torch.diag(values.diagonal()) + torch.diag(found.variance)
    speeds = torch.zeros_like(values)
    for a, row in enumerate(joint):
        for b, factor in enumerate(row):
            full = factor - torch.diag(factor.diagonal()) + torch.diag(found.squares[a][b])
            speeds = speeds + full * slopes[a][b]
    centred = y - y.mean(0)
    checks = (
        ("mean", found.mean.reshape(-1), y.mean(0), y.var(0)),
        ("covariance", values, *_products(centred)),
        ("slope covariance", speeds, *_products(moved)),
    )
    faults = []
    for name, claimed, drawn, variance in checks:
        least = _RARE * float(claimed.abs().max())  # what happens too rarely to show in the draws' own variance
        error = ((variance.clamp(min=0) + least**2) / len(y)).sqrt() + 1e-9
        worst = float(((drawn - claimed).abs() / error).max())
        if not worst < _BAND:
            faults.append(f"{name} off by {worst:.1f} standard errors")
    return faults


def _products(x: Tensor) -> tuple[Tensor, Tensor]:
    """Means and variances of the products of all pairs of columns."""
    mean = x.T @ x / len(x)
    return mean, x.square().T @ x.square() / len(x) - mean.square()
