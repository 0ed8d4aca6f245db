"""Questions to `Conditioned`, noise of which some linear functionals are known."""

from __future__ import annotations

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
from assay.covariance.types import Conditioned, Covariance, Dense


def freed(covariance: Conditioned, draws: Tensor) -> Tensor:
    """Columns or draws (n, B, *shape) of the whole noise, without what the functionals tell."""
    told = torch.einsum("nbd,kbd->nbk", draws.flatten(2), covariance.functionals.flatten(2))
    return draws - torch.einsum("nbk,kbd->nbd", told, covariance.columns.flatten(2)).reshape(draws.shape)


@diagonal.register
def _(covariance: Conditioned) -> Tensor:
    return (diagonal(covariance.base) - covariance.columns.square().sum(0)).clamp(min=0)


@through_linear.register
def _(covariance: Conditioned, linear: LinearMap) -> Covariance:
    return through_linear(to_dense(covariance), linear)


@scale.register
def _(covariance: Conditioned, gain: Tensor) -> Covariance:
    return scale(to_dense(covariance), gain)


@add.register
def _(covariance: Conditioned, variance: Tensor) -> Covariance:
    return add(to_dense(covariance), variance)


@to_dense.register
def _(covariance: Conditioned) -> Dense:
    known = flat_rows(covariance.columns)
    return Dense(to_dense(covariance.base).matrix - known @ known.mT, tuple(covariance.shape[1:]))


@project.register
def _(covariance: Conditioned, left: Tensor, right: Tensor) -> Tensor:
    known = flat_rows(covariance.columns)
    told = (flat_rows(left).mT @ known) @ (known.mT @ flat_rows(right))
    return project(covariance.base, left, right) - told


@times.register
def _(covariance: Conditioned, columns: Tensor) -> Tensor:
    told = torch.einsum("nbd,kbd->nbk", columns.flatten(2), covariance.columns.flatten(2))
    back = torch.einsum("nbk,kbd->nbd", told, covariance.columns.flatten(2))
    return times(covariance.base, columns) - back.reshape(columns.shape)


@sample.register
def _(covariance: Conditioned, count: int, generator: torch.Generator) -> Tensor:
    return freed(covariance, sample(covariance.base, count, generator))


@select.register
def _(covariance: Conditioned, rows: slice | Tensor) -> Covariance:
    base = select(covariance.base, rows)
    return Conditioned(base, covariance.functionals[:, rows], covariance.columns[:, rows])
