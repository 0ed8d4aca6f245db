"""Audit the built-in digits network with its own test data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from assay.cli import job
from assay.cli.invocation import Invocation
from assay.cli.options import OUTPUT, Loading, Printing


def run(
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"], group=OUTPUT, help="Run directory.")] = Path(
        "assay-demo"
    ),
    printing: Printing = Printing(),
) -> int:
    """Audit the built-in network; findings do not change the exit code."""
    from assay.config import AuditConfig

    job.perform(Invocation.of("demo", Loading(), None, "never"), output, AuditConfig(), printing=printing)
    return 0
