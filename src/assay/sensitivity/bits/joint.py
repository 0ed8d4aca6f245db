"""Errors of different layers add as vectors: the joint prediction ||sum_l J dW_l||^2, and choosing formats by it.

Scores that are added up treat the layers' errors as uncorrelated. They are not: both are known numbers, seen through
the same network at the same inputs, and in small networks they cancel or reinforce each other by tens of percent. One
linearisation gives the vectors J dW of every layer and format, so their Gram matrix G predicts the error of *any*
combination: the sum of G over all pairs of chosen options. Choosing by it is a quadratic knapsack; from the exact
solution of the additive one, exchanges of one or two layers' formats are made for as long as they help.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from assay.errors import UsageError


@dataclass(frozen=True, eq=False)
class Joint:
    """A choice of one option per group with pairwise values and several limited resources.

    Attributes:
        gram: (R, R) inner products of the options' error vectors, options of all groups in a row.
        groups: (R,) group of each option, ascending.
        costs: (C, R) what each option costs of each resource; inf forbids it.
    """

    gram: np.ndarray
    groups: np.ndarray
    costs: np.ndarray

    @property
    def starts(self) -> np.ndarray:
        """Row of every group's first option."""
        return np.flatnonzero(np.diff(self.groups, prepend=-1))

    def value(self, options: ArrayLike) -> float:
        """Predicted value of a choice: the squared norm of the summed error vectors."""
        rows = self.starts + np.asarray(options)
        return max(0.0, float(self.gram[np.ix_(rows, rows)].sum()))

    def cost(self, options: ArrayLike) -> np.ndarray:
        """(C,) what a choice costs."""
        return self.costs[:, self.starts + np.asarray(options)].sum(1)

    def refined(self, options: Sequence[int], capacities: Sequence[float], *, rounds: int = 1000) -> tuple[int, ...]:
        """A choice no worse than `options`, from which no change of one or two groups within the budget is better.

        Args:
            options: where to start; must fit.
            capacities: (C,) how much of each resource there is.
            rounds: most exchanges made.

        Returns:
            The options, one per group. Not proven the best: the quadratic problem is hard.

        Raises:
            UsageError: when the start does not fit.
        """
        starts, group = self.starts, self.groups
        slack_factor = 1 + 1e-9
        room = np.asarray(capacities, dtype=np.float64) * slack_factor
        chosen = np.asarray(options).copy()
        if (self.cost(chosen) > room).any() or not np.isfinite(self.cost(chosen)).all():
            raise UsageError("The choice to start from exceeds the budget.", where="budget")
        diagonal = np.diag(self.gram)
        for _ in range(rounds):
            rows = starts + chosen
            current = rows[group]  # of each option, the chosen row of its group
            pull = self.gram[:, rows].sum(1)
            single = (
                2 * (pull - pull[current])
                + diagonal
                + diagonal[current]
                - 2 * self.gram[np.arange(len(group)), current]
            )
            crossed = self.gram[:, current]
            pairs = (
                single[:, None] + single + 2 * (self.gram - crossed - crossed.T + self.gram[np.ix_(current, current)])
            )
            pairs[group[:, None] == group] = np.inf
            np.fill_diagonal(pairs, single)
            extra = self.costs - self.costs[:, current]
            left = room - self.costs[:, rows].sum(1)
            for more, free in zip(extra, left, strict=True):
                total = more[:, None] + more
                np.fill_diagonal(total, more)
                pairs[~(total <= free)] = np.inf
            best = int(pairs.argmin())
            first, second = divmod(best, len(group))
            if not pairs[first, second] < -1e-9 * abs(float(self.gram[np.ix_(rows, rows)].sum())):
                break
            for row in (first, second):
                chosen[group[row]] = row - starts[group[row]]
        return tuple(int(option) for option in chosen)
