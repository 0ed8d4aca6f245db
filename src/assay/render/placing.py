"""Putting exported files in their place: all of them staged first, nobody else's files ever replaced."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NoReturn

from assay._version import __version__
from assay.errors import StoreError
from assay.results.atomic import discard, make_folder, publish, refuse, stage, stage_with, sync_folder

INDEX = "assay-export.json"
"""Lists the files of an exported folder with the result and table each one holds, and proves that they are ours."""

FORMAT, VERSION = "assay-export", 1
_MEMBER = re.compile(r"([a-z0-9_-]{1,80}/)?[a-z0-9_-]{1,80}\.[a-z]{1,12}")

Write = Callable[[IO[bytes]], object]
"""Writes the content of a file into an open one."""


def place_file(target: Path, write: Write, ours: Callable[[bytes], bool]) -> Path:
    """Write one file. An earlier export in its place is replaced; anything else is left alone.

    Args:
        target: where it goes; missing folders are made.
        write: writes the content.
        ours: whether the first kilobytes of a file are those of an earlier export.

    Returns:
        The path.

    Raises:
        StoreError: when the place is taken by something else, the disk is full or writing is not allowed.
    """
    check_free(target, ours)
    make_folder(target.parent)
    publish(stage_with(target, write), target)
    sync_folder(target.parent)
    return target


def check_free(target: Path, ours: Callable[[bytes], bool]) -> None:
    """Refuse a place for a file where anything but an earlier export is.

    Args:
        target: where the file is to go.
        ours: whether the first kilobytes of a file are those of an earlier export.

    Raises:
        StoreError: when it is taken.
    """
    try:
        free = not target.is_symlink() and (not target.exists() or (target.is_file() and ours(_head(target))))
    except OSError as error:
        refuse(error, target)
    if not free:
        _taken(target, "Something stands here that assay did not export.")


def place_folder(
    folder: Path, kind: str, files: Mapping[str, Write], about: Mapping[str, Mapping[str, Any]]
) -> list[Path]:
    """Write a folder of files and an index of them. Files of an earlier export there are replaced or removed.

    All files are on disk under temporary names before the first of them takes its place, so that a full disk changes
    nothing.

    Args:
        folder: where they go; made when missing.
        kind: name of the format, told in the index.
        files: what writes each file, by its path below the folder.
        about: what the index says of each file.

    Returns:
        The files, the index last.

    Raises:
        StoreError: when the folder holds something else, the disk is full or writing is not allowed.
    """
    before = _owned(folder, kind)
    for name in files:
        place = folder / name
        if name not in before and (place.exists() or place.is_symlink()):
            _taken(place, "A file stands here that assay did not export.")
    make_folder(folder)
    for name in files:
        make_folder((folder / name).parent, refuse_link=(folder / name).parent != folder)
    staged: dict[str, Path] = {}
    try:
        for name, write in files.items():
            staged[name] = stage_with(folder / name, write)
        entries = [{"file": name, "sha256": _digest(path), **about.get(name, {})} for name, path in staged.items()]
        old = [{"file": name, "sha256": digest} for name, digest in before.items()]
        if old:  # should this be interrupted, both the old and the new files are still known as ours
            publish(stage(folder / INDEX, _index(kind, entries + old)), folder / INDEX)
        for name in list(staged):
            publish(staged[name], folder / name)
            del staged[name]
    finally:
        for path in staged.values():
            discard(path)
    for name in before:
        if name not in files:
            discard(folder / name)
            with suppress(OSError):
                (folder / name).parent.rmdir()  # only when it is empty
    publish(stage(folder / INDEX, _index(kind, entries)), folder / INDEX)
    for place in sorted({folder, *((folder / name).parent for name in files)}):
        sync_folder(place)
    return [*(folder / name for name in files), folder / INDEX]


def _index(kind: str, entries: Sequence[Mapping[str, Any]]) -> str:
    document = {"format": FORMAT, "version": VERSION, "kind": kind, "assay": __version__, "files": entries}
    return json.dumps(document, indent=1, ensure_ascii=True) + "\n"


def _owned(folder: Path, kind: str) -> dict[str, str]:
    """Files of an earlier export in a folder, with their digests; an error when anything else is in it."""
    try:
        if not folder.exists() and not folder.is_symlink():
            return {}
        inside = sorted(entry.name for entry in folder.iterdir())
    except OSError as error:
        refuse(error, folder)
    if not inside:
        return {}
    if INDEX not in inside:
        _taken(folder, "This folder holds files that assay did not export.")
    found: dict[str, str] = {}
    for name, digests in _listed(folder / INDEX, kind).items():
        path = folder / name
        if path.is_symlink() or (path.exists() and not path.is_file()):
            _taken(path, "Something else stands where an earlier export was.")
        if path.exists():
            found[name] = _digest(path)
            if found[name] not in digests:
                _taken(path, "This file has been changed since assay exported it.")
    return found


def _listed(path: Path, kind: str) -> dict[str, set[str]]:
    """Digests by file name, from an index. It is only believed to list names that an export may have."""
    try:
        document = json.loads(path.read_bytes())
        good = (document["format"], document["version"], document["kind"]) == (FORMAT, VERSION, kind)
        listed: dict[str, set[str]] = {}
        for entry in document["files"] if good else ():
            name, digest = entry["file"], entry["sha256"]
            good = good and isinstance(digest, str) and bool(_MEMBER.fullmatch(name))
            listed.setdefault(name, set()).add(digest)
    except OSError as error:
        refuse(error, path)
    except (ValueError, KeyError, TypeError, RecursionError):
        good, listed = False, {}
    if not good:
        _taken(path, f"This is not the index of an earlier export as {kind}.")
    return listed


def _digest(path: Path) -> str:
    try:
        with open(path, "rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        refuse(error, path)


def _head(path: Path) -> bytes:
    try:
        with open(path, "rb") as handle:
            return handle.read(1 << 16)
    except OSError as error:
        refuse(error, path)


def _taken(path: Path, what: str) -> NoReturn:
    raise StoreError(
        f"{what} Nothing was written.", where=str(path), advice="Give another place with -o, or move it away."
    )
