"""What moments say about decisions: flip probability, confusion between classes, which input elements matter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from assay.covariance import Diagonal, diagonal
from assay.covariance.functions import square_root
from assay.errors import CaptureError, UsageError
from assay.grade import Grade, combine
from assay.moments.basis import low_rank
from assay.moments.methods import Request
from assay.moments.methods.factor import INNOVATION_COLUMNS, adjoint, walk
from assay.moments.noise import Noise, as_covariance
from assay.moments.propagation import checked_input, propagate
from assay.moments.result import Moments
from assay.subject import Subject

_POINTS = 512
_REPEATS = 8
_CANDIDATES = 16


@dataclass(frozen=True, eq=False)
class Decision:
    """How a decision holds under noise.

    Attributes:
        flip: (B,) probability that the largest output is not `label`.
        probabilities: (B, K) probability that each output is the largest; 0 for outputs that were not candidates.
        label: (B,) the decision asked about.
        standard_error: (B,) of `flip`, from independent randomisations of the quasi-random points.
        grade: of the moments behind it.
        moments: mean and covariance the answer rests on.
    """

    flip: Tensor
    probabilities: Tensor
    label: Tensor
    standard_error: Tensor
    grade: Grade
    moments: Moments

    def __float__(self) -> float:
        if self.flip.numel() != 1:
            raise TypeError("only a single input has one flip probability")
        return float(self.flip)


def flip_probability(
    model: nn.Module | Subject, x: Tensor, cov: Noise, *, label: Tensor | None = None, **options: Any
) -> Decision:
    """Probability that noise changes the decision, and what it changes to.

    The outputs are taken as Gaussian with the propagated mean and covariance; the probability that one output is the
    largest is an orthant probability, evaluated by randomised quasi-Monte Carlo in the space of outputs, never of
    inputs.

    Args:
        model: a classifier, or a Subject.
        x: (B, ...) inputs.
        cov: noise, as for `propagate`.
        label: (B,) decisions to ask about; the model's own decision at x when None.
        options: passed on to `propagate`.

    Returns:
        Decision, with grade and standard error. With more than 64 outputs only the 16 largest are candidates.

    Raises:
        UsageError: for a label that is no output, or not among `outputs`.

    Source: moments by `propagate`; P(argmax = c) as in the specification, section 1.5.
    """
    subject, x = checked_input(model, x)
    clean = subject.probe(x)
    count = clean.shape[1]
    label = clean.argmax(1) if label is None else _indices(label, clean, "label")
    if "outputs" not in options and count > 4 * _CANDIDATES:
        options["outputs"] = candidates(clean, label)
    moments = propagate(subject, x, cov, **options)
    shares, spread = argmax_probabilities(moments.mean, moments.covariance)
    wanted = moments.outputs if moments.outputs is not None else torch.arange(count).expand(len(x), -1)
    probabilities = torch.zeros(len(x), count, dtype=shares.dtype).scatter(1, wanted, shares)
    if not bool((wanted == label.unsqueeze(1)).any(1).all()):
        raise UsageError(
            "A label is not among the outputs asked for.",
            where="outputs",
            advice="Add it to outputs, or leave them out.",
        )
    own = probabilities.gather(1, label.unsqueeze(1)).squeeze(1)
    error = torch.zeros(len(x), count, dtype=shares.dtype).scatter(1, wanted, spread)
    return Decision(
        1 - own, probabilities, label, error.gather(1, label.unsqueeze(1)).squeeze(1), moments.grade, moments
    )


def candidates(clean: Tensor, label: Tensor, count: int = _CANDIDATES) -> Tensor:
    """Indices (B, m) of the largest outputs, the label always among them."""
    raised = clean.scatter(1, label.unsqueeze(1), torch.inf)
    return raised.topk(min(count, clean.shape[1]), dim=1).indices


def argmax_probabilities(mean: Tensor, covariance: Tensor, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """P(output i is the largest) for Gaussian outputs, and its standard error, both (B, m).

    Scrambled Sobol points, `_REPEATS` independent scrambles of `_POINTS` points; the same points for every sample.

    Returns:
        Probabilities and standard errors.
    """
    from scipy.stats import norm, qmc

    count = mean.shape[1]
    root = square_root(covariance)
    estimates = []
    for repeat in range(_REPEATS):
        uniform = qmc.Sobol(count, rng=seed + repeat).random(_POINTS)
        normal = torch.from_numpy(norm.ppf(uniform.clip(1e-12, 1 - 1e-12))).to(mean.dtype)
        draws = mean.unsqueeze(1) + normal @ root.mT
        estimates.append(torch.nn.functional.one_hot(draws.argmax(2), count).to(mean.dtype).mean(1))
    stacked = torch.stack(estimates)
    return stacked.mean(0), stacked.std(0) / _REPEATS**0.5


def confusion(model: nn.Module | Subject, x: Tensor, labels: Tensor, cov: Noise, **options: Any) -> Tensor:
    """Expected confusion matrix (K, K) under noise: row i is the average of P(decision = j) over inputs labelled i.

    Args:
        model: a classifier, or a Subject.
        x: (B, ...) inputs.
        labels: (B,) rows to average in: true labels, or the model's own decisions.
        cov: noise, as for `propagate`.
        options: passed on to `propagate`.

    Returns:
        (K, K); rows without any input are 0.
    """
    decision = flip_probability(model, x, cov, **options)
    count = decision.probabilities.shape[1]
    member = torch.nn.functional.one_hot(labels.long(), count).to(decision.probabilities.dtype)
    return member.T @ decision.probabilities / member.sum(0).clamp(min=1).unsqueeze(1)


@dataclass(frozen=True, eq=False)
class SensitivityMap:
    """Which input elements make an output noisy.

    Attributes:
        variance_share: (B, ...) share of the output variance that each element's noise brings through the expected
            Jacobian.
        jacobian: (B, ...) expected Jacobian of the output combination: its sign says which way the element pushes.
        variance: (B,) variance of the output combination.
        explained: (B,) sum of the shares; the rest is made by non-linearities acting on several elements at once.
        grade: reliability.
    """

    variance_share: Tensor
    jacobian: Tensor
    variance: Tensor
    explained: Tensor
    grade: Grade


def sensitivity_map(
    model: nn.Module | Subject,
    x: Tensor,
    cov: Noise,
    *,
    target: Tensor | int | None = None,
    versus: Tensor | int | None = None,
    rank: int = 32,
) -> SensitivityMap:
    """Share of an output's variance that each input element contributes, for independent noise.

    Args:
        model: a module or Subject.
        x: (B, ...) inputs.
        cov: noise with independent elements: a float or variances.
        target: output of interest, an index or (B,); the decision at x when None.
        versus: subtract this output: the map of the difference, whose sign decides a flip.
        rank: columns used for the neurons' variances.

    Returns:
        SensitivityMap; graded linearised where the model cannot be captured (plain Jacobian instead of the expected
        one).

    Raises:
        UsageError: for correlated noise, whose variance has no per-element share.

    Source: specification, section 2 ("How to implement the applications well").
    """
    subject, x = checked_input(model, x)
    covariance = as_covariance(cov, x)
    variance = diagonal(covariance)
    if not isinstance(covariance, Diagonal):
        raise UsageError(
            "A sensitivity map needs independent noise.", where="cov", advice="Give a number or variances."
        )
    clean = subject.probe(x)
    seed = _one_hot(clean.argmax(1) if target is None else _indices(target, clean, "target"), clean)
    if versus is not None:
        seed = seed - _one_hot(_indices(versus, clean, "versus"), clean)
    request = Request(subject, x, covariance, None, rank, 2, 0, "linearise")
    total, jacobian, grade = _expected_jacobian(request, seed)
    contribution = jacobian.square() * variance
    safe = torch.where(total > 0, total, torch.ones_like(total)).reshape(-1, *(1,) * (x.dim() - 1))
    share = contribution / safe
    return SensitivityMap(share, jacobian, total, share.reshape(len(x), -1).sum(1), grade)


def _expected_jacobian(request: Request, seed: Tensor) -> tuple[Tensor, Tensor, Grade]:
    try:
        reduced, exact = low_rank(request.covariance, request.rank, None, seed=0)
        _, domain, _ = walk(request, reduced, innovation_columns=0 if exact else INNOVATION_COLUMNS)
    except CaptureError:
        _, pullback = request.subject.probe.vjp(request.mean)
        jacobian = pullback(seed)
        return (jacobian.square() * diagonal(request.covariance)).flatten(1).sum(1), jacobian, Grade.LINEARISED
    covariance, jacobian = adjoint(request, domain.steps, seed.unsqueeze(0))
    own = Grade.EXACT if exact else Grade.STATISTICAL
    return covariance[:, 0, 0], jacobian[0], combine([own, domain.trust.grade_of(request.graph.output)])


def _one_hot(index: Tensor, like: Tensor) -> Tensor:
    return torch.nn.functional.one_hot(index, like.shape[1]).to(like.dtype)


def _indices(index: Tensor | int, outputs: Tensor, where: str) -> Tensor:
    """(B,) indices of outputs, checked."""
    chosen = torch.as_tensor(index)
    batch, count = outputs.shape
    fits = (
        chosen.numel()
        and chosen.dim() < 2
        and (chosen.dim() == 0 or len(chosen) == batch)
        and not chosen.is_floating_point()
    )
    if not fits or int(chosen.min()) < 0 or int(chosen.max()) >= count:
        raise UsageError(
            f"{where} must be one index below {count} or {batch} of them, one per input.",
            where=where,
            advice="Pass class indices.",
        )
    return chosen.to(torch.int64).expand(batch)
