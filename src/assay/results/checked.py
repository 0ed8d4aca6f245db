"""Documents that certify themselves: their SHA-256 stands inside them, so that one changed byte anywhere is seen."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

FIELD = "assay-checksum"
_MARK = f'"{FIELD}":"'.encode()
_BLANK = b"0" * 64


def document(content: Mapping[str, Any]) -> bytes:
    """A JSON document, sorted and compact, with its own checksum in it.

    Args:
        content: plain JSON values; finite numbers only.

    Returns:
        ASCII text ending in a newline; the same content gives the same bytes.

    >>> text = document({"kept": 3})
    >>> intact(text), intact(text.replace(b"3", b"4", 1))
    (True, False)
    """
    text = json.dumps({**content, FIELD: _BLANK.decode()}, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return certified(text.encode("ascii") + b"\n")


def certified(blank: bytes) -> bytes:
    """Fill in the checksum of bytes that hold `blank_field()` as a member of a JSON object.

    Returns:
        The same bytes with the digits in place.

    Raises:
        ValueError: when the place is missing.
    """
    start = _place(blank)
    if start < 0 or blank[start : start + 64] != _BLANK:
        raise ValueError("there is no place for a checksum")
    digest = hashlib.sha256(blank).hexdigest().encode()
    return blank[:start] + digest + blank[start + 64 :]


def blank_field() -> dict[str, str]:
    """The member that `certified` fills in; the JSON has to be written without spaces."""
    return {FIELD: _BLANK.decode()}


def intact(content: bytes) -> bool:
    """Whether bytes with a checksum inside are as they were written; False, too, when they have none."""
    start = _place(content)
    if start < 0:
        return False
    digest = hashlib.sha256(memoryview(content)[:start])
    digest.update(_BLANK)
    digest.update(memoryview(content)[start + 64 :])
    return digest.hexdigest().encode() == content[start : start + 64]


def _place(content: bytes) -> int:
    """Where the digits begin; -1 when there is none. Quotes inside JSON texts are escaped, so texts cannot look so."""
    start = content.find(_MARK)
    end = start + len(_MARK) + 64
    return start + len(_MARK) if start >= 0 and content[end : end + 1] == b'"' else -1
