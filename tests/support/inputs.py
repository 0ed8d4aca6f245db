"""Small inputs and networks that many tests begin with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def close(value: Tensor, expected: Tensor, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(value, expected, rtol=tolerance, atol=tolerance)


class Function(nn.Module):
    """Any function as a network."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Calls(nn.Module):
    """A model whose forward pass is a function of (self, x); layers are attributes."""

    def __init__(self, function: Callable[..., Any], **layers: Any) -> None:
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


def calls(function: Callable[..., Any], **layers: Any) -> Calls:
    torch.manual_seed(1)
    return Calls(function, **layers).eval()


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(1)
    return make().eval()
