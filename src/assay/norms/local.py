"""The gain of a layer at one point: for normalisations, softmax, attention, whose global gain says little."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import jacrev, jvp, vjp

from assay.errors import NumericalError, SubjectError, UsageError
from assay.grade import Grade
from assay.norms.golub_kahan import largest_singular
from assay.norms.maps import MATRIX_LIMIT
from assay.norms.result import OperatorNorm


def local_norm(function: nn.Module | Callable[[Tensor], Tensor], point: Tensor, *, seed: int = 0) -> OperatorNorm:
    """Spectral norm of the Jacobian of a layer at one input: its gain for small changes there.

    Exact (for the derivative) by the dense Jacobian up to 4e6 elements, else a lower estimate by Golub-Kahan-Lanczos,
    whose `upper` is then infinite: no bound is known. First order: a change of finite size may be amplified more.

    Args:
        function: takes a batch (1, ...) and returns one tensor; a module in evaluation mode.
        point: one sample, without a batch axis, floating point.
        seed: of the Lanczos start.

    Returns:
        The norm; grade: linearised.

    Raises:
        UsageError: for a point that is not finite floating point.
        SubjectError: for a module with layers in training mode that use the batch or chance.
        NumericalError: where the Jacobian is not finite.

    Example:
        >>> at = torch.tensor([1.0, 2.0, 4.0, 8.0], dtype=torch.float64)
        >>> print(f"{local_norm(nn.LayerNorm(4, dtype=torch.float64), at).value:.7f}")
        0.3730017
    """
    if not point.is_floating_point() or not bool(torch.isfinite(point).all()):
        raise UsageError("The point must be finite floating point.", where="point", advice="Convert it, drop NaN.")
    if isinstance(function, nn.Module):
        kinds = (nn.modules.batchnorm._NormBase, nn.modules.dropout._DropoutNd)
        if any(module.training and isinstance(module, kinds) for module in function.modules()):
            raise SubjectError("A layer is in training mode.", where=type(function).__name__, advice="Call eval().")

    def one(flat: Tensor) -> Tensor:
        return function(flat.reshape(1, *point.shape)).flatten()

    flat = point.detach().flatten()
    size = one(flat).numel()
    if size * flat.numel() <= MATRIX_LIMIT:
        dense = jacrev(one)(flat)
        assert isinstance(dense, Tensor)
        _finite(dense)
        value = float(torch.linalg.svdvals(dense.double())[0])
        bounds = {"jacobian": value}
        return OperatorNorm(
            value, Grade.LINEARISED, value, value, value, "jacobian", "jacobian", "2", bounds, 0, ("first order",)
        )
    found = largest_singular(_Jacobian(one, flat, size), dtype=flat.dtype, max_steps=60, seed=seed)
    value = float(found.value[0])
    _finite(found.value)
    return OperatorNorm(
        value,
        Grade.LINEARISED,
        value,
        math.inf,
        float(found.upper()[0]),
        "lanczos",
        "none",
        iterations=int(found.iterations[0]),
        notes=("first order",),
    )


class _Jacobian:
    """A Jacobian as a batch of one linear map."""

    def __init__(self, function: Callable[[Tensor], Tensor], point: Tensor, outputs: int) -> None:
        self.function, self.point = function, point
        self.shape = (1, outputs, point.numel())
        self._pullback = vjp(function, point)[1]

    def forward(self, v: Tensor) -> Tensor:
        return jvp(self.function, (self.point,), (v[0].to(self.point.dtype),))[1][None]

    def transpose(self, u: Tensor) -> Tensor:
        return self._pullback(u[0].to(self.point.dtype))[0][None]

    def select(self, rows: Tensor) -> _Jacobian:
        return self


def _finite(values: Tensor) -> None:
    if not bool(torch.isfinite(values).all()):
        raise NumericalError(
            "The Jacobian is not finite there.",
            where="local_norm",
            advice="The layer is not differentiable at the point.",
        )
