"""The tangent space of the boundary at a point: an explicit basis that is never written out, and random directions.

Everything here is float64 and flat: one point, its unit normal n in R^d, vectors as rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Tangent:
    """The d - 1 directions orthogonal to a unit normal, as coordinates: a Householder reflection that costs O(d).

    The reflection H takes the first axis to the normal (up to sign), so H applied to the other axes is an orthonormal
    basis of the tangent space. No d x d matrix is formed and the normal cannot come back as a direction.

    Attributes:
        normal: (d,) float64 unit vector.
    """

    normal: Tensor

    @property
    def dimension(self) -> int:
        """Number of tangent directions, d - 1."""
        return len(self.normal) - 1

    @property
    def _mirror(self) -> Tensor:
        mirror = self.normal.clone()
        mirror[0] += 1.0 if mirror[0] >= 0 else -1.0  # the sign that cannot cancel
        return mirror * (2.0 / mirror.square().sum()).sqrt()

    def embed(self, coordinates: Tensor) -> Tensor:
        """Vectors (m, d) of tangent coordinates (m, d - 1)."""
        mirror = self._mirror
        vectors = torch.cat([coordinates.new_zeros(len(coordinates), 1), coordinates], 1)
        return vectors.addr_(coordinates @ mirror[1:], mirror, alpha=-1.0)

    def restrict(self, vectors: Tensor) -> Tensor:
        """Tangent coordinates (m, d - 1) of vectors (m, d); their part along the normal is dropped."""
        mirror = self._mirror
        return torch.addr(vectors, vectors @ mirror, mirror, alpha=-1.0)[:, 1:]

    def basis(self, start: int, stop: int) -> Tensor:
        """Rows start to stop of the basis (d - 1, d)."""
        chosen = torch.zeros(stop - start, self.dimension, dtype=torch.float64, device=self.normal.device)
        chosen[torch.arange(stop - start), torch.arange(start, stop)] = 1.0
        return self.embed(chosen)

    def project(self, vectors: Tensor) -> Tensor:
        """Vectors (m, d) without their part along the normal."""
        return torch.addr(vectors, vectors @ self.normal, self.normal, alpha=-1.0)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """(count, d) independent standard normal vectors of the tangent space.

        Drawn in R^d and projected, so that they follow small changes of the normal continuously.

        Returns:
            The vectors.
        """
        drawn = torch.randn(count, len(self.normal), generator=generator, dtype=torch.float64)
        return self.project(drawn.to(self.normal.device))

    def directions(self, count: int, generator: torch.Generator) -> Tensor:
        """(count, d) independent unit vectors, uniform on the sphere of the tangent space."""
        drawn = self.draw(count, generator)
        return drawn / drawn.norm(dim=1, keepdim=True)

    def frame(self, count: int, generator: torch.Generator) -> Tensor:
        """(count, d) orthonormal tangent vectors, count at most d - 1: (a part of) a uniformly random frame."""
        drawn = self.draw(count, generator)
        columns = torch.cat([self.normal[None], drawn]).T
        return torch.linalg.qr(columns).Q[:, 1:].T.contiguous()
