"""Flipped bytes, torn ends, lost files: found by `verify`, and put right by running again wherever anything can be."""

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.sweeping import Products, digest_of_files, environment, sealed_folder, start

from assay.errors import StoreError
from assay.sweep import run, verify
from assay.sweep.shard import log_is_whole, read_rows

JOB = Products(count=6, size=4)
HALF = """
import os, sys, json
from pathlib import Path
from tests.support.sweeping import Products
from assay.sweep import run
class Half(Products):
    def open(self, stage, done):
        compute = super().open(stage, done)
        return lambda item: os._exit(9) if item.name == "product 4" else compute(item)
run(Half(count=6, size=4), directory=Path(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sealed")
    run(JOB, directory=folder)
    return folder


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep whose process ended at once after four of six items: its log has not been written back."""
    folder = tmp_path_factory.mktemp("unfinished")
    done = subprocess.run([sys.executable, "-c", HALF, str(folder)], env=environment(), check=False)
    assert done.returncode == 9
    return folder


@pytest.fixture
def copy(tmp_path: Path) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        shutil.rmtree(tmp_path / "copy", ignore_errors=True)
        return Path(shutil.copytree(folder, tmp_path / "copy"))

    return make


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)


def flip(path: Path, place: int, bit: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << bit
    path.write_bytes(bytes(content))


def places(path: Path, count: int, seed: int = 0) -> list[int]:
    """The first and last bytes, and random ones, the same in every run (a shard's name holds its process)."""
    size = path.stat().st_size
    draw = random.Random(f"{seed} {path.suffix}")
    return sorted(
        {0, 1, size // 2, size - 2, size - 1, *(draw.randrange(size) for _ in range(count))} & set(range(size))
    )


def test_one_flipped_byte_in_a_sealed_sweep(sealed: Path, copy):
    folder = copy(sealed)
    assert verify(folder).intact
    names = set()
    for path in files_of(folder):
        before = path.read_bytes()
        for place in places(path, 60):
            flip(path, place, place % 8)
            damages = verify(folder).damages
            assert [Path(damage.path).name for damage in damages] == [path.name], place
            with pytest.raises(StoreError, match="The sweep is damaged"):
                run(JOB, directory=folder)
            path.write_bytes(before)
        names.add(path.name)
    assert names == {"manifest.json", "outcomes-0000.safetensors", "sweep.json", "table.sqlite", "times.json"}


@pytest.mark.parametrize("kind", ["sweep.json", ".safetensors", ".sqlite-wal"])
def test_one_flipped_byte_in_an_unfinished_sweep(kind: str, unfinished: Path, sealed: Path, copy):
    folder = copy(unfinished)
    assert verify(folder).damages == []
    path = next(path for path in files_of(folder) if path.name.endswith(kind))
    before = path.read_bytes()
    for place in places(path, 100):
        flip(path, place, place % 8)
        damages = verify(folder).damages
        assert path.name in {Path(damage.path).name for damage in damages}, place
        path.write_bytes(before)
    for place in places(path, 3, seed=1):
        folder = copy(unfinished)
        flip(path, place)
        run(JOB, directory=folder)
        assert digest_of_files(sealed_folder(folder)) == digest_of_files(sealed_folder(sealed))


def test_one_flipped_byte_in_a_shard(unfinished: Path, sealed: Path, copy):
    """Bytes of free space say nothing; whatever a row or the structure says is protected."""
    folder = copy(unfinished)
    (path,) = folder.glob("sweeps/*/shards/*.sqlite")
    import sqlite3

    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    rows, before = read_rows(path), path.read_bytes()
    assert len(rows) == 4
    seen = 0
    for place in places(path, 250):
        flip(path, place, place % 8)
        found = verify(folder)
        if found.intact:
            assert read_rows(path) == rows
        else:
            assert [Path(damage.path).name for damage in found.damages] == [path.name]
            seen += 1
        path.write_bytes(before)
    assert seen > 20
    for row in rows:  # texts of rows, one after the other
        flip(path, before.index(row.name.encode()))
        assert not verify(folder).intact
        path.write_bytes(before)
    flip(path, before.index(rows[0].name.encode()))
    run(JOB, directory=folder)
    assert digest_of_files(sealed_folder(folder)) == digest_of_files(sealed_folder(sealed))


def test_every_bit_of_the_log_s_own_fields(unfinished: Path, tmp_path: Path):
    """Its header, and the header of every frame, of which the salts tell frames of this log from older ones."""
    (log,) = unfinished.glob("sweeps/*/shards/*-wal")
    before, copy = log.read_bytes(), tmp_path / "log"
    frame = 24 + int.from_bytes(before[8:12], "big")
    fields = [*range(32), *(start + i for start in range(32, len(before), frame) for i in range(24))]
    for place in fields:
        for bit in range(8):
            copy.write_bytes(before)
            flip(copy, place, bit)
            assert not log_is_whole(copy), (place, bit)


def test_frames_of_an_older_log_are_no_damage(tmp_path: Path):
    import sqlite3

    path = tmp_path / "rows.sqlite"
    with sqlite3.connect(path, isolation_level=None) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE many (text TEXT)")
        connection.executemany("INSERT INTO many VALUES (?)", [("x" * 3000,)] * 20)
        connection.execute("PRAGMA wal_checkpoint(RESTART)")
        connection.execute("INSERT INTO many VALUES ('one more')")
        content = (tmp_path / "rows.sqlite-wal").read_bytes()
        frame = 24 + int.from_bytes(content[8:12], "big")
        assert len({content[start + 8 : start + 16] for start in range(32, len(content), frame)}) == 2
        assert log_is_whole(tmp_path / "rows.sqlite-wal")


def test_a_shard_whose_table_has_another_name(unfinished: Path, copy):
    folder = copy(unfinished)
    (path,) = folder.glob("sweeps/*/shards/*.sqlite")
    import sqlite3

    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    content, rows = path.read_bytes(), read_rows(path)
    first = content.index(b"tabledonedone") + len("table")
    for place in range(first, first + len("done")):  # `Done` is the same name to SQLite, and another to a query for it
        flip(path, place, 5)
        assert not verify(folder).intact, place
        path.write_bytes(content)
    for place in [i for i in range(len(content)) if content.startswith(b"done", i)]:
        flip(path, place)
        assert not verify(folder).intact or read_rows(path) == rows, place
        path.write_bytes(content)


@pytest.mark.parametrize("cut", [1, 100, 4096, 4120, 6000])
def test_torn_end_of_the_log(cut: int, unfinished: Path, sealed: Path, copy):
    folder = copy(unfinished)
    (log,) = folder.glob("sweeps/*/shards/*-wal")
    os.truncate(log, log.stat().st_size - cut)
    assert cut == 4120 or not log_is_whole(log)  # 4120: a page with its header; the log is shorter and right
    run(JOB, directory=folder)
    assert digest_of_files(sealed_folder(folder)) == digest_of_files(sealed_folder(sealed))


def test_torn_page_of_a_shard(unfinished: Path, sealed: Path, copy):
    folder = copy(unfinished)
    (path,) = folder.glob("sweeps/*/shards/*.sqlite")
    import sqlite3

    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    os.truncate(path, path.stat().st_size - 2000)
    assert [Path(damage.path).name for damage in verify(folder).damages] == [path.name]
    seen: list[str] = []
    run(JOB, directory=folder, progress=lambda done, total, text: seen.append(text))
    assert ": 4 of 6" in seen[0]  # the rows were made again from the outcomes' files
    assert digest_of_files(sealed_folder(folder)) == digest_of_files(sealed_folder(sealed))


def test_lost_shards_lose_nothing(unfinished: Path, sealed: Path, copy):
    folder = copy(unfinished)
    shutil.rmtree(next(folder.glob("sweeps/*/shards")))
    seen: list[str] = []
    run(JOB, directory=folder, progress=lambda done, total, text: seen.append(text))
    assert ": 4 of 6" in seen[0]
    assert digest_of_files(sealed_folder(folder)) == digest_of_files(sealed_folder(sealed))


def test_lost_outcome_is_computed_again(unfinished: Path, sealed: Path, copy):
    folder = copy(unfinished)
    next(folder.glob("sweeps/*/outcomes/*/*.safetensors")).unlink()
    assert len(verify(folder).damages) == 1
    run(JOB, directory=folder)
    assert digest_of_files(sealed_folder(folder)) == digest_of_files(sealed_folder(sealed))


def test_lost_file_of_a_sealed_sweep(sealed: Path, copy):
    for name in ("outcomes-0000.safetensors", "times.json", "table.sqlite"):
        folder = copy(sealed)
        (sealed_folder(folder) / name).unlink()
        assert [Path(damage.path).name for damage in verify(folder).damages] == [name]


def test_verify_changes_nothing(unfinished: Path, copy):
    folder = copy(unfinished)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert verify(folder).intact
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_verify_needs_a_run(tmp_path: Path):
    with pytest.raises(StoreError, match="holds no run"):
        verify(tmp_path)


def test_disk_that_is_really_full(tmp_path: Path):
    """On a file system of 300 kB, where this machine lets us make one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=300k", "assay", disk], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        job = {"count": 40, "size": 64}
        process = start("run", str(disk), json.dumps(job), stderr=subprocess.PIPE)
        _, said = process.communicate(timeout=120)
        assert process.returncode == 1
        assert "disk is full" in said
        assert verify(disk).damages == []
        kept = len(list(disk.glob("sweeps/*/outcomes/*/*.safetensors")))
        assert kept > 3
        shutil.copytree(disk, tmp_path / "larger")
    finally:
        subprocess.run(["umount", disk], check=True)
    seen: list[str] = []
    found = run(Products(**job), directory=tmp_path / "larger", progress=lambda done, total, text: seen.append(text))
    assert f": {kept} of 40" in seen[0]
    assert len(found) >= 40
