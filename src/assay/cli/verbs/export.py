"""Write a run for other programs: Parquet, CSV, JSON, safetensors, HTML, or an MLflow server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Group, Parameter

from assay.cli import streams
from assay.cli.options import Printing
from assay.errors import UsageError

TARGET = Group("Format and place", sort_key=0)
SERVER = Group("MLflow", sort_key=1)
MLFLOW = "mlflow"


def run(
    directory: Annotated[Path, Parameter(help="Run directory that an audit wrote.")],
    /,
    *,
    output: Annotated[
        Path | None,
        Parameter(
            name=["--output", "-o"],
            group=TARGET,
            help="A file, or a folder for csv and parquet.",
        ),
    ] = None,
    format: Annotated[
        str | None,
        Parameter(
            group=TARGET,
            help="parquet, csv, json, safetensors, html, markdown, junit, mlflow, or that of a plug-in; by the ending "
            "of --output if not given.",
        ),
    ] = None,
    uri: Annotated[
        str | None, Parameter(group=SERVER, help="Tracking server, http://HOST:PORT; MLFLOW_TRACKING_URI if not given.")
    ] = None,
    experiment: Annotated[str | None, Parameter(group=SERVER, help="Experiment; made when missing.")] = None,
    run_name: Annotated[
        str | None, Parameter(group=SERVER, help="Name of the run; that of the model if not given.")
    ] = None,
    printing: Printing = Printing(),
) -> int:
    """Read a run back and write it in another format. Only mlflow uses the network, and only to its --uri."""
    if format == MLFLOW:
        if output is not None:
            raise UsageError(
                "MLflow takes a server, not a file.", where="--output", advice="Say --uri http://HOST:PORT instead."
            )
        return _log(directory, uri, experiment, run_name, printing)
    for flag, given in (("--uri", uri), ("--experiment", experiment), ("--run-name", run_name)):
        if given is not None:
            raise UsageError(f"{flag} belongs to --format mlflow.", where=flag, advice="Add --format mlflow.")
    if output is None:
        raise UsageError("The place to write to is missing.", where="--output", advice="Say -o PATH.")
    from assay.render.export import export, notes
    from assay.store import open_run

    audit = open_run(directory)
    _check_outside(directory, output)
    files = export(audit, output, format)
    _say_notes(notes(format or ""), printing)
    total = sum(file.stat().st_size for file in files)
    if printing.json:
        _print_json({"format": "assay-exported", "version": 1, "bytes": total, "files": [str(file) for file in files]})
    elif not printing.quiet:
        _print(f"{output}: {len(files)} file{'s' if len(files) != 1 else ''}, {total:,} bytes")
    return 0


def _log(directory: Path, uri: str | None, experiment: str | None, run_name: str | None, printing: Printing) -> int:
    from assay.render.mlflow import log_audit
    from assay.store import open_run

    audit = open_run(directory)
    with streams.result_only():
        logged = log_audit(audit, experiment=experiment, run_name=run_name, tracking_uri=uri)
    if printing.json:
        _print_json({"format": "assay-logged", "version": 1} | vars(logged))
    elif not printing.quiet:
        _print(f"{logged.uri}: experiment {logged.experiment}, run {logged.run_name} ({logged.run_id})")
    return 0


def _check_outside(directory: Path, output: Path) -> None:
    """A run directory holds what its checksums list, and nothing else."""
    if output.resolve().is_relative_to(directory.resolve()):
        raise UsageError(
            "An export does not go into the run directory: its checksums say what belongs there.",
            where=str(output),
            advice="Give a place outside of it with -o.",
        )


def _say_notes(sentences: tuple[str, ...], printing: Printing) -> None:
    from rich.text import Text

    from assay.render.text import clean

    for sentence in () if printing.quiet else sentences:
        streams.messages().print(Text(clean(f"note: {sentence}")))


def _print(sentence: str) -> None:
    from rich.text import Text

    from assay.render.text import clean

    streams.output().print(Text(clean(sentence)), soft_wrap=True)


def _print_json(document: dict) -> None:
    from json import dumps

    print(dumps(document, indent=2))
