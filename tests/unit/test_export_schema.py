"""The published JSON Schema: it is what the code says, every document meets it, and it refuses what is none."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from tests.support import hostile, synthetic

from assay.render.json import to_json
from assay.render.schema import published, schema
from assay.results import Audit, Column, Result, Table

jsonschema = pytest.importorskip("jsonschema")

PUBLISHED = Path(__file__).resolve().parents[2] / "docs" / "schema" / "assay-run-1.schema.json"


def validate(document: Any, *, closed: bool = True) -> None:
    jsonschema.Draft202012Validator(schema(closed=closed)).validate(document)


def test_the_published_file_is_the_one_the_code_makes():
    assert PUBLISHED.read_text(encoding="utf-8") == published(), "python -m assay.render.schema > docs/schema/..."


def test_it_is_a_schema():
    for closed in (True, False):
        jsonschema.Draft202012Validator.check_schema(schema(closed=closed))


@pytest.mark.parametrize(
    "audit", [hostile.audit(), synthetic.audit(), Audit({}, {})], ids=["hostile", "usual", "empty"]
)
def test_audits_validate(audit: Audit):
    document = json.loads(to_json(audit), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    validate(document)
    validate(json.loads(PUBLISHED.read_text()) and document, closed=False)


def test_members_that_verbs_add_are_described():
    validate(json.loads(to_json(synthetic.audit())) | {"directory": "d", "report": "r"})


@pytest.mark.parametrize(("path", "value"), [
    (("version",), 2), (("status",), "fine"), (("results", "plain", "status"), None), (("left_out",), {"a": 1}),
    (("results", "../../up", "summary", "fine", "value"), "1"), (("nodes", "columns", 0, "kind"), "texts"),
    (("results", "../../up", "summary", "fine", "grade"), "good"), (("nodes", "rows", 0, 0), {"a": 1}),
    (("results", "../../up", "findings", 0, "rule"), None), (("results", "../../up", "provenance", "seed"), 0.5),
    (("results", "../../up", "new"), 1),
])  # fmt: skip
def test_wrong_documents_are_refused(path: tuple[Any, ...], value: Any):
    document = json.loads(to_json(hostile.audit()))
    validate(document)
    place = document
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        validate(document)


def test_a_document_holds_what_the_audit_holds():
    audit = hostile.audit()
    document = json.loads(to_json(audit))
    table = document["results"]["../../up"]["tables"]["awkward"]
    assert [column["kind"] for column in table["columns"]] == [
        "text", "number", "integer", "number", "boolean", "integer", "integer", "mixed", "empty", "empty", "text"
    ]  # fmt: skip
    special = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
    for index, column in enumerate(table["columns"]):
        for row, held in zip(table["rows"], hostile.AWKWARD.rows, strict=True):
            cell = special.get(row[index], row[index]) if column["kind"] == "number" else row[index]
            if isinstance(held[index], float) and not math.isfinite(held[index]):
                assert repr(special.get(cell, cell)) == repr(held[index])
            else:
                assert (cell, type(cell)) == (held[index], type(held[index]))
    assert document["results"]["../../up"]["summary"]["in\0finite"]["low"] == "-Infinity"
    assert document["results"]["../../up"]["tables"]["awkward"]["caption"] == "what formats trip over"


def test_lone_surrogates_stay_out():
    result = Result("r", "\ud800", "", tables={"\udfff": Table("t", "", (Column("\ud800"),), (("\ud800",),))})
    text = to_json(Audit({}, {"r": result}))
    assert "\\ud800" not in text
    assert "\\udfff" not in text
    validate(json.loads(text))
