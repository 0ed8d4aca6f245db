"""Scores of every option: how much rounding one layer's weight (or one activation) to one format changes the output.

`joint`, `logit` and `margin` are first-order predictions from known rounding errors and one shared linearisation (see
`linearised`); `kl` is the second-order KL divergence along the same predicted changes. The others are what published
tools use, kept for comparison (`rivals`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from assay.errors import UsageError
from assay.grade import Grade
from assay.sensitivity.bits import rivals
from assay.sensitivity.bits.linearised import first_order
from assay.sensitivity.bits.margins import rivals_of
from assay.sensitivity.bits.problem import Problem

Metric = Literal["joint", "joint_margin", "logit", "margin", "kl"]
Rival = Literal["weight_mse", "relative_weight", "hessian", "fisher", "measured_mse", "measured_kl"]
METRICS: tuple[str, ...] = get_args(Metric)
RIVALS: tuple[str, ...] = get_args(Rival)


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores of all options, those of all groups in a row.

    Attributes:
        method: which score.
        values: (R,) float64, what adding up predicts: mean squared change of the outputs per sample for `joint` and
            `logit` (divided by the squared margin for `margin`), nats for `kl`; the unit of the rivals is their own.
        gram: (R, R) inner products of the options' predicted changes, same unit; None where errors are just added.
        relative: (R,) predicted relative output error of the option alone, ||J dW|| / ||f|| over all samples; None
            where it was not predicted.
        outputs: (B, K) of the exact network; None where it was not run.
        directions: output directions followed; equal to the number of outputs where that is exact.
        correlation: share of the observed correlations between layers that is more than chance, by which `gram` is
            shrunk; 0 where errors are just added.
    """

    method: str
    values: np.ndarray
    gram: np.ndarray | None
    relative: np.ndarray | None
    outputs: Tensor | None
    directions: int
    correlation: float

    @property
    def grade(self) -> Grade:
        """First order, for predictions; sampled, for measured rivals."""
        return Grade.SAMPLED if self.method.startswith("measured") else Grade.LINEARISED


def score(problem: Problem, method: str = "joint", *, directions: int | None = None, seed: int = 0) -> Scores:
    """Scores of every option of a problem.

    Args:
        problem: graph, calibration inputs and options.
        method: one of `METRICS` or `RIVALS`; rivals rate weights only.
        directions: output directions to follow; by default as many as make an observation for every second option, 2
            to 8, at most the number of outputs, which is exact.
        seed: of the random directions.

    Returns:
        The scores.

    Raises:
        UsageError: for an unknown method, a rival with activations to choose, margins of a single output.
    """
    if method in RIVALS:
        if problem.activations:
            raise UsageError(f"The score {method!r} rates weights only.", where="method", advice="Use method='joint'.")
        return Scores(method, rivals.score(problem, method), None, None, None, 0, 0.0)
    if method not in METRICS:
        raise UsageError(
            f"Unknown score {method!r}.", where="method", advice=f"One of {', '.join((*METRICS, *RIVALS))}."
        )
    batch, count = len(problem.x), problem.outputs_count
    if directions is None:
        directions = min(8, max(2, round(len(problem.rows) / (2 * batch))))
    directions = min(count, max(1, directions))
    basis = _directions(batch, count, directions, problem.x.dtype, seed)

    def seeds(outputs: Tensor, part: slice) -> Tensor:
        rows = basis[part]  # (b, S, K)
        if method == "kl":
            rows = torch.cat([rows, rows @ _fisher_root(outputs).mT], 1)
        return rows.transpose(0, 1).contiguous()

    followed = directions * (2 if method == "kl" else 1)
    found = first_order(
        problem.graph, problem.x, problem.layers, problem.formats, seeds, followed, activations=problem.activations
    )
    vectors = torch.cat([*found.weights, *(found.activations[name] for name in problem.activations)]).double()
    plain = vectors[..., :directions]
    relative = (plain.square().sum((1, 2)) / found.outputs.double().square().sum()).sqrt()
    gram, factor = None, 0.0
    if method == "kl":
        values = vectors[..., directions:].square().sum((1, 2)) / (2 * batch)
    else:
        weight = _sample_weights(found.outputs) if method.endswith("margin") else plain.new_ones(batch)
        weighted = (plain * weight[:, None]).flatten(1) / math.sqrt(batch)
        values = weighted.square().sum(1)
        if method.startswith("joint"):
            gram, factor = _gram(weighted, problem.rows, sum(len(rows) for rows in found.weights))
    return Scores(method, values.numpy(), gram, relative.numpy(), found.outputs, directions, factor)


def _gram(vectors: Tensor, groups: np.ndarray, weights: int) -> tuple[np.ndarray, float]:
    """(R, R) inner products, those of different groups shrunk by what is noise in them, and the factor.

    Few observations (samples times directions) of many options hold chance correlations, which choosing would exploit:
    predicted errors would cancel that do not cancel in a real run. If correlations were chance alone, signs of the
    observations would not matter, and a product's variance would be sum_i v_ai^2 v_bi^2. The factor is the share of the
    mean squared correlation that is more than that (as in Ledoit and Wolf 2004).

    A weight's rounding error is one fixed number. An activation's is another number of the same size as soon as
    anything before it is rounded, so its correlations at the exact network mean nothing: they are 0.

    Args:
        vectors: (R, N) observations.
        groups: (R,) group of each option.
        weights: how many of the options are of weights; they come first.

    Returns:
        The products, and the factor.
    """
    gram = (vectors @ vectors.T).numpy()
    squares = vectors.square()
    size = np.diag(gram)[:weights]
    scale = np.outer(size, size)
    other = (groups[:weights, None] != groups[:weights]) & (scale > 0)
    chance = (squares[:weights] @ squares[:weights].T).numpy()[other] / scale[other]
    seen = gram[:weights, :weights][other] ** 2 / scale[other]
    factor = max(0.0, 1.0 - float(chance.sum() / seen.sum())) if seen.size and seen.sum() > 0 else 0.0
    stored = np.arange(len(gram)) >= weights
    keep = np.where(stored[:, None] | stored, 0.0, factor)
    keep[groups[:, None] == groups] = 1.0
    return gram * keep, factor


def _directions(batch: int, count: int, directions: int, dtype: torch.dtype, seed: int) -> Tensor:
    """(B, S, K) rows of random orthogonal matrices times sqrt(K / S), unit vectors when S = K."""
    if directions == count:
        return torch.eye(count, dtype=dtype).expand(batch, -1, -1)
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randn(batch, count, directions, generator=generator, dtype=torch.float64)
    return (torch.linalg.qr(draws)[0].mT * math.sqrt(count / directions)).to(dtype)


def _sample_weights(outputs: Tensor) -> Tensor:
    """(B,) one over the margin of each sample, small margins raised to a fifth of the median."""
    margins = rivals_of(outputs, 1).margins[:, 0]
    floor = 0.2 * float(margins.median())
    if floor <= 0:
        raise UsageError(
            "Half of the calibration inputs or more are undecided (margin 0).",
            where="outputs",
            advice="Use method='joint'.",
        )
    return 1 / margins.clamp(min=floor)


def _fisher_root(outputs: Tensor) -> Tensor:
    """(B, K, K) A with A A^T = diag p - p p^T, p the softmax of the outputs."""
    p = outputs.double().softmax(1)
    root = p.sqrt()
    return (torch.diag_embed(root) - p[:, :, None] * root[:, None, :]).to(outputs.dtype)
