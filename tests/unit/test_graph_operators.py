"""The operator table keeps its word: samples, ATen forms, affine parts, squares, elementwise functions, kinks."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from assay.graph import OPERATORS, Operator, Sample
from assay.graph.from_export import _bind
from assay.graph.operators import ATEN
from assay.graph.operators.opaque import overload

ROWS = list(OPERATORS.values())


def samples(row: Operator, seed: int = 0) -> list[Sample]:
    return list(row.samples(torch.Generator().manual_seed(seed)))


def claimed(row: Operator, sample: Sample) -> list[frozenset[int]]:
    """Sets of inputs in which the row says it is jointly affine, as far as the sample has them."""
    present = frozenset(i for i, v in enumerate(sample.inputs) if v is not None and v.dtype.is_floating_point)
    if row.linear_in == "all":
        return [present]
    return [group & present for group in row.linear_in if isinstance(group, frozenset) and group & present]


AFFINE = [(row, i, g) for row in ROWS for i, s in enumerate(samples(row)) for g in claimed(row, s)]
AFFINE_IDS = [f"{row.name}-{i}-{'+'.join(map(str, sorted(g)))}" for row, i, g in AFFINE]


def test_every_operator_is_tried_somewhere():
    assert all(samples(row) for row in ROWS)
    assert {row.name for row in ROWS} == set(OPERATORS)
    assert {row.name for row, _, _ in AFFINE} == {row.name for row in ROWS if row.linear_in}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_samples_evaluate(row: Operator):
    for sample, again in zip(samples(row), samples(row), strict=True):
        value = row.evaluate(*sample.inputs, **sample.attributes)
        assert isinstance(value, Tensor)
        assert value.numel()
        assert torch.isfinite(value).all()
        assert torch.equal(value, row.evaluate(*again.inputs, **again.attributes))


@pytest.mark.parametrize(("row", "index", "group"), AFFINE, ids=AFFINE_IDS)
def test_affine_claims(row: Operator, index: int, group: frozenset[int]):
    sample = samples(row)[index]
    generator = torch.Generator().manual_seed(1)
    attributes = dict(sample.attributes)

    def at(*points: list[Tensor]) -> list[Any]:
        """The sample's inputs, those of the group replaced by a sum of points."""
        filled: list[Any] = list(sample.inputs)
        for place, position in enumerate(sorted(group)):
            filled[position] = torch.stack([point[place] for point in points]).sum(0)
        return filled

    def draw() -> list[Tensor]:
        return [torch.randn(sample.inputs[i].shape, generator=generator, dtype=torch.float64) for i in sorted(group)]  # type: ignore[union-attr]

    a, b, zero = draw(), draw(), [torch.zeros_like(sample.inputs[i]) for i in sorted(group)]  # type: ignore[arg-type]
    assert row.affine_in(group)

    def linear(*points: list[Tensor]) -> Tensor:
        return row.linear_part(at(*points), group, attributes)

    scaled = [2.5 * value for value in a]
    close(linear(a, b), linear(a) + linear(b))
    close(linear(scaled), 2.5 * linear(a))
    whole = row.evaluate(*at(a), **attributes) - row.evaluate(*at(zero), **attributes)
    close(linear(a), whole)
    assert float(linear(a).abs().max()) > 0


@pytest.mark.parametrize(("row", "index", "group"), AFFINE, ids=AFFINE_IDS)
def test_squared_coefficients(row: Operator, index: int, group: frozenset[int]):
    assert row.squared is not None
    sample = samples(row)[index]
    positions = sorted(group)
    attributes = dict(sample.attributes)
    shapes = [sample.inputs[i].shape for i in positions]  # type: ignore[union-attr]

    def linear(*values: Tensor) -> Tensor:
        filled: list[Any] = list(sample.inputs)
        for position, value in zip(positions, values, strict=True):
            filled[position] = value
        return row.linear_part(filled, group, attributes)

    zeros = [torch.zeros(shape, dtype=torch.float64) for shape in shapes]
    jacobians = torch.autograd.functional.jacobian(linear, tuple(zeros), vectorize=True)
    generator = torch.Generator().manual_seed(2)
    variances = [torch.rand(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    expected = torch.zeros(())
    for jacobian, variance in zip(jacobians, variances, strict=True):
        flat = jacobian.reshape(*linear(*zeros).shape, -1)
        expected = expected + flat.square() @ variance.reshape(-1)
    filled: list[Any] = list(sample.inputs)
    for position, variance in zip(positions, variances, strict=True):
        filled[position] = variance
    close(row.squared_part(filled, group, attributes), expected)


@pytest.mark.parametrize("row", [row for row in ROWS if row.elementwise], ids=lambda row: row.name)
def test_elementwise_claims(row: Operator):
    for sample in samples(row):
        x = sample.inputs[0]
        assert x is not None

        def function(v: Tensor, sample: Sample = sample) -> Tensor:
            return row.evaluate(v, *sample.inputs[1:], **sample.attributes)

        slope = torch.autograd.functional.jacobian(function, x, vectorize=True)
        matrix = slope.reshape(x.numel(), x.numel())
        assert torch.equal(matrix, torch.diag(matrix.diagonal()))
        assert matrix.diagonal().abs().max() > 0


@pytest.mark.parametrize(
    "row", [row for row in ROWS if row.elementwise and row.name != "clip"], ids=lambda row: row.name
)
def test_kinks_are_where_the_slope_jumps(row: Operator):
    assert list(row.kinks) == sorted(row.kinks)
    grid = torch.arange(-800, 801, dtype=torch.float64) / 100
    for sample in samples(row):
        ones = [None if v is None else torch.full((1,), 0.25, dtype=torch.float64) for v in sample.inputs[1:]]

        def slope(x: Tensor) -> Tensor:
            return torch.func.jvp(lambda v: row.evaluate(v, *ones, **sample.attributes), (x,), (torch.ones_like(x),))[1]  # noqa: B023

        step = 1e-5
        near, far = (
            torch.stack([slope((grid + sign * size).reshape(1, 1, -1)).reshape(-1) for sign in (-1, 1)])
            for size in (step, 2 * step)
        )
        curvature = (far - near) * torch.tensor([[-1.0], [1.0]]) / step
        jumps = (near.diff(dim=0).abs() + curvature.diff(dim=0).abs()) / (1 + near[0].abs())
        assert grid[(jumps > 1e-2).any(0)].tolist() == list(row.kinks)


@pytest.mark.parametrize("target", sorted(ATEN))
def test_every_aten_form_means_the_operator(target: str):
    """The operator, fed with what the form picks from a call, gives what PyTorch gives for that call."""
    row, form = ATEN[target]
    arguments, named = CALLS[target.removeprefix("aten.")]
    call = SimpleNamespace(target=overload(target), args=arguments, kwargs=named)
    expected = overload(target)(*arguments, **named)
    expected = expected[0] if isinstance(expected, tuple) else expected
    inputs, attributes = form.bind(_bind(call), tuple(expected.shape))
    tensors = [torch.tensor(v) if isinstance(v, (int, float)) else v for v in inputs]
    assert all(v is None or isinstance(v, Tensor) for v in tensors)
    close(row.evaluate(*tensors, **attributes), expected)


def test_no_example_call_is_left_over():
    assert {f"aten.{name}" for name in CALLS} == set(ATEN)


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected.to(found.dtype), rtol=1e-10, atol=1e-10)


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
