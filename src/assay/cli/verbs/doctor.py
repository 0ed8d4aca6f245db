"""Look at a model without analysing it: can it be captured, what has a rule, what would be approximated."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from assay.cli import streams
from assay.cli.options import OUTPUT, Loading, Model


def run(
    model: Model,
    /,
    *,
    loading: Loading = Loading(),
    json: Annotated[bool, Parameter(group=OUTPUT, help="Print one JSON document instead of text.")] = False,
) -> int:
    """Look at a model; exit 0 whenever it could be loaded, also when it cannot be captured."""
    with streams.result_only():
        from assay.cli.examination import examine, print_examination

        found = examine(loading.load(model))
    if json:
        from json import dumps

        print(dumps(found, indent=2))
    else:
        print_examination(found, streams.output())
    return 0
