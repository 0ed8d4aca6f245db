"""Which places every maximum of a node looks at."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from assay.graph import Graph, Node


def window_places(graph: Graph, node: Node) -> Tensor:
    """Places of the candidates of every unit of a maximum, as `switches.candidates` counts them.

    Args:
        graph: the graph of the node.
        node: a max pool, an adaptive max pool, a reduction, or a maximum or minimum of two tensors.

    Returns:
        (units, k) places; -1 where a window reaches into the padding.
    """
    name = node.inputs[0]
    assert name is not None
    shape = tuple(size for size in graph[name].spec.shape[1:] if isinstance(size, int))
    if node.op in ("maximum", "minimum"):
        count = node.spec.size_per_sample
        return torch.stack([torch.arange(count), torch.arange(count) + count], dim=1)
    if node.op == "amax":
        place = torch.arange(_product(shape)).reshape(shape)
        axes = sorted((d % (len(shape) + 1)) - 1 for d in (node.attributes.get("dim") or range(1, len(shape) + 1)))
        kept = [axis for axis in range(len(shape)) if axis not in axes]
        return place.permute(*kept, *axes).reshape(_product(shape[axis] for axis in kept), -1)
    channels, sizes = shape[0], shape[1:]
    out = tuple(size for size in node.spec.shape[2:] if isinstance(size, int))
    lines = [_line(node, axis, size, count) for axis, (size, count) in enumerate(zip(sizes, out, strict=True))]
    columns = []
    for offsets in itertools.product(*(range(line.shape[1]) for line in lines)):
        place = torch.zeros(out, dtype=torch.long)
        outside = torch.zeros(out, dtype=torch.bool)
        for axis, (line, offset) in enumerate(zip(lines, offsets, strict=True)):
            along = line[:, offset].reshape([-1 if other == axis else 1 for other in range(len(out))])
            place = place * sizes[axis] + along.clamp(min=0)
            outside = outside | (along < 0)
        columns.append(torch.where(outside, -1, place).reshape(-1))
    plane = torch.stack(columns, dim=1)  # (outputs of a channel, k)
    shift = torch.arange(channels)[:, None, None] * _product(sizes)
    return torch.where(plane < 0, -1, plane + shift).reshape(-1, plane.shape[1])


def _line(node: Node, axis: int, size: int, count: int) -> Tensor:
    """(count, k) positions along one axis that each output looks at, -1 outside."""
    if node.op == "adaptive_max_pool":
        begin = torch.tensor([place * size // count for place in range(count)])
        end = torch.tensor([-(-(place + 1) * size // count) for place in range(count)])
        found = begin[:, None] + torch.arange(int((end - begin).max()))
        return torch.where(found < end[:, None], found, -1)
    kernel = _along(node.attributes["kernel_size"], axis)
    stride = _along(node.attributes.get("stride") or node.attributes["kernel_size"], axis)
    padding, dilation = (_along(node.attributes.get(n, d), axis) for n, d in (("padding", (0,)), ("dilation", (1,))))
    found = torch.arange(count)[:, None] * stride - padding + torch.arange(kernel) * dilation
    return torch.where((found >= 0) & (found < size), found, -1)


def _along(values: tuple[int, ...], axis: int) -> int:
    return values[0] if len(values) == 1 else values[axis]


def _product(sizes) -> int:
    result = 1
    for size in sizes:
        result *= size
    return result
