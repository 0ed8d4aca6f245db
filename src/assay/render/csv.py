"""Tables as CSV (RFC 4180), one file each: unambiguous for programs, harmless in a spreadsheet."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import IO

from assay.render.cells import Cell, plain, unusual
from assay.render.placing import place_folder
from assay.render.tables import columns, pieces
from assay.results import Audit, Table

_FORMULA = re.compile(r"\s*[=+\-@＝＋－＠]|[\t\r\n']")
"""Beginnings of text that a spreadsheet would run or swallow, and the apostrophe that marks them here."""

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


def export(audit: Audit, path: Path) -> list[Path]:
    """Write every table of an audit into a folder; `columns.csv` has the units, grades and descriptions.

    Args:
        audit: what to write.
        path: the folder.

    Returns:
        The files, and last the index of them.

    Raises:
        StoreError: when the folder holds something else or cannot be written.
    """
    parts = pieces(audit)
    written = {f"{part.path}.csv": partial(_write, part.table) for part in parts}
    about = {f"{part.path}.csv": {"analysis": part.analysis, "table": part.name} for part in parts}
    written["columns.csv"] = partial(_write, columns(parts, ".csv"))
    about["columns.csv"] = {"analysis": "", "table": "columns"}
    return place_folder(path, "csv", written, about)


def lines(table: Table) -> Iterator[str]:
    r"""The lines of a table, header first, each ending in CR LF.

    Text is always quoted, numbers and true or false never, None is an empty field and the empty text is `""`. NaN and
    infinities are `NaN`, `Infinity` and `-Infinity`. Text that a spreadsheet could take for a formula, and text that
    begins with an apostrophe, gets one apostrophe in front; to read it back, take one leading apostrophe away.

    Yields:
        One line per row.

    >>> from assay.results import Column
    >>> table = Table("t", "T", (Column("a"), Column("b")), (("=1+1", -2.5), (None, True)))
    >>> list(lines(table))
    ['"a","b"\r\n', '"\'=1+1",-2.5\r\n', ',true\r\n']
    """
    yield ",".join(field(column.name) for column in table.columns) + "\r\n"
    for row in table.rows:
        line = ",".join(field(plain(cell)) for cell in row)
        yield line + "\r\n"


def field(cell: Cell) -> str:
    """One cell as a field."""
    if cell is None:
        return ""
    if isinstance(cell, bool):
        return "true" if cell else "false"
    if isinstance(cell, float):
        return unusual(cell) or repr(cell)
    if isinstance(cell, int):
        return str(cell)
    safe = _CONTROL.sub("\ufffd", cell)
    marked = f"'{safe}" if _FORMULA.match(safe) else safe
    return '"' + marked.replace('"', '""') + '"'


def _write(table: Table, handle: IO[bytes]) -> None:
    for line in lines(table):
        handle.write(line.encode())
