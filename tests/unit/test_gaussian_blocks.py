"""Long formulas in blocks: the same values as in one piece, and derivatives where they are wanted."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from assay.gaussian import in_blocks, smoothed_maximum, smoothed_relu


def test_blocks_give_what_one_piece_gives() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(3, 333, 101), torch.rand(3, 333, 101)
    sizes: list[int] = []

    def function(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        sizes.append(a.numel())
        return a * b, a.exp()

    found = in_blocks(function, x, y)
    assert len(sizes) > 2
    assert sum(sizes) == x.numel()
    torch.testing.assert_close(found, function(x, y), rtol=0, atol=0)


def test_no_blocks_where_a_derivative_is_wanted() -> None:
    x = torch.ones(70_000, requires_grad=True)
    (found,) = in_blocks(lambda a: (a * a,), x)
    assert torch.autograd.grad(found.sum(), x)[0][0] == 2
    jacobian = torch.func.jvp(lambda a: in_blocks(lambda b: (b * b,), a)[0], (x.detach(),), (x.detach(),))[1]
    assert jacobian[-1] == 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_both_ways_through_a_rectifier_agree(dtype: torch.dtype) -> None:
    mean = torch.tensor([-60.0, -7.0, -1.0, -1e-9, 0.0, 0.0, 0.3, 5.0, 60.0, 2.0, -2.0], dtype=dtype)
    std = torch.tensor([1.0, 1.0, 2.0, 0.5, 1.0, 0.0, 1.0, 2.0, 1.0, 0.0, 0.0], dtype=dtype)
    plain = smoothed_relu(mean, std)
    followed = smoothed_relu(mean.clone().requires_grad_(), std)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    for one, other in zip(plain, followed, strict=True):
        torch.testing.assert_close(one, other.detach(), rtol=tolerance, atol=1e-30)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_both_ways_through_a_maximum_agree(dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    first, second = torch.randn(200, dtype=dtype), torch.randn(200, dtype=dtype)
    variances = torch.rand(2, 200, dtype=dtype)
    covariance = (variances[0] * variances[1]).sqrt() * (2 * torch.rand(200, dtype=dtype) - 1)
    covariance[0], variances[:, 0] = 1.0, 1.0  # the same variable, shifted
    first[1] = second[1]
    first[2], variances[0, 2], covariance[2] = -1e30, 0.0, 0.0  # padding
    arguments = (first, second, *variances, covariance)
    plain = smoothed_maximum(*arguments)
    followed = smoothed_maximum(first.clone().requires_grad_(), *arguments[1:])
    tolerance = 1e-4 if dtype == torch.float32 else 1e-10
    for one, other in zip(plain, followed, strict=True):
        torch.testing.assert_close(one, other.detach(), rtol=tolerance, atol=1e-7)


def test_single_precision_tails_against_double() -> None:
    mean = torch.linspace(-8, 12, 4001)
    for one, other in zip(
        smoothed_relu(mean, torch.ones(4001)), smoothed_relu(mean.double(), torch.ones(4001).double()), strict=True
    ):
        torch.testing.assert_close(one.double(), other, rtol=1e-5, atol=0)
