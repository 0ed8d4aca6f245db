"""Writing an audit in any of the formats: the one way in for `Audit.export` and the verb `export`."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

from assay.errors import UsageError
from assay.render.placing import check_free
from assay.render.registry import ignored, renderers
from assay.results import Audit

ENDINGS = {
    ".html": "html",
    ".htm": "html",
    ".json": "json",
    ".safetensors": "safetensors",
    ".md": "markdown",
    ".xml": "junit",
}
"""Formats that a file's ending tells; `csv` and `parquet` write folders."""

_MARKS = {
    "html": b"assay report",
    "markdown": b"### assay ",
    "junit": b'<testsuites name="assay ',
    "json": b'"assay-audit"',
}
"""What the beginning of a file of ours has in it, for the formats that are a single text."""


def export(audit: Audit, path: str | Path, format: str | None = None) -> list[Path]:
    """Write an audit in one of the formats.

    Args:
        audit: what to write.
        path: a file, or a folder for `csv` and `parquet`.
        format: name of a renderer, see `assay.render.registry.renderers`; by the ending of the path when None.

    Returns:
        The files that were written.

    Raises:
        UsageError: for an unknown format.
        MissingExtra: when the format needs a library that is not installed.
        StoreError: when the place is taken by something else, cannot be written, or the disk is full.
    """
    target = Path(path)
    name = format if format is not None else ENDINGS.get(target.suffix.lower())
    known = renderers()
    if name is None:
        raise UsageError(
            "The name of the place does not tell the format.",
            where=str(target),
            advice=f"Name one with --format (in Python: format=...): {', '.join(known)}.",
        )
    if name not in known:
        close = get_close_matches(name, known, 1)
        advice = f"Did you mean {close[0]!r}? " if close else ""
        raise UsageError(
            f"There is no export format {name!r}.", where="--format", advice=f"{advice}Formats: {', '.join(known)}."
        )
    renderer = known[name]
    if name not in ("csv", "parquet", "safetensors"):  # these look after that themselves
        mark = _MARKS.get(name)
        check_free(target, lambda head: mark is not None and mark in head)
    return renderer(audit, target)


def notes(format: str) -> tuple[str, ...]:
    """What a user of a format should know before: whose renderer of that name is not used."""
    return tuple(sentence for sentence in ignored() if repr(format) in sentence)


def report(audit: Audit, path: Path) -> list[Path]:
    """The renderer `html`: the report that every audit writes.

    Args:
        audit: what to report.
        path: the file.

    Returns:
        The file, and the pages beside it where the model has very many layers.

    Raises:
        StoreError: when the place cannot be written.
    """
    from assay.render.beside import folder_of
    from assay.render.html import write_report

    written = write_report(audit, path)
    return [written, *sorted(folder_of(written).glob("layers-*.html"))]
