"""Normalisations by statistics of the data themselves, softmax, and attention."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from assay.graph.operators.operator import Aten, Converted, Inexpressible, Operator, Sample, randn


def _layer_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, *, normalized_shape, eps=1e-5) -> Tensor:
    return F.layer_norm(x, tuple(normalized_shape), weight, bias, eps)


def _group_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, *, num_groups, eps=1e-5) -> Tensor:
    return F.group_norm(x, num_groups, weight, bias, eps)


def _instance_norm_form(arguments: dict[str, Any], shape: tuple[Any, ...]) -> Converted:
    """Instance norm is group norm with one group per channel."""
    if not arguments["use_input_stats"]:
        raise Inexpressible("instance norm with running statistics")
    names = (arguments["input"], arguments["weight"], arguments["bias"])
    return Converted(names, {"num_groups": shape[1], "eps": arguments["eps"]})


def _rms_norm(x: Tensor, weight: Tensor | None, *, normalized_shape, eps=None) -> Tensor:
    return F.rms_norm(x, tuple(normalized_shape), weight, eps)


def _vector_norm(x: Tensor, *, ord=2, dim=None, keepdim=False) -> Tensor:
    return torch.linalg.vector_norm(x, ord, dim, keepdim)


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
    """Dot-product attention written out: every backend's fused kernel agrees with it, and it has all derivatives."""
    weights = _attention_weights(query, key, mask, is_causal, scale)
    return weights @ (value.repeat_interleave(query.shape[-3] // value.shape[-3], -3) if enable_gqa else value)


def _attention_squared(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, **attributes: Any
) -> Tensor:
    repeated = attributes.get("enable_gqa", False)
    weights = _attention_weights(query, key, mask, attributes.get("is_causal", False), attributes.get("scale"))
    return weights.square() @ (value.repeat_interleave(query.shape[-3] // value.shape[-3], -3) if repeated else value)


def _attention_weights(query: Tensor, key: Tensor, mask: Tensor | None, is_causal: bool, scale: float | None) -> Tensor:
    if query.dim() > 2 and key.shape[-3] != query.shape[-3]:  # several heads share one key
        key = key.repeat_interleave(query.shape[-3] // key.shape[-3], -3)
    scores = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        allowed = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        scores = scores.masked_fill(~allowed, -torch.inf)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    return torch.softmax(scores, -1)


def _softmax(x: Tensor, *, dim: int) -> Tensor:
    return torch.softmax(x, dim)


def _log_softmax(x: Tensor, *, dim: int) -> Tensor:
    return torch.log_softmax(x, dim)


def _row(name: str, function: Any, samples: Any, *aten: Aten, **extra: Any) -> Operator:
    return Operator(name, "normalisation", function, samples, aten=aten, **extra)


_NORM = ("input", "weight", "bias")

OPERATORS = (
    _row(
        "layer_norm",
        _layer_norm,
        lambda g: [Sample((randn(g, 2, 3, 6), randn(g, 6), randn(g, 6)), {"normalized_shape": (6,)})],
        Aten("layer_norm.default", _NORM, ("normalized_shape", "eps")),
        Aten("native_layer_norm.default", _NORM, ("normalized_shape", "eps")),
    ),
    _row(
        "group_norm",
        _group_norm,
        lambda g: [Sample((randn(g, 2, 6, 4), randn(g, 6), randn(g, 6)), {"num_groups": 3})],
        Aten("group_norm.default", _NORM, ("num_groups", "eps")),
        Aten("instance_norm.default", convert=_instance_norm_form),
    ),
    _row(
        "rms_norm",
        _rms_norm,
        lambda g: [Sample((randn(g, 2, 3, 6), randn(g, 6)), {"normalized_shape": (6,), "eps": 1e-6})],
        Aten("rms_norm.default", ("input", "weight"), ("normalized_shape", "eps")),
    ),
    _row(
        "vector_norm",
        _vector_norm,
        lambda g: [Sample((randn(g, 2, 3, 6),), {"dim": (-1,), "keepdim": True})],
        Aten("linalg_vector_norm.default", ("self",), ("ord", "dim", "keepdim")),
    ),
    _row(
        "softmax",
        _softmax,
        lambda g: [Sample((randn(g, 2, 3, 6),), {"dim": -1})],
        Aten("softmax.int", attributes=("dim",)),
        Aten("_softmax.default", attributes=("dim",)),
    ),
    _row(
        "log_softmax",
        _log_softmax,
        lambda g: [Sample((randn(g, 2, 6),), {"dim": 1})],
        Aten("log_softmax.int", attributes=("dim",)),
        Aten("_log_softmax.default", attributes=("dim",)),
    ),
    _row(
        "attention",
        _attention,
        lambda g: [
            Sample((randn(g, 2, 3, 5, 4), randn(g, 2, 3, 5, 4), randn(g, 2, 3, 5, 4))),
            Sample(
                (randn(g, 2, 4, 3, 2), randn(g, 2, 2, 3, 2), randn(g, 2, 2, 3, 2)),
                {"enable_gqa": True, "is_causal": True},
            ),
        ],
        Aten(
            "scaled_dot_product_attention.default",
            ("query", "key", "value", "attn_mask"),
            ("is_causal", "scale", "enable_gqa", "dropout_p"),
        ),
        linear_in=(frozenset({2}),),
        squared=_attention_squared,
    ),
)
