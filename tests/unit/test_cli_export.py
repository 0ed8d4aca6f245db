"""`assay export` as a process of its own."""

import csv
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.support import hostile, synthetic
from tests.support.exported import read_parquet, same

import assay
from assay.cli import main
from assay.render import placing
from assay.render.cells import Kind, kind, plain
from assay.render.schema import schema
from assay.render.tables import pieces
from assay.results import Audit, atomic
from assay.store import open_run, save_audit
from assay.store.checksums import write_checksums


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A made-up audit with usual names and numbers, saved as every audit is, with its checksums."""
    folder = tmp_path_factory.mktemp("exported") / "run"
    save_audit(synthetic.audit(), folder)
    write_checksums(folder)
    return folder


@pytest.fixture
def audit(run: Path) -> Audit:
    return open_run(run)


def test_parquet_from_the_command_line(run: Path, audit: Audit, tmp_path: Path, run_cli: Any):
    import pandas

    done = run_cli("export", run, "--format", "parquet", "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{tmp_path / 'out'}: {len(pieces(audit)) + 1} files, ")
    for part in pieces(audit):
        frame = pandas.read_parquet(tmp_path / "out" / f"{part.path}.parquet", dtype_backend="numpy_nullable")
        assert list(frame.columns) == [column.name for column in part.table.columns]
        assert len(frame) == len(part.table.rows)
    summary = pandas.read_parquet(tmp_path / "out" / "summary.parquet")
    held = [item for result in audit.results.values() for item in result.summary.values()]
    assert list(map(repr, summary["value"].tolist())) == [repr(float(item.value)) for item in held]
    assert summary["grade"].tolist() == [item.grade.value for item in held]


def test_json_from_the_command_line_meets_the_schema(run: Path, audit: Audit, tmp_path: Path, run_cli: Any):
    jsonschema = pytest.importorskip("jsonschema")
    done = run_cli("export", run, "-o", "run.json", "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["files"] == ["run.json"]
    assert said["bytes"] == (tmp_path / "run.json").stat().st_size
    document = json.loads((tmp_path / "run.json").read_text())
    jsonschema.Draft202012Validator(schema(closed=True)).validate(document)
    rows = document["results"]["moments"]["tables"]["layers"]["rows"]
    assert rows == [[plain(cell) for cell in row] for row in audit.results["moments"].tables["layers"].rows]


def test_csv_is_quiet_when_asked(run: Path, audit: Audit, tmp_path: Path, run_cli: Any):
    done = run_cli("export", run, "--format", "csv", "-o", "out", "-q")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    with open(tmp_path / "out" / "findings.csv", newline="", encoding="utf-8") as handle:
        assert [row["rule"] for row in csv.DictReader(handle)] == [
            one.rule for result in audit.results.values() for one in result.findings
        ]


def test_the_run_stays_intact(run: Path, tmp_path: Path, run_cli: Any):
    shutil.copytree(run, tmp_path / "run")
    for format in ("csv", "json", "safetensors", "parquet", "markdown", "junit"):
        assert (
            main(["export", str(tmp_path / "run"), "--format", format, "-o", str(tmp_path / f"o-{format}"), "-q"]) == 0
        )
    assert run_cli("verify", tmp_path / "run").returncode == 0
    for place in ("run/report.html", "run/tables", "run"):
        assert main(["export", str(tmp_path / "run"), "--format", "html", "-o", str(tmp_path / place)]) == 2


def test_what_stands_there_is_kept(run: Path, tmp_path: Path, run_cli: Any):
    (tmp_path / "mine.json").write_text("{}")
    done = run_cli("export", run, "-o", "mine.json")
    assert done.returncode == 3
    assert "did not export. Nothing was written." in done.stderr
    assert "next: Give another place" in done.stderr
    assert (tmp_path / "mine.json").read_text() == "{}"


@pytest.mark.parametrize(("damage", "code"), [("missing", 3), ("empty", 3), ("flipped", 3)])
def test_runs_that_cannot_be_read(
    run: Path, tmp_path: Path, damage: str, code: int, capsys: pytest.CaptureFixture[str]
):
    folder = tmp_path / "run"
    if damage != "missing":
        shutil.copytree(run, folder)
        file = next((folder / "results").glob("*.json"))
        file.write_bytes(b"" if damage == "empty" else file.read_bytes().replace(b"a", b"b", 1))
    assert main(["export", str(folder), "--format", "csv", "-o", str(tmp_path / "out")]) == code
    assert "next: " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def without(folder: Path) -> dict[str, str]:
    """Variables that put a folder before everything else on the path of a process."""
    known = [os.environ["PYTHONPATH"]] if os.environ.get("PYTHONPATH") else []
    return {"PYTHONPATH": os.pathsep.join([str(folder), str(Path(assay.__file__).parents[1]), *known])}


def test_a_library_that_is_absent(run: Path, tmp_path: Path, run_cli: Any):
    (tmp_path / "pyarrow").mkdir()
    (tmp_path / "pyarrow" / "__init__.py").write_text("raise ImportError('gone')")
    done = run_cli("export", run, "--format", "parquet", "-o", "out", cwd=tmp_path, env=without(tmp_path))
    assert done.returncode == 2
    assert "pip install 'assay[tables]'" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_full_disk(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def full(target: Path, write: Any) -> Path:
        raise placing.refuse(OSError(28, "No space left on device"), target)

    monkeypatch.setattr(placing, "stage_with", full)
    assert main(["export", str(run), "--format", "csv", "-o", str(tmp_path / "out")]) == 3
    assert "The disk is full" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_devices_are_not_files(run: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["export", str(run), "--format", "json", "-o", "/dev/full"]) == 3
    assert "did not export" in capsys.readouterr().err


def test_a_place_without_permission(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def refuse(path: Path, mode: str) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(atomic, "open", refuse, raising=False)  # root may write anywhere, so the refusal is made up
    assert main(["export", str(run), "--format", "json", "-o", str(tmp_path / "a.json")]) == 3
    assert "No permission" in capsys.readouterr().err


def test_no_network_unless_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import socket

    def connect(*_: Any) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    save_audit(hostile.audit(), tmp_path / "run")
    for format in ("csv", "json", "html", "safetensors", "parquet", "markdown", "junit"):
        assert main(["export", str(tmp_path / "run"), "--format", format, "-o", str(tmp_path / format), "-q"]) == 0


@pytest.mark.slow
def test_every_format_from_a_real_demo(tmp_path: Path, run_cli: Any):
    """All five analyses, as `assay demo` leaves them: every table reads back equal, and the document is valid."""
    import jsonschema

    assert run_cli("demo", "-o", "run", "-q").returncode == 0
    audit = open_run(tmp_path / "run")
    assert len(audit.results) == 5
    for format in ("csv", "json", "html", "safetensors", "parquet", "markdown", "junit"):
        done = run_cli("export", "run", "--format", format, "-o", format)
        assert (done.returncode, done.stderr) == (0, "")
    jsonschema.Draft202012Validator(schema(closed=True)).validate(json.loads((tmp_path / "json").read_text()))
    for part in pieces(audit):
        columns = read_parquet(tmp_path / "parquet" / f"{part.path}.parquet")
        for index, column in enumerate(part.table.columns):
            held = [plain(row[index]) for row in part.table.rows]
            held = [None if cell is None else float(cell) for cell in held] if kind(held) is Kind.NUMBER else held
            assert all(map(same, columns[index], held)), (part.path, column.name)
    assert run_cli("verify", "run").returncode == 0
