"""How numbers and tensors enter this folder: one dtype, one device, and no impossible standard deviation."""

from __future__ import annotations

from functools import reduce
from typing import TypeAlias

import torch
from torch import Tensor

from assay.errors import UsageError

Number: TypeAlias = Tensor | float


def as_tensors(*values: Number) -> tuple[Tensor, ...]:
    """Bring numbers and tensors to one floating dtype and one device.

    Python numbers alone become float64; beside a floating tensor they take its dtype. Integer tensors become
    float64 and half precisions float32, since no kernel here is accurate below that.

    Args:
        values: tensors of any shape, or Python numbers.

    Returns:
        One tensor per value, shapes unchanged.
    """
    tensors = [value for value in values if isinstance(value, Tensor)]
    kinds = [tensor.dtype for tensor in tensors if tensor.dtype.is_floating_point]
    dtype = reduce(torch.promote_types, kinds) if kinds else torch.float64
    if dtype in (torch.float16, torch.bfloat16):
        dtype = torch.float32
    device = next((tensor.device for tensor in tensors if tensor.ndim), tensors[0].device if tensors else None)
    return tuple(
        value.to(dtype) if isinstance(value, Tensor) else torch.tensor(value, dtype=dtype, device=device)
        for value in values
    )


def broadcast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Views of the tensors, all of their common shape."""
    return tuple(torch.broadcast_tensors(*tensors))


def _holds(condition: Tensor) -> bool:
    try:
        return bool(condition.all())
    except RuntimeError:  # inside torch.func.vmap values cannot be looked at; the caller outside is on their own
        return True


def require_deviation(std: Tensor, where: str) -> None:
    """Raise unless no standard deviation is negative (NaN passes and stays NaN in the answer).

    Args:
        std: standard deviations, any shape.
        where: name of the argument, for the message.

    Raises:
        UsageError: a standard deviation is negative.
    """
    if not _holds(~(std < 0)):
        raise UsageError(
            f"A standard deviation is negative: smallest {float(std.min()):.6g}.",
            where=where,
            advice="Pass standard deviations (square roots of variances), zero or larger.",
        )


def require_correlation(rho: Tensor, where: str) -> None:
    """Raise unless every correlation lies in [-1, 1], up to rounding.

    Args:
        rho: correlations, any shape. An excess of rounding size (1e-4 float32, 1e-9 float64) is let through and
            read as 1.
        where: name of the argument, for the message.

    Raises:
        UsageError: a correlation is outside [-1, 1].
    """
    slack = 1e-9 if rho.dtype == torch.float64 else 1e-4
    if not _holds(~(rho.abs() > 1 + slack)):
        raise UsageError(
            f"A correlation is outside [-1, 1]: largest magnitude {float(rho.abs().max()):.9g}.",
            where=where,
            advice="Divide the covariance by both standard deviations; check that the covariance matrix is valid.",
        )
