"""Scores that published tools use, for comparison in one process: none of them is needed for a plan.

weight_mse: ||dW||^2, no data (NNCF's data-free criterion). relative_weight: ||dW||^2 / ||W||^2, in the spirit of bounds
by products of norms. hessian: mean diagonal of the Gauss-Newton matrix times ||dW||^2 (HAWQ-V2, Dong et al. 2020).
fisher: sum of that diagonal times dW^2 elementwise. measured_mse and measured_kl: the network is run once for every
layer and format (as AIMET's and ModelOpt's searches do).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from assay.graph import evaluate
from assay.sensitivity.bits.problem import Problem


def score(problem: Problem, method: str) -> np.ndarray:
    """(R,) scores of all options of all layers in a row.

    Args:
        problem: graph, calibration inputs and options; weights only.
        method: a name from `scores.RIVALS`.

    Returns:
        The scores, float64; mean over samples where there are any.
    """
    if method in ("measured_mse", "measured_kl"):
        return _measured(problem, divergence=method == "measured_kl")
    curvatures = _curvatures(problem) if method in ("hessian", "fisher") else [None] * len(problem.layers)
    rows = []
    for layer, curvature in zip(problem.layers, curvatures, strict=True):
        squared = layer.errors(problem.formats).double().square().flatten(1)
        if curvature is None:
            total = squared.sum(1)
            rows.append(total / layer.weight.double().square().sum() if method == "relative_weight" else total)
        else:
            flat = curvature.flatten()
            rows.append(squared @ flat if method == "fisher" else squared.sum(1) * flat.mean())
    return torch.cat(rows).numpy()


def _measured(problem: Problem, *, divergence: bool) -> np.ndarray:
    found = []
    with torch.no_grad():
        exact = evaluate(problem.graph, problem.x)
        share, log_share = exact.softmax(1), exact.log_softmax(1)
        for layer in problem.layers:
            for target in problem.formats:
                outputs = evaluate(problem.graph, problem.x, parameters={layer.parameter: layer.rounded(target)})
                if divergence:
                    change = (share * (log_share - outputs.log_softmax(1))).sum(1).clamp(min=0)
                else:
                    change = (outputs - exact).square().sum(1)
                found.append(float(change.double().mean()))
    return np.array(found)


def _curvatures(problem: Problem) -> list[Tensor]:
    """Diagonal of the Gauss-Newton matrix of the cross-entropy for every weight, mean over samples, labels exact."""
    from assay.sensitivity.parameters.taps import Taps

    totals = [torch.zeros_like(layer.weight, dtype=torch.float64) for layer in problem.layers]
    rows = max(1, int(2**26 / max(layer.size for layer in problem.layers)))
    for part in problem.x.split(rows):
        taps = Taps(problem.graph, part, parameters=tuple(layer.parameter for layer in problem.layers))
        p = taps.outputs.softmax(1)
        roots = torch.diag_embed(p.sqrt()) - p[:, :, None] * p.sqrt()[:, None, :]
        for seed in roots.permute(2, 0, 1):
            rates = taps.vjp(seed.contiguous())
            for layer, total in zip(problem.layers, totals, strict=True):
                total += taps.parameter_gradient(layer.parameter, rates).double().square().sum(0)
    return [total / len(problem.x) for total in totals]
