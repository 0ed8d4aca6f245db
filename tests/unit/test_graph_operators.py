"""The operator table keeps its word: samples, ATen forms, affine parts, squares, elementwise functions, kinks."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.support.calls import CALLS
from torch import Tensor

from assay.graph import OPERATORS, Operator, Sample
from assay.graph.from_export import bound_arguments
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
    inputs, attributes = form.bind(bound_arguments(call), tuple(expected.shape))
    tensors = [torch.tensor(v) if isinstance(v, (int, float)) else v for v in inputs]
    assert all(v is None or isinstance(v, Tensor) for v in tensors)
    close(row.evaluate(*tensors, **attributes), expected)


def test_no_example_call_is_left_over():
    assert {f"aten.{name}" for name in CALLS} == set(ATEN)


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected.to(found.dtype), rtol=1e-10, atol=1e-10)
