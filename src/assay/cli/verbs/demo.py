"""Audit the built-in digits network with its own test data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from assay.cli import job
from assay.cli.invocation import Invocation
from assay.cli.options import OUTPUT, Effort, Loading, Printing


def run(
    *,
    effort: Effort = Effort(),
    output: Annotated[Path, Parameter(name=["--output", "-o"], group=OUTPUT, help="Run directory.")] = Path(
        "assay-demo"
    ),
    printing: Printing = Printing(),
) -> int:
    """Audit the built-in network; findings do not change the exit code."""
    preset = effort.preset()
    from assay.config import AuditConfig
    from assay.presets import PRESETS

    config = PRESETS[preset].config() if preset is not None else AuditConfig()
    job.perform(Invocation.of("demo", Loading(), None, "never"), output, config, printing=printing)
    return 0
