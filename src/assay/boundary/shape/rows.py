"""The shape of the boundary at one place: eigenpairs and, where they come with it, the mean."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from assay.boundary.shape.frames import smoothed
from assay.boundary.shape.means import operator
from assay.boundary.shape.places import Places
from assay.boundary.shape.sites import Site
from assay.boundary.shape.spectrum import Ends, dense_matrix, lanczos, of_matrix
from assay.boundary.shape.traces import Trace, hutchinson
from assay.errors import UsageError

Spectrum = Literal["auto", "dense", "lanczos"]
Way = Literal["none", "zero", "dense", "lanczos", "frames"]
DENSE_UPTO = 1024
"""Tangent dimensions up to which the whole matrix is formed, for an exact mean at little more cost."""
FRAMES_UPTO = 4096
"""The same for frames and Gaussian steps, which have no other way to principal curvatures."""
LARGEST = 16384
"""Dense matrices above this do not fit into memory (2 GiB each, three of them)."""
_FRAMES, _LANCZOS, _DEFLATED = 1, 2, 4  # random streams


@dataclass(frozen=True)
class Request:
    """What is asked of every row.

    Attributes:
        top: principal curvatures at each end; None for all, 0 for none.
        spectrum: how.
        trace: of the mean.
        probes: for a sampled mean.
        frames: random frames.
        directions: whether eigenvectors are wanted.
        seed: of the randomness.
    """

    top: int | None
    spectrum: Spectrum
    trace: Trace
    probes: int
    frames: int
    directions: bool
    seed: int

    def wanted(self, size: int) -> int:
        """Number of principal curvatures of `size` that are returned."""
        return size if self.top is None else min(size, 2 * self.top)


@dataclass(frozen=True, eq=False)
class Row:
    """The answer for one row: eigenpairs, cross-validated values, mean and standard error (NaN: still to be made)."""

    ends: Ends
    validated: Tensor
    mean: float = math.nan
    error: float = math.nan


def way_of(site: Site, request: Request, *, chosen: bool) -> tuple[Way, tuple[str, ...]]:
    """How the principal curvatures are found, and notes where they cannot be.

    Args:
        site: where.
        request: what is asked.
        chosen: whether the user chose the estimator, so that what it cannot do is an error and not a note.

    Returns:
        The way and the notes.

    Raises:
        UsageError: for what does not fit into memory or has no symmetric operator.
    """
    size = site.places.dimension
    if site.kind == "linear":
        return "zero", ()
    if request.top == 0:
        return "none", ()
    if site.worker == "forward":
        return "none", ("Second differences of F give the mean only.",)
    whole = request.wanted(size) == size
    if site.worker in {"frames", "gaussian"} or site.kinked:
        if request.spectrum == "lanczos":
            raise UsageError(
                f"Lanczos needs one symmetric operator, and {site.worker} is none on this network.",
                where="spectrum",
                advice='Use spectrum="dense", or estimator="softplus".',
            )
        if size <= FRAMES_UPTO:
            return "frames", ()
        problem = (
            f"Principal curvatures of a piecewise linear network at a scale need a matrix of {size} x {size}, "
            f"above the limit of {FRAMES_UPTO}."
        )
        if chosen:
            raise UsageError(problem, where="top", advice='Use top=0 for the mean, or estimator="softplus".')
        return "none", (problem + ' Only the mean was measured; estimator="softplus" gives them on a smooth copy.',)
    if not whole and (request.spectrum == "lanczos" or (request.spectrum == "auto" and size > DENSE_UPTO)):
        return "lanczos", ()
    if size > LARGEST:
        raise UsageError(
            f"All {size} principal curvatures need matrices of {8 * size * size / 2**30:.0f} GiB.",
            where="top" if whole else "spectrum",
            advice="Ask for some at each end, such as top=10, by Lanczos.",
        )
    return "dense", ()


def measured(places: Places, row: int, way: Way, worker: str, scale: float, request: Request) -> Row:
    """Eigenpairs at one place, with the mean where the way gives it."""
    tangent, size = places.tangent(row), places.dimension
    wanted, norm = request.wanted(size), float(places.gradient_norm[row])
    nothing = torch.full((wanted,), torch.nan, dtype=torch.float64)
    if way == "zero":
        return Row(Ends(torch.zeros(wanted, dtype=torch.float64), tangent.basis(0, wanted)), nothing, 0.0, 0.0)
    if way == "frames":
        found = smoothed(
            places,
            row,
            scale=scale,
            frames=1 if worker == "difference" else request.frames,
            top=request.top,
            directions=request.directions,
            generator=places.generator(row, request.seed, _FRAMES),
            gaussian=worker == "gaussian",
        )
        return Row(found.ends, found.validated, found.mean, found.mean_error)
    if way == "lanczos":
        products = operator(places, row, worker, scale, expected=0)
        generator = places.generator(row, request.seed, _LANCZOS)
        ends = lanczos(lambda v: products(v) / norm, tangent, top=request.top or 1, generator=generator)
        if request.trace != "auto":
            return Row(ends, nothing)
        # What the known curvatures add is exact; probes sample the rest, whose spread is smaller.
        rest, error = hutchinson(
            products,
            tangent,
            request.probes,
            places.generator(row, request.seed, _DEFLATED),
            known=ends.vectors,
        )
        return Row(ends, nothing, (float(ends.values.sum()) + rest / norm) / size, error / norm / size)
    products = operator(places, row, worker, scale, expected=size)
    matrix = dense_matrix(products, tangent) / norm
    ends = of_matrix(matrix, tangent, top=request.top, directions=request.directions)
    if request.trace in {"auto", "full"}:
        return Row(ends, nothing, ends.trace / size, 0.0)
    return Row(ends, nothing)
