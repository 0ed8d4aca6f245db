"""Sampling with the smoothed linear network as control variate: unbiased, with standard errors.

The expected Jacobian G of the outputs, by the reverse walk, gives the directions that matter. Draws fill these evenly
(scrambled Sobol points in independent replicates), outputs are regressed on the draws' coordinates in them, whose
moments are known exactly, and only what the regression leaves is estimated by averaging (Owen 2013, "Monte Carlo
theory, methods and examples", chapter 8).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from assay.covariance import select
from assay.errors import CaptureError
from assay.grade import Grade
from assay.moments.basis import columns
from assay.moments.guided import Guided, guided, sobol_normal
from assay.moments.methods.factor import adjoint, walk
from assay.moments.methods.request import Request
from assay.moments.result import Moments

_CHUNK_ELEMENTS = 600_000
_WALK_ELEMENTS = 50_000_000
"""Elements of a walk's widest tensor and its columns together."""
_REPLICATES = 8
_MOST_GUIDES = 32
_DRAWS_PER_FEATURE = 10
_BENT = 10
"""Leading coordinates whose products are regressed on: 65 features, so that fitting costs little beside the draws."""


def control_variate(request: Request, *, quadratic: bool = True) -> Moments:
    """Mean and covariance from `samples` draws, cleared of what a linear (and quadratic) regression explains.

    Cost: `samples` forward passes per input, one walk of ``factor`` and a reverse pass per wanted output (at most 32).
    The mean's bias from fitting the regression is of order 1 / samples; the standard error comes from 8 to 15
    independent replicates.

    Args:
        request: what to propagate.
        quadratic: also regress on products of the leading coordinates, where there are 10 draws per coefficient.

    Returns:
        Moments, sampled, with standard errors of the mean.
    """
    means, covariances, errors = [], [], []
    for row, jacobian in zip(range(request.mean.shape[0]), _jacobians(request), strict=True):
        covariance = select(request.covariance, slice(row, row + 1))
        mean, matrix, error = _estimate(request, row, guided(covariance, jacobian), quadratic)
        means.append(mean)
        covariances.append(matrix)
        errors.append(error)
    return Moments(
        torch.stack(means),
        torch.stack(covariances),
        Grade.SAMPLED,
        "mc_cv",
        request.reason,
        request.outputs,
        torch.stack(errors),
        warnings=_without_graph(request),
    )


def _without_graph(request: Request) -> tuple[str, ...]:
    try:
        _ = request.graph
    except CaptureError as error:
        return (f"The control variate is the plain Jacobian, which removes less noise: {error.what}",)
    return ()


def _jacobians(request: Request) -> Iterator[Tensor]:
    """Per input the expected Jacobian (m, 1, ...) of the wanted outputs; the plain one where there is no graph."""
    count = request.subject.output_count
    if request.outputs is None and count > _MOST_GUIDES:
        request = replace(request, outputs=request.probe(request.mean).topk(_MOST_GUIDES, dim=1).indices)
    try:
        width = max(node.spec.size_per_sample for node in request.graph.nodes)
    except CaptureError:
        outputs, pullback = request.probe.vjp(request.mean)
        rows = torch.stack([pullback(seed) for seed in request.seeds(outputs.shape[1])[:_MOST_GUIDES]])
        yield from (rows[:, i : i + 1] for i in range(rows.shape[1]))
        return
    size = max(1, _WALK_ELEMENTS // (width * (request.rank + _MOST_GUIDES)))
    for start in range(0, request.mean.shape[0], size):
        span = slice(start, start + size)
        outputs = None if request.outputs is None else request.outputs[span]
        covariance = select(request.covariance, span)
        part = replace(request, mean=request.mean[span], covariance=covariance, outputs=outputs)
        _, domain, _ = walk(part, columns(part.covariance, part.rank, seed=part.seed))
        rows = adjoint(part, domain.steps, part.seeds(count)[:_MOST_GUIDES])[1].detach()
        yield from (rows[:, i : i + 1] for i in range(rows.shape[1]))


def replicates_of(samples: int) -> tuple[int, int]:
    """Replicates (8 to 15, fewer below 16 draws) and Sobol points in each, a power of two."""
    points = 1 << max(0, (max(samples, 2) // _REPLICATES).bit_length() - 1)
    return max(2, samples // points), points


def _estimate(request: Request, row: int, plan: Guided, quadratic: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (m,), covariance (m, m) and standard error of the mean (m,) for one input."""
    replicates, points = replicates_of(request.samples)
    outputs, coordinates = [], []
    generator = torch.Generator().manual_seed(request.seed)
    for replicate in range(replicates):
        sobol = sobol_normal(points, len(plan.functionals), request.seed * 1009 + replicate)
        outputs.append(_evaluate(request, row, plan, sobol, generator))
        coordinates.append(sobol[:, : plan.leading])
    values, leading = torch.cat(outputs).double(), torch.cat(coordinates)
    features = _features(leading, len(values) // _DRAWS_PER_FEATURE, quadratic)
    design = torch.cat([torch.ones_like(values[:, :1]), features], 1)
    # the columns are orthonormal but for the randomness of the draws: the normal equations are well conditioned
    solution = torch.linalg.solve(design.T @ design, design.T @ values)
    left = values - design @ solution
    freedom = max(1, len(values) - design.shape[1])
    noise = left.T @ left / freedom
    # the features have mean 0 and covariance I exactly; their coefficients carry noise of their own, taken off again
    slopes = solution[1:]
    matrix = slopes.T @ slopes + noise * (1 - len(slopes) / len(values))
    spread = (left + solution[0]).reshape(replicates, points, -1).mean(1)
    error = spread.std(0) / replicates**0.5 * (len(values) / freedom) ** 0.5
    kind = request.mean.dtype
    return solution[0].to(kind), matrix.to(kind), error.to(kind)


def _features(leading: Tensor, most: int, quadratic: bool) -> Tensor:
    """Orthonormal polynomials of independent standard normals: first order, and second where draws allow."""
    linear = leading[:, : max(1, most)]
    count = min(linear.shape[1], _BENT)
    while count and count * (count + 3) // 2 > most:
        count -= 1
    if not quadratic or not count:
        return linear
    first, second = torch.triu_indices(count, count)
    products = linear[:, first] * linear[:, second]
    squares = first == second
    products = torch.where(squares, (products - 1) / 2**0.5, products)
    return torch.cat([linear, products], 1)


def _evaluate(request: Request, row: int, plan: Guided, points: Tensor, generator: torch.Generator) -> Tensor:
    mean = request.mean[row : row + 1]
    size = max(1, min(len(points), _CHUNK_ELEMENTS // max(1, mean.numel()), 1024))
    parts = []
    for part in points.split(size):
        outputs = request.probe(mean + plan.draw(part, generator))
        parts.append(outputs if request.outputs is None else outputs[:, request.outputs[row]])
    return torch.cat(parts)
