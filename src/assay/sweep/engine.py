"""`run`: stage by stage, what is not there yet is computed, kept and counted; then the sweep is sealed."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from assay.errors import UsageError
from assay.progress import Progress
from assay.results.atomic import make_folder
from assay.sweep.arrays import normalised
from assay.sweep.coordinator import Sweep, listed
from assay.sweep.executors import Choice
from assay.sweep.folder import BUSY, LOCK, SCRATCH, clear, folder_of, prepare
from assay.sweep.locks import coordinating
from assay.sweep.progress import Meter
from assay.sweep.sealed import Sealed, damaged, damaged_files, read_manifest
from assay.sweep.sealing import seal
from assay.sweep.stopping import terminable
from assay.sweep.threads import Threads
from assay.sweep.work import Job, Outcome


def run(
    job: Job,
    *,
    directory: str | Path | None = None,
    workers: int = 1,
    executor: Choice = None,
    progress: Progress | None = None,
) -> Mapping[str, Outcome]:
    """Compute every item of a job. The outcomes are the same to the byte however, and how often interrupted, it runs.

    Args:
        job: what to compute.
        directory: a run directory, in which everything is kept as it is ready and found again by the next call; in
            memory when None.
        workers: items at once; 1 computes in this process, more in processes of their own.
        executor: "local" (processes), "ray" (a cluster), or any executor of `concurrent.futures`.
        progress: called as progress(done, total, text), in thousandths of a stage's cost.

    Returns:
        Outcomes by item name, in the order of stages and items; read from the directory when they are asked for.

    Raises:
        UsageError: for a job that does not keep the rules: names, plain JSON values, arrays that can be stored.
        StoreError: when the directory is damaged, full, not writable, or another process works on this sweep.
        SubjectError: when an item ends its worker again and again.

    Example:
        >>> import numpy as np
        >>> from assay.sweep import Item, run
        >>> class Squares:
        ...     name, identity, threads, stages = "squares", {"version": 1}, 1, 1
        ...
        ...     def items(self, stage, done):
        ...         return [Item(f"square of {n}", {"n": n}) for n in range(3)]
        ...
        ...     def open(self, stage, done):
        ...         return lambda item: {"value": np.array(item.arguments["n"] ** 2)}
        >>> {name: int(outcome["value"]) for name, outcome in run(Squares()).items()}
        {'square of 0': 0, 'square of 1': 1, 'square of 2': 4}
    """
    _check(job, workers)
    with terminable(), _threads(job) as threads:
        if directory is not None:
            return _in_folder(job, Path(directory), workers, executor, progress, threads)
        if workers == 1 and executor is None:
            return _in_memory(job, progress, threads)
        with tempfile.TemporaryDirectory(prefix="assay-sweep-", ignore_cleanup_errors=True) as folder:
            found = _in_folder(job, Path(folder), workers, executor, progress, threads, durable=False)
            return MappingProxyType(dict(found.items()))


def _check(job: Job, workers: int) -> None:
    for name, value in (("workers", workers), ("stages", job.stages), ("threads", job.threads)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise UsageError(f"{name} must be a whole number of at least 1, not {value!r}.", where=name)


@contextlib.contextmanager
def _threads(job: Job) -> Iterator[Threads]:
    threads = Threads(job.threads)
    threads.use()
    try:
        yield threads
    finally:
        threads.restore()


def _in_memory(job: Job, progress: Progress | None, threads: Threads) -> Mapping[str, Outcome]:
    meter = Meter(progress, job.name, job.stages)
    done: dict[str, Outcome] = {}
    names: set[str] = set()
    for stage in range(job.stages):
        earlier = MappingProxyType(dict(done))
        entries = listed(job, stage, earlier, names)
        meter.begin(stage, [item for _, item, _ in entries], [])
        compute = job.open(stage, earlier) if entries else None
        for _, item, _ in entries:
            assert compute is not None
            threads.use()  # an item may be the first to import torch
            done[item.name] = normalised(compute(item), item.name)
            meter.add(item)
    return MappingProxyType(done)


def _in_folder(
    job: Job,
    directory: Path,
    workers: int,
    executor: Choice,
    progress: Progress | None,
    threads: Threads,
    durable: bool = True,
) -> Mapping[str, Outcome]:
    root = folder_of(directory.absolute(), job)
    if (found := _sealed(root)) is not None:
        return found
    make_folder(root, refuse_link=True)
    with coordinating(root / LOCK, root / BUSY):
        if (found := _sealed(root)) is not None:  # by another process, while this one waited
            return found
        prepare(root, job)
        for leftover in root.glob(f"{SCRATCH}*"):
            shutil.rmtree(leftover, ignore_errors=True)
        sweep = Sweep(job, root, workers, executor, progress, threads, durable)
        try:
            entries = sweep.computed()
        finally:
            shutil.rmtree(sweep.scratch, ignore_errors=True)
        seal(root, entries, sweep.rows)
    return Sealed(root)


def _sealed(root: Path) -> Sealed | None:
    manifest = read_manifest(root)
    if manifest is None:
        return None
    for path, why in damaged_files(root, manifest):
        damaged(path, why)
    clear(root)
    return Sealed(root)
