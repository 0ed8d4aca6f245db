"""What goes where: the result to stdout, everything else to stderr, on terminals of every kind."""

from __future__ import annotations

import codecs
import contextlib
import os
import sys
import unicodedata
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from assay.progress import Progress

if TYPE_CHECKING:
    from rich.console import Console


_PLAIN = {
    "·": "-",
    "→": "->",
    "…": "...",
    "±": "+-",
    "×": "x",
    "−": "-",
    "–": "-",
    "≤": "<=",
    "≥": ">=",
    "κ": "kappa",
    "σ": "sigma",
    "µ": "u",
    "⟨": "<",
    "⟩": ">",
}


def transliterate(error: UnicodeError) -> tuple[str, int]:
    """An error handler for encoding: characters the terminal does not have, in plain letters, else a question mark.

    Returns:
        The replacement, and where to go on.

    Raises:
        UnicodeError: when it is not about encoding.

    Example:
        >>> "κ ≥ 30 → é".encode("ascii", "assay-plain")
        b'kappa >= 30 -> e'
    """
    if not isinstance(error, UnicodeEncodeError):
        raise error
    plain = ""
    for character in error.object[error.start : error.end]:
        bare = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
        plain += _PLAIN.get(character) or bare or "?"
    return plain, error.end


codecs.register_error("assay-plain", transliterate)


@contextlib.contextmanager
def printable() -> Iterator[None]:
    """Let stdout and stderr take any text, whatever their encoding; as before on leaving."""
    changed: list[tuple[Any, str]] = []
    for stream in (sys.stdout, sys.stderr):
        reconfigure, before = getattr(stream, "reconfigure", None), getattr(stream, "errors", None)
        if reconfigure is not None and before is not None:
            reconfigure(errors="assay-plain")
            changed.append((stream, before))
    try:
        yield
    finally:
        for stream, before in changed:
            with contextlib.suppress(OSError, ValueError):
                stream.reconfigure(errors=before)


def silence_stdout() -> None:
    """Point stdout at nothing, so that the interpreter's last flush does not complain about a closed pipe."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def output() -> Console:
    """The console for results; no colours unless stdout is a terminal and NO_COLOR is unset."""
    from rich.console import Console

    return Console(file=sys.stdout, highlight=False, markup=False, emoji=False)


def messages() -> Console:
    """The console for messages, plans and progress: stderr."""
    from rich.console import Console

    return Console(file=sys.stderr, highlight=False, markup=False, emoji=False)


@contextlib.contextmanager
def result_only() -> Iterator[None]:
    """Send what models, factories and libraries print to stderr: stdout carries nothing but the result."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


@contextlib.contextmanager
def progress(quiet: bool = False) -> Iterator[Progress | None]:
    """A progress bar with the time left, on stderr and only when that is a terminal.

    Yields:
        `progress(done, total, text)`, or None where nothing is shown.
    """
    console = messages()
    if quiet or not console.is_terminal:
        yield None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=console, transient=True, redirect_stdout=False) as bar:
        task = bar.add_task("", total=None)

        def show(done: int, total: int, text: str) -> None:
            current = bar.tasks[0]
            if total != current.total or done < current.completed:  # the next piece of work has its own speed
                bar.reset(task, total=total)
            bar.update(task, completed=done, total=total, description=text[:60])

        yield show
