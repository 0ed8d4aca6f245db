"""Outcomes as bytes: one deterministic safetensors layout, booleans in single bits, and a checksum of the content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from assay.errors import UsageError
from assay.results import checked
from assay.sweep.work import Outcome

_TYPES = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "uint16": "U16",
    "int16": "I16",
    "float16": "F16",
    "uint32": "U32",
    "int32": "I32",
    "float32": "F32",
    "uint64": "U64",
    "int64": "I64",
    "float64": "F64",
}
_NAMES = {code: name for name, code in _TYPES.items()}
PACKED = "packed"
FORMAT = "assay-outcome"


def normalised(outcome: Mapping[str, Any], where: str) -> dict[str, np.ndarray]:
    """An outcome in the one form that is kept and returned: sorted names, contiguous, little-endian, read-only.

    Args:
        outcome: arrays (or numbers) by name.
        where: the item, for the error.

    Returns:
        Arrays of their own memory; what was boolean stays boolean.

    Raises:
        UsageError: for what cannot be kept: objects, texts, complex numbers, no mapping.
    """
    if not isinstance(outcome, Mapping):
        raise UsageError(
            f"An item gave {type(outcome).__name__} instead of a mapping of arrays.",
            where=where,
            advice="Return {name: numpy array}.",
        )
    found: dict[str, np.ndarray] = {}
    for name in sorted(outcome, key=str):
        array = np.array(outcome[name], order="C", copy=True)
        if not isinstance(name, str) or array.dtype.newbyteorder("=").name not in _TYPES:
            raise UsageError(
                f"Array {name!r} of type {array.dtype} cannot be kept.",
                where=where,
                advice="Names are texts; arrays are boolean, integer or real numbers.",
            )
        array = array.astype(array.dtype.newbyteorder("<"), copy=False)
        array.flags.writeable = False
        found[name] = array
    return found


def content_digest(outcome: Outcome) -> str:
    """SHA-256 of a normalised outcome: names, types, shapes and bytes; independent of how it is stored.

    Returns:
        64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for name, array in outcome.items():
        digest.update(json.dumps([name, array.dtype.name, list(array.shape)]).encode() + b"\n")
        digest.update(array.tobytes())
    return digest.hexdigest()


def packed(array: np.ndarray) -> np.ndarray:
    """A boolean array as bits, eight to a byte and flat; any other array as it is."""
    return np.packbits(array) if array.dtype == bool else array


def unpacked(array: np.ndarray, shape: list[int] | None) -> np.ndarray:
    """Undo `packed`, with the shape for what was boolean; read-only."""
    if shape is not None:
        array = np.unpackbits(array, count=int(np.prod(shape, dtype=np.int64))).astype(bool).reshape(shape)
    array.flags.writeable = False
    return array


def header(entries: Mapping[str, tuple[str, tuple[int, ...], int]], metadata: Mapping[str, str]) -> bytes:
    """The head of a safetensors file.

    Args:
        entries: type name of numpy, shape and size in bytes, by name, in the order of the data.
        metadata: texts by name.

    Returns:
        Eight bytes of length and the JSON, padded so that the data start at a multiple of eight.
    """
    members: dict[str, Any] = {"__metadata__": dict(metadata)}
    start = 0
    for name, (kind, shape, size) in entries.items():
        members[name] = {"dtype": _TYPES[kind], "shape": list(shape), "data_offsets": [start, start + size]}
        start += size
    text = json.dumps(members, separators=(",", ":")).encode("ascii")
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def encode(outcome: Outcome, metadata: Mapping[str, str]) -> bytes:
    """A file that holds one outcome and certifies itself.

    Args:
        outcome: normalised.
        metadata: further texts, such as the item's key.

    Returns:
        Bytes of a safetensors file.
    """
    shapes = {name: list(array.shape) for name, array in outcome.items() if array.dtype == bool}
    # Large element types first keeps every array aligned.
    kept = {name: packed(array) for name, array in outcome.items()}
    order = sorted(kept, key=lambda name: (-kept[name].dtype.itemsize, name))
    entries = {name: (kept[name].dtype.name, kept[name].shape, kept[name].nbytes) for name in order}
    facts = {"format": FORMAT, PACKED: json.dumps(shapes, sort_keys=True), **metadata, **checked.blank_field()}
    return checked.certified(b"".join([header(entries, facts), *(kept[name].tobytes() for name in order)]))


def decode(content: bytes) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Read what `encode` wrote.

    Returns:
        The outcome and the metadata.

    Raises:
        ValueError: when a byte of it has changed, or it is something else.
    """
    if not checked.intact(content):
        raise ValueError("its checksum does not agree with its content")
    members, start = read_header(content)
    metadata = members.pop("__metadata__")
    if metadata.get("format") != FORMAT:
        raise ValueError(f"it is not an {FORMAT!r} file")
    shapes = json.loads(metadata[PACKED])
    found = {
        name: unpacked(tensor(content, start, members[name]), shapes.get(name)) for name in sorted(members, key=str)
    }
    return found, metadata


def read_header(content: bytes) -> tuple[dict[str, Any], int]:
    """Read the head of a safetensors file.

    Returns:
        Its JSON, and where the data start.

    Raises:
        ValueError: when it is no such file.
    """
    length = int.from_bytes(content[:8], "little")
    if len(content) < 8 + length:
        raise ValueError("it is shorter than its head says")
    members = json.loads(content[8 : 8 + length])
    if not isinstance(members, dict) or not isinstance(members.get("__metadata__"), dict):
        raise ValueError("its head is not the one of a safetensors file with metadata")
    return members, 8 + length


def tensor(content: bytes | memoryview | np.memmap, start: int, member: Mapping[str, Any]) -> np.ndarray:
    """One array of a safetensors file whose data start at `start`; a copy."""
    low, high = member["data_offsets"]
    kind = np.dtype(_NAMES[member["dtype"]]).newbyteorder("<")
    return np.frombuffer(bytes(content[start + low : start + high]), kind).reshape(member["shape"]).copy()
