"""Compare two runs: what got better or worse, and whether the evidence carries it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Group, Parameter

from assay.cli import job
from assay.cli.options import OUTPUT, Printing

TEST = Group("Test", sort_key=0)
DIRECTORY = "assay-compare"


def run(
    before: Annotated[Path, Parameter(help="Run directory of the first audit.")],
    after: Annotated[Path, Parameter(help="Run directory of the second audit.")],
    /,
    *,
    level: Annotated[
        float, Parameter(group=TEST, help="Of intervals; the rest is the share of false discoveries allowed.")
    ] = 0.95,
    smallest: Annotated[
        float, Parameter(group=TEST, help="Relative differences below this are taken for rounding.")
    ] = 1e-3,
    resamples: Annotated[int, Parameter(group=TEST, help="Draws of bootstrap and permutation.")] = 9999,
    output: Annotated[
        Path | None,
        Parameter(
            name=["--output", "-o"],
            group=OUTPUT,
            help=f"Directory of the comparison; {DIRECTORY} when not given, or {DIRECTORY}-2, ... where that exists.",
        ),
    ] = None,
    fail_on: Annotated[
        Literal["worse", "never"], Parameter(group=OUTPUT, help="Exit with 1 when a quantity got worse.")
    ] = "never",
    printing: Printing = Printing(),
) -> int:
    """Compare two runs; exit 0, or 1 with --fail-on worse when a quantity got worse."""
    from assay.comparing.compare import compare, joined, worse
    from assay.errors import UsageError
    from assay.store import open_run
    from assay.store.checksums import write_checksums

    runs = open_run(before), open_run(after)
    directory = output if output is not None else job.fresh_directory(DIRECTORY)
    if directory.exists() and any(directory.samefile(place) for place in (before, after)):
        raise UsageError(
            "The comparison would replace one of the runs.",
            where=str(directory),
            advice="Give another directory with -o.",
        )
    job.check_directory(directory)
    result = compare(*runs, level=level, smallest=smallest, resamples=resamples)
    comparison = joined(*runs, result)
    comparison.save(directory)
    report = comparison.report(directory / job.REPORT)
    write_checksums(directory)
    job.show(comparison, directory, report, printing)
    return int(fail_on == "worse" and worse(result) > 0)
