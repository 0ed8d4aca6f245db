"""Reading exported tables back, and comparing what they hold."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any


def same(read: Any, held: Any) -> bool:
    """Equal in value and type; NaN is NaN, and -0.0 is not 0.0."""
    if isinstance(held, float) and isinstance(read, float):
        return math.isnan(held) == math.isnan(read) and (math.isnan(held) or held.hex() == read.hex())
    return type(read) is type(held) and read == held


def read_parquet(file: Path) -> list[list[Any]]:
    """Columns, with JSON cells decoded."""
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(file)
    columns = []
    for name, column in zip(table.schema, table.columns, strict=True):
        cells = column.to_pylist()
        if (name.metadata or {}).get(b"encoding") == b"json":
            cells = [None if cell is None else json.loads(cell) for cell in cells]
        columns.append(cells)
    return columns
