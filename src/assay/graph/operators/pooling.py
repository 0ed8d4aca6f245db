"""Pooling and reductions."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from assay.graph.operators.operator import Aten, Operator, Sample, randn

_FIRST = (frozenset({0}),)


def _spatial(attributes: tuple[int, ...], dims: int) -> tuple[int, ...]:
    return attributes * dims if len(attributes) == 1 else attributes


def _max_pool(x: Tensor, *, kernel_size, stride=(), padding=(0,), dilation=(1,), ceil_mode=False) -> Tensor:
    function = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[x.dim() - 3]
    return function(x, kernel_size, stride or kernel_size, padding, dilation, ceil_mode)


def _avg_pool(
    x: Tensor,
    *,
    kernel_size: Any,
    stride: Any = (),
    padding: Any = (0,),
    ceil_mode: Any = False,
    count_include_pad: Any = True,
    divisor_override: Any = None,
) -> Tensor:
    extra = () if x.dim() == 3 else (divisor_override,)
    function = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[x.dim() - 3]
    return function(x, kernel_size, stride or kernel_size, padding, ceil_mode, count_include_pad, *extra)


def _avg_pool_squared(x: Tensor, **attributes: Any) -> Tensor:
    # all coefficients of one output are the same number c, so sum c^2 v = c * (sum c v), and c = sum c / sum 1
    kernel = attributes["kernel_size"]
    pooled = _avg_pool(x, **attributes)
    ones = torch.ones_like(x[:1, :1])
    total = _avg_pool(ones, **(attributes | {"divisor_override": 1})) if x.dim() > 3 else None
    if total is None:  # avg_pool1d has no divisor: lift it to two dimensions
        lifted = {
            key: (1, *value) if isinstance(value, tuple) and value else value for key, value in attributes.items()
        }
        lifted["padding"] = (0, *attributes.get("padding", (0,)))
        total = _avg_pool(ones.unsqueeze(2), **(lifted | {"divisor_override": 1})).squeeze(2)
    share = _avg_pool(ones, **attributes)
    return pooled * torch.where(total > 0, share / total.clamp(min=1), torch.full_like(total, 1 / math.prod(kernel)))


def _adaptive_avg_pool(x: Tensor, *, output_size) -> Tensor:
    return (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)[x.dim() - 3](x, output_size)


def _adaptive_counts(x: Tensor, output_size: tuple[int, ...]) -> Tensor:
    counts = torch.ones((), dtype=x.dtype, device=x.device)
    for size, out in zip(x.shape[2:], output_size, strict=True):
        starts = [math.floor(i * size / out) for i in range(out)]
        ends = [math.ceil((i + 1) * size / out) for i in range(out)]
        axis = torch.tensor(
            [end - start for start, end in zip(starts, ends, strict=True)], dtype=x.dtype, device=x.device
        )
        counts = counts.unsqueeze(-1) * axis
    return counts


def _adaptive_avg_pool_squared(x: Tensor, *, output_size) -> Tensor:
    return _adaptive_avg_pool(x, output_size=output_size) / _adaptive_counts(x, tuple(output_size))


def _adaptive_max_pool(x: Tensor, *, output_size) -> Tensor:
    return (F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d)[x.dim() - 3](x, output_size)


def _mean(x: Tensor, *, dim=None, keepdim=False) -> Tensor:
    return x.mean() if dim is None else x.mean(tuple(dim), keepdim)


def _sum(x: Tensor, *, dim=None, keepdim=False) -> Tensor:
    return x.sum() if dim is None else x.sum(tuple(dim), keepdim)


def _mean_squared(x: Tensor, *, dim=None, keepdim=False) -> Tensor:
    reduced = _mean(x, dim=dim, keepdim=keepdim)
    return reduced * (reduced.numel() / x.numel())


def _amax(x: Tensor, *, dim=(), keepdim=False) -> Tensor:
    return torch.amax(x, tuple(dim), keepdim)


def _window(x: Tensor, *, offset, step, size, padding, fill: float | None) -> Tensor:
    """Every `step`-th element from `offset` on along the last axes, padded with `fill` (None: a very low number)."""
    first = x.dim() - len(offset)
    outside: list[int] = []  # elements of the result that lie in the padding, before and after, last axis first
    for place, (start, stride, count) in enumerate(zip(offset, step, size, strict=True)):
        axis = first + place
        begin = start - (padding[2 * place] if padding else 0)  # in x, where the first element would be
        before = min(count, max(0, -(begin // stride)))
        inside = min(count - before, max(0, -((begin + before * stride - x.shape[axis]) // stride)))
        x = x.narrow(axis, begin + before * stride if inside else 0, (inside - 1) * stride + 1 if inside else 0)
        if stride > 1:
            x = x[(slice(None),) * axis + (slice(None, None, stride),)]
        outside = [before, count - before - inside, *outside]
    if any(outside):
        x = F.pad(x, outside, value=-torch.finfo(x.dtype).max / 8 if fill is None else fill)
    return x


_POOL = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")
_AVG = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")
_MASKED = {"offset": (0, 1), "step": (2, 2), "size": (3, 2), "padding": (1, 0, 0, 1)}

OPERATORS = (
    Operator(
        "max_pool",
        "pooling",
        _max_pool,
        lambda g: [
            Sample((randn(g, 2, 3, 6, 6),), {"kernel_size": (2, 2), "stride": (2, 2)}),
            Sample(
                (randn(g, 2, 3, 7, 7),), {"kernel_size": (3, 3), "stride": (2, 2), "padding": (1, 1), "ceil_mode": True}
            ),
            Sample((randn(g, 2, 3, 8),), {"kernel_size": (2,), "stride": (2,)}),
        ],
        aten=tuple(
            Aten(f"max_pool{d}d{form}.default", attributes=_POOL) for d in (1, 2, 3) for form in ("", "_with_indices")
        ),
    ),
    Operator(
        "avg_pool",
        "pooling",
        _avg_pool,
        lambda g: [
            Sample((randn(g, 2, 3, 6, 6),), {"kernel_size": (2, 2), "stride": (2, 2), "padding": (0, 0)}),
            Sample((randn(g, 2, 3, 6, 6),), {"kernel_size": (3, 3), "stride": (2, 2), "padding": (1, 1)}),
            Sample(
                (randn(g, 1, 2, 6, 6),), {"kernel_size": (3, 3), "stride": (2, 2), "padding": (1, 1), "ceil_mode": True}
            ),
            Sample((randn(g, 1, 2, 6),), {"kernel_size": (3,), "stride": (2,), "padding": (1,), "ceil_mode": True}),
            Sample(
                (randn(g, 2, 3, 7, 7),),
                {"kernel_size": (3, 3), "stride": (2, 2), "padding": (1, 1), "count_include_pad": False},
            ),
            Sample((randn(g, 2, 3, 8),), {"kernel_size": (2,), "stride": (2,), "padding": (0,)}),
        ],
        linear_in=_FIRST,
        squared=_avg_pool_squared,
        aten=tuple(Aten(f"avg_pool{d}d.default", attributes=_AVG) for d in (1, 2, 3)),
    ),
    Operator(
        "adaptive_avg_pool",
        "pooling",
        _adaptive_avg_pool,
        lambda g: [
            Sample((randn(g, 2, 3, 6, 6),), {"output_size": (1, 1)}),
            Sample((randn(g, 2, 3, 7, 5),), {"output_size": (3, 2)}),
        ],
        linear_in=_FIRST,
        squared=_adaptive_avg_pool_squared,
        aten=tuple(Aten(f"adaptive_avg_pool{d}d.default", attributes=("output_size",)) for d in (1, 2, 3)),
    ),
    Operator(
        "adaptive_max_pool",
        "pooling",
        _adaptive_max_pool,
        lambda g: [Sample((randn(g, 2, 3, 6, 6),), {"output_size": (2, 2)})],
        aten=tuple(Aten(f"adaptive_max_pool{d}d.default", attributes=("output_size",)) for d in (1, 2, 3)),
    ),
    Operator(
        "mean",
        "pooling",
        _mean,
        lambda g: [
            Sample((randn(g, 2, 3, 4, 4),), {"dim": (2, 3)}),
            Sample((randn(g, 2, 3, 4),), {"dim": (1,), "keepdim": True}),
        ],
        linear_in=_FIRST,
        squared=_mean_squared,
        aten=(Aten("mean.dim", attributes=("dim", "keepdim")),),
    ),
    Operator(
        "sum",
        "pooling",
        _sum,
        lambda g: [Sample((randn(g, 2, 3, 4),), {"dim": (2,)})],
        linear_in=_FIRST,
        squared=_sum,
        aten=(Aten("sum.dim_IntList", attributes=("dim", "keepdim")),),
    ),
    Operator(
        "amax",
        "pooling",
        _amax,
        lambda g: [Sample((randn(g, 2, 3, 4),), {"dim": (2,)})],
        aten=(Aten("amax.default", attributes=("dim", "keepdim")),),
    ),
    Operator(
        "window",
        "pooling",
        _window,
        lambda g: [Sample((randn(g, 2, 3, 6, 5),), _MASKED | {"fill": 0.0})],
        linear_in=_FIRST,
        linear_attributes={"fill": 0.0},
        squared=_window,
    ),
)
