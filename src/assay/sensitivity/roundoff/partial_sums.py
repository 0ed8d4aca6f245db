"""Variance of the rounding errors made while a node sums, from its real partial sums.

A partial sum of magnitude 2^e is rounded to multiples of its spacing h. If its operands are multiples of g = h 2^-m,
the error is uniform over multiples of g within h / 2: variance h^2 / 12 (1 + 2 4^-m), and no error at all for m <= 0
(such as adding zero). The usual h^2 / 12 for every sum is the limit of large m. Partial sums are those of the exact
products, so one unfolded pass in chunks is enough.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from assay.graph import OPERATORS, Node
from assay.sensitivity.parameters.unfold import patches
from assay.sensitivity.roundoff.accumulation import Accumulation
from assay.sensitivity.roundoff.floating import FloatFormat

CHUNK = 2**21
_FAR = 4000  # an exponent beyond every double's


class Matrices(NamedTuple):
    """A node as matrix products (M, P, n) @ (M or 1, n, O).

    Attributes:
        left: (M, P, n) operands.
        right: (M or 1, n, O) operands.
        finish: (M, P, O) in the layout of the node's value.
        weighted: False where the products are the left operands themselves.
    """

    left: Tensor
    right: Tensor
    finish: Callable[[Tensor], Tensor]
    weighted: bool


def accumulated_variance(
    node: Node, inputs: Sequence[Tensor | None], value: Tensor, how: Accumulation, operand_bits: tuple[int, int] | None
) -> Tensor:
    """Variance of what summing adds to each element of a node's value.

    Args:
        node: of a summing operator, attributes resolved for the batch.
        inputs: exact operands, float64.
        value: the exact result.
        how: order and floating-point format of products and sums.
        operand_bits: significand bits of both operands where known: their products may be exact.

    Returns:
        In the shape of the value. Infinite where a partial sum overflows.
    """
    target = how.format
    assert isinstance(target, FloatFormat)
    bias = _bias(node, inputs, value)
    divided = node.op in ("mean", "avg_pool", "adaptive_avg_pool")
    matrices = as_matrices(node, inputs)
    total = matrices.finish(_variance(matrices, how, target, operand_bits)).reshape(value.shape)
    if bias is not None:
        before = value - bias
        total = total + _sum_variance(target, _exponent(before), _exponent(bias), _exponent(value), None, None)
    if divided:  # all coefficients of one result are the same number
        ones = torch.ones_like(inputs[0])  # type: ignore[arg-type]
        terms = as_matrices(node, [ones])
        summed = terms.finish(terms.left.sum(-1, keepdim=True)).reshape(value.shape)
        coefficient = OPERATORS[node.op].evaluate(ones, **node.attributes) / summed
        exact = torch.frexp(coefficient)[0] == 0.5  # division by a power of two
        total = total * coefficient.square() + torch.where(exact, 0.0, target.error_variance(value))
    return total


def as_matrices(node: Node, inputs: Sequence[Tensor | None]) -> Matrices:
    """The node's sums as matrix products; its bias is left out.

    Returns:
        The matrices.

    Raises:
        KeyError: for an operator that is no sum of products.
    """
    return _FORMS[node.op](node, inputs)


def _bias(node: Node, inputs: Sequence[Tensor | None], value: Tensor) -> Tensor | None:
    if node.op == "addmm":
        return None if inputs[0] is None else inputs[0].expand_as(value)
    if node.op not in ("linear", "conv", "conv_transpose") or len(inputs) < 3 or inputs[2] is None:
        return None
    shape = [1] * value.dim()
    shape[-1 if node.op == "linear" else 1] = -1
    return inputs[2].reshape(shape).expand_as(value)


def _variance(matrices: Matrices, how: Accumulation, target: FloatFormat, bits: tuple[int, int] | None) -> Tensor:
    left, right = matrices.left, matrices.right
    count, rows, terms = left.shape
    outputs = right.shape[2]
    result = left.new_zeros(count, rows, outputs)
    columns = max(1, min(outputs, CHUNK // terms))
    height = max(1, CHUNK // (terms * columns))
    for index, o in itertools.product(range(count), range(0, outputs, columns)):
        weights = right[index if len(right) > 1 else 0, :, o : o + columns].mT  # (o, n)
        for r in range(0, rows, height):
            products = left[index, r : r + height, None, :] * weights
            result[index, r : r + height, o : o + columns] = _of_products(products, matrices, how, target, bits)
    return result


def _of_products(
    products: Tensor, matrices: Matrices, how: Accumulation, target: FloatFormat, bits: tuple[int, int] | None
) -> Tensor:
    """Variance of rounding (..., n) products and their sums."""
    exponent = _exponent(products)
    length = target.significand
    own = length if bits is None else min(length, sum(bits))
    total = products.new_zeros(products.shape[:-1])
    if not matrices.weighted:
        total = total + target.error_variance(products).sum(-1)
    elif bits is None or sum(bits) > length:
        total = total + _spacing_squared(target, exponent).sum(-1) / 12
    grain = exponent - own
    if how.kind == "blocked":
        assert how.block is not None
        sums, grains = [], []
        for first in range(0, products.shape[-1], how.block):
            part = slice(first, first + how.block)
            variance, last, least = _in_order(target, products[..., part], grain[..., part])
            total = total + variance
            sums.append(last)
            grains.append(least)
        products, grain = torch.stack(sums, -1), torch.stack(grains, -1)
    if how.kind == "pairwise":
        return total + _in_tree(target, products, grain)
    return total + _in_order(target, products, grain)[0]


def _in_order(target: FloatFormat, products: Tensor, grain: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Variance of summing first to last, the sum, and the exponent of what it is a multiple of."""
    sums = products.cumsum(-1)
    exponent = _exponent(sums)
    least = torch.maximum(exponent - target.significand, grain.cummin(-1).values)
    variance = _sum_variance(
        target,
        exponent[..., :-1],
        grain[..., 1:],
        exponent[..., 1:],
        least[..., :-1],
        grain[..., 1:],
        largest=sums[..., 1:],
    ).sum(-1)
    return variance, sums[..., -1], torch.where(exponent[..., -1] == _FAR, _FAR, least[..., -1])


def _in_tree(target: FloatFormat, products: Tensor, grain: Tensor) -> Tensor:
    """Variance of summing in a balanced tree, neighbours first; left-over sums are added smallest first."""
    total = products.new_zeros(products.shape[:-1])
    waiting: list[tuple[Tensor, Tensor]] = []
    while products.shape[-1]:
        if products.shape[-1] % 2:
            waiting.append((products[..., -1], grain[..., -1]))
            products, grain = products[..., :-1], grain[..., :-1]
        if not products.shape[-1]:
            break
        pairs, grains = products.unflatten(-1, (-1, 2)), grain.unflatten(-1, (-1, 2))
        sums, variance, least = _add(target, pairs[..., 0], pairs[..., 1], grains[..., 0], grains[..., 1])
        total = total + variance.sum(-1)
        products, grain = sums, least
    last, least = waiting[0]
    for other, fine in waiting[1:]:
        last, variance, least = _add(target, other, last, fine, least)
        total = total + variance
    return total


def _add(target: FloatFormat, a: Tensor, b: Tensor, fine_a: Tensor, fine_b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    sums = a + b
    exponent = _exponent(sums)
    variance = _sum_variance(target, _exponent(a), _exponent(b), exponent, fine_a, fine_b, largest=sums)
    return sums, variance, torch.maximum(exponent - target.significand, torch.minimum(fine_a, fine_b))


def _sum_variance(
    target: FloatFormat,
    first: Tensor,
    second: Tensor,
    result: Tensor,
    fine_first: Tensor | None,
    fine_second: Tensor | None,
    *,
    largest: Tensor | None = None,
) -> Tensor:
    """Variance of rounding sums, from the exponents of operands, result and of what the operands are multiples of."""
    fine_first = first - target.significand if fine_first is None else fine_first
    fine_second = second - target.significand if fine_second is None else fine_second
    coarse = _floored(target, result) - target.significand
    steps = coarse - torch.minimum(fine_first, fine_second)  # m
    spread = (1 + 2 * torch.exp2(-2.0 * steps.clamp(0, 60).double())) / 12
    moved = (steps > 0) & (fine_first < _FAR - 100) & (fine_second < _FAR - 100) & (result < _FAR - 100)
    variance = torch.where(moved, spread * _spacing_squared(target, result), 0.0)
    if largest is not None and math.isfinite(target.largest):
        variance = torch.where(largest.abs() > target.largest, math.inf, variance)
    return variance


def _exponent(x: Tensor) -> Tensor:
    """Exponent e with 2^(e-1) <= |x| < 2^e; very large for zero, so that nothing is a multiple of anything finer."""
    return torch.where(x == 0, _FAR, torch.frexp(x)[1])


def _floored(target: FloatFormat, exponent: Tensor) -> Tensor:
    least = target.least_exponent
    return exponent if least is None else exponent.clamp(min=least + 1)


def _spacing_squared(target: FloatFormat, exponent: Tensor) -> Tensor:
    finite = torch.where(exponent >= _FAR - 100, -500, _floored(target, exponent))
    spacing = torch.exp2((finite - target.significand).double())
    return torch.where(exponent >= _FAR - 100, 0.0, spacing.square())


def _linear(node: Node, inputs: Sequence[Tensor | None]) -> Matrices:
    x, weight = inputs[0], inputs[1]
    assert x is not None
    assert weight is not None
    return Matrices(x.reshape(1, -1, x.shape[-1]), weight.mT.unsqueeze(0), lambda v: v, True)


def _conv(node: Node, inputs: Sequence[Tensor | None]) -> Matrices:
    x, weight = inputs[0], inputs[1]
    assert x is not None
    assert weight is not None
    return _convolved(x, weight, dict(node.attributes))


def _convolved(x: Tensor, weight: Tensor, attributes: dict) -> Matrices:
    groups = attributes.get("groups", 1)
    unfolded = patches(x, weight.shape[2:], attributes).unflatten(1, (groups, -1))  # (B, G, n, P)
    batch = len(x)
    kernel = weight.reshape(groups, weight.shape[0] // groups, -1).mT  # (G, n, O / G)
    right = kernel if groups == 1 else kernel.repeat(batch, 1, 1)

    def finish(v: Tensor) -> Tensor:  # (B G, P, O / G) -> (B, O, P)
        return v.unflatten(0, (batch, groups)).transpose(2, 3).flatten(1, 2)

    return Matrices(unfolded.mT.flatten(0, 1), right, finish, True)


def _conv_transpose(node: Node, inputs: Sequence[Tensor | None]) -> Matrices:
    """As a convolution of the input with zeros between its elements, by the kernel turned round."""
    x, weight = inputs[0], inputs[1]
    assert x is not None
    assert weight is not None
    dims = weight.dim() - 2

    def each(key: str, default: int) -> tuple[int, ...]:
        value = node.attributes.get(key, default)
        sizes = tuple(value) if isinstance(value, (tuple, list)) else (value,)
        return sizes * dims if len(sizes) == 1 else sizes

    stride, padding, extra, dilation = (
        each(key, default) for key, default in (("stride", 1), ("padding", 0), ("output_padding", 0), ("dilation", 1))
    )
    groups = node.attributes.get("groups", 1)
    spaced = x.new_zeros(*x.shape[:2], *((n - 1) * s + 1 for n, s in zip(x.shape[2:], stride, strict=True)))
    spaced[(..., *(slice(None, None, s) for s in stride))] = x
    pads: list[int] = []
    for d, k, p, e in reversed(list(zip(dilation, weight.shape[2:], padding, extra, strict=True))):
        pads += [d * (k - 1) - p, d * (k - 1) - p + e]
    turned = weight.flip(tuple(range(2, weight.dim()))).unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)
    return _convolved(F.pad(spaced, pads), turned, {"dilation": dilation, "groups": groups})


def _matmul(node: Node, inputs: Sequence[Tensor | None]) -> Matrices:
    x, y = inputs[-2:] if node.op == "addmm" else inputs[:2]
    assert x is not None
    assert y is not None
    left, right = (x.unsqueeze(0) if x.dim() == 1 else x), (y.unsqueeze(-1) if y.dim() == 1 else y)
    shape = torch.broadcast_shapes(left.shape[:-2], right.shape[:-2])
    left = left.expand(*shape, *left.shape[-2:]).reshape(-1, *left.shape[-2:])
    right = right.expand(*shape, *right.shape[-2:]).reshape(-1, *right.shape[-2:])
    return Matrices(left, right, lambda v: v, True)


def _ones(x: Tensor) -> Tensor:
    return x.new_ones(1, x.shape[-1], 1)


def _reduction(node: Node, inputs: Sequence[Tensor | None]) -> Matrices:
    x, axes = inputs[0], node.attributes.get("dim")
    assert x is not None
    chosen = range(x.dim()) if axes is None else [axes] if isinstance(axes, int) else axes
    chosen = sorted(axis % x.dim() for axis in chosen)
    rows = x.movedim(chosen, tuple(range(-len(chosen), 0))).flatten(-len(chosen))
    return Matrices(rows.reshape(1, -1, rows.shape[-1]), _ones(rows), lambda v: v, False)


def _avg_pool(node: Node, inputs: Sequence[Tensor | None]) -> Matrices:
    x, settings = inputs[0], node.attributes
    assert x is not None
    dims = x.dim() - 2
    kernel = _spread(settings["kernel_size"], dims)
    stride = _spread(settings.get("stride") or kernel, dims)
    padding = _spread(settings.get("padding", 0), dims)
    if settings.get("ceil_mode", False):  # windows may begin before and end after the padded input
        beyond = [-(n + 2 * p - k) % s for n, p, k, s in zip(x.shape[2:], padding, kernel, stride, strict=True)]
        x = F.pad(x, [pad for extra in reversed(beyond) for pad in (0, extra)])
    rows = patches(x.flatten(0, 1).unsqueeze(1), kernel, {"stride": stride, "padding": padding}).mT  # (B C, P, n)
    return Matrices(rows, _ones(rows), lambda v: v, False)


def _adaptive_avg_pool(node: Node, inputs: Sequence[Tensor | None]) -> Matrices:
    x, outs = inputs[0], tuple(node.attributes["output_size"])
    assert x is not None
    sizes = x.shape[2:]
    cells = []
    for cell in itertools.product(*(range(out) for out in outs)):
        window = tuple(slice(i * n // out, -(-(i + 1) * n // out)) for i, n, out in zip(cell, sizes, outs, strict=True))
        cells.append(x[(slice(None), slice(None), *window)].flatten(2))
    widest = max(cell.shape[-1] for cell in cells)
    rows = torch.stack([F.pad(cell, (0, widest - cell.shape[-1])) for cell in cells], 2)  # (B, C, P, n)
    return Matrices(rows.flatten(0, 1), _ones(rows), lambda v: v, False)


def _spread(value: int | Sequence[int], dims: int) -> tuple[int, ...]:
    sizes = (value,) if isinstance(value, int) else tuple(value)
    return sizes * dims if len(sizes) == 1 else sizes


_FORMS: dict[str, Callable[[Node, Sequence[Tensor | None]], Matrices]] = {
    "linear": _linear,
    "conv": _conv,
    "conv_transpose": _conv_transpose,
    "matmul": _matmul,
    "addmm": _matmul,
    "sum": _reduction,
    "mean": _reduction,
    "avg_pool": _avg_pool,
    "adaptive_avg_pool": _adaptive_avg_pool,
}
