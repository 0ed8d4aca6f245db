"""Early stopping: the class of a score, decided after as few samples as a chosen error probability allows.

A score is a mean over samples of bounded terms. Samples are visited in one random order; after each look an interval
for the mean over all of them is drawn, and the unit is done when it lies in one class. It holds at all looks together
with probability 1 - delta, over random orders and whatever the data: with at least this probability the class is the
one that all samples would give. That is a statement about these samples, not about others, and about one score: there
is no correction for many units.

The unfiltered network is run on all samples. Which of them it gets right predicts much of what a filter does to them,
and what is predicted need not be measured.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from assay.errors import UsageError
from assay.filtering.bootstrap import content_key
from assay.filtering.recording import Baseline, Recording
from assay.filtering.scores import Reference, Rule, label_of
from assay.filtering.terms import ScoreOf, known_of, terms_of
from assay.filtering.without_replacement import Bets, Block, bernstein_serfling, block_of, hoeffding_serfling
from assay.grade import Grade
from assay.results import Displayed

Bound = Literal["betting", "serfling"]
HALVINGS = 20  # of the range in which an end of the interval is looked for


@dataclass(frozen=True)
class Decision(Displayed):
    """A class, and what it took.

    Attributes:
        label: ``fragile``, ``robust``, ``antifragile``, or ``no-op`` where the filters change no weight.
        score: the estimate of the score over all samples; the score itself when all were visited.
        low: lower end of its interval, at probability 1 - delta whenever visiting stops.
        high: upper end.
        used: samples visited.
        samples: samples there are.
    """

    label: str
    score: float
    low: float
    high: float
    used: int
    samples: int

    @property
    def share(self) -> float:
        """Share of the samples visited."""
        return self.used / self.samples

    @property
    def grade(self) -> Grade:
        """Measured on a sample."""
        return Grade.SAMPLED


def sample_order(size: int, digest: str, seed: int = 0) -> np.ndarray:
    """The random order in which samples are visited: one for all units, by the data and a seed alone.

    Args:
        size: number of samples.
        digest: digest of the data.
        seed: another seed, another order.

    Returns:
        (size,) int64, a permutation.

    Example:
        >>> sorted(sample_order(5, "digest").tolist())
        [0, 1, 2, 3, 4]
    """
    key = hashlib.sha256(f"{seed}|{size}|{digest}".encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(key, "little"))).permutation(size)


def looks(size: int, first: int = 64, growth: float = 1.2) -> tuple[int, ...]:
    """After how many samples to look: evenly spaced on a logarithmic scale, the last look at all of them.

    Args:
        size: number of samples.
        first: samples before the first look.
        growth: ratio of a look to the one before.

    Returns:
        Rising counts.

    Raises:
        UsageError: for fewer than one sample, or a schedule that does not rise.

    Example:
        >>> looks(400, growth=2.0)
        (64, 128, 256, 400)
    """
    if size < 1 or first < 1 or not 1 < growth < math.inf:
        raise UsageError(
            f"size={size}, first={first}, growth={growth} are no schedule.",
            where="looks",
            advice="Use at least one sample, and a growth above 1.",
        )
    counts: list[int] = []
    count = float(first)
    while count < size:
        counts.append(int(count))
        count = max(count * growth, count + 1)
    return (*counts, size)


class Sequential:
    """Watches the terms of a score come in, in random order, and says its class as soon as that is safe.

    Attributes:
        looks: sample counts to look at; bets allow others as well.
        label: the class, None until decided.
        used: samples seen.
    """

    def __init__(
        self,
        size: int,
        bounds: tuple[float, float],
        *,
        tau: float = 0.02,
        delta: float = 0.05,
        known: np.ndarray | None = None,
        bound: Bound = "betting",
    ) -> None:
        """Prepare to watch.

        Args:
            size: number of samples in all.
            bounds: smallest and largest possible term.
            tau: half width of the class robust.
            delta: largest probability of a wrong class.
            known: (size, q) numbers known of every sample beforehand, in the order of visiting, such as whether the
                unfiltered network has it right, or its term under another attack. They shorten the visit where they
                predict the terms, and cannot make the class wrong. Only bets use them.
            bound: ``betting``, or ``serfling`` for the intersection of the two intervals of Bardenet and Maillard.

        Raises:
            UsageError: for settings out of range.
        """
        fits = known is None or (np.ndim(known) == 2 and len(known) == size and bool(np.isfinite(known).all()))
        sane = size >= 1 and bounds[0] < bounds[1] and 0 <= tau < math.inf and 0 < delta < 1 and fits
        if not sane or bound not in get_args(Bound):
            raise UsageError(
                f"size={size}, bounds={bounds}, tau={tau}, delta={delta}, bound={bound!r}, known of shape "
                f"{None if known is None else known.shape} cannot be used.",
                where="Sequential",
                advice="bounds rise, tau >= 0, 0 < delta < 1, known is finite with one row per sample.",
            )
        self.looks = looks(size)
        self.label: str | None = None
        self.used = 0
        self._size, self._bounds, self._tau, self._delta, self._bound = size, bounds, tau, delta, bound
        self._known = None if known is None else np.asarray(known, np.float64)
        self._values = np.empty(0)
        self._coefficients: np.ndarray | None = None
        self._blocks: list[Block] = []
        self._bets = {null: (self._bet(null, True), self._bet(null, False)) for null in (-tau, tau)}
        self._refuted = math.log(2 / delta)  # logarithm of the capital at which a mean is refuted, on either side
        self._interval = (-math.inf, math.inf)

    def update(self, values: np.ndarray) -> str | None:
        """See the terms of all samples visited so far.

        Args:
            values: (t,) terms in the order of visiting; what was seen before stands at the beginning.

        Returns:
            The class once it is decided (it does not change any more), else None.

        Raises:
            UsageError: for fewer values than before, more than there are samples, values out of bounds, or with
                ``serfling`` a count that is no look.
        """
        values = self._checked(values)
        new = values[self.used :]
        if self.label is not None or not len(new):
            return self.label
        predicted = None
        if self._known is not None and self._coefficients is not None:
            predicted = self._known[self.used :] @ self._coefficients
        block = block_of(new, self.used, float(self._values.sum()), self._size, self._bounds, predicted)
        self._values, self.used = values.copy(), len(values)
        if self._bound == "betting":
            self._blocks.append(block)
            for bet in itertools.chain.from_iterable(self._bets.values()):
                if bet.peak < self._refuted:
                    bet.play(block)
            if self._known is not None:  # what the next samples will be predicted by must not have seen them
                self._coefficients = _regression(self._known[: self.used], values)
        else:
            self._narrow(values)
        self.label = self._label()
        return self.label

    def interval(self) -> tuple[float, float]:
        """Interval that holds the score over all samples, with probability 1 - delta at all looks together."""
        if self.used == self._size:
            mean = float(self._values.mean())
            return mean, mean
        rest = self._size - self.used
        low, high = ((float(self._values.sum()) + rest * end) / self._size for end in self._bounds)
        if self._bound == "serfling":
            return max(low, self._interval[0]), min(high, self._interval[1])
        return self._end(low, high, True), self._end(high, low, False)

    def decision(self) -> Decision:
        """What is known by now.

        Returns:
            The class (``undecided`` before there is one), the estimate and its interval.
        """
        low, high = self.interval()
        estimate = float(self._values.mean()) if self.used else 0.5 * sum(self._bounds)
        if self._known is not None and self._coefficients is not None:
            ahead = self._known.mean(0) - self._known[: self.used].mean(0)
            estimate += float(ahead @ self._coefficients)
        score = min(max(estimate, low), high)
        return Decision(self.label or "undecided", score, low, high, self.used, self._size)

    def _label(self) -> str | None:
        if self.used == self._size:
            return label_of(*self.interval(), self._tau)
        if self._bound == "serfling":
            found = label_of(*self.interval(), self._tau)
            return None if found == "undecided" else found
        above, below = (
            {null: bets[side].peak >= self._refuted for null, bets in self._bets.items()} for side in (0, 1)
        )
        if below[-self._tau]:
            return "fragile"
        if above[self._tau]:
            return "antifragile"
        return "robust" if above[-self._tau] and below[self._tau] else None

    def _bet(self, null: float, upwards: bool) -> Bets:
        return Bets(null, upwards, self._size, self._bounds)

    def _end(self, refuted: float, kept: float, upwards: bool) -> float:
        """An end of the interval of all means not refuted, from outside, by halving."""
        inwards = max if upwards else min
        for null, bets in self._bets.items():
            if bets[0 if upwards else 1].peak >= self._refuted:
                refuted = inwards(refuted, math.nextafter(null, kept))  # refuted itself, so not in the interval
        for _ in range(HALVINGS):
            middle = 0.5 * (refuted + kept)
            bet = self._bet(middle, upwards)
            for block in self._blocks:
                bet.play(block)
            refuted, kept = (middle, kept) if bet.peak >= self._refuted else (refuted, middle)
        return refuted

    def _narrow(self, values: np.ndarray) -> None:
        width = self._bounds[1] - self._bounds[0]
        share = self._delta / (2 * len(self.looks))
        half = min(
            hoeffding_serfling(len(values), self._size, width, share),
            bernstein_serfling(values, self._size, width, share),
        )
        mean = float(values.mean())
        self._interval = max(self._interval[0], mean - half), min(self._interval[1], mean + half)

    def _checked(self, values: np.ndarray) -> np.ndarray:
        values = np.asarray(values, dtype=np.float64)
        low, high = self._bounds
        slack = 1e-9 * (high - low)
        fits = values.ndim == 1 and self.used <= len(values) <= self._size
        if not fits or not ((values >= low - slack) & (values <= high + slack)).all():
            raise UsageError(
                f"Terms of shape {np.shape(values)} do not follow {self.used} seen of {self._size} in "
                f"[{low:.4g}, {high:.4g}].",
                where="update",
                advice="Give the terms of all samples visited so far, of a bounded metric.",
            )
        if self._bound == "serfling" and len(values) not in self.looks:
            raise UsageError(
                f"{len(values)} samples are no look of the schedule.",
                where="update",
                advice="Look at the counts in `looks`, or use bound='betting', which allows any.",
            )
        return values


def decide(
    recordings: Mapping[str, Recording],
    baseline: Baseline,
    *,
    split: ScoreOf = "adversarial",
    reference: Reference = "compressed",
    rule: Rule = "simpson",
    tau: float = 0.02,
    delta: float = 0.05,
    bound: Bound = "betting",
    known: np.ndarray | None = None,
    order: np.ndarray | None = None,
    seed: int = 0,
) -> Decision:
    """The class of a unit from stored recordings, looking at no more samples than needed.

    With several filters the score is their mean.

    Args:
        recordings: by filter, right or wrong on all samples.
        baseline: the unfiltered network on the same samples.
        split: ``clean``, ``adversarial`` or ``difference``.
        reference: ``compressed`` or ``unfiltered``.
        rule: of integration.
        tau: half width of the class robust.
        delta: largest probability of a wrong class, over random orders.
        bound: ``betting`` or ``serfling``, see `Sequential`.
        known: (n, q) what else is known of every sample, in the order of the recordings, such as terms under the
            static attack when these are those of the adaptive one; added to what the baseline tells.
        order: (n,) order of visiting; None draws one by the baseline and the seed.
        seed: of the order.

    Returns:
        The class, the estimate, its interval, and how many samples it took.

    Raises:
        NumericalError: when the unfiltered network has nothing right.
        UsageError: for a metric that is not right or wrong, or parts that do not fit.

    Example:
        >>> baseline = Baseline(np.ones(5000, bool))
        >>> harmless = Recording(np.ones((3, 5000), bool), None, np.array([0.9, 0.5, 0.1]))
        >>> decision = decide({"high": harmless}, baseline, split="clean")
        >>> decision.label, decision.share < 0.1
        ('antifragile', True)
    """
    for name, recording in recordings.items():
        recording.check(baseline, name)
    terms = terms_of(
        baseline, {name: recording.density for name, recording in recordings.items()}, split=split,
        reference=reference, rule=rule,
    )  # fmt: skip
    values, size = terms.values(recordings), len(baseline.clean)
    if all(recording.no_op for recording in recordings.values()):
        score = float(values.mean())
        return Decision("no-op", score, score, score, 0, size)
    if order is None:
        order = sample_order(size, content_key(baseline.clean, baseline.adversarial, seed=0).hex(), seed)
    if not np.array_equal(np.sort(order), np.arange(size)):
        raise UsageError("The order is no permutation.", where="order", advice=f"Give 0..{size - 1}, each once.")
    columns = known_of(baseline) if known is None else np.concatenate([known_of(baseline), known], 1)
    watch = Sequential(size, terms.bounds, tau=tau, delta=delta, known=columns[order], bound=bound)
    for count in watch.looks:
        if watch.update(values[order[:count]]):
            break
    return watch.decision()


def _regression(known: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Coefficients by least squares around the means; columns that are constant or that others explain add none."""
    centred = known - known.mean(0)
    scale = np.sqrt((centred**2).mean(0))
    centred = centred / np.where(scale > 0, scale, 1.0)
    inverse = np.linalg.pinv(centred.T @ centred / len(values), rcond=1e-6, hermitian=True)
    return inverse @ (centred.T @ (values - values.mean()) / len(values)) / np.where(scale > 0, scale, 1.0)
