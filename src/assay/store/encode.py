"""Results as strict, deterministic JSON and safetensors bytes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Set
from dataclasses import fields
from enum import Enum
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy

from assay.errors import StoreError
from assay.results.arrays import keyed
from assay.store.layout import SCHEMA

if TYPE_CHECKING:
    from assay.results import Provenance, Result, Table

TIMED = ("wall_seconds", "peak_bytes")
"""Fields of a provenance that vary from run to run and live in their own file."""


def to_bytes(document: Any, where: str) -> bytes:
    """Strict JSON with sorted keys, ending in a newline.

    Args:
        document: what `plain` accepts.
        where: named in the error.

    Returns:
        UTF-8 text.

    Raises:
        StoreError: for a value that JSON cannot hold, with its place.
    """
    try:
        text = json.dumps(plain(document, where), sort_keys=True, allow_nan=False, separators=(",", ":"))
    except RecursionError as error:
        raise StoreError("The values are nested too deeply to be stored.", where=where) from error
    return text.encode() + b"\n"


def plain(value: Any, where: str) -> Any:
    """Values JSON can hold. NaN, infinities and unusual mappings are wrapped in an object with one ``$`` key.

    Returns:
        None, texts, numbers, lists and dictionaries.

    >>> plain([1.5, float("inf"), {2: "two"}], "here")
    [1.5, {'$float': 'inf'}, {'$dict': [[2, 'two']]}]

    Raises:
        StoreError: for a value of another type, with its place.
    """
    if isinstance(value, Enum):
        return plain(value.value, where)
    if value is None or isinstance(value, (bool, str)):
        return value if value is None or isinstance(value, bool) else str(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"$float": repr(float(value))}
    if isinstance(value, (numpy.generic, numpy.ndarray)):
        return plain(value.tolist(), where)
    if isinstance(value, Mapping):
        pairs = [(plain(key, where), plain(entry, f"{where}.{key}")) for key, entry in value.items()]
        if all(isinstance(key, str) and not key.startswith("$") for key, _ in pairs):
            return dict(pairs)
        return {"$dict": [list(pair) for pair in sorted(pairs, key=lambda pair: json.dumps(pair[0], sort_keys=True))]}
    if isinstance(value, Set):
        return sorted((plain(entry, where) for entry in value), key=json.dumps)
    if isinstance(value, (list, tuple)):
        return [plain(entry, f"{where}[{index}]") for index, entry in enumerate(value)]
    if isinstance(value, PurePath):
        return str(value)
    if hasattr(value, "detach"):  # a tensor
        return plain(value.detach().cpu().tolist(), where)
    raise StoreError(
        f"A value of type {type(value).__name__} cannot be stored.",
        where=where,
        advice="Use text, numbers, lists and mappings; arrays belong into Result.arrays.",
    )


def result_document(result: Result, arrays: Mapping[str, str]) -> dict[str, Any]:
    """A result without its arrays, ordered mappings as lists.

    Args:
        result: what to store.
        arrays: key in the safetensors file, by array name.

    Returns:
        What `to_bytes` writes.
    """
    return {
        "format": "assay-result",
        "schema": SCHEMA,
        "name": result.name,
        "title": result.title,
        "question": result.question,
        "summary": [{"key": key} | _record(quantity) for key, quantity in result.summary.items()],
        "tables": [{"key": key} | table_document(table) for key, table in result.tables.items()],
        "arrays": [{"name": name, "key": key} for name, key in arrays.items()],
        "figures": [_record(figure) for figure in result.figures],
        "findings": [_record(finding) for finding in result.findings],
        "warnings": list(result.warnings),
        "provenance": None if result.provenance is None else _provenance(result.provenance),
    }


def table_document(table: Table) -> dict[str, Any]:
    """A table as columns and rows."""
    return {
        "name": table.name,
        "title": table.title,
        "caption": table.caption,
        "columns": [_record(column) for column in table.columns],
        "rows": [list(row) for row in table.rows],
    }


def array_bytes(result: Result, names: Mapping[str, str]) -> bytes:
    """All arrays of a result as one safetensors file.

    Args:
        result: whose arrays.
        names: key in the file by array name.

    Returns:
        Content of the file.

    Raises:
        StoreError: for an array of a type that safetensors does not know.
    """
    from safetensors.numpy import save

    return save(keyed(result, names))


def timing(result: Result) -> dict[str, Any]:
    """What varies from run to run."""
    return {} if result.provenance is None else {name: getattr(result.provenance, name) for name in TIMED}


def _record(item: Any) -> dict[str, Any]:
    return {field.name: getattr(item, field.name) for field in fields(item)}


def _provenance(provenance: Provenance) -> dict[str, Any]:
    return {name: value for name, value in _record(provenance).items() if name not in TIMED}
