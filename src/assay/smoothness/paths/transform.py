"""A picture that moves, turns, grows or brightens: paths without kinks of their own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from assay.errors import UsageError
from assay.smoothness.paths import checks
from assay.smoothness.paths.path import Side
from assay.smoothness.paths.resampling import Edge, Field, along_axes, anywhere

Kind = Literal["translate", "rotate", "scale", "brightness"]

_AT_ONCE = 2**22  # numbers of a result that are made in one go


class Transform:
    """x(t) = the picture, changed by `amount` times t; t runs over [start, end].

    | kind | at t | amount |
    |---|---|---|
    | translate | content moved by t amount along `direction` | pixels |
    | rotate | content turned by t amount about the centre | degrees, counterclockwise as seen (rows count downwards) |
    | scale | content enlarged by amount^t about the centre | factor at t = 1 |
    | brightness | values times 1 + t (amount - 1): a straight line | factor at t = 1 |

    Between pixels the picture is its cubic B-spline (see `resampling`), so x(t) is twice continuously differentiable,
    also at the edges, and has no knots; tangents are exact derivatives. Shrinking is not filtered first. A call takes
    memory of a few times its result.

    Args:
        image: (..., H, W) floating point, one input of the model without the batch axis; any shape for brightness.
        kind: what changes.
        amount: how much at t = 1.
        direction: of a translation, (down, right); its length does not matter.
        start: first parameter; may be negative.
        end: last parameter.
        edge: what moves in from outside: the picture mirrored at its outermost pixels, the picture again, or `fill`.
        fill: that value, in the units of the picture.
        window: (top, left, height, width) in pixels: what of a larger picture the model sees; rotation and scale are
            about its centre. The whole picture by default.

    Raises:
        SubjectError: for integers, NaN, infinity, or an image without rows and columns.
        UsageError: for unknown kinds or edges, or settings that change nothing.

    Example:
        >>> import torch
        >>> image = torch.zeros(1, 5, 5)
        >>> image[0, 2, 1] = 1.0
        >>> moved, tangent = Transform(image, "translate", 2.0).at(torch.tensor([1.0]))
        >>> moved[0, 0, 2].round(decimals=9).abs()
        tensor([0., 0., 0., 1., 0.], dtype=torch.float64)
    """

    knots: tuple[float, ...] = ()

    def __init__(
        self,
        image: Any,
        kind: Kind = "translate",
        amount: float = 1.0,
        *,
        direction: Sequence[float] = (0.0, 1.0),
        start: float = 0.0,
        end: float = 1.0,
        edge: Edge = "mirror",
        fill: float = 0.0,
        window: Sequence[int] | None = None,
    ) -> None:
        self.kind = _one_of(kind, get_args(Kind), "kind")
        self.edge: Any = _one_of(edge, get_args(Edge), "edge")
        self.start, self.end = checks.span(start, end)
        self.amount = checks.number(amount, "amount", positive=kind == "scale")
        if self.amount == (1.0 if kind in ("scale", "brightness") else 0.0):
            raise UsageError(
                f"{kind} by {self.amount:g} changes nothing.", where="amount", advice="Choose another amount."
            )
        self.image = checks.inputs(image, "image", least=0 if kind == "brightness" else 2)
        self.direction = _unit(direction)
        self.window = None if kind == "brightness" else _window(window, self.image)
        self._field = None if kind == "brightness" else Field(self.image, self.edge, checks.number(fill, "fill"))

    def __repr__(self) -> str:
        return (
            f"Transform(shape={tuple(self.image.shape)}, kind={self.kind!r}, amount={self.amount:g}, "
            f"start={self.start:g}, end={self.end:g})"
        )

    def at(self, t: Tensor, *, side: Side = "right") -> tuple[Tensor, Tensor]:
        """Points x(t) (n, ...) and tangents (n, ...)."""
        t = checks.parameters(t, self.start, self.end)
        if self._field is None or self.window is None:
            rate = self.amount - 1.0
            factor = (1.0 + t * rate).reshape(-1, *[1] * self.image.dim())
            return self.image * factor, (self.image * rate).expand(len(t), *self.image.shape)
        shape = (*self._field.leading, *self.window[2:])
        points, tangents = (t.new_empty((len(t), *shape)) for _ in range(2))
        step = max(1, _AT_ONCE // math.prod(shape))
        for first in range(0, len(t), step):
            rows = slice(first, first + step)
            for whole, part in zip((points, tangents), self._resampled(self._field, t[rows]), strict=True):
                whole[rows] = part.reshape(-1, *shape)
        return points, tangents

    def _resampled(self, field: Field, t: Tensor) -> tuple[Tensor, Tensor]:
        """Where each pixel of the window comes from at each t, how that place moves, and what is there."""
        assert self.window is not None
        top, left, height, width = self.window
        y = torch.arange(height, dtype=torch.float64) + top
        x = torch.arange(width, dtype=torch.float64) + left
        t = t[:, None]
        if self.kind == "translate":
            down, right = (self.amount * share for share in self.direction)
            still = torch.zeros_like
            speeds = (still(y + t) - down, still(x + t) - right)
            return along_axes(field, y - t * down, x - t * right, *speeds)
        middle_y, middle_x = top + (height - 1) / 2, left + (width - 1) / 2
        y, x = y - middle_y, x - middle_x
        if self.kind == "scale":
            shrink, rate = self.amount**-t, -math.log(self.amount)
            return along_axes(field, middle_y + y * shrink, middle_x + x * shrink, rate * y * shrink, rate * x * shrink)
        rate = math.radians(self.amount)
        cosine, sine = (f(rate * t)[..., None] for f in (torch.cos, torch.sin))
        y, x = y[None, :, None], x[None, None, :]
        from_y, from_x = sine * x + cosine * y, cosine * x - sine * y
        return anywhere(field, middle_y + from_y, middle_x + from_x, rate * from_x, -rate * from_y)


def _one_of(value: str, allowed: tuple[str, ...], where: str) -> Any:
    if value not in allowed:
        raise UsageError(f"There is no {where} {value!r}.", where=where, advice=f"Choose from {', '.join(allowed)}.")
    return value


def _unit(direction: Sequence[float]) -> tuple[float, float]:
    parts = [checks.number(part, "direction") for part in direction]
    length = math.hypot(*parts)
    if len(parts) != 2 or length == 0:
        raise UsageError(
            f"The direction {tuple(parts)} leads nowhere.", where="direction", advice="Give (down, right), not both 0."
        )
    return parts[0] / length, parts[1] / length


def _window(window: Sequence[int] | None, image: Tensor) -> tuple[int, int, int, int]:
    if window is None:
        return 0, 0, int(image.shape[-2]), int(image.shape[-1])
    values = tuple(int(value) for value in window)
    if len(values) != 4 or values != tuple(window) or min(values[2:]) < 1:
        raise UsageError(
            f"The window {tuple(window)} is no rectangle of pixels.",
            where="window",
            advice="Give whole numbers (top, left, height, width) with height and width of at least 1.",
        )
    return values
