"""Where items run: worker processes of our own, or any executor of `concurrent.futures` that a user brings."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection
from typing import Any, Literal, Protocol, TypeAlias

from assay.errors import UsageError

Choice: TypeAlias = futures.Executor | Literal["local", "ray"] | None
"""What a user may give as executor."""


class Crew(Protocol):
    """Workers, as the engine sees them.

    Attributes:
        size: items that run at once, as it is now.
        ends_with_run: whether the workers end when the run does.
        breaks_as_one: whether the death of one worker takes all that is out with it.
    """

    ends_with_run: bool
    breaks_as_one: bool

    @property
    def size(self) -> int:
        """See above."""
        ...

    def submit(self, function: Callable[..., Any], *arguments: Any) -> futures.Future[Any]:
        """Send one call."""
        ...

    def lost(self, error: BaseException) -> bool:
        """Whether an error means that a worker died, and not that the work failed."""
        ...

    def renew(self) -> bool:
        """After a death: make workers fit to go on; False when they cannot be."""
        ...

    def stop(self, *, now: bool) -> None:
        """Let go of the workers; with `now`, without waiting for what they are doing."""
        ...


class LocalPool:
    """Processes of our own, started afresh (spawn), that die with this process.

    Args:
        size: number of processes.
    """

    ends_with_run = True
    breaks_as_one = True

    def __init__(self, size: int) -> None:
        self.size = size
        self._pool = self._made()

    def _made(self) -> futures.ProcessPoolExecutor:
        context = multiprocessing.get_context("spawn")
        return futures.ProcessPoolExecutor(self.size, mp_context=context, initializer=_begin)

    def submit(self, function: Callable[..., Any], *arguments: Any) -> futures.Future[Any]:
        """Send one call; processes that this starts do not hear Ctrl-C, which is the coordinator's to handle."""
        with _interrupts_blocked():
            return self._pool.submit(function, *arguments)

    def lost(self, error: BaseException) -> bool:
        """A dead process breaks the whole pool."""
        return isinstance(error, BrokenProcessPool)

    def renew(self) -> bool:
        """A new pool in place of the broken one."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._pool = self._made()
        return True

    def stop(self, *, now: bool) -> None:
        """End the processes; what they were computing is lost when `now`, what they have written is whole."""
        if now:
            for process in list((getattr(self._pool, "_processes", None) or {}).values()):
                process.kill()
        self._pool.shutdown(wait=True, cancel_futures=True)


class Borrowed:
    """An executor of the user's, which stays as it is.

    Args:
        executor: of `concurrent.futures`, or one that behaves so.
        workers: items to run at once where the executor does not say.
    """

    ends_with_run = False
    breaks_as_one = True

    def __init__(self, executor: futures.Executor, workers: int) -> None:
        self.size = int(getattr(executor, "_max_workers", 0) or max(workers, os.cpu_count() or 1))
        self._executor = executor
        self._sent: set[futures.Future[Any]] = set()

    def submit(self, function: Callable[..., Any], *arguments: Any) -> futures.Future[Any]:
        """Send one call."""
        future = self._executor.submit(function, *arguments)
        self._sent.add(future)
        future.add_done_callback(self._sent.discard)
        return future

    def lost(self, error: BaseException) -> bool:
        """A broken executor, or one that was shut down."""
        shut = isinstance(error, RuntimeError) and "after shutdown" in str(error)
        return shut or isinstance(error, futures.BrokenExecutor | futures.CancelledError)

    def renew(self) -> bool:
        """Not ours to renew."""
        return False

    def stop(self, *, now: bool) -> None:
        """Take back what has not begun."""
        for future in list(self._sent):
            future.cancel()


def crew_of(executor: Choice, workers: int, threads: int) -> Crew:
    """The workers that a user asks for.

    Args:
        executor: None or "local" for processes of our own, "ray" for a Ray cluster, or an executor.
        workers: how many at once.
        threads: that each of them uses.

    Returns:
        The crew.

    Raises:
        UsageError: for anything else.
        MissingExtra: when Ray is asked for and absent.
    """
    if executor is None or executor == "local":
        return LocalPool(workers)
    if executor == "ray":
        from assay.sweep.ray_cluster import RayCluster

        return RayCluster(threads)
    if isinstance(executor, str) or not callable(getattr(executor, "submit", None)):
        raise UsageError(
            f"{executor!r:.80} is no executor.",
            where="executor",
            advice='Give "local", "ray", or an executor with the submit() of concurrent.futures.',
        )
    return Borrowed(executor, workers)


def _begin() -> None:
    """In a new worker process: leave Ctrl-C to the coordinator, and end when it ends, however that happens."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)


@contextlib.contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Processes started in the block inherit the mask, and are deaf to Ctrl-C from their first moment."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
