"""One SQLite file of rows: what one worker has done. Write-ahead log, synchronised at every commit."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import NoReturn

from assay.errors import StoreError
from assay.results.atomic import refuse, sync_folder

_SCHEMA = """
CREATE TABLE IF NOT EXISTS done (
    key TEXT PRIMARY KEY, stage INTEGER NOT NULL, name TEXT NOT NULL, content TEXT NOT NULL, bytes INTEGER NOT NULL,
    seconds REAL NOT NULL, checksum TEXT NOT NULL
) WITHOUT ROWID
"""
ENDING = ".sqlite"


@dataclass(frozen=True)
class Row:
    """One item that is done.

    Attributes:
        key: of the item.
        stage: it belongs to.
        name: for people.
        content: SHA-256 of the outcome.
        bytes: size of its file.
        seconds: it took.
    """

    key: str
    stage: int
    name: str
    content: str
    bytes: int
    seconds: float

    @property
    def checksum(self) -> str:
        """SHA-256 of the row."""
        return hashlib.sha256(json.dumps(astuple(self)).encode()).hexdigest()


class Shard:
    """The rows of one worker, open for writing.

    Args:
        path: the file; made when missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            # One shard belongs to one thread; `close` may come from another when the interpreter ends.
            self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=60.0)
            self._connection.execute("PRAGMA journal_mode=WAL")  # where a file system cannot, SQLite keeps its journal
            self._connection.execute("PRAGMA synchronous=FULL")
            self._connection.execute(_SCHEMA)
        except sqlite3.Error as error:
            _failed(error, path)
        sync_folder(path.parent)

    def add(self, rows: Sequence[Row]) -> None:
        """Keep rows, all or none; they are on disk when this returns.

        Raises:
            StoreError: when they cannot be written.
        """
        values = [(*astuple(row), row.checksum) for row in rows]
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.executemany("INSERT OR REPLACE INTO done VALUES (?, ?, ?, ?, ?, ?, ?)", values)
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")
            _failed(error, self.path)

    def close(self) -> None:
        """Write the log back into the file and let go of it."""
        try:
            self._connection.close()
        except sqlite3.Error as error:
            _failed(error, self.path)


def read_rows(path: Path) -> list[Row]:
    """All rows of a shard that nobody writes to, through a copy: the files stay as they are.

    Args:
        path: the shard; its write-ahead log is read with it.

    Returns:
        The rows that were committed; a torn end of the log is left out.

    Raises:
        ValueError: when the file is damaged.
        StoreError: when it cannot be read.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="assay-shard-") as folder:
            copy = Path(folder) / "copy.sqlite"
            for ending in ("", "-wal", "-journal"):
                source = path.with_name(path.name + ending)
                if source.is_file() and not source.is_symlink():
                    shutil.copyfile(source, copy.with_name(copy.name + ending))
            return list(_checked_rows(copy))
    except OSError as error:
        refuse(error, path)


def _checked_rows(path: Path) -> Iterator[Row]:
    try:
        connection = sqlite3.connect(path, isolation_level=None)
        try:
            found = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
            if found != "ok":
                raise ValueError(found)
            names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
            if not names:
                return  # ended before the table was committed
            if "done" not in names:
                raise ValueError(f"there is no table of rows, but {', '.join(map(repr, sorted(names, key=str)))}")
            for *values, checksum in connection.execute(
                "SELECT key, stage, name, content, bytes, seconds, checksum FROM done ORDER BY key"
            ):
                row = Row(*values)
                if row.checksum != checksum:
                    raise ValueError(f"row {row.key!r:.80} does not agree with its checksum")
                yield row
        finally:
            connection.close()
    except (sqlite3.Error, TypeError, OverflowError) as error:
        raise ValueError(str(error)) from error


def log_is_whole(path: Path) -> bool:
    """Whether every frame of a write-ahead log agrees with its checksum, as far as frames of this log go.

    A process that is killed leaves at most an incomplete last transaction, whose frames are right. (A machine that
    loses power may leave a torn end.)

    Args:
        path: the log, `...-wal`; absent or empty counts as whole.

    Returns:
        False when a frame is damaged.
    """
    content = path.read_bytes() if path.is_file() else b""
    if not content:
        return True
    if len(content) < 32:
        return False
    magic, page = int.from_bytes(content[:4], "big"), int.from_bytes(content[8:12], "big")
    if magic & ~1 != 0x377F0682 or page < 512:
        return False
    order = "big" if magic & 1 else "little"
    sums = _sums(content[:24], order, (0, 0))
    if sums != _pair(content[24:32], "big"):
        return False
    salts, damaged = content[16:24], False
    for start in range(32, len(content), 24 + page):
        frame = content[start : start + 24 + page]
        if len(frame) < 24 + page:
            return len(frame) == 0
        if frame[8:16] != salts:
            # A log that begins anew counts its first salt up and draws its second: frames left over from before differ
            # in both. Where one is ours the other is damaged, and so is a frame that ours follow.
            if frame[8:12] == salts[:4] or frame[12:16] == salts[4:]:
                return False
            damaged = True
            continue
        if damaged:
            return False
        sums = _sums(frame[24:], order, _sums(frame[:8], order, sums))
        if sums != _pair(frame[16:24], "big"):
            return False
    return True


def _sums(content: bytes, order: str, sums: tuple[int, int]) -> tuple[int, int]:
    """Checksum of SQLite's write-ahead log, https://www.sqlite.org/fileformat2.html, section 4.2."""
    first, second = sums
    for start in range(0, len(content), 8):
        a, b = _pair(content[start : start + 8], order)
        first = (first + a + second) & 0xFFFFFFFF
        second = (second + b + first) & 0xFFFFFFFF
    return first, second


def _pair(content: bytes, order: str) -> tuple[int, int]:
    low: str = order
    return int.from_bytes(content[:4], low), int.from_bytes(content[4:8], low)  # pyright: ignore[reportArgumentType]


def _failed(error: sqlite3.Error, path: Path) -> NoReturn:
    text = str(error)
    if "full" in text:
        refuse(OSError(errno.ENOSPC, text), path)
    if "readonly" in text or "unable to open" in text:
        refuse(OSError(errno.EACCES, text), path)
    raise StoreError(
        f"The log of the sweep could not be written: {text}.",
        where=str(path),
        advice="Check the disk, then run again; what is done is kept.",
    ) from error
