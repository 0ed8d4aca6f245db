"""`plan`: what a sweep will cost, measured on a few of its items before it begins."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from assay.sweep.arrays import encode, normalised
from assay.sweep.dispatch import died_at_once
from assay.sweep.executors import LocalPool
from assay.sweep.failure import Failure, failure_of, raised
from assay.sweep.progress import duration
from assay.sweep.side_files import Writer
from assay.sweep.threads import Threads, apply, settings
from assay.sweep.work import Item, Job, Outcome
from assay.sweep.worker import read_job, send

SAMPLES = 6
ROW_BYTES = 600
"""Of the log and of metadata, for one item."""
PATIENCE = 120.0
"""Seconds that workers wait for each other before they measure."""
_NOTHING: Mapping[str, Outcome] = MappingProxyType({})
BUDGET = 10.0
"""Seconds of measuring after which no further item is begun."""


@dataclass(frozen=True)
class Plan:
    """What a sweep will cost, extrapolated by cost from measured items.

    Attributes:
        items: of the stages that are known beforehand.
        seconds: wall time of those.
        bytes: on disk while it runs; a sealed sweep takes less.
        workers: it was made for.
        stages: known beforehand, of `all_stages`; later ones depend on outcomes.
        all_stages: of the job.
        measured: seconds of each measured item by name.
    """

    items: int
    seconds: float
    bytes: int
    workers: int
    stages: int
    all_stages: int
    measured: Mapping[str, float]

    def __str__(self) -> str:
        workers = f" with {self.workers} workers" if self.workers > 1 else ""
        later = f" (stage 1 of {self.all_stages}; the later ones depend on it)" if self.stages < self.all_stages else ""
        size = f"{self.bytes / 1e6:.1f} MB" if self.bytes >= 1e5 else f"{self.bytes / 1e3:.0f} kB"
        return f"{self.items:,} items, about {duration(self.seconds)}{workers}, {size}{later}"


def plan(job: Job, *, workers: int = 1, directory: str | Path | None = None, budget: float = BUDGET) -> Plan:
    """Measure a few items of a job and say what all of them will cost.

    With several workers they are measured in so many processes at once, so that starting them counts, and what they
    take from each other. A job whose later stages are known in number and cost beforehand may have a method
    `expected(stage) -> items`.

    Args:
        job: what would be computed.
        workers: items at once.
        directory: where outcomes would be kept, to measure what keeping them takes; None for in memory.
        budget: seconds after which no further item is measured.

    Returns:
        The plan; nothing is kept.

    Raises:
        UsageError: when the job is to run in other processes and cannot be pickled.

    Example:
        >>> import numpy as np
        >>> from assay.sweep import Item
        >>> class Squares:
        ...     name, identity, threads, stages = "squares", {"version": 1}, 1, 1
        ...
        ...     def items(self, stage, done):
        ...         return [Item(f"square of {n}", {"n": n}) for n in range(3)]
        ...
        ...     def open(self, stage, done):
        ...         return lambda item: {"value": np.array(item.arguments["n"] ** 2)}
        >>> plan(Squares(), budget=0.1).items
        3
    """
    place = None if directory is None else Path(directory)
    threads = Threads(job.threads)
    threads.use()
    try:
        items = list(job.items(0, _NOTHING))
        if workers == 1 or not items:
            probes = [_probe(job, place, budget, time.time())]
        else:
            probes = _probes_elsewhere(job, workers, place, budget)
    finally:
        threads.restore()
    extra = [list(job.expected(stage)) for stage in range(1, job.stages)] if hasattr(job, "expected") else []  # pyright: ignore[reportAttributeAccessIssue]
    return _extrapolated_plan(job, workers, items, extra, probes)


@dataclass(frozen=True)
class _Probe:
    """What one process measured: when it was ready, its preparation, and items with cost, seconds, bytes, keeping."""

    ready: float
    opening: float
    items: dict[str, tuple[float, float, int, float]]


def _probe(job: Job, directory: Path | None, budget: float, began: float) -> _Probe:
    ready = time.time() - began
    threads = Threads(job.threads)
    threads.use()
    items = list(job.items(0, _NOTHING))
    opening = time.perf_counter()
    compute = job.open(0, _NOTHING) if items else None
    opening = time.perf_counter() - opening
    measured: dict[str, tuple[float, float, int, float]] = {}
    started = time.perf_counter()
    for item in _samples(items):
        assert compute is not None
        if measured and time.perf_counter() - started > budget:
            break
        threads.use()
        if not measured:
            compute(item)  # the first call of anything is slow
        start = time.perf_counter()
        outcome = normalised(compute(item), item.name)
        spent = time.perf_counter() - start
        size = len(encode(outcome, {})) + ROW_BYTES
        measured[item.name] = (item.cost, spent, size, _seconds_to_keep(outcome, directory))
    threads.restore()
    return _Probe(ready, opening, measured)


def _probes_elsewhere(job: Job, workers: int, directory: Path | None, budget: float) -> list[_Probe]:
    pool = LocalPool(workers)
    began = time.time()
    with tempfile.TemporaryDirectory(prefix="assay-plan-", ignore_cleanup_errors=True) as folder:
        scratch = Path(folder) / "job"
        pickled = send(job, scratch)
        try:
            futures = [
                pool.submit(_probe_in_worker, scratch, pickled, settings(), workers, directory, budget, began)
                for _ in range(workers)
            ]
            answers = [future.result() for future in futures]
        except BrokenProcessPool as error:
            raise died_at_once(1) from error
        finally:
            pool.stop(now=True)
    for answer in answers:
        if isinstance(answer, Failure):
            raise raised(answer, job.name)
    return answers


def _probe_in_worker(
    scratch: Path,
    pickled: str,
    torch: dict[str, Any],
    workers: int,
    directory: Path | None,
    budget: float,
    began: float,
) -> _Probe | Failure:
    """Measure in a worker, at the same time as the others: none begins before all are there."""
    try:
        apply(torch)
        job = read_job(scratch, pickled)
        (scratch / f"ready-{os.getpid()}").touch()
        deadline = time.monotonic() + PATIENCE
        ready = time.time()
        while len(list(scratch.glob("ready-*"))) < workers and time.monotonic() < deadline:
            time.sleep(0.01)
        waited = time.time() - ready
        return _probe(job, directory, budget, began + waited)
    except Exception as error:
        return failure_of(error)


def _extrapolated_plan(
    job: Job, workers: int, items: Sequence[Item], extra: Sequence[Sequence[Item]], probes: Sequence[_Probe]
) -> Plan:
    everything = [*items, *(item for stage in extra for item in stage)]
    measured = [each for probe in probes for each in probe.items.values()]
    before = float(np.mean([probe.ready + probe.opening * (1 + len(extra)) for probe in probes]))
    names = {name: each[1] for probe in probes for name, each in probe.items.items()}
    if not measured:
        return Plan(0, before, 0, workers, 1 + len(extra), job.stages, MappingProxyType(names))
    seconds = np.asarray(_extrapolated(everything, [(cost, spent) for cost, spent, _, _ in measured]))
    seconds = seconds + float(np.median([keeping for *_, keeping in measured]))
    wall = before + max(float(seconds.sum()) / min(workers, len(everything)), float(seconds.max()))
    size = float(np.mean([size for _, _, size, _ in measured])) * len(everything)
    return Plan(len(everything), wall, round(size), workers, 1 + len(extra), job.stages, MappingProxyType(names))


def _samples(items: Sequence[Item]) -> list[Item]:
    """Items across the range of costs, each standing for an equal share of the whole cost; the typical ones first."""
    ranked = sorted(items, key=lambda item: (item.cost, item.name))
    if len(ranked) <= SAMPLES:
        return ranked
    shares = np.cumsum([item.cost for item in ranked], dtype=float)
    if shares[-1] <= 0.0:
        shares = np.arange(1.0, len(ranked) + 1.0)
    at = (np.arange(SAMPLES) + 0.5) / SAMPLES * shares[-1]
    places = sorted(dict.fromkeys(np.searchsorted(shares, at).tolist()))
    places = sorted({*places, 0})
    middle = len(places) // 2
    return [ranked[place] for place in sorted(places, key=lambda place: abs(places.index(place) - middle))]


def _extrapolated(items: Sequence[Item], measured: Sequence[tuple[float, float]]) -> list[float]:
    """Seconds of items: between measured costs on straight lines, beyond them in proportion to cost."""
    by_cost: dict[float, list[float]] = {}
    for cost, spent in measured:
        by_cost.setdefault(cost, []).append(spent)
    costs = sorted(by_cost)
    spent = [float(np.median(by_cost[cost])) for cost in costs]
    found = []
    for item in items:
        if item.cost > costs[-1] > 0.0:
            found.append(spent[-1] * item.cost / costs[-1])
        else:
            found.append(float(np.interp(item.cost, costs, spent)))
    return found


def _seconds_to_keep(outcome: Outcome, directory: Path | None) -> float:
    """What one outcome takes to be on disk, in the place where the run will be (or the nearest that exists)."""
    if directory is None:
        return 0.0
    place = next((path for path in (directory, *directory.absolute().parents) if path.is_dir()), None)
    try:
        with tempfile.TemporaryDirectory(prefix=".assay-plan-", dir=place) as folder:
            for name in ("shards", "outcomes"):
                (Path(folder) / name).mkdir()
            writer = Writer(Path(folder), "plan")
            writer.write("0" * 64, 0, "plan", outcome, 0.0)  # makes the shard
            start = time.perf_counter()
            writer.write("1" * 64, 0, "plan", outcome, 0.0)
            spent = time.perf_counter() - start
            writer.close()
            return spent
    except OSError:
        return 0.0
