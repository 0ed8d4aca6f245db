"""JSON back to results; every type is checked, and the error names the place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn, cast

from assay.errors import StoreError
from assay.grade import Grade
from assay.results import Better, Column, Figure, Finding, Provenance, Quantity, Result, Status, Table
from assay.store.layout import SCHEMA


def value(item: Any, where: str) -> Any:
    """Undo `encode.plain`: wrapped NaN, infinities and mappings become themselves again.

    >>> value([1, {"$float": "inf"}, {"$dict": [[2, "two"]]}], "here")
    [1, inf, {2: 'two'}]

    Returns:
        The value that was encoded.

    Raises:
        StoreError: for a wrapper that is not one of ours.
    """
    if isinstance(item, list):
        return [value(entry, where) for entry in item]
    if not isinstance(item, dict):
        return item
    if not any(key.startswith("$") for key in item):
        return {key: value(entry, where) for key, entry in item.items()}
    if len(item) == 1:
        kind, content = next(iter(item.items()))
        if kind == "$float" and content in ("nan", "inf", "-inf"):
            return float(content)
        if kind == "$dict" and isinstance(content, list) and all(isinstance(p, list) and len(p) == 2 for p in content):
            pairs = [(value(key, where), value(entry, where)) for key, entry in content]
            if all(key is None or isinstance(key, (str, int, float, bool)) for key, _ in pairs):
                return dict(pairs)
    _wrong(where, f"unknown wrapper {sorted(item)[:3]}")


class Reader:
    """One JSON object whose members are read by name and type."""

    def __init__(self, record: Any, where: str) -> None:
        if not isinstance(record, dict):
            _wrong(where, f"expected an object, found {type(record).__name__}")
        self.record: dict[Any, Any] = record
        self.where = where

    def document(self, kind: str) -> Reader:
        """Self, after checking what kind of document this is and of which version.

        Returns:
            The reader itself.

        Raises:
            StoreError: when it is another kind or from a newer version.
        """
        if self.record.get("format") != kind:
            _wrong(self.where, f"it is not an {kind!r} document")
        version = self.integer("schema")
        if version != SCHEMA:
            raise StoreError(
                f"The run was written in format {version}; this version reads format {SCHEMA}.",
                where=self.where,
                advice="Install the version of assay that wrote it." if version < SCHEMA else "Update assay.",
            )
        return self

    def _member(self, name: str, kinds: type | tuple[type, ...], say: str) -> Any:
        found = self.record.get(name)
        if not isinstance(found, kinds) or (isinstance(found, bool) and kinds is not bool):
            _wrong(self.where, f"{name!r} is not {say}")
        return found

    def text(self, name: str) -> str:
        """A text member."""
        return self._member(name, str, "text")

    def flag(self, name: str) -> bool:
        """A true-or-false member."""
        return self._member(name, bool, "true or false")

    def integer(self, name: str) -> int:
        """A whole number of at least 0."""
        number = self._member(name, int, "a whole number")
        if number < 0:
            _wrong(self.where, f"{name!r} is negative")
        return number

    def number(self, name: str) -> float:
        """A number, possibly NaN or infinite."""
        return self._member(name, (int, float), "a number")

    def optional_number(self, name: str) -> float | None:
        """A number or None."""
        return None if self.record.get(name) is None else self.number(name)

    def choice(self, name: str, among: tuple[str, ...]) -> str | None:
        """One of some texts, or None."""
        found = self.record.get(name)
        if found is not None and found not in among:
            _wrong(self.where, f"{name!r} is none of {', '.join(among)}")
        return found

    def mapping(self, name: str) -> dict[str, Any]:
        """An object with text keys."""
        found = self._member(name, dict, "an object")
        if not all(isinstance(key, str) for key in found):
            _wrong(self.where, f"{name!r} has a key that is not text")
        return found

    def child(self, name: str) -> Reader:
        """An object to be read in turn."""
        return Reader(self._member(name, dict, "an object"), f"{self.where}, {name}")

    def items(self, name: str) -> list[Reader]:
        """A list of objects."""
        found = self._member(name, list, "a list")
        return [Reader(item, f"{self.where}, {name}[{index}]") for index, item in enumerate(found)]

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of texts."""
        found = self._member(name, list, "a list")
        if not all(isinstance(item, str) for item in found):
            _wrong(self.where, f"{name!r} is not a list of texts")
        return tuple(found)

    def grade(self, name: str) -> Grade:
        """A grade."""
        try:
            return Grade(self.text(name))
        except ValueError as error:
            _wrong(self.where, "unknown grade", error)


def result(document: Reader, arrays: Mapping[str, Any], times: Mapping[str, Any]) -> Result:
    """A result from its document, its arrays by key, and its times.

    Returns:
        The result.

    Raises:
        StoreError: when anything is missing or of another type.
    """
    summary = {entry.text("key"): _quantity(entry) for entry in document.items("summary")}
    tables = {entry.text("key"): table(entry) for entry in document.items("tables")}
    named = {}
    for entry in document.items("arrays"):
        if entry.text("key") not in arrays:
            _wrong(entry.where, "the safetensors file lacks this array")
        named[entry.text("name")] = arrays[entry.text("key")]
    return Result(
        name=document.text("name"),
        title=document.text("title"),
        question=document.text("question"),
        summary=summary,
        tables=tables,
        arrays=named,
        figures=tuple(
            Figure(e.text("kind"), e.text("title"), e.text("caption"), e.mapping("data"))
            for e in document.items("figures")
        ),
        findings=tuple(_finding(entry) for entry in document.items("findings")),
        warnings=document.texts("warnings"),
        provenance=None
        if document.record.get("provenance") is None
        else _provenance(document.child("provenance"), times),
    )


def table(reader: Reader) -> Table:
    """A table; its cells are text, numbers, true or false, or None.

    Returns:
        The table.

    Raises:
        StoreError: for anything else, or rows of the wrong length.
    """
    columns = tuple(
        Column(
            name=entry.text("name"),
            label=entry.text("label"),
            unit=entry.text("unit"),
            grade=None if entry.record.get("grade") is None else entry.grade("grade"),
            description=entry.text("description"),
            node=entry.flag("node"),
            lens=entry.text("lens") if "lens" in entry.record else "",
        )
        for entry in reader.items("columns")
    )
    rows = reader.record.get("rows")
    if not isinstance(rows, list) or not all(isinstance(row, list) and len(row) == len(columns) for row in rows):
        _wrong(reader.where, f"the rows are not lists of {len(columns)} cells")
    if not all(cell is None or isinstance(cell, (str, int, float, bool)) for row in rows for cell in row):
        _wrong(reader.where, "a cell is neither text nor a number")
    cells = tuple(tuple(row) for row in rows)
    return Table(reader.text("name"), reader.text("title"), columns, cells, reader.text("caption"))


def _quantity(reader: Reader) -> Quantity:
    return Quantity(
        value=reader.number("value"),
        grade=reader.grade("grade"),
        unit=reader.text("unit"),
        label=reader.text("label"),
        low=reader.optional_number("low"),
        high=reader.optional_number("high"),
        interval=reader.text("interval"),
        better=cast(Better | None, reader.choice("better", ("lower", "higher"))),
        basis=reader.text("basis") if "basis" in reader.record else "",
        confidence=reader.optional_number("confidence"),
    )


def _finding(reader: Reader) -> Finding:
    try:
        status = Status(reader.text("status"))
    except ValueError as error:
        _wrong(reader.where, "unknown status", error)
    return Finding(reader.text("rule"), status, reader.text("sentence"), reader.text("place"), reader.text("next_step"))


def _provenance(reader: Reader, times: Mapping[str, Any]) -> Provenance:
    versions = reader.mapping("versions")
    if not all(isinstance(version, str) for version in versions.values()):
        _wrong(reader.where, "a version is not text")
    seed = reader.record.get("seed")
    if not isinstance(seed, int) or isinstance(seed, bool):
        _wrong(reader.where, "'seed' is not a whole number")
    return Provenance(
        analysis=reader.text("analysis"),
        model=reader.text("model"),
        model_digest=reader.text("model_digest"),
        data=reader.text("data"),
        data_digest=reader.text("data_digest"),
        config=reader.mapping("config"),
        seed=seed,
        versions=versions,
        trusted=reader.texts("trusted"),
        **times,
    )


def _wrong(where: str, why: str, cause: BaseException | None = None) -> NoReturn:
    raise StoreError(
        f"The run cannot be read: {why}.",
        where=where,
        advice="Restore the directory from a copy, or run the audit again into a new one.",
    ) from cause
