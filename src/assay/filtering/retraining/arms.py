"""Arms: which units each of the compared networks retrains."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations

import numpy as np

from assay.errors import UsageError
from assay.filtering.units import Unit

LABELS = ("fragile", "robust", "antifragile", "undecided", "no-op", "degenerate")
Select = str | Sequence[str] | Mapping[str, bool] | Callable[[Unit], bool]
POOL = 4096  # subsets compared by their number of weights
CLOSEST = 16  # of them, the random arm draws from at most so many


def needs_labels(select: Select) -> bool:
    """Whether the choice speaks of classes; refuses class names that do not exist.

    Returns:
        True for a string of class names.

    Raises:
        UsageError: for another string.
    """
    if not isinstance(select, str):
        return False
    unknown = [name for name in select.split("+") if name.strip() not in LABELS]
    if unknown:
        raise UsageError(
            f"There is no class {unknown[0]!r}.",
            where="select",
            advice=f"Join {', '.join(LABELS)} by +, or give a sequence of unit names or a function of a unit.",
        )
    return True


def names_undecided(select: Select) -> bool:
    """Whether undecided units are chosen as such."""
    return isinstance(select, str) and "undecided" in [name.strip() for name in select.split("+")]


def chosen_units(units: Sequence[Unit], select: Select, labels: Mapping[str, str] | None) -> tuple[str, ...]:
    """Names of the units to retrain, in the order of the network.

    A unit belongs to the class that its label names and to no other.

    Args:
        units: all units.
        select: class names joined by +, unit names, {unit name: whether}, or a function of a `Unit`.
        labels: class of every unit; only needed for class names.

    Returns:
        None of them, some, or all.

    Raises:
        UsageError: for units without a label, or names that no unit has.
    """
    names = [unit.name for unit in units]
    if isinstance(select, str):
        labels = labels or {}
        bare = [name for name in names if labels.get(name) not in LABELS]
        if bare:
            raise UsageError(
                f"{len(bare)} of {len(names)} units have no label that is known.",
                where=f"labels, {bare[0]}",
                advice=f"Give each unit one of {', '.join(LABELS)}, by the name it has in select_units.",
            )
        wanted = {name.strip() for name in select.split("+")}
        return tuple(name for name in names if labels[name] in wanted)
    if callable(select):
        return tuple(unit.name for unit in units if select(unit))
    given = {name for name in select if not isinstance(select, Mapping) or select[name]}
    unknown = set(select) - set(names)
    if unknown:
        raise UsageError(
            f"There is no unit {min(unknown, key=str)!r}.",
            where="select",
            advice=f"Units have names such as {', '.join(names[:4])}.",
        )
    return tuple(name for name in names if name in given)


def weights_in(units: Sequence[Unit], names: Sequence[str]) -> int:
    """Number of weights in the named units."""
    return sum(math.prod(unit.shape) for unit in units if unit.name in set(names))


def random_units(units: Sequence[Unit], chosen: Sequence[str], seed: int) -> tuple[str, ...]:
    """As many other units as were chosen, drawn from the subsets whose number of weights comes closest.

    All subsets of that size (4,096 random ones where there are more), except the choice itself, are ordered by how far
    their number of weights is off; one of the closest quarter, of at most 16, is drawn. A control by chance thus
    differs between seeds, and is of the same size as nearly as the network permits.

    Args:
        units: all units.
        chosen: names of those chosen.
        seed: of the draw.

    Returns:
        Names, in the order of the network; the choice itself when it is nothing or everything.
    """
    count = len(chosen)
    if count in (0, len(units)):
        return tuple(chosen)
    sizes = np.array([math.prod(unit.shape) for unit in units], dtype=np.int64)
    own = tuple(index for index, unit in enumerate(units) if unit.name in set(chosen))
    if math.comb(len(units), count) <= POOL:
        pool = set(combinations(range(len(units)), count))
    else:
        draws = np.random.Generator(np.random.PCG64(0))
        pool = {tuple(sorted(draws.permutation(len(units))[:count].tolist())) for _ in range(POOL)}
    target = sizes[list(own)].sum()
    ordered = sorted(pool - {own}, key=lambda subset: (abs(int(sizes[list(subset)].sum() - target)), subset))
    closest = ordered[: min(CLOSEST, math.ceil(len(ordered) / 4))]
    drawn = closest[int(np.random.Generator(np.random.PCG64(seed)).integers(len(closest)))]
    return tuple(units[index].name for index in drawn)


def arms_of(
    units: Sequence[Unit],
    chosen: Sequence[str],
    seed: int,
    *,
    controls: bool = True,
    rival: Sequence[str] | None = None,
) -> dict[str, tuple[str, ...]]:
    """Units that each arm retrains, for one seed.

    Args:
        units: all units.
        chosen: names of those that the selective arm retrains.
        seed: of the random arm.
        controls: False leaves only the selective arm (and the rival).
        rival: names chosen by another rule, for the arm ``criticality``.

    Returns:
        By name of the arm: ``all``, ``selective``, ``complement``, ``random``, ``criticality``.
    """
    names = tuple(unit.name for unit in units)
    arms = {"selective": tuple(chosen)}
    if controls:
        others = tuple(name for name in names if name not in set(chosen))
        arms = {"all": names, **arms, "complement": others, "random": random_units(units, chosen, seed)}
    return arms if rival is None else {**arms, "criticality": tuple(rival)}
