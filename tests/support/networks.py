"""Networks and measures that tests of propagation share."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from assay.moments import Moments


def random_network(seed: int, sizes: list[int], scale: float) -> tuple[nn.Sequential, Tensor, Tensor]:
    """He-initialised ReLU network in float64 with biases 0.1 z, an input mean (1, d) and covariance (d, d)."""
    draws = np.random.RandomState(seed)
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        linear = nn.Linear(inputs, outputs, dtype=torch.float64)
        linear.weight.data = torch.tensor(draws.randn(outputs, inputs) * np.sqrt(2 / inputs))
        linear.bias.data = torch.tensor(0.1 * draws.randn(outputs))
        layers += [linear, nn.ReLU()]
    mean = torch.tensor(draws.randn(sizes[0])).unsqueeze(0)
    root = torch.tensor(draws.randn(sizes[0], sizes[0]))
    return nn.Sequential(*layers[:-1]).eval(), mean, scale * root @ root.T / sizes[0]


@lru_cache(maxsize=1)
def digits() -> tuple[Tensor, Tensor]:
    """The 1,797 scikit-learn digits as (n, 64) in [0, 1], and labels."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return torch.tensor(x / 16, dtype=torch.float32), torch.tensor(y)


@lru_cache(maxsize=4)
def trained_mlp(depth: int, width: int, epochs: int = 20) -> nn.Sequential:
    """ReLU network with `depth` hidden layers trained on digits (about 97 % right)."""
    x, y = digits()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(depth)
        layers: list[nn.Module] = [nn.Linear(64, width), nn.ReLU()]
        for _ in range(depth - 1):
            layers += [nn.Linear(width, width), nn.ReLU()]
        network = nn.Sequential(*layers, nn.Linear(width, 10))
        optimiser = torch.optim.Adam(network.parameters(), 1e-3)
        for _ in range(epochs):
            for rows in torch.randperm(1300).split(64):
                optimiser.zero_grad()
                nn.functional.cross_entropy(network(x[rows]), y[rows]).backward()
                optimiser.step()
    return network.eval()


def mean_error(found: Moments, truth: Moments) -> float:
    """Mean absolute error of the mean in output deviations."""
    return float(((found.mean - truth.mean) / truth.std).abs().mean())


def variance_ratio(found: Moments, truth: Moments) -> float:
    """Mean of propagated over true variance."""
    return float((found.variance / truth.variance).mean())
