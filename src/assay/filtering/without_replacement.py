"""The mean of a finite population from samples drawn without replacement: intervals for one look, bets for any number.

A test set of n samples is visited in random order; how far may the mean so far be from the mean of all? Hoeffding's and
the empirical Bernstein inequality carry over, with a factor that falls to zero as the set is exhausted (Bardenet and
Maillard, Bernoulli 21, 2015). They hold at one sample size; several looks share the error probability.

Bets hold at all sample sizes at once and are tighter (Waudby-Smith and Ramdas, NeurIPS 2020, and JRSS B 86, 2024).
Were the mean of the population m, the next value would be worth m_t = (n m - sum so far) / (n - t) on average, so that
a gambler who stakes b_t on value - m_t has capital prod(1 + b_t (value_t - m_t)) of mean one, whatever b_t is made of.
By Ville's inequality it ever reaches 1 / delta with probability at most delta: there, m is refuted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

STAKES = np.geomspace(0.1, 8.0, 6)  # tried side by side, in units of 1 / range; the result hardly depends on them
LARGEST_LOSS = 0.9  # share of the capital that one value can cost


def hoeffding_serfling(count: int, size: int, width: float, delta: float) -> float:
    """Half width of a two-sided interval around the mean of `count` values (Bardenet, Maillard 2015, section 2).

    Args:
        count: values drawn, 1 to `size`.
        size: values in the population.
        width: largest minus smallest possible value.
        delta: probability to miss.

    Returns:
        The half width; 0 when all are drawn. Grade: bound, at one count fixed beforehand.

    Example:
        >>> hoeffding_serfling(100, 1000, 1.0, 0.05).__round__(4)
        0.1289
    """
    return width * math.sqrt(left_over(count, size) * math.log(2 / delta) / (2 * count))


def bernstein_serfling(values: np.ndarray, size: int, width: float, delta: float) -> float:
    """Half width by the deviation of the values drawn (Bardenet, Maillard 2015, section 4).

    Args:
        values: (t,) values drawn.
        size: values in the population.
        width: largest minus smallest possible value.
        delta: probability to miss.

    Returns:
        The half width; narrower than Hoeffding's where there are many values that scatter little. Grade: bound.
    """
    count = len(values)
    if count == size:
        return 0.0
    logarithm = math.log(10 / delta)
    scatter = float(np.std(values)) * math.sqrt(2 * left_over(count, size) * logarithm / count)
    return scatter + (7 / 3 + 3 / math.sqrt(2)) * width * logarithm / count


def left_over(count: int, size: int) -> float:
    """Serfling's factor rho: how much of the variance is left after drawing `count` of `size` without replacement."""
    return 1 - (count - 1) / size if count <= size / 2 else (1 - count / size) * (1 + 1 / count)


@dataclass(frozen=True, eq=False)
class Block:
    """Some values drawn one after the other, and what was known before each of them.

    Attributes:
        values: (b,) values, less their prediction, plus the mean prediction of all that were left.
        past: (b,) sum of the values drawn before.
        left: (b,) number of values not drawn before.
        low: (b,) smallest possible of `values`.
        high: (b,) largest possible.
        total: sum of all values drawn, these included.
    """

    values: np.ndarray
    past: np.ndarray
    left: np.ndarray
    low: np.ndarray
    high: np.ndarray
    total: float


def block_of(
    values: np.ndarray, start: int, past: float, size: int, bounds: tuple[float, float], predicted: np.ndarray | None
) -> Block:
    """A block; predictions make its values scatter less and leave their mean under any hypothesis as it is.

    Args:
        values: (b,) values drawn.
        start: number of values drawn before.
        past: their sum.
        size: values in the population.
        bounds: smallest and largest possible value.
        predicted: (size - start,) predictions of the values left, in the order of drawing, made before these were
            seen; None for none.

    Returns:
        The block.
    """
    count = len(values)
    left = size - start - np.arange(count)
    sums = past + np.concatenate([[0.0], np.cumsum(values)])
    low, high = (np.full(count, bound) for bound in bounds)
    if predicted is not None:
        drawn = predicted[:count]
        average = (predicted.sum() - np.concatenate([[0.0], np.cumsum(drawn)[:-1]])) / left
        values = values - drawn + average
        low, high = low - predicted.max() + average, high - predicted.min() + average
    return Block(values, sums[:-1], left, low, high, float(sums[-1]))


class Bets:
    """Capital of bets against one mean: that the population's is larger (`upwards`) or smaller than this one.

    Several stakes run side by side and share the capital equally. They grow as the population runs out, where the next
    value depends ever more on the mean supposed.

    Attributes:
        null: the mean that is bet against.
        upwards: whether a larger mean earns.
        peak: largest logarithm of the capital at the end of any block; infinite when the mean has become impossible.
    """

    def __init__(self, null: float, upwards: bool, size: int, bounds: tuple[float, float]) -> None:
        self.null, self.upwards = null, upwards
        self.peak = 0.0
        self._size, self._bounds = size, bounds
        self._logarithms = np.zeros(len(STAKES))

    def play(self, block: Block) -> float:
        """Bet on the values of a block.

        Args:
            block: the next values.

        Returns:
            The logarithm of the capital afterwards.
        """
        low, high = self._bounds
        supposed = (self._size * self.null - block.past) / block.left
        gain = block.values - supposed if self.upwards else supposed - block.values
        worst = supposed - block.low if self.upwards else block.high - supposed
        limit = np.where(worst > 0, LARGEST_LOSS / np.where(worst > 0, worst, 1.0), np.inf)
        stakes = STAKES[:, None] / (high - low) * (self._size / block.left)
        self._logarithms += np.log1p(np.minimum(stakes, limit) * gain).sum(1)
        top = self._logarithms.max()
        capital = float(top + np.log(np.exp(self._logarithms - top).mean()))
        if self._impossible(block):
            capital = math.inf
        self.peak = max(self.peak, capital)
        return capital

    def _impossible(self, block: Block) -> bool:
        """Whether the values left cannot bring the mean to the null, wherever in their bounds they are."""
        low, high = self._bounds
        rest = int(block.left[-1]) - 1
        slack = 1e-9 * (high - low) * self._size  # rounding must not refute
        if self.upwards:
            return self._size * self.null < block.total + rest * low - slack
        return self._size * self.null > block.total + rest * high + slack
