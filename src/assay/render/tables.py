"""Every table of an audit, with those that sum it up: what the formats with one file per table write."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

from assay.results import Audit, Column, Finding, Quantity, Table
from assay.results.names import stem


@dataclass(frozen=True)
class Piece:
    """One table and where it goes.

    Attributes:
        path: file name without ending, below the folder of the export.
        table: the table.
        analysis: the analysis it belongs to; empty for tables of the whole audit.
        name: name of the table in the result.
    """

    path: str
    table: Table
    analysis: str = ""
    name: str = ""


def pieces(audit: Audit) -> list[Piece]:
    """The tables of an audit: `analyses`, `summary`, `findings`, `warnings`, `subject`, `nodes`, then those of results.

    Returns:
        One piece per file; names of results and tables that are no safe file names are replaced by ones that are.
    """
    overview = [_analyses(audit), _summary(audit), _findings(audit), _warnings(audit), _subject(audit)]
    found = [Piece(table.name, table, name=table.name) for table in overview]
    if audit.nodes is not None:
        found.append(Piece("nodes", audit.nodes, name="nodes"))
    folders: set[str] = set()
    for analysis, result in audit.results.items():
        folder, taken = free_name(stem(analysis), folders), set()
        for name, table in result.tables.items():
            found.append(Piece(f"{folder}/{free_name(stem(name), taken)}", table, analysis, name))
    return found


def columns(parts: Sequence[Piece], ending: str) -> Table:
    """What the columns of some tables mean, as a table: for formats that have no place for it.

    Returns:
        One row per column of each table.
    """
    says = (
        Column("file", description="file that holds the column"),
        Column("column", description="name of the column"),
        Column("label", description="heading for people"),
        Column("unit", description="unit of the values; empty for text and pure numbers"),
        Column("grade", description="reliability of the numbers; empty for text and identifiers"),
        Column("description", description="how to read the column"),
        Column("node", description="whether the column holds names of graph nodes"),
    )
    rows = tuple(
        (part.path + ending, each.name, each.label, each.unit, each.grade, each.description, each.node)
        for part in parts
        for each in part.table.columns
    )
    return Table("columns", "Columns", says, rows)


def compact(value: Any) -> str:
    """Any value of a configuration or a subject as JSON in one line.

    Returns:
        JSON text; NaN and infinities as the texts "NaN", "Infinity" and "-Infinity".
    """
    from assay.render.json import strict

    return json.dumps(strict(value), allow_nan=False, ensure_ascii=False)


def _analyses(audit: Audit) -> Table:
    says = (
        Column("analysis", description="name of the analysis"),
        Column("title"),
        Column("question", description="the plain question it answers"),
        Column(
            "status", description="its most severe finding: pass, warn, fail or error; left_out when it did not run"
        ),
        Column("reason", description="why it was left out"),
        Column("model", description="model specification"),
        Column("model_digest"),
        Column("data", description="data specification"),
        Column("data_digest"),
        Column("seed"),
        Column("config", description="settings, as JSON"),
        Column("versions", description="versions of the libraries, as JSON"),
        Column("trusted", description="what was allowed to execute code, as JSON"),
        Column("wall_seconds", unit="s", description="wall time; varies from run to run"),
        Column("peak_bytes", unit="bytes", description="peak memory; varies from run to run"),
    )
    records: list[dict[str, Any]] = []
    for name, result in audit.results.items():
        origin = {} if result.provenance is None else dict(vars(result.provenance))
        origin |= {key: compact(origin[key]) for key in ("config", "versions", "trusted") if key in origin}
        said = {"title": result.title, "question": result.question, "status": result.status.value}
        records.append(origin | {"analysis": name} | said)
    records += [{"analysis": name, "status": "left_out", "reason": why} for name, why in audit.left_out.items()]
    return Table.from_records("analyses", "Analyses", says, records)


_SAID = {
    "value": "the number",
    "grade": "reliability of the number",
    "unit": "unit of value, low and high",
    "label": "what it is, in the field's words",
    "low": "lower end of the interval",
    "high": "upper end of the interval",
    "interval": "what the interval is",
    "better": "which way a model is better",
    "basis": "the values that the number sums up",
    "confidence": "level at which the interval covers the value",
    "status": "pass, warn, fail or error",
    "rule": "stable identifier",
    "sentence": "what was found",
    "place": "layer, class or input it concerns",
    "next_step": "what to do about it",
}


def _summary(audit: Audit) -> Table:
    names = [each.name for each in fields(Quantity)]
    says = [Column("analysis"), Column("key", description="name of the quantity")]
    says += [Column(name, description=_SAID.get(name, "")) for name in names]
    rows = tuple(
        (analysis, key, *(getattr(quantity, name) for name in names))
        for analysis, result in audit.results.items()
        for key, quantity in result.summary.items()
    )
    return Table("summary", "Quantities of all analyses", tuple(says), rows)


def _findings(audit: Audit) -> Table:
    names = [each.name for each in fields(Finding)]
    says = [Column("analysis"), *(Column(name, description=_SAID.get(name, "")) for name in names)]
    rows = tuple(
        (analysis, *(getattr(finding, name) for name in names))
        for analysis, result in audit.results.items()
        for finding in result.findings
    )
    return Table("findings", "Findings of all analyses", tuple(says), rows)


def _warnings(audit: Audit) -> Table:
    says = (Column("analysis"), Column("warning", description="what the reader must know to read the numbers"))
    rows = tuple((name, warning) for name, result in audit.results.items() for warning in result.warnings)
    return Table("warnings", "Warnings of all analyses", says, rows)


def _subject(audit: Audit) -> Table:
    says = (Column("key"), Column("value", description="as JSON"))
    return Table(
        "subject", "What was audited", says, tuple((key, compact(audit.subject[key])) for key in audit.subject)
    )


def free_name(wanted: str, taken: set[str]) -> str:
    """The wanted name, or one with a number behind it when that is taken; it is taken afterwards.

    Returns:
        A name that no other has.

    >>> taken = set()
    >>> [free_name("a", taken) for _ in range(3)]
    ['a', 'a-2', 'a-3']
    """
    candidates = _numbered(wanted)
    name = next(candidate for candidate in candidates if candidate not in taken)
    taken.add(name)
    return name


def _numbered(wanted: str) -> Iterator[str]:
    yield wanted
    number = 2
    while True:
        yield f"{wanted}-{number}"
        number += 1
