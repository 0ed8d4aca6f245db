"""Models whose boundaries are known, for tests of the detector."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def paraboloid(bend: float = -0.1, level: float = 1.0):
    """F = t - level + bend / 2 |v|^2 with x = (t, v): at (level, 0) all curvatures of {F = 0} are `bend`."""

    def logits(x: Tensor) -> Tensor:
        rival = x[:, 0] - level + bend / 2 * x[:, 1:].square().sum(1)
        return torch.stack([torch.zeros_like(rival), rival], 1)

    return logits


def linear(classes: int = 3, size: int = 6, dtype: torch.dtype = torch.float64) -> nn.Module:
    """A linear classifier: no boundary bends."""
    layer = nn.Linear(size, classes, dtype=dtype)
    with torch.no_grad():
        layer.weight.copy_(draw(1, classes, size))
        layer.bias.copy_(draw(2, classes) / 10)
    return layer.eval()


def quadratic(classes: int = 4, size: int = 8) -> tuple[nn.Module, Tensor]:
    """f_k = b_k . x + x . A_k x / 2 with symmetric A_k (K, d, d), which are returned, too."""
    matrices = draw(3, classes, size, size)
    matrices = (matrices + matrices.transpose(1, 2)) / 10
    slopes = draw(4, classes, size)

    class Quadratic(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x @ slopes.to(x).T + torch.einsum("bi,kij,bj->bk", x, matrices.to(x), x) / 2

    return Quadratic(), matrices


def one_sided(x: Tensor) -> Tensor:
    """A classifier that always decides for class 0: there is no boundary to find."""
    return torch.stack([1 + x.square().sum(1), torch.zeros(len(x), dtype=x.dtype)], 1)


def draw(seed: int, *shape: int) -> Tensor:
    """Standard normal float64 numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
