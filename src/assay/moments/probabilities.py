"""Class probabilities of Gaussian logits: the expected softmax, the largest logit, and pairs.

All integrals run in the space of logits, never of inputs, on scrambled Sobol points; independent scrambles give the
standard error.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from assay.covariance.functions import square_root
from assay.errors import UsageError
from assay.gaussian.normal import distribution
from assay.grade import Grade, combine
from assay.moments.noise import Noise
from assay.moments.propagation import checked_input, propagate
from assay.moments.result import Moments
from assay.results import Displayed
from assay.subject import Subject

SCRAMBLES = 8
"""Independent randomisations of the points: their spread is the standard error."""
ALL_OUTPUTS = 64
"""Outputs up to which all are followed."""
CANDIDATES = 16
"""Outputs followed when there are more."""
_CHUNK_ELEMENTS = 20_000_000


@dataclass(frozen=True, eq=False)
class Probabilities(Displayed):
    """Class probabilities under noise; m followed outputs, all K unless there are more than 64.

    Attributes:
        expected: (B, K) expected softmax; 0 for outputs not followed.
        standard_error: (B, K) of `expected`, from independent scrambles of the points.
        argmax: (B, K) probability that each output is the largest; 0 for outputs not followed.
        argmax_error: (B, K) standard error of `argmax`.
        pairwise: (B, m, m) probability that followed output i exceeds followed output j; 0.5 on the diagonal.
        clean: (B, K) softmax without noise.
        unfollowed: (B,) expected probability of all outputs that were not followed; 0 when all were.
        grade: of the moments behind it; linearised when some outputs were not followed, which keep their logits.
        moments: mean and covariance of the logits.
    """

    expected: Tensor
    standard_error: Tensor
    argmax: Tensor
    argmax_error: Tensor
    pairwise: Tensor
    clean: Tensor
    unfollowed: Tensor
    grade: Grade
    moments: Moments


def expected_probabilities(
    model: nn.Module | Subject, x: Tensor, cov: Noise, *, points: int = 256, scrambles: int = SCRAMBLES, **options: Any
) -> Probabilities:
    """Class probabilities that noise leaves on average: E[softmax], P(largest), and P(one logit exceeds another).

    The logits are taken as Gaussian with the propagated mean and covariance. `expected` is differentiable with
    respect to x and cov wherever the propagation is (methods exact, gain and factor).

    Args:
        model: a classifier that returns logits, or a Subject.
        x: (B, ...) inputs.
        cov: noise, as for `propagate`.
        points: Sobol points per scramble; a power of 2. 256 give an error of about 0.0025.
        scrambles: independent randomisations, at least 2.
        options: passed on to `propagate`. With more than 64 outputs and no `outputs`, the 16 largest are followed and
            the others keep the logits they have without noise.

    Returns:
        Probabilities, with standard errors and grade.

    Raises:
        UsageError: for a number of points that is no power of 2, or fewer than 2 scrambles.

    Source: randomised quasi-Monte Carlo in the space of the logits.

    Example:
        >>> found = expected_probabilities(nn.Identity(), torch.tensor([[2.0, 0.0]]), 4.0)
        >>> round(float(found.clean[0, 0]), 2), round(float(found.expected[0, 0]), 2)
        (0.88, 0.73)
        >>> round(float(found.pairwise[0, 0, 1]), 3)  # Phi(2 / sqrt(8))
        0.76
    """
    subject, x = checked_input(model, x)
    clean = subject.probe(x)
    count = clean.shape[1]
    if options.get("outputs") is None and count > ALL_OUTPUTS:
        options["outputs"] = candidates(clean, clean.argmax(1))
    moments = propagate(subject, x, cov, **options)
    followed = moments.outputs if moments.outputs is not None else torch.arange(count).expand(len(x), -1)
    rest = clean.scatter(1, followed, -torch.inf).logsumexp(1)
    shares, error = expected_softmax(
        moments.mean,
        moments.covariance,
        rest=None if moments.outputs is None else rest,
        points=points,
        scrambles=scrambles,
    )
    winners, winners_error = argmax_probabilities(moments.mean, moments.covariance)
    width = followed.shape[1]

    def spread(values: Tensor) -> Tensor:
        return torch.zeros(len(x), count, dtype=values.dtype).scatter(1, followed, values[:, :width])

    unfollowed = shares[:, width] if shares.shape[1] > width else shares.new_zeros(len(x))
    incomplete = bool((rest > -torch.inf).any())
    return Probabilities(
        spread(shares),
        spread(error),
        spread(winners),
        spread(winners_error),
        pairwise_probabilities(moments.mean, moments.covariance),
        clean.softmax(1),
        unfollowed,
        combine([moments.grade, Grade.LINEARISED]) if incomplete else moments.grade,
        moments,
    )


def expected_softmax(
    mean: Tensor,
    covariance: Tensor,
    *,
    rest: Tensor | None = None,
    points: int = 256,
    scrambles: int = SCRAMBLES,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """E[softmax(z)] for Gaussian logits z, and its standard error.

    The derivative is Price's theorem, dE f / dC = E[Hessian of f] / 2, on the same points: it holds for singular
    covariances too, where the derivative of a matrix root does not exist.

    Args:
        mean: (B, K).
        covariance: (B, K, K).
        rest: (B,) logarithm of the summed exponentials of further, noise-free logits; adds a column K to the result.
        points: Sobol points per scramble, a power of 2.
        scrambles: independent randomisations, at least 2.
        seed: of the randomisations.

    Returns:
        Probabilities and standard errors, both (B, K), or (B, K + 1) with `rest`.

    Raises:
        UsageError: for a number of points that is no power of 2, or fewer than 2 scrambles.

    Source: R. Price, IRE Transactions on Information Theory 4 (1958) 69-72, for the derivative.

    Example:
        >>> share, _ = expected_softmax(torch.zeros(1, 2), torch.eye(2).unsqueeze(0))
        >>> round(float(share[0, 0]), 3)
        0.5
    """
    if points < 2 or points & (points - 1) or scrambles < 2:
        raise UsageError(
            f"points must be a power of 2 and scrambles at least 2, got {points} and {scrambles}.",
            where="points",
            advice="Leave the defaults.",
        )
    if rest is not None:
        mean = torch.cat([mean, rest.to(mean).unsqueeze(1)], 1)
        covariance = nn.functional.pad(covariance, (0, 1, 0, 1))
    normal = normal_points(mean.shape[1], points, scrambles, seed).to(mean.dtype)
    rows = max(1, _CHUNK_ELEMENTS // normal.numel())
    parts = [
        _ExpectedSoftmax.apply(one, other, normal)
        for one, other in zip(mean.split(rows), covariance.split(rows), strict=True)
    ]
    value, error = (torch.cat(values) for values in zip(*parts, strict=True))
    return value, error


class _ExpectedSoftmax(torch.autograd.Function):
    """Average over points, with the derivative by Price's theorem instead of through the matrix root."""

    @staticmethod
    def forward(ctx: Any, mean: Tensor, covariance: Tensor, normal: Tensor) -> tuple[Tensor, Tensor]:
        scrambles, points, count = normal.shape
        shares = _logits(mean, covariance, normal.reshape(-1, count)).softmax(2)
        ctx.save_for_backward(shares)
        estimates = shares.reshape(len(mean), scrambles, points, count).mean(2)
        error = estimates.std(1) / scrambles**0.5
        ctx.mark_non_differentiable(error)
        return estimates.mean(1), error

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor, _: Tensor) -> tuple[Tensor, Tensor, None]:
        (shares,) = ctx.saved_tensors
        count = shares.shape[1]
        weighted = shares * upstream.unsqueeze(1)
        total = weighted.sum(2, keepdim=True)
        first = (weighted - shares * total).mean(1)
        mixed = weighted.mT @ shares / count
        squares = (shares * total).mT @ shares / count
        return first, 0.5 * (torch.diag_embed(first) - mixed - mixed.mT + 2 * squares), None


def argmax_probabilities(
    mean: Tensor, covariance: Tensor, *, points: int = 512, scrambles: int = SCRAMBLES, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """P(output i is the largest) for Gaussian outputs, and its standard error, both (B, m).

    Of two outputs in closed form, with error 0. Of more by points that are the same for every sample and every call, so
    two calls compare with common random numbers.

    Returns:
        Probabilities and standard errors.
    """
    count = mean.shape[1]
    if count == 2:
        return _larger_of_two(mean.detach(), covariance.detach()), torch.zeros_like(mean)
    normal = normal_points(count, points, scrambles, seed).to(mean.dtype)
    rows = max(1, _CHUNK_ELEMENTS // normal.numel())
    estimates = []
    for one, other in zip(mean.detach().split(rows), covariance.detach().split(rows), strict=True):
        largest = _logits(one, other, normal.reshape(-1, count)).argmax(2)
        hits = torch.nn.functional.one_hot(largest, count).to(mean.dtype)
        estimates.append(hits.reshape(len(one), scrambles, points, count).mean(2))
    stacked = torch.cat(estimates)
    return stacked.mean(1), stacked.std(1) / scrambles**0.5


def _larger_of_two(mean: Tensor, covariance: Tensor) -> Tensor:
    """P(output i is the larger), (B, 2); without noise in their difference, the first of two equal ones."""
    pairs = pairwise_probabilities(mean, covariance)
    certain = torch.nn.functional.one_hot(mean.argmax(1), 2).to(mean.dtype)
    noisy = pairwise_differences(mean, covariance)[1][:, :1, 1] > 0
    return torch.where(noisy, torch.stack([pairs[:, 0, 1], pairs[:, 1, 0]], dim=1), certain)


def pairwise_probabilities(mean: Tensor, covariance: Tensor) -> Tensor:
    """P(z_i > z_j) = Phi((m_i - m_j) / sd(z_i - z_j)) for Gaussian z; differentiable.

    Args:
        mean: (B, m).
        covariance: (B, m, m).

    Returns:
        (B, m, m); 0.5 on the diagonal and for a tie without noise, so that P and its transpose add up to 1.

    Source: the difference of two jointly Gaussian outputs is Gaussian.

    Example:
        >>> mean, covariance = torch.tensor([[1.0, 0.0]]), torch.tensor([[[0.5, 0.0], [0.0, 0.5]]])
        >>> round(float(pairwise_probabilities(mean, covariance)[0, 0, 1]), 4)
        0.8413
    """
    difference, variance = pairwise_differences(mean, covariance)
    noisy = variance > 0
    safe = torch.where(noisy, variance, torch.ones_like(variance)).sqrt()
    certain = 0.5 * (1 + torch.sign(difference.detach()))
    return torch.where(noisy, distribution(difference / safe), certain)


def pairwise_differences(mean: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance (B, m, m) of z_i - z_j; variances that rounding made of nothing are 0."""
    own = covariance.diagonal(dim1=1, dim2=2)
    variance = own.unsqueeze(2) + own.unsqueeze(1) - covariance - covariance.mT
    rounding = 8 * torch.finfo(mean.dtype).eps * (own.unsqueeze(2) + own.unsqueeze(1)).detach()
    variance = torch.where(variance > rounding, variance, torch.zeros_like(variance))
    return mean.unsqueeze(2) - mean.unsqueeze(1), variance


def candidates(clean: Tensor, label: Tensor, count: int = CANDIDATES) -> Tensor:
    """Indices (B, m) of the largest outputs, the label always among them."""
    raised = clean.scatter(1, label.unsqueeze(1), torch.inf)
    return raised.topk(min(count, clean.shape[1]), dim=1).indices


def _logits(mean: Tensor, covariance: Tensor, normal: Tensor) -> Tensor:
    return mean.unsqueeze(1) + normal @ square_root(covariance).mT


@lru_cache(maxsize=16)
def normal_points(count: int, points: int, scrambles: int, seed: int) -> Tensor:
    """(scrambles, points, count) standard normal numbers from scrambled Sobol sequences, float64."""
    from scipy.stats import norm, qmc

    drawn = [qmc.Sobol(count, rng=seed + scramble).random(points) for scramble in range(scrambles)]
    return torch.stack([torch.from_numpy(norm.ppf(one.clip(1e-12, 1 - 1e-12))) for one in drawn])
