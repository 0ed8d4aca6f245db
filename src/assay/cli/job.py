"""The job of `audit` and `demo`: directory, plan, progress, results as they finish, report, summary."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from assay.cli import streams
from assay.cli.failures import INTERRUPTED, TERMINATED, Interrupted
from assay.cli.memory import keep_freed_memory
from assay.cli.options import Printing
from assay.errors import StoreError, SubjectError, UsageError
from assay.store.layout import CONFIG, REPORT

if TYPE_CHECKING:
    from assay.cli.invocation import Invocation
    from assay.config import AuditConfig
    from assay.results import Audit, Result
    from assay.subject import Subject

UNFINISHED = "The run ended before this analysis did."


def perform(
    asked: Invocation,
    directory: Path,
    config: AuditConfig,
    *,
    printing: Printing,
    resume: bool = False,
) -> Audit:
    """Load, audit, save and show.

    Args:
        asked: model, data and analyses; kept in the directory.
        directory: run directory; results of an earlier run in it are replaced.
        config: settings of every analysis; kept in the directory as TOML.
        printing: what to print.
        resume: take the results that an earlier run of the same request left in the directory.

    Returns:
        The audit, saved and shown.

    Raises:
        UsageError: for an unknown analysis.
        AssayError: when the subject, the directory or the settings cannot be used.
        Interrupted: after Ctrl-C or SIGTERM, saying what was saved.
    """
    only = asked.only
    check_directory(directory)
    keep_freed_memory()
    with streams.result_only():
        from assay.audit import audit, plan
        from assay.config import to_toml
        from assay.render import beside
        from assay.results import Audit
        from assay.results.atomic import write_atomic
        from assay.store import save_audit
        from assay.store.checksums import write_checksums
        from assay.sweep.stopping import Terminated, terminable

        check_names(only)
        subject = asked.load()
        config = with_processes(config, subject, only)
        finished = _finished(subject, directory, config) if resume else {}
        steps = plan(subject, config, only)
        if not printing.quiet:
            _say_plan(subject, [step for step in steps if step[0] not in finished], directory)
        try:
            with terminable():
                # From here on the directory tells the truth about this run, whenever it ends.
                waiting = [name for name, _ in steps if name not in finished]
                save_audit(Audit(subject.describe(), finished, dict.fromkeys(waiting, UNFINISHED)), directory)
                beside.remove(directory / REPORT)
                write_atomic(directory / CONFIG, to_toml(config))
                asked.write(directory)
                with streams.progress(printing.quiet) as progress:
                    run = audit(subject, only=only, config=config, out=directory, finished=finished, progress=progress)
                report = run.report(directory / REPORT)
                write_checksums(directory)
        except KeyboardInterrupt as error:
            code = TERMINATED if isinstance(error, Terminated) else INTERRUPTED
            raise Interrupted(_saved(directory), code) from error
    show(run, directory, report, printing)
    return run


def check_names(only: Sequence[str] | None) -> None:
    """Refuse names of analyses that do not exist, before anything is loaded.

    Raises:
        UsageError: for such a name, or for no name at all.
        unknown: likewise.
    """
    from assay.analyses import ANALYSES, unknown

    for name in only or ():
        if name not in ANALYSES:
            raise unknown(name)
    if only is not None and not only:
        raise UsageError("--only names no analysis.", where="--only", advice=f"Choose from: {', '.join(ANALYSES)}.")


def with_processes(config: AuditConfig, subject: Subject, only: Sequence[str] | None) -> AuditConfig:
    """The settings with as many processes for filtering as it can use, when nobody said how many.

    Here and not in the analysis, since only a program of its own may start processes unasked. Results are the same.

    Returns:
        The settings.
    """
    from assay.filtering.effort import processes

    if (only is not None and "filtering" not in only) or "workers" in config.filtering.model_fields_set:
        return config
    workers = processes(config.filtering, subject)
    if workers == config.filtering.workers:
        return config
    return config.model_copy(update={"filtering": config.filtering.model_copy(update={"workers": workers})})


def _finished(subject: Subject, directory: Path, config: AuditConfig) -> Mapping[str, Result]:
    """Results of an earlier run that this one would compute again: same subject, same settings, same versions."""
    from assay.audit import computed_by
    from assay.store import open_run

    before = open_run(directory)
    now = subject.describe()
    for kind, key in (("model", "model_digest"), ("data", "data_digest")):
        if before.subject.get(key) != now[key]:
            raise SubjectError(
                f"The {kind} is not the one that the run began with.",
                where=str(directory),
                advice=f"Restore the {kind}, or begin a new run with `assay audit`.",
            )
    _check_installed(before, directory)
    wanted = {name: getattr(config, name) for name in before.results if name in type(config).model_fields}
    return {name: before.results[name] for name in wanted if computed_by(before.results[name], wanted[name])}


def _check_installed(before: Audit, directory: Path) -> None:
    """Going on without a package whose results are there would drop them."""
    from assay import plugins
    from assay.analyses import ANALYSES

    for name, result in before.results.items():
        if name not in ANALYSES:
            made = {} if result.provenance is None else result.provenance.versions
            origin = [f"{key.removeprefix(plugins.VERSION_KEY)} {version}" for key, version in made.items()
                      if key.startswith(plugins.VERSION_KEY)]  # fmt: skip
            raise UsageError(
                f"The run has results of the analysis {name!r}, which is not installed here.",
                where=str(directory),
                advice=f"Install {' or '.join(origin) or 'the package that offers it'}, or begin a new run; "
                "`assay report` shows this one as it is.",
            )


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
        return f"No analysis had finished; nothing was saved but pieces. `assay resume {directory}` goes on."
    done = ", ".join(finished)
    return (
        f"Finished and saved: {done}. `assay resume {directory}` goes on, `assay report {directory}` shows that much."
    )
