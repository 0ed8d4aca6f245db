"""Refuse what would not fit: sizes are read from headers before memory is taken."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

from assay.errors import SubjectError


def require_memory(size: float, where: str, what: str = "The data") -> None:
    """Stop when `size` bytes are more than this machine's memory, instead of being killed half-way.

    Raises:
        SubjectError: with both figures.
    """
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # no such question on this system
        return
    if size > memory:
        raise SubjectError(
            f"{what} would need {size / 1e9:.1f} GB, and this machine has {memory / 1e9:.1f} GB of memory.",
            where=where,
            advice="Take fewer samples (--limit) or smaller ones; if the file is not that large, do not trust it.",
        )


def existing_file(path: Path, what: str) -> Path:
    """The path itself when it is a readable, non-empty file.

    Returns:
        The path.

    Raises:
        SubjectError: when it is missing, a folder, empty or not readable.
    """
    problem = ""
    try:
        if not path.exists():
            problem = f"There is no such {what}."
        elif not path.is_file():
            problem = f"A {what} was expected here, and this is a folder or a device."
        elif path.stat().st_size == 0:
            problem = f"The {what} is empty."
        else:
            path.open("rb").close()
    except OSError as error:
        problem = f"The {what} cannot be read: {error.strerror or error}."
    if problem:
        raise SubjectError(problem, where=str(path), advice="Check the path and the permissions.")
    return path


def open_zip(path: Path, what: str) -> zipfile.ZipFile:
    """Open a zip archive whose table of contents can be read and whose contents would fit into memory.

    Returns:
        The archive, open.

    Raises:
        SubjectError: when it is no zip archive, truncated, or claims to be larger than memory.
    """
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise SubjectError(
            f"The {what} is damaged or not what its name says: {error}.",
            where=str(path),
            advice="Write or download it again; a cut-off download is the usual reason.",
        ) from error
    try:
        require_memory(sum(entry.file_size for entry in archive.infolist()), str(path), f"The unpacked {what}")
    except SubjectError:
        archive.close()
        raise
    return archive
