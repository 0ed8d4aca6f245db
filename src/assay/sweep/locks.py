"""Locks between processes: one coordinator at a time, and none while workers of an earlier one are still at work.

The system takes a lock away from a process that dies, however it dies.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from assay.errors import StoreError
from assay.results.atomic import refuse

try:
    import fcntl
except ImportError:  # Windows has no flock; names that are unique and atomic renames still keep the files whole
    fcntl = None

PATIENCE = 30.0
"""Seconds to wait for workers that an earlier coordinator left behind; they end by themselves when it dies."""


@contextlib.contextmanager
def coordinating(lock: Path, busy: Path, patience: float = PATIENCE) -> Iterator[None]:
    """Be the only coordinator of a sweep while the block runs.

    Args:
        lock: file that the coordinator holds.
        busy: file that workers hold while they compute and write.
        patience: seconds to wait for workers of an earlier coordinator.

    Yields:
        Nothing.

    Raises:
        StoreError: when another process coordinates this sweep, or its workers do not end.
    """
    with _opened(lock) as handle:
        if not _take(handle, exclusive=True):
            raise StoreError(
                f"Another process is working on this sweep ({_owner(handle)}).",
                where=str(lock.parent),
                advice="Wait until it ends, or stop it; what it has done is kept.",
            )
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        with _opened(busy) as other:
            deadline = time.monotonic() + patience
            while not _take(other, exclusive=True):
                if time.monotonic() > deadline:
                    raise StoreError(
                        "Workers of an earlier run are still at work on this sweep.",
                        where=str(lock.parent),
                        advice="Wait until they have ended, or stop them; what they have done is kept.",
                    )
                time.sleep(0.05)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                os.ftruncate(handle, 0)


@contextlib.contextmanager
def working(busy: Path) -> Iterator[None]:
    """Hold the workers' lock, shared among them, while one item is computed and written.

    Yields:
        Nothing.

    Raises:
        StoreError: when a new coordinator has taken over.
    """
    with _opened(busy) as handle:
        if not _take(handle, exclusive=False):
            raise StoreError("Another process has taken over this sweep.", where=str(busy.parent))
        yield


def in_use(lock: Path) -> bool:
    """Whether a process coordinates this sweep at the moment."""
    if not lock.exists():
        return False
    try:
        with _opened(lock) as handle:
            return not _take(handle, exclusive=False)
    except StoreError:
        return False


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o644)
    except OSError as error:
        refuse(error, path)
    try:
        yield handle
    finally:
        os.close(handle)


def _take(handle: int, *, exclusive: bool) -> bool:
    if fcntl is None:
        return True
    try:
        fcntl.flock(handle, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def _owner(handle: int) -> str:
    with contextlib.suppress(OSError):
        return os.pread(handle, 200, 0).decode("utf-8", "replace") or "unknown"
    return "unknown"
