"""Principal curvatures and directions: all of them from a dense tangent matrix, or both ends by Lanczos."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from assay.boundary.shape.products import Products
from assay.boundary.shape.tangent import Tangent
from assay.errors import NumericalError

_CHUNK = 256
_TOLERANCE = 1e-6


@dataclass(frozen=True, eq=False)
class Ends:
    """Eigenpairs of one tangent operator.

    Attributes:
        values: (m,) float64, descending.
        vectors: (m, d) float64 orthonormal tangent vectors; (0, d) where not wanted.
        asymmetry: ||A - A^T|| / ||A + A^T|| of the matrix before it was symmetrised; NaN without a matrix.
        trace: of the matrix; NaN without a matrix.
    """

    values: Tensor
    vectors: Tensor
    asymmetry: float = math.nan
    trace: float = math.nan


def dense_matrix(products: Products, tangent: Tangent) -> Tensor:
    """(n, n) matrix of an operator in the coordinates of `Tangent`, n = d - 1, from n products; float64."""
    columns = []
    for start in range(0, tangent.dimension, _CHUNK):
        basis = tangent.basis(start, min(start + _CHUNK, tangent.dimension))
        columns.append(tangent.restrict(products(basis)))
    return torch.cat(columns)


def of_matrix(matrix: Tensor, tangent: Tangent, *, top: int | None, directions: bool = True) -> Ends:
    """Eigenpairs of the symmetric part of a matrix in tangent coordinates.

    Args:
        matrix: (n, n).
        tangent: the coordinates.
        top: pairs at each end; None for all.
        directions: whether eigenvectors are wanted.

    Returns:
        The pairs, with how asymmetric the matrix was.
    """
    symmetric = (matrix + matrix.T) / 2
    size = float(symmetric.norm())
    asymmetry = float((matrix - matrix.T).norm()) / 2 / size if size else 0.0
    count = len(matrix)
    chosen = torch.arange(count - 1, -1, -1)
    if top is not None and 2 * top < count:
        chosen = torch.cat([chosen[:top], chosen[count - top :]])
    if directions:
        values, vectors = torch.linalg.eigh(symmetric)
        embedded = tangent.embed(vectors[:, chosen].T.contiguous())
    else:
        values, embedded = torch.linalg.eigvalsh(symmetric), symmetric.new_zeros(0, count + 1)
    return Ends(values[chosen], embedded, asymmetry, float(symmetric.diagonal().sum()))


def lanczos(products: Products, tangent: Tangent, *, top: int, generator: torch.Generator) -> Ends:
    """The `top` largest and `top` smallest eigenvalues by implicitly restarted Lanczos (ARPACK).

    Works in tangent coordinates, so that the normal and its zero eigenvalue do not exist. Memory is about 4 top + 20
    vectors. Of equal eigenvalues Lanczos may miss copies; values are exact to about 1e-6 of the largest.

    Args:
        products: (m, d) -> (m, d), symmetric.
        tangent: the coordinates, n = d - 1 > 2 top.
        top: pairs at each end.
        generator: start vector.

    Returns:
        The eigenpairs.

    Raises:
        NumericalError: where the iteration does not converge.
    """
    from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh

    n, device = tangent.dimension, tangent.normal.device
    start = tangent.restrict(tangent.directions(1, generator))
    if not bool(products(tangent.embed(start)).any()):  # flat: a random direction sees nothing
        chosen = torch.cat([tangent.basis(0, top), tangent.basis(n - top, n)])
        return Ends(torch.zeros(2 * top, dtype=torch.float64, device=device), chosen)

    def multiply(vector: np.ndarray) -> np.ndarray:
        given = torch.from_numpy(np.ascontiguousarray(vector).reshape(1, -1)).to(device)
        return tangent.restrict(products(tangent.embed(given)))[0].cpu().numpy()

    make: Any = LinearOperator
    operator = make((n, n), matvec=multiply, dtype=np.float64)
    options: dict[str, Any] = {"k": 2 * top, "which": "BE", "v0": start[0].cpu().numpy(), "tol": _TOLERANCE}
    options |= {"ncv": min(n, max(4 * top + 10, 20)), "maxiter": 100, "rng": np.random.default_rng(0)}
    try:
        values, vectors = eigsh(operator, **options)
    except ArpackError as error:
        raise NumericalError(
            f"Lanczos did not find {top} curvatures at each end: {str(error).splitlines()[0][:160]}",
            where="curvature",
            advice='Ask for fewer (top=5), or use spectrum="dense" where memory allows.',
        ) from error
    order = np.argsort(values)[::-1]
    found = torch.from_numpy(values[order].copy()).to(device)
    coordinates = torch.from_numpy(np.ascontiguousarray(vectors[:, order].T)).to(device)
    return Ends(found, tangent.embed(coordinates))
