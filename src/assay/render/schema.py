"""JSON Schema (draft 2020-12) of the document that `assay export --format json` and `--json` write.

It is built from the result types themselves, so it cannot fall behind them. `python -m assay.render.schema` prints it.
"""

from __future__ import annotations

import json
import types
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from assay.grade import Grade
from assay.render.cells import Kind
from assay.render.json import FORMAT, VERSION
from assay.results import Column, Finding, Provenance, Quantity, Status

URI = f"urn:assay:schema:run:{VERSION}"
_NUMBER = {"$ref": "#/$defs/number"}


def schema(*, closed: bool = False) -> dict[str, Any]:
    """The schema of an audit as JSON.

    Args:
        closed: allow only the members that are described. The published schema is open, since members may be added
            within a version; the tests use the closed one, so that no member goes undescribed.

    Returns:
        A JSON Schema, draft 2020-12.

    >>> schema()["properties"]["format"]
    {'const': 'assay-audit'}
    """

    def record(members: Mapping[str, Any], optional: Sequence[str] = (), said: str = "") -> dict[str, Any]:
        needed = [name for name in members if name not in optional]
        described = {"description": said} if said else {}
        rest = {"additionalProperties": False} if closed else {}
        return {"type": "object", **described, "properties": dict(members), "required": needed} | rest

    text, texts = {"type": "string"}, {"type": "array", "items": {"type": "string"}}
    findings = {"type": "array", "items": {"$ref": "#/$defs/finding"}}
    table = {"$ref": "#/$defs/table"}
    shape = {"type": "array", "items": {"type": "integer", "minimum": 0}}
    column = _members(Column) | {"kind": {"enum": [each.value for each in Kind]}}
    definitions = {
        "number": {
            "description": "A number; NaN and infinities are texts.",
            "anyOf": [{"type": "number"}, {"enum": ["NaN", "Infinity", "-Infinity"]}],
        },
        "status": {"description": "Outcome of a rule, mildest first.", "enum": [each.value for each in Status]},
        "grade": {
            "description": "Reliability of a number: "
            + "; ".join(f"{grade.value} is {grade.meaning}" for grade in Grade)
            + ".",
            "enum": [each.value for each in Grade],
        },
        "finding": record(_members(Finding), said="Outcome of one rule on one result."),
        "quantity": record(_members(Quantity), said="One number with its unit, grade and interval."),
        "column": record(column, said="One column; `kind` says what its cells are, None (null) aside."),
        "table": record(
            {
                "title": text,
                "caption": text,
                "columns": {"type": "array", "items": {"$ref": "#/$defs/column"}},
                "rows": {
                    "description": "One list per row, one cell per column.",
                    "type": "array",
                    "items": {"type": "array", "items": {"type": ["null", "boolean", "number", "string"]}},
                },
            },
        ),
        "provenance": record(_members(Provenance), said="Enough to repeat the result."),
        "result": record(
            {
                "title": text,
                "question": text,
                "status": {"$ref": "#/$defs/status"},
                "summary": {"type": "object", "additionalProperties": {"$ref": "#/$defs/quantity"}},
                "findings": findings,
                "warnings": texts,
                "tables": {"type": "object", "additionalProperties": table},
                "arrays": {
                    "description": "Names of the arrays; --format safetensors writes their values.",
                    "type": "object",
                    "additionalProperties": record({"shape": shape, "dtype": text}),
                },
                "figures": {"type": "array", "items": record(dict.fromkeys(("kind", "title", "caption"), text))},
                "provenance": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/provenance"}]},
            },
            said="What one analysis found.",
        ),
    }
    members = {
        "format": {"const": FORMAT},
        "version": {"const": VERSION},
        "status": {"$ref": "#/$defs/status"},
        "subject": {"description": "What was audited: names, digests, shapes, preprocessing.", "type": "object"},
        "findings": findings | {"description": "Of all results, most severe first."},
        "results": {
            "description": "By analysis, in the order they ran.",
            "type": "object",
            "additionalProperties": {"$ref": "#/$defs/result"},
        },
        "left_out": {
            "description": "Analyses that did not run, with the reason.",
            "type": "object",
            "additionalProperties": text,
        },
        "nodes": {"description": "The captured graph; null without one.", "anyOf": [{"type": "null"}, table]},
        "directory": {"description": "The run directory, where a verb prints the document.", "type": "string"},
        "report": {"description": "The report, where a verb prints the document.", "type": "string"},
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": URI,
        "title": "assay audit",
        **record(members, ("directory", "report"), "Everything an audit found, except arrays and figures' data."),
        "$defs": definitions,
    }


def published() -> str:
    """The text of docs/schema/assay-run-1.schema.json."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


def _members(kind: type) -> dict[str, Any]:
    """Fields of a dataclass as members of a JSON object."""
    hints = get_type_hints(kind)
    return {field.name: _of(hints[field.name]) for field in fields(kind)}


def _of(hint: Any) -> dict[str, Any]:
    """Schema of a type."""
    origin, inside = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return {"anyOf": [_of(each) for each in inside]}
    if origin is Literal:
        return {"enum": list(inside)}
    if origin is tuple:
        return {"type": "array", "items": _of(inside[0])}
    if origin is not None and issubclass(origin, Mapping):
        return {"type": "object"} if inside[1] is Any else {"type": "object", "additionalProperties": _of(inside[1])}
    simple: dict[Any, dict[str, Any]] = {
        type(None): {"type": "null"},
        bool: {"type": "boolean"},
        int: {"type": "integer"},
        float: _NUMBER,
        str: {"type": "string"},
        Grade: {"$ref": "#/$defs/grade"},
        Status: {"$ref": "#/$defs/status"},
    }
    return simple[hint]


if __name__ == "__main__":
    print(published(), end="")
