"""Orthonormal bases of subspaces of the input: random ones, complements, and how much two overlap."""

from __future__ import annotations

import torch
from torch import Tensor

from assay.errors import UsageError


def orthonormal(vectors: Tensor, *, tolerance: float = 1e-6) -> Tensor:
    """Orthonormal basis of the span of vectors, most shared directions first.

    Args:
        vectors: (n, ...) vectors of inputs' shape, n at least 1.
        tolerance: directions whose singular value is below this times the largest are dropped.

    Returns:
        (m, d) float64 rows, m at most min(n, d).

    Raises:
        UsageError: for vectors that are all zero, or not finite.

    Example:
        >>> orthonormal(torch.tensor([[3.0, 0.0], [4.0, 0.0]])).abs().tolist()
        [[1.0, 0.0]]
    """
    rows = vectors.detach().double().flatten(1)
    if not bool(torch.isfinite(rows).all()) or not bool((rows != 0).any()):
        raise UsageError(
            "These vectors span no subspace.", where="vectors", advice="Give finite vectors, not all zero."
        )
    _, values, basis = torch.linalg.svd(rows, full_matrices=False)
    return basis[values > tolerance * values[0]]


def random_subspace(size: int, dimension: int, generator: torch.Generator) -> Tensor:
    """Orthonormal basis of a subspace of uniformly random direction.

    Args:
        size: d, of the whole space.
        dimension: m, between 1 and d.
        generator: on the CPU.

    Returns:
        (m, d) float64 rows. Time d m^2, memory 2 d m.

    Raises:
        UsageError: for a dimension outside 1..d.
    """
    if not 1 <= dimension <= size:
        raise UsageError(
            f"An input of {size} elements has no {dimension}-dimensional subspace.",
            where="dimension",
            advice=f"Use 1 to {size}.",
        )
    draws = torch.randn((size, dimension), generator=generator, dtype=torch.float64)
    return torch.linalg.qr(draws)[0].T


def complement(basis: Tensor, dimension: int, generator: torch.Generator) -> Tensor:
    """Orthonormal basis of a random subspace orthogonal to another.

    Args:
        basis: (k, d) orthonormal rows.
        dimension: m, at most d - k.
        generator: on the CPU.

    Returns:
        (m, d) float64 rows.

    Raises:
        UsageError: when the complement is too small.
    """
    known, size = basis.shape
    if not 1 <= dimension <= size - known:
        raise UsageError(
            f"There are only {size - known} directions orthogonal to {known} in {size} dimensions.",
            where="dimension",
            advice=f"Use 1 to {size - known}.",
        )
    draws = torch.randn((size, dimension), generator=generator, dtype=torch.float64)
    for _ in range(2):  # the second pass removes what rounding left of the first
        draws = draws - basis.T @ (basis @ draws)
        draws = torch.linalg.qr(draws)[0]
    return draws.T


def overlap(one: Tensor, other: Tensor) -> tuple[float, float]:
    """Share of the smaller subspace that lies in the larger: the mean squared cosine of their principal angles.

    Args:
        one: (m, d) orthonormal rows.
        other: (k, d) orthonormal rows.

    Returns:
        The share between 0 and 1, ||A B^T||_F^2 / min(m, k), and its expectation for a random subspace, max(m, k) / d.

    Example:
        >>> overlap(torch.eye(4)[:2], torch.eye(4)[1:3])
        (0.5, 0.5)
    """
    smaller, larger = sorted((len(one), len(other)))
    shared = one.double() @ other.double().T
    return float(shared.square().sum()) / smaller, larger / one.shape[1]
