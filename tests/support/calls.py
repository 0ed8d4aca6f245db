"""One call of every ATen overload that an operator stands for, with arguments that use what it can do."""

from typing import Any

import torch
from torch import Tensor


def _randn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=_GENERATOR, dtype=torch.float64)


_GENERATOR = torch.Generator().manual_seed(3)
_X = _randn(2, 4, 6)
_PICTURE = _randn(2, 4, 6, 6)
_VOLUME = _randn(2, 4, 5, 5, 5)
_MATRIX = _randn(3, 4)
_POSITIVE = _X.abs() + 0.5
_SPACES = {1: _X, 2: _PICTURE, 3: _VOLUME}
_CHANNELS = [_randn(4), _randn(4), _randn(4), _randn(4).exp()]

ATEN_OF_ONE = (
    *(
        "silu",
        "sigmoid",
        "hardsigmoid",
        "hardswish",
        "tanh",
        "mish",
        "erf",
        "exp",
        "abs",
        "sin",
        "cos",
        "neg",
        "square",
    ),
    *("clone", "alias", "detach"),
)

Call = tuple[tuple[Any, ...], dict[str, Any]]


def call(*arguments: Any, **named: Any) -> Call:
    return arguments, named


def _spatial() -> dict[str, Call]:
    calls: dict[str, Call] = {}
    for d, x in _SPACES.items():
        one, two, three = [1] * d, [2] * d, [3] * d
        weight, transposed = _randn(6, 2, *three), _randn(4, 3, *three)
        calls[f"conv{d}d.default"] = call(x, weight, _randn(6), two, one, one, 2)
        calls[f"conv{d}d.padding"] = call(x, weight, None, one, "same", one, 2)
        form = "default" if d == 1 else "input"
        calls[f"conv_transpose{d}d.{form}"] = call(x, transposed, _randn(6), two, one, one, 2, one)
        calls[f"max_pool{d}d.default"] = call(x, three, two, one, one, True)
        calls[f"max_pool{d}d_with_indices.default"] = call(x, three, [], one)
        calls[f"avg_pool{d}d.default"] = call(x, three, two, one, True, False)
        calls[f"adaptive_avg_pool{d}d.default"] = call(x, three)
        calls[f"adaptive_max_pool{d}d.default"] = call(x, three)
    del calls["max_pool1d_with_indices.default"]
    calls["max_pool1d_with_indices.default"] = call(_X, [3], [2], [1])
    return calls


CALLS: dict[str, Call] = {
    **_spatial(),
    "linear.default": call(_X, _randn(3, 6), _randn(3)),
    "_native_batch_norm_legit_no_training.default": call(_PICTURE, *_CHANNELS, 0.1, 1e-3),
    "batch_norm.default": call(_PICTURE, *_CHANNELS, False, 0.1, 1e-3, False),
    "upsample_nearest1d.vec": call(_X, [9], None),
    "upsample_nearest2d.vec": call(_PICTURE, None, [2.0, 2.0]),
    "upsample_nearest3d.vec": call(_VOLUME, None, [1.5, 1.3, 2.0]),
    "upsample_linear1d.vec": call(_X, [9], True, None),
    "upsample_bilinear2d.vec": call(_PICTURE, None, False, [1.4, 0.7]),
    "upsample_trilinear3d.vec": call(_VOLUME, [3, 4, 7], False, None),
    "relu.default": call(_X),
    "leaky_relu.default": call(_X, 0.3),
    "prelu.default": call(_X, _CHANNELS[0]),
    "_prelu_kernel.default": call(_X, _randn(1, 1, 1)),
    "hardtanh.default": call(_X, -0.5, 0.7),
    "clamp.default": call(_X, None, 0.2),
    "clamp_min.default": call(_X, 0.1),
    "clamp_max.default": call(_X, 0.1),
    "relu6.default": call(4 * _X),
    "elu.default": call(_X, 1.3, 1.1, 0.9),
    "selu.default": call(_X),
    "celu.default": call(_X, 0.7),
    "gelu.default": call(_X, approximate="tanh"),
    **{f"{name}.default": call(4 * _X) for name in ATEN_OF_ONE},
    "contiguous.default": call(_X),
    "lift_fresh_copy.default": call(_X),
    **{
        f"{name}.default": call(_X, 0.5, False)
        for name in ["dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"]
    },
    "softplus.default": call(_X, 2.0, 3.0),
    **{f"{name}.default": call(_POSITIVE) for name in ("log", "sqrt", "rsqrt", "reciprocal")},
    "pow.Tensor_Scalar": call(_X, 3),
    "add.Tensor": call(_X, _randn(4, 1), alpha=0.5),
    "add.Scalar": call(_X, 2, 3),
    "sub.Tensor": call(_X, _randn(4, 1), alpha=0.5),
    "sub.Scalar": call(_X, 2, 3),
    "rsub.Tensor": call(_X, _randn(4, 1)),
    "rsub.Scalar": call(_X, 2),
    "mul.Tensor": call(_X, _randn(4, 1)),
    "mul.Scalar": call(_X, 2.5),
    "div.Tensor": call(_X, _POSITIVE),
    "div.Scalar": call(_X, 2.5),
    "maximum.default": call(_X, _X.flip(0)),
    "minimum.default": call(_X, _X.flip(0)),
    "matmul.default": call(_X, _randn(6, 2)),
    "mm.default": call(_MATRIX, _randn(4, 2)),
    "bmm.default": call(_X, _randn(2, 6, 2)),
    "addmm.default": call(_randn(2), _MATRIX, _randn(4, 2)),
    "addcmul.default": call(_X, _X.flip(0), _randn(4, 1), value=0.3),
    "where.self": call(_X > 0, _X, _X.flip(0)),
    "view.default": call(_X, [2, 24]),
    "_unsafe_view.default": call(_X, [2, 24]),
    "reshape.default": call(_X, [8, -1]),
    "view_as.default": call(_X, _randn(2, 24)),
    "reshape_as.default": call(_X, _randn(2, 24)),
    "flatten.using_ints": call(_X, 1, -1),
    "unflatten.int": call(_X, 1, [2, 2]),
    "squeeze.default": call(_X[:1]),
    "squeeze.dim": call(_X[:, :1], 1),
    "squeeze.dims": call(_X[:1, :1], [0, 1]),
    "unsqueeze.default": call(_X, -1),
    "permute.default": call(_X, [0, -1, 1]),
    "transpose.int": call(_X, -1, 1),
    "swapaxes.default": call(_X, 0, -1),
    "swapdims.default": call(_X, 0, -1),
    "mT.default": call(_X),
    "numpy_T.default": call(_MATRIX),
    "t.default": call(_MATRIX),
    "slice.Tensor": call(_X, -1, -5, 9223372036854775807, 2),
    "select.int": call(_X, -1, -2),
    "narrow.default": call(_X, -1, 1, 3),
    "expand.default": call(_X[:, :1], [-1, 3, -1]),
    "expand_as.default": call(_X[:, :1], _X),
    "constant_pad_nd.default": call(_X, [1, 2], 0.5),
    "pad.default": call(_X, [1, 2], "reflect"),
    "roll.default": call(_X, [1, -2], [1, 2]),
    "flip.default": call(_X, [-1]),
    "cat.default": call([_X, _X.flip(0)], -1),
    "mean.dim": call(_X, [-1], True),
    "sum.dim_IntList": call(_X, [1, 2]),
    "amax.default": call(_X, [-1], True),
    "layer_norm.default": call(_X, [6], _randn(6), _randn(6), 1e-3),
    "native_layer_norm.default": call(_X, [4, 6], _randn(4, 6), None, 1e-3),
    "group_norm.default": call(_PICTURE, 2, _randn(4), None, 1e-3),
    "instance_norm.default": call(_PICTURE, _randn(4), _randn(4), None, None, True, 0.1, 1e-3, False),
    "rms_norm.default": call(_X, [6], _randn(6), None),
    "linalg_vector_norm.default": call(_X, 1, [-1]),
    "softmax.int": call(_X, 1),
    "_softmax.default": call(_X, 1, False),
    "log_softmax.int": call(_X, 1),
    "_log_softmax.default": call(_X, 1, False),
    "scaled_dot_product_attention.default": call(
        _PICTURE, _PICTURE.flip(0), _PICTURE.flip(1), None, 0.0, True, scale=0.3
    ),
}
