"""From scores and a budget to formats: the exact knapsack first, then exchanges by the joint prediction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from assay.errors import UsageError
from assay.sensitivity.bits.budget import Budget
from assay.sensitivity.bits.joint import Joint
from assay.sensitivity.bits.knapsack import Knapsack
from assay.sensitivity.bits.problem import Problem
from assay.sensitivity.bits.scores import Scores

LAYER_ERROR = 0.3
"""Predicted relative output error of one option alone beyond which first-order sums are not to be trusted."""


@dataclass(frozen=True)
class Point:
    """One point of the Pareto curve.

    Attributes:
        cost: in the unit of the budget.
        predicted: relative output error, or the summed score where that is not predicted.
        options: one per group.
    """

    cost: float
    predicted: float
    options: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Chooser:
    """Chooses options of a problem by scores.

    Attributes:
        problem: groups and options.
        scores: of the options.
        budget: costs and capacities.
        layer_error: options whose own predicted relative output error is larger are forbidden, except the best of
            their group.
    """

    problem: Problem
    scores: Scores
    budget: Budget
    layer_error: float = LAYER_ERROR

    @cached_property
    def forbidden(self) -> np.ndarray:
        """(R,) options left out because the prediction would not hold for them."""
        rows, relative = self.problem.rows, self.scores.relative
        if relative is None:
            return np.zeros(len(rows), dtype=bool)
        out = relative > self.layer_error
        for group in range(len(self.problem.groups)):
            members = np.flatnonzero(rows == group)
            if out[members].all():
                out[members[np.argmin(relative[members])]] = False
        return out

    @cached_property
    def joint(self) -> Joint:
        """The quadratic problem; diagonal where scores are only added."""
        gram = np.diag(self.scores.values) if self.scores.gram is None else self.scores.gram
        costs = np.where(self.forbidden, np.inf, self.budget.costs)
        return Joint(gram, self.problem.rows, costs)

    @cached_property
    def _knapsacks(self) -> list[tuple[np.ndarray, Knapsack]]:
        """One per resource: its groups, and their options."""
        rows, costs = self.problem.rows, self.budget.costs
        values = np.where(self.forbidden, np.inf, self.scores.values)
        found = []
        home = np.zeros(len(self.problem.groups), dtype=int)
        for group in range(len(home)):
            spent = costs[:, rows == group]
            home[group] = int(np.argmax(np.where(np.isfinite(spent), spent, 0).sum(1)))
        for resource in range(len(costs)):
            groups = np.flatnonzero(home == resource)
            if len(groups):
                members = [rows == group for group in groups]
                found.append(
                    (groups, Knapsack(tuple(costs[resource][m] for m in members), tuple(values[m] for m in members)))
                )
        return found

    def additive(self, capacities: Sequence[float]) -> tuple[int, ...]:
        """The proven best choice when scores add up.

        Args:
            capacities: (C,) how much of each resource there is.

        Returns:
            One option per group.

        Raises:
            UsageError: when nothing fits.
        """
        options = np.zeros(len(self.problem.groups), dtype=int)
        for (groups, knapsack), capacity in zip(self._knapsacks, capacities, strict=True):
            options[groups] = knapsack.cheapest_within(capacity).options
        return tuple(int(option) for option in options)

    def best(self, capacities: Sequence[float], *starts: Sequence[int]) -> tuple[int, ...]:
        """The choice of least joint prediction found, from the additive solution and from other starts that fit."""
        candidates = [self.additive(capacities), *(tuple(start) for start in starts)]
        if self.scores.gram is None:
            return candidates[0]
        room = np.asarray(capacities) * (1 + 1e-9)
        fitting = [options for options in candidates if (self.joint.cost(options) <= room).all()]
        found = [self.joint.refined(options, capacities) for options in dict.fromkeys(fitting)]
        return min(found, key=self.joint.value)

    def predicted(self, options: Sequence[int]) -> float:
        """Predicted relative output error of a choice; the summed score where that cannot be said."""
        value = self.joint.value(options)
        if self.scores.method in ("joint", "logit") and self.scores.outputs is not None:
            return float(np.sqrt(value / float(self.scores.outputs.double().square().sum(1).mean())))
        if self.scores.relative is not None:
            rows = self.joint.starts + np.asarray(options)
            return float(np.sqrt((self.scores.relative[rows] ** 2).sum()))
        return value

    def cost(self, options: Sequence[int]) -> float:
        """Cost of a choice in the unit of the budget."""
        return float(self.budget.costs[0, self.joint.starts + np.asarray(options)].sum())

    def uniforms(self) -> list[tuple[int, ...]]:
        """Choices with one format for all weights and one for all activations, by ascending cost.

        They are candidates whatever the prediction says of them: what they do is measured.

        Returns:
            The choices.
        """
        groups = self.problem.groups
        weights = range(len(self.problem.formats))
        stored = range(max((len(formats) for formats in self.problem.activations.values()), default=1))
        found = [
            tuple(w if group.kind == "weights" else min(a, len(group.formats) - 1) for group in groups)
            for w in weights
            for a in stored
        ]
        found = [options for options in dict.fromkeys(found) if np.isfinite(self._costs(options)).all()]
        return sorted(found, key=lambda options: tuple(self._costs(options)))

    def fits(self, options: Sequence[int]) -> bool:
        """Whether a choice is within the capacities."""
        return bool((self._costs(options) <= self.budget.capacities * (1 + 1e-9)).all())

    def _costs(self, options: Sequence[int]) -> np.ndarray:
        return self.budget.costs[:, self.joint.starts + np.asarray(options)].sum(1)

    def pareto(self, points: int = 33) -> tuple[Point, ...]:
        """Predicted error against cost: no point is beaten by another in both.

        Args:
            points: budgets tried, evenly spread between the cheapest and the most expensive choice.

        Returns:
            Points by ascending cost.
        """
        first = self.joint.costs[0]
        per_group = [first[self.problem.rows == group] for group in range(len(self.problem.groups))]
        low = sum(float(row[np.isfinite(row)].min()) for row in per_group)
        high = sum(float(row[np.isfinite(row)].max()) for row in per_group)
        found: list[Point] = []
        previous: tuple[int, ...] = ()
        for capacity in np.linspace(low, high, points):
            try:
                options = self.best([capacity, *self.budget.capacities[1:]], *([previous] if previous else []))
            except UsageError:  # a second resource may be short
                continue
            point = Point(self.cost(options), self.predicted(options), options)
            previous = options
            while found and found[-1].predicted >= point.predicted and found[-1].cost >= point.cost:
                found.pop()
            if not found or point.predicted < found[-1].predicted:
                found.append(point)
        return tuple(found)
