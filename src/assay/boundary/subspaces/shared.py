"""Directions along which boundaries are curved at many inputs, and whether they are so at inputs not seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from assay.attacks.target import Model
from assay.boundary.field import Field, field_of
from assay.boundary.points import BoundaryPoint, boundary_point
from assay.boundary.shape.measure import Estimator, curvature
from assay.boundary.subspaces.bases import complement, orthonormal
from assay.boundary.subspaces.relative import RelativeCurvature, relative_curvature
from assay.errors import UsageError
from assay.grade import Grade
from assay.results import Displayed

DIMENSION = 100
"""Of the subspaces compared, where there are as many directions."""


@dataclass(frozen=True, eq=False)
class SharedDirections(Displayed):
    """Directions shared by the curved directions of many boundary points, most shared first. d elements per input.

    Attributes:
        directions: (r, ...) orthonormal float64, left singular vectors of the stacked principal directions.
        singular_values: (r,) their squares over `points` say in how much of the points a direction is a curved one.
        gradients: (g, ...) orthonormal float64, singular vectors of the unit normals at the same points: the
            first-order subspace, to tell curvature from sensitivity.
        gradient_values: (g,) singular values of the normals.
        per_point: principal directions taken from every point, those of largest absolute curvature.
        points: boundary points used.
        estimator: of the curvature, as asked for.
        scale: of the curvature, as asked for.
        grade: sampled.
    """

    directions: Tensor
    singular_values: Tensor
    gradients: Tensor
    gradient_values: Tensor
    per_point: int
    points: int
    estimator: Estimator
    scale: float | None
    grade: Grade = Grade.SAMPLED

    def subspaces(self, dimension: int | None = None, *, seed: int = 0) -> Mapping[str, Tensor]:
        """Subspaces of one dimension: ``curved``, ``flat``, and ``gradient`` as the control.

        Args:
            dimension: of each; None takes 100, or as many as all three have.
            seed: of the flat directions where they are drawn.

        Returns:
            Orthonormal rows (dimension, d) by name. Flat directions are random ones orthogonal to all shared directions
            where there are enough of these, else the least shared ones.

        Raises:
            UsageError: for more dimensions than there are directions or normals.
        """
        directions, gradients = self.directions.flatten(1), self.gradients.flatten(1)
        known, size = directions.shape
        most = min(max(known // 2, size - known), known, len(gradients))
        dimension = min(DIMENSION, most) if dimension is None else dimension
        if not 1 <= dimension <= most:
            raise UsageError(
                f"There are {known} shared directions and {len(gradients)} independent normals in {size} dimensions: "
                f"not enough for curved, flat and gradient subspaces of {dimension} each.",
                where="dimension",
                advice=f"Use at most {most}, or more training inputs.",
            )
        generator = torch.Generator().manual_seed(seed)
        drawn = size - known >= dimension
        flat = complement(directions.cpu(), dimension, generator) if drawn else directions[-dimension:]
        return {"curved": directions[:dimension], "flat": flat, "gradient": gradients[:dimension]}

    def relative_curvature(
        self,
        model: Model | Field,
        x: Tensor | BoundaryPoint,
        *,
        directions: int | None = None,
        probes: int = 100,
        seed: int = 0,
        batch_size: int | None = None,
    ) -> RelativeCurvature:
        """How curved the boundary is along the shared directions at other inputs, against random directions.

        Args:
            model: a module, a Subject, a function (B, ...) -> (B, K), or a Field.
            x: (B, ...) inputs that the directions were not made from, or their boundary points.
            directions: how many of the first; all when None.
            probes: random directions per input.
            seed: of the random directions.
            batch_size: samples per pass; None chooses by memory.

        Returns:
            RelativeCurvature; its ratios are above 1 where the directions generalise.
        """
        return relative_curvature(
            model,
            x,
            self.directions[:directions],
            probes=probes,
            estimator=self.estimator,
            scale=self.scale,
            seed=seed,
            batch_size=batch_size,
        )


def shared_directions(
    model: Model | Field,
    x: Tensor | BoundaryPoint,
    *,
    per_point: int = 20,
    gradient_points: Tensor | BoundaryPoint | None = None,
    estimator: Estimator = "auto",
    scale: float | None = None,
    seed: int = 0,
    batch_size: int | None = None,
) -> SharedDirections:
    """Directions in which the boundary is curved near many inputs at once.

    The `per_point` principal directions of largest absolute curvature at every boundary point are stacked; the singular
    vectors of the stack are the shared directions.

    Args:
        model: a module, a Subject, a function (B, ...) -> (B, K), or a Field.
        x: (B, ...) training inputs, or their boundary points.
        per_point: directions per input, at most half of the d - 1 there are (all directions of a point span the whole
            tangent space and tell nothing).
        gradient_points: further inputs, or their boundary points, whose normals make the gradient subspace together
            with those of x: it can have only as many dimensions as there are normals.
        estimator: of the curvature, as for `curvature`.
        scale: length over which curvature is measured, as for `curvature`.
        seed: of the curvature estimate.
        batch_size: samples per pass; None chooses by memory.

    Returns:
        SharedDirections. Memory B per_point d float64, besides that of `curvature`; no d x d matrix unless the
        estimator makes one.

    Raises:
        UsageError: for fewer than one direction per point, or inputs of which none has a boundary point.

    Source: Fawzi, Moosavi-Dezfooli, Frossard and Soatto (2018), on shared directions.

    Example:
        >>> def ridge(x):  # bent along the first direction alone
        ...     return torch.stack([x[:, 0].square() + x[:, 2] - 1, 1 - x[:, 0].square() - x[:, 2]], 1)
        >>> x = torch.tensor([[0.1, 0.0, 0.5], [0.2, 1.0, 0.4]], dtype=torch.float64)
        >>> shared_directions(ridge, x, per_point=1).directions[0].abs().argmax()
        tensor(0)
    """
    field = field_of(model, batch_size=batch_size)
    points = x if isinstance(x, BoundaryPoint) else boundary_point(field, x, bounds=None)
    size = points.x[0].numel()
    if per_point < 1:
        raise UsageError(f"per_point={per_point} takes no direction.", where="per_point", advice="Use 1 or more.")
    per_point = min(per_point, max(1, (size - 1) // 2))
    # As many at each end, so that the largest by absolute value are among them whatever the signs.
    found = curvature(field, points, top=per_point, estimator=estimator, scale=scale, plateau=False, seed=seed)
    rows = torch.isfinite(found.principal).all(1)
    if not bool(rows.any()):
        raise UsageError(
            "None of the inputs has a boundary point.", where="x", advice="Give inputs whose decision can be changed."
        )
    chosen = found.principal[rows].abs().topk(per_point, 1).indices
    stacked = found.directions[rows].flatten(2).gather(1, chosen[:, :, None].expand(-1, -1, size))
    directions, values = _singular(stacked.flatten(0, 1))
    normals = [_normals(field, each) for each in (points, gradient_points) if each is not None]
    gradients, gradient_values = _singular(torch.cat(normals))
    shape = points.x.shape[1:]
    return SharedDirections(
        directions.reshape(-1, *shape),
        values,
        gradients.reshape(-1, *shape),
        gradient_values,
        per_point,
        int(rows.sum()),
        estimator,
        scale,
    )


def gradient_subspace(model: Model | Field, x: Tensor | BoundaryPoint, *, batch_size: int | None = None) -> Tensor:
    """Orthonormal directions that the normals of the nearest boundaries share, most shared first.

    Args:
        model: a module, a Subject, a function (B, ...) -> (B, K), or a Field.
        x: (B, ...) inputs, or their boundary points.
        batch_size: samples per pass; None chooses by memory.

    Returns:
        (g, ...) float64, g at most min(B, d): the first-order vulnerable subspace. Grade: sampled.

    Raises:
        UsageError: if no input has a boundary point.

    Source: singular vectors of normalised DeepFool perturbations, Moosavi-Dezfooli et al. (2017, section 4); here of
        the normals at refined boundary points, which such perturbations approach.

    Example:
        >>> def model(x):
        ...     return torch.stack([x[:, 0], 1 - x[:, 0]], 1)
        >>> x = torch.tensor([[1.0, 0.0, 0.0], [0.8, 3.0, 1.0]])
        >>> gradient_subspace(model, x)[0].abs()
        tensor([1., 0., 0.], dtype=torch.float64)
    """
    normals = _normals(field_of(model, batch_size=batch_size), x)
    shape = (x.x if isinstance(x, BoundaryPoint) else x).shape[1:]
    return orthonormal(normals).reshape(-1, *shape)


def _normals(field: Field, x: Tensor | BoundaryPoint) -> Tensor:
    """(n, d) unit normals at the boundary points that were found."""
    points = x if isinstance(x, BoundaryPoint) else boundary_point(field, x, bounds=None)
    normals = points.normal.detach().double().flatten(1)
    usable = points.found.to(normals.device) & torch.isfinite(normals).all(1)
    if not bool(usable.any()):
        raise UsageError(
            "None of the inputs has a boundary point.", where="x", advice="Give inputs whose decision can be changed."
        )
    return normals[usable]


def _singular(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Right singular vectors and values of rows (n, d), as far as they are not zero, with a fixed sign."""
    _, values, vectors = torch.linalg.svd(rows.double(), full_matrices=False)
    kept = values > 1e-6 * values[0]
    values, vectors = values[kept], vectors[kept]
    largest = vectors.gather(1, vectors.abs().argmax(1, keepdim=True))
    return vectors * largest.sign(), values
