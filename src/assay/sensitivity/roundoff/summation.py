"""Inner products that really round: every product and every partial sum, in the order an `Accumulation` says.

Nothing is unfolded: a term of a convolution is one shifted view of the input, and the results are made in chunks that
fit in a processor's cache.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from assay.graph import Node
from assay.graph.operators.pooling import OPERATORS as POOLING
from assay.sensitivity.roundoff.accumulation import Accumulation

CHUNK = 2**16
"""Results computed at a time."""

_AVERAGE = next(row.evaluate for row in POOLING if row.name == "avg_pool")

MULTIPLIED = {"linear": (0, 1), "conv": (0, 1), "conv_transpose": (0, 1), "matmul": (0, 1), "addmm": (1, 2)}
"""Positions of the operands whose products a node sums; of other summing nodes it is the first."""


def accumulate(term: Callable[[int], Tensor], count: int, accumulation: Accumulation) -> Tensor:
    """Sum of `count` terms, every partial sum rounded.

    Args:
        term: the term of an index, already rounded, in double precision.
        count: at least 1.
        accumulation: order and format.

    Returns:
        The sum, in the format.
    """
    assert accumulation.format is not None
    rounded = accumulation.format.round

    def in_order(indices: range) -> Tensor:
        total = term(indices[0])
        for index in indices[1:]:
            total = rounded(total + term(index))
        return total

    if accumulation.kind == "blocked":
        assert accumulation.block is not None
        blocks = [range(first, min(first + accumulation.block, count)) for first in range(0, count, accumulation.block)]
        total = in_order(blocks[0])
        for block in blocks[1:]:
            total = rounded(total + in_order(block))
        return total
    if accumulation.kind != "pairwise":
        return in_order(range(count))
    waiting: list[tuple[int, Tensor]] = []  # sums of 2^level terms, largest first
    for index in range(count):
        level, total = 0, term(index)
        while waiting and waiting[-1][0] == level:
            level, total = level + 1, rounded(waiting.pop()[1] + total)
        waiting.append((level, total))
    total = waiting.pop()[1]
    while waiting:
        total = rounded(waiting.pop()[1] + total)
    return total


def evaluate_rounded(
    node: Node, inputs: Sequence[Tensor | None], exact: Callable[[], Tensor], how: Accumulation
) -> Tensor:
    """Value of a node whose products and sums are rounded.

    Dense layers, convolutions, matrix products, sums and averages are summed term by term; any other operation is exact
    and rounded once.

    Args:
        node: with attributes resolved for this batch.
        inputs: its operands in double precision.
        exact: its exact value.
        how: order and format; not "exact".

    Returns:
        The value, in double precision, in the accumulation's format.
    """
    assert how.format is not None
    rule = _RULES.get(node.op)
    if rule is None:
        return how.format.round(exact())
    if how.low is not None:
        low, multiplied = how.low, MULTIPLIED.get(node.op, (0,))
        inputs = [low.round(v) if v is not None and place in multiplied else v for place, v in enumerate(inputs)]
    return rule(how, inputs, node.attributes)


def _with_bias(total: Tensor, bias: Tensor | None, axis: int, how: Accumulation) -> Tensor:
    assert how.format is not None
    if bias is None:
        return total
    return how.format.round(total + bias.reshape((-1,) + (1,) * (total.dim() - 1 - axis)))


def _operands(inputs: Sequence[Any]) -> tuple[Tensor, Tensor, Tensor | None]:
    return inputs[0], inputs[1], inputs[2] if len(inputs) > 2 else None


def _linear(how: Accumulation, inputs: Sequence[Any], attributes: Any) -> Tensor:
    x, weight, bias = _operands(inputs)
    rows = x.reshape(-1, 1, x.shape[-1])
    taps = [(place, ()) for place in range(x.shape[-1])]
    total = _patches(how, rows, weight.unsqueeze(0), taps, (), ()).reshape(*x.shape[:-1], -1)
    return _with_bias(total, bias, total.dim() - 1, how)


def _conv(how: Accumulation, inputs: Sequence[Any], attributes: Any) -> Tensor:
    x, weight, bias = _operands(inputs)
    sizes = weight.shape[2:]
    dims = len(sizes)
    stride, dilation = (_spread(attributes.get(key, 1), dims) for key in ("stride", "dilation"))
    padding = attributes.get("padding", 0)
    reach = [gap * (size - 1) for gap, size in zip(dilation, sizes, strict=True)]
    if isinstance(padding, str):
        sides = [(r // 2, r - r // 2) if padding == "same" else (0, 0) for r in reach]
    else:
        sides = [(pad, pad) for pad in _spread(padding, dims)]
    x = F.pad(x, [pad for pair in reversed(sides) for pad in pair])
    counts = tuple((size - r - 1) // step + 1 for size, r, step in zip(x.shape[2:], reach, stride, strict=True))
    groups = attributes.get("groups", 1)
    grid = itertools.product(range(weight.shape[1]), itertools.product(*(range(size) for size in sizes)))
    taps = [(c, tuple(i * gap for i, gap in zip(place, dilation, strict=True))) for c, place in grid]
    grouped = x.reshape(x.shape[0], groups, -1, *x.shape[2:])
    total = _patches(how, grouped, weight.reshape(groups, weight.shape[0] // groups, -1), taps, stride, counts)
    return _with_bias(total.flatten(1, 2), bias, 1, how)


def _conv_transpose(how: Accumulation, inputs: Sequence[Any], attributes: Any) -> Tensor:
    """Results in phases of the stride: those of one phase meet the same taps of the kernel."""
    x, weight, bias = _operands(inputs)
    sizes, dims = weight.shape[2:], weight.dim() - 2
    stride, padding, extra, dilation = (
        _spread(attributes.get(key, default), dims)
        for key, default in (("stride", 1), ("padding", 0), ("output_padding", 0), ("dilation", 1))
    )
    groups = attributes.get("groups", 1)
    outs = tuple(
        (n - 1) * s - 2 * p + d * (k - 1) + e + 1
        for n, s, p, d, k, e in zip(x.shape[2:], stride, padding, dilation, sizes, extra, strict=True)
    )
    margin = [d * (k - 1) + out for d, k, out in zip(dilation, sizes, outs, strict=True)]  # more than is ever read
    padded = F.pad(x, [pad for m in reversed(margin) for pad in (m, m)])
    grouped = padded.reshape(x.shape[0], groups, -1, *padded.shape[2:])
    kernel = weight.reshape(groups, weight.shape[0] // groups, -1, *sizes)  # (groups, in, out, ...)
    total = x.new_zeros(x.shape[0], groups, kernel.shape[2], *outs)
    for phase in itertools.product(*(range(min(s, out)) for s, out in zip(stride, outs, strict=True))):
        places = [
            [(t, (r + p - t * d) // s + m) for t in range(k) if (r + p - t * d) % s == 0]
            for r, s, p, d, k, m in zip(phase, stride, padding, dilation, sizes, margin, strict=True)
        ]
        grid = list(itertools.product(range(kernel.shape[1]), itertools.product(*places)))
        if not grid:
            continue
        taps = [(c, tuple(offset for _, offset in place)) for c, place in grid]
        weights = torch.stack([kernel[(slice(None), c, slice(None), *(t for t, _ in place))] for c, place in grid], -1)
        counts = tuple(len(range(r, out, s)) for r, out, s in zip(phase, outs, stride, strict=True))
        part = _patches(how, grouped, weights, taps, (1,) * dims, counts)
        total[(..., *(slice(r, None, s) for r, s in zip(phase, stride, strict=True)))] = part
    return _with_bias(total.flatten(1, 2), bias, 1, how)


def _patches(
    how: Accumulation,
    x: Tensor,
    weight: Tensor,
    taps: Sequence[tuple[int, tuple[int, ...]]],
    step: tuple[int, ...],
    counts: tuple[int, ...],
) -> Tensor:
    """Sum over taps k of x[:, g, channel_k, offset_k + step * place] * weight[g, o, k], in chunks.

    Args:
        how: order and format.
        x: (B, G, C, ...), padded.
        weight: (G, O, taps).
        taps: channel and offsets of each.
        step: between results, one per axis.
        counts: results along every axis.

    Returns:
        (B, G, O, *counts).
    """
    assert how.format is not None
    rounded = how.format.round
    batch, groups, outputs = x.shape[0], x.shape[1], weight.shape[1]
    result = x.new_empty(batch, groups, outputs, *counts)
    places = math.prod(counts)
    samples = max(1, CHUNK // max(1, groups * outputs * places))
    channels = max(1, min(outputs, CHUNK // max(1, groups * places)))
    rows = max(1, CHUNK // max(1, groups * places // counts[0])) if counts else 1
    flat = (1,) * len(counts)
    for b, o, r in itertools.product(
        _ranges(batch, samples), _ranges(outputs, channels), _ranges(counts[0] if counts else 1, rows)
    ):
        lengths = (r.stop - r.start, *counts[1:]) if counts else ()

        def term(k: int, b: slice = b, o: slice = o, r: slice = r, lengths: tuple[int, ...] = lengths) -> Tensor:
            channel, offsets = taps[k]
            starts = list(offsets)
            if starts:
                starts[0] += step[0] * r.start
            view = tuple(
                slice(start, start + (length - 1) * s + 1, s)
                for start, length, s in zip(starts, lengths, step, strict=True)
            )
            values = x[(b, slice(None), channel, *view)].unsqueeze(2)
            return rounded(values * weight[:, o, k].reshape(1, groups, -1, *flat))

        place = (b, slice(None), o, r) if counts else (b, slice(None), o)
        result[place] = accumulate(term, len(taps), how)
    return result


def _ranges(count: int, size: int) -> Iterator[slice]:
    return (slice(first, min(first + size, count)) for first in range(0, count, size))


def _matmul(how: Accumulation, inputs: Sequence[Any], attributes: Any) -> Tensor:
    assert how.format is not None
    rounded = how.format.round
    x, y = inputs[0], inputs[1]
    left, right = (x.unsqueeze(0) if x.dim() == 1 else x), (y.unsqueeze(-1) if y.dim() == 1 else y)
    shape = torch.broadcast_shapes(left.shape[:-2], right.shape[:-2])
    left = left.expand(*shape, *left.shape[-2:]).reshape(-1, *left.shape[-2:])
    right = right.expand(*shape, *right.shape[-2:]).reshape(-1, *right.shape[-2:])
    result = x.new_empty(left.shape[0], left.shape[1], right.shape[2])
    rows = max(1, CHUNK // right.shape[2])
    matrices = max(1, CHUNK // (left.shape[1] * right.shape[2]))
    for m, r in itertools.product(_ranges(left.shape[0], matrices), _ranges(left.shape[1], rows)):

        def term(k: int, m: slice = m, r: slice = r) -> Tensor:
            return rounded(left[m, r, k, None] * right[m, None, k, :])

        result[m, r] = accumulate(term, left.shape[2], how)
    result = result.reshape(*shape, *result.shape[1:])
    result = result.squeeze(-1) if y.dim() == 1 else result
    return result.squeeze(-1 if y.dim() == 1 else -2) if x.dim() == 1 else result


def _addmm(how: Accumulation, inputs: Sequence[Any], attributes: Any) -> Tensor:
    assert how.format is not None
    total = _matmul(how, inputs[1:], attributes)
    return total if inputs[0] is None else how.format.round(total + inputs[0])


def _total(how: Accumulation, x: Tensor) -> Tensor:
    """Sum over the last axis."""
    assert how.format is not None
    rounded = how.format.round
    return accumulate(lambda k: rounded(x[..., k]), x.shape[-1], how)


def _sum(how: Accumulation, inputs: Sequence[Any], attributes: Any) -> Tensor:
    x, axes = inputs[0], attributes.get("dim")
    chosen = range(x.dim()) if axes is None else [axes] if isinstance(axes, int) else axes
    axes = sorted(axis % x.dim() for axis in chosen)
    total = _total(how, x.movedim(axes, tuple(range(-len(axes), 0))).flatten(-len(axes)))
    if attributes.get("keepdim", False):
        for axis in axes:
            total = total.unsqueeze(axis)
    return total


def _mean(how: Accumulation, inputs: Sequence[Any], attributes: Any) -> Tensor:
    assert how.format is not None
    total = _sum(how, inputs, attributes)
    return how.format.round(total / (inputs[0].numel() // total.numel()))


def _avg_pool(how: Accumulation, inputs: Sequence[Any], attributes: Any) -> Tensor:
    assert how.format is not None
    x, settings = inputs[0], dict(attributes)
    lifted = x.dim() == 3  # the pool of one axis takes no divisor
    if lifted:
        x = x.unsqueeze(2)
        for key, neutral in (("kernel_size", 1), ("stride", 1), ("padding", 0)):
            if settings.get(key):
                settings[key] = (neutral, *_spread(settings[key], 1))
    dims = x.dim() - 2
    kernel = _spread(settings["kernel_size"], dims)
    stride = _spread(settings.get("stride") or kernel, dims)
    padding = _spread(settings.get("padding", 0), dims)
    ones = torch.ones_like(x[:1, :1])
    mean = _AVERAGE(ones, **settings)
    divisor = torch.round(_AVERAGE(ones, **(settings | {"divisor_override": 1})) / mean)
    counts = tuple(mean.shape[2:])
    beyond = [
        max(0, (n - 1) * s + k - p - size)
        for n, s, k, p, size in zip(counts, stride, kernel, padding, x.shape[2:], strict=True)
    ]
    padded = F.pad(x, [pad for pair in reversed(list(zip(padding, beyond, strict=True))) for pad in pair])
    taps = [(0, place) for place in itertools.product(*(range(size) for size in kernel))]
    weight = x.new_ones(1, 1, len(taps))
    flat = padded.reshape(-1, 1, 1, *padded.shape[2:])
    total = _patches(how, flat, weight, taps, stride, counts).reshape(*x.shape[:2], *counts)
    result = how.format.round(total / divisor)
    return result.squeeze(2) if lifted else result


def _adaptive_avg_pool(how: Accumulation, inputs: Sequence[Any], attributes: Any) -> Tensor:
    assert how.format is not None
    x, outs = inputs[0], tuple(attributes["output_size"])
    cells = []
    for cell in itertools.product(*(range(out) for out in outs)):
        window = tuple(
            slice(i * size // out, -(-(i + 1) * size // out))
            for i, size, out in zip(cell, x.shape[2:], outs, strict=True)
        )
        inside = x[(slice(None), slice(None), *window)].flatten(2)
        cells.append(how.format.round(_total(how, inside) / inside.shape[-1]))
    return torch.stack(cells, -1).reshape(*x.shape[:2], *outs)


def _spread(values: int | tuple[int, ...], dims: int) -> tuple[int, ...]:
    values = (values,) if isinstance(values, int) else tuple(values)
    return values * dims if len(values) == 1 else values


_RULES: dict[str, Callable[[Accumulation, Sequence[Any], Any], Tensor]] = {
    "linear": _linear,
    "conv": _conv,
    "conv_transpose": _conv_transpose,
    "matmul": _matmul,
    "addmm": _addmm,
    "sum": _sum,
    "mean": _mean,
    "avg_pool": _avg_pool,
    "adaptive_avg_pool": _adaptive_avg_pool,
}
