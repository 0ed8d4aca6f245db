"""Names, limits and format numbers of a run directory, shared by reading and writing."""

from __future__ import annotations

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
REPORT_LAYERS = "report_layers"
INVOCATION = "invocation.json"
SWEEPS = "sweeps"

MAXIMUM_JSON_BYTES = 512 * 2**20
MAXIMUM_ARRAY_BYTES = 16 * 2**30
MAXIMUM_FILES = 10_000

_LAYERS = re.compile(r"layers-\d{4,}\.html")
_STEM = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}")


def is_report(path: str) -> bool:
    """Whether a path below a run directory is the report or one of the pages of layers beside it.

    Returns:
        True for what making the report again replaces.

    >>> is_report("report.html"), is_report("report_layers/layers-0001.html"), is_report("report_layers/notes.html")
    (True, True, False)
    """
    folder, _, file = path.rpartition("/")
    return path == REPORT or (folder == REPORT_LAYERS and bool(_LAYERS.fullmatch(file)))


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
