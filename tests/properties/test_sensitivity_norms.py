"""Laws of operator norms on random layers: lower <= truth <= upper for every method, padding, stride and group."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tests.support.layers import largest, unrolled
from torch import nn

from assay.errors import UsageError
from assay.norms import operator_norm
from assay.norms.maps import Effort

METHODS = ("auto", "lanczos", "kernel", "fourier", "gram")


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[Any, tuple[int, ...]]:
    """A random convolution, possibly transposed, and the shape of one sample."""
    dims = draw(st.sampled_from([1, 2, 2]))
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    inputs, outputs = groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 2))
    kernel, stride, dilation = (tuple(draw(st.integers(1, most)) for _ in range(dims)) for most in (4, 3, 3))
    sizes = tuple(draw(st.integers(1, 9 if dims == 1 else 6)) for _ in range(dims))
    given: dict[str, Any] = {"stride": stride, "dilation": dilation, "groups": groups, "bias": draw(st.booleans())}
    transposed = draw(st.booleans())
    given["padding"] = tuple(draw(st.integers(0, 3)) for _ in range(dims))
    if transposed:
        given["output_padding"] = tuple(
            draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True)
        )
    else:
        given["padding_mode"] = draw(st.sampled_from(["zeros", "circular", "reflect", "replicate"]))
        if draw(st.booleans()) and set(stride) == {1}:
            given["padding"] = draw(st.sampled_from(["same", "valid"]))
    kinds = ((nn.Conv1d, nn.ConvTranspose1d), (nn.Conv2d, nn.ConvTranspose2d))[dims - 1]
    torch.manual_seed(draw(st.integers(0, 10_000)))
    layer = kinds[transposed](inputs, outputs, kernel, dtype=torch.float64, **given)
    return layer.eval(), (inputs, *sizes)


def fits(layer: Any, shape: tuple[int, ...]) -> bool:
    try:
        with torch.no_grad():
            return layer(torch.zeros(1, *shape, dtype=torch.float64)).numel() > 0
    except (RuntimeError, ValueError):
        return False


@given(convolutions())
@settings(max_examples=120)
def test_every_bound_holds_for_every_convolution(drawn: tuple[Any, tuple[int, ...]]) -> None:
    layer, shape = drawn
    if not fits(layer, shape):
        with pytest.raises(UsageError):
            operator_norm(layer, shape)
        return
    matrix = unrolled(layer, shape)
    truth = largest(matrix)
    for method in METHODS:
        found = operator_norm(layer, shape, method=method)  # type: ignore[arg-type]
        assert found.lower * (1 - 1e-12) <= truth <= found.upper * (1 + 1e-12), method
        assert found.lower * (1 - 1e-12) <= found.value <= found.upper * (1 + 1e-12), method
        assert all(bound >= truth * (1 - 1e-12) for bound in found.bounds.values()), method
        if found.grade == "exact":
            assert found.value == pytest.approx(truth, rel=1e-9, abs=1e-14)
    assert operator_norm(layer, shape, method="frobenius").value == pytest.approx(float(matrix.norm()), rel=1e-10)
    assert operator_norm(layer, shape, method="infinity").value == pytest.approx(
        float(matrix.abs().sum(1).max()), rel=1e-10
    )


@given(convolutions(), st.integers(1, 4))
@settings(max_examples=25)
def test_lanczos_grows_with_its_steps(drawn: tuple[Any, tuple[int, ...]], steps: int) -> None:
    layer, shape = drawn
    assume(fits(layer, shape))
    values = [
        operator_norm(layer, shape, method="lanczos", effort=Effort(steps=s, tolerance=1e-12)).value
        for s in (steps, steps + 1)
    ]
    assert values[0] <= values[1] * (1 + 1e-12)


@given(convolutions(), st.floats(-5, 5))
@settings(max_examples=25)
def test_norms_are_absolutely_homogeneous(drawn: tuple[Any, tuple[int, ...]], factor: float) -> None:
    layer, shape = drawn
    assume(fits(layer, shape))
    before = [operator_norm(layer, shape, method=method).value for method in METHODS]  # type: ignore[arg-type]
    layer.weight.data *= factor
    after = [operator_norm(layer, shape, method=method).value for method in METHODS]  # type: ignore[arg-type]
    assert after == pytest.approx([abs(factor) * value for value in before], rel=1e-6, abs=1e-12)


@given(st.integers(1, 12), st.integers(1, 12), st.integers(2, 6), st.integers(0, 1000))
@settings(max_examples=40)
def test_dense_layers_lie_between_their_bounds(rows: int, columns: int, side: int, seed: int) -> None:
    torch.manual_seed(seed)
    layer = nn.Linear(columns, rows, dtype=torch.float64)
    truth = largest(layer.weight.detach())
    for effort in (Effort(), Effort(matrix=side * side)):
        found = operator_norm(layer, (columns,), effort=effort)
        assert found.lower * (1 - 1e-12) <= truth <= found.upper
        assert all(bound >= truth * (1 - 1e-12) for bound in found.bounds.values())
