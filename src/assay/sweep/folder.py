"""The directory of one sweep: its names, what one outcome's file is, and what is found there when work begins again."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from assay.errors import StoreError
from assay.results import checked
from assay.results.atomic import discard, make_folder, publish, refuse, stage, sync_folder
from assay.results.names import stem
from assay.store.layout import SWEEPS
from assay.sweep.shard import ENDING, Row, read_rows
from assay.sweep.side_files import OUTCOMES, SHARDS, differs, read_side_file, side_file
from assay.sweep.work import Job, Outcome, digest_of, identity_of

ABOUT, MANIFEST, TABLE, TIMES = "sweep.json", "manifest.json", "table.sqlite", "times.json"
PARTS = "outcomes-{:04d}.safetensors"
QUARANTINE, SCRATCH = "quarantine", "scratch-"
LOCK, BUSY = "lock", "busy"
SCHEMA = 1


def folder_of(directory: Path, job: Job) -> Path:
    """Where a run directory keeps a job's sweep."""
    return directory / SWEEPS / f"{stem(job.name)}-{digest_of(job)[:16]}"


def about(job: Job) -> bytes:
    """What stands in `sweep.json`: the identity in full."""
    content = {"format": "assay-sweep", "schema": SCHEMA, "digest": digest_of(job), "stages": job.stages}
    return checked.document(content | identity_of(job))


def prepare(root: Path, job: Job) -> None:
    """Make the folders and say what the sweep is.

    Raises:
        StoreError: when the folder holds another sweep or cannot be written.
    """
    make_folder(root, refuse_link=True)
    for name in (SHARDS, OUTCOMES):
        make_folder(root / name, refuse_link=True)
    target, content = root / ABOUT, about(job)
    if not target.exists() or target.read_bytes() != content:  # a damaged one is put right
        before = target.read_bytes() if target.exists() else b""
        if checked.intact(before) and json.loads(before).get("digest") != digest_of(job):
            raise StoreError("This folder holds another sweep.", where=str(root), advice="Use another directory.")
        publish(stage(target, content), target)
    sync_folder(root)
    sync_folder(root.parent)


@dataclass
class Found:
    """What a sweep's folder holds when work begins again.

    Attributes:
        rows: by key.
        adopted: rows that were made again from the outcomes' files.
        notes: what was damaged and set aside, for people.
    """

    rows: dict[str, Row] = field(default_factory=dict)
    adopted: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def survey(root: Path) -> Found:
    """Read everything that earlier runs kept; the caller is the only coordinator.

    What is damaged is set aside in a folder of its own, and computed again. Rows that are lost are made from the
    outcomes' files, which certify themselves.

    Args:
        root: folder of the sweep.

    Returns:
        Rows, with a file behind each of them.

    Raises:
        StoreError: when an item has two different outcomes, or the folder cannot be read or written.
    """
    found, listed = Found(), {}
    for path in sorted((root / SHARDS).glob(f"*{ENDING}")):
        try:
            rows = read_rows(path)
        except ValueError as error:
            found.notes.append(f"{path.name} was damaged ({error}); its rows were made again from the outcomes' files.")
            for ending in ("", "-wal", "-shm", "-journal"):
                _set_aside(root, path.with_name(path.name + ending))
            continue
        for row in rows:
            if listed.setdefault(row.key, row).content != row.content:
                differs(row.name, root)
    for path in sorted((root / OUTCOMES).glob("*/.*.tmp")):
        discard(path)
    for path in sorted((root / OUTCOMES).glob("*/*")):
        try:
            row, _ = read_side_file(path)
        except ValueError as error:
            found.notes.append(f"{path.name} was damaged ({error}); its item is computed again.")
            _set_aside(root, path)
            continue
        if row.key in listed and listed[row.key].content != row.content:
            differs(row.name, root)
        if row.key not in listed:
            found.adopted.append(row)
        found.rows[row.key] = row
    lost = len(listed.keys() - found.rows.keys())
    if lost:
        found.notes.append(f"The files of {lost} outcomes were lost; these items are computed again.")
    return found


class Done(Mapping[str, Outcome]):
    """Outcomes by item name; each is read from its file when it is asked for."""

    def __init__(self, root: Path, keys: Mapping[str, str]) -> None:
        self._root, self._keys = root, dict(keys)

    def __getitem__(self, name: str) -> Outcome:
        path = side_file(self._root, self._keys[name])
        try:
            return read_side_file(path)[1]
        except ValueError as error:
            raise StoreError(
                f"The outcome of {name!r} is damaged: {error}.",
                where=str(path),
                advice="Run again: it is computed anew.",
            ) from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)


def clear(root: Path, *, keep: frozenset[str] = frozenset()) -> None:
    """Delete what a sealed sweep no longer needs: shards, single outcomes, scratch, locks."""
    for path in _removable(root):
        if path.name not in keep:
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() and not path.is_symlink() else discard(path)


def _removable(root: Path) -> Iterator[Path]:
    for path in sorted(root.iterdir()):
        known = path.name in (SHARDS, OUTCOMES, QUARANTINE, LOCK, BUSY)
        if known or path.name.startswith(SCRATCH) or (path.name.startswith(".") and path.name.endswith(".tmp")):
            yield path


def _set_aside(root: Path, path: Path) -> None:
    if not path.exists() and not path.is_symlink():
        return
    make_folder(root / QUARANTINE, refuse_link=True)
    target = root / QUARANTINE / f"{os.urandom(4).hex()}-{path.name}"
    try:
        os.replace(path, target)
    except OSError as error:
        refuse(error, path)
