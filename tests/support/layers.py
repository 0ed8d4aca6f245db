"""Layers with known kernels, and the dense matrix of any layer: the truth that norms are compared with."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn


def waves(*shape: int) -> Tensor:
    """sin(m^2) / sqrt(fan in), m = 1, 2, ... in C order."""
    m = torch.arange(1, math.prod(shape) + 1, dtype=torch.float64)
    return (torch.sin(m * m) / math.sqrt(math.prod(shape[1:]))).reshape(shape)


def convolution(
    inputs: int, outputs: int, kernel: Any, *, transposed: bool = False, dims: int = 2, **given: Any
) -> Any:
    """A convolution without bias whose kernel is `waves`."""
    plain = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
    adjoint = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[dims - 1]
    layer = (adjoint if transposed else plain)(inputs, outputs, kernel, bias=False, dtype=torch.float64, **given)
    layer.weight.data = waves(*layer.weight.shape)
    return layer.eval()


def unrolled(layer: Any, shape: tuple[int, ...]) -> Tensor:
    """The matrix (outputs, inputs) of an affine layer, by running it on unit vectors."""
    size = math.prod(shape)
    units = torch.eye(size, dtype=torch.float64).reshape(size, *shape)
    with torch.no_grad():
        return (layer(units) - layer(torch.zeros(1, *shape, dtype=torch.float64))).reshape(size, -1).T


def largest(matrix: Tensor) -> float:
    """Spectral norm."""
    return float(torch.linalg.svdvals(matrix)[0])


GAINS = (
    (nn.GELU(), 1.128904),
    (nn.GELU(approximate="tanh"), 1.128993),
    (nn.SiLU(), 1.099839),
    (nn.Mish(), 1.088498),
    (nn.SELU(), 1.758099),
    (nn.Hardswish(), 1.5),
    (nn.Sigmoid(), 0.25),
    (nn.Hardsigmoid(), 1 / 6),
)
"""Smooth activations and the largest size of their slope."""
