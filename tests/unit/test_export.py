"""Exports: what each format writes reads back equal to what the audit holds, whatever it holds."""

import csv
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support import hostile, synthetic
from tests.support.exported import read_parquet, same

from assay.errors import MissingExtra, PluginError, StoreError, UsageError
from assay.plugins import Plugin
from assay.render import registry
from assay.render.cells import Kind, kind, plain, readable
from assay.render.csv import field, lines
from assay.render.placing import INDEX, place_folder
from assay.render.registry import ignored, renderers
from assay.render.tables import pieces
from assay.results import Audit, Column, Result, Table
from assay.results import arrays as result_arrays
from assay.results.names import stem

CELLS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12)
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
SAFE = re.compile(r"([a-z0-9_-]+/)?[a-z0-9_-]+\.(csv|parquet)")


@pytest.fixture(scope="module")
def audits() -> dict[str, Audit]:
    return {"hostile": hostile.audit(), "synthetic": synthetic.audit(40)}


def files_of(folder: Path) -> dict[tuple[str, str], str]:
    """File by (analysis, table), from the index."""
    index = json.loads((folder / INDEX).read_text())
    return {(entry["analysis"], entry["table"]): entry["file"] for entry in index["files"]}


# Parquet


@pytest.mark.parametrize("name", ["hostile", "synthetic"])
def test_parquet_reads_back(audits: dict[str, Audit], name: str, tmp_path: Path):
    audit = audits[name]
    files = audit.export(tmp_path / "out", "parquet")
    assert files[-1].name == INDEX
    found = files_of(tmp_path / "out")
    assert {tmp_path / "out" / file for file in found.values()} == set(files[:-1])
    for part in pieces(audit):
        columns = read_parquet(tmp_path / "out" / found[part.analysis, part.name])
        for index, column in enumerate(part.table.columns):
            held = [plain(row[index]) for row in part.table.rows]
            if kind(held) is Kind.NUMBER:  # whole numbers among others come back as floats of the same value
                held = [None if cell is None else float(cell) for cell in held]
            where = (part.path, column.name)
            assert len(columns[index]) == len(held), where
            assert all(map(same, columns[index], held)), where


def test_parquet_keeps_what_columns_mean(audits: dict[str, Audit], tmp_path: Path):
    import pyarrow.parquet

    audits["hostile"].export(tmp_path, "parquet")
    found = files_of(tmp_path)
    table = pyarrow.parquet.read_schema(tmp_path / found["../../up", "awkward"])
    assert table.field("number").metadata == {
        b"unit": b"output sd", b"grade": b"sampled", b"description": b"a number"
    }  # fmt: skip
    assert table.field("text").metadata == {b"label": b"A label", b"description": b"any text"}
    assert table.field(10).metadata == {b"node": b"true"}
    about = {key.decode(): value.decode() for key, value in table.metadata.items()}
    assert about["analysis"] == "../../up"
    assert (about["table"], about["title"], about["caption"]) == (
        "awkward",
        "Awkward | table",
        "what formats trip over",
    )
    types = {each.name: str(each.type) for each in table}
    assert types["number"] == types["both"] == types["none"] == "double"
    assert (types["whole"], types["flag"], types["large"], types["giant"]) == ("int64", "bool", "uint64", "string")
    assert types["empty"] == "string"


def test_parquet_has_quantities_and_findings(audits: dict[str, Audit], tmp_path: Path):
    import pandas

    audit = audits["hostile"]
    audit.export(tmp_path, "parquet")
    summary = pandas.read_parquet(tmp_path / "summary.parquet").set_index("key")
    assert summary.loc["fine", ["value", "low", "high", "unit", "grade"]].tolist() == [0.25, 0.2, 0.3, "sd", "exact"]
    assert summary.loc["in\0finite", "value"] == math.inf
    findings = pandas.read_parquet(tmp_path / "findings.parquet")
    assert findings[["rule", "status"]].values.tolist() == [["rule.one", "fail"], ["rule.two", "pass"]]
    analyses = pandas.read_parquet(tmp_path / "analyses.parquet").set_index("analysis")
    assert analyses.loc["boundary", ["status", "reason"]].tolist() == ["left_out", "no, really"]
    assert json.loads(analyses.loc["../../up", "config"])["nested"] == {"list": [1, 2.5, "Infinity"], "none": None}


@given(cells=st.lists(CELLS, max_size=6))
def test_any_column_survives_parquet(cells: list[Any], tmp_path_factory: pytest.TempPathFactory):
    pytest.importorskip("pyarrow")
    import pyarrow.parquet

    from assay.render.parquet import arrow
    from assay.render.tables import Piece

    table = Table("t", "", (Column("c"),), tuple((cell,) for cell in cells))
    written = arrow(Piece("t", table))
    buffer = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(written, buffer)
    read = pyarrow.parquet.read_table(pyarrow.BufferReader(buffer.getvalue()))
    back = read.column(0).to_pylist()
    if (read.schema.field(0).metadata or {}).get(b"encoding") == b"json":
        back = [None if cell is None else json.loads(cell) for cell in back]
    held = [plain(cell) for cell in cells]
    if kind(held) is Kind.NUMBER:
        held = [None if cell is None else float(cell) for cell in held]
    assert all(map(same, back, held))


def test_parquet_names_the_missing_extra(audits: dict[str, Audit], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(MissingExtra, match="pyarrow") as caught:
        audits["hostile"].export(tmp_path / "out", "parquet")
    assert "assay[tables]" in caught.value.advice
    assert not (tmp_path / "out").exists()


# CSV


def parse(text: str) -> list[list[tuple[str, bool]]]:
    """Fields of a CSV text with whether each was quoted, by the grammar of RFC 4180 and nothing else."""
    rows, position = [], 0
    pattern = re.compile(r'(?:"((?:[^"]|"")*)"|([^",\r\n]*))(,|\r\n)')
    row: list[tuple[str, bool]] = []
    while position < len(text):
        match = pattern.match(text, position)
        assert match, text[position : position + 40]
        quoted = match.group(1) is not None
        row.append((match.group(1).replace('""', '"') if quoted else match.group(2), quoted))
        if match.group(3) == "\r\n":
            rows.append(row)
            row = []
        position = match.end()
    assert not row
    return rows


def value_of(content: str, quoted: bool) -> Any:
    """What a field says, as the documentation defines it."""
    if quoted:
        return content[1:] if content.startswith("'") else content
    if content in ("", "true", "false"):
        return {"": None, "true": True, "false": False}[content]
    return int(content) if re.fullmatch(r"-?\d+", content) else float(content)


def expected(cell: Any) -> Any:
    cell = plain(cell)
    return CONTROL.sub("\ufffd", cell) if isinstance(cell, str) else cell


@given(rows=st.lists(st.tuples(CELLS, CELLS), max_size=4))
def test_any_table_survives_csv(rows: list[tuple[Any, Any]]):
    table = Table("t", "", (Column("a"), Column("b")), tuple(rows))
    header, *read = parse("".join(lines(table)))
    assert header == [("a", True), ("b", True)]
    assert len(read) == len(rows)
    for got, held in zip(read, rows, strict=True):
        assert all(same(value_of(*one), expected(cell)) for one, cell in zip(got, held, strict=True))


@pytest.mark.parametrize(
    "text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", " =1", "\r=1", "\n-1", "＝1", "'=1", "\u00a0=1"]
)
def test_text_that_a_spreadsheet_could_run_is_marked(text: str):
    assert field(text).startswith("\"'")


@pytest.mark.parametrize(("cell", "written"), [
    (-1, "-1"), (-2.5, "-2.5"), (math.nan, "NaN"), (-math.inf, "-Infinity"), (None, ""), ("", '""'), (True, "true"),
    ("true", '"true"'), ("a=1", '"a=1"'), (numpy.float32(0.5), "0.5"), (numpy.int64(7), "7"),
])  # fmt: skip
def test_fields(cell: Any, written: str):
    assert field(plain(cell)) == written


def test_csv_folder(audits: dict[str, Audit], tmp_path: Path):
    audit = audits["hostile"]
    files = audit.export(tmp_path / "out", "csv")
    found = files_of(tmp_path / "out")
    with open(tmp_path / "out" / found["../../up", "awkward"], newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    assert [row["text"].removeprefix("'") for row in rows] == [CONTROL.sub("\ufffd", text) for text in hostile.TEXTS]
    assert [float(row["both"]) for row in rows] == hostile.AWKWARD.column("both")
    with open(tmp_path / "out" / "columns.csv", newline="", encoding="utf-8") as handle:
        says = {(row["file"], row["column"]): row for row in csv.DictReader(handle)}
    said = says[found["../../up", "awkward"], "number"]
    assert (said["unit"], said["grade"], said["description"]) == ("output sd", "sampled", "a number")
    assert {file.relative_to(tmp_path / "out").as_posix() for file in files} - {INDEX} == set(found.values())


def test_pandas_reads_csv(audits: dict[str, Audit], tmp_path: Path):
    import pandas

    audits["synthetic"].export(tmp_path, "csv")
    for part in pieces(audits["synthetic"]):
        frame = pandas.read_csv(tmp_path / f"{part.path}.csv")
        for column in part.table.columns:
            held = [plain(cell) for cell in part.table.column(column.name)]
            if kind(held) is Kind.NUMBER:
                numpy.testing.assert_array_equal(
                    frame[column.name].to_numpy(float), [math.nan if cell is None else float(cell) for cell in held]
                )


# Names


@pytest.mark.parametrize("format", ["csv", "parquet"])
def test_hostile_names_become_safe_files(audits: dict[str, Audit], tmp_path: Path, format: str):
    files = audits["hostile"].export(tmp_path / "out", format)
    inside = [file.relative_to(tmp_path / "out").as_posix() for file in files]
    assert all(SAFE.fullmatch(name) for name in inside[:-1])
    assert len({name.lower() for name in inside}) == len(inside)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
    named = {name for analysis, name in files_of(tmp_path / "out") if analysis == "../../up"}
    assert named == {"awkward", *hostile.NAMES}


def test_names_that_meet_after_cleaning_stay_apart():
    digest = pieces(Audit({}, {"r": Result("r", "", "", tables={"a/b": Table("", "", (), ())})}))[-1].path.split("/")[1]
    tables = {name: Table("", "", (), ()) for name in ("a/b", digest, f"{digest}-2")}
    paths = [part.path for part in pieces(Audit({}, {"r": Result("r", "", "", tables=tables)}))[-3:]]
    assert len(set(paths)) == 3


def test_analyses_that_meet_after_cleaning_keep_their_arrays(tmp_path: Path):
    from safetensors.numpy import load_file

    names = ("a/b", stem("a/b"))
    results = {name: Result(name, "", "", arrays={"x": numpy.full(1, index)}) for index, name in enumerate(names)}
    [file] = Audit({}, results).export(tmp_path / "a.safetensors")
    assert sorted(array.item() for array in load_file(file).values()) == [0, 1]


# safetensors


def test_safetensors_read_back(audits: dict[str, Audit], tmp_path: Path):
    from safetensors import safe_open

    for name, audit in audits.items():
        [file] = audit.export(tmp_path / f"{name}.safetensors")
        with safe_open(file, "numpy") as handle:
            about = json.loads(handle.metadata()["assay"])
            read = {tuple(origin): handle.get_tensor(key) for key, origin in about["arrays"].items()}
        held = {(each.name, key): array for each in audit.results.values() for key, array in each.arrays.items()}
        assert read.keys() == held.keys()
        for key, array in held.items():
            assert read[key].dtype == array.dtype.newbyteorder("=")
            numpy.testing.assert_array_equal(read[key], array)
        assert about["model_digest"] == audit.subject["model_digest"]


def test_arrays_that_safetensors_does_not_know_are_refused(tmp_path: Path):
    result = Result("r", "", "", arrays={"c": numpy.zeros(2, complex)})
    with pytest.raises(StoreError, match="complex"):
        Audit({}, {"r": result}).export(tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())
    assert result_arrays.array_keys(result) == {"c": "c"}


# Choosing


def test_formats_follow_endings(audits: dict[str, Audit], tmp_path: Path):
    audit = audits["synthetic"]
    [written] = audit.export(tmp_path / "a.json")
    assert json.loads(written.read_text())["format"] == "assay-audit"
    with pytest.raises(UsageError, match="does not tell the format"):
        audit.export(tmp_path / "folder")
    with pytest.raises(UsageError, match="no export format 'parket'") as caught:
        audit.export(tmp_path / "folder", "parket")
    assert "Did you mean 'parquet'?" in caught.value.advice


def test_every_built_in_renderer_writes(audits: dict[str, Audit], tmp_path: Path):
    for name in registry.BUILT_IN:
        for place in (tmp_path / f"first.{name}", tmp_path / f"first.{name}"):  # the second time it replaces its own
            written = audits["hostile"].export(place, name)
            assert written, name
            assert all(file.is_file() and file.stat().st_size for file in written), name


def test_lone_surrogates_become_a_replacement():
    assert readable("a\ud800b") == "a\ufffdb"
    assert readable("\ud83d\ude00") == "\U0001f600"


# Renderers of other packages


@pytest.fixture
def offered(monkeypatch: pytest.MonkeyPatch):
    """A function that makes entry points of a made-up package `thing 1.0` visible."""

    def offer(**values: str) -> None:
        found = tuple(Plugin(registry.RENDERERS, name, value, "thing", "1.0") for name, value in values.items())
        monkeypatch.setattr(registry, "installed", lambda group: found)

    return offer


def count_results(audit: Audit, path: Path) -> list[Path]:
    path.write_text(str(len(audit.results)))
    return [path]


def explode(audit: Audit, path: Path) -> list[Path]:
    raise ValueError("boom")


def test_a_renderer_of_another_package_works(audits: dict[str, Audit], tmp_path: Path, offered: Any):
    offered(count=f"{__name__}:count_results", gone="no.such.module:function", bad=f"{__name__}:explode", no="math:pi")
    assert list(renderers())[-4:] == ["bad", "count", "gone", "no"]
    assert "gone" in renderers()
    assert len(renderers()) == len(list(renderers()))
    [written] = audits["hostile"].export(tmp_path / "n.txt", "count")
    assert written.read_text() == "2"
    with pytest.raises(StoreError, match="did not export"):
        audits["hostile"].export(tmp_path / "n.txt", "count")
    for name, why in (("gone", "ModuleNotFoundError"), ("bad", "boom"), ("no", "not a function")):
        with pytest.raises(PluginError, match=rf"{name} .*thing 1\.0.*{why}"):
            audits["hostile"].export(tmp_path / name, name)


def test_a_renderer_with_a_name_of_ours_is_left_out(offered: Any):
    offered(json="math:pi", two="math:pi")
    assert renderers()["json"].__module__ == "assay.render.json"
    assert ignored() == ("The renderer 'json' of thing 1.0 is not used: assay has one of that name.",)
    with pytest.raises(KeyError):
        renderers()["three"]


def test_place_folder_writes_nothing_when_one_file_cannot_be_written(tmp_path: Path):
    def fail(handle: Any) -> None:
        handle.write(b"half")
        raise OSError(28, "No space left on device")

    place_folder(tmp_path / "out", "csv", {"a.csv": lambda h: h.write(b"1")}, {})
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    with pytest.raises(StoreError, match="disk is full"):
        place_folder(tmp_path / "out", "csv", {"a.csv": lambda h: h.write(b"2"), "b.csv": fail}, {})
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
