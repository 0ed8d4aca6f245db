"""How many significand bits a network needs so that no decision changes: predicted by margins, and the truth beside it.

The same t (implicit bit included) is used for weights, biases, input and every stored activation. A rule turns a
round-off estimate into bits per sample by the pairwise margin rule (`margins`); simulating every t gives the truth.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from assay.errors import UsageError
from assay.grade import Grade
from assay.inputs import prepared
from assay.results import Displayed
from assay.sensitivity.bits.margins import (
    LEVELS,
    bits_by_bisection,
    flip_probability,
    flip_probability_chebyshev,
    margin_bits,
    quantiles,
)
from assay.sensitivity.roundoff import Accumulation, Precision, precision, prepared_graph
from assay.sensitivity.roundoff.estimate import first_order_coefficients, roundoff_error
from assay.sensitivity.roundoff.simulation import Simulator
from assay.subject import Subject

MOST = 24
"""Significand bits of fp32: the most that the truth is sought for."""
_REFERENCE = 8
_LARGEST = 53
_SIGMA = re.compile(r"(\d+(?:\.\d+)?)-sigma")


@dataclass(frozen=True, eq=False)
class MinimalBits(Displayed):
    """Significand bits that keep the decision of each sample.

    Attributes:
        rule: how they were predicted.
        grade: bound for ``guaranteed``, linearised for ``first-order``, statistical for sigma rules.
        bits: (B,) float64 predicted bits; inf for a tie, or where 53 bits do not do.
        margins: (B, P) f_top - f_j, closest rival first.
        flip_rate: expected share of changed decisions by t, sum of Gaussian tails over rivals; empty for other rules.
        flip_rate_chebyshev: the same by Chebyshev's inequality.
        true_bits: (B,) smallest t from which on no t up to `MOST` changes the decision; inf where `MOST` does; None
            where it was not asked for.
        true_flip_rate: measured share of changed decisions by t; None where it was not asked for.
    """

    rule: str
    grade: Grade
    bits: Tensor
    margins: Tensor
    flip_rate: dict[int, float]
    flip_rate_chebyshev: dict[int, float]
    true_bits: Tensor | None
    true_flip_rate: dict[int, float] | None

    @property
    def network(self) -> float:
        """Bits that suffice for every sample given."""
        return float(self.bits.max())

    @property
    def quantiles(self) -> dict[float, float]:
        """Bits that suffice for a share of the samples."""
        return quantiles(self.bits, LEVELS)

    @property
    def overhead(self) -> float | None:
        """Mean of predicted minus true bits, over samples where both are finite."""
        if self.true_bits is None:
            return None
        both = self.bits.isfinite() & self.true_bits.isfinite()
        return float((self.bits - self.true_bits)[both].mean())

    @property
    def under_predicted(self) -> float | None:
        """Share of samples whose true bits exceed the predicted ones."""
        return None if self.true_bits is None else float((self.true_bits > self.bits).double().mean())

    def bits_for(self, flip_rate: float) -> int | None:
        """Smallest t whose expected share of changed decisions is at most this; None where none of the tried does."""
        return next((t for t, expected in sorted(self.flip_rate.items()) if expected <= flip_rate), None)


def minimal_bits(
    model: nn.Module | Subject,
    x: Tensor,
    *,
    rule: str = "3-sigma",
    rivals: int | None = None,
    accumulation: str = "exact",
    truth: bool = True,
    significands: Sequence[int] = range(1, MOST + 1),
) -> MinimalBits:
    """Smallest uniform significand that keeps each sample's decision, predicted and by brute force.

    Args:
        model: an nn.Module or a Subject that can be captured; outputs are logits of at least two classes.
        x: (B, ...).
        rule: ``guaranteed`` (E2: holds for certain), ``first-order`` (E3), or ``k-sigma`` such as ``3-sigma`` (E4: k
            standard deviations of f_top - f_j must fit into the margin).
        rivals: how many closest rivals are looked at; all when None.
        accumulation: how inner products are summed, with t bits too: ``exact``, ``sequential`` or ``pairwise``.
        truth: also simulate every t of `significands`, and measure.
        significands: where flip rates are told and the truth is sought.

    Returns:
        Bits per sample, expected flip rates, and the truth.

    Raises:
        UsageError: for an unknown rule, or a model with one output.
        CaptureError: when the model cannot be captured.

    Example:
        >>> network = nn.Linear(2, 2, bias=False)
        >>> network.weight.data = torch.tensor([[1.0, 2.0], [1.0, -1.0]])
        >>> minimal_bits(network, torch.tensor([[3.0, 1.0]]), rule="first-order").network
        3.0
    """
    sigma = _SIGMA.fullmatch(rule)
    if sigma is None and rule not in ("guaranteed", "first-order"):
        raise UsageError(
            f"Unknown rule {rule!r}.", where="rule", advice="Use guaranteed, first-order, or such as 3-sigma."
        )
    subject, x = prepared(model, x)
    graph = prepared_graph(subject)
    if graph[graph.output].spec.size_per_sample < 2:
        raise UsageError(
            "A model with one output decides nothing, so no margin says how many bits it needs.",
            where="model",
            advice="Bound its error instead: bit_widths(..., budget={'error': ...}).",
        )
    tried = sorted(set(significands))
    pairs = "all" if rivals is None else rivals
    estimate = _Estimates(subject, x, pairs, accumulation)
    flips: dict[int, float] = {}
    loose: dict[int, float] = {}
    if sigma is not None:
        margins = estimate.error("E4", _REFERENCE)[1]
        bits = bits_by_bisection(lambda t: float(sigma[1]) * estimate.deviation(t), margins, largest=_LARGEST)
        flips = {t: float(flip_probability(estimate.deviation(t), margins).mean()) for t in tried}
        loose = {t: float(flip_probability_chebyshev(estimate.deviation(t), margins).mean()) for t in tried}
        grade = Grade.STATISTICAL
    elif rule == "first-order" and accumulation == "exact":
        found = first_order_coefficients(subject, x, pairs=pairs)
        margins, grade = found.margins, Grade.LINEARISED
        bits = margin_bits(found.error, margins)
    else:
        name, grade = ("E2", Grade.BOUND) if rule == "guaranteed" else ("E3", Grade.LINEARISED)
        margins = estimate.error(name, _REFERENCE)[1]
        bits = bits_by_bisection(lambda t: estimate.error(name, t)[0], margins, largest=_LARGEST)
    true_bits, true_flips = _truth(subject, x, accumulation, tried) if truth else (None, None)
    return MinimalBits(rule, grade, bits, margins, flips, loose, true_bits, true_flips)


class _Estimates:
    """Round-off estimates by significand, each made once."""

    def __init__(self, subject: Subject, x: Tensor, pairs: object, accumulation: str) -> None:
        self.subject, self.x, self.pairs, self.accumulation = subject, x, pairs, accumulation
        self._made: dict[tuple[str, int], tuple[Tensor, Tensor]] = {}

    def error(self, estimator: str, t: int) -> tuple[Tensor, Tensor]:
        """(B, P) error and margins."""
        if (estimator, t) not in self._made:
            found = roundoff_error(
                self.subject,
                self.x,
                _precision(t, self.accumulation),
                estimator=estimator,  # type: ignore[arg-type]
                pairs=self.pairs,  # type: ignore[arg-type]
                by_layer=False,
            )
            self._made[estimator, t] = found.error, found.margins
        return self._made[estimator, t]

    def deviation(self, t: int) -> Tensor:
        """(B, P) standard deviation: estimated up to 8 bits, beyond scaled (values that are exact there only help)."""
        if t <= _REFERENCE:
            return self.error("E4", t)[0]
        return self.error("E4", _REFERENCE)[0] * 2.0 ** (_REFERENCE - t)


def _precision(t: int, accumulation: str) -> Precision:
    target = precision(t)
    how: Accumulation | None = None
    if accumulation != "exact":
        how = Accumulation(accumulation, target)  # type: ignore[arg-type]
    return Precision.uniform(target, how)


def _truth(subject: Subject, x: Tensor, accumulation: str, tried: Sequence[int]) -> tuple[Tensor, dict[int, float]]:
    """Smallest t from which on every tried t keeps the decision, and the share that changes at each."""
    graph = prepared_graph(subject)
    run: Callable[[Precision], Tensor] = lambda formats: Simulator(graph, formats)(x)  # noqa: E731
    with torch.no_grad():
        exact = run(Precision()).argmax(1)
        kept = {t: run(_precision(t, accumulation)).argmax(1) == exact for t in tried}
    bits = torch.full((len(x),), math.inf, dtype=torch.float64)
    steady = torch.ones(len(x), dtype=torch.bool)
    for t in reversed(tried):
        steady = steady & kept[t]
        bits = torch.where(steady, float(t), bits)
    return bits, {t: 1 - float(kept[t].double().mean()) for t in tried}
