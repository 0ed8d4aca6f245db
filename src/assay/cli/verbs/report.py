"""Make the report of a run directory again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from assay.cli import job
from assay.cli.options import OUTPUT, Printing


def run(
    directory: Annotated[Path, Parameter(help="Run directory that an audit wrote.")],
    /,
    *,
    output: Annotated[
        Path | None,
        Parameter(
            name=["--output", "-o"], group=OUTPUT, help=f"The HTML file; {job.REPORT} in the directory if not given."
        ),
    ] = None,
    printing: Printing = Printing(),
) -> int:
    """Read a run back, write its report, show its summary."""
    from assay.store import open_run
    from assay.store.checksums import update_report

    result = open_run(directory)
    report = result.report(output if output is not None else directory / job.REPORT)
    if report.absolute() == (directory / job.REPORT).absolute():
        update_report(directory)
    job.show(result, directory, report, printing)
    return 0
