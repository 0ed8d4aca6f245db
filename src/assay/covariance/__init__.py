"""Covariances of activations in three forms, `Diagonal`, `LowRankPlusDiagonal`, `Dense`, and what can be asked of them.

Every type describes a batch: axis 0 of the described tensors is the batch, samples are independent of each other.
Questions are free functions that dispatch on the type.
"""

from assay.covariance.functions import (
    add,
    between,
    compress,
    diagonal,
    project,
    sample,
    scale,
    through_linear,
    to_dense,
)
from assay.covariance.linear_map import LinearMap, MatrixMap
from assay.covariance.types import Covariance, Dense, Diagonal, LowRankPlusDiagonal

__all__ = [
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
    "through_linear",
    "to_dense",
]
