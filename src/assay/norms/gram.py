"""Norms of small dense matrices in batches: exact by eigenvalues, and differentiable bounds by Gram iteration."""

from __future__ import annotations

import torch
from torch import Tensor

from assay.errors import UsageError


def gram_norm(matrix: Tensor, steps: int = 6) -> Tensor:
    """Upper bound of the spectral norm by Gram iteration (Delattre, Barthelemy, Araujo and Allauzen 2023, theorem 1).

    With G = M M^H, ||M|| <= ||G^(2^steps)||_F^(1/2^(steps+1)), which decreases to ||M|| quadratically: for rank r the
    excess is at most the factor r^(1/2^(steps+2)). A guaranteed bound up to rounding, differentiable, matrix products
    only. Rescaled at every step, so nothing overflows.

    Args:
        matrix: (..., a, b), real or complex.
        steps: squarings of the smaller Gram matrix.

    Returns:
        (...) real; grade: bound. Zero for a zero matrix.

    Raises:
        UsageError: for a negative number of steps.

    Example:
        >>> print(f"{float(gram_norm(torch.diag(torch.tensor([3.0, 1.0])))):.4f}")
        3.0000
    """
    if steps < 0:
        raise UsageError(f"steps must not be negative, got {steps}.", where="gram_norm", advice="Leave it at 6.")
    matrix = matrix if matrix.shape[-2] <= matrix.shape[-1] else matrix.mH
    peak = _at_least_normal(matrix.detach().abs().amax((-2, -1)))  # squares neither overflow nor vanish
    scaled = matrix / peak[..., None, None]
    size = _frobenius(scaled)
    scaled = scaled / _positive(size)[..., None, None]
    gram = scaled @ scaled.mH
    logarithm = torch.log(_positive(size)) + torch.log(peak)
    for step in range(steps):
        length = _positive(_frobenius(gram))
        logarithm = logarithm + torch.log(length) / 2 ** (step + 1)
        gram = gram / length[..., None, None]
        gram = gram @ gram.mH
    logarithm = logarithm + torch.log(_positive(_frobenius(gram))) / 2 ** (steps + 1)
    return torch.where(size > 0, torch.exp(logarithm), torch.zeros_like(size))


def spectral_norm(matrix: Tensor) -> Tensor:
    """Exact spectral norm, up to rounding: the top eigenvalue of the smaller Gram matrix has full relative precision.

    Args:
        matrix: (..., a, b), real or complex.

    Returns:
        (...) real.
    """
    matrix = matrix if matrix.shape[-2] <= matrix.shape[-1] else matrix.mH
    if matrix.shape[-2] == 0:
        return matrix.new_zeros(matrix.shape[:-2], dtype=torch.float64)
    peak = _at_least_normal(matrix.abs().amax((-2, -1)))
    scaled = matrix / peak[..., None, None]
    if matrix.shape[-2] == 1:
        return _frobenius(scaled) * peak
    top = torch.linalg.eigvalsh(scaled @ scaled.mH)[..., -1]
    return top.clamp(min=0).sqrt() * peak


def vector_norm(x: Tensor) -> float:
    """Euclidean norm of all elements in double precision; squares neither overflow nor vanish."""
    peak = float(x.abs().max()) if x.numel() else 0.0
    return peak * float((x.double() / peak).norm()) if peak > 0 else 0.0


def chunked_gram(matrix: Tensor, columns: int = 4096) -> Tensor:
    """M M^T in double precision without a double copy of M (a, b): by blocks of columns."""
    gram = torch.zeros(matrix.shape[0], matrix.shape[0], dtype=torch.float64, device=matrix.device)
    for part in matrix.split(columns, dim=1):
        wide = part.double()
        gram += wide @ wide.mT
    return gram


def _frobenius(matrix: Tensor) -> Tensor:
    # written out: the gradient of linalg.norm at a zero matrix is fine, but that of abs() of complex numbers is slower
    square = matrix.real.square() + matrix.imag.square() if matrix.is_complex() else matrix.square()
    return _root(square.sum((-2, -1)))


def _root(square: Tensor) -> Tensor:
    """Square root with a zero gradient at zero instead of an infinite one."""
    positive = square > 0
    return torch.where(
        positive, torch.where(positive, square, torch.ones_like(square)).sqrt(), torch.zeros_like(square)
    )


def _at_least_normal(peak: Tensor) -> Tensor:
    """Dividing by a zero or subnormal number would give NaN or infinity."""
    return peak.clamp(min=torch.finfo(peak.dtype).tiny)


def _positive(length: Tensor) -> Tensor:
    return torch.where(length > 0, length, torch.ones_like(length))
