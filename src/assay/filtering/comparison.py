"""Which units keep their class over checkpoints, seeds, data sets or architectures.

Scores are compared by rank, classes by the share that agrees and by agreement beyond chance: where nearly all units are
fragile, nearly all agree, and that says nothing. Only the three classes count as an answer: ``undecided``, ``no-op``
and ``degenerate`` are no class, and a unit that is one of these somewhere does not keep its class there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import combinations
from typing import Any, Literal, get_args

import numpy as np

from assay.errors import UsageError
from assay.filtering.agreement import Correlation, cohen, kendall, krippendorff, spearman
from assay.filtering.scores import Score
from assay.results import Displayed

Match = Literal["name", "depth"]
CLASSES = ("fragile", "robust", "antifragile")
NO_CLASS = ("undecided", "no-op", "degenerate")


@dataclass(frozen=True, eq=False)
class Labelled(Displayed):
    """One score of every unit of a network.

    Attributes:
        names: of the units, in the order of the network.
        scores: (n,) float64; NaN for a degenerate unit.
        low: (n,) lower ends of their intervals.
        high: (n,) upper ends.
        labels: (n,) classes, or ``undecided``, ``no-op``, ``degenerate``.
    """

    names: tuple[str, ...]
    scores: np.ndarray
    low: np.ndarray
    high: np.ndarray
    labels: tuple[str, ...]

    def __post_init__(self) -> None:
        for name in ("scores", "low", "high"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), np.float64))
        shapes = {(len(self.names),), self.scores.shape, self.low.shape, self.high.shape, (len(self.labels),)}
        unknown = sorted(set(self.labels) - {*CLASSES, *NO_CLASS})
        if len(shapes) > 1 or len(set(self.names)) < len(self.names) or not self.names or unknown:
            raise UsageError(
                f"{len(self.names)} units ({len(set(self.names))} names) with scores {self.scores.shape} and "
                f"{len(self.labels)} labels{f', among them {unknown}' if unknown else ''}, are no scores of a network.",
                where="Labelled",
                advice="Give one score, interval and label per unit, and choose one filter, split and reference.",
            )

    @property
    def classes(self) -> tuple[str | None, ...]:
        """The class of every unit, None where there is none."""
        return tuple(label if label in CLASSES else None for label in self.labels)


def labelled(
    rows: Mapping[str, Score] | Iterable[Mapping[str, Any]],
    *,
    filter: str = "mean",
    split: str = "adversarial",
    reference: str = "compressed",
    **where: Any,
) -> Labelled:
    """Scores of a network from its rows.

    Args:
        rows: `Score` by unit name; or records with ``unit``, ``filter``, ``split``, ``reference``, ``score``, ``low``,
            ``high``, ``label``, such as `to_frame().to_dict("records")`, of which the chosen ones are taken.
        filter: which filter, or ``mean``.
        split: ``clean``, ``adversarial`` or ``difference``.
        reference: ``compressed`` or ``unfiltered``.
        **where: further columns that records must agree with, such as attack="adaptive".

    Returns:
        One score per unit, in the order of the rows.

    Raises:
        UsageError: when there is none, or more than one for a unit.

    Example:
        >>> row = Score("mean", "clean", "compressed", 0.2, 0.1, 0.3, "antifragile", 0.5)
        >>> labelled({"conv": row})
        Labelled(1 units, 1 antifragile)
    """
    if isinstance(rows, Mapping):
        pairs = [(unit, asdict(row)) for unit, row in rows.items()]
    else:
        chosen = {"filter": filter, "split": split, "reference": reference} | where
        pairs = [(row["unit"], row) for row in rows if all(row.get(key) == value for key, value in chosen.items())]
    columns = {name: np.array([row[name] for _, row in pairs], np.float64) for name in ("score", "low", "high")}
    names, labels = tuple(str(unit) for unit, _ in pairs), tuple(str(row["label"]) for _, row in pairs)
    return Labelled(names, columns["score"], columns["low"], columns["high"], labels)


@dataclass(frozen=True)
class Pair:
    """Two networks.

    Attributes:
        first: name of one.
        second: name of the other.
        units: units matched.
        scored: of these, units with a score in both.
        spearman: rank correlation of scores.
        kendall: another, tau-b: concordant minus discordant pairs.
        classed: units with a class in both.
        equal: share of these with the same class; NaN for none.
        kappa: agreement of classes beyond chance (Cohen 1960): 1 perfect, 0 chance; NaN where all have one class.
    """

    first: str
    second: str
    units: int
    scored: int
    spearman: Correlation
    kendall: Correlation
    classed: int
    equal: float
    kappa: float


@dataclass(frozen=True)
class Kept:
    """One unit in all networks.

    Attributes:
        unit: its name in the network with the fewest units (the first when matched by name).
        names: by network, its name there.
        labels: by network.
        label: the most frequent class, None where it has none or two are as frequent.
        count: networks with that class.
        in_all: whether these are all.
        in_most: whether they are more than half of all.
    """

    unit: str
    names: Mapping[str, str]
    labels: Mapping[str, str]
    label: str | None
    count: int
    in_all: bool
    in_most: bool


@dataclass(frozen=True)
class Comparison(Displayed):
    """What networks have in common.

    Attributes:
        networks: their names.
        match: how units were matched.
        pairs: every two networks.
        units: every matched unit.
        unmatched: by network, units without a partner in all others.
        alpha: agreement of classes beyond chance over all networks (Krippendorff 1970, nominal): 1 perfect, 0 chance,
            NaN where there is one class only.
    """

    networks: tuple[str, ...]
    match: Match
    pairs: tuple[Pair, ...]
    units: tuple[Kept, ...]
    unmatched: Mapping[str, tuple[str, ...]]
    alpha: float

    @property
    def in_all(self) -> tuple[str, ...]:
        """Units with one class in all networks."""
        return tuple(unit.unit for unit in self.units if unit.in_all)

    @property
    def in_most(self) -> tuple[str, ...]:
        """Units with one class in more than half of the networks."""
        return tuple(unit.unit for unit in self.units if unit.in_most)

    def pair_records(self) -> list[dict[str, Any]]:
        """A row for every two networks, of plain numbers."""
        rows: list[dict[str, Any]] = []
        for pair in self.pairs:
            row = asdict(pair)
            for name in ("spearman", "kendall"):
                found = row.pop(name)
                row |= {name: found["value"], f"{name}_low": found["low"], f"{name}_high": found["high"]}
            rows.append(row)
        return rows

    def unit_records(self) -> list[dict[str, Any]]:
        """A row for every unit: its label in each network, and whether it keeps its class."""
        rows: list[dict[str, Any]] = []
        for unit in self.units:
            labels = {f"label in {name}": label for name, label in unit.labels.items()}
            kept = {"class": unit.label, "networks": unit.count, "in all": unit.in_all, "in most": unit.in_most}
            rows.append({"unit": unit.unit} | labels | kept)
        return rows

    @cached_property
    def agreement(self) -> str:
        """What can be said, in a few sentences."""
        count, networks = len(self.units), len(self.networks)
        open_ = sum(any(label not in CLASSES for label in unit.labels.values()) for unit in self.units)
        text = [f"{len(self.in_all)} of {count} units have one class in all {networks} networks"]
        if networks > 2:
            text[0] += f", {len(self.in_most)} in more than half of them"
        if open_:
            text.append(f"{open_} have no class (undecided, no-op or degenerate) in at least one")
        given = [label for unit in self.units for label in unit.labels.values() if label in CLASSES]
        if math.isnan(self.alpha):
            text.append(
                f"every class given is '{given[0]}', so that agreement cannot be told from chance"
                if given
                else "no unit has a class in two networks"
            )
        else:
            usual = max(CLASSES, key=given.count)
            chance = "no better than chance" if self.alpha <= 0 else f"{self.alpha:.2f} on a scale from chance (0) to 1"
            text.append(
                f"agreement of classes is {chance}; {100 * given.count(usual) / len(given):.0f} % of all classes are "
                f"'{usual}'"
            )
        ranks = [pair.spearman for pair in self.pairs if not math.isnan(pair.spearman.value)]
        if ranks:
            values = sorted(rank.value for rank in ranks)
            text.append(
                f"rank correlation of scores is {np.median(values):.2f} in the middle ({values[0]:.2f} to "
                f"{values[-1]:.2f} over {len(ranks)} pairs), and its interval excludes 0 in "
                f"{sum(rank.low > 0 or rank.high < 0 for rank in ranks)}"
            )
        left = sum(map(len, self.unmatched.values()))
        if left:
            text.append(f"{left} units have no partner in all networks and are left out")
        if self.match == "depth":
            text.append("units were matched by relative depth, which is a convention and not an identity")
        return ". ".join(sentence[0].upper() + sentence[1:] for sentence in text) + "."


def compare(
    networks: Mapping[str, Labelled | Mapping[str, Score]],
    *,
    match: Match = "name",
    level: float = 0.95,
    draws: int = 1000,
    seed: int = 0,
) -> Comparison:
    """Compare scores and classes of several networks, unit by unit.

    Intervals of rank correlations are percentile intervals over resampled units: they say how much the number depends
    on which units there are, given the scores; the noise of the scores themselves is in it only as far as it reorders
    them.

    Args:
        networks: by name, one score of every unit.
        match: ``name`` takes units that all networks have under one name. ``depth`` is for other architectures: unit i
            of m has relative depth i / (m - 1); every unit of the network with the fewest (the first of equals) is
            matched with the unit of nearest depth in each other, the earlier of two; first goes with first, last with
            last, and no unit is used twice.
        level: probability that an interval covers.
        draws: resamples.
        seed: of the resamples.

    Returns:
        Pairs, units, and a summary in `agreement`. Grade: sampled.

    Raises:
        UsageError: for fewer than two networks, or none of the units in common.

    Example:
        >>> score = lambda value, label: Score("mean", "clean", "compressed", value, value, value, label, 0.5)
        >>> early = {"conv": score(0.2, "antifragile"), "fc": score(-0.3, "fragile")}
        >>> late = {"conv": score(0.1, "antifragile"), "fc": score(0.0, "robust")}
        >>> compare({"epoch 10": early, "epoch 40": late}).in_all
        ('conv',)
    """
    if len(networks) < 2 or match not in get_args(Match) or not 0 < level < 1 or draws < 1:
        raise UsageError(
            f"{len(networks)} networks with match={match!r}, level={level}, draws={draws} cannot be compared.",
            where="compare",
            advice="Give at least two networks; match is 'name' or 'depth', 0 < level < 1, draws >= 1.",
        )
    given = {name: each if isinstance(each, Labelled) else labelled(each) for name, each in networks.items()}
    rows, reference = _by_name(given) if match == "name" else _by_depth(given)
    pairs = tuple(_pair(pair, given, rows, level=level, draws=draws, seed=seed) for pair in combinations(given, 2))
    count = len(rows[reference])
    units = tuple(_kept(given, rows, reference, index) for index in range(count))
    classes = [[given[name].classes[rows[name][index]] for name in given] for index in range(count)]
    unmatched = {
        name: tuple(unit for row, unit in enumerate(each.names) if row not in set(rows[name]))
        for name, each in given.items()
    }
    return Comparison(tuple(given), match, pairs, units, unmatched, krippendorff(classes))


def _by_name(given: Mapping[str, Labelled]) -> tuple[dict[str, list[int]], str]:
    """Rows of the units that all networks have, in the order of the first."""
    reference, *others = given
    common = set(given[reference].names).intersection(*(given[name].names for name in others))
    names = [name for name in given[reference].names if name in common]
    if not names:
        raise UsageError(
            f"No unit of {reference!r} has its name in all of {', '.join(others)}.",
            where="compare",
            advice="Compare other architectures with match='depth'.",
        )
    return {name: [each.names.index(unit) for unit in names] for name, each in given.items()}, reference


def _by_depth(given: Mapping[str, Labelled]) -> tuple[dict[str, list[int]], str]:
    """Rows of the units nearest in relative depth to those of the smallest network."""
    reference = min(given, key=lambda name: len(given[name].names))
    last = len(given[reference].names) - 1

    def nearest(row: int, end: int) -> int:
        """The row nearest to row / last * end, the lower of two, in whole numbers."""
        return -((last - 2 * row * end) // (2 * last)) if last else 0

    rows = {name: [nearest(row, len(each.names) - 1) for row in range(last + 1)] for name, each in given.items()}
    return rows, reference


def _pair(
    names: tuple[str, str], given: Mapping[str, Labelled], rows: Mapping[str, list[int]], **settings: Any
) -> Pair:
    x, y = (given[name].scores[rows[name]] for name in names)
    finite = np.isfinite(x) & np.isfinite(y)
    x, y = x[finite], y[finite]
    classes = ([given[name].classes[row] for row in rows[name]] for name in names)
    both = [(one, other) for one, other in zip(*classes, strict=True) if one is not None and other is not None]
    equal = float(np.mean([one == other for one, other in both])) if both else math.nan
    return Pair(
        first=names[0],
        second=names[1],
        units=len(finite),
        scored=len(x),
        spearman=spearman(x, y, **settings),
        kendall=kendall(x, y, **settings),
        classed=len(both),
        equal=equal,
        kappa=cohen(both),
    )


def _kept(given: Mapping[str, Labelled], rows: Mapping[str, list[int]], reference: str, index: int) -> Kept:
    names = {name: each.names[rows[name][index]] for name, each in given.items()}
    labels = {name: each.labels[rows[name][index]] for name, each in given.items()}
    counts = sorted(((list(labels.values()).count(name), name) for name in CLASSES), reverse=True)
    (most, label), (next_, _), _ = counts
    unique = most > next_
    return Kept(
        unit=names[reference],
        names=names,
        labels=labels,
        label=label if unique else None,
        count=most if unique else 0,
        in_all=most == len(given),
        in_most=2 * most > len(given),
    )
