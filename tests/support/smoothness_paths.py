"""Small paths, and derivatives of paths by differences."""

from __future__ import annotations

import torch
from torch import Tensor

from assay.smoothness.paths import Path


def picture(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_differences(path: Path, t: Tensor, step: float = 1e-3) -> Tensor:
    """Tangents from central differences of two steps, with an error of order step^4 where the path is smooth enough."""
    coarse, fine = ((path.at(t + h)[0] - path.at(t - h)[0]) / (2 * h) for h in (step, step / 2))
    return (4 * fine - coarse) / 3


def inner_parameters(path: Path, count: int = 7) -> Tensor:
    """Parameters away from the ends of a path and, by an irrational share, from anything regular."""
    share = (torch.arange(count, dtype=torch.float64) + 0.61803398875) / (count + 0.5)
    return path.start + (path.end - path.start) * share
