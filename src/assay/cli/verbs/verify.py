"""Check a run directory for damage: every file against its checksum."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from assay.cli import streams
from assay.cli.options import OUTPUT

DAMAGED = 3


def run(
    directory: Annotated[Path, Parameter(help="Run directory, finished or not.")],
    /,
    *,
    json: Annotated[bool, Parameter(group=OUTPUT, help="Print one JSON document instead of text.")] = False,
) -> int:
    """Check a run directory; exit 0 when it is intact, 3 when a file is damaged."""
    from assay.sweep.verify import verify

    found = verify(directory)
    if json:
        from json import dumps

        print(dumps({"format": "assay-verification", "version": 1, "intact": found.intact} | asdict(found), indent=2))
    else:
        from rich.text import Text

        from assay.render.text import clean

        console = streams.output()
        for damage in found.damages:
            console.print(Text("damaged: ", style="bold red") + Text(clean(f"{damage.path}: {damage.why}"), style=""))
        for note in found.notes:
            console.print(Text(clean(f"note: {note}")))
        files = f"{found.files} file{'s' if found.files != 1 else ''}"
        verdict = "intact" if found.intact else f"{len(found.damages)} damaged"
        console.print(Text(clean(f"{directory}: {files} checked, {verdict}")))
    return 0 if found.intact else DAMAGED
