"""One choice per layer: the multiple-choice knapsack behind a bit plan, solved exactly.

Every group (a layer) offers options (formats), each with a cost (bits, bytes, seconds) and a value (predicted squared
error). Costs add up, values add up. Small problems are solved for all budgets at once, by merging groups one by one and
keeping what nothing else beats in both cost and value; large ones by SciPy's mixed-integer solver (HiGHS), which proves
that its answer is the best.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from math import prod

import numpy as np

from assay.errors import UsageError

STATES = 30_000
"""Most choices kept while groups are merged; beyond, the solver takes over."""
_ENUMERATED = 200
_MERGED = 100  # groups up to which merging is tried: it answers every budget at once


@dataclass(frozen=True)
class Choice:
    """One option per group.

    Attributes:
        options: index of the option of every group.
        cost: sum of the costs.
        value: sum of the values.
    """

    options: tuple[int, ...]
    cost: float
    value: float


@dataclass(frozen=True, eq=False)
class Knapsack:
    """A multiple-choice knapsack problem.

    Attributes:
        costs: one array per group, a cost per option, not negative; inf forbids an option.
        values: one array per group, what to make small; inf forbids an option.
    """

    costs: tuple[np.ndarray, ...]
    values: tuple[np.ndarray, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "costs", tuple(np.asarray(row, dtype=np.float64) for row in self.costs))
        object.__setattr__(self, "values", tuple(np.asarray(row, dtype=np.float64) for row in self.values))
        if len(self.costs) != len(self.values) or not self.costs:
            raise UsageError("A knapsack needs costs and values for the same groups, at least one.", where="costs")
        for group, (cost, value) in enumerate(zip(self.costs, self.values, strict=True)):
            if cost.shape != value.shape or cost.ndim != 1:
                raise UsageError(
                    f"Costs {cost.shape} and values {value.shape} differ in shape.", where=f"group {group}"
                )
            if np.isnan(cost).any() or np.isnan(value).any() or (cost < 0).any():
                raise UsageError("Costs and values must be numbers, costs not negative.", where=f"group {group}")
            if not (np.isfinite(cost) & np.isfinite(value)).any():
                raise UsageError(
                    "Every option of a group is forbidden.",
                    where=f"group {group}",
                    advice="Offer a finer format, or allow a larger error of a single layer.",
                )

    @cached_property
    def _open(self) -> tuple[np.ndarray, ...]:
        """Indices of the options of every group that are allowed and that no other option of the group beats."""
        kept = []
        for cost, value in zip(self.costs, self.values, strict=True):
            allowed = np.flatnonzero(np.isfinite(cost) & np.isfinite(value))
            kept.append(allowed[_undominated(cost[allowed], value[allowed])])
        return tuple(kept)

    def choice(self, options: Sequence[int]) -> Choice:
        """Cost and value of given options."""
        cost = sum(float(row[option]) for row, option in zip(self.costs, options, strict=True))
        value = sum(float(row[option]) for row, option in zip(self.values, options, strict=True))
        return Choice(tuple(int(option) for option in options), cost, value)

    def cheapest_within(self, capacity: float, *, method: str = "auto") -> Choice:
        """The choice of least value whose cost is at most `capacity`.

        Args:
            capacity: the budget.
            method: ``merge``, ``milp``, ``enumerate`` or ``auto``.

        Returns:
            The choice; proven best.

        Raises:
            UsageError: when no choice fits.
        """
        return self._solve(self.costs, self.values, capacity, method, minimise_cost=False)

    def smallest_with(self, allowed: float, *, method: str = "auto") -> Choice:
        """The choice of least cost whose value is at most `allowed`; arguments and errors as in `cheapest_within`."""
        return self._solve(self.values, self.costs, allowed, method, minimise_cost=True)

    def frontier(self, *, points: int = 64) -> tuple[Choice, ...]:
        """The Pareto curve: every choice that no other beats in both cost and value, by ascending cost.

        Exact and complete where merging stays below `STATES` choices; otherwise the exact answers for `points` budgets
        spread over the range of costs.

        Args:
            points: how many budgets are solved where the full curve is too large.

        Returns:
            The choices.
        """
        merged = self._merged
        if merged is not None:
            return tuple(self.choice(row) for row in merged[2])
        low = sum(float(cost[kept].min()) for cost, kept in zip(self.costs, self._open, strict=True))
        high = sum(float(cost[kept].max()) for cost, kept in zip(self.costs, self._open, strict=True))
        found: list[Choice] = []
        for capacity in np.linspace(low, high, points):
            choice = self.cheapest_within(float(capacity), method="milp")
            if not found or (choice.value < found[-1].value and choice.cost > found[-1].cost):
                found.append(choice)
        return tuple(found)

    @cached_property
    def _merged(self) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """Costs, values, options of the whole Pareto curve by merging groups; None where too many choices survive."""
        cost, value = np.zeros(1), np.zeros(1)
        trail: list[tuple[np.ndarray, np.ndarray]] = []  # per group: option and predecessor of every kept choice
        for costs, values, kept in zip(self.costs, self.values, self._open, strict=True):
            if len(cost) * len(kept) > 20 * STATES:
                return None
            total_cost = (cost[:, None] + costs[kept][None, :]).ravel()
            total_value = (value[:, None] + values[kept][None, :]).ravel()
            best = _undominated(total_cost, total_value)
            if len(best) > STATES:
                return None
            cost, value = total_cost[best], total_value[best]
            trail.append((kept[best % len(kept)], best // len(kept)))
        options = np.empty((len(cost), len(trail)), dtype=np.int64)
        place = np.arange(len(cost))
        for group in reversed(range(len(trail))):
            option, before = trail[group]
            options[:, group] = option[place]
            place = before[place]
        return cost, value, options

    def _solve(
        self,
        limited: tuple[np.ndarray, ...],
        objective: tuple[np.ndarray, ...],
        capacity: float,
        method: str,
        *,
        minimise_cost: bool,
    ) -> Choice:
        if method not in ("auto", "merge", "milp", "enumerate"):
            raise UsageError(f"Unknown method {method!r}.", where="method", advice="auto, merge, milp or enumerate.")
        room = capacity + 1e-9 * max(1.0, abs(capacity)) * (capacity != 0)  # sums of fractions are off by round-off
        least = sum(float(row[kept].min()) for row, kept in zip(limited, self._open, strict=True))
        if least > room:
            raise UsageError(
                f"The budget of {capacity:.6g} cannot be met: the least possible is {least:.6g}.",
                where="budget",
                advice="Raise the budget, or offer coarser (finer) formats.",
            )
        if method == "enumerate" or (method == "auto" and prod(len(kept) for kept in self._open) <= _ENUMERATED):
            return self._enumerated(limited, objective, room)
        small = len(self.costs) <= _MERGED or "_merged" in vars(self)
        merged = self._merged if method == "merge" or (method == "auto" and small) else None
        if merged is None:
            return self.choice(_milp(limited, objective, self._open, room))
        costs, values, options = merged  # costs ascend, values fall
        if minimise_cost:
            return self.choice(options[int(np.argmax(values <= room))])
        return self.choice(options[int(np.searchsorted(costs, room, side="right")) - 1])

    def _enumerated(self, limited: Sequence[np.ndarray], objective: Sequence[np.ndarray], room: float) -> Choice:
        best: tuple[float, float] | None = None
        chosen: tuple[int, ...] = ()
        for options in product(*(kept.tolist() for kept in self._open)):
            used = sum(float(row[option]) for row, option in zip(limited, options, strict=True))
            if used <= room:
                rank = (sum(float(row[option]) for row, option in zip(objective, options, strict=True)), used)
                if best is None or rank < best:
                    best, chosen = rank, options
        return self.choice(chosen)


def _undominated(cost: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Indices of the pairs that none beats in both, by ascending cost and falling value."""
    order = np.lexsort((value, cost))
    running = np.minimum.accumulate(value[order])
    first = np.ones(len(order), dtype=bool)
    first[1:] = running[1:] < running[:-1]
    return order[first]


def _milp(
    limited: Sequence[np.ndarray], objective: Sequence[np.ndarray], open_options: Sequence[np.ndarray], room: float
) -> list[int]:
    """Options that minimise the objective within the limit, by SciPy's branch and bound (HiGHS)."""
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import block_diag, csr_array

    weights = np.concatenate([row[kept] for row, kept in zip(objective, open_options, strict=True)])
    limits = np.concatenate([row[kept] for row, kept in zip(limited, open_options, strict=True)])
    scale = max(float(np.abs(weights).max()), 1e-300)  # squared errors may all be tiny beside the solver's tolerances
    limit_scale = max(abs(room), 1e-300)
    one_each = block_diag([np.ones((1, len(kept))) for kept in open_options], format="csr")
    for tightened in (1.0, 1.0 - 2e-6):  # the solver may exceed a limit by its tolerance of 1e-6
        solved = milp(
            weights / scale,
            integrality=np.ones(len(weights)),
            bounds=Bounds(0, 1),
            constraints=[
                LinearConstraint(csr_array((limits / limit_scale)[None, :]), -np.inf, tightened * room / limit_scale),
                LinearConstraint(one_each, 1, 1),
            ],
            options={"mip_rel_gap": 0.0},
        )
        if solved.x is None:
            break
        ends = np.cumsum([len(kept) for kept in open_options])
        parts = np.split(solved.x, ends[:-1])
        picked = [int(kept[int(np.argmax(part))]) for kept, part in zip(open_options, parts, strict=True)]
        if sum(float(row[option]) for row, option in zip(limited, picked, strict=True)) <= room:
            return picked
    raise UsageError(
        f"The budget cannot be met: {solved.message}",
        where="budget",
        advice="Raise the budget, or offer more formats.",
    )
