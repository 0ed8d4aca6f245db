"""The run directory: what is written comes back, the same bytes each time, and nothing is lost or believed wrongly."""

import errno
import json
import math
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support import synthetic

from assay.errors import StoreError
from assay.grade import Grade
from assay.render.html import render
from assay.results import Audit, Figure, Quantity, Result, atomic
from assay.results.names import stem
from assay.store import encode, open_run, save_audit, save_result
from assay.store.decode import value
from assay.store.layout import is_member, is_stem

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=4),
    max_leaves=12,
)


@pytest.fixture(scope="module")
def audit() -> Audit:
    return synthetic.audit(12)


@pytest.fixture
def run(audit: Audit, tmp_path: Path) -> Path:
    return save_audit(audit, tmp_path / "run")


def files_of(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def rewrite_manifest(run: Path, change) -> None:
    document = json.loads((run / "run.json").read_text())
    change(document)
    (run / "run.json").write_text(json.dumps(document))


def forge(run: Path, path: str, content: bytes) -> None:
    """Replace a file and make the manifest agree, as an attacker would."""
    (run / path).write_bytes(content)
    rewrite_manifest(run, lambda document: document["files"].update({path: _mark(content)}))


def _mark(content: bytes) -> dict:
    import hashlib

    return {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}


def test_a_run_comes_back(audit: Audit, run: Path):
    back = open_run(run)
    assert list(back.results) == list(audit.results)
    assert back.left_out == audit.left_out
    assert back.graph_svg == audit.graph_svg
    assert back.nodes == audit.nodes
    assert back.findings == audit.findings
    for name, result in audit.results.items():
        twin = back.results[name]
        assert (twin.title, twin.question, twin.warnings) == (result.title, result.question, result.warnings)
        assert dict(twin.tables) == dict(result.tables)
        assert list(twin.summary) == list(result.summary)
        assert list(twin.arrays) == list(result.arrays)
        for key, array in result.arrays.items():
            assert twin.arrays[key].dtype == array.dtype
            numpy.testing.assert_array_equal(twin.arrays[key], array)
        assert twin.provenance is not None
        assert twin.provenance.wall_seconds == 12.34
        assert twin.provenance.peak_bytes == 345_000_000
        assert twin.provenance.config["levels"] == [0.01, 0.1]
    assert math.isnan(back.results["sensitivity"].summary["local"].value)
    assert render(back) == render(audit)


def test_the_same_results_give_the_same_bytes(audit: Audit, run: Path, tmp_path: Path):
    slower = {
        name: replace(result, provenance=replace(result.provenance, wall_seconds=99.0, peak_bytes=1))
        for name, result in audit.results.items()
    }
    other = save_audit(replace(audit, results=slower), tmp_path / "other")
    first, second = files_of(run), files_of(other)
    assert first.pop("timing.json") != second.pop("timing.json")
    assert first == second
    assert "timing.json" not in json.loads(first["run.json"])["files"]


def test_results_saved_one_by_one_are_the_same_run(audit: Audit, run: Path, tmp_path: Path):
    folder = tmp_path / "growing"
    save_audit(replace(audit, results={}), folder)
    assert open_run(folder).results == {}
    for count, result in enumerate(audit.results.values(), 1):
        save_result(result, folder)
        assert len(open_run(folder).results) == count
    assert files_of(folder) == files_of(run)


def test_a_first_result_makes_a_run(audit: Audit, tmp_path: Path):
    folder = audit.results["moments"].save(tmp_path / "deep" / "run")
    assert list(open_run(folder).results) == ["moments"]


def test_saving_again_replaces_and_removes_what_is_gone(audit: Audit, run: Path):
    (run / "notes.txt").write_text("mine")
    save_audit(replace(audit, results={"moments": audit.results["moments"]}, graph_svg="", nodes=None), run)
    left = set(files_of(run))
    assert left == {"run.json", "timing.json", "notes.txt", "results/moments.json", "results/moments.safetensors"}
    changed = replace(audit.results["moments"], title="Another title", arrays={}, figures=())
    save_result(changed, run)
    assert open_run(run).results["moments"].title == "Another title"
    assert "results/moments.safetensors" not in files_of(run)


def test_a_result_that_ran_is_no_longer_left_out(audit: Audit, run: Path):
    save_result(replace(audit.results["moments"], name="smoothness"), run)
    assert open_run(run).left_out == {}


@pytest.mark.parametrize("stop", range(12))
def test_a_crash_between_two_renames_leaves_a_readable_run(audit: Audit, run: Path, monkeypatch, stop: int):
    renames = iter(range(100))
    publish = atomic.publish

    def crash(temporary: Path, target: Path) -> None:
        if next(renames) == stop:
            raise KeyboardInterrupt
        publish(temporary, target)

    monkeypatch.setattr("assay.store.write.publish", crash)
    changed = {name: replace(result, title=f"new {name}") for name, result in audit.results.items()}
    try:
        save_audit(replace(audit, results=changed, graph_svg="<svg/>"), run)
        crashed = False
    except KeyboardInterrupt:
        crashed = True
    assert crashed == (stop < 6)  # two manifests, two results, the graph and the times are renamed
    back = open_run(run)
    if not crashed:
        assert [r.title for r in back.results.values()] == ["new moments", "new sensitivity"]
    elif stop == 0:
        assert [r.title for r in back.results.values()] == ["Noise moments", "Layer sensitivity"]
    assert not [name for name in files_of(run) if name.endswith(".tmp")]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EROFS])
@pytest.mark.parametrize("after", [0, 1, 3])
def test_a_full_disk_changes_nothing(audit: Audit, run: Path, monkeypatch, code: int, after: int):
    before = files_of(run)
    calls = iter(range(100))
    fsync = os.fsync

    def full(handle: int) -> None:
        if next(calls) >= after:
            raise OSError(code, os.strerror(code))
        fsync(handle)

    changed = {name: replace(result, title="changed") for name, result in audit.results.items()}
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError) as caught:
        save_audit(replace(audit, results=changed), run)
    assert ("disk is full" in caught.value.what) == (code == errno.ENOSPC)
    assert caught.value.where
    assert caught.value.advice
    assert files_of(run) == before


def test_a_file_where_the_directory_should_be(audit: Audit, tmp_path: Path):
    (tmp_path / "run").write_text("a file")
    with pytest.raises(StoreError):
        save_audit(audit, tmp_path / "run")
    with pytest.raises(StoreError):
        open_run(tmp_path / "run")
    assert (tmp_path / "run").read_text() == "a file"


def test_no_run_there(tmp_path: Path):
    with pytest.raises(StoreError, match="holds no run"):
        open_run(tmp_path)


@given(VALUES)
def test_any_value_survives(item):
    restored = value(json.loads(encode.to_bytes(item, "here")), "here")
    assert restored == item


@pytest.mark.parametrize(
    "item", [float("inf"), float("-inf"), {"$float": "nan"}, {"$dict": 1}, {"$": {"$x": 2}}, {3: 4}]
)
def test_unusual_values_survive(item):
    assert value(json.loads(encode.to_bytes([item], "here")), "here") == [item]


def test_nan_survives_and_the_file_is_strict_json():
    raw = encode.to_bytes({"a": float("nan"), "b": numpy.float32("nan")}, "here")

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    json.loads(raw, parse_constant=refuse)
    back = value(json.loads(raw), "here")
    assert math.isnan(back["a"])
    assert math.isnan(back["b"])


def test_numpy_values_become_plain_numbers():
    item = {"i": numpy.int64(3), "f": numpy.float32(0.5), "b": numpy.bool_(True), "a": numpy.arange(3)}
    assert json.loads(encode.to_bytes(item, "here")) == {"i": 3, "f": 0.5, "b": True, "a": [0, 1, 2]}


def test_a_value_that_cannot_be_stored_names_its_place(tmp_path: Path):
    bad = Result("r", "t", "q", figures=(Figure("lines", "f", "", {"x": [1, {"deep": object()}]}),))
    with pytest.raises(StoreError) as caught:
        save_result(bad, tmp_path)
    assert "figures[0].data.x[1].deep" in caught.value.where
    assert not (tmp_path / "run.json").exists()


def test_values_nested_without_end(tmp_path: Path):
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(StoreError, match="nested"):
        save_result(Result("r", "t", "q", figures=(Figure("lines", "", "", {"x": deep}),)), tmp_path)


@pytest.mark.parametrize(
    "array",
    [
        numpy.arange(12).reshape(3, 4)[:, ::2],
        numpy.asfortranarray(numpy.arange(6.0).reshape(2, 3)),
        numpy.float32(2.5) * numpy.ones(()),
        numpy.zeros((0, 3)),
        numpy.array([1.0, numpy.nan, -numpy.inf]),
        numpy.arange(5, dtype=">f8"),
        numpy.array([True, False]),
        numpy.arange(4, dtype=numpy.float16),
    ],
    ids=["strided", "fortran", "scalar", "empty", "nan", "big-endian", "bool", "half"],
)
def test_every_layout_of_an_array_survives(array: numpy.ndarray, tmp_path: Path):
    hostile = "__metadata__"
    save_result(Result("r", "t", "q", arrays={"a": array, hostile: array, "é/\0\n": array}), tmp_path)
    back = open_run(tmp_path).results["r"].arrays
    assert list(back) == ["a", hostile, "é/\0\n"]
    for twin in back.values():
        assert twin.shape == numpy.shape(array)
        numpy.testing.assert_array_equal(twin, array)


@pytest.mark.parametrize("array", [numpy.array([object()]), numpy.array(["text"]), numpy.array([1j])])
def test_arrays_of_other_types_are_refused(array: numpy.ndarray, tmp_path: Path):
    with pytest.raises(StoreError, match="cannot be stored"):
        save_result(Result("r", "t", "q", arrays={"a": array}), tmp_path)


@pytest.mark.parametrize(
    "name", ["../../evil", "/etc/passwd", "a\0b", "con", "x" * 10_000, "", "Ünï", ".", "A", "\ud800"]
)
def test_names_of_results_cannot_leave_the_directory(name: str, tmp_path: Path):
    save_result(Result(name, "t", "q", {"n": Quantity(1.0, Grade.EXACT)}), tmp_path / "run")
    assert {p.name for p in tmp_path.iterdir()} == {"run"}
    assert len(list((tmp_path / "run" / "results").iterdir())) == 1
    assert is_stem(stem(name))
    assert list(open_run(tmp_path / "run").results) == [name]


def test_names_that_differ_in_case_have_different_files():
    assert len({stem(name).lower() for name in ("moments", "Moments", "MOMENTS", "moments ")}) == 4


@pytest.mark.parametrize(
    "path", ["results/../x.json", "/x.json", "results/a/b.json", "results/x.pkl", "x.json", "results/.json"]
)
def test_other_paths_are_not_members(path: str):
    assert not is_member(path)


@pytest.mark.parametrize(
    "path", ["results/moments.json", "results/moments.safetensors", "graph.svg", "nodes.json", "run.json"]
)
@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing", "longer", "symlink", "directory"])
def test_damage_is_noticed(run: Path, path: str, damage: str):
    target = run / path
    content = target.read_bytes()
    if damage == "truncated":
        target.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        target.write_bytes(content[:-20] + bytes([content[-20] ^ 1]) + content[-19:])
        if path == "run.json":
            target.write_bytes(content.replace(b'"sha256":"', b'"sha256":"0', 1))
    elif damage == "longer":
        target.write_bytes(content + b"x")
    else:
        target.unlink()
        if damage == "symlink":
            copy = run.parent / "copy"
            copy.write_bytes(content)
            target.symlink_to(copy)
        elif damage == "directory":
            target.mkdir()
    with pytest.raises(StoreError) as caught:
        open_run(run)
    assert caught.value.where
    assert caught.value.advice


def test_a_linked_results_folder_is_refused(audit: Audit, run: Path, tmp_path: Path):
    shutil.move(run / "results", tmp_path / "elsewhere")
    (run / "results").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match="symbolic link"):
        open_run(run)
    before = files_of(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match="symbolic link"):
        save_result(replace(audit.results["moments"], title="x"), run)
    assert files_of(tmp_path / "elsewhere") == before


def test_a_pipe_in_place_of_a_file_does_not_hang(run: Path):
    (run / "graph.svg").unlink()
    os.mkfifo(run / "graph.svg")
    with pytest.raises(StoreError, match="regular"):
        open_run(run)


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(schema=2),
        lambda d: d.update(schema=True),
        lambda d: d.update(format="other"),
        lambda d: d.update(files=[]),
        lambda d: d.update(subject=3),
        lambda d: d.update(left_out={"a": 1}),
        lambda d: d["files"].update({"../../../etc/passwd": {"sha256": "", "bytes": 0}}),
        lambda d: d["results"].append({"name": "x", "stem": "../../x"}),
        lambda d: d["results"].append(d["results"][0]),
        lambda d: d["files"]["graph.svg"].update(bytes=-1),
        lambda d: d["files"]["results/moments.json"].update(bytes="many"),
        lambda d: d["subject"].update({"$float": "1e5"}),
        lambda d: d["subject"].update(x={"$dict": [[[], 1]]}),
    ],
)
def test_a_hostile_manifest_is_refused(run: Path, change):
    rewrite_manifest(run, change)
    with pytest.raises(StoreError):
        open_run(run)


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"NaN", b'{"a":Infinity}', b"[" * 200_000, b"\xff\xfe", b"9" * 5000, b"{}"]
)
@pytest.mark.parametrize("path", ["run.json", "timing.json", "results/moments.json", "nodes.json"])
def test_broken_json_is_refused(run: Path, path: str, content: bytes):
    if path in ("run.json", "timing.json"):
        (run / path).write_bytes(content)
    else:
        forge(run, path, content)
    with pytest.raises(StoreError):
        open_run(run)


@pytest.mark.parametrize(
    ("key", "wrong"),
    [
        ("title", 3),
        ("summary", [{"key": "a", "value": "1"}]),
        ("tables", [{"key": "a", "columns": [], "rows": [[1]]}]),
        ("arrays", [{"name": "a", "key": "nowhere"}]),
        ("findings", [{"rule": "r", "status": "fine", "sentence": "", "place": "", "next_step": ""}]),
        ("warnings", "text"),
        ("provenance", {"analysis": "moments"}),
        ("figures", [{"kind": "lines", "title": "", "caption": "", "data": []}]),
    ],
)
def test_members_of_the_wrong_type_are_refused(run: Path, key: str, wrong):
    document = json.loads((run / "results/moments.json").read_text())
    document[key] = wrong
    forge(run, "results/moments.json", json.dumps(document).encode())
    with pytest.raises(StoreError) as caught:
        open_run(run)
    assert "moments.json" in caught.value.where


def _header(text: bytes, length: int | None = None) -> bytes:
    return (len(text) if length is None else length).to_bytes(8, "little") + text


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not safetensors at all",
        _header(b"{}", 2**62),
        _header(b'{"a":{"dtype":"F64","shape":[4611686018427387904,8],"data_offsets":[0,8]}}') + b"\0" * 8,
        _header(b'{"a":{"dtype":"F64","shape":[1],"data_offsets":[0,800]}}') + b"\0" * 8,
        _header(b'{"a":{"dtype":"OBJ","shape":[1],"data_offsets":[0,8]}}') + b"\0" * 8,
        b"\x80\x04cposix\nsystem\n(S'true'\ntR.",
    ],
)
def test_a_hostile_array_file_is_refused(run: Path, content: bytes):
    forge(run, "results/moments.safetensors", content)
    with pytest.raises(StoreError):
        open_run(run)


def test_a_file_too_large_is_not_read(run: Path, monkeypatch):
    monkeypatch.setattr("assay.store.read.MAXIMUM_JSON_BYTES", 100)
    with pytest.raises(StoreError, match="at most 100"):
        open_run(run)


def test_a_run_of_the_future_says_so(run: Path):
    rewrite_manifest(run, lambda document: document.update(schema=7))
    with pytest.raises(StoreError) as caught:
        open_run(run)
    assert "format 7" in caught.value.what
    assert "Update" in caught.value.advice
