"""Arrays as one safetensors file: pictures, confusion matrices, slices; what is too large for a table."""

from __future__ import annotations

import json
from pathlib import Path

from assay._version import __version__
from assay.render.json import strict
from assay.render.placing import place_file
from assay.render.tables import free_name
from assay.results import Audit
from assay.results.arrays import array_keys, keyed
from assay.results.names import stem

FORMAT, VERSION = "assay-arrays", 1


def export(audit: Audit, path: Path) -> list[Path]:
    """Write all arrays of an audit; keys are `analysis/array`.

    The metadata of the file has one entry, `assay`: a JSON object with `format`, `version`, `assay` (version), `model`,
    `model_digest`, `data`, `data_digest`, and `arrays`, which gives analysis and name for every key (they differ from
    the key where a name is unprintable or too long). One entry, because safetensors writes several in any order.

    Args:
        audit: what to write.
        path: the file.

    Returns:
        The file.

    Raises:
        StoreError: for an array of a type that safetensors does not know, or a place that cannot be written.
    """
    from safetensors.numpy import save

    arrays, names, folders = {}, {}, set[str]()
    for analysis, result in audit.results.items():
        folder = free_name(stem(analysis), folders)
        key_of = {name: f"{folder}/{key}" for name, key in array_keys(result).items()}
        arrays |= keyed(result, key_of)
        names |= {key: [analysis, name] for name, key in key_of.items()}
    about = {"format": FORMAT, "version": VERSION, "assay": __version__, "model": audit.subject.get("name")}
    about |= {key: audit.subject.get(key) for key in ("model_digest", "data", "data_digest")} | {"arrays": names}
    content = save(arrays, {"assay": json.dumps(strict(about), allow_nan=False)})
    return [place_file(path, lambda handle: handle.write(content), ours)]


def ours(head: bytes) -> bool:
    """Whether a file that begins so is an export of arrays.

    Returns:
        True for a safetensors file with our mark in its metadata.
    """
    return head[8:24] == b'{"__metadata__":' and FORMAT.encode() in head
