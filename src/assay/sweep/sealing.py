"""A complete sweep in few files whose bytes depend on the outcomes alone, with a manifest of their checksums."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from assay.errors import StoreError
from assay.results import checked
from assay.results.atomic import discard, publish, refuse, stage, stage_with, sync_folder
from assay.store.checksums import fingerprint
from assay.sweep import arrays
from assay.sweep.folder import ABOUT, MANIFEST, PARTS, SCHEMA, TABLE, TIMES, clear
from assay.sweep.sealed import FORMAT
from assay.sweep.shard import Row
from assay.sweep.side_files import read_side_file, side_file
from assay.sweep.work import Item, Outcome, canonical

PART_ARRAYS = 50_000
"""Arrays in one file, so that its head stays far below the 100 MB that readers accept."""

Entry = tuple[int, Item, str]
"""Stage, item and its key."""


class _Source(NamedTuple):
    """One item of a part: its key, and the types and shapes of its arrays."""

    name: str
    key: str
    arrays: dict[str, tuple[str, tuple[int, ...]]]


def seal(root: Path, entries: Sequence[Entry], rows: Mapping[str, Row]) -> None:
    """Put a complete sweep into its last form: one table, outcomes in order, times, and the manifest; the rest goes.

    A crash at any moment leaves either the unsealed sweep, whole, or the sealed one with leftovers.

    Args:
        root: folder of the sweep.
        entries: every item in order.
        rows: by key, for every item.

    Raises:
        StoreError: when the disk is full or an outcome is damaged.
    """
    staged: list[tuple[Path, Path]] = []
    try:
        for number, part in enumerate(_parts(root, entries)):
            target = root / PARTS.format(number)
            staged.append((_stage_part(target, part), target))
        target = root / TABLE
        staged.append((_stage_table(target, entries, rows), target))
        times = {"seconds": {key: row.seconds for key, row in sorted(rows.items())}}
        staged.append((stage(root / TIMES, checked.document(times)), root / TIMES))
        files = {target.name: fingerprint(temporary) for temporary, target in staged}
        files[ABOUT] = fingerprint(root / ABOUT)
        manifest = checked.document({"format": FORMAT, "schema": SCHEMA, "items": len(entries), "files": files})
        staged.append((stage(root / MANIFEST, manifest), root / MANIFEST))
        for temporary, target in staged[:-1]:
            publish(temporary, target)
        sync_folder(root)
        publish(*staged[-1])
        sync_folder(root)
    finally:
        for temporary, _ in staged:
            discard(temporary)
    clear(root)
    sync_folder(root)


def _parts(root: Path, entries: Sequence[Entry]) -> Iterator[list[_Source]]:
    """Items with their arrays' shapes, cut where a part becomes too long."""
    part: list[_Source] = []
    count = 0
    for _, item, key in entries:
        outcome = _read(root, key)
        part.append(_Source(item.name, key, {name: (array.dtype.name, array.shape) for name, array in outcome.items()}))
        count += len(outcome)
        if count >= PART_ARRAYS:
            yield part
            part, count = [], 0
    if part or not entries:
        yield part


def _stage_part(target: Path, part: Sequence[_Source]) -> Path:
    root = target.parent
    shapes = {f"{one.name}/{name}": spec[1] for one in part for name, spec in one.arrays.items() if spec[0] == "bool"}
    members = {f"{one.name}/{name}": _stored(*spec) for one in part for name, spec in one.arrays.items()}
    facts = {
        "format": "assay-outcomes",
        "items": json.dumps([[one.name, list(one.arrays)] for one in part], separators=(",", ":")),
        arrays.PACKED: json.dumps(shapes, separators=(",", ":")),
    }

    def write(handle: IO[bytes]) -> None:
        handle.write(arrays.header(members, facts))
        for one in part:
            for array in _read(root, one.key).values():
                handle.write(arrays.packed(array).tobytes())

    return stage_with(target, write)


def _stored(kind: str, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...], int]:
    count = math.prod(shape)
    if kind == "bool":
        return "uint8", ((count + 7) // 8,), (count + 7) // 8
    return kind, shape, count * np.dtype(kind).itemsize


def _stage_table(target: Path, entries: Sequence[Entry], rows: Mapping[str, Row]) -> Path:
    """The table as SQLite: written in one order, in one transaction, so that its bytes repeat."""
    temporary = target.with_name(f".{target.name}.{os.urandom(4).hex()}.tmp")
    try:
        with contextlib.closing(sqlite3.connect(temporary, isolation_level=None)) as connection:
            connection.execute("PRAGMA page_size=4096")
            connection.execute("PRAGMA journal_mode=OFF")
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("BEGIN")
            connection.execute(
                "CREATE TABLE items (position INTEGER PRIMARY KEY, stage INTEGER NOT NULL, name TEXT NOT NULL, "
                "key TEXT NOT NULL, arguments TEXT NOT NULL, cost REAL NOT NULL, content TEXT NOT NULL)"
            )
            connection.executemany(
                "INSERT INTO items VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    (at, number, item.name, key, canonical(dict(item.arguments)).decode(), item.cost, rows[key].content)
                    for at, (number, item, key) in enumerate(entries)
                ),
            )
            connection.execute("COMMIT")
    except sqlite3.Error as error:
        discard(temporary)
        refuse(OSError(errno.ENOSPC if "full" in str(error) else errno.EIO, str(error)), target)
    return temporary


def _read(root: Path, key: str) -> Outcome:
    path = side_file(root, key)
    try:
        return read_side_file(path)[1]
    except ValueError as error:
        raise StoreError(
            f"An outcome was damaged while the sweep ran: {error}.",
            where=str(path),
            advice="Run again: it is computed anew.",
        ) from error
