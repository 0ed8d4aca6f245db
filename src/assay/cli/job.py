"""The job of `audit` and `demo`: directory, plan, progress, results as they finish, report, summary."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from assay.cli import streams
from assay.cli.failures import Interrupted
from assay.cli.memory import keep_freed_memory
from assay.cli.options import Printing
from assay.errors import StoreError, UsageError

if TYPE_CHECKING:
    from assay.config import AuditConfig
    from assay.results import Audit
    from assay.subject import Subject

REPORT = "report.html"
CONFIG = "config.toml"
UNFINISHED = "The run ended before this analysis did."


def perform(
    load: Callable[[], Subject],
    directory: Path,
    config: AuditConfig,
    *,
    only: Sequence[str] | None = None,
    printing: Printing,
) -> Audit:
    """Load, audit, save and show.

    Args:
        load: makes the subject.
        directory: run directory; results of an earlier run in it are replaced.
        config: settings of every analysis; kept in the directory as TOML.
        only: names of analyses; all when None.
        printing: what to print.

    Returns:
        The audit, saved and shown.

    Raises:
        UsageError: for an unknown analysis.
        AssayError: when the subject, the directory or the settings cannot be used.
        Interrupted: after Ctrl-C, saying what was saved.
    """
    check_directory(directory)
    keep_freed_memory()
    with streams.result_only():
        from assay.audit import ANALYSES, audit, plan
        from assay.config import to_toml
        from assay.results import Audit
        from assay.results.atomic import discard, write_atomic
        from assay.store import save_audit

        unknown = [name for name in only or () if name not in ANALYSES]
        if unknown or (only is not None and not only):
            raise UsageError(
                f"There is no analysis {unknown[0]!r}." if unknown else "--only names no analysis.",
                where="--only",
                advice=f"Choose from: {', '.join(ANALYSES)}.",
            )
        subject = load()
        steps = plan(subject, config, only)
        if not printing.quiet:
            _say_plan(subject, steps, directory)
        # From here on the directory tells the truth about this run, whenever it ends.
        save_audit(Audit(subject.describe(), {}, dict.fromkeys((name for name, _ in steps), UNFINISHED)), directory)
        discard(directory / REPORT)
        write_atomic(directory / CONFIG, to_toml(config))
        try:
            with streams.progress(printing.quiet) as progress:
                run = audit(subject, only=only, config=config, out=directory, progress=progress)
            report = run.report(directory / REPORT)
        except KeyboardInterrupt as error:
            raise Interrupted(_saved(directory)) from error
    show(run, directory, report, printing)
    return run


def show(run: Audit, directory: Path, report: Path, printing: Printing) -> None:
    """Print the result: a summary, or one JSON document."""
    if printing.json:
        from assay.render.json import to_json

        document = json.loads(to_json(run)) | {"directory": str(directory), "report": str(report)}
        print(json.dumps(document, indent=2))
    elif not printing.quiet:
        from assay.render.terminal import print_audit

        print_audit(run, streams.output(), report=report)


def fresh_directory(name: str) -> Path:
    """The first of `name`, `name-2`, `name-3`, ... that does not exist in the current folder."""
    return next(path for n in count(1) if not (path := Path(name if n == 1 else f"{name}-{n}")).exists())


def check_directory(directory: Path) -> None:
    """Refuse a place where no directory can be made or written to, before any work is done.

    Raises:
        StoreError: saying why.
    """
    try:
        place = next(path for path in (directory, *directory.absolute().parents) if path.exists())
        if not place.is_dir():
            raise StoreError(
                "A file stands where the run directory should be.",
                where=str(place),
                advice="Give another directory with -o, or move the file away.",
            )
        if not os.access(place, os.W_OK | os.X_OK):
            raise StoreError("No permission to write here.", where=str(place), advice="Give another directory with -o.")
    except OSError as error:
        raise StoreError(
            f"This cannot be a directory: {error.strerror or error}.",
            where=str(directory),
            advice="Give another with -o.",
        ) from error


def _say_plan(subject: Subject, steps: Sequence[tuple[str, str]], directory: Path) -> None:
    from rich.padding import Padding
    from rich.text import Text

    from assay.render.text import clean

    console = streams.messages()
    console.print(
        Text(f"Plan for {clean(subject.name)}; results go to {clean(str(directory))}, Ctrl-C keeps the finished ones:")
    )
    for name, cost in steps:
        console.print(Padding(Text(f"{name}: {clean(cost)}"), (0, 0, 0, 2), expand=False))


def _saved(directory: Path) -> str:
    """What is in the directory after an interrupt."""
    from assay.errors import AssayError
    from assay.store import open_run

    try:
        finished = list(open_run(directory).results)
    except AssayError:
        finished = []
    if not finished:
        return "No analysis had finished; nothing was saved."
    return f"Finished and saved: {', '.join(finished)}. `assay report {directory}` makes a report of that."
