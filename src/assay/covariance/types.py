"""The three forms of a covariance over tensors of shape (B, *shape)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Diagonal:
    """Independent elements.

    Attributes:
        variance: (B, *shape), non-negative.
    """

    variance: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape (B, *shape) of the described tensor."""
        return tuple(self.variance.shape)


@dataclass(frozen=True, eq=False)
class LowRankPlusDiagonal:
    """Sum over columns l of `factor` of l l^T, plus independent elements: x = mean + sum_k factor_k z_k + sqrt(rest) w.

    Attributes:
        factor: (r, B, *shape); r may be 0.
        rest: (B, *shape), non-negative.
    """

    factor: Tensor
    rest: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape (B, *shape) of the described tensor."""
        return tuple(self.rest.shape)

    @property
    def rank(self) -> int:
        """Number r of columns."""
        return self.factor.shape[0]


@dataclass(frozen=True, eq=False)
class Dense:
    """The full matrix per sample. Memory grows with the square of the width: only where the user asked for it.

    Attributes:
        matrix: (B, n, n), symmetric positive semi-definite, n the product of `event`.
        event: shape of one sample.
    """

    matrix: Tensor
    event: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape (B, *shape) of the described tensor."""
        return (self.matrix.shape[0], *self.event)


Covariance = Diagonal | LowRankPlusDiagonal | Dense
