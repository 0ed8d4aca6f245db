"""Any differentiable function of one parameter as a path."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from assay.errors import NumericalError, SubjectError
from assay.probe import Probe
from assay.smoothness.paths import checks
from assay.smoothness.paths.path import Side


class Curve:
    """x(t) = function(t), tangents by forward differentiation.

    Args:
        function: (n,) float64 parameters -> (n, ...) inputs, made of torch operations, row by row, and twice
            differentiable between `start` and `end`. Curves with corners are `Joined` from smooth ones.
        start: first parameter.
        end: last parameter.

    Raises:
        UsageError: unless start < end.

    Example:
        >>> import torch
        >>> circle = Curve(lambda t: torch.stack([t.cos(), t.sin()], dim=1), end=2 * torch.pi)
        >>> points, tangents = circle.at(torch.tensor([0.0]))
        >>> points, tangents
        (tensor([[1., 0.]], dtype=torch.float64), tensor([[-0., 1.]], dtype=torch.float64))
    """

    knots: tuple[float, ...] = ()

    def __init__(self, function: Callable[[Tensor], Tensor], start: float = 0.0, end: float = 1.0) -> None:
        self.start, self.end = checks.span(start, end)
        self.function = function

    def __repr__(self) -> str:
        return f"Curve({self.function!r}, {self.start:g}, {self.end:g})"

    def at(self, t: Tensor, *, side: Side = "right") -> tuple[Tensor, Tensor]:
        """Where the path is at t, and where it goes.

        Returns:
            Points x(t) (n, ...) and tangents (n, ...).

        Raises:
            NumericalError: where the function or its derivative is not finite.
            SubjectError: when the function fails or does not return one row per parameter.
            UsageError: for parameters outside the curve.
        """
        t = checks.parameters(t, self.start, self.end)
        return differentiated(as_module(self.function), t, torch.ones_like(t), "function")


class _Function(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, t: Tensor) -> Tensor:
        return self.function(t)


def as_module(function: Callable[[Tensor], Tensor]) -> nn.Module:
    """A module that calls the function; modules as they are."""
    return function if isinstance(function, nn.Module) else _Function(function)


def differentiated(module: nn.Module, x: Tensor, direction: Tensor, where: str) -> tuple[Tensor, Tensor]:
    """Values and derivatives along a direction, one row per row of x.

    Args:
        module: in double precision.
        x: (n, ...).
        direction: the same shape.
        where: what errors call the module.

    Returns:
        Two (n, ...), float64.

    Raises:
        NumericalError: where a value or derivative is not finite.
        SubjectError: when the function fails or does not return one row per row.
    """
    try:
        values, slopes = Probe(module).jvp(x, direction)
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        raise SubjectError(
            f"The function of a path fails: {reason}",
            where=where,
            advice="It must take double precision rows and be made of torch operations.",
        ) from error
    if values.dim() < 2 or len(values) != len(x) or values.dtype != torch.float64:
        raise SubjectError(
            f"The function of a path returns shape {tuple(values.shape)} ({values.dtype}) for {len(x)} parameters.",
            where=where,
            advice="Return one float64 row (...) per parameter.",
        )
    if not bool(torch.isfinite(values).all() and torch.isfinite(slopes).all()):
        raise NumericalError(
            "The function of a path, or its derivative, is not finite.", where=where, advice="Choose another range."
        )
    return values, slopes
