"""Where operators have kinks: the thresholds of elementwise ones, the winners of maxima."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import jvp

from assay.graph import OPERATORS, Operator

Factor = Tensor | float


@dataclass(frozen=True)
class Threshold:
    """One kink of an elementwise function.

    Attributes:
        level: value of the input at which the slope jumps.
        change: slope after it less slope before it, a number or a tensor that broadcasts against the input (n, ...).
    """

    level: float
    change: Factor


Inputs = Sequence[Tensor | None]
Thresholds = Callable[[Inputs, Mapping[str, Any]], tuple[Threshold, ...]]
Winners = Callable[[Inputs, Mapping[str, Any]], Tensor]


def _prelu(inputs: Inputs, attributes: Mapping[str, Any]) -> tuple[Threshold, ...]:
    x, weight = inputs[0], inputs[1]
    assert x is not None
    assert weight is not None
    if weight.dim() <= 1 and weight.numel() > 1:  # one slope per channel
        weight = weight.reshape(1, -1, *[1] * (x.dim() - 2))
    return (Threshold(0.0, 1.0 - weight.to(x.dtype)),)


def _clip(inputs: Inputs, attributes: Mapping[str, Any]) -> tuple[Threshold, ...]:
    low, high = attributes.get("low"), attributes.get("high")
    ends = ((low, 1.0), (high, -1.0))
    return tuple(Threshold(float(level), change) for level, change in ends if level is not None)


def _elu(inputs: Inputs, attributes: Mapping[str, Any]) -> tuple[Threshold, ...]:
    alpha, scale, inner = (float(attributes.get(name, 1.0)) for name in ("alpha", "scale", "input_scale"))
    change = scale * (1.0 - alpha * inner)
    return (Threshold(0.0, change),) if abs(change) > 1e-12 else ()


class _Thresholds(Mapping[str, Thresholds]):
    """Those written down here, and for other packages' elementwise operators those that follow from their `kinks`."""

    def __init__(self, written: Mapping[str, Thresholds]) -> None:
        self.written = dict(written)

    def __getitem__(self, name: str) -> Thresholds:
        if name in self.written:
            return self.written[name]
        row = OPERATORS.get(name)
        if row is None or not row.elementwise or not row.kinks:
            raise KeyError(name)
        return lambda inputs, attributes: _derived(row, inputs, attributes)

    def __iter__(self) -> Iterator[str]:
        yield from self.written
        yield from (n for n, row in OPERATORS.items() if row.elementwise and row.kinks and n not in self.written)

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _derived(operator: Operator, inputs: Inputs, attributes: Mapping[str, Any]) -> tuple[Threshold, ...]:
    """Changes of slope at the kinks an operator declares, from its derivative on either side of each."""
    x, rest = inputs[0], inputs[1:]
    levels = operator.kinks_of(attributes)
    if x is None:
        return tuple(Threshold(level, 1.0) for level in levels)  # asked only whether there are any
    found = []
    for level in levels:
        at = torch.full((1, *x.shape[1:]), level, dtype=torch.float64, device=x.device)
        sides = [torch.nextafter(at, torch.full_like(at, end)) for end in (-math.inf, math.inf)]
        before, after = (
            jvp(lambda v: operator.evaluate(v, *rest, **attributes), (side,), (torch.ones_like(side),))[1]
            for side in sides
        )
        if bool((after != before).any()):  # a jump of the curvature alone is no kink
            found.append(Threshold(level, after - before))
    return tuple(found)


THRESHOLDS: Mapping[str, Thresholds] = _Thresholds(
    {
        "relu": lambda i, a: (Threshold(0.0, 1.0),),
        "leaky_relu": lambda i, a: (Threshold(0.0, 1.0 - float(a.get("negative_slope", 0.01))),),
        "prelu": _prelu,
        "clip": _clip,
        "hardsigmoid": lambda i, a: (Threshold(-3.0, 1 / 6), Threshold(3.0, -1 / 6)),
        "hardswish": lambda i, a: (Threshold(-3.0, -0.5), Threshold(3.0, -0.5)),
        "elu": _elu,
        "abs": lambda i, a: (Threshold(0.0, 2.0),),
    }
)
"""Kinks of every elementwise operator that has any, from its inputs and attributes. Without inputs (None) the changes
are not meant, only that there are kinks."""


def _pool_winners(inputs: Inputs, attributes: Mapping[str, Any]) -> Tensor:
    x = inputs[0]
    assert x is not None
    dims = x.dim() - 2
    pool = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[dims - 1]
    kernel = attributes["kernel_size"]
    index = pool(
        x, kernel, attributes.get("stride") or kernel, attributes.get("padding", (0,)),
        attributes.get("dilation", (1,)), attributes.get("ceil_mode", False), return_indices=True,
    )[1]  # fmt: skip
    return _within_sample(index, x)


def _adaptive_winners(inputs: Inputs, attributes: Mapping[str, Any]) -> Tensor:
    x = inputs[0]
    assert x is not None
    pool = (F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d)[x.dim() - 3]
    return _within_sample(pool(x, attributes["output_size"], return_indices=True)[1], x)


def _within_sample(index: Tensor, x: Tensor) -> Tensor:
    """Places in a channel's plane as places in the flattened sample."""
    plane = x[0, 0].numel()
    channel = torch.arange(x.shape[1], device=x.device).reshape(1, -1, *[1] * (x.dim() - 2))
    return index + plane * channel


def _amax_winners(inputs: Inputs, attributes: Mapping[str, Any]) -> Tensor:
    x = inputs[0]
    assert x is not None
    dims = sorted(d % x.dim() for d in (attributes.get("dim") or range(1, x.dim())))
    kept = [d for d in range(x.dim()) if d not in dims]
    place = torch.arange(x[0].numel(), device=x.device).reshape(x.shape[1:]).expand(x.shape)
    order = (*kept, *dims)
    shape = (*(x.shape[d] for d in kept), -1)
    winner = x.permute(order).reshape(shape).argmax(-1, keepdim=True)
    found = place.permute(order).reshape(shape).gather(-1, winner)[..., 0]
    if attributes.get("keepdim", False):
        for d in dims:
            found = found.unsqueeze(d)
    return found


def _pair_winners(sign: int) -> Winners:
    def winners(inputs: Inputs, attributes: Mapping[str, Any]) -> Tensor:
        first, second = torch.broadcast_tensors(inputs[0], inputs[1])
        place = torch.arange(first[0].numel(), device=first.device).reshape(first.shape[1:]).expand(first.shape)
        return torch.where(sign * (first - second) >= 0, place, place + first[0].numel())

    return winners


WINNERS: Mapping[str, Winners] = MappingProxyType(
    {
        "max_pool": _pool_winners,
        "adaptive_max_pool": _adaptive_winners,
        "amax": _amax_winners,
        "maximum": _pair_winners(1),
        "minimum": _pair_winners(-1),
    }
)
"""Which input every output of a maximum takes: (n, ...) places in the flattened sample of its first input, or, for
operators of two inputs, in both (broadcast against each other) flattened and joined."""


def candidates(op: str, inputs: Inputs) -> Tensor:
    """What the places of `WINNERS` count in: (n, everything)."""
    if op in ("maximum", "minimum"):
        first, second = torch.broadcast_tensors(inputs[0], inputs[1])
        return torch.cat([one.reshape(len(one), -1) for one in (first, second)], dim=1)
    x = inputs[0]
    assert x is not None
    return x.reshape(len(x), -1)
