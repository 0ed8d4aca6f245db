"""The list of checksums of a complete run: size and SHA-256 of each of its files, and of the list itself."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from assay.errors import StoreError
from assay.results import checked
from assay.results.atomic import discard, refuse, write_atomic
from assay.store.layout import (
    CONFIG,
    GRAPH,
    INVOCATION,
    MANIFEST,
    NODES,
    REPORT,
    REPORT_LAYERS,
    RESULTS,
    SWEEPS,
    TIMING,
    is_report,
)

CHECKSUMS = "checksums.json"
FORMAT = "assay-checksums"
SCHEMA = 1
FILES = (MANIFEST, TIMING, INVOCATION, CONFIG, GRAPH, NODES, REPORT)


def write_checksums(folder: Path) -> Path:
    """List every file of a run that is complete. Call it last.

    Returns:
        The list.

    Raises:
        StoreError: when a file cannot be read or the list cannot be written.
    """
    return _write(folder, {name: fingerprint(folder / name) for name in members(folder)})


def update_report(folder: Path) -> None:
    """List the report and its pages anew, when the run has a list; what the list says of all others stays.

    Raises:
        StoreError: when the list is damaged.
    """
    if (folder / CHECKSUMS).exists():
        others = {name: mark for name, mark in read_checksums(folder).items() if not is_report(name)}
        _write(folder, others | {name: fingerprint(folder / name) for name in members(folder) if is_report(name)})


def drop_checksums(folder: Path) -> None:
    """Make a run an unfinished one, before anything in it changes."""
    discard(folder / CHECKSUMS)


def read_checksums(folder: Path) -> dict[str, Any]:
    """The list of a complete run.

    Returns:
        Size and SHA-256 by path.

    Raises:
        StoreError: when it is damaged.
    """
    path = folder / CHECKSUMS
    try:
        content = path.read_bytes()
        document = json.loads(content) if checked.intact(content) else {}
    except OSError as error:
        refuse(error, path)
    except ValueError:
        document = {}
    if document.get("format") != FORMAT or document.get("schema") != SCHEMA:
        raise StoreError(
            "The list of checksums is damaged: its checksum does not agree with its content.",
            where=str(path),
            advice="Restore the directory from a copy.",
        )
    return document["files"]


def fingerprint(path: Path) -> dict[str, Any]:
    """Size and SHA-256 of a file.

    Returns:
        What a list of checksums says of it.

    Raises:
        StoreError: when it cannot be read.
    """
    digest, size = hashlib.sha256(), 0
    try:
        with open(path, "rb") as handle:
            while block := handle.read(1 << 20):
                digest.update(block)
                size += len(block)
    except OSError as error:
        refuse(error, path)
    return {"bytes": size, "sha256": digest.hexdigest()}


def _write(folder: Path, files: dict[str, Any]) -> Path:
    content = checked.document({"format": FORMAT, "schema": SCHEMA, "files": files})
    return write_atomic(folder / CHECKSUMS, content)


def members(folder: Path) -> Iterator[str]:
    """The files of a run, below its directory; what else lies there is not looked at.

    Yields:
        Paths with forward slashes, in order.
    """
    yield from (name for name in FILES if (folder / name).is_file() and not (folder / name).is_symlink())
    pages = sorted(f"{REPORT_LAYERS}/{path.name}" for path in (folder / REPORT_LAYERS).glob("*.html"))
    yield from (name for name in pages if is_report(name) and not (folder / name).is_symlink())
    for below in (RESULTS, SWEEPS):
        for place, folders, files in os.walk(folder / below):
            folders.sort()
            paths = [Path(place) / file for file in sorted(files)]
            yield from (path.relative_to(folder).as_posix() for path in paths if not path.is_symlink())
