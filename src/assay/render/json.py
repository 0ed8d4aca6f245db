"""An audit as strict JSON for scripts: all but arrays and figures' data, which the run directory keeps."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from assay.results import Audit, Finding, Quantity, Result, Table

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
        "findings": [_finding(finding) for finding in audit.findings],
        "results": {name: _result(result) for name, result in audit.results.items()},
        "left_out": audit.left_out,
        "nodes": None if audit.nodes is None else _table(audit.nodes),
    }
    return json.dumps(_strict(document), indent=indent, allow_nan=False, ensure_ascii=True)


def _result(result: Result) -> dict[str, Any]:
    provenance = result.provenance
    return {
        "title": result.title,
        "question": result.question,
        "status": result.status.value,
        "summary": {key: _quantity(item) for key, item in result.summary.items()},
        "findings": [_finding(finding) for finding in result.findings],
        "warnings": result.warnings,
        "tables": {name: _table(table) for name, table in result.tables.items()},
        "arrays": {name: {"shape": list(a.shape), "dtype": str(a.dtype)} for name, a in result.arrays.items()},
        "figures": [{"kind": f.kind, "title": f.title, "caption": f.caption} for f in result.figures],
        "provenance": None if provenance is None else vars(provenance),
    }


def _quantity(item: Quantity) -> dict[str, Any]:
    return vars(item)


def _finding(item: Finding) -> dict[str, Any]:
    return vars(item)


def _table(table: Table) -> dict[str, Any]:
    return {"title": table.title, "columns": [vars(column) for column in table.columns], "rows": table.rows}


def _strict(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _strict(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_strict(entry) for entry in value]
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        if math.isnan(value):
            return "NaN"
        return float(value) if math.isfinite(value) else "Infinity" if value > 0 else "-Infinity"
    if hasattr(value, "tolist"):  # numpy scalars and arrays, tensors
        return _strict(value.tolist())
    return str(value)
