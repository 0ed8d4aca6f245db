"""Writing a run directory: everything is staged first, then renamed into place, the manifest last.

One writer at a time. A crash between two renames loses at most the results being replaced: before their files change,
a manifest without them is put in place.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assay.errors import StoreError
from assay.results import checked
from assay.results.arrays import array_keys
from assay.results.atomic import discard, make_folder, publish, stage, sync_folder
from assay.results.names import stem
from assay.store import encode
from assay.store.checksums import drop_checksums
from assay.store.layout import GRAPH, MANIFEST, NODES, RESULTS, SCHEMA, TIMING
from assay.store.read import read_manifest, read_timing

if TYPE_CHECKING:
    from assay.results import Audit, Result


def save_audit(audit: Audit, directory: str | Path) -> Path:
    """Write a whole run. The same results give the same bytes, `timing.json` aside.

    Results of an earlier run in the same directory that this one does not have are removed.

    Args:
        audit: what to keep.
        directory: the run directory; made when missing.

    Returns:
        The directory.

    Raises:
        StoreError: when a value cannot be stored, the disk is full or the place cannot be written.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from assay.results import Audit
        >>> with TemporaryDirectory() as folder:
        ...     sorted(path.name for path in save_audit(Audit({"name": "demo"}, {}), folder).iterdir())
        ['results', 'run.json', 'timing.json']
    """
    folder = Path(directory)
    contents: dict[str, bytes] = {}
    entries: list[dict[str, str]] = []
    times: dict[str, Any] = {}
    for name, result in audit.results.items():
        contents |= _result_files(result, stem(name))
        entries.append({"name": name, "stem": stem(name)})
        times[stem(name)] = encode.timing(result)
    if audit.graph_svg:
        contents[GRAPH] = audit.graph_svg.encode("utf-8", "replace")
    if audit.nodes is not None:
        nodes = {"format": "assay-nodes", "schema": SCHEMA, "table": encode.table_document(audit.nodes)}
        contents[NODES] = encode.to_bytes(nodes, "nodes")
    manifest = {
        "format": "assay-run",
        "schema": SCHEMA,
        "subject": dict(audit.subject),
        "left_out": dict(audit.left_out),
        "results": entries,
        "files": {path: _fingerprint(content) for path, content in contents.items()},
    }
    try:
        before = read_manifest(folder) if (folder / MANIFEST).exists() else None
    except StoreError:
        before = None  # a damaged manifest is replaced, and nothing is removed on its word
    _commit(folder, contents, manifest, times, before)
    return folder


def save_result(result: Result, directory: str | Path) -> Path:
    """Write one result into a run directory, keeping what is there already.

    Call it for every result as it is ready: nothing computed is lost when a later one fails.

    Args:
        result: what to keep; an earlier result of the same name is replaced.
        directory: the run directory; made when missing.

    Returns:
        The directory.

    Raises:
        StoreError: when the directory holds a damaged run, a value cannot be stored, or the place cannot be written.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from assay.results import Result
        >>> with TemporaryDirectory() as folder:
        ...     (save_result(Result("size", "Size", ""), folder) / "results").is_dir()
        True
    """
    folder = Path(directory)
    exists = (folder / MANIFEST).exists()
    before = read_manifest(folder) if exists else None
    times = read_timing(folder) if exists else {}
    name, base = result.name, stem(result.name)
    contents = _result_files(result, base)
    manifest = dict(before) if before is not None else _empty_manifest()
    if base not in [entry["stem"] for entry in manifest["results"]]:
        manifest["results"] = [*manifest["results"], {"name": name, "stem": base}]
    manifest["left_out"] = {key: why for key, why in manifest["left_out"].items() if key != name}
    kept = {path: mark for path, mark in manifest["files"].items() if path not in _result_paths(base)}
    manifest["files"] = kept | {path: _fingerprint(content) for path, content in contents.items()}
    _commit(folder, contents, manifest, times | {base: encode.timing(result)}, before)
    return folder


def _empty_manifest() -> dict[str, Any]:
    return {"format": "assay-run", "schema": SCHEMA, "subject": {}, "left_out": {}, "results": [], "files": {}}


def _result_paths(base: str) -> tuple[str, str]:
    return f"{RESULTS}/{base}.json", f"{RESULTS}/{base}.safetensors"


def _result_files(result: Result, base: str) -> dict[str, bytes]:
    document, arrays = _result_paths(base)
    keys = array_keys(result)
    contents = {document: encode.to_bytes(encode.result_document(result, keys), f"result {result.name!r}")}
    if keys:
        contents[arrays] = encode.array_bytes(result, keys)
    return contents


def _certified(document: Mapping[str, Any], where: str) -> bytes:
    """A document that nothing else has the checksum of: it carries its own."""
    return checked.document(encode.plain(document, where))


def _fingerprint(content: bytes) -> dict[str, Any]:
    return {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}


def _commit(
    folder: Path,
    contents: Mapping[str, bytes],
    manifest: Mapping[str, Any],
    times: Mapping[str, Any],
    before: Mapping[str, Any] | None,
) -> None:
    make_folder(folder)
    make_folder(folder / RESULTS, refuse_link=True)
    drop_checksums(folder)  # what changes is not complete
    documents = [(path, content) for path, content in contents.items() if not _unchanged(folder, path, content, before)]
    documents.append((TIMING, _certified({"schema": SCHEMA, "results": times}, TIMING)))
    interim = _without_replaced(manifest, before, contents)
    if interim is not None:
        documents.insert(0, (MANIFEST, _certified(interim, MANIFEST)))
    documents.append((MANIFEST, _certified(manifest, MANIFEST)))
    staged: list[tuple[Path, Path]] = []
    try:
        for path, content in documents:
            target = folder / path
            staged.append((stage(target, content), target))
        last, final = staged[-1]
        for temporary, target in staged[:-1]:
            publish(temporary, target)
            if target.name == MANIFEST:
                sync_folder(folder)
        sync_folder(folder / RESULTS)
        publish(last, final)
        sync_folder(folder)
    finally:
        for temporary, _ in staged:  # those in place already have no temporary file left
            discard(temporary)
    for path in set(before["files"]) - set(manifest["files"]) if before is not None else ():
        discard(folder / path)


def _unchanged(folder: Path, path: str, content: bytes, before: Mapping[str, Any] | None) -> bool:
    if before is None or before["files"].get(path) != _fingerprint(content):
        return False
    target = folder / path
    return target.is_file() and not target.is_symlink() and target.read_bytes() == content


def _without_replaced(
    manifest: Mapping[str, Any], before: Mapping[str, Any] | None, contents: Mapping[str, bytes]
) -> dict[str, Any] | None:
    """The earlier manifest without what is about to change; None when nothing it lists changes."""
    if before is None:
        return None
    changed = {
        path for path in contents if before["files"].get(path, manifest["files"][path]) != manifest["files"][path]
    }
    if not changed:
        return None
    bases = {Path(path).stem for path in changed if path.startswith(RESULTS)}
    dropped = changed | {path for base in bases for path in _result_paths(base)}
    return dict(before) | {
        "results": [entry for entry in before["results"] if entry["stem"] not in bases],
        "files": {path: mark for path, mark in before["files"].items() if path not in dropped},
    }
