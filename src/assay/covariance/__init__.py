"""Covariances of activations, `Diagonal`, `LowRankPlusDiagonal`, `Dense`, and what can be asked of them.

Two more describe inputs only: `Convolved` (smooth noise on pictures), `Conditioned` (noise, some functionals known).

Every type describes a batch: axis 0 of the described tensors is the batch, samples are independent of each other.
Questions are free functions that dispatch on the type.
"""

from assay.covariance import conditioned as _conditioned  # noqa: F401  (registers its functions)
from assay.covariance import convolved as _convolved  # noqa: F401  (registers its functions)
from assay.covariance.functions import (
    add,
    between,
    compress,
    diagonal,
    project,
    sample,
    scale,
    select,
    through_linear,
    times,
    to_dense,
)
from assay.covariance.linear_map import LinearMap, MatrixMap
from assay.covariance.types import Conditioned, Convolved, Covariance, Dense, Diagonal, LowRankPlusDiagonal

__all__ = [
    "Conditioned",
    "Convolved",
    "Covariance",
    "Dense",
    "Diagonal",
    "LinearMap",
    "LowRankPlusDiagonal",
    "MatrixMap",
    "add",
    "between",
    "compress",
    "diagonal",
    "project",
    "sample",
    "scale",
    "select",
    "through_linear",
    "times",
    "to_dense",
]
