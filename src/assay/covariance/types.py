"""The forms of a covariance over tensors of shape (B, *shape)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from assay.brief import Brief


@dataclass(frozen=True, eq=False)
class Diagonal(Brief):
    """Independent elements.

    Attributes:
        variance: (B, *shape), non-negative.

    Example:
        >>> import torch
        >>> Diagonal(torch.ones(2, 3)).shape
        (2, 3)
    """

    variance: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape (B, *shape) of the described tensor."""
        return tuple(self.variance.shape)


@dataclass(frozen=True, eq=False)
class LowRankPlusDiagonal(Brief):
    """Sum over columns l of `factor` of l l^T, plus independent elements: x = mean + sum_k factor_k z_k + sqrt(rest) w.

    Attributes:
        factor: (r, B, *shape); r may be 0.
        rest: (B, *shape), non-negative.

    Example:
        >>> import torch
        >>> LowRankPlusDiagonal(torch.ones(1, 2, 3), torch.zeros(2, 3)).rank
        1
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
class Dense(Brief):
    """The full matrix per sample. Memory grows with the square of the width: only where the user asked for it.

    Attributes:
        matrix: (B, n, n), symmetric positive semi-definite, n the product of `event`.
        event: shape of one sample.

    Example:
        >>> import torch
        >>> Dense(torch.eye(6)[None], (2, 3)).shape
        (1, 2, 3)
    """

    matrix: Tensor
    event: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape (B, *shape) of the described tensor."""
        return (self.matrix.shape[0], *self.event)


@dataclass(frozen=True, eq=False)
class Convolved(Brief):
    """Smooth noise on pictures: white noise convolved along the last axes, then scaled elementwise.

    x = scale * (taps[0] * (taps[1] * ... w)), with white noise w on a canvas that is larger than the picture by the
    width of the taps, so that the border is like the middle. Channels are independent. Memory: one picture.

    Attributes:
        taps: one filter per convolved axis, the last axes of the picture; of unit norm, so that `scale` is the
            standard deviation.
        scale: (B, *shape).

    Example:
        >>> import torch
        >>> noise = Convolved((torch.tensor([0.6, 0.8]),), torch.ones(1, 4))
        >>> noise.shape, noise.canvas
        ((1, 4), (5,))
    """

    taps: tuple[Tensor, ...]
    scale: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape (B, *shape) of the described tensor."""
        return tuple(self.scale.shape)

    @property
    def canvas(self) -> tuple[int, ...]:
        """Shape of one sample's white noise."""
        event, count = self.shape[1:], len(self.taps)
        grown = (size + len(taps) - 1 for size, taps in zip(event[-count:], self.taps, strict=True))
        return (*event[: len(event) - count], *grown)


@dataclass(frozen=True, eq=False)
class Conditioned(Brief):
    """What is left of a covariance S when the values of some linear functionals v_k x are known.

    S - sum_k (S v_k)(S v_k)^T, for functionals with v_j S v_k = 1 if j = k, else 0 (or v_k = 0).

    Attributes:
        base: S.
        functionals: v (k, B, *shape).
        columns: S v (k, B, *shape).

    Example:
        >>> import torch
        >>> from assay.covariance import diagonal
        >>> first = torch.tensor([[[1.0, 0.0]]])  # the first of two independent elements is known
        >>> diagonal(Conditioned(Diagonal(torch.ones(1, 2)), first, first))
        tensor([[0., 1.]])
    """

    base: Covariance
    functionals: Tensor
    columns: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape (B, *shape) of the described tensor."""
        return self.base.shape


Covariance = Diagonal | LowRankPlusDiagonal | Dense | Convolved | Conditioned
