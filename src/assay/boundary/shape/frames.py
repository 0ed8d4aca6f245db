"""The shape of a boundary at a scale: the Hessian of a smoothed F, from gradients alone.

A random orthonormal frame q_1 .. q_n of the tangent space gives the matrix of q_i (grad F(z + h q_i) -
grad F(z - h q_i))^T / 2h. Its mean over frames is n times the average over the sphere of radius h, which by the
divergence theorem is the Hessian of F averaged over the ball; for a quadratic F one frame is exact at any h. Gaussian
steps (Stein's lemma) do the same with a Gaussian kernel and more noise. Both are what "the curvature of a ReLU network"
can mean, and both depend on h: a number without its scale says nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from assay.boundary.shape.difference import gradient_differences
from assay.boundary.shape.places import Places
from assay.boundary.shape.spectrum import Ends, of_matrix
from assay.boundary.shape.tangent import Tangent


@dataclass(frozen=True, eq=False)
class Smoothed:
    """Eigenpairs of a smoothed shape operator at one point.

    Attributes:
        ends: eigenpairs of the symmetrised mean over all frames; `asymmetry` says how far it was from symmetric.
        validated: (m,) values that do not profit from their own noise: directions of one half of the frames, curvatures
            of the other, both ways averaged. NaN with fewer than two frames.
        mean: mean curvature.
        mean_error: its standard error: between frames, or between the directions of a single frame.
    """

    ends: Ends
    validated: Tensor
    mean: float
    mean_error: float


def smoothed(
    places: Places,
    row: int,
    *,
    scale: float,
    frames: int,
    top: int | None,
    directions: bool,
    generator: torch.Generator,
    gaussian: bool = False,
) -> Smoothed:
    """Principal curvatures at a scale. Costs 2 (d - 1) gradients per frame and three (d - 1)^2 matrices.

    Args:
        places: the points.
        row: which.
        scale: radius h; for Gaussian steps the standard deviation per element is h / sqrt(d - 1), so that steps have
            about this length.
        frames: number of random frames, or of blocks of d - 1 Gaussian steps.
        top: eigenpairs at each end; None for all.
        directions: whether eigenvectors are wanted.
        generator: randomness.
        gaussian: Gaussian steps in place of orthonormal frames.

    Returns:
        The curvatures; smoothed second derivatives over the length of the gradient at the point itself.
    """
    tangent = places.tangent(row)
    size = tangent.dimension
    halves: list[list[Tensor]] = [[], []]
    traces, terms = [], torch.empty(0, dtype=torch.float64)
    for number in range(frames):
        # unit vectors, or such on average: n of their outer products sum to the identity
        steps = tangent.draw(size, generator) / math.sqrt(size) if gaussian else tangent.frame(size, generator)
        bends = gradient_differences(places, row, scale * steps) / (scale * float(places.gradient_norm[row]))
        terms = (steps * bends).sum(1)
        traces.append(float(terms.sum()))
        matrix = tangent.restrict(steps).T @ tangent.restrict(bends)
        half = halves[number % 2]
        half[:] = [half[0].add_(matrix)] if half else [matrix]
    parts = [half[0] for half in halves if half]
    ends = of_matrix(sum(parts[1:], parts[0]) / frames, tangent, top=top, directions=directions)
    counts = [frames - frames // 2, frames // 2]
    validated = torch.full_like(ends.values, torch.nan)
    if len(parts) == 2:
        validated = _validated([part / count for part, count in zip(parts, counts, strict=True)], tangent, top)
    error = float(terms.std() * math.sqrt(size)) if size > 1 else math.nan
    if frames > 1:
        error = float(torch.tensor(traces, dtype=torch.float64).std()) / math.sqrt(frames)
    return Smoothed(ends, validated, sum(traces) / frames / size, error / size)


def _validated(halves: list[Tensor], tangent: Tangent, top: int | None) -> Tensor:
    """Mean over both ways of v.Bv for the eigenvectors v of A, the halves as A and B."""
    symmetric = [(half + half.T) / 2 for half in halves]
    ways = []
    for mine, other in (symmetric, symmetric[::-1]):
        vectors = tangent.restrict(of_matrix(mine, tangent, top=top).vectors)
        ways.append(((vectors @ other) * vectors).sum(1))
    return (ways[0] + ways[1]) / 2
