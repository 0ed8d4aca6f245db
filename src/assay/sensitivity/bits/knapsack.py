"""One choice per layer: the multiple-choice knapsack behind a bit plan, solved exactly.

Every group (a layer) offers options (formats), each with a cost (bits, bytes, seconds) and a value (predicted squared
error). Costs add up, values add up. Small problems are solved for all budgets at once, by merging groups one by one and
keeping what nothing else beats in both cost and value; large ones by merging only what a Lagrangian bound leaves over
(as in Dyer, Riha and Walker 1995), and where even that is too much by SciPy's mixed-integer solver (HiGHS). All of them
prove that their answer is the best.
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
            method: ``merge``, ``bound``, ``milp``, ``enumerate`` or ``auto``.

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
            choice = self.cheapest_within(float(capacity), method="bound")
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
        if method not in ("auto", "merge", "bound", "milp", "enumerate"):
            raise UsageError(
                f"Unknown method {method!r}.", where="method", advice="auto, merge, bound, milp or enumerate."
            )
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
            picked = None if method == "milp" else _bounded(limited, objective, self._open, room)
            return self.choice(_milp(limited, objective, self._open, room) if picked is None else picked)
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


def _bounded(
    limited: Sequence[np.ndarray], objective: Sequence[np.ndarray], open_options: Sequence[np.ndarray], room: float
) -> list[int] | None:
    """Options that minimise the objective within the limit, by merging what a Lagrangian bound leaves over.

    For a price on the limited quantity no choice within the limit is better than `bound`, the sum of the groups' least
    objective + price x limit, minus price x room; an option raises that by how far it is from the least of its group.
    Choices raised by at most `gap` are merged, and the best found is the best of all once it lies within the gap.

    Returns:
        One option per group; None where too many choices survive.
    """
    limits = [row[kept] for row, kept in zip(limited, open_options, strict=True)]
    values = [row[kept] for row, kept in zip(objective, open_options, strict=True)]

    def priced(price: float) -> list[int]:
        return [int(np.argmin(value + price * limit)) for limit, value in zip(limits, values, strict=True)]

    def used(picked: Sequence[int]) -> float:
        return sum(float(limit[one]) for limit, one in zip(limits, picked, strict=True))

    spread = max(float(np.ptp(value)) for value in values)
    steps = np.concatenate([np.diff(np.sort(limit)) for limit in limits])
    low, price = 0.0, 0.0 if used(priced(0.0)) <= room else 2 * spread / float(steps[steps > 0].min())
    for _ in range(100 if price else 0):
        middle = (low + price) / 2
        low, price = (low, middle) if used(priced(middle)) <= room else (middle, price)
    start = priced(price)
    raised = [value + price * limit for limit, value in zip(limits, values, strict=True)]
    least = np.cumsum([float(row.min()) for row in raised])
    still = np.append(np.cumsum([float(limit.min()) for limit in limits[::-1]])[::-1][1:], 0.0)
    bound = float(least[-1]) - price * room
    whole = sum(float(value[one]) for value, one in zip(values, start, strict=True)) - bound
    for gap in (whole / 64, whole / 8, whole):
        merged = _merged_within(limits, values, price, least, still, room, gap + 1e-12 * abs(bound))
        if merged is None:
            return None
        value, picked = merged
        if value - bound <= gap or gap == whole:
            return [int(kept[one]) for kept, one in zip(open_options, picked or start, strict=True)]
    return None


def _merged_within(
    limits: Sequence[np.ndarray],
    values: Sequence[np.ndarray],
    price: float,
    least: np.ndarray,
    still: np.ndarray,
    room: float,
    gap: float,
) -> tuple[float, list[int]] | None:
    """Best value within the limit and its options among choices that a price raises by at most `gap`; inf if none."""
    cost, value = np.zeros(1), np.zeros(1)
    trail: list[tuple[np.ndarray, np.ndarray]] = []
    for group, (limit, own) in enumerate(zip(limits, values, strict=True)):
        if len(cost) * len(limit) > 20 * STATES:
            return None
        total, worth = (cost[:, None] + limit).ravel(), (value[:, None] + own).ravel()
        near = np.flatnonzero((worth + price * total - least[group] <= gap) & (total + still[group] <= room))
        if not len(near):
            return float("inf"), []
        best = near[_undominated(total[near], worth[near])]
        cost, value = total[best], worth[best]
        trail.append((best % len(limit), best // len(limit)))
    place, picked = int(np.argmin(value)), []
    found = float(value[place])
    for option, before in reversed(trail):
        picked.append(int(option[place]))
        place = int(before[place])
    return found, picked[::-1]


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
