"""Audit a model: run the analyses, keep the results, write the report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Group, Parameter

from assay.cli import job
from assay.cli.invocation import Invocation
from assay.cli.options import OUTPUT, Loading, Model, Printing
from assay.cli.settings import flags_of, merged, split_commas
from assay.config import AuditConfig
from assay.errors import UsageError
from assay.results import Audit, Status

if TYPE_CHECKING:
    Settings = AuditConfig
else:
    Settings = flags_of(AuditConfig)

RUN = Group("Run", sort_key=0)
DIRECTORY = "assay-audit"


def run(
    model: Model,
    /,
    *,
    only: Annotated[
        tuple[str, ...], Parameter(group=RUN, consume_multiple=1, help="Analyses to run: moments,sensitivity; all.")
    ] = (),
    config: Annotated[Path | None, Parameter(group=RUN, help="TOML file of settings; flags override it.")] = None,
    seed: Annotated[int | None, Parameter(group=RUN, help="Seed of every analysis.")] = None,
    strict: Annotated[
        bool, Parameter(group=RUN, help="Fail, naming them, when operators would have to be approximated.")
    ] = False,
    loading: Loading = Loading(),
    output: Annotated[
        Path | None,
        Parameter(
            name=["--output", "-o"],
            group=OUTPUT,
            help=f"Run directory; {DIRECTORY} when not given, or {DIRECTORY}-2, ... where that exists.",
        ),
    ] = None,
    fail_on: Annotated[
        Literal["warn", "fail", "error", "never"],
        Parameter(group=OUTPUT, help="Exit with 1 on such findings or worse."),
    ] = "fail",
    printing: Printing = Printing(),
    settings: Annotated[Settings, Parameter(name="*")] = Settings(),
) -> int:
    """Audit a model."""
    merged_config = merged(settings, file=config, seed=seed, strict=strict)
    if loading.data is None and not model.startswith("demo"):
        raise UsageError(
            "An audit needs data to question the model with.",
            where="--data",
            advice="Add --data: a folder of pictures, FILE.npz, FILE.csv, sklearn:NAME, ...",
        )
    directory = output if output is not None else job.fresh_directory(DIRECTORY)
    names = split_commas(only) if only else None
    asked = Invocation.of(model, loading, names, fail_on)
    result = job.perform(asked, directory, merged_config, printing=printing)
    return exit_code(result, fail_on)


def exit_code(result: Audit, fail_on: str) -> int:
    """1 when a finding is at least as bad as `fail_on`, else 0."""
    return int(fail_on != "never" and result.status.severity >= Status(fail_on).severity)
