"""How long a filtering sweep will take: measured on a few variants of a few units, carried over by operations."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from assay.attacks import attacked
from assay.filtering.job import FilteringJob, Runner
from assay.filtering.variants import Variants

UNITS = 5
MEASURED_OPERATIONS = 1e10
"""Operations of one measurement, about: a fraction of a second."""
SCREENED = 0.5
"""Share of the variants that a static screen lets through, as seen on small networks (15 to 25 of 45 cells)."""
SEARCH = 18
"""Attacks that the search for epsilon makes: 12 bisections, and a few halvings before them."""


@dataclass(frozen=True)
class Estimate:
    """Wall time of a sweep in seconds.

    Attributes:
        seconds: as expected.
        low: if no cell passes the screen; `seconds` without one.
        high: if every cell passes the screen.
    """

    seconds: float
    low: float
    high: float


def estimated(job: FilteringJob, workers: int = 1) -> Estimate:
    """Wall time of a sweep on this machine as it is now.

    A few variants of some units are run on part of the data, clean, attacked once and attacked anew; their seconds are
    carried over to the other units by operations, between those measured on straight lines. How many cells pass a
    screen nobody knows beforehand: half is assumed, and the ends are given too. Early stopping is not foreseen.

    Args:
        job: the sweep; nothing of it is kept.
        workers: processes at once.

    Returns:
        The estimate. Grade: sampled; other work on the machine changes it.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(job.threads)
    try:
        runner = Runner(job)
        every = list(job.variants())
        counts = np.array([len(each.needed(list(each.rows))) for each in every])
        picked = _spread([job.cost(each, static=True) for each in every])
        spent = [_baseline(job, runner)]
        for static in (True, False)[: job.stages - 1]:
            costs = np.array([job.cost(each, static) for each in every])
            measured = [_seconds(job, every[place], static) for place in picked]
            spent.append(float(_carried(costs, picked, measured) @ counts))
    finally:
        torch.set_num_threads(before)
    parallel = max(1, min(workers, (os.cpu_count() or 1) // job.threads))
    total = sum(spent) / parallel
    if job.config.mode != "screen" or len(spent) < 3:
        return Estimate(total, total, total)
    anew = spent[-1] / parallel
    return Estimate(total - (1 - SCREENED) * anew, total - anew, total)


def _spread(costs: list[float]) -> list[int]:
    """Units to measure: first, last, some between, the cheapest and the costliest."""
    some = {round(place) for place in np.linspace(0, len(costs) - 1, min(UNITS, len(costs)))}
    return sorted(some | {int(np.argmin(costs)), int(np.argmax(costs))})


def _carried(costs: np.ndarray, picked: list[int], measured: list[float]) -> np.ndarray:
    """Seconds per variant of every unit, on straight lines over operations between the units measured."""
    # Not seconds per operation: the time of a cheap unit is overhead, which costly neighbours do not have.
    known: dict[float, list[float]] = {}
    for place, seconds in zip(picked, measured, strict=True):
        known.setdefault(float(costs[place]), []).append(seconds)
    at = sorted(known)
    return np.interp(costs, at, [float(np.mean(known[cost])) for cost in at])


def _seconds(job: FilteringJob, variants: Variants, static: bool) -> float:
    """Seconds per variant of a unit, on all samples."""
    rows = variants.needed(list(variants.rows))
    if not rows:
        return 0.0
    each = job.cost(variants, static)  # of one variant on all samples
    samples = len(job.x)
    part = int(min(samples, max(256, samples * MEASURED_OPERATIONS / (4 * each))))
    count = int(min(len(rows), max(4, MEASURED_OPERATIONS / (each * part / samples))))
    small = replace(job, x=job.x[:part], y=job.y[:part])
    runner = Runner(small)
    chosen = [rows[place] for place in np.linspace(0, len(rows) - 1, count).round().astype(int).tolist()]

    def run() -> None:
        if not static:
            runner.attacked(variants, chosen, small.x, small.y, 0.01)
            return
        runner.outputs(variants, chosen, small.x, small.y)
        if job.same_attack_first:
            runner.outputs(variants, chosen, small.x, small.y)

    spent = _timed(run, lambda: runner.outputs(variants, chosen[:1], small.x[:2], small.y[:2]))
    return spent * samples / (part * len(chosen))


def _baseline(job: FilteringJob, runner: Runner) -> float:
    """Seconds of the unfiltered network and of the search for epsilon."""
    if job.attack is None:
        return 0.0
    part = job.x[: min(len(job.x), runner.size)]
    labels = job.y[: len(part)]

    def run() -> None:
        attacked(job.attack_with(0.01), job.subject, part, labels, bounds=job.bounds)

    searches = SEARCH if job.config.epsilon == "auto" else 1
    return searches * _timed(run, run) * len(job.x) / len(part)


def _timed(run: Callable[[], object], warm: Callable[[], object]) -> float:
    warm()
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun
