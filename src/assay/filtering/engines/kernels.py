"""The kernels a model itself calls: what is evaluated where the canonical operator is written out in other arithmetic.

The layer graph says what an operator means, in a form that can be read and differentiated; batch norm, for one, is a
product and a sum there. Rounding differs from the fused kernel that the module calls, so the engines call that one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from assay.graph import OPERATORS, Node

Kernel = Callable[..., Tensor]


def _batch_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor | None, variance: Tensor, *, eps: float
) -> Tensor:
    return F.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps)


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    *,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    dropout_p: float = 0.0,
) -> Tensor:
    return F.scaled_dot_product_attention(
        query, key, value, mask, is_causal=is_causal, scale=scale, enable_gqa=enable_gqa
    )


def _elu(x: Tensor, *, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Tensor:
    return torch.ops.aten.elu.default(x, alpha, scale, input_scale)


def _addmm(bias: Tensor | None, x: Tensor, y: Tensor) -> Tensor:
    return x @ y if bias is None else torch.addmm(bias, x, y)


def _hard_tanh(x: Tensor, *, low: float, high: float) -> Tensor:
    return F.hardtanh(x, low, high)


def _clip_(x: Tensor, *, low: float | None = None, high: float | None = None) -> Tensor:
    return x.clamp_(low, high)


def _add_(x: Tensor, y: Tensor, *, alpha: float = 1) -> Tensor:
    return x.add_(y, alpha=alpha)


def _separable_max_pool(
    x: Tensor, *, kernel_size: Any, stride: Any = (), padding: Any = (0,), dilation: Any = (1,), ceil_mode: bool = False
) -> Tensor:
    """Maxima along one axis after the other, over shifted slices: the same numbers, without a branch per element."""
    axes = x.dim() - 2
    size, step, pad, gap = (
        tuple(v) * axes if len(v) == 1 else tuple(v) for v in (kernel_size, stride or kernel_size, padding, dilation)
    )
    for place in range(axes):
        axis, reach = place + 2, gap[place] * (size[place] - 1) + 1
        length = x.shape[axis]
        free = length + 2 * pad[place] - reach
        count = (free + (step[place] - 1 if ceil_mode else 0)) // step[place] + 1
        if ceil_mode and (count - 1) * step[place] >= length + pad[place]:
            count -= 1  # the last window has to begin inside the input or the padding before it
        after = max(0, (count - 1) * step[place] + reach - length - pad[place])
        if pad[place] or after:
            edges = [0] * (2 * axes)
            edges[2 * (axes - 1 - place) : 2 * (axes - place)] = pad[place], after
            x = F.pad(x, edges, value=-torch.inf)
        span = (count - 1) * step[place] + 1
        whole = (slice(None),) * axis
        pieces = [x[(*whole, slice(i * gap[place], i * gap[place] + span, step[place]))] for i in range(size[place])]
        result = pieces[0] if len(pieces) == 1 else torch.maximum(pieces[0], pieces[1])
        for piece in pieces[2:]:
            torch.maximum(result, piece, out=result)
        x = result
    return x


NATIVE: Mapping[str, Kernel] = {
    "addmm": _addmm,
    "attention": _attention,
    "batch_norm": _batch_norm,
    "elu": _elu,
    "linear": F.linear,
    "relu": torch.relu,
}
"""What the module calls, for operators whose meaning in the graph is written in other arithmetic, or slower to call."""

IN_PLACE: Mapping[str, Kernel] = {"relu": torch.relu_, "clip": _clip_, "add": _add_}
"""Kernels that write their result over their first input, bit for bit the same."""

QUICK: Mapping[str, Kernel] = {"max_pool": _separable_max_pool}
"""Faster kernels of equal value (zeros may differ in sign) whose derivative differs where several elements are equal.

Torch's own maximum pooling of float32 on a CPU took 8 to 12 times as long on pictures of 8 to 32 pixels.
"""

FRESH = frozenset(
    {"add", "addmm", "avg_pool", "batch_norm", "cat", "conv", "conv_transpose", "linear", "matmul", "max_pool", "mul"}
)
"""Operators whose result shares memory with none of their inputs: it may be written over."""

VIEWS = frozenset({"expand", "identity", "part", "permute", "select", "slice"})
"""Operators whose result is a view of their first input; `reshape` may be one."""


def kernel_of(node: Node, module: nn.Module | None) -> Kernel:
    """What evaluates a node as the module itself would.

    Args:
        node: of a captured graph.
        module: the module that made it, where it could be found.

    Returns:
        A function of the node's inputs and attributes.
    """
    if node.op == "clip" and isinstance(module, nn.Hardtanh):  # ReLU6 is one
        return _hard_tanh
    return NATIVE.get(node.op) or OPERATORS[node.op].evaluate


def same_gradient(node: Node, module: nn.Module | None) -> bool:
    """Whether the kernel of a node surely has the derivative of the call it was captured from, to the bit.

    A clamp lets gradients through at its bounds and a hard tanh does not; a square root and a power of one half round
    differently. Both pairs are one operator of the graph each.

    Args:
        node: of a captured graph.
        module: the module that made it, where it could be found.

    Returns:
        False where the module does not tell the two apart.
    """
    if node.op == "clip":
        return isinstance(module, nn.Hardtanh)
    return node.op != "power"
