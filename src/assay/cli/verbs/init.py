"""Write a configuration file in which every setting is explained."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from assay.cli import streams
from assay.cli.options import LOADING, OUTPUT, Effort
from assay.errors import StoreError


def run(
    model: Annotated[str | None, Parameter(help="The model, for the line that says how to use the file.")] = None,
    /,
    *,
    effort: Effort = Effort(),
    data: Annotated[str | None, Parameter(group=LOADING, help="The data, likewise.")] = None,
    output: Annotated[Path, Parameter(name=["--output", "-o"], group=OUTPUT, help="The file.")] = Path("assay.toml"),
    show: Annotated[bool, Parameter(name="--print", group=OUTPUT, help="Print it and write nothing.")] = False,
    force: Annotated[bool, Parameter(group=OUTPUT, help="Replace a file that exists.")] = False,
) -> int:
    """Write the file; refuse to replace one."""
    from assay.cli.template import template

    text = template(preset=effort.preset(), model=model, data=data, file=output)
    if show:
        print(text, end="")
        return 0
    if output.exists() and (output.is_dir() or not force):
        raise StoreError(
            "This is a directory." if output.is_dir() else "This file exists.",
            where=str(output),
            advice="Give another name with -o." if output.is_dir() else "Give another with -o, or --force.",
        )
    from rich.text import Text

    from assay.render.text import clean
    from assay.results.atomic import write_atomic

    write_atomic(output, text)
    streams.messages().print(Text(clean(f"Settings written to {output}; `assay audit --config {output}` reads them.")))
    return 0
