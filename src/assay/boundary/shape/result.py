"""What `curvature` returns."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from assay.boundary.shape.plateau import Plateau
from assay.boundary.smoothness import Smoothness
from assay.errors import UsageError
from assay.grade import Grade
from assay.results import Displayed

LIMIT = 1.0
"""R * kappa_max above this: the point cannot be the nearest one."""


@dataclass(frozen=True, eq=False)
class Curvature(Displayed):
    """How the decision boundary bends at points near inputs.

    Positive curvature means that the boundary bends towards the input: the own region is locally convex. Units are
    one over the units of the inputs.

    Attributes:
        mean: (B,) float64 mean of the d - 1 principal curvatures; NaN where there is none (see `status`).
        mean_error: (B,) float64 its standard error; 0 where nothing was sampled.
        principal: (B, m) float64 signed principal curvatures, descending: all d - 1 of them, or `top` from each end.
        directions: (B, m, ...) unit tangent directions, in the order of `principal`; (B, 0, ...) where not wanted.
        normal: (B, ...) unit gradient of F, from the own region to the rival's.
        gradient_norm: (B,) float64 ||grad F||.
        x: (B, ...) the inputs.
        point: (B, ...) where curvature was measured.
        label: (B,) own class.
        rival: (B,) class on the other side.
        distance: (B,) float64 Euclidean distance from x to the point.
        status: per row `ok`, `linear` (no curvature at all: exactly 0), `not found` (no boundary point) or
            `no gradient` (the boundary has no normal there).
        estimator: `exact`, `difference`, `forward`, `frames`, `gaussian` or `softplus`.
        smoothness: kind of the network.
        scale: (B,) float64 length over which the shape was measured; None where it is that of a point.
        sharpness: of the softplus that took the place of ReLU, or None.
        spectrum: `dense`, `lanczos` or `none`.
        trace: how the mean was made: `full`, `hutchinson`, `deflated` (Hutchinson beside the known principal
            curvatures), `hutch++`, `xtrace`, `directions` or `frames`.
        samples: products, directions or frames behind each mean.
        asymmetry: (B,) ||A - A^T|| / ||A + A^T|| of the matrix before it was symmetrised; NaN without a matrix. Large
            values mean too few frames: the eigenvalues are noise.
        validated: (B, m) principal curvatures with directions of one half of the frames and values of the other, or
            None. Far below `principal`: noise.
        plateau: how the mean depends on the scale, or None.
        shift: (B,) how far the boundary moved with the softplus swap, or None.
        notes: what the reader must know.
    """

    mean: Tensor
    mean_error: Tensor
    principal: Tensor
    directions: Tensor
    normal: Tensor
    gradient_norm: Tensor
    x: Tensor
    point: Tensor
    label: Tensor
    rival: Tensor
    distance: Tensor
    status: tuple[str, ...]
    estimator: str
    smoothness: Smoothness
    scale: Tensor | None
    sharpness: float | None
    spectrum: str
    trace: str
    samples: int
    asymmetry: Tensor
    validated: Tensor | None
    plateau: Plateau | None
    shift: Tensor | None
    notes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.mean)

    @property
    def dimension(self) -> int:
        """Number of principal curvatures that exist, d - 1."""
        return self.x[0].numel() - 1

    @property
    def complete(self) -> bool:
        """Whether all d - 1 principal curvatures are there."""
        return self.principal.shape[1] == self.dimension

    @property
    def grade(self) -> Grade:
        """Reliability of the numbers: exact, or sampled (also where a scale or a swapped network stands in)."""
        if set(self.status) <= {"linear"}:
            return Grade.EXACT
        pointwise = self.estimator == "exact" and self.smoothness == "smooth"
        return Grade.EXACT if pointwise and self.trace == "full" else Grade.SAMPLED

    @property
    def gauss_kronecker(self) -> Tensor:
        """(B,) product of all principal curvatures.

        Raises:
            UsageError: where only some of them were computed.
        """
        if not self.complete:
            raise UsageError(
                f"The Gauss-Kronecker curvature is a product of all {self.dimension} principal curvatures; "
                f"{self.principal.shape[1]} were computed.",
                where="gauss_kronecker",
                advice='Call curvature with top="full".',
            )
        return self.principal.prod(1)

    def second_order_check(self) -> SecondOrderCheck:
        """Whether the points can be the nearest ones: see `second_order_check`."""
        return second_order_check(self)


@dataclass(frozen=True, eq=False)
class SecondOrderCheck(Displayed):
    """R * kappa_max per row, at most 1 at a point that is nearest to the input.

    Attributes:
        value: (B,) float64, NaN where unknown.
        violated: (B,) bool.
    """

    value: Tensor
    violated: Tensor


def second_order_check(curvature: Curvature, *, tolerance: float = 1e-3) -> SecondOrderCheck:
    """The second-order condition of a nearest point: R * kappa_max <= 1, R the distance to the input.

    A boundary that bends towards the input more sharply than a ball around it has nearer points beside the one found.
    A violation says that the point is not the nearest one; with a curvature at a scale it may also say that the scale
    is too small to mean anything.

    Args:
        curvature: with at least one principal curvature.
        tolerance: for rounding: violated above 1 + tolerance.

    Returns:
        The products and which of them are too large.

    Raises:
        UsageError: without principal curvatures.

    Example:
        >>> import torch
        >>> from assay.boundary import curvature
        >>> def disc(x):
        ...     return torch.stack([4 - x.square().sum(1), x.square().sum(1) - 4], 1)
        >>> found = curvature(disc, torch.tensor([[1.0, 0.0]], dtype=torch.float64))
        >>> second_order_check(found).value.round(decimals=4)  # distance 1 times curvature 1/2
        tensor([0.5000], dtype=torch.float64)
    """
    if not curvature.principal.shape[1]:
        raise UsageError(
            "The second-order check needs the largest principal curvature.", where="curvature", advice="Use top=1."
        )
    value = curvature.distance * curvature.principal[:, 0]
    return SecondOrderCheck(value, torch.nan_to_num(value, nan=0.0) > LIMIT + tolerance)
