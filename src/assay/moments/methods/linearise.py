"""First-order propagation: mean f(mu), covariance J S J^T (stable distribution propagation; Petersen et al. 2024)."""

from __future__ import annotations

import torch

from assay.covariance import project
from assay.grade import Grade
from assay.moments.methods.request import Request
from assay.moments.result import Moments


def linearise(request: Request) -> Moments:
    """Mean is the output at the input mean; blind to the mean shift that curvature and kinks cause. Needs no graph.

    Cost: one forward pass and one VJP per wanted output.

    Returns:
        Moments, linearised.
    """
    outputs, pullback = request.subject.probe.vjp(request.mean)
    rows = torch.stack([pullback(seed) for seed in request.seeds(outputs.shape[1])])
    covariance = project(request.covariance, rows, rows)
    return Moments(request.pick(outputs), covariance, Grade.LINEARISED, "linearize", request.reason, request.outputs)
