"""Writing files so that a reader sees either the old content or the new one, never a part of it."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Callable
from pathlib import Path
from typing import IO, NoReturn

from assay.errors import StoreError


def write_atomic(path: str | Path, content: str | bytes) -> Path:
    """Write a file through a temporary neighbour: fsync, rename, fsync of the folder.

    Args:
        path: where the file goes; missing folders are made.
        content: text is written as UTF-8.

    Returns:
        The path.

    Raises:
        StoreError: when the disk is full or the place cannot be written; an earlier file stays as it was.
    """
    target = Path(path)
    make_folder(target.parent)
    publish(stage(target, content), target)
    sync_folder(target.parent)
    return target


def stage(target: Path, content: str | bytes) -> Path:
    """Write the content to a temporary file beside the target; it is on disk when this returns.

    Returns:
        Path of the temporary file.

    Raises:
        StoreError: when that fails; the temporary file is gone again.
    """
    payload = content.encode() if isinstance(content, str) else content
    return stage_with(target, lambda handle: handle.write(payload))


def stage_with(target: Path, write: Callable[[IO[bytes]], object]) -> Path:
    """`stage` for content that is written piece by piece: `write` gets the open file.

    Returns:
        Path of the temporary file.

    Raises:
        StoreError: when that fails; the temporary file is gone again.
    """
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as handle:
            write(handle)
            handle.flush()
            os.fsync(handle.fileno())
    except OSError as error:
        discard(temporary)
        refuse(error, target)
    except BaseException:
        discard(temporary)
        raise
    return temporary


def publish(temporary: Path, target: Path) -> None:
    """Put a staged file in its place; the caller syncs the folder afterwards.

    Raises:
        StoreError: when the place cannot be taken; the temporary file is gone again.
    """
    try:
        os.replace(temporary, target)
    except OSError as error:
        discard(temporary)
        refuse(error, target)


def discard(path: Path) -> None:
    """Delete a file if it is there."""
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def make_folder(folder: Path, *, refuse_link: bool = False) -> None:
    """Make a folder and its parents.

    Args:
        folder: what to make.
        refuse_link: refuse a folder that is a symbolic link, so that nothing is written elsewhere.

    Raises:
        StoreError: when it cannot be made or is refused.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if refuse_link and stat.S_ISLNK(folder.lstat().st_mode):
            raise StoreError(
                "This folder of the run is a symbolic link.", where=str(folder), advice="Choose another run directory."
            )
    except OSError as error:
        refuse(error, folder)


def sync_folder(folder: Path) -> None:
    """Make the renames in a folder durable, where the system can.

    Raises:
        StoreError: when the system reports that it could not.
    """
    if not hasattr(os, "O_DIRECTORY"):
        return
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems cannot sync a folder
            refuse(error, folder)


def refuse(error: OSError, path: Path) -> NoReturn:
    """Raise what a user sees for a failed read or write.

    Raises:
        StoreError: saying what is wrong with this place and what to do.
    """
    what, advice = _explanation(error)
    raise StoreError(what, where=str(path), advice=advice) from error


def _explanation(error: OSError) -> tuple[str, str]:
    if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):
        return (
            "The disk is full; nothing was changed there.",
            "Free some space or choose another directory, then run again.",
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "No permission to use this place.", "Choose a directory you may write to, or change its permissions."
    if error.errno == errno.ENOENT:
        return "This file does not exist.", "Check the path."
    if error.errno in (errno.ENOTDIR, errno.EEXIST, errno.EISDIR):
        return "A file stands where a folder is needed, or a folder where a file is.", "Choose another path."
    return f"The file system refused: {error.strerror or error}.", "Choose another directory."
