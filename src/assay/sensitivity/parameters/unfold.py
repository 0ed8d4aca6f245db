"""The windows that a convolution reads, as columns: the convolution is then a matrix product."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor


def patches(x: Tensor, kernel: Sequence[int], attributes: Mapping[str, Any]) -> Tensor:
    """Windows of a convolution's input, any number of spatial axes.

    Args:
        x: (B, C, ...).
        kernel: sizes of the kernel.
        attributes: stride, padding and dilation of the convolution; as numbers, tuples or the name ``same``.

    Returns:
        (B, C prod(kernel), P) for P output positions in row-major order; channels vary slowest.
    """
    dims = len(kernel)
    stride, dilation = (_each(attributes.get(key, 1), dims) for key in ("stride", "dilation"))
    padding = attributes.get("padding", 0)
    reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    if padding == "same":
        pads = [(extra // 2, extra - extra // 2) for extra in reach]
    else:
        pads = [(size, size) for size in _each(0 if padding == "valid" else padding, dims)]
    if any(any(pair) for pair in pads):
        x = F.pad(x, [size for pair in reversed(pads) for size in pair])
    for axis in range(dims):
        x = x.unfold(2 + axis, reach[axis] + 1, stride[axis])[..., :: dilation[axis]]
    out = x.shape[2 : 2 + dims]
    order = (0, 1, *range(2 + dims, 2 + 2 * dims), *range(2, 2 + dims))
    return x.permute(order).reshape(x.shape[0], -1, out.numel())


def _each(value: Any, dims: int) -> tuple[int, ...]:
    sizes = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    return sizes * dims if len(sizes) == 1 else sizes
