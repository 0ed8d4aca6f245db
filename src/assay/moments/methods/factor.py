"""Low rank plus diagonal forwards, and the output covariance by the transpose of the smoothed network."""

from __future__ import annotations

import torch
from torch import Tensor

from assay.covariance import LowRankPlusDiagonal, project
from assay.covariance.functions import flat_rows
from assay.grade import Grade, combine
from assay.interpret import Step, backward, forward
from assay.moments.basis import low_rank
from assay.moments.factor import FactorDomain, FactorElement
from assay.moments.layers import LayerRecorder
from assay.moments.methods.request import Request
from assay.moments.result import Moments

_GUIDED = 16
"""Outputs whose Jacobian guides the choice of columns when there are more."""


def factor(request: Request) -> Moments:
    """Neuron variances from r columns; output covariance G S G^T + sum over layers of G_l e_l G_l^T with the full input covariance.

    Cost: r + 1 forward passes and as many reverse passes as wanted outputs. Memory: (r + 2) copies of the live activations and one
    gain per non-linear unit. Nothing grows with the square of a layer's width.
    """
    jacobian = _guides(request) if request.rank > 1 else None
    reduced, exact = low_rank(request.covariance, request.rank, jacobian, seed=request.seed)
    result, domain, recorder = walk(request, reduced, record=True)
    covariance = adjoint_covariance(request, domain.steps, result)
    own = Grade.EXACT if exact else Grade.STATISTICAL
    grade = combine([own, domain.trust.grades.get(request.graph.output, Grade.EXACT)])
    return Moments(
        request.pick(result.mean),
        covariance,
        grade,
        "factor",
        request.reason,
        request.outputs,
        None,
        recorder.layers(),
    )


def walk(request: Request, covariance: LowRankPlusDiagonal, *, record: bool) -> tuple[FactorElement, FactorDomain, LayerRecorder]:
    """Forward pass in the factor domain."""
    graph = request.graph
    domain = FactorDomain(fallback=request.fallback, record=record)
    recorder = LayerRecorder(domain.trust)
    start = FactorElement(graph.input, request.mean, covariance)
    result = forward(graph, domain, {graph.input: start}, batch=request.mean.shape[0], observe=recorder)
    return result, domain, recorder


def _guides(request: Request) -> Tensor:
    """Rows (k, B, ...) of the output Jacobian at the mean, for the wanted outputs (or the largest)."""
    outputs, pullback = request.subject.probe.vjp(request.mean)
    wanted = request.outputs
    count = outputs.shape[1]
    if wanted is None and count > _GUIDED:
        wanted = outputs.topk(_GUIDED, dim=1).indices
    limit = max(1, min(_GUIDED, request.rank // 2))
    if wanted is None:
        seeds = torch.eye(count, dtype=request.mean.dtype).unsqueeze(1).expand(count, len(outputs), count)[:limit]
    else:
        seeds = torch.nn.functional.one_hot(wanted[:, :limit], count).to(request.mean.dtype).transpose(0, 1)
    return torch.stack([pullback(seed) for seed in seeds])


def adjoint_covariance(request: Request, steps: list[Step], result: FactorElement) -> Tensor:
    """(B, m, m) covariance of the wanted outputs, by the reverse walk."""
    seeds = request.seeds(result.mean.shape[1])
    total = result.mean.new_zeros((seeds.shape[1], seeds.shape[0], seeds.shape[0]))

    def visit(step: Step, cotangents: Tensor) -> None:
        nonlocal total
        if step.innovation is not None:
            rows = flat_rows(cotangents)
            total = total + flat_rows(cotangents * step.innovation).mT @ rows

    reached = backward(steps, request.graph.output, seeds, visit)
    at_input = reached.get(request.graph.input)
    return total if at_input is None else total + project(request.covariance, at_input, at_input)
