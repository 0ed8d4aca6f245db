"""SIGTERM as an exception, so that long work is left in order."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any, NoReturn


class Terminated(KeyboardInterrupt):
    """The process was asked to end (SIGTERM). As Ctrl-C, it is no error and passes `except Exception`."""


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Raise `Terminated` on SIGTERM while the block runs; does nothing where the program handles SIGTERM itself.

    Yields:
        Nothing.

    Example:
        >>> with terminable():
        ...     print("working")
        working
    """
    ours = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    if ours:
        signal.signal(signal.SIGTERM, _raise)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _raise(number: int, frame: Any) -> NoReturn:
    raise Terminated
