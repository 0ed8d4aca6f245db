"""Where exports go: earlier exports are replaced, nothing else ever is, and an interrupted one can be repeated."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from tests.support import hostile

from assay.errors import StoreError
from assay.render import placing
from assay.render.placing import INDEX, check_free, place_file, place_folder
from assay.results import atomic


def writing(text: str):
    return lambda handle: handle.write(text.encode())


def content(folder: Path) -> dict[str, str]:
    """Text by path, the index and temporary files aside."""
    return {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != INDEX and path.suffix != ".tmp"
    }


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    place_folder(folder, "csv", {"a.csv": writing("1"), "sub/b.csv": writing("2")}, {"a.csv": {"table": "A"}})
    return folder


def test_a_folder_and_its_index(exported: Path):
    assert content(exported) == {"a.csv": "1", "sub/b.csv": "2"}
    index = json.loads((exported / INDEX).read_text())
    assert (index["format"], index["version"], index["kind"]) == ("assay-export", 1, "csv")
    digests = [hashlib.sha256(text).hexdigest() for text in (b"1", b"2")]
    assert index["files"] == [
        {"file": "a.csv", "sha256": digests[0], "table": "A"},
        {"file": "sub/b.csv", "sha256": digests[1]},
    ]


def test_an_earlier_export_is_replaced_and_its_other_files_go(exported: Path):
    place_folder(exported, "csv", {"a.csv": writing("new"), "c.csv": writing("3")}, {})
    assert content(exported) == {"a.csv": "new", "c.csv": "3"}
    assert not (exported / "sub").exists()


def test_other_files_beside_an_export_stay(exported: Path):
    (exported / "notes.txt").write_text("mine")
    place_folder(exported, "csv", {"c.csv": writing("3")}, {})
    assert content(exported) == {"c.csv": "3", "notes.txt": "mine"}


def refused(folder: Path, match: str, kind: str = "csv", **files: str) -> None:
    before = content(folder)
    with pytest.raises(StoreError, match=match):
        place_folder(folder, kind, {f"{name}.csv": writing(text) for name, text in (files or {"a": "x"}).items()}, {})
    assert content(folder) == before
    assert not list(folder.rglob("*.tmp"))


def test_a_file_that_was_changed_is_not_replaced(exported: Path):
    (exported / "a.csv").write_text("edited")
    refused(exported, "changed since")


def test_a_stranger_with_a_name_that_is_needed_is_not_replaced(exported: Path):
    (exported / "c.csv").write_text("mine")
    refused(exported, "did not export", a="x", c="x")


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path):
    (tmp_path / "thesis.tex").write_text("mine")
    refused(tmp_path, "did not export")


def test_another_kind_of_export_is_left_alone(exported: Path):
    refused(exported, "not the index of an earlier export as parquet", kind="parquet")


@pytest.mark.parametrize("index", [
    "", "[]", "{}", "null", '{"format": "assay-export"}',
    '{"format": "assay-export", "version": 1, "kind": "csv", "files": [{"file": "../a.csv", "sha256": ""}]}',
    '{"format": "assay-export", "version": 1, "kind": "csv", "files": [{"file": "/etc/passwd", "sha256": ""}]}',
    '{"format": "assay-export", "version": 1, "kind": "csv", "files": [{"file": 7, "sha256": ""}]}',
    '{"format": "assay-export", "version": 1, "kind": "csv", "files": 7}',
    "[" * 100_000,
])  # fmt: skip
def test_a_damaged_index_is_not_believed(exported: Path, index: str):
    (exported / INDEX).write_text(index)
    refused(exported, "not the index")


def test_an_index_cannot_make_us_delete_what_is_not_ours(tmp_path: Path):
    victim = tmp_path / "data" / "precious.csv"
    victim.parent.mkdir()
    victim.write_text("mine")
    entry = {"file": "data/precious.csv", "sha256": "0" * 64}
    (tmp_path / INDEX).write_text(json.dumps({"format": "assay-export", "version": 1, "kind": "csv", "files": [entry]}))
    refused(tmp_path, "changed since")


def test_links_are_not_followed(exported: Path, tmp_path: Path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "b.csv").write_text("2")
    (exported / "a.csv").unlink()
    (exported / "a.csv").symlink_to(outside / "b.csv")
    refused(exported, "Something else stands")
    (exported / "a.csv").unlink()
    (exported / "sub" / "b.csv").unlink()
    (exported / "sub").rmdir()
    (exported / "sub").symlink_to(outside, target_is_directory=True)
    with pytest.raises(StoreError):
        place_folder(exported, "csv", {"sub/b.csv": writing("new"), "sub/n.csv": writing("new")}, {})
    assert content(outside) == {"b.csv": "2"}


@pytest.mark.parametrize("published", range(6))
def test_a_crash_between_two_renames_can_be_repeated(exported: Path, published: int, monkeypatch: pytest.MonkeyPatch):
    """The old index is replaced first by one that knows old and new files: whatever is there, it is ours."""
    done: list[Path] = []

    def stop(temporary: Path, target: Path) -> None:
        if len(done) == published:
            raise KeyboardInterrupt
        done.append(target)
        atomic.publish(temporary, target)

    files = {"a.csv": writing("new"), "c.csv": writing("3"), "sub/b.csv": writing("4")}
    with monkeypatch.context() as patch:
        patch.setattr(placing, "publish", stop)
        if published < 5:
            with pytest.raises(KeyboardInterrupt):
                place_folder(exported, "csv", files, {})
        else:
            place_folder(exported, "csv", files, {})
    place_folder(exported, "csv", files, {})
    assert content(exported) == {"a.csv": "new", "c.csv": "3", "sub/b.csv": "4"}
    assert not [path for path in exported.rglob("*.tmp") if path.name.startswith(".a.csv")]


def test_a_full_disk_changes_nothing(exported: Path, monkeypatch: pytest.MonkeyPatch):
    before = content(exported)
    monkeypatch.setattr(os, "fsync", lambda handle: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(StoreError, match="disk is full"):
        place_folder(exported, "csv", {"a.csv": writing("new")}, {})
    assert content(exported) == before


def test_files_that_are_ours_are_replaced(tmp_path: Path):
    target = tmp_path / "deep" / "a.bin"
    place_file(target, writing("mark 1"), lambda head: head.startswith(b"mark"))
    place_file(target, writing("mark 2"), lambda head: head.startswith(b"mark"))
    assert target.read_text() == "mark 2"
    target.write_text("mine")
    with pytest.raises(StoreError, match="did not export"):
        place_file(target, writing("mark 3"), lambda head: head.startswith(b"mark"))
    assert target.read_text() == "mine"


@pytest.mark.parametrize("kind", ["folder", "link", "dangling"])
def test_places_that_are_no_files_are_taken(tmp_path: Path, kind: str):
    target = tmp_path / "a"
    if kind == "folder":
        target.mkdir()
    else:
        (tmp_path / "b").write_text("mark") if kind == "link" else None
        target.symlink_to(tmp_path / "b")
    with pytest.raises(StoreError, match="did not export"):
        check_free(target, lambda head: True)


@pytest.mark.parametrize("format", ["html", "json", "safetensors", "markdown", "junit"])
def test_a_file_of_somebody_else_is_never_replaced(tmp_path: Path, format: str):
    target = tmp_path / "a"
    for text in (b"", b"mine", b'{"format": "other"}', b"\x7fELF" + b"\0" * 100_000):
        target.write_bytes(text)
        with pytest.raises(StoreError, match="did not export"):
            hostile.audit().export(target, format)
        assert target.read_bytes() == text


def test_a_file_where_a_folder_is_needed(tmp_path: Path):
    (tmp_path / "out").write_text("mine")
    for format in ("csv", "parquet"):
        with pytest.raises(StoreError, match="A file stands where a folder is needed"):
            hostile.audit().export(tmp_path / "out", format)


def test_same_audit_same_bytes(tmp_path: Path):
    def digest(folder: str, format: str) -> Any:
        files = hostile.audit().export(tmp_path / folder, format)
        return [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]

    for format in ("csv", "parquet", "json", "safetensors"):
        assert digest(f"1{format}", format) == digest(f"2{format}", format)
