"""Filtering scores, their intervals, and the classes fragile, robust and antifragile, from recorded samples alone.

With p(s) the performance at stress s in [0, 1], relative to the unfiltered network, and rho(s) the share of weights
left, the scores of Pravin, Martino, Nicosia, Ojha (Artificial Intelligence 327, 2024, 104060) are

    S_clean = int p_clean - r,   S_adversarial = int p_adversarial - r,   S_difference = int p_adversarial - p_clean,

where the reference r is rho (``compressed``: performance against what is left of the unit) or 1 (``unfiltered``).
Integrals run over rising stress for every filter. Scores are exact for the samples at hand; intervals are sampled.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from assay.errors import NumericalError, UsageError
from assay.filtering.bootstrap import content_key, interval, resampled_means
from assay.filtering.recording import Baseline, Recording, Split
from assay.grade import Grade
from assay.results import Displayed

Rule = Literal["simpson", "trapezoid", "mean"]
Normaliser = Literal["unfiltered", "first"]
Denominator = Literal["resampled", "fixed"]
Reference = Literal["compressed", "unfiltered"]
REFERENCES: tuple[Reference, ...] = get_args(Reference)
SPLITS: tuple[Split, ...] = get_args(Split)
FEW = 30  # correct samples below which the normaliser itself is noise


@dataclass(frozen=True)
class Score:
    """One score.

    Attributes:
        filter: name of the filter, or ``mean`` over the filters recorded.
        split: ``clean``, ``adversarial`` or ``difference``.
        reference: ``compressed`` or ``unfiltered``; the difference is the same for both.
        score: the score; NaN for a degenerate tensor.
        low: lower end of its interval.
        high: upper end.
        label: ``fragile``, ``robust``, ``antifragile`` or ``undecided``; ``no-op`` where the filter changed no weight,
            ``degenerate`` where the unit has only one value.
        removed: share of the unit's weights removed, averaged over thresholds.

    Example:
        >>> Score("mean", "clean", "compressed", 0.2, 0.1, 0.3, "antifragile", 0.5).grade
        <Grade.SAMPLED: 'sampled'>
    """

    filter: str
    split: str
    reference: str
    score: float
    low: float
    high: float
    label: str
    removed: float

    @property
    def grade(self) -> Grade:
        """Measured on a sample."""
        return Grade.SAMPLED


@dataclass(frozen=True)
class UnitScores(Displayed):
    """All scores of one unit.

    Attributes:
        rows: one per filter (then the mean), split and reference.
        warnings: what the reader must know, such as too few correct samples.
    """

    rows: tuple[Score, ...]
    warnings: tuple[str, ...] = ()

    def get(self, filter: str, split: str, reference: Reference = "compressed") -> Score:
        """One score.

        Returns:
            The row.

        Raises:
            UsageError: when it was not recorded.
        """
        for row in self.rows:
            if (row.filter, row.split, row.reference) == (filter, split, reference):
                return row
        raise UsageError(f"There is no score {filter}, {split}, {reference}.", where="scores", advice="See rows.")


def score(
    recordings: Mapping[str, Recording],
    baseline: Baseline,
    *,
    rule: Rule = "simpson",
    normalise: Normaliser = "unfiltered",
    tau: float = 0.02,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
    denominator: Denominator = "resampled",
    degenerate: bool = False,
) -> UnitScores:
    """Scores, bootstrap intervals and classes of one unit; no network is run.

    Performance is mean / baseline mean, or baseline mean / mean where lower is better. Intervals are percentile
    intervals over resampled samples, the same resamples for every filter and unit. With ``resampled`` the baseline is
    resampled along: a filter that changes no decision has an interval of width zero. With ``fixed`` it is a constant,
    as for z_i = sum_k c_k (v_i(s_k) / baseline - r_k): wider, since the baseline's own noise stays in.

    Args:
        recordings: by filter name, on the samples of the baseline.
        baseline: the unfiltered network.
        rule: ``simpson`` (composite; needs an odd number of thresholds), ``trapezoid`` or ``mean``.
        normalise: what p is relative to: the ``unfiltered`` network, or that at the ``first`` threshold.
        tau: half width of the class robust.
        level: probability that an interval covers.
        draws: bootstrap resamples.
        seed: of the resamples, together with the values of the baseline.
        denominator: ``resampled`` or ``fixed``, see above.
        degenerate: the unit has only one value; its scores are NaN.

    Returns:
        Scores of every filter and of their mean.

    Raises:
        NumericalError: where performance is undefined: a baseline of zero, or an error of zero under a filter.
        UsageError: for recordings that do not fit the baseline, or settings out of range.

    Example:
        >>> baseline = Baseline(np.ones(4, bool))
        >>> halves = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]], bool)
        >>> result = score({"high": Recording(halves, None, np.array([1, 0.5, 0]))}, baseline)
        >>> result.get("high", "clean").score, result.get("high", "clean", "unfiltered").score
        (0.0, -0.5)
    """
    _check(recordings, baseline, tau, level, draws, normalise, denominator)
    splits: list[Split] = [split for split in SPLITS if baseline.split(split) is not None]
    cells = {(name, split): _Cell(recordings[name], baseline, split, rule, normalise) for name in recordings
             for split in splits}  # fmt: skip
    columns = np.concatenate([cell.columns for cell in cells.values()], 1)
    key = content_key(baseline.clean, baseline.adversarial, seed=seed)
    means = resampled_means(columns, draws, key)
    ends = np.cumsum([cell.columns.shape[1] for cell in cells.values()])
    for cell, part in zip(cells.values(), np.split(means, ends[:-1], 1), strict=True):
        cell.resample(part, fixed=denominator == "fixed")

    rows: list[Score] = []
    figures: dict[tuple[str, str, str], list[tuple[float, np.ndarray]]] = {}
    for name in [*recordings, "mean"]:
        for split in [*splits, *(["difference"] if len(splits) == 2 else [])]:
            for reference in REFERENCES:
                if name != "mean":
                    figure = _figure(cells, name, split, reference)
                    figures.setdefault(("mean", split, reference), []).append(figure)
                    used = [recordings[name]]
                else:
                    values, drawn = zip(*figures["mean", split, reference], strict=True)
                    figure = float(np.mean(values)), np.mean(drawn, axis=0)
                    used = list(recordings.values())
                rows.append(_row(name, split, reference, figure, used, tau, level, degenerate))
    return UnitScores(tuple(rows), tuple(_warnings(baseline, cells)))


def quadrature(n: int, rule: Rule = "simpson") -> np.ndarray:
    """Weights of n evenly spaced points on [0, 1], in order of rising stress; they sum to 1.

    Args:
        n: number of points.
        rule: ``simpson``: h / 3 (1, 4, 2, ..., 4, 1) with h = 1 / (n - 1); ``trapezoid``; ``mean``: all equal.

    Returns:
        (n,) float64.

    Raises:
        UsageError: for an unknown rule, too few points, or an even number of them for Simpson's.

    Example:
        >>> (quadrature(5) * 12).round(12).tolist()
        [1.0, 4.0, 2.0, 4.0, 1.0]
    """
    if rule not in get_args(Rule):
        raise UsageError(f"There is no rule {rule!r}.", where="rule", advice="Use 'simpson', 'trapezoid' or 'mean'.")
    if n < (1 if rule == "mean" else 2) or (rule == "simpson" and n % 2 == 0):
        raise UsageError(
            f"The rule {rule!r} cannot integrate over {n} thresholds.",
            where="n",
            advice="Simpson's rule needs an odd number, at least 3; the trapezoid at least 2.",
        )
    if rule == "mean":
        return np.full(n, 1 / n)
    if rule == "trapezoid":
        return np.r_[0.5, np.ones(n - 2), 0.5] / (n - 1)
    return np.r_[1.0, np.tile([4.0, 2.0], (n - 1) // 2)[:-1], 1.0] / (3 * (n - 1))


def label_of(low: float, high: float, tau: float) -> str:
    """Class of a score by its interval: fragile below -tau, robust within, antifragile above; else undecided.

    Returns:
        The class; undecided when the interval holds values of two classes.

    Example:
        >>> [label_of(*ends, 0.02) for ends in [(-0.3, -0.1), (-0.02, 0.02), (0.03, 0.04), (0.01, 0.04)]]
        ['fragile', 'robust', 'antifragile', 'undecided']
    """
    if high < -tau:
        return "fragile"
    if low > tau:
        return "antifragile"
    return "robust" if -tau <= low and high <= tau else "undecided"


def performance(
    recording: Recording, baseline: Baseline, split: Split, normalise: Normaliser = "unfiltered"
) -> np.ndarray:
    """p(s): performance at every threshold relative to the unfiltered network, or to the first threshold.

    Args:
        recording: of one filter.
        baseline: the unfiltered network.
        split: ``clean`` or ``adversarial``.
        normalise: ``unfiltered`` or ``first``.

    Returns:
        (n,) float64; 1 is as good as the network it is relative to, more is better.

    Raises:
        NumericalError: where it is undefined.
    """
    values, base = recording.split(split), baseline.split(split)
    assert values is not None
    assert base is not None
    base = base if normalise == "unfiltered" else values[0]
    level, means = float(base.mean(dtype=np.float64)), values.mean(1, dtype=np.float64)
    if not level > 0:
        raise NumericalError(
            f"The {split} performance of the network that others are compared with is {level:.4g}, so that a relative "
            "performance does not exist.",
            where=f"baseline, {split}",
            advice="Choose a smaller epsilon, so that the attack leaves some samples right."
            if split == "adversarial"
            else "Check the model and its labels, or choose a metric that is positive.",
        )
    if baseline.higher_is_better:
        return means / level
    if not (means > 0).all():
        raise NumericalError(
            "The error is not positive under a filter, so that a relative performance does not exist.",
            where=f"{split}, threshold {int(np.argmin(means))}",
            advice="Choose a metric that is positive, or one for which higher is better.",
        )
    return level / means


class _Cell:
    """One filter on one split: performances, the columns to resample, and what resampling gives."""

    def __init__(
        self, recording: Recording, baseline: Baseline, split: Split, rule: Rule, normalise: Normaliser
    ) -> None:
        values, base = recording.split(split), baseline.split(split)
        assert values is not None
        assert base is not None
        self.performance = performance(recording, baseline, split, normalise)
        self.weights = quadrature(len(values), rule)
        self.density = recording.density
        self.linear = baseline.higher_is_better
        base = (base if normalise == "unfiltered" else values[0]).astype(np.float64)
        self.level = base.mean()
        # Differences from the baseline, so that decisions that do not change give exactly zero.
        change = values.astype(np.float64) - base
        self.columns = np.stack([self.weights @ change, base] if self.linear else [*change, base], 1)
        self.drawn = np.empty(0)

    def score(self, reference: Reference) -> float:
        """The integral of performance minus reference."""
        left = self.density if reference == "compressed" else 1.0
        return float(self.weights @ (self.performance - left))

    def resample(self, means: np.ndarray, *, fixed: bool) -> None:
        """Keep the draws of the integral of p - 1, from resampled means of the columns."""
        change, base = means[:, :-1], means[:, -1:]
        with np.errstate(divide="ignore", invalid="ignore"):
            if self.linear:
                drawn = (change + base) / self.level - 1 if fixed else change / base
                self.drawn = drawn[:, 0]
            else:
                current = change + base
                ratio = self.level / current - 1 if fixed else -change / current
                self.drawn = ratio @ self.weights

    def draws(self, reference: Reference) -> np.ndarray:
        """Draws of the score."""
        return self.drawn + (float(self.weights @ (1 - self.density)) if reference == "compressed" else 0.0)


def _figure(
    cells: Mapping[tuple[str, str], _Cell], name: str, split: str, reference: Reference
) -> tuple[float, np.ndarray]:
    if split != "difference":
        cell = cells[name, split]
        return cell.score(reference), cell.draws(reference)
    clean, attacked = cells[name, "clean"], cells[name, "adversarial"]
    value = float(clean.weights @ (attacked.performance - clean.performance))
    return value, attacked.drawn - clean.drawn


def _row(
    name: str,
    split: str,
    reference: str,
    figure: tuple[float, np.ndarray],
    used: list[Recording],
    tau: float,
    level: float,
    degenerate: bool,
) -> Score:
    value, drawn = figure
    removed = float(np.mean([recording.removed for recording in used]))
    if degenerate:
        return Score(name, split, reference, math.nan, math.nan, math.nan, "degenerate", removed)
    low, high = interval(drawn, value, level)
    label = "no-op" if all(recording.no_op for recording in used) else label_of(low, high, tau)
    return Score(name, split, reference, value, low, high, label, removed)


def _check(
    recordings: Mapping[str, Recording],
    baseline: Baseline,
    tau: float,
    level: float,
    draws: int,
    normalise: str,
    denominator: str,
) -> None:
    if not recordings or "mean" in recordings:
        raise UsageError(
            "Scores need recordings by the name of their filter.", where="recordings", advice="'mean' is not a filter."
        )
    for name, recording in recordings.items():
        recording.check(baseline, name)
    known = normalise in get_args(Normaliser) and denominator in get_args(Denominator)
    if not (known and 0 <= tau < math.inf and 0 < level < 1 and draws >= 1):
        raise UsageError(
            f"normalise={normalise!r}, denominator={denominator!r}, tau={tau}, level={level}, draws={draws} cannot "
            "be used.",
            where="score",
            advice="normalise is 'unfiltered' or 'first', denominator 'resampled' or 'fixed', tau >= 0, 0 < level < 1, "
            "draws >= 1.",
        )


def _warnings(baseline: Baseline, cells: Mapping[tuple[str, str], _Cell]) -> list[str]:
    found: list[str] = []
    for split in SPLITS:
        values = baseline.split(split)
        if values is None or not baseline.higher_is_better or not np.isin(values, (0, 1)).all():
            continue
        correct = int(values.sum())
        if correct < FEW:
            found.append(
                f"Only {correct} {split} samples are right without a filter: scores relative to them are noisy. "
                "Use more samples or a smaller epsilon."
            )
    if any(not np.isfinite(cell.drawn).all() for cell in cells.values()):
        found.append("Some resamples held no sample that is right: their intervals are unbounded.")
    return found
