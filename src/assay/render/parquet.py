"""Tables as Parquet, one file each, with units, grades and descriptions in the metadata of the columns."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from assay._version import __version__
from assay.errors import MissingExtra
from assay.render.cells import Cell, Kind, kind, plain, readable
from assay.render.placing import place_folder
from assay.render.tables import Piece, pieces
from assay.results import Audit, Column

if TYPE_CHECKING:
    import pyarrow


def export(audit: Audit, path: Path) -> list[Path]:
    """Write every table of an audit into a folder of Parquet files.

    Args:
        audit: what to write.
        path: the folder.

    Returns:
        The files, and last the index of them.

    Raises:
        MissingExtra: without pyarrow.
        StoreError: when the folder holds something else or cannot be written.
    """
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtra("pyarrow", "tables", "Export as Parquet") from error

    def write(table: pyarrow.Table, handle: IO[bytes]) -> None:
        pyarrow.parquet.write_table(table, handle)

    parts = pieces(audit)
    written = {f"{part.path}.parquet": partial(write, arrow(part)) for part in parts}
    about = {f"{part.path}.parquet": {"analysis": part.analysis, "table": part.name} for part in parts}
    return place_folder(path, "parquet", written, about)


def arrow(part: Piece) -> pyarrow.Table:
    """A table as an Arrow table (extra ``tables``).

    Metadata of a column: `label`, `unit`, `grade`, `description`, `node`, those that are not empty, and
    `encoding` = `json` where a column mixes text with other values: each cell is then JSON text. Metadata of the table:
    `analysis`, `table`, `title`, `caption` and the version of assay.

    Returns:
        Typed columns: int64, uint64, float64, bool or string; None is null, NaN stays NaN.
    """
    import pyarrow

    table, columns, schema = part.table, [], []
    for index, column in enumerate(table.columns):
        values, type_, encoding = _typed([plain(row[index]) for row in table.rows], column)
        columns.append(pyarrow.array(values, type_))
        schema.append(pyarrow.field(readable(column.name), type_, metadata=_metadata(column, encoding)))
    said = {"analysis": part.analysis, "table": part.name, "title": table.title, "caption": table.caption}
    about = {key: readable(text) for key, text in said.items() if text} | {"assay": __version__}
    return pyarrow.Table.from_arrays(columns, schema=pyarrow.schema(schema, metadata=about))


def _metadata(column: Column, encoding: str) -> dict[str, str]:
    said = {
        "label": column.label,
        "unit": column.unit,
        "grade": column.grade.value if column.grade is not None else "",
        "description": column.description,
        "node": "true" if column.node else "",
        "encoding": encoding,
    }
    return {key: readable(text) for key, text in said.items() if text}


def _typed(cells: Sequence[Cell], column: Column) -> tuple[Sequence[Cell], Any, str]:
    """Values, Arrow type and encoding of a column."""
    import pyarrow

    match kind(cells):
        case Kind.BOOLEAN:
            return cells, pyarrow.bool_(), ""
        case Kind.NUMBER:
            return [None if cell is None else float(cell) for cell in cells], pyarrow.float64(), ""
        case Kind.TEXT:
            return cells, pyarrow.string(), ""
        case Kind.INTEGER:
            whole = [cell for cell in cells if isinstance(cell, int)]
            if min(whole) >= -(2**63) and max(whole) < 2**63:
                return cells, pyarrow.int64(), ""
            if min(whole) >= 0 and max(whole) < 2**64:
                return cells, pyarrow.uint64(), ""
        case Kind.EMPTY:  # graded columns hold numbers, also where this run has none
            return cells, pyarrow.string() if column.grade is None else pyarrow.float64(), ""
    return [None if cell is None else json.dumps(cell) for cell in cells], pyarrow.string(), "json"
