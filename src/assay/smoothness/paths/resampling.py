"""A picture as a smooth function of two coordinates: cubic B-splines through its pixels.

Bilinear resampling bends at every pixel boundary, and a path made with it would have kinks of its own. A cubic B-spline
is twice continuously differentiable everywhere, whatever its coefficients; so is the extension beyond the edges, which
extends the coefficients (Unser, Splines: a perfect fit for signal and image processing, IEEE Signal Processing
Magazine 16(6), 1999).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

Edge = Literal["mirror", "wrap", "fill"]

_MARGIN = 28
"""Pixels after which the filter that makes coefficients forgets an edge: |sqrt(3) - 2|^28 = 1e-16."""


class Taps(NamedTuple):
    """The four coefficients that matter at each coordinate.

    Attributes:
        index: (..., 4) places in the array of coefficients.
        weight: (..., 4) their weights.
        slope: (..., 4) derivatives of the weights with respect to the coordinate.
    """

    index: Tensor
    weight: Tensor
    slope: Tensor


class Field:
    """g(channel, y, x): equal to the pixels at whole coordinates, twice continuously differentiable between and beyond.

    Args:
        image: (..., H, W) float64.
        edge: what lies beyond: the picture mirrored at its outermost pixels, the picture again, or `fill`.
        fill: value beyond the edges for ``fill``.
    """

    def __init__(self, image: Tensor, edge: Edge, fill: float = 0.0) -> None:
        from scipy.ndimage import spline_filter1d

        self.edge = edge
        self.leading = tuple(image.shape[:-2])
        self.height, self.width = image.shape[-2:]
        pixels = image.reshape(-1, self.height, self.width).numpy()
        self.margin = _MARGIN if edge == "fill" else 0
        if self.margin:
            around = ((0, 0), (self.margin, self.margin), (self.margin, self.margin))
            pixels = np.pad(pixels, around, constant_values=fill)
        for axis in (1, 2):
            if pixels.shape[axis] > 1:  # a single row is constant across, whatever the filter
                pixels = spline_filter1d(pixels, 3, axis, mode="grid-wrap" if edge == "wrap" else "mirror")
        self.coefficients = torch.from_numpy(np.ascontiguousarray(pixels))

    def taps(self, coordinate: Tensor, axis: Literal["y", "x"]) -> Taps:
        """Coefficients and weights for coordinates (...), in pixels, along one axis."""
        size = self.coefficients.shape[1 if axis == "y" else 2]
        whole = coordinate.detach().floor()
        f = (coordinate - whole)[..., None]
        g = 1 - f
        inner, outer = (4 - 6 * f**2 + 3 * f**3) / 6, (4 - 6 * g**2 + 3 * g**3) / 6
        weight = torch.cat([g**3 / 6, inner, outer, f**3 / 6], dim=-1)
        slope = torch.cat([-(g**2) / 2, (1.5 * f - 2) * f, (2 - 1.5 * g) * g, f**2 / 2], dim=-1)
        index = whole.long()[..., None] + torch.arange(-1, 3) + self.margin
        return Taps(self._folded(index, size), weight, slope)

    def _folded(self, index: Tensor, size: int) -> Tensor:
        if self.edge == "fill":  # coefficients of a constant are that constant, and the outermost ones have reached it
            return index.clamp(0, size - 1)
        if self.edge == "wrap":
            return index % size
        if size == 1:
            return torch.zeros_like(index)
        period = 2 * size - 2
        index = index % period
        return torch.minimum(index, period - index)


def along_axes(field: Field, y: Tensor, x: Tensor, y_speed: Tensor, x_speed: Tensor) -> tuple[Tensor, Tensor]:
    """The picture where rows share one y and columns one x, and its change while the coordinates move.

    Args:
        field: the picture.
        y: (n, h) coordinates of the rows.
        x: (n, w) coordinates of the columns.
        y_speed: (n, h) dy/dt.
        x_speed: (n, w) dx/dt.

    Returns:
        Values and derivatives (n, channels, h, w); memory of a few such arrays.
    """
    rows, moving_rows = (_matrix(field.taps(y, "y"), field.coefficients.shape[1], s) for s in (None, y_speed))
    columns, moving_columns = (_matrix(field.taps(x, "x"), field.coefficients.shape[2], s) for s in (None, x_speed))
    across = rows[:, None] @ field.coefficients
    values = across @ columns[:, None].mT
    slopes = across @ moving_columns[:, None].mT + (moving_rows[:, None] @ field.coefficients) @ columns[:, None].mT
    return values, slopes


def _matrix(taps: Taps, size: int, speed: Tensor | None) -> Tensor:
    """(n, out, size): weights of the coefficients of one axis, or, with a speed (n, out), their derivatives in time."""
    weight = taps.weight if speed is None else taps.slope * speed[..., None]
    matrix = weight.new_zeros(*weight.shape[:-1], size)
    return matrix.scatter_add(-1, taps.index, weight)


def anywhere(field: Field, y: Tensor, x: Tensor, y_speed: Tensor, x_speed: Tensor) -> tuple[Tensor, Tensor]:
    """The picture at any coordinates, and its change while they move.

    Args:
        field: the picture.
        y: (n, h, w) coordinates.
        x: (n, h, w) coordinates.
        y_speed: (n, h, w) dy/dt.
        x_speed: (n, h, w) dx/dt.

    Returns:
        Values and derivatives (n, channels, h, w); memory of a few such arrays.
    """
    across = field.coefficients.shape[2]
    flat = field.coefficients.flatten(1)
    rows, columns = field.taps(y, "y"), field.taps(x, "x")
    shape = (len(flat), *y.shape)
    values, slopes = flat.new_zeros(shape), flat.new_zeros(shape)
    for i in range(4):
        for j in range(4):
            found = flat[:, rows.index[..., i] * across + columns.index[..., j]]
            values += found * (rows.weight[..., i] * columns.weight[..., j])
            down = rows.slope[..., i] * columns.weight[..., j] * y_speed
            slopes += found * (down + rows.weight[..., i] * columns.slope[..., j] * x_speed)
    return values.movedim(0, 1), slopes.movedim(0, 1)
