"""Plain sampling: unbiased, slow, with standard errors. The referee of every other method."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import vmap

from assay.covariance import Convolved, Covariance, Dense, Diagonal, LowRankPlusDiagonal, sample, select
from assay.covariance.functions import safe_sqrt
from assay.grade import Grade
from assay.moments.methods.request import Request
from assay.moments.result import Moments

_CHUNK_ELEMENTS = 600_000
"""Input elements evaluated at once: four photos, whose activations still fit the caches."""


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
    """Outputs (samples, K) of one input under noise; draws depend on the seed alone: a batch equals single inputs.

    Differentiable where the mean, the noise or parameters ask for gradients.

    Returns:
        Outputs.
    """
    generator = torch.Generator().manual_seed(request.seed)
    mean, covariance = request.mean[row : row + 1], _row(request.covariance, row)
    elements = mean.numel() + sum(variance.numel() for variance in request.noise_on.weights.values())
    chunk = max(1, min(request.samples, _CHUNK_ELEMENTS // max(1, elements), 1024))
    disturbed = _Disturbed(request, row) if request.noise_on else None
    outputs = []
    done = 0
    with torch.set_grad_enabled(torch.is_grad_enabled() and _differentiable(request)):
        while done < request.samples:
            count = min(chunk, request.samples - done)
            x = mean + sample(covariance, count, generator)[:, 0]
            outputs.append(request.probe.function(x) if disturbed is None else disturbed.draw(x, generator))
            done += count
        return torch.cat(outputs)


def _differentiable(request: Request) -> bool:
    noise = request.noise_on
    groups = (request.parameters, noise.weights, noise.activations)
    tensors = [request.mean, *(tensor for group in groups for tensor in group.values())]
    kinds = (LowRankPlusDiagonal, Diagonal, Dense, Convolved)
    held = vars(request.covariance).values() if isinstance(request.covariance, kinds) else ()
    return any(tensor.requires_grad for tensor in (*tensors, *held) if isinstance(tensor, Tensor))


class _Disturbed:
    """Draws with noise on weights and activations: every draw its own."""

    def __init__(self, request: Request, row: int) -> None:
        self.noise = request.noise_on
        self.function, self.weights, self.variances = request.disturbed(row)

    def draw(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Outputs (n, K) of inputs (n, ...)."""
        weights = {
            name: value + _normal(len(x), self.noise.weights[name].unsqueeze(0), generator)
            for name, value in self.weights.items()
        }
        added = {name: _normal(len(x), variance, generator) for name, variance in self.variances.items()}
        if not weights:
            return self.function(x, {}, added)

        def single(x: Tensor, weights: dict[str, Tensor], added: dict[str, Tensor]) -> Tensor:
            return self.function(x.unsqueeze(0), weights, {k: v.unsqueeze(0) for k, v in added.items()})[0]

        try:
            return vmap(single)(x, weights, added)
        except (RuntimeError, NotImplementedError):  # an operator that vmap does not know
            rows = range(len(x))
            picked = ((x[i], {k: v[i] for k, v in weights.items()}, {k: v[i] for k, v in added.items()}) for i in rows)
            return torch.stack([single(*arguments) for arguments in picked])


def _normal(count: int, variance: Tensor, generator: torch.Generator) -> Tensor:
    shape = (count, *variance.shape[1:])
    return torch.randn(shape, generator=generator, dtype=variance.dtype).to(variance.device) * safe_sqrt(variance)


def _row(covariance: Covariance, row: int) -> Covariance:
    return select(covariance, slice(row, row + 1))
