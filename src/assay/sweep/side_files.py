"""Keeping outcomes: each in a file of its own that certifies itself, and a row in the worker's shard afterwards."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np

from assay.errors import StoreError
from assay.results.atomic import discard, make_folder, publish, refuse, stage, sync_folder
from assay.sweep import arrays
from assay.sweep.shard import ENDING, Row, Shard
from assay.sweep.work import Outcome

SHARDS, OUTCOMES = "shards", "outcomes"


def side_file(root: Path, key: str) -> Path:
    """Where the outcome of an item lies until the sweep is sealed."""
    return root / OUTCOMES / key[:2] / f"{key}.safetensors"


def read_side_file(path: Path) -> tuple[Row, dict[str, np.ndarray]]:
    """Read one outcome.

    Returns:
        The row that belongs to it, and the arrays.

    Raises:
        ValueError: when the file is damaged or not what its name says.
        StoreError: when it cannot be read.
    """
    if path.is_symlink() or not path.is_file():
        raise ValueError("it is not a regular file")
    try:
        content = path.read_bytes()
    except OSError as error:
        refuse(error, path)
    try:
        outcome, facts = arrays.decode(content)
        row = Row(
            facts["key"], int(facts["stage"]), facts["name"], facts["content"], len(content), float(facts["seconds"])
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"it lacks {error}") from error
    if row.key != path.stem or row.content != arrays.content_digest(outcome):
        raise ValueError("its name or its content is not the one it states")
    return row, outcome


def _intact_row(path: Path) -> Row | None:
    with contextlib.suppress(ValueError):
        return read_side_file(path)[0]
    return None


class Writer:
    """Keeps outcomes: the file first, then the row. One per worker and thread.

    Args:
        root: folder of the sweep.
        token: name of the shard; unique to the worker.
        durable: wait until every file is on the disk itself.
        keep_open: keep the shard open between items; else it is a complete file after each.
    """

    def __init__(self, root: Path, token: str, *, durable: bool = True, keep_open: bool = True) -> None:
        self.root, self.durable, self.keep_open = root, durable, keep_open
        self._path = root / SHARDS / f"{token}{ENDING}"
        self._shard: Shard | None = None

    def write(self, key: str, number: int, name: str, outcome: Outcome, seconds: float) -> Row:
        """Keep one outcome; it survives anything when this returns.

        Args:
            key: of the item.
            number: of the stage.
            name: of the item.
            outcome: normalised.
            seconds: it took.

        Returns:
            Its row.

        Raises:
            StoreError: when the disk is full, the place cannot be written, or the same item gave something else before.
        """
        target, content = side_file(self.root, key), arrays.content_digest(outcome)
        facts = {"key": key, "stage": str(number), "name": name, "content": content, "seconds": f"{seconds:.6f}"}
        payload = arrays.encode(outcome, facts)
        row = Row(key, number, name, content, len(payload), float(facts["seconds"]))
        before = _intact_row(target)
        if before is None:
            self._put(target, payload)
        elif before.content != content:
            differs(name, self.root)
        else:
            row = before
        if self.durable:
            self.add([row])
        return row

    def add(self, rows: Sequence[Row]) -> None:
        """Keep rows of outcomes that are in their files already.

        Raises:
            StoreError: when they cannot be written.
        """
        if self._shard is None:
            self._shard = Shard(self._path)
        self._shard.add(rows)
        if not self.keep_open:
            self.close()

    def close(self) -> None:
        """Let go of the shard."""
        if self._shard is not None:
            self._shard.close()
            self._shard = None

    def _put(self, target: Path, payload: bytes) -> None:
        if not target.parent.is_dir():
            make_folder(target.parent, refuse_link=True)
            if self.durable:
                sync_folder(target.parent.parent)
        if self.durable:
            publish(stage(target, payload), target)
            sync_folder(target.parent)
            return
        temporary = target.with_name(f".{target.name}.{os.urandom(4).hex()}.tmp")
        try:
            temporary.write_bytes(payload)
        except OSError as error:
            discard(temporary)
            refuse(error, target)
        publish(temporary, target)


def differs(name: str, root: Path) -> NoReturn:
    """Stop: an item was computed twice, with different outcomes.

    Raises:
        StoreError: always.
    """
    raise StoreError(
        f"Item {name!r} was computed twice with different outcomes: the computation is not deterministic.",
        where=str(root),
        advice="Seeds belong in an item's arguments, and everything that decides its outcome in the job's identity. "
        "Delete this folder when that is put right.",
    )
