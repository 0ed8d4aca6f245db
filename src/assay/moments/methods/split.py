"""Past Gaussian closure by splitting: the input as a mixture of narrower Gaussians, each propagated on its own.

The Gaussian assumption fails where a few directions of the input move the outputs through many kinks. Along those
directions the noise is cut into Gauss-Hermite nodes; what is left, the noise given its value there, is propagated by
any other method, and the pieces are joined by the law of total covariance.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Literal

import numpy
import torch
from torch import Tensor

from assay.covariance import Conditioned, Covariance, Dense, times, to_dense
from assay.errors import UsageError
from assay.grade import Grade, combine
from assay.moments.basis import columns
from assay.moments.methods.dense import exact, gain
from assay.moments.methods.factor import adjoint, factor, walk
from assay.moments.methods.request import Request
from assay.moments.result import Moments

_MOST_PIECES = 100_000
_MOST_OUTPUTS = 64
"""Outputs whose Jacobian gives the directions, when nobody says which outputs are wanted."""


def split(
    request: Request,
    *,
    directions: int = 2,
    nodes: int = 5,
    within: Literal["exact", "gain", "factor", "auto"] = "auto",
) -> Moments:
    """Mixture of nodes**directions Gaussians along the directions that move the outputs most.

    These are the leading right singular directions of G S^(1/2), G the expected Jacobian of the (wanted) outputs and S
    the input covariance: functionals v = G^T u / s of the input with variance 1, given which x has the mean mu + S v t
    and the covariance S - S v v^T S.

    Cost: nodes**directions times the method within, one after the other, so memory as there; one walk of ``factor``.

    Args:
        request: what to propagate.
        directions: how many, 0 for none; fewer where the outputs move along fewer.
        nodes: Gauss-Hermite nodes per direction.
        within: the method for each piece; ``auto`` chooses as `propagate` does.

    Returns:
        Moments; the grade is that of the pieces, at best closed form.

    Raises:
        UsageError: for a bad option.

    Source: the splitting of Gaussian sum filters (Alspach and Sorenson 1972).
    """
    methods = {"exact": exact, "gain": gain, "factor": factor}
    _check(directions, nodes, within, methods)
    if within == "auto":
        chosen = request.choose()[0]
        within = "exact" if chosen == "exact" else "factor"
    functionals = _functionals(request, directions)
    columns = times(request.covariance, functionals)
    left = _given(request.covariance, functionals, columns, dense=within != "factor")
    points, weights = numpy.polynomial.hermite_e.hermegauss(nodes)
    weights = weights / weights.sum()
    inside: Tensor | float = 0.0
    means, shares, grades = [], [], []
    for place in itertools.product(range(nodes), repeat=len(functionals)):
        shift = torch.as_tensor(points[list(place)]).to(columns)
        mean = request.mean + torch.einsum("k,kb...->b...", shift, columns)
        result = methods[within](replace(request, mean=mean, covariance=left))
        weight = math.prod(float(weights[i]) for i in place)
        inside = inside + weight * result.covariance
        means.append(result.mean)
        shares.append(weight)
        grades.append(result.grade if result.grade != Grade.EXACT else Grade.CLOSED_FORM)
    share = torch.tensor(shares, dtype=columns.dtype, device=columns.device)
    stacked = torch.stack(means)
    mean = torch.einsum("p,pbk->bk", share, stacked)
    apart = stacked - mean
    covariance = inside + torch.einsum("p,pbk,pbl->bkl", share, apart, apart)
    reason = f"{request.reason}; {len(shares)} pieces by {within!r}"
    return Moments(mean, covariance, combine(grades), "split", reason, request.outputs)


def _check(directions: int, nodes: int, within: str, methods: object) -> None:
    whole = isinstance(directions, int) and isinstance(nodes, int)
    if not whole or directions < 0 or not 1 <= nodes <= 64 or nodes**directions > _MOST_PIECES:
        raise UsageError(
            f"directions={directions} and nodes={nodes} do not make a mixture of 1 to {_MOST_PIECES} pieces.",
            where="split",
            advice="Use directions=2, nodes=5 to start with: 25 pieces.",
        )
    if within not in ("exact", "gain", "factor", "auto"):
        raise UsageError(
            f"There is no method {within!r} within pieces.", where="within", advice="Use exact, gain, factor or auto."
        )


def _functionals(request: Request, count: int) -> Tensor:
    """(k, B, ...) functionals v of the input with v_j S v_k = 1 for j = k and 0 otherwise, most effect first."""
    wide = request.outputs is None and request.subject.output_count > _MOST_OUTPUTS
    if wide:
        largest = request.probe(request.mean).topk(_MOST_OUTPUTS, dim=1).indices
        request = replace(request, outputs=largest)
    result, domain, _ = walk(request, columns(request.covariance, request.rank, seed=request.seed))
    rows = adjoint(request, domain.steps, request.seeds(result.mean.shape[1]))[1]
    gram = torch.einsum("mbd,lbd->bml", rows.flatten(2), times(request.covariance, rows).flatten(2))
    values, vectors = torch.linalg.eigh(0.5 * (gram + gram.mT))
    count = min(count, rows.shape[0])
    values, vectors = values.flip(1)[:, :count], vectors.flip(2)[:, :, :count]
    least = values[:, :1].clamp(min=0) * rows.shape[0] * torch.finfo(rows.dtype).eps * 10
    moving = values > least  # the outputs may move along fewer directions
    inverse = torch.where(moving, torch.where(moving, values, torch.ones_like(values)).rsqrt(), 0 * values)
    found = torch.einsum("bmk,mb...->kb...", vectors * inverse.unsqueeze(1), rows)
    used = int(moving.any(0).sum())
    return found[:used]


def _given(covariance: Covariance, functionals: Tensor, columns: Tensor, *, dense: bool) -> Covariance:
    left = Conditioned(covariance, functionals, columns)
    if not dense:
        return left
    full = to_dense(left)
    return Dense(full.matrix, full.event)
