"""`main`: parse, run one verb, turn whatever goes wrong into one clear message and an exit code."""

from __future__ import annotations

import ast
import os
import sys
import warnings
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from assay import plugins
from assay._version import __version__
from assay.cli import failures, streams
from assay.errors import UsageError

EPILOGUE = """\
Exit codes: 0 fine, 1 findings at or above --fail-on, 2 wrong usage, 3 model, data or directory cannot be used, \
4 internal error, 130 interrupted. With --debug (or ASSAY_DEBUG=1) errors show their traceback. Nothing is executed \
from files and nothing is fetched from a network unless you say --trust. With --no-plugins (or ASSAY_NO_PLUGINS=1) no \
other installed package adds analyses, operators or formats."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: the arguments after the program's name; those of the process when None.

    Returns:
        The exit code.

    Example:
        >>> main(["--version"])
        0.1.0
        0
    """
    arguments = [str(each) for each in (sys.argv[1:] if argv is None else argv)]
    debug = "--debug" in arguments or os.environ.get("ASSAY_DEBUG", "") not in ("", "0")
    without = "--no-plugins" in arguments
    arguments = [each for each in arguments if each not in ("--debug", "--no-plugins")]
    with plugins.switched_off(without), streams.printable(), warnings.catch_warnings():
        if not sys.warnoptions and not debug:
            warnings.simplefilter("ignore")  # remarks of libraries to programmers; what a user must know is a finding
        try:
            code = _dispatch(arguments)
            sys.stdout.flush()
        except (Exception, KeyboardInterrupt, SystemExit) as error:
            if isinstance(error, BrokenPipeError) or isinstance(error.__context__, BrokenPipeError):
                streams.silence_stdout()  # the reader of our output went away, as `head` does
                return failures.BROKEN_PIPE
            code = failures.explain(error, debug=debug)
        return code


def verbs() -> dict[str, str]:
    """Name and one-line help of every verb, read from the files without importing them."""
    folder = Path(__file__).with_name("verbs")
    found = {}
    for file in sorted(folder.glob("[a-z]*.py")):
        described = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
        found[file.stem.replace("_", "-")] = described.partition("\n")[0]
    return found


def application() -> Any:
    """The cyclopts application with all verbs; a verb's module is imported when it is used."""
    from cyclopts import App, Parameter

    app = App(
        name="assay",
        help="How a trained network responds when its input, parameters or number format change a little.",
        help_epilogue=EPILOGUE,
        version=__version__,
        default_parameter=Parameter(negative=(), show_default=_shown),
        result_action="return_value",
        suppress_keyboard_interrupt=False,
    )
    for name, described in verbs().items():
        module = f"assay.cli.verbs.{name.replace('-', '_')}"
        app.command(f"{module}:run", name=name, help=described, help_epilogue="")
    return app


def _dispatch(arguments: list[str]) -> int:
    from cyclopts import CycloptsError

    known = verbs()
    if arguments and not arguments[0].startswith("-") and arguments[0] not in known:
        close = get_close_matches(
            arguments[0], known, 1
        )  # here, because the parser would import every verb to say this
        advice = f"Did you mean `assay {close[0]}`? " if close else ""
        raise UsageError(
            f"There is no verb {arguments[0]!r}.", where="assay", advice=f"{advice}Verbs: {', '.join(known)}."
        )
    app = application()
    try:
        code = app(arguments or ["--help"], exit_on_error=False, print_error=False)
    except CycloptsError as error:
        raise failures.usage_error(error, known) from error
    return code if isinstance(code, int) else 0


def _shown(default: Any) -> str | None:
    """How help shows a default: as one would type it; switches and absent values show none."""
    if default is None or isinstance(default, bool) or default == ():
        return None
    return " ".join(map(str, default)) if isinstance(default, tuple) else str(default)
