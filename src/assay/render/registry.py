"""The renderers by name: those of assay, and those that other packages offer by entry points `assay.renderers`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias

from assay.errors import AssayError
from assay.plugins import RENDERERS, Plugin, installed
from assay.results import Audit

Renderer: TypeAlias = Callable[[Audit, Path], list[Path]]
"""Writes an audit to a path, a file or a folder as its format needs, and returns the files it wrote."""

BUILT_IN: Mapping[str, str] = {
    "html": "assay.render.export:report",
    "json": "assay.render.json:export",
    "csv": "assay.render.csv:export",
    "parquet": "assay.render.parquet:export",
    "safetensors": "assay.render.safetensors:export",
    "markdown": "assay.render.markdown:export",
    "junit": "assay.render.junit:export",
}
"""Where the renderers of assay are; each is imported when it is used."""


def renderers() -> Mapping[str, Renderer]:
    """All renderers by name; looking one up imports it, listing the names does not.

    Returns:
        A mapping. Looking up a renderer of another package that cannot be used raises `PluginError`, which names the
        package.

    >>> "json" in renderers()
    True
    """
    return _Renderers()


def ignored() -> tuple[str, ...]:
    """One sentence for each renderer of another package that is not used, because its name is taken by one of assay.

    Returns:
        Sentences that name the packages; empty when there is no clash.
    """
    return tuple(
        f"The renderer {plugin.name!r} of {plugin.origin} is not used: assay has one of that name."
        for plugin in installed(RENDERERS)
        if plugin.name in BUILT_IN
    )


class _Renderers(Mapping[str, Renderer]):
    """Knows the names at once and the functions when they are asked for; a broken one hinders no other."""

    def __init__(self) -> None:
        self._others: dict[str, list[Plugin]] = {}
        for plugin in installed(RENDERERS):
            if plugin.name not in BUILT_IN:
                self._others.setdefault(plugin.name, []).append(plugin)

    def __getitem__(self, name: str) -> Renderer:
        if name in BUILT_IN:
            module, _, attribute = BUILT_IN[name].partition(":")
            return getattr(import_module(module), attribute)
        first, *more = self._others[name]
        if more:
            raise first.refusal(f"{', '.join(sorted(each.origin for each in more))} has a renderer of that name, too")
        return _foreign(first)

    def __iter__(self) -> Iterator[str]:
        yield from (*BUILT_IN, *sorted(self._others))

    def __len__(self) -> int:
        return len(BUILT_IN) + len(self._others)

    def __contains__(self, name: object) -> bool:  # that of Mapping would look the renderer up, and so import it
        return name in BUILT_IN or name in self._others


def _foreign(plugin: Plugin) -> Renderer:
    """A renderer of another package: what goes wrong in it is reported as its own."""
    function: Any = plugin.load()
    if not callable(function):
        raise plugin.refusal(f"{plugin.value} is a {type(function).__name__}, not a function")

    def render(audit: Audit, path: Path) -> list[Path]:
        try:
            files: Any = function(audit, path)
            return [Path(file) for file in files]
        except (AssayError, OSError, MemoryError):
            raise
        except Exception as error:
            raise plugin.refusal(f"{type(error).__name__}: {str(error)[:300]}") from error

    return render
