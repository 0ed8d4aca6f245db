"""Plain sampling: unbiased, slow, with standard errors. The referee of every other method."""

from __future__ import annotations

import torch
from torch import Tensor

from assay.covariance import Covariance, Dense, Diagonal, LowRankPlusDiagonal, sample
from assay.grade import Grade
from assay.moments.methods.request import Request
from assay.moments.result import Moments

_CHUNK_ELEMENTS = 6_000_000
"""Input elements evaluated at once: bounds memory."""


def monte_carlo(request: Request) -> Moments:
    """Mean and covariance from independent draws of the input; each sample has draws of its own. Needs no graph.

    Cost: `samples` forward passes per input.

    Returns:
        Moments, sampled, with standard errors.
    """
    means, covariances, errors = [], [], []
    for row in range(request.mean.shape[0]):
        outputs = draw_outputs(request, row)
        picked = outputs if request.outputs is None else outputs[:, request.outputs[row]]
        centred = picked - picked.mean(0)
        covariance = centred.T @ centred / (len(picked) - 1)
        means.append(picked.mean(0))
        covariances.append(covariance)
        errors.append((covariance.diagonal() / len(picked)).sqrt())
    return Moments(
        torch.stack(means),
        torch.stack(covariances),
        Grade.SAMPLED,
        "mc",
        request.reason,
        request.outputs,
        torch.stack(errors),
    )


def draw_outputs(request: Request, row: int) -> Tensor:
    """Outputs (samples, K) of one input under noise; draws depend on the seed alone: a batch equals single inputs."""
    generator = torch.Generator().manual_seed(request.seed)
    mean, covariance = request.mean[row : row + 1], _row(request.covariance, row)
    chunk = max(1, min(request.samples, _CHUNK_ELEMENTS // max(1, mean.numel()), 1024))
    outputs = []
    done = 0
    while done < request.samples:
        count = min(chunk, request.samples - done)
        draws = sample(covariance, count, generator)[:, 0]
        outputs.append(request.subject.probe(mean + draws))
        done += count
    return torch.cat(outputs)


def _row(covariance: Covariance, row: int) -> Covariance:
    if isinstance(covariance, Diagonal):
        return Diagonal(covariance.variance[row : row + 1])
    if isinstance(covariance, LowRankPlusDiagonal):
        return LowRankPlusDiagonal(covariance.factor[:, row : row + 1], covariance.rest[row : row + 1])
    return Dense(covariance.matrix[row : row + 1], covariance.event)
