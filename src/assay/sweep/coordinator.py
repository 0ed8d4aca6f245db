"""One coordinator's work on one folder: what is there is found, what is missing is computed here or by workers."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform
import secrets
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from assay.errors import StoreError, UsageError
from assay.progress import Progress
from assay.sweep.arrays import normalised
from assay.sweep.dispatch import dispatch
from assay.sweep.executors import Choice, Crew, crew_of
from assay.sweep.folder import SCRATCH, Done, survey
from assay.sweep.progress import Meter
from assay.sweep.sealing import Entry
from assay.sweep.side_files import Writer
from assay.sweep.threads import Threads, settings
from assay.sweep.work import Item, Job, Outcome, digest_of, item_key
from assay.sweep.worker import Ticket, index_file, send, versions


def listed(job: Job, stage: int, done: Mapping[str, Outcome], names: set[str]) -> list[Entry]:
    """The items of a stage with their keys.

    Args:
        job: whose items.
        stage: which stage.
        done: outcomes of the stages before.
        names: names that are taken; those of this stage are added.

    Returns:
        Entries in the job's order.

    Raises:
        UsageError: for two items of one name, a cost that is no positive number, or arguments that are not plain.
    """
    digest, found = digest_of(job), []
    for item in job.items(stage, done):
        if item.name in names:
            raise UsageError(
                f"Two items are called {item.name!r}.", where=job.name, advice="Names are unique in a job."
            )
        if not 0.0 <= item.cost < float("inf"):
            raise UsageError(
                f"The cost of {item.name!r} is {item.cost!r}.", where=job.name, advice="Give a number >= 0."
            )
        names.add(item.name)
        found.append((stage, item, item_key(digest, stage, item)))
    return found


class Sweep:
    """One coordinator's work on one folder.

    Args:
        job: what to compute.
        root: folder of the sweep, which this process alone coordinates.
        workers: items at once.
        executor: see `run`.
        progress: see `run`.
        threads: set while items are computed here.
        durable: wait until everything is on the disk itself.
    """

    def __init__(
        self,
        job: Job,
        root: Path,
        workers: int,
        executor: Choice,
        progress: Progress | None,
        threads: Threads,
        durable: bool,
    ) -> None:
        self.job, self.root, self.threads, self.durable = job, root, threads, durable
        self.scratch = root / f"{SCRATCH}{secrets.token_hex(8)}"
        self.meter = Meter(progress, job.name, job.stages)
        found = survey(root)
        self.rows, self.notes = found.rows, found.notes
        self._writer = Writer(
            root, f"{platform.node()[:20] or 'host'}-{os.getpid()}-{secrets.token_hex(4)}", durable=durable
        )
        if found.adopted:
            self._writer.add(found.adopted)
        for note in found.notes:
            logging.getLogger(__name__).warning("%s: %s", root.name, note)
        self._workers = workers
        self._executor: Choice = executor
        self._crew: Crew | None = None

    def computed(self) -> list[Entry]:
        """All entries, when each of them has a row."""
        entries: list[Entry] = []
        names: set[str] = set()
        try:
            for stage in range(self.job.stages):
                done = Done(self.root, {item.name: key for _, item, key in entries})
                here = listed(self.job, stage, done, names)
                entries += here
                kept = [item for _, item, key in here if key in self.rows]
                self.meter.begin(stage, [item for _, item, _ in here], kept)
                # items that share their arguments share their outcome
                missing = {key: item for _, item, key in here if key not in self.rows}
                if missing and self._workers == 1 and self._executor is None:
                    self._here(stage, missing, done)
                elif missing:
                    self._elsewhere(stage, missing, entries)
        except BaseException:
            self._stop(now=True)
            raise
        self._stop(now=False)
        return entries

    def _here(self, stage: int, missing: Mapping[str, Item], done: Mapping[str, Outcome]) -> None:
        compute = self.job.open(stage, done)
        for key, item in missing.items():
            self.threads.use()
            begin = time.perf_counter()
            outcome = normalised(compute(item), item.name)
            self.rows[key] = self._writer.write(key, stage, item.name, outcome, time.perf_counter() - begin)
            self.meter.add(item)

    def _elsewhere(self, stage: int, missing: Mapping[str, Item], entries: Sequence[Entry]) -> None:
        if self._crew is None:
            self._crew = crew_of(self._executor, self._workers, self.job.threads)
            pickled = send(self.job, self.scratch)
            self._ticket = Ticket(
                self.root,
                self.scratch,
                pickled,
                digest_of(self.job),
                self.job.threads,
                settings(),
                versions(),
                self._crew.ends_with_run,
                self.durable,
                os.getpid(),
                platform.node(),
                self.threads.before,
            )
        for number in range(stage):
            index = {item.name: key for at, item, key in entries if at == number}
            index_file(self.scratch, number).write_text(json.dumps(index), encoding="utf-8")
        for key, row in dispatch(self._crew, self._ticket, stage, missing):
            self.rows[key] = row
            self.meter.add(missing[key])

    def _stop(self, *, now: bool) -> None:
        if self._crew is not None:
            self._crew.stop(now=now)
        with contextlib.suppress(StoreError):
            self._writer.close()
