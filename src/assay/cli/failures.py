"""What a user sees when something goes wrong: what, where, what to do next, and an exit code. Never a traceback."""

from __future__ import annotations

import errno
import re
import sys
import tempfile
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from assay._version import __version__
from assay.errors import AssayError, StoreError, SubjectError, UsageError

if TYPE_CHECKING:
    from cyclopts import CycloptsError

INTERRUPTED = 130
TERMINATED = 143
BROKEN_PIPE = 141
INTERNAL = 4


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM, with what the user should know about the work done so far.

    Args:
        message: what was saved.
        exit_code: of the process.
    """

    def __init__(self, message: str, exit_code: int = 130) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def explain(error: BaseException, *, debug: bool = False) -> int:
    """Print what went wrong on stderr.

    Args:
        error: anything that ended the run.
        debug: show the traceback, too.

    Returns:
        The exit code.
    """
    if debug:
        print(without_secrets("".join(traceback.format_exception(error))), end="", file=sys.stderr)
    if isinstance(error, KeyboardInterrupt):
        _print([("interrupted", str(error) or "Nothing was saved.")])
        return getattr(error, "exit_code", INTERRUPTED)
    known = error if isinstance(error, AssayError) else _recognised(error)
    if known is not None:
        _print([("error", known.what), ("where", known.where), ("next", known.advice)])
        return known.exit_code
    described = f"{type(error).__name__}: {_first_line(str(error))}" if str(error) else type(error).__name__
    _print(
        [
            ("internal error", f"{described}. This is a defect of assay, not of your input."),
            ("where", _log(error)),
            ("next", "Please report it with that file (it holds no data). --debug shows the traceback here."),
        ]
    )
    return INTERNAL


def usage_error(error: CycloptsError, verbs: Iterable[str]) -> UsageError:
    """What the parser refused, naming the flag.

    Returns:
        An error with exit code 2.
    """
    from cyclopts import MissingArgumentError, UnknownCommandError, UnusedCliTokensError

    chain = list(error.command_chain or ())
    command = " ".join(["assay", *chain])
    what, advice = _first_line(str(error)), f"`{command} --help` lists all options."
    where = error.argument.name if error.argument is not None else command
    if isinstance(error, UnknownCommandError) or (isinstance(error, UnusedCliTokensError) and not chain):
        what, advice = what.split(" Available")[0], f"Verbs: {', '.join(verbs)}."
    elif isinstance(error, UnusedCliTokensError):
        what = f"Not expected here: {' '.join(error.unused_tokens or [])}"
        advice = f"An option with several values takes them with commas: --mean 0.5,0.4,0.3. {advice}"
    elif isinstance(error, MissingArgumentError) and not where.startswith("-"):
        what = f"{where} is missing."
        advice = f"Write it right after the verb: `{command} {where}`. {advice}"
    elif isinstance(error, MissingArgumentError):
        what = re.sub(r'^Command ".*?" parameter ', "", what).replace("positional arguments", "values")
    else:
        what, where = _of_a_field(error.__cause__) or (what, where)
    return UsageError(what, where=where, advice=advice)


def _of_a_field(cause: BaseException | None) -> tuple[str, str] | None:
    """Message and flag of the first value that pydantic refused."""
    from pydantic import ValidationError

    if not isinstance(cause, ValidationError):
        return None
    first = cause.errors()[0]
    if first["type"] == "model_type":
        name = flag_of(map(str, first["loc"]))
        return f"{name} is a group of options, such as {name}.seed, and no option by itself.", name
    flag = flag_of(part for part in first["loc"] if isinstance(part, str))
    return f"{flag}: {first['msg']}, not {repr(first['input'])[:80]}.", flag


def flag_of(path: Iterable[str]) -> str:
    """The flag of a setting.

    Returns:
        Its name.

    Example:
        >>> flag_of(["moments", "flip_above"])
        '--moments.flip-above'
    """
    return "--" + ".".join(part.replace("_", "-") for part in path)


def without_secrets(text: str) -> str:
    """Text in which addresses have lost user and password.

    Returns:
        The text.

    Example:
        >>> without_secrets("Not expected here: https://me:pass@host:5000")
        'Not expected here: https://host:5000'
    """
    return re.sub(r"://\S*@", "://", text)


def _recognised(error: BaseException) -> AssayError | None:
    """Errors of the machine rather than of the program."""
    if isinstance(error, MemoryError) or "not enough memory: you tried to allocate" in str(error):
        return SubjectError(
            "There is not enough memory for this.",
            where=_first_line(str(error)) or "memory of this machine",
            advice="Take fewer inputs (--moments.inputs, --sensitivity.inputs), or a smaller batch "
            "(--sensitivity.batch-size).",
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS):
        return StoreError(
            f"Writing failed: {error.strerror}.",
            where=str(error.filename or "standard output"),
            advice="Free some space or write elsewhere, then run again.",
        )
    return None


def _print(lines: list[tuple[str, str]]) -> None:
    """Labelled lines on stderr; a closed or full stderr is no reason to fail again."""
    from rich.text import Text

    from assay.cli.streams import messages
    from assay.render.text import clean

    try:
        console = messages()
        for position, (label, content) in enumerate(lines):
            if content:
                style = "bold red" if position == 0 else "bold"
                shown = Text(f"{label}: ", style=style) + Text(clean(without_secrets(content)), style="")
                console.print(shown, soft_wrap=not console.is_terminal)
    except OSError:
        pass


def _log(error: BaseException) -> str:
    """Write the traceback to a file of its own.

    Returns:
        Its path, or the innermost line of the traceback where none can be written.
    """
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else "unknown"
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="assay-error-", suffix=".log", delete=False, encoding="utf-8", errors="backslashreplace"
        ) as file:
            file.write(f"assay {__version__}, Python {sys.version}\n")
            file.write(without_secrets("".join(traceback.format_exception(error))))
            return f"{place}; the traceback is in {file.name}"
    except OSError:
        return place


def _first_line(message: str) -> str:
    lines = message.strip().splitlines()
    return lines[0] if lines else ""
