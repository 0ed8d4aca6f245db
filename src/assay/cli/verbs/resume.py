"""Go on with a run that was interrupted: what is done stays, the rest is computed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from assay.cli import job
from assay.cli.invocation import Invocation
from assay.cli.options import LOADING, Printing
from assay.cli.request import exit_code


def run(
    directory: Annotated[Path, Parameter(help="Run directory of an audit or demo.")],
    /,
    *,
    trust: Annotated[
        bool, Parameter(group=LOADING, help="Allow again what the run was allowed to execute when it began.")
    ] = False,
    printing: Printing = Printing(),
) -> int:
    """Go on with a run; the exit code is the one of the audit."""
    from assay.config import read_config

    asked = Invocation.read(directory, trust=trust)
    config = read_config(directory / job.CONFIG)
    result = job.perform(asked, directory, config, printing=printing, resume=True)
    return exit_code(result, asked.fail_on)
