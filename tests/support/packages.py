"""Packages made up on the spot, as an installer would leave them, and a registry that forgets them afterwards."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from assay import plugins
from assay.graph.operators import registry

Offer = Callable[..., None]


@contextmanager
def pretended(folder: Path) -> Iterator[Offer]:
    """A function (distribution, entry points by group, code) that puts a package on the path of this process.

    Yields:
        The function; the code goes into a module with the distribution's name.
    """
    made: list[str] = []

    def offer(name: str, entries: Mapping[str, str], code: str = "", version: str = "1.0") -> None:
        info = folder / f"{name}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8")
        listed = "".join(f"[{group}]\n{line}\n" for group, line in entries.items())
        (info / "entry_points.txt").write_text(listed, encoding="utf-8")
        (folder / f"{name}.py").write_text(code, encoding="utf-8")
        made.append(name)
        plugins._found.cache_clear()

    sys.path.insert(0, str(folder))
    forget()
    try:
        yield offer
    finally:
        sys.path.remove(str(folder))
        for name in made:
            sys.modules.pop(name, None)
        forget()


def forget() -> None:
    """Make the process forget every plug-in."""
    plugins._found.cache_clear()
    plugins._imported.cache_clear()
    plugins._PROBLEMS.clear()
    plugins._CREDITED.clear()
    registry.OPERATORS.others.clear()
    registry.ATEN.others.clear()
    registry._seen.clear()
