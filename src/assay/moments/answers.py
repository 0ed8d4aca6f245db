"""What moments say about decisions: flip probability, and confusion between classes over a data set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from assay.covariance import select
from assay.errors import UsageError
from assay.grade import Grade, combine
from assay.moments.batches import output_indices, slices
from assay.moments.noise import Noise, as_covariance
from assay.moments.probabilities import ALL_OUTPUTS, argmax_probabilities, candidates, pairwise_probabilities
from assay.moments.propagation import checked_input, propagate
from assay.moments.result import Moments
from assay.results import Displayed
from assay.subject import Subject


@dataclass(frozen=True, eq=False)
class Decision(Displayed):
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
    inputs; of two outputs it is Phi of their mean difference over its deviation.

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

    Source: moments by `propagate`; P(argmax = c) is an orthant probability, by quasi-Monte Carlo.

    Example:
        >>> found = flip_probability(nn.Identity(), torch.tensor([[1.0, 0.0]]), 0.5)
        >>> found.flip.round(decimals=4)  # Phi(-1): the difference has mean 1 and variance 1
        tensor([0.1587])
    """
    subject, x = checked_input(model, x)
    clean = subject.probe(x)
    count = clean.shape[1]
    label = clean.argmax(1) if label is None else output_index(label, clean, "label")
    if options.get("outputs") is None and count > ALL_OUTPUTS:
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


@dataclass(frozen=True, eq=False)
class Confusion(Displayed):
    """Expected confusion between classes under noise; rows without any input are 0.

    Attributes:
        matrix: (K, K) average of P(decision = j) over the inputs labelled i.
        standard_error: (K, K) of `matrix` as an estimate for all inputs like these, from its spread over the inputs;
            NaN in rows of fewer than 2 inputs.
        pairwise: (K, K) average of P(logit_j > logit_i) over the inputs labelled i, each pair on its own; 0.5 on the
            diagonal, 0 for outputs never followed.
        counts: (K,) inputs per row.
        grade: of the moments behind it.
    """

    matrix: Tensor
    standard_error: Tensor
    pairwise: Tensor
    counts: Tensor
    grade: Grade


def confusion(
    model: nn.Module | Subject, x: Tensor, labels: Tensor, cov: Noise, *, chunk: int | None = None, **options: Any
) -> Confusion:
    """Expected confusion matrix of a data set under noise, in batches that fit in memory.

    Args:
        model: a classifier, or a Subject.
        x: (B, ...) inputs.
        labels: (B,) rows to average in: true labels, or the model's own decisions.
        cov: noise, as for `propagate`.
        chunk: inputs at once; by memory when None.
        options: passed on to `propagate`.

    Returns:
        Confusion, with a standard error over inputs.

    Raises:
        UsageError: for labels that are no outputs.

    Source: Bibi, Alfadly, Ghanem, CVPR 2018 (inter-class confusion).

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
        >>> found = confusion(nn.Identity(), x, torch.tensor([0, 1]), 0.5, method="exact")
        >>> round(float(found.pairwise[0, 1]), 3)  # Phi(-1)
        0.159
    """
    subject, x = checked_input(model, x)
    covariance = as_covariance(cov, x)
    labels = output_index(labels, subject.probe(x[:1]).expand(len(x), -1), "labels")
    count = subject.output_count
    method, rank = str(options.get("method", "auto")), int(options.get("rank", 32))
    parts = (
        slices(subject, len(x), method, rank)
        if chunk is None
        else (slice(start, start + chunk) for start in range(0, len(x), max(1, chunk)))
    )
    sums = torch.zeros(3, count, count, dtype=torch.float64)
    grades = []
    for rows in parts:
        label = labels[rows]
        decision = flip_probability(
            subject, x[rows], select(covariance, rows), label=label, **output_indices(options, rows)
        )
        member = torch.nn.functional.one_hot(label, count).double()
        shares = decision.probabilities.double()
        values = (shares, shares.square(), _beats_label(decision, count).double())
        sums += torch.stack([member.T @ value for value in values])
        grades.append(decision.grade)
    counts = torch.bincount(labels, minlength=count)
    divisor = counts.clamp(min=1).unsqueeze(1).double()
    matrix, squares, pairwise = sums / divisor
    variance = (squares - matrix.square()).clamp(min=0) * divisor / (divisor - 1).clamp(min=1)
    error = torch.where(counts.unsqueeze(1) == 1, torch.nan, (variance / divisor).sqrt())
    return Confusion(matrix, error, pairwise, counts, combine(grades))


def _beats_label(decision: Decision, count: int) -> Tensor:
    """(B, K) probability that each output exceeds the label's; 0 where not followed."""
    moments = decision.moments
    pairs = pairwise_probabilities(moments.mean, moments.covariance)
    followed = moments.outputs if moments.outputs is not None else torch.arange(count).expand(len(pairs), -1)
    place = (followed == decision.label.unsqueeze(1)).to(torch.int8).argmax(1)
    against = pairs.gather(2, place.reshape(-1, 1, 1).expand(-1, pairs.shape[1], 1)).squeeze(2)
    return torch.zeros(len(pairs), count, dtype=pairs.dtype).scatter(1, followed, against)


def output_index(index: Tensor | int, outputs: Tensor, where: str) -> Tensor:
    """(B,) indices of outputs, checked.

    Args:
        index: one index, or one per input.
        outputs: (B, K).
        where: name of the argument, for the error.

    Returns:
        (B,), int64.

    Raises:
        UsageError: when it is no index of an output.
    """
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
