"""How much noise a decision stands: the noise level at which it flips with a given probability."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from assay.covariance import Diagonal
from assay.errors import CaptureError, UsageError
from assay.grade import Grade, combine
from assay.moments.answers import flip_probability, output_index
from assay.moments.batches import output_indices, slices
from assay.moments.probabilities import ALL_OUTPUTS, candidates
from assay.moments.propagation import checked_input
from assay.results import Displayed
from assay.subject import Subject

_FACTOR_RANK = 64


@dataclass(frozen=True, eq=False)
class NoiseLevels(Displayed):
    """Noise that flips decisions with given probabilities; F probabilities.

    Attributes:
        sigma: (B, F) deviation of the noise, in units of the data; inf where the probability is not reached up to
            `highest`, 0 where the decision is not `label` without noise already.
        flip: the F probabilities asked for.
        reached: (B, F) P(flip) at `sigma`; at `highest` where sigma is inf, 1 where it is 0.
        label: (B,) the decisions asked about.
        highest: largest sigma looked at.
        grade: of the moments behind it.
        propagations: how many were needed, each over the inputs still searching.
    """

    sigma: Tensor
    flip: tuple[float, ...]
    reached: Tensor
    label: Tensor
    highest: float
    grade: Grade
    propagations: int


def noise_level(
    model: nn.Module | Subject,
    x: Tensor,
    *,
    flip: Sequence[float] = (0.01, 0.05, 0.5),
    label: Tensor | None = None,
    lowest: float | None = None,
    highest: float | None = None,
    tolerance: float = 0.01,
    **options: Any,
) -> NoiseLevels:
    """The isotropic noise at which a decision flips with given probabilities.

    All inputs are searched together: a grid of levels brackets the first crossing of every input, then regula falsi
    on the logarithm of sigma narrows it. Every level uses the same points of the space of outputs, so P(flip) changes
    with sigma and not with luck. About 20 propagations of the batch.

    Args:
        model: a classifier, or a Subject.
        x: (B, ...) inputs.
        flip: probabilities, between 0 and 1.
        label: decisions to hold, (B,); the model's own decision at x when None. With true labels, inputs that are
            already misclassified get 0.
        lowest: smallest sigma looked at; 0.001 of the value range when None.
        highest: largest; 1 value range when None.
        tolerance: relative, of sigma.
        options: passed on to `propagate`; without a method, ``factor`` with 64 columns where the model was captured.

    Returns:
        NoiseLevels. Where P(flip) at `lowest` is above the probability already, sigma is `lowest`, an upper limit.

    Raises:
        UsageError: for a probability outside (0, 1), or levels that do not increase.

    Example:
        >>> found = noise_level(nn.Identity(), torch.tensor([[1.0, 0.0]]), flip=(0.05,), method="exact")
        >>> round(float(found.sigma[0, 0]), 2)  # 1 / (1.645 sqrt(2))
        0.43
    """
    subject, x = checked_input(model, x)
    scale = subject.preprocessing.value_range
    low = 1e-3 * scale if lowest is None else lowest
    high = scale if highest is None else highest
    _check(flip, low, high, tolerance)
    clean = subject.probe(x)
    decided = clean.argmax(1)
    asked = decided if label is None else output_index(label, clean, "label")
    if options.get("outputs") is None and clean.shape[1] > ALL_OUTPUTS:
        options["outputs"] = candidates(clean, asked)
    if options.get("method", "auto") == "auto":
        options = _cheap(subject) | {name: value for name, value in options.items() if name != "method"}
    grades: list[Grade] = []

    def probability(rows: Tensor, sigma: Tensor) -> Tensor:
        found = []
        for part in slices(subject, len(rows), str(options.get("method", "factor")), int(options.get("rank", 32))):
            inputs = x[rows[part]]
            variance = sigma[part].to(x).square().reshape(-1, *(1,) * (x.dim() - 1)).expand(inputs.shape)
            decision = flip_probability(
                subject, inputs, Diagonal(variance), label=asked[rows[part]], **output_indices(options, rows[part])
            )
            grades.append(decision.grade)
            found.append(decision.flip)
        return torch.cat(found)

    search = Search(probability, len(x), flip, low, high, tolerance)
    sigma, reached = search.run(decided != asked)
    return NoiseLevels(sigma, tuple(float(p) for p in flip), reached, asked, high, combine(grades), search.evaluations)


def _cheap(subject: Subject) -> dict[str, Any]:
    try:
        subject.graph  # noqa: B018  (captured or not is the question)
    except CaptureError:
        return {"method": "linearize"}
    return {"method": "factor", "rank": _FACTOR_RANK}


def _check(flip: Sequence[float], low: float, high: float, tolerance: float) -> None:
    if not flip or any(not 0 < p < 1 for p in flip):
        raise UsageError(
            f"Flip probabilities must lie between 0 and 1, got {tuple(flip)}.", where="flip", advice="Such as (0.05,)."
        )
    if not 0 < low < high < math.inf or not 0 < tolerance < 1:
        raise UsageError(
            f"Needed: 0 < lowest < highest and 0 < tolerance < 1, got {low:g}, {high:g}, {tolerance:g}.",
            where="noise_level",
            advice="Leave the defaults, or give levels in units of the data.",
        )


class Search:
    """First level at which a probability is reached, for many inputs and probabilities at once.

    Args:
        probability: (rows, sigma) -> P(flip), all of one length.
        count: number of inputs.
        wanted: probabilities.
        low: smallest sigma.
        high: largest sigma.
        tolerance: relative, of sigma.
        grid: levels that bracket the crossing; between two of them P(flip) is taken to cross once.
    """

    def __init__(
        self,
        probability: Callable[[Tensor, Tensor], Tensor],
        count: int,
        wanted: Sequence[float],
        low: float,
        high: float,
        tolerance: float,
        grid: int = 9,
    ) -> None:
        self.probability = probability
        self.count = count
        self.wanted = torch.tensor([float(p) for p in wanted], dtype=torch.float64)
        self.grid = torch.linspace(math.log(low), math.log(high), grid, dtype=torch.float64)
        self.tolerance = tolerance
        self.evaluations = 0

    def run(self, flipped: Tensor) -> tuple[Tensor, Tensor]:
        """Sigma and the probability there, both (count, F); `flipped` (count,) marks inputs flipped without noise."""
        found = torch.full((self.count, len(self.wanted)), torch.inf, dtype=torch.float64)
        reached = torch.ones_like(found)
        found[flipped] = 0.0
        rows = torch.nonzero(~flipped).squeeze(1)
        if not len(rows):
            return found, reached
        values = torch.stack([self._at(rows, at.expand(len(rows))) for at in self.grid], 1)
        above = values.unsqueeze(2) >= self.wanted  # (n, grid, F)
        first = above.to(torch.int8).argmax(1)
        crossed = above.any(1)
        reached[rows] = values[:, -1:].expand(-1, len(self.wanted))
        row, column = torch.nonzero(crossed, as_tuple=True)
        place = first[row, column]
        at_once = place == 0
        low, high = self.grid[(place - 1).clamp(min=0)], self.grid[place]
        below, over = values[row, (place - 1).clamp(min=0)], values[row, place]
        sigma, value = self._narrow(rows[row], low, high, below, over, self.wanted[column], at_once)
        found[rows[row], column] = sigma.exp()
        reached[rows[row], column] = value
        return found, reached

    def _narrow(
        self, rows: Tensor, low: Tensor, high: Tensor, below: Tensor, over: Tensor, wanted: Tensor, done: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Illinois regula falsi on (log sigma, normal quantile of P), all brackets at once."""
        target = _quantile(wanted)
        left, right = _quantile(below) - target, _quantile(over) - target
        best, value, gap = high.clone(), over.clone(), (over - wanted).abs()
        best, value = torch.where(done, high, best), torch.where(done, over, value)
        for step in range(30):
            active = torch.nonzero(~done & (high - low > self.tolerance)).squeeze(1)
            if not len(active):
                break
            width = high[active] - low[active]
            share = left[active] / (left[active] - right[active])
            share = torch.full_like(share, 0.5) if step % 4 == 3 else share.clamp(0.05, 0.95)
            at = low[active] + width * share
            p = self._at(rows[active], at)
            miss = (p - wanted[active]).abs()
            better = miss < gap[active]
            best[active] = torch.where(better, at, best[active])
            value[active] = torch.where(better, p, value[active])
            gap[active] = torch.where(better, miss, gap[active])
            rise = _quantile(p) - target[active]
            up = rise >= 0
            # Illinois: an end that stays is halved, so that it does not stay for ever
            left[active] = torch.where(up, 0.5 * left[active], rise)
            right[active] = torch.where(up, rise, 0.5 * right[active])
            high[active] = torch.where(up, at, high[active])
            low[active] = torch.where(up, low[active], at)
            done[active] |= rise.abs() < 0.5 * self.tolerance
        return best, value

    def _at(self, rows: Tensor, log_sigma: Tensor) -> Tensor:
        self.evaluations += 1
        return self.probability(rows, log_sigma.exp()).double()


def _quantile(probability: Tensor) -> Tensor:
    return torch.special.ndtri(probability.double().clamp(1e-4, 1 - 1e-4))
