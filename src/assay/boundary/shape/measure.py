"""Curvature of the decision boundary: the public functions."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from assay.attacks.target import Bounds, Model
from assay.boundary.field import Field, field_of
from assay.boundary.points import BoundaryPoint
from assay.boundary.shape.means import means, scales_for
from assay.boundary.shape.plateau import sweep
from assay.boundary.shape.result import Curvature
from assay.boundary.shape.rows import Request, Row, Spectrum, measured, way_of
from assay.boundary.shape.sites import At, Estimator, Site, points_of, site_of
from assay.boundary.shape.traces import Trace
from assay.errors import UsageError

_SWEEP_PROBES = 30


def curvature(
    model: Model | Field,
    x: Tensor | BoundaryPoint,
    *,
    top: int | Literal["full"] = 10,
    estimator: Estimator = "auto",
    scale: float | Tensor | None = None,
    spectrum: Spectrum = "auto",
    trace: Trace = "auto",
    probes: int = 60,
    frames: int = 2,
    sharpness: float = 30.0,
    directions: bool = True,
    plateau: bool | None = None,
    at: At = "boundary",
    target: int | Tensor | None = None,
    label: Tensor | None = None,
    bounds: Bounds | Literal["auto"] = "auto",
    seed: int = 0,
    batch_size: int | None = None,
) -> Curvature:
    """How the decision boundary bends: mean curvature, signed principal curvatures and their directions.

    With F = f_rival - f_own and n = grad F / ||grad F||, the principal curvatures are the eigenvalues of
    P H P / ||grad F|| on the d - 1 directions orthogonal to n, P = I - n n^T (Fawzi, Moosavi-Dezfooli, Frossard, Soatto
    2017, arXiv 1705.09552, sec. 4). Positive: the boundary bends towards the input, as a ball around it does (+1 / r).

    Args:
        model: a module, a Subject, a function (B, ...) -> (B, K), or a Field.
        x: (B, ...) inputs, whose nearest boundary points are then searched, or boundary points.
        top: principal curvatures at each end, 0 for the mean alone, "full" for all d - 1 (memory d x d).
        estimator: `exact` Hessian products, for smooth networks; `difference` of gradients along each direction;
            `forward`, second differences of F without gradients, mean only; random orthonormal `frames` or `gaussian`
            steps, which measure at a scale what a piecewise linear network does; `softplus`, exact on a copy with
            rounded ReLUs whose boundary is found again. `auto`: exact, or frames for a piecewise linear network.
        scale: length of the steps, one number or (B,); by default a small step on smooth networks, and on piecewise
            linear ones a tenth of the value range in every element, 0.1 sqrt(d) range. Not used by exact and softplus.
        spectrum: `dense`, `lanczos`, or by size (dense to d = 1025).
        trace: of the mean where no matrix is formed: `full`, `hutchinson`, `hutch++`, `xtrace`; `auto` is Hutchinson
            beside the principal curvatures known from Lanczos.
        probes: products or directions for a sampled mean.
        frames: random frames; two or more let halves check each other.
        sharpness: b of softplus(b x) / b for `softplus`.
        directions: whether principal directions are wanted.
        plateau: whether to sweep scales; None does for piecewise linear networks measured at a scale.
        at: "input" measures the level set of F through x itself, towards `target` or the runner-up.
        target: other class, one for all or (B,); None for whichever is closest.
        label: (B,) own class; None for the decision.
        bounds: legal range, for the search of boundary points.
        seed: randomness, together with the values of each input, not its place in the batch.
        batch_size: samples per pass; None chooses by memory.

    Returns:
        The curvatures, with scale, standard errors, asymmetry and notes.

    Raises:
        UsageError: for `exact` on a piecewise linear network (a silent zero), options that do not fit each other, or
            matrices that do not fit into memory.

    Example:
        >>> import torch
        >>> def ball(x):  # class 0 inside radius 2
        ...     return torch.stack([0 * x[:, 0], x.square().sum(1) - 4], 1)
        >>> found = curvature(ball, torch.tensor([[0.5, 0.0, 0.0]], dtype=torch.float64))
        >>> found.principal.tolist(), found.mean.tolist()
        ([[0.500000, 0.500000]], [0.500000])
    """
    field = field_of(model, batch_size=batch_size)
    _check(top, estimator, spectrum, frames)
    request = Request(None if top == "full" else top, spectrum, trace, probes, frames, directions, seed)
    places, exists = points_of(field, x, at=at, target=target, label=label, bounds=bounds)
    site = site_of(field, places, exists, estimator, sharpness)
    way, remarks = way_of(site, request, chosen=estimator != "auto")
    places, usable = site.places, site.usable
    some = places.select(usable)
    scales = scales_for(places, site.worker, site.kind, scale)
    answers: list[Row] = []
    if way != "none":
        answers = [
            measured(some, row, way, site.worker, float(scales[usable][row]), request) for row in range(len(some))
        ]
    mean = torch.tensor([each.mean for each in answers] or [torch.nan] * len(some), dtype=torch.float64)
    error = torch.tensor([each.error for each in answers] or [torch.nan] * len(some), dtype=torch.float64)
    method, samples = _trace_name(way, request, places.dimension, site.worker)
    if len(some) and bool(mean.isnan().all()):
        mean, error, method, samples = means(
            some,
            estimator=site.worker,
            kind=site.kind,
            scale=scales[usable],
            method=trace,
            probes=probes,
            seed=seed,
        )
    at_scale = site.worker != "exact" and site.kind != "linear"
    swept = None
    if len(some) and (at_scale and site.kinked if plateau is None else plateau):
        swept = sweep(some, probes=_SWEEP_PROBES, seed=seed)
    wanted = 0 if way == "none" else request.wanted(places.dimension)
    shape = (wanted if directions else 0, *places.point.shape[1:])
    vectors = [each.ends.vectors[: shape[0]].to(places.point.dtype).reshape(shape) for each in answers]
    length = (places.point.double() - places.x.double()).flatten(1).norm(dim=1)
    return Curvature(
        mean=_scattered(mean, usable),
        mean_error=_scattered(error, usable),
        principal=_stacked([each.ends.values for each in answers], usable, (wanted,), torch.float64),
        directions=_stacked(vectors, usable, shape, places.point.dtype),
        normal=(places.gradient / places.gradient_norm[:, None]).to(places.point.dtype).reshape(places.point.shape),
        gradient_norm=places.gradient_norm,
        x=places.x,
        point=places.point,
        label=places.label,
        rival=places.rival,
        distance=torch.where(site.found, length, torch.full_like(length, torch.nan)),
        status=site.status(),
        estimator=site.estimator,
        smoothness=site.kind,
        scale=scales if at_scale else None,
        sharpness=sharpness if site.estimator == "softplus" and site.kind != "linear" else None,
        spectrum={"frames": "dense", "zero": "none"}.get(way, way),
        trace=method,
        samples=samples,
        asymmetry=_stacked([torch.tensor(each.ends.asymmetry) for each in answers], usable, (), torch.float64),
        validated=_stacked([each.validated for each in answers], usable, (wanted,), torch.float64)
        if way == "frames" and _halves(site.worker, request)
        else None,
        plateau=swept,
        shift=site.shift,
        notes=(*site.notes, *remarks, *_scale_notes(site, way, at_scale)),
    )


def mean_curvature(
    model: Model | Field,
    point: BoundaryPoint,
    *,
    estimator: Estimator = "auto",
    scale: float | Tensor | None = None,
    trace: Trace = "auto",
    probes: int = 60,
    sharpness: float = 30.0,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """Mean curvature alone, at the price of `probes` products or pairs of gradients per point.

    Args:
        model: the network.
        point: boundary points; rows that were not found give NaN.
        estimator: as in `curvature`; `frames` takes `probes` directions of one random frame.
        scale: as in `curvature`.
        trace: as in `curvature`; `auto` is full up to 256 tangent dimensions, else Hutchinson.
        probes: directions per point; 30 to 60 are enough to tell images apart.
        sharpness: for `softplus`.
        seed: randomness, together with the values of each input.

    Returns:
        (B,) float64 means and (B,) standard errors; positive bends towards the input. Exactly 0 for a linear model.

    Raises:
        UsageError: for `exact` on a piecewise linear network, or options that do not fit.

    Example:
        >>> from assay.boundary.points import boundary_point
        >>> def disc(x):
        ...     return torch.stack([4 - x.square().sum(1), x.square().sum(1) - 4], 1)
        >>> x = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
        >>> mean, error = mean_curvature(disc, boundary_point(disc, x))
        >>> mean.round(decimals=4)  # of a circle of radius 2
        tensor([0.5000], dtype=torch.float64)
    """
    found = curvature(
        model,
        point,
        top=0,
        estimator=estimator,
        scale=scale,
        trace=trace,
        probes=probes,
        sharpness=sharpness,
        directions=False,
        plateau=False,
        seed=seed,
    )
    return found.mean, found.mean_error


def _check(top: int | str, estimator: str, spectrum: str, frames: int) -> None:
    if top != "full" and (isinstance(top, bool) or not isinstance(top, int) or top < 0):
        raise UsageError(f"top={top!r} is no number of curvatures.", where="top", advice='Use 0, 1, 2, ... or "full".')
    for name, value, known in (("estimator", estimator, Estimator), ("spectrum", spectrum, Spectrum)):
        if value not in get_args(known):
            raise UsageError(f"{name}={value!r} is unknown.", where=name, advice=f"Use {', '.join(get_args(known))}.")
    if frames < 1:
        raise UsageError(f"frames={frames} measures nothing.", where="frames", advice="Use 1 or more.")


def _halves(worker: str, request: Request) -> bool:
    """Whether there are two frames or more, so that halves can check each other."""
    return worker != "difference" and request.frames > 1


def _trace_name(way: str, request: Request, size: int, worker: str) -> tuple[str, int]:
    if way == "frames":
        return "frames", 1 if worker == "difference" else request.frames
    return ("deflated", request.probes) if way == "lanczos" else ("full", 0 if way == "zero" else size)


def _scale_notes(site: Site, way: str, at_scale: bool) -> list[str]:
    notes = []
    if at_scale and site.kinked:
        notes.append("The network is piecewise linear: curvature exists only at a scale, and its size depends on it.")
    if way == "frames" and site.worker == "difference":
        notes.append("Differences along one frame are no symmetric matrix here; use frames for principal curvatures.")
    return notes


def _scattered(values: Tensor, usable: Tensor) -> Tensor:
    """Values of the usable rows among all rows, NaN elsewhere."""
    every = torch.full((len(usable), *values.shape[1:]), torch.nan, dtype=values.dtype, device=values.device)
    every[usable] = values
    return every


def _stacked(values: list[Tensor], usable: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    rows = torch.stack(values).to(dtype) if values else torch.full((int(usable.sum()), *shape), torch.nan, dtype=dtype)
    return _scattered(rows, usable)
