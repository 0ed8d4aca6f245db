"""Names, limits and format numbers of a run directory, shared by reading and writing."""

from __future__ import annotations

import hashlib
import re

SCHEMA = 1
"""Version of the format; a reader refuses what it does not know."""

MANIFEST = "run.json"
TIMING = "timing.json"
GRAPH = "graph.svg"
NODES = "nodes.json"
RESULTS = "results"
CONFIG = "config.toml"
REPORT = "report.html"
INVOCATION = "invocation.json"
SWEEPS = "sweeps"

MAXIMUM_JSON_BYTES = 512 * 2**20
MAXIMUM_ARRAY_BYTES = 16 * 2**30
MAXIMUM_FILES = 10_000

_PLAIN = re.compile(r"[a-z][a-z0-9_-]{0,59}")
_STEM = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}")
_RESERVED = re.compile(r"con|prn|aux|nul|com\d|lpt\d")  # devices on Windows, whatever the ending


def stem(name: str) -> str:
    """File name, without ending, of a result: its own name when that is plain, else a plain form of it with a digest.

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


def is_stem(text: str) -> bool:
    """Whether a text read from a manifest may serve as a file name."""
    return bool(_STEM.fullmatch(text))


def is_member(path: str) -> bool:
    """Whether a path read from a manifest names a file this format knows.

    Returns:
        True for the files that a run may list.

    >>> is_member("results/moments.json"), is_member("results/../../x.json")
    (True, False)
    """
    if path in (GRAPH, NODES):
        return True
    folder, _, file = path.partition("/")
    base, dot, ending = file.rpartition(".")
    return folder == RESULTS and dot == "." and ending in ("json", "safetensors") and is_stem(base)
