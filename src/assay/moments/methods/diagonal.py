"""Variances only, every unit independent of every other (assumed density filtering; Gast and Roth 2018).

Kept for comparison: on trained networks the variance it predicts is wrong by factors of 40 and more
(docs/moments.md).
"""

from __future__ import annotations

import torch

from assay.covariance import LowRankPlusDiagonal
from assay.covariance import diagonal as variances
from assay.grade import Grade
from assay.moments.basis import Columns
from assay.moments.methods.factor import walk
from assay.moments.methods.request import Request
from assay.moments.result import Moments


def diagonal(request: Request) -> Moments:
    """One pass with squared weights; output covariances are zero by assumption."""
    variance = variances(request.covariance)
    empty = variance.new_zeros((0, *variance.shape))
    start = Columns(LowRankPlusDiagonal(empty, variance), False, 0)
    result, _, recorder = walk(request, start, record=False, sources=False)
    covariance = torch.diag_embed(request.pick(result.variance))
    warning = "Treats all units as independent: the variance can be wrong by orders of magnitude on trained networks."
    return Moments(
        request.pick(result.mean),
        covariance,
        Grade.STATISTICAL,
        "diagonal",
        request.reason,
        request.outputs,
        None,
        recorder.layers(),
        (warning,),
    )
