"""An audit as strict JSON for scripts: all but arrays and figures' data, which the run directory keeps.

`assay.render.schema` has the JSON Schema of the document, and so has docs/schema/assay-run-1.schema.json.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from assay.render.cells import kind, plain, readable
from assay.results import Audit, Result, Table
from assay.results.atomic import write_atomic

FORMAT = "assay-audit"
VERSION = 1


def to_json(audit: Audit, indent: int | None = 2) -> str:
    """Strict JSON (RFC 8259). NaN and infinities become the texts ``"NaN"``, ``"Infinity"`` and ``"-Infinity"``.

    Args:
        audit: what to write.
        indent: spaces a level; None for one line.

    Returns:
        One JSON object.

    >>> from assay.results import Audit
    >>> to_json(Audit({"name": "m"}, {}), indent=None)[:40]
    '{"format": "assay-audit", "version": 1, '
    """
    document = {
        "format": FORMAT,
        "version": VERSION,
        "status": audit.status.value,
        "subject": audit.subject,
        "findings": [vars(finding) for finding in audit.findings],
        "results": {name: _result(result) for name, result in audit.results.items()},
        "left_out": audit.left_out,
        "nodes": None if audit.nodes is None else _table(audit.nodes),
    }
    return json.dumps(strict(document), indent=indent, allow_nan=False, ensure_ascii=True)


def export(audit: Audit, path: Path) -> list[Path]:
    """Write the document into a file.

    Args:
        audit: what to write.
        path: the file.

    Returns:
        The file.

    Raises:
        StoreError: when the place cannot be written.
    """
    return [write_atomic(path, to_json(audit) + "\n")]


def _result(result: Result) -> dict[str, Any]:
    provenance = result.provenance
    return {
        "title": result.title,
        "question": result.question,
        "status": result.status.value,
        "summary": {key: vars(item) for key, item in result.summary.items()},
        "findings": [vars(finding) for finding in result.findings],
        "warnings": result.warnings,
        "tables": {name: _table(table) for name, table in result.tables.items()},
        "arrays": {name: {"shape": list(a.shape), "dtype": str(a.dtype)} for name, a in result.arrays.items()},
        "figures": [{"kind": f.kind, "title": f.title, "caption": f.caption} for f in result.figures],
        "provenance": None if provenance is None else vars(provenance),
    }


def _table(table: Table) -> dict[str, Any]:
    rows = [[plain(cell) for cell in row] for row in table.rows]
    columns = [
        vars(column) | {"kind": kind([row[index] for row in rows]).value} for index, column in enumerate(table.columns)
    ]
    return {"title": table.title, "caption": table.caption, "columns": columns, "rows": rows}


def strict(value: Any) -> Any:
    """Any value as what JSON can hold: arrays become lists, NaN and infinities texts, unknown things their text.

    Returns:
        None, texts, finite numbers, lists and dictionaries.

    >>> strict({"a": (1, float("nan"))})
    {'a': [1, 'NaN']}
    """
    if isinstance(value, Mapping):
        return {readable(str(key)): strict(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [strict(entry) for entry in value]
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        if math.isnan(value):
            return "NaN"
        return float(value) if math.isfinite(value) else "Infinity" if value > 0 else "-Infinity"
    if hasattr(value, "tolist"):  # numpy scalars and arrays, tensors
        return strict(value.tolist())
    return readable(str(value))
