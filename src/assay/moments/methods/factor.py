"""Low rank plus diagonal forwards, and the output covariance by the transpose of the smoothed network."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from assay.covariance import Diagonal, LowRankPlusDiagonal, project
from assay.covariance.functions import flat_rows
from assay.grade import Grade, combine
from assay.interpret import Step, backward, forward
from assay.moments.basis import Columns, columns
from assay.moments.disturbance import Disturbance, accumulate, untie
from assay.moments.factor import FactorDomain, FactorElement
from assay.moments.layers import LayerRecorder
from assay.moments.methods.request import Request
from assay.moments.result import Moments

_GUIDED = 16
"""Outputs whose Jacobian guides the choice of columns when there are more."""


def factor(request: Request) -> Moments:
    """Neuron variances from r columns; output covariance by the reverse walk, with the full input covariance.

    That is G S G^T + sum over layers of G_l e_l G_l^T, G_l the expected Jacobian from layer l to the outputs.

    Cost: time and memory of a plain forward pass of r + 10 samples at most (ResNet-50, VGG-19; docs/moments.md), and as
    many reverse passes as wanted outputs. Nothing grows with the square of a layer's width.

    Returns:
        Moments; statistical unless the columns represent the noise exactly.
    """
    start = _columns(request)
    result, domain, recorder = walk(request, start)
    covariance, _ = adjoint(request, domain.steps, request.seeds(result.mean.shape[1]))
    own = Grade.EXACT if start.exact and (domain.disturbance is None or domain.disturbance.whole) else Grade.STATISTICAL
    grade = combine([own, domain.trust.grade_of(request.walked[0].output)])
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


def _columns(request: Request) -> Columns:
    """Columns of the input noise: none where it is zero."""
    noise = request.covariance
    if isinstance(noise, Diagonal) and not noise.variance.requires_grad and not bool((noise.variance > 0).any()):
        return Columns(LowRankPlusDiagonal(noise.variance.new_zeros((0, *noise.shape)), noise.variance), True, 0)
    most = min(_GUIDED, max(request.rank // 2, 1))  # at most half of the columns are guided
    return columns(noise, request.rank, lambda: _guides(request, most), seed=request.seed)


def walk(
    request: Request, start: Columns, *, record: bool = True, sources: bool = True
) -> tuple[FactorElement, FactorDomain, LayerRecorder]:
    """Forward pass in the factor domain; noise on weights and activations gets up to `rank` columns of its own.

    Without `sources` that noise has no columns: it counts as independent between units.

    Returns:
        The output's element, the domain with its steps, and the rows per layer.
    """
    (graph, folded), covariance = request.walked, start.covariance
    disturbance = Disturbance(graph, request.noise_on, request.rank if sources else 0) if request.noise_on else None
    domain = FactorDomain(
        fallback=request.fallback,
        record=record,
        innovation_columns=start.innovation,
        disturbance=disturbance,
        folded=folded,
    )
    extra = start.innovation + (disturbance.columns if disturbance is not None else 0)
    if extra:
        room = covariance.factor.new_zeros((extra, *covariance.shape))
        covariance = LowRankPlusDiagonal(torch.cat([covariance.factor, room]), covariance.rest)
    else:
        domain.keep(covariance.factor)  # the caller's
    recorder = LayerRecorder(domain.trust, request.subject.graph)
    covered = not covariance.rest.requires_grad and not bool((covariance.rest != 0).any())
    given = {graph.input: FactorElement(graph.input, request.mean, covariance, covered=covered)}
    del covariance  # the input's columns go after their last use
    domain.given = given
    result = forward(graph, domain, given, batch=request.mean.shape[0], observe=recorder)
    if isinstance(result, Tensor):  # an output that no noise reaches
        zero = torch.zeros_like(result)
        result = FactorElement(graph.output, result, LowRankPlusDiagonal(zero.unsqueeze(0)[:0], zero))
    return result, domain, recorder


def _guides(request: Request, most: int) -> Tensor:
    """Rows (k, B, ...) of the output Jacobian at the mean, for the wanted outputs (or the largest), at most so many."""
    outputs, pullback = request.probe.vjp(request.mean)
    wanted = request.outputs
    count = outputs.shape[1]
    if wanted is None and count > most:
        wanted = outputs.topk(most, dim=1).indices
    if wanted is None:
        seeds = torch.eye(count, dtype=request.mean.dtype).unsqueeze(1).expand(count, len(outputs), count)
    else:
        seeds = torch.nn.functional.one_hot(wanted[:, :most], count).to(request.mean.dtype).transpose(0, 1)
    return torch.stack([pullback(seed) for seed in seeds])


def adjoint(request: Request, steps: list[Step], seeds: Tensor) -> tuple[Tensor, Tensor]:
    """Covariance of output combinations, and their sensitivity to the input, by the reverse walk.

    Args:
        request: with the full input covariance.
        steps: of a recorded forward walk.
        seeds: (m, B, K) combinations of outputs.

    Returns:
        Covariance (B, m, m) of the combinations, and their expected Jacobian (m, B, ...) with respect to the input.
    """
    total = request.mean.new_zeros((seeds.shape[1], seeds.shape[0], seeds.shape[0]))
    tied: dict[str, Any] = {}

    def visit(step: Step, cotangents: Tensor) -> None:
        nonlocal total
        if step.innovation is not None:
            total = total + flat_rows(cotangents * step.innovation).mT @ flat_rows(cotangents)
        total = accumulate(total, step.sources, cotangents, tied)

    reached = backward(steps, request.walked[0].output, seeds, visit)
    total = untie(total, tied)
    jacobian = reached.get(request.walked[0].input)
    if jacobian is None:
        jacobian = request.mean.new_zeros((seeds.shape[0], *request.mean.shape))
    return total + project(request.covariance, jacobian, jacobian), jacobian
