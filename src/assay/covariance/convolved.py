"""Questions to `Convolved`, the covariance of smooth noise on pictures, answered by convolution.

`through_linear` and `add` leave the form; they answer in the dense form, at its cost.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from assay.covariance.functions import (
    add,
    diagonal,
    flat_rows,
    project,
    sample,
    scale,
    select,
    through_linear,
    times,
    to_dense,
)
from assay.covariance.linear_map import LinearMap
from assay.covariance.types import Convolved, Covariance, Dense


def root(covariance: Convolved, canvas: Tensor) -> Tensor:
    """R w for columns w (k, B or 1, *canvas) of white noise: (k, B, *shape). R R^T is the covariance."""
    for offset, taps in enumerate(covariance.taps):
        axis = canvas.dim() - len(covariance.taps) + offset
        canvas = _along(canvas, axis, taps, transposed=False)
    return canvas * covariance.scale


def root_transposed(covariance: Convolved, columns: Tensor) -> Tensor:
    """R^T applied to columns (k, B, *shape): (k, B, *canvas)."""
    canvas = columns * covariance.scale
    for offset, taps in enumerate(covariance.taps):
        axis = canvas.dim() - len(covariance.taps) + offset
        canvas = _along(canvas, axis, taps, transposed=True)
    return canvas


def _along(x: Tensor, axis: int, taps: Tensor, *, transposed: bool) -> Tensor:
    """Convolution of one axis where the taps fit entirely, or its transpose, which makes the axis longer."""
    moved = x.movedim(axis, -1)
    function = torch.nn.functional.conv_transpose1d if transposed else torch.nn.functional.conv1d
    result = function(moved.reshape(-1, 1, moved.shape[-1]), taps.to(x).reshape(1, 1, -1))
    return result.reshape(*moved.shape[:-1], -1).movedim(-1, axis)


@diagonal.register
def _(covariance: Convolved) -> Tensor:
    return covariance.scale.square()


@through_linear.register
def _(covariance: Convolved, linear: LinearMap) -> Covariance:
    return through_linear(to_dense(covariance), linear)


@scale.register
def _(covariance: Convolved, gain: Tensor) -> Covariance:
    return Convolved(covariance.taps, covariance.scale * gain)


@add.register
def _(covariance: Convolved, variance: Tensor) -> Covariance:
    return add(to_dense(covariance), variance)


@to_dense.register
def _(covariance: Convolved) -> Dense:
    event = covariance.shape[1:]
    size = math.prod(event)
    units = torch.eye(size, dtype=covariance.scale.dtype).reshape(size, 1, *event).expand(size, *covariance.shape)
    return Dense(flat_rows(times(covariance, units)), event)


@project.register
def _(covariance: Convolved, left: Tensor, right: Tensor) -> Tensor:
    return flat_rows(root_transposed(covariance, left)).mT @ flat_rows(root_transposed(covariance, right))


@times.register
def _(covariance: Convolved, columns: Tensor) -> Tensor:
    return root(covariance, root_transposed(covariance, columns))


@sample.register
def _(covariance: Convolved, count: int, generator: torch.Generator) -> Tensor:
    shape = (count, covariance.shape[0], *covariance.canvas)
    white = torch.randn(shape, generator=generator, dtype=covariance.scale.dtype)
    return root(covariance, white.to(covariance.scale.device))


@select.register
def _(covariance: Convolved, rows: slice | Tensor) -> Covariance:
    return Convolved(covariance.taps, covariance.scale[rows])


__all__ = ["root", "root_transposed"]
