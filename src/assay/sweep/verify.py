"""`verify`: find damage in a run directory: every byte of a complete run, all results of an unfinished one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from assay.errors import StoreError
from assay.results import checked
from assay.store.checksums import CHECKSUMS, fingerprint, members, read_checksums
from assay.store.layout import INVOCATION, RESULTS, SWEEPS, TIMING
from assay.store.layout import MANIFEST as RUN
from assay.sweep.folder import ABOUT, LOCK, MANIFEST
from assay.sweep.locks import in_use
from assay.sweep.sealed import damaged_files, read_manifest
from assay.sweep.shard import ENDING, Row, log_is_whole, read_rows
from assay.sweep.side_files import OUTCOMES, SHARDS, read_side_file

SELF_CERTIFYING = (RUN, TIMING, INVOCATION)
_TEMPORARY = re.compile(r"\..*\.[0-9a-f]{8}\.tmp")


@dataclass(frozen=True)
class Damage:
    """One damaged file.

    Attributes:
        path: the file, below the run directory.
        why: what is wrong with it.

    Example:
        >>> Damage("results/moments.json", "its checksum is another one").path
        'results/moments.json'
    """

    path: str
    why: str


@dataclass
class Verification:
    """What `verify` found.

    Attributes:
        directory: that was examined.
        complete: whether the run has its list of checksums, so that every byte of every file was compared.
        files: number of files that were read.
        damages: damaged or missing files.
        notes: what is no damage but worth knowing.
    """

    directory: str
    complete: bool = False
    files: int = 0
    damages: list[Damage] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def intact(self) -> bool:
        """Whether nothing is damaged."""
        return not self.damages


def verify(directory: str | Path) -> Verification:
    """Examine a run directory, or the folder of one sweep, without changing it.

    Args:
        directory: what to examine.

    Returns:
        What is damaged, file by file.

    Raises:
        StoreError: when there is no run, or a file cannot be read.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from assay.results import Audit
        >>> from assay.store import save_audit
        >>> with TemporaryDirectory() as folder:
        ...     verify(save_audit(Audit({"name": "demo"}, {}), folder)).intact
        True
    """
    folder = Path(directory)
    found = Verification(str(folder))
    if (folder / ABOUT).exists() or (folder / MANIFEST).exists() or (folder / SHARDS).is_dir():
        found.complete = (folder / MANIFEST).exists()
        _sweep(folder, folder, found)
        return found
    listed: dict[str, Any] = {}
    if (folder / CHECKSUMS).exists():
        _complete(folder, found, listed)
    elif not (folder / RUN).exists() and not (folder / SWEEPS).is_dir():
        raise StoreError("This directory holds no run.", where=str(folder), advice="Give the -o directory of an audit.")
    else:
        found.notes.append("The run is not finished; only what carries results was examined.")
        _results(folder, found)
    for root in sorted((folder / SWEEPS).glob("*")) if (folder / SWEEPS).is_dir() else ():
        if not all(_name(folder, path) in listed for path in root.rglob("*") if path.is_file()):
            _sweep(folder, root, found)
    return found


def _complete(folder: Path, found: Verification, listed: dict[str, Any]) -> None:
    try:
        listed |= read_checksums(folder)
    except StoreError as error:
        found.damages.append(Damage(CHECKSUMS, error.what))
        _results(folder, found)
        return
    found.complete = True
    for name, mark in listed.items():
        _compare(folder, name, mark, found)
    added = [name for name in members(folder) if name not in listed and not name.startswith(f"{SWEEPS}/")]
    found.notes += [f"{name} was added after the run was complete; nothing is known about it." for name in added]
    found.files += 1


def _compare(folder: Path, name: str, mark: Any, found: Verification) -> None:
    path = folder / name
    found.files += 1
    if path.is_symlink() or not path.is_file():
        _damage(found, Damage(name, "it is missing"))
        return
    if fingerprint(path) != mark:
        _damage(found, Damage(name, "its size or SHA-256 has changed"))


def _results(folder: Path, found: Verification) -> None:
    """Files of a run without a list of checksums: documents that certify themselves, and what run.json lists."""
    for name in SELF_CERTIFYING:
        path = folder / name
        if not path.is_file():
            continue
        found.files += 1
        content = path.read_bytes()
        if not checked.intact(content):
            _damage(found, Damage(name, "its checksum does not agree with its content"))
            continue
        document = json.loads(content)
        for member, mark in document.get("files", {}).items():
            _compare(folder, member, mark, found)
    for path in sorted((folder / RESULTS).glob("*.tmp")):
        found.notes.append(f"{_name(folder, path)} is left over from a write that was cut off.")


def _sweep(folder: Path, root: Path, found: Verification) -> None:
    for path, why in _damages(root, found):
        _damage(found, Damage(_name(folder, path), why))


def _damages(root: Path, found: Verification) -> Iterator[tuple[Path, str]]:
    try:
        manifest = read_manifest(root)
    except StoreError as error:
        yield root / MANIFEST, error.what
        manifest = None
    if manifest is not None:
        found.files += 1 + len(manifest["files"])
        yield from damaged_files(root, manifest)
        if (root / SHARDS).exists() or (root / OUTCOMES).exists():  # what is left over carries nothing any more
            found.notes.append(f"{root.name} was cut off while it was tidied up; `assay resume` does the rest.")
        return
    if (root / ABOUT).exists() and not checked.intact((root / ABOUT).read_bytes()):
        yield root / ABOUT, "its checksum does not agree with its content"
    rows: dict[str, Row] = {}
    for path in sorted((root / OUTCOMES).glob("*/*.safetensors")):
        if _TEMPORARY.fullmatch(path.name):
            continue
        found.files += 1
        try:
            row, _ = read_side_file(path)
            rows[row.key] = row
        except ValueError as error:
            yield path, str(error)
    if in_use(root / LOCK):
        found.notes.append(f"{root.name} is being worked on; its shards were not examined.")
        return
    for path in sorted((root / SHARDS).glob(f"*{ENDING}")):
        found.files += 1
        log = path.with_name(path.name + "-wal")
        if not log_is_whole(log):
            yield log, "a frame of the log is damaged or cut off; `assay resume` makes its rows again from the outcomes"
        try:
            listed = read_rows(path)
        except ValueError as error:
            yield path, f"{error}; `assay resume` makes its rows again from the outcomes"
            continue
        for row in listed:
            if row.key in rows and rows[row.key].content != row.content:
                yield path, f"its row of {row.name!r} does not agree with the outcome's file"
            elif row.key not in rows:
                yield path, f"the file of {row.name!r} is missing or damaged"


def _damage(found: Verification, damage: Damage) -> None:
    if all(damage.path != other.path for other in found.damages):
        found.damages.append(damage)


def _name(folder: Path, path: Path) -> str:
    return path.relative_to(folder).as_posix() if path != folder else folder.name
