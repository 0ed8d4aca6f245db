"""Surfaces whose curvature is known, as two-class networks, and small networks to measure."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from assay.boundary.field import field_of
from assay.boundary.points import BoundaryPoint
from assay.boundary.shape import Curvature, curvature

Function = Callable[[Tensor], Tensor]


def two_classes(function: Function) -> Function:
    """Logits (0, F): class 0 where F < 0, so F is rival minus own for a point inside."""
    return lambda x: torch.stack([torch.zeros_like(x.flatten(1)[:, 0]), function(x)], 1)


def points(*rows: list[float] | tuple[float, ...]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def on_surface(model: object, at: Tensor, own: int = 0, rival: int = 1, **options: object) -> Curvature:
    """Curvature of the level set through given points, as seen from class `own`."""
    label = torch.full((len(at),), own)
    return curvature(model, at, at="input", label=label, target=rival, **options)  # type: ignore[arg-type]


def boundary_at(model: object, at: Tensor, own: int = 0, rival: int = 1) -> BoundaryPoint:
    """Points that are known to lie on the boundary, as boundary points of inputs that lie there, too."""
    zero = torch.zeros(len(at), dtype=torch.float64)
    label, other = (torch.full((len(at),), each) for each in (own, rival))
    gradient = field_of(model).gradient(at, label, other)  # type: ignore[arg-type]
    norm = gradient.flatten(1).double().norm(dim=1)
    yes = torch.ones(len(at), dtype=torch.bool)
    return BoundaryPoint(
        x=at, point=at, label=label, rival=other, distance=zero, found=yes, residual=zero,
        normal=gradient / norm.reshape(-1, *[1] * (at.dim() - 1)).to(gradient), gradient_norm=norm, cosine=zero + 1,
        valid=yes, first_distance=zero, misclassified=~yes,
    )  # fmt: skip


def on_sphere(count: int, dimension: int, radius: float, seed: int = 0) -> Tensor:
    drawn = torch.randn(count, dimension, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return radius * drawn / drawn.norm(dim=1, keepdim=True)


def bordered(hessian: Tensor, gradient: Tensor) -> float:
    """Gauss-Kronecker curvature of F = 0 by the bordered determinant, without any basis."""
    size = len(gradient)
    full = torch.zeros(size + 1, size + 1, dtype=torch.float64)
    full[:size, :size], full[:size, size], full[size, :size] = hessian, gradient, gradient
    # A ball has det = -||g||^2 2^(d-1): with the minus sign every d gives (1 / r)^(d-1).
    return float(-torch.linalg.det(full) / gradient.norm() ** (size + 1))


def shape_operator(function: Function, point: Tensor) -> Tensor:
    """(d, d) P H P / ||g|| of one flat point, dense, by automatic differentiation of F."""
    gradient = torch.autograd.functional.jacobian(lambda z: function(z[None])[0], point)
    hessian = torch.autograd.functional.hessian(lambda z: function(z[None])[0], point)
    assert isinstance(gradient, Tensor)
    assert isinstance(hessian, Tensor)
    normal = gradient / gradient.norm()
    project = torch.eye(len(point), dtype=point.dtype) - torch.outer(normal, normal)
    return project @ hessian @ project / gradient.norm()


class ReluSphere(nn.Module):
    """F = mean of relu(w . x) / c - radius: about ||x|| - radius, and piecewise linear. Class 0 is inside."""

    def __init__(self, dimension: int = 10, units: int = 2000, radius: float = 2.0, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.first = nn.Linear(dimension, units, bias=False, dtype=torch.float64)
        self.first.weight.data = torch.randn(units, dimension, generator=generator, dtype=torch.float64)
        self.last = nn.Linear(units, 2, dtype=torch.float64)
        self.last.weight.data.zero_()[1] = math.sqrt(2 * math.pi) / units
        self.last.bias.data[:] = torch.tensor([0.0, -radius])
        self.radius = radius

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.first(x)))

    def surface(self, directions: Tensor) -> Tensor:
        """Points of F = 0 along directions (B, d): F + radius is homogeneous."""
        with torch.no_grad():
            return self.radius * directions / (self(directions)[:, 1:] + self.radius)


def smooth_cnn(seed: int = 0, side: int = 8, dtype: torch.dtype = torch.float64) -> nn.Sequential:
    """Untrained convolutional network with SiLU: (B, 1, side, side) to four classes."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = nn.Sequential(
            nn.Conv2d(1, 6, 3, 1, 1), nn.SiLU(), nn.Conv2d(6, 8, 3, 2, 1), nn.SiLU(), nn.Flatten(),
            nn.Linear(8 * (side // 2) ** 2, 16), nn.SiLU(), nn.Linear(16, 4),
        )  # fmt: skip
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(3.0 if parameter.dim() > 1 else 1.0)  # curved enough to measure
    return network.to(dtype).eval().requires_grad_(False)
