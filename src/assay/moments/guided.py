"""Draws of the input noise whose directions of most effect are filled evenly (randomised quasi-Monte Carlo).

The noise N(0, S) is split into a few linear functionals w = V x with V S V^T = I, which take scrambled Sobol points,
and the rest of x given w, which takes pseudo-random numbers (conditional sampling: x + S V^T (q - V x)).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from assay.covariance import Covariance, diagonal, project, sample, times

_COMPLETE = 128
"""Inputs up to this size take Sobol points in all directions."""


@dataclass(frozen=True, eq=False)
class Guided:
    """Functionals of one input's noise, most effect first.

    Attributes:
        covariance: S over (1, *shape).
        functionals: V (k, 1, *shape), V S V^T = I.
        columns: S V^T (k, 1, *shape).
        leading: how many functionals span the guides; the others complete the space.
        complete: whether the functionals are all directions the noise has.
    """

    covariance: Covariance
    functionals: Tensor
    columns: Tensor
    leading: int
    complete: bool = False

    def draw(self, points: Tensor, generator: torch.Generator) -> Tensor:
        """Noise (n, *shape) whose functionals equal `points` (n, k)."""
        shape = self.functionals.shape[2:]
        if self.complete:  # nothing is left to chance
            flat = self.columns.reshape(len(self.columns), math.prod(shape))
            return (points.to(flat) @ flat).reshape(len(points), *shape)
        noise = sample(self.covariance, len(points), generator)[:, 0]
        flat = noise.flatten(1)
        found = flat @ self.functionals.flatten(1).T
        return (flat + (points.to(flat) - found) @ self.columns.flatten(1)).reshape(noise.shape)


def guided(covariance: Covariance, guides: Tensor, *, seed: int = 0) -> Guided:
    """Whiten guides under the noise.

    Args:
        covariance: of one input, over (1, *shape).
        guides: rows (m, 1, *shape), such as the expected Jacobian of the outputs.
        seed: of the directions that complete small inputs.

    Returns:
        At most m functionals, or all directions of an input with up to 128 elements.
    """
    functionals = _whitened(covariance, guides)
    leading, size = len(functionals), guides[0].numel()
    complete = False
    if size <= _COMPLETE:
        functionals = torch.cat([functionals, _completed(covariance, functionals, seed)])
        # a nearly singular covariance may lose directions to rounding: then chance fills them
        held, whole = times(covariance, functionals).square().sum(), diagonal(covariance).sum()
        complete = bool((held - whole).abs() <= 1e3 * torch.finfo(guides.dtype).eps * whole)
    return Guided(covariance, functionals, times(covariance, functionals), leading, complete)


def _completed(covariance: Covariance, functionals: Tensor, seed: int) -> Tensor:
    """Functionals of all further directions, in random order."""
    size = math.prod(functionals.shape[1:])
    generator = torch.Generator().manual_seed(seed)
    random = torch.randn((size, size - len(functionals)), generator=generator, dtype=functionals.dtype)
    # orthonormal in the plain sense first: for independent noise they then need little whitening
    basis, _ = torch.linalg.qr(torch.cat([functionals.reshape(-1, size).T, random], 1))
    others = basis[:, len(functionals) :].T.reshape(-1, *functionals.shape[1:])
    for _ in range(2):  # once more for rounding
        shared = project(covariance, others, functionals)[0]
        others = others - torch.einsum("jk,kb...->jb...", shared, functionals)
    return _whitened(covariance, others) if len(others) else others


def _whitened(covariance: Covariance, rows: Tensor) -> Tensor:
    """Combinations V of the rows with V S V^T = I, by falling variance; null directions left out."""
    gram = project(covariance, rows, rows)[0].double()
    values, vectors = torch.linalg.eigh(0.5 * (gram + gram.T))
    kept = values > values.max().clamp(min=0) * len(values) * torch.finfo(rows.dtype).eps * 10
    weights = (vectors[:, kept] / values[kept].sqrt()).flip(1).to(rows.dtype)
    return torch.einsum("mk,mb...->kb...", weights, rows)


@lru_cache(maxsize=16)
def sobol_normal(count: int, dimensions: int, seed: int) -> Tensor:
    """(count, dimensions) standard normal scrambled Sobol points, float64, shared by inputs: not to be changed."""
    if dimensions == 0:
        return torch.empty((count, 0), dtype=torch.float64)
    uniform = torch.quasirandom.SobolEngine(dimensions, scramble=True, seed=seed).draw(count, dtype=torch.float64)
    half = 2.0**-31  # the engine's points are multiples of 2^-30: the middle of the cell is never 0 or 1
    return math.sqrt(2) * torch.erfinv(2 * (uniform + half).clamp(half, 1 - half) - 1)
