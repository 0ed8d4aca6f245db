"""Norms of the Jacobians of softmax and of normalisations at an input, in closed form."""

from __future__ import annotations

import torch
from torch import Tensor


def softmax_jacobian_norm(logits: Tensor) -> Tensor:
    """||diag(p) - p p^T|| of softmax at logits, the largest singular value; never above 1/2.

    Exact up to rounding: it is the only eigenvalue above the second largest p of a diagonal matrix changed by rank one,
    found from the symmetric matrix itself.

    Args:
        logits: (..., K).

    Returns:
        (...) float64.

    Example:
        >>> import torch
        >>> round(float(softmax_jacobian_norm(torch.zeros(3))), 6)
        0.333333
    """
    p = torch.softmax(logits.double(), -1)
    return torch.linalg.eigvalsh(torch.diag_embed(p) - p[..., :, None] * p[..., None, :])[..., -1]


def layer_norm_jacobian_norm(x: Tensor, weight: Tensor | None = None, *, eps: float = 1e-5) -> Tensor:
    """Largest singular value of the Jacobian of layer norm over the last axis, at x.

    J = diag(gamma) (I - 1 1^T / n - c c^T / (n s^2)) / s with c = x - mean and s^2 = var + eps. For n > 2 and without
    gamma its norm is 1 / s: a direction orthogonal to 1 and c is only scaled.

    Args:
        x: (..., n).
        weight: gamma (n,), or None for ones.
        eps: as in the layer.

    Returns:
        (...) float64, exact up to rounding.

    Example:
        >>> import torch
        >>> round(float(layer_norm_jacobian_norm(torch.tensor([1.0, 2.0, 4.0, 8.0]))), 6)
        0.373002
    """
    x = x.double()
    size = x.shape[-1]
    centred = x - x.mean(-1, keepdim=True)
    deviation = (centred.square().mean(-1, keepdim=True) + eps).sqrt()
    matrix = torch.eye(size, dtype=x.dtype) - 1 / size
    unit = centred / deviation
    matrix = (matrix - unit[..., :, None] * unit[..., None, :] / size) / deviation[..., None]
    return _top(matrix, weight)


def rms_norm_jacobian_norm(x: Tensor, weight: Tensor | None = None, *, eps: float = 1e-6) -> Tensor:
    """Largest singular value of the Jacobian of RMS norm over the last axis, at x.

    J = diag(gamma) (I - x x^T / (n s^2)) / s with s^2 = mean(x^2) + eps.

    Args:
        x: (..., n).
        weight: gamma (n,), or None for ones.
        eps: as in the layer.

    Returns:
        (...) float64, exact up to rounding.
    """
    x = x.double()
    size = x.shape[-1]
    deviation = (x.square().mean(-1, keepdim=True) + eps).sqrt()
    unit = x / deviation
    matrix = torch.eye(size, dtype=x.dtype) - unit[..., :, None] * unit[..., None, :] / size
    return _top(matrix / deviation[..., None], weight)


def _top(matrix: Tensor, weight: Tensor | None) -> Tensor:
    if weight is not None:
        matrix = weight.double()[:, None] * matrix
    return torch.linalg.matrix_norm(matrix, 2)
