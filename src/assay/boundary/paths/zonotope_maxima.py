"""Maxima of several zonotopes: pools, reductions, and maximum of two.

Over d, a maximum lies between L(s) = max_i(c_i - r_i + e_i s) and U(s) = max_i(c_i + r_i + e_i s), both convex. The
band has the chord of U as its slope; its floor is the least of the convex L - b s, bounded from below by the least of
the larger of any two of its lines, and equal to it for the right two (Helly, one dimension).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from assay.boundary.paths.zonotope import BOUND, TABLE, Zonotope, as_zonotope
from assay.boundary.paths.zonotope_bends import banded, meeting

_ROUNDS = 3


def largest(x: Zonotope) -> Zonotope:
    """Maximum over the last axis.

    Args:
        x: (..., k).

    Returns:
        (...).
    """
    c, e, r = x.centre, x.slope, x.error
    if c.shape[-1] == 1:
        return x.map(lambda part: part[..., 0])
    right, left = (c + r + e).amax(-1), (c + r - e).amax(-1)
    slope = (right - left) / 2
    level, tilt = c - r, e - slope[..., None]
    first, last = (level - tilt).argmax(-1, keepdim=True), (level + tilt).argmax(-1, keepdim=True)
    floor = torch.full_like(slope, -math.inf)
    for _ in range(_ROUNDS):  # cutting planes: the line on top where the two cross takes the place of one of them
        p, q = ((level.gather(-1, i)[..., 0], tilt.gather(-1, i)[..., 0]) for i in (first, last))
        cross = meeting(p[0] - q[0], q[1] - p[1])
        values = [torch.maximum(p[0] + p[1] * s, q[0] + q[1] * s) for s in (cross, 1.0, -1.0)]
        floor = torch.maximum(floor, torch.stack(values).amin(0))
        on_top = (level + tilt * cross[..., None]).argmax(-1, keepdim=True)
        falls = tilt.gather(-1, on_top) < 0
        first, last = torch.where(falls, on_top, first), torch.where(falls, last, on_top)
    # a window that one element always wins is that element
    winner = level.argmax(-1, keepdim=True)
    others = (c + r - c.gather(-1, winner) + r.gather(-1, winner) + (e - e.gather(-1, winner)).abs()).scatter(
        -1, winner, -math.inf
    )
    size = x.magnitude.amax(-1)
    alone = others.amax(-1) < -(2.0**-48) * size
    found = banded(slope, (right + left) / 2, floor, size)
    return Zonotope(*(torch.where(alone, part.gather(-1, winner)[..., 0], other) for part, other in _both(x, found)))


def _both(x: Zonotope, y: Zonotope) -> list[tuple[Tensor, Tensor]]:
    return [(x.centre, y.centre), (x.slope, y.slope), (x.error, y.error)]


def negative(x: Zonotope) -> Zonotope:
    """-x."""
    return Zonotope(-x.centre, -x.slope, x.error)


def stacked(x: Zonotope, y: Zonotope) -> Zonotope:
    """Two elements side by side along a new last axis, broadcast."""
    return Zonotope(*(torch.stack(torch.broadcast_tensors(one, two), -1) for one, two in _both(x, y)))


@TABLE.rule("maximum", grade=BOUND)
def _maximum(operands: Sequence[Any], attributes: dict[str, Any]) -> Zonotope:
    return largest(stacked(as_zonotope(operands[0]), as_zonotope(operands[1])))


@TABLE.rule("minimum", grade=BOUND)
def _minimum(operands: Sequence[Any], attributes: dict[str, Any]) -> Zonotope:
    return negative(largest(stacked(*(negative(as_zonotope(one)) for one in operands))))


@TABLE.rule("amax", grade=BOUND)
def _amax(operands: Sequence[Any], attributes: dict[str, Any]) -> Zonotope:
    x = operands[0]
    rank = x.centre.dim()
    axes = sorted({axis % rank for axis in attributes.get("dim", ())} or set(range(rank)))
    kept = [axis for axis in range(rank) if axis not in axes]
    sizes = [x.centre.shape[axis] for axis in kept]
    found = largest(x.map(lambda part: part.permute(*kept, *axes).reshape(*sizes, -1)))
    if attributes.get("keepdim", False):
        shape = [1 if axis in axes else x.centre.shape[axis] for axis in range(rank)]
        return found.map(lambda part: part.reshape(shape))
    return found


@TABLE.rule("max_pool", grade=BOUND)
def _max_pool(operands: Sequence[Any], attributes: dict[str, Any]) -> Zonotope:
    sizes = operands[0].centre.shape[2:]
    options = {key: tuple(value) for key, value in attributes.items() if key != "ceil_mode"}
    kernel, stride = options["kernel_size"], options.get("stride") or options["kernel_size"]
    padding, dilation = options.get("padding", (0,)), options.get("dilation", (1,))
    axes = []
    for axis, size in enumerate(sizes):
        k, s, p, d = (value[axis % len(value)] for value in (kernel, stride, padding, dilation))
        reach = size + 2 * p - d * (k - 1) - 1
        count = reach // s + 1
        if attributes.get("ceil_mode", False):
            count = -(-reach // s) + 1
            count -= (count - 1) * s >= size + p  # a window that would begin in the padding on the right is dropped
        axes.append(tuple(tuple(i * s - p + j * d for j in range(k)) for i in range(count)))
    return _pooled(operands[0], tuple(axes))


@TABLE.rule("adaptive_max_pool", grade=BOUND)
def _adaptive_max_pool(operands: Sequence[Any], attributes: dict[str, Any]) -> Zonotope:
    axes = []
    wanted = attributes["output_size"]
    for axis, size in enumerate(operands[0].centre.shape[2:]):
        count = wanted[axis % len(wanted)]
        count = size if count is None else count
        edges = [(i * size // count, -(-(i + 1) * size // count)) for i in range(count)]
        widest = max(end - start for start, end in edges)
        axes.append(tuple(tuple(min(start + j, end - 1) for j in range(widest)) for start, end in edges))
    return _pooled(operands[0], tuple(axes))


def _pooled(x: Zonotope, axes: tuple[tuple[tuple[int, ...], ...], ...]) -> Zonotope:
    sizes = tuple(x.centre.shape[2:])
    taps = _taps(axes, sizes).to(x.centre.device)
    counts = [len(axis) for axis in axes]

    def windows(part: Tensor) -> Tensor:
        gathered = part.flatten(2).index_select(2, taps.reshape(-1))
        return gathered.reshape(*part.shape[:2], *counts, -1)

    return largest(x.map(windows))


@lru_cache(maxsize=64)
def _taps(axes: tuple[tuple[tuple[int, ...], ...], ...], sizes: tuple[int, ...]) -> Tensor:
    """(windows, taps) places in the flattened axes; places outside are replaced by one inside the same window."""
    flat = torch.zeros(1, 1, dtype=torch.long)
    for axis, size in zip(axes, sizes, strict=True):
        places = torch.tensor(axis)
        inside = (places >= 0) & (places < size)
        substitute = places.gather(1, inside.int().argmax(1, keepdim=True))
        places = torch.where(inside, places, substitute)
        flat = (flat[:, None, :, None] * size + places[None, :, None, :]).reshape(len(flat) * len(places), -1)
    return flat
