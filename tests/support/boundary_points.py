"""Classifiers whose decision boundary is known in closed form, and small trained-like networks."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

Surface = Callable[[Tensor], Tensor]


def classifier(surface: Surface, *, own: int = 0, rival: int = 1, classes: int = 2) -> Callable[[Tensor], Tensor]:
    """Logits (B, K) with F = f_rival - f_own = surface(x); further classes are far below."""

    def logits(x: Tensor) -> Tensor:
        value = surface(x.flatten(1))
        columns = [torch.full_like(value, -50.0)] * classes
        columns[own], columns[rival] = -value / 2, value / 2
        return torch.stack(columns, 1)

    return logits


def ball(radius: float = 2.0) -> Surface:
    """Own inside the ball around zero."""
    return lambda x: x.square().sum(1) - radius**2


def outside_ball(radius: float = 1.0) -> Surface:
    """Own outside the ball around zero."""
    return lambda x: radius**2 - x.square().sum(1)


def ellipsoid(*axes: float) -> Surface:
    """Own inside the ellipsoid with these half axes."""
    return lambda x: (x / torch.tensor(axes, dtype=x.dtype)).square().sum(1) - 1


def paraboloid(height: float, *curvatures: float) -> Surface:
    """x_0 - height + 1/2 sum k_i x_i^2: own around zero, curvatures k at the top."""
    return lambda x: x[:, 0] - height + 0.5 * (torch.tensor(curvatures, dtype=x.dtype) * x[:, 1:].square()).sum(1)


def network(inputs: int = 6, classes: int = 4, *, smooth: bool = True, seed: int = 0, width: int = 24) -> nn.Module:
    """A network with large random weights, float64, whose classes have bent borders within a few units of zero."""
    generator = torch.Generator().manual_seed(seed)
    act = nn.SiLU if smooth else nn.ReLU
    module = nn.Sequential(
        nn.Linear(inputs, width), act(), nn.Linear(width, width), act(), nn.Linear(width, classes)
    ).double()
    with torch.no_grad():
        for parameter in module.parameters():
            fan = parameter.shape[-1]
            drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(drawn * (2.5 / fan**0.5 if parameter.dim() == 2 else 0.5))
    return module.eval()
