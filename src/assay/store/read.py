"""Reading a run directory: sizes, checksums, types and names are checked before anything is believed."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from pathlib import Path
from typing import Any, NoReturn

from assay.errors import StoreError
from assay.results import Audit, Result
from assay.results.atomic import refuse
from assay.store import decode
from assay.store.decode import Reader
from assay.store.layout import (
    GRAPH,
    MANIFEST,
    MAXIMUM_ARRAY_BYTES,
    MAXIMUM_FILES,
    MAXIMUM_JSON_BYTES,
    NODES,
    RESULTS,
    TIMING,
    is_member,
    is_stem,
)


def open_run(directory: str | Path) -> Audit:
    """Read a run back. Every file's size and SHA-256 are checked; no code of the run is executed.

    Args:
        directory: what `save_audit` or `save_result` wrote; an unfinished run gives the results it has.

    Returns:
        The audit. Arrays are read-only; tuples inside configurations and figures' data come back as lists.

    Raises:
        StoreError: when files are missing, damaged, of another format version, or not what they claim to be.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from assay.results import Result
        >>> from assay.store import save_audit
        >>> with TemporaryDirectory() as folder:
        ...     run = save_audit(Audit({"name": "demo"}, {"size": Result("size", "Size", "")}), folder)
        ...     list(open_run(run).results)
        ['size']
    """
    folder = Path(directory)
    manifest = read_manifest(folder)
    files = manifest["files"]
    times = read_timing(folder)
    results: dict[str, Result] = {}
    for entry in manifest["results"]:
        base = entry["stem"]
        results[entry["name"]] = _result(folder, files, base, times.get(base, {}))
    graph_svg = ""
    if GRAPH in files:
        try:
            graph_svg = _member(folder, GRAPH, files).decode()
        except UnicodeDecodeError:
            _damaged(folder / GRAPH, "it is not UTF-8 text")
    nodes = None
    if NODES in files:
        reader = Reader(_json(_member(folder, NODES, files), folder / NODES), str(folder / NODES))
        nodes = decode.table(reader.document("assay-nodes").child("table"))
    return Audit(manifest["subject"], results, manifest["left_out"], graph_svg, nodes)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a run, with every entry checked.

    Returns:
        Its content: subject, results, files and what was left out.

    Raises:
        StoreError: when there is none or it is damaged.
    """
    path = folder / MANIFEST
    if not path.exists() and not path.is_symlink():
        raise StoreError(
            "This directory holds no run.",
            where=str(folder),
            advice=f"Give the directory that has {MANIFEST} in it (the -o directory of an audit).",
        )
    reader = Reader(_json(_regular(path, MAXIMUM_JSON_BYTES), path), str(path)).document("assay-run")
    files: dict[str, Any] = {}
    for name, mark in reader.mapping("files").items():
        if not is_member(name) or len(files) >= MAXIMUM_FILES:
            _damaged(path, f"it lists a file that no run has: {name[:100]!r}")
        entry = Reader(mark, f"{path}, file {name}")
        files[name] = {"sha256": entry.text("sha256"), "bytes": entry.integer("bytes")}
    results = []
    for item in reader.items("results"):
        entry = {"name": item.text("name"), "stem": item.text("stem")}
        if not is_stem(entry["stem"]) or f"{RESULTS}/{entry['stem']}.json" not in files:
            _damaged(path, f"result {entry['name'][:100]!r} has no file")
        if any(entry[key] == other[key] for other in results for key in ("name", "stem")):
            _damaged(path, f"result {entry['name'][:100]!r} is listed twice")
        results.append(entry)
    left_out = reader.mapping("left_out")
    if not all(isinstance(value, str) for value in left_out.values()):
        _damaged(path, "a reason in left_out is not text")
    return {
        "format": "assay-run",
        "schema": reader.integer("schema"),
        "subject": reader.mapping("subject"),
        "left_out": left_out,
        "results": results,
        "files": files,
    }


def read_timing(folder: Path) -> dict[str, Any]:
    """Wall time and peak memory by result file; empty when the run has none.

    Returns:
        Two numbers per result, as keyword arguments of `Provenance`.

    Raises:
        StoreError: when the file is damaged.
    """
    path = folder / TIMING
    if not path.exists() and not path.is_symlink():
        return {}
    reader = Reader(_json(_regular(path, MAXIMUM_JSON_BYTES), path), str(path))
    times = {}
    for name, entry in reader.mapping("results").items():
        one = Reader(entry, f"{path}, {name[:100]}")
        times[name] = (
            {}
            if not one.record
            else {"wall_seconds": one.number("wall_seconds"), "peak_bytes": one.integer("peak_bytes")}
        )
    return times


def _result(folder: Path, files: dict[str, Any], base: str, times: dict[str, Any]) -> Result:
    path = f"{RESULTS}/{base}.json"
    place = folder / path
    document = Reader(_json(_member(folder, path, files), place), str(place)).document("assay-result")
    arrays = f"{RESULTS}/{base}.safetensors"
    loaded: dict[str, Any] = {}
    if arrays in files:
        from safetensors.numpy import load

        content = _member(folder, arrays, files)
        try:
            loaded = load(content)
        except Exception as error:
            _damaged(folder / arrays, f"it is not a safetensors file ({type(error).__name__})", error)
    return decode.result(document, loaded, times)


def _member(folder: Path, path: str, files: dict[str, Any]) -> bytes:
    """Content of a listed file, whose size and checksum agree with the manifest."""
    target, mark = folder / path, files.get(path)
    if mark is None:
        _damaged(folder / MANIFEST, f"it does not list {path}")
    if target.parent != folder and target.parent.is_symlink():
        _damaged(target.parent, "it is a symbolic link")
    limit = MAXIMUM_ARRAY_BYTES if path.endswith(".safetensors") else MAXIMUM_JSON_BYTES
    content = _regular(target, limit, mark["bytes"])
    if hashlib.sha256(content).hexdigest() != mark["sha256"]:
        _damaged(target, f"its SHA-256 is not the one in {MANIFEST}")
    return content


def _regular(path: Path, limit: int, expected: int | None = None) -> bytes:
    """Bytes of a regular file, never through a symbolic link, never more than the limit."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    if path.is_symlink():
        _damaged(path, "it is a symbolic link")
    try:
        with os.fdopen(os.open(path, flags), "rb") as handle:
            status = os.fstat(handle.fileno())
            if not stat.S_ISREG(status.st_mode):
                _damaged(path, "it is not a regular file")
            if status.st_size > limit:
                _damaged(path, f"it has {status.st_size:,} bytes; at most {limit:,} are read")
            if expected is not None and status.st_size != expected:
                _damaged(path, f"it has {status.st_size:,} bytes instead of {expected:,}")
            return handle.read(limit + 1)
    except OSError as error:
        refuse(error, path)


def _json(content: bytes, path: Path) -> Any:
    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is not JSON")

    try:
        return decode.value(json.loads(content, parse_constant=refuse), str(path))
    except (ValueError, RecursionError) as error:
        _damaged(path, f"it is not valid JSON ({str(error)[:100]})", error)


def _damaged(path: Path, why: str, cause: BaseException | None = None) -> NoReturn:
    raise StoreError(
        f"The run cannot be read: {why}.",
        where=str(path),
        advice="Restore the directory from a copy, or run the audit again into a new one.",
    ) from cause
