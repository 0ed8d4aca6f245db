"""Classifiers whose boundaries, distances and flip probabilities are known."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

Classifier = Callable[[Tensor], Tensor]


def pair_of(field: Callable[[Tensor], Tensor]) -> Classifier:
    """Two logits whose difference is F: class 0 where F < 0."""

    def logits(x: Tensor) -> Tensor:
        value = field(x.flatten(1))
        return torch.stack([torch.zeros_like(value), value], 1)

    return logits


def half_space(normal: Tensor, offset: float) -> Classifier:
    """Class 0 where normal . x < offset."""
    return pair_of(lambda x: x @ normal.to(x) - offset)


def ball(radius: float) -> Classifier:
    """Class 0 inside a ball around the origin."""
    return pair_of(lambda x: x.square().sum(1) - radius**2)


def paraboloid(distance: float, curvatures: Sequence[float]) -> Classifier:
    """Class 0 on the origin's side of x_0 = distance - 1/2 sum_i curvature_i x_i^2."""
    bends = torch.tensor(curvatures, dtype=torch.float64)
    return pair_of(lambda x: x[:, 0] - distance + 0.5 * (x[:, 1:].square() @ bends.to(x)))


def linear_module(size: int, *, seed: int = 0) -> nn.Linear:
    """Two logits of one linear layer, float64."""
    module = nn.Linear(size, 2, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        module.weight.copy_(torch.randn(module.weight.shape, generator=generator, dtype=torch.float64))
        module.bias.copy_(torch.tensor([1.0, 0.0], dtype=torch.float64))
    return module


def smooth_plane_network(seed: int = 3) -> nn.Sequential:
    """A small smooth network on the plane, float64, three classes."""
    generator = torch.Generator().manual_seed(seed)
    network = nn.Sequential(nn.Linear(2, 12), nn.Tanh(), nn.Linear(12, 12), nn.Tanh(), nn.Linear(12, 3)).double()
    with torch.no_grad():
        for parameter in network.parameters():
            draws = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(draws * (1.0 if parameter.dim() == 1 else 1.5 / parameter.shape[1] ** 0.5))
    return network.eval().requires_grad_(False)


def flips_on_the_plane(model: Classifier, x: Tensor, noise: float, *, cells: int = 1500) -> tuple[float, Tensor]:
    """Probability that Gaussian noise changes the decision at a point (2,) of the plane, by enumerating a grid.

    Returns:
        P(decision changes) and (K,) probabilities of the decisions; both to about 1 / cells.
    """
    from scipy.special import ndtr

    edges = np.linspace(-7, 7, cells + 1)
    weights = torch.from_numpy(np.diff(ndtr(edges)))
    centres = torch.from_numpy((edges[1:] + edges[:-1]) / 2)
    own = int(model(x[None]).argmax(1))
    totals = torch.zeros(model(x[None]).shape[1], dtype=torch.float64)
    for first, weight in zip(centres, weights, strict=True):
        points = x + noise * torch.stack([first.expand(cells), centres], 1)
        totals.index_add_(0, model(points.to(x)).argmax(1), weight * weights)
    return float(1 - totals[own]), totals
