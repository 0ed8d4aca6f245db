"""What runs where the work is: read the job, open its stage, compute one item, keep its outcome, say so."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import platform
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from assay._version import __version__
from assay.errors import UsageError
from assay.results.atomic import discard, refuse
from assay.sweep import locks
from assay.sweep.arrays import normalised
from assay.sweep.failure import Failure, failure_of
from assay.sweep.folder import BUSY, Done
from assay.sweep.shard import Row
from assay.sweep.side_files import Writer
from assay.sweep.threads import Threads, apply
from assay.sweep.work import Item, Job, Outcome, digest_of, item_key

JOB = "job.pickle"


@dataclass(frozen=True)
class Ticket:
    """What a worker has to know; small, it travels with every item.

    Attributes:
        root: folder of the sweep.
        scratch: folder of this run in it, with the pickled job.
        pickled: SHA-256 of that pickle; nothing else is opened.
        digest: of the job's identity.
        threads: of torch.
        torch: settings to take over.
        versions: of Python and assay, which have to agree.
        keep_open: whether the worker ends with the run.
        durable: whether outcomes have to survive the machine.
        process: number of the sending process.
        host: its machine.
        before: its threads, to go back to when the work runs in that very process.
    """

    root: Path
    scratch: Path
    pickled: str
    digest: str
    threads: int
    torch: Mapping[str, Any]
    versions: str
    keep_open: bool
    durable: bool
    process: int
    host: str
    before: int | None


@dataclass
class _State:
    """What a worker's thread keeps between items."""

    scratch: Path | None = None
    job: Job | None = None
    stage: int = -1
    compute: Callable[[Item], Outcome] | None = None
    writer: Writer | None = None
    threads: Threads = field(default_factory=lambda: Threads(1))


_local = threading.local()


def versions() -> str:
    """Versions that have to be the same wherever items of one sweep run."""
    return f"Python {'.'.join(platform.python_version_tuple()[:2])}, assay {__version__}"


def send(job: Job, scratch: Path) -> str:
    """Write the job where workers find it, readable by this user alone.

    Args:
        job: what to pickle.
        scratch: folder of this run, made here.

    Returns:
        SHA-256 of the file.

    Raises:
        UsageError: when the job cannot be pickled.
        StoreError: when the file cannot be written.
    """
    try:
        content = pickle.dumps(job, protocol=5)
    except Exception as error:
        raise UsageError(
            f"This job cannot be sent to other processes: {type(error).__name__}: {error!s:.200}",
            where=job.name,
            advice="Use workers=1, or classes and functions that are defined in an importable module.",
        ) from error
    try:
        scratch.mkdir(mode=0o700)
        handle = os.open(scratch / JOB, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
    except OSError as error:
        refuse(error, scratch / JOB)
    return hashlib.sha256(content).hexdigest()


def work(ticket: Ticket, stage: int, name: str, arguments: Mapping[str, Any], cost: float) -> Row | Failure:
    """Compute one item and keep its outcome. Errors come back as values; only the death of the process is different.

    Args:
        ticket: which sweep.
        stage: number of the stage.
        name: of the item.
        arguments: of the item.
        cost: of the item.

    Returns:
        The row of what is kept now, or what went wrong.
    """
    try:
        item = Item(name, arguments, cost)
        key = item_key(ticket.digest, stage, item)
        state = _state(ticket)
        mark = ticket.scratch / f"now-{os.getpid()}-{threading.get_ident()}"
        with locks.working(ticket.root / BUSY):
            try:
                mark.write_text(key, encoding="ascii")
                return _computed(ticket, state, stage, item, key)
            finally:
                discard(mark)
                if not ticket.keep_open:
                    state.threads.restore()
    except Exception as error:
        return failure_of(error)


def _computed(ticket: Ticket, state: _State, stage: int, item: Item, key: str) -> Row:
    assert state.job is not None
    assert state.writer is not None
    state.threads.use()
    if state.stage != stage or state.compute is None:
        state.compute = None  # lets go of the earlier stage's memory first
        state.compute, state.stage = state.job.open(stage, earlier(ticket, stage)), stage
        state.threads.use()  # the job may have imported torch only now
    begin = time.perf_counter()
    outcome = normalised(state.compute(item), item.name)
    return state.writer.write(key, stage, item.name, outcome, time.perf_counter() - begin)


def earlier(ticket: Ticket, stage: int) -> Done:
    """The outcomes of the stages before this one."""
    keys: dict[str, str] = {}
    for number in range(stage):
        keys |= json.loads(index_file(ticket.scratch, number).read_text(encoding="utf-8"))
    return Done(ticket.root, keys)


def index_file(scratch: Path, stage: int) -> Path:
    """Where a finished stage's keys are listed by item name, for workers."""
    return scratch / f"stage-{stage}.json"


def _state(ticket: Ticket) -> _State:
    state: _State = getattr(_local, "state", None) or _State()
    if state.scratch == ticket.scratch:
        return state
    if state.writer is not None:
        state.writer.close()
    elsewhere = (os.getpid(), platform.node()) != (ticket.process, ticket.host)
    if versions() != ticket.versions:
        raise _unequal(f"{versions()} there, {ticket.versions} here")
    if elsewhere and (why := apply(dict(ticket.torch))):
        raise _unequal(why)
    job = read_job(ticket.scratch, ticket.pickled)
    if digest_of(job) != ticket.digest:
        raise _unequal("the job has another identity there")
    token = f"{platform.node()[:20] or 'host'}-{os.getpid()}-{secrets.token_hex(4)}".replace("/", "_")
    writer = Writer(ticket.root, token, durable=ticket.durable, keep_open=ticket.keep_open)
    threads = Threads(ticket.threads, None if elsewhere else ticket.before)
    _local.state = _State(ticket.scratch, job, -1, None, writer, threads)
    return _local.state


def read_job(scratch: Path, pickled: str) -> Job:
    """Read the job that `send` wrote.

    Args:
        scratch: folder of the run.
        pickled: SHA-256 that the file has to have; it is not opened otherwise.

    Returns:
        The job.

    Raises:
        UsageError: when the file cannot be seen here, was changed, or needs what cannot be imported.
    """
    path = scratch / JOB
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"A worker on {platform.node()} cannot see the directory of this run.",
            where=str(path),
            advice="Give a directory that all machines share.",
        ) from error
    if hashlib.sha256(content).hexdigest() != pickled:
        raise UsageError("The job's file was changed on the way to a worker.", where=str(path), advice="Run again.")
    try:
        return pickle.loads(content)
    except Exception as error:
        raise UsageError(
            f"A worker cannot read the job: {type(error).__name__}: {error!s:.200}",
            where=str(path),
            advice="Define what it needs in a module that workers can import, or use workers=1.",
        ) from error


def _unequal(why: str) -> UsageError:
    return UsageError(
        f"A worker would not compute the same numbers: {why}.",
        where=platform.node(),
        advice="Use the same versions and settings on all machines.",
    )
