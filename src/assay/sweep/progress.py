"""How far a sweep is, by cost, and how long it will still take."""

from __future__ import annotations

import time
from collections.abc import Iterable

from assay.progress import Progress
from assay.sweep.work import Item

FINE = 1000
"""Steps of the whole, so that bars move by cost and not by number of items."""


class Meter:
    """Counts what is done and says it.

    Args:
        report: called as report(done, total, text), with done and total in thousandths of the stage's cost.
        name: of the job.
        stages: of the job.
    """

    def __init__(self, report: Progress | None, name: str, stages: int) -> None:
        self._report, self._name, self._stages = report, name, stages
        self._total = self._done = self._here = 0.0
        self._items = self._finished = 0
        self._began = time.monotonic()
        self._stage = 0

    def begin(self, stage: int, items: Iterable[Item], kept: Iterable[Item]) -> None:
        """A stage begins, of which some items are there already."""
        every, there = list(items), list(kept)
        self._stage, self._items, self._finished = stage, len(every), len(there)
        self._total, self._done, self._here = _cost(every), _cost(there), 0.0
        self._began = time.monotonic()
        self._say("")

    def add(self, item: Item) -> None:
        """An item is done."""
        self._finished += 1
        self._done += item.cost
        self._here += item.cost
        self._say(item.name)

    @property
    def seconds_left(self) -> float | None:
        """Of this stage, at the speed measured since it began; None before the first item."""
        if self._here <= 0.0:
            return None
        return (time.monotonic() - self._began) / self._here * max(0.0, self._total - self._done)

    def _say(self, item: str) -> None:
        if self._report is None:
            return
        stage = f", stage {self._stage + 1} of {self._stages}" if self._stages > 1 else ""
        left = self.seconds_left
        time_left = "" if left is None or self._finished == self._items else f", {duration(left)} left"
        text = f"{self._name}{stage}: {self._finished:,} of {self._items:,}{time_left}{f', {item}' if item else ''}"
        share = self._done / self._total if self._total > 0.0 else 1.0
        done = FINE if self._finished == self._items else min(FINE - 1, int(FINE * share))
        self._report(done, FINE, text)


def duration(seconds: float) -> str:
    """A time for people.

    Returns:
        Two significant units at most.

    >>> duration(0.4), duration(75), duration(3 * 3600 + 240)
    ('1 s', '1 min 15 s', '3 h 4 min')
    """
    whole = max(1, round(seconds))
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    if minutes >= 10 or (minutes and not rest):
        return f"{minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _cost(items: list[Item]) -> float:
    return float(sum(item.cost for item in items))
