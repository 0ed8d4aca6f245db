"""First-order propagation: mean f(mu), covariance J S J^T (stable distribution propagation; Petersen et al. 2024)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import vjp

from assay.covariance import project
from assay.grade import Grade
from assay.moments.methods.request import Request
from assay.moments.result import Moments


def linearise(request: Request) -> Moments:
    """Mean is the output at the input mean; blind to the mean shift that curvature and kinks cause. Needs no graph.

    Cost: one forward pass and one VJP per wanted output. Noise on weights costs as many per input, and m copies of the
    noisy parameters.

    Returns:
        Moments, linearised.
    """
    outputs, pullback = vjp(request.probe.function, request.mean)[:2]
    seeds = request.seeds(outputs.shape[1])
    rows = torch.stack([pullback(seed)[0] for seed in seeds])
    covariance = project(request.covariance, rows, rows)
    if request.noise_on:
        covariance = covariance + torch.stack([_sources(request, row, seeds) for row in range(len(request.mean))])
    return Moments(request.pick(outputs), covariance, Grade.LINEARISED, "linearize", request.reason, request.outputs)


def _sources(request: Request, row: int, seeds: Tensor) -> Tensor:
    """Covariance (m, m) that noise on weights and activations brings to one input's outputs."""
    noise = request.noise_on
    function, weights, variances = request.disturbed(row)
    activations = {name: variance.new_zeros(variance.shape) for name, variance in variances.items()}
    alone = request.mean[row : row + 1]
    pullback = vjp(lambda w, a: function(alone, w, a), weights, activations)[1]
    found = [pullback(seed[row : row + 1]) for seed in seeds]
    total = alone.new_zeros((len(seeds), len(seeds)))
    for place, spreads in ((0, noise.weights), (1, variances)):
        for name, variance in spreads.items():
            rows = torch.stack([gradients[place][name].flatten() for gradients in found])
            total = total + (rows * variance.flatten()) @ rows.T
    return total
