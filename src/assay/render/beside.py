"""Pages beside the report, for models with more layers than one page holds: names, writing, and clearing away."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from pathlib import Path

from assay.results.atomic import discard, make_folder, sync_folder, write_atomic

_PAGE = re.compile(r"layers-\d{4,}\.html")


def folder_of(report: Path) -> Path:
    """The folder beside a report.

    Returns:
        Its path.

    >>> folder_of(Path("out/report.html")).as_posix()
    'out/report_layers'
    """
    return report.with_name(f"{report.stem}_layers")


def page_name(index: int) -> str:
    """File name of a page, counted from 0.

    Returns:
        The name.

    >>> page_name(0)
    'layers-0001.html'
    """
    return f"layers-{index + 1:04d}.html"


def write(report: Path, page: str, beside: Mapping[str, str]) -> Path:
    """Write a report and the pages beside it, each atomically; pages of an earlier report are removed.

    The report is written last, so that it never leads to a page that is not there yet.

    Args:
        report: the HTML file.
        page: its content.
        beside: content by file name.

    Returns:
        The report's path.

    Raises:
        StoreError: when the disk is full or the place cannot be written.
    """
    folder = folder_of(report)
    if beside:
        make_folder(folder, refuse_link=True)
    for name, content in beside.items():
        write_atomic(folder / name, content)
    written = write_atomic(report, page)
    _clear(folder, keep=beside)
    return written


def remove(report: Path) -> None:
    """Remove a report and the pages beside it; what else lies in their folder stays."""
    discard(report)
    _clear(folder_of(report), keep={})


def _clear(folder: Path, keep: Mapping[str, str]) -> None:
    if folder.is_symlink() or not folder.is_dir():
        return
    stale = [path for path in folder.iterdir() if _PAGE.fullmatch(path.name) and path.name not in keep]
    for path in stale:
        discard(path)
    if stale:
        sync_folder(folder)
    with contextlib.suppress(OSError):  # something else lies there
        folder.rmdir()
