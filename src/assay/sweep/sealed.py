"""Reading a sealed sweep: its manifest, what is damaged, and the outcomes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from assay.errors import StoreError
from assay.results import checked
from assay.store.checksums import fingerprint
from assay.sweep import arrays
from assay.sweep.folder import MANIFEST, PARTS, SCHEMA
from assay.sweep.work import Outcome

FORMAT = "assay-sweep-manifest"


def read_manifest(root: Path) -> dict[str, Any] | None:
    """Read the manifest of a sealed sweep.

    Returns:
        Its content; None when the sweep is not sealed.

    Raises:
        StoreError: when the manifest is damaged.
    """
    path = root / MANIFEST
    if not path.exists():
        return None
    try:
        content = path.read_bytes()
        document = json.loads(content) if checked.intact(content) else {}
    except (OSError, ValueError):
        document = {}
    files = document.get("files")
    plain = isinstance(files, dict) and all("/" not in name and name not in ("", ".", "..") for name in files)
    if document.get("format") != FORMAT or document.get("schema") != SCHEMA or not plain:
        damaged(path, "its checksum does not agree with its content")
    return document


def damaged_files(root: Path, manifest: Mapping[str, Any]) -> Iterator[tuple[Path, str]]:
    """Files of a sealed sweep that are not what the manifest says, with the reason."""
    for name, mark in manifest["files"].items():
        path = root / name
        if path.is_symlink() or not path.is_file():
            yield path, "it is missing"
        elif (found := fingerprint(path)) != mark:
            same = found["bytes"] == mark["bytes"]
            yield path, "its SHA-256 has changed" if same else f"{found['bytes']:,} bytes instead of {mark['bytes']:,}"


def damaged(path: Path, why: str) -> NoReturn:
    """Refuse a damaged sweep.

    Raises:
        StoreError: always.
    """
    raise StoreError(
        f"The sweep is damaged: {why}.",
        where=str(path),
        advice=f"Restore it from a copy, or delete {path.parent} and run again to compute it anew.",
    )


class Sealed(Mapping[str, Outcome]):
    """The outcomes of a sealed sweep by item name, in the order of the items; read when they are asked for.

    Args:
        root: folder of the sweep, whose files have been checked.
    """

    def __init__(self, root: Path) -> None:
        self._places: dict[str, tuple[int, list[str]]] = {}
        self._parts: list[tuple[Path, dict[str, Any], int]] = []
        manifest = read_manifest(root)
        assert manifest is not None
        for number in range(len([name for name in manifest["files"] if name.startswith("outcomes-")])):
            path = root / PARTS.format(number)
            with open(path, "rb") as handle:
                length = int.from_bytes(handle.read(8), "little")
                members = json.loads(handle.read(length))
            facts = members.pop("__metadata__")
            self._parts.append((path, members | {"": json.loads(facts[arrays.PACKED])}, 8 + length))
            for item, names in json.loads(facts["items"]):
                self._places[item] = (number, names)

    def __getitem__(self, name: str) -> Outcome:
        number, names = self._places[name]
        path, members, start = self._parts[number]
        found = {}
        with open(path, "rb") as handle:
            for each in names:
                member = members[f"{name}/{each}"]
                low, high = member["data_offsets"]
                handle.seek(start + low)
                array = arrays.tensor(handle.read(high - low), -low, member)
                found[each] = arrays.unpacked(array, members[""].get(f"{name}/{each}"))
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)
