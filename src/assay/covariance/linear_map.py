"""Linear maps as three actions: on columns, on variances of independent elements, and transposed."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class LinearMap(Protocol):
    """A linear map from one or several tensors (B, ...) to one tensor (B, ...), acting on each sample alone."""

    def apply(self, *columns: Tensor) -> Tensor:
        """Images (r, B, ...) of stacks of columns (r, B, ...), one stack per input."""
        ...

    def squared(self, *variances: Tensor) -> Tensor:
        """Variances (B, ...) of the image of independent elements with these variances (B, ...)."""
        ...

    def transpose(self, cotangents: Tensor) -> tuple[Tensor, ...]:
        """Transposed map on a stack (k, B, ...): one stack per input."""
        ...


class MatrixMap:
    """A matrix (m, n), or (B, m, n), acting on flat samples (B, n).

    Example:
        >>> import torch
        >>> MatrixMap(torch.tensor([[1.0, 2.0]])).squared(torch.ones(1, 2))
        tensor([[5.]])
    """

    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix

    def apply(self, *columns: Tensor) -> Tensor:
        """(r, B, n) -> (r, B, m)."""
        return (self.matrix @ columns[0].unsqueeze(-1)).squeeze(-1)

    def squared(self, *variances: Tensor) -> Tensor:
        """(B, n) -> (B, m)."""
        return ((self.matrix * self.matrix) @ variances[0].unsqueeze(-1)).squeeze(-1)

    def transpose(self, cotangents: Tensor) -> tuple[Tensor, ...]:
        """(k, B, m) -> (k, B, n)."""
        return ((self.matrix.mT @ cotangents.unsqueeze(-1)).squeeze(-1),)
