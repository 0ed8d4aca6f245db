"""Rewriting of attention, squares and selections: equal in value. Constants in the shape of a batch."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from assay.gaussian import HARDSIGMOID, HARDTANH, RELU6, PiecewiseLinear, piecewise_linear_moments
from assay.graph import capture, evaluate, lower_attention, lower_composites, lower_squares, select_before_permute
from assay.moments import propagate


class Calls(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def ops(graph: Any) -> list[str]:
    return [node.op for node in graph.layers]


MASK = torch.ones(4, 4, dtype=torch.bool).tril()
BIAS = torch.randn(4, 4, generator=torch.Generator().manual_seed(2))


def heads(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = x.reshape(-1, 4, 3, 2, 5).permute(2, 0, 3, 1, 4).unbind(0)
    return q, k, v


ATTENTION = {
    "plain": lambda x: F.scaled_dot_product_attention(*heads(x)),
    "causal": lambda x: F.scaled_dot_product_attention(*heads(x), is_causal=True),
    "scaled": lambda x: F.scaled_dot_product_attention(*heads(x), scale=0.3),
    "masked": lambda x: F.scaled_dot_product_attention(*heads(x), attn_mask=MASK),
    "biased": lambda x: F.scaled_dot_product_attention(*heads(x), attn_mask=BIAS),
}


@pytest.mark.parametrize("name", ATTENTION)
def test_attention_as_products(name: str) -> None:
    model, x = Calls(lambda x: ATTENTION[name](x).flatten(1)), torch.randn(3, 120)
    graph = capture(model, x)
    lowered = lower_composites(graph)
    assert "attention" in ops(graph)
    assert "attention" not in ops(lowered)
    assert ops(lowered).count("matmul") == 2
    torch.testing.assert_close(evaluate(lowered, x), model(x))
    (last,) = [node for node in graph if node.op == "attention"]
    assert lowered[last.name].op == "matmul"


def test_selections_go_before_the_permutation() -> None:
    model, x = Calls(lambda x: torch.cat(heads(x)[:2], -1).flatten(1)), torch.randn(3, 120)
    graph = capture(model, x)
    swapped = select_before_permute(graph)
    torch.testing.assert_close(evaluate(swapped, x), model(x))
    assert all(node.spec.shape[0] == graph[graph.input].spec.shape[0] for node in swapped.layers)
    for node in swapped:
        if node.op in ("select", "permute"):
            assert len(node.spec.shape) == 4


def test_a_permutation_read_otherwise_stays() -> None:
    graph = capture(
        Calls(lambda x: (lambda p: p[0].flatten(1) + p.sum(0).flatten(1))(x.reshape(-1, 4, 3).permute(2, 0, 1))),
        torch.randn(3, 12),
    )
    assert ops(select_before_permute(graph)) == ops(graph)


@pytest.mark.parametrize("function", [torch.square, lambda x: x**2])
@pytest.mark.parametrize("method", ["exact", "factor"])
def test_squares_are_exact(function: Callable[[Tensor], Tensor], method: str) -> None:
    x = torch.tensor([[0.7, -1.0]], dtype=torch.float64)
    assert ops(lower_squares(capture(Calls(function), x))) == ["mul"]
    result = propagate(Calls(function), x, torch.tensor([[1.69, 4.0]], dtype=torch.float64), method=method)
    expected = [0.49 + 1.69, 5.0, 4 * 0.49 * 1.69 + 2 * 1.69**2, 4 * 4 + 2 * 16.0]
    assert [*result.mean[0].tolist(), *result.variance[0].tolist()] == pytest.approx(expected, rel=1e-12)


LIKE = {
    "zeros": (torch.zeros_like, torch.relu),
    "ones": (torch.ones_like, lambda x: torch.clamp(x, min=1)),
    "full": (lambda x: torch.full_like(x, 0.25), lambda x: torch.clamp(x, min=0.25)),
    "new zeros": (lambda x: x.new_zeros(x.shape), torch.relu),
}


@pytest.mark.parametrize("name", LIKE)
def test_a_constant_in_the_shape_of_the_input_does_not_depend_on_it(name: str) -> None:
    like, same = LIKE[name]
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    model = Calls(lambda x: torch.maximum(x, like(x)))
    graph = capture(model, x)
    assert ops(graph) == ["maximum"]
    torch.testing.assert_close(evaluate(graph, x[:1]), model(x[:1]))
    for method in ("exact", "factor"):
        found, expected = (propagate(m, x, 0.3, method=method, fallback="error") for m in (model, Calls(same)))
        torch.testing.assert_close(found.mean, expected.mean)
        torch.testing.assert_close(found.covariance, expected.covariance)


@pytest.mark.parametrize("function", [RELU6, HARDTANH, HARDSIGMOID])
@pytest.mark.parametrize("std", [1.0, 12.0, 30.0, 300.0, 1e4])
def test_clips_in_single_precision(function: PiecewiseLinear, std: float) -> None:
    narrow, wide = (
        piecewise_linear_moments(torch.tensor([0.0, 3.0, -7.0], dtype=kind), torch.tensor(std, dtype=kind), *function)
        for kind in (torch.float32, torch.float64)
    )
    for value, expected in zip(narrow, wide, strict=True):
        assert value.dtype == torch.float32
        torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=1e-30)


def test_keys_of_the_input_are_needed() -> None:
    query = torch.randn(1, 2, 3, 5)

    def attend(x: Tensor) -> Tensor:
        value = x.reshape(-1, 2, 3, 5)
        fixed = query.expand(value.shape[0], -1, -1, -1)
        return F.scaled_dot_product_attention(fixed, fixed, value).flatten(1)

    graph = capture(Calls(attend), torch.randn(2, 30))
    assert "attention" in ops(lower_attention(graph))
