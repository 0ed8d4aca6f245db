"""File names for things that other people named."""

from __future__ import annotations

import hashlib
import re

_PLAIN = re.compile(r"[a-z][a-z0-9_-]{0,59}")
_RESERVED = re.compile(r"con|prn|aux|nul|com\d|lpt\d")  # devices on Windows, whatever the ending


def stem(name: str) -> str:
    """File name, without ending, of a result or table: its own name if that is plain, else a plain form with a digest.

    Returns:
        A name that is safe on every file system.

    >>> stem("moments")
    'moments'
    >>> stem("../../etc/passwd")
    'etc_passwd-3754d6cb'
    """
    if _PLAIN.fullmatch(name) and not _RESERVED.fullmatch(name):
        return name
    readable = re.sub(r"[^a-z0-9_-]+", "_", name.lower()).strip("_-")[:40] or "result"
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{readable}-{digest}"
