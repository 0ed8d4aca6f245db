"""What other packages add, found by entry points: loaded when needed, once, and in nobody's way when it is broken.

A package offers operators (`assay.operators`), rules (`assay.rules.DOMAIN`), analyses (`assay.analyses`) and renderers
(`assay.renderers`); docs/how-to/extend.md shows how. Reading which there are executes none of their code.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from typing import Any

from assay.errors import PluginError

OFF = "ASSAY_NO_PLUGINS"
"""Environment variable that turns all plug-ins off, also in worker processes; `--no-plugins` sets it."""

OPERATORS, ANALYSES, RENDERERS = "assay.operators", "assay.analyses", "assay.renderers"
RULES = "assay.rules."
"""Groups of entry points; that of rules ends in the name of the domain."""

VERSION_KEY = "plug-in "
"""What the names of distributions begin with among the versions of a provenance."""


@dataclass(frozen=True, order=True)
class Plugin:
    """One entry point of an installed package.

    Attributes:
        group: such as ``assay.analyses``.
        name: name of the entry point; for analyses and renderers, what users type.
        value: ``package.module:object``.
        distribution: name of the package that was installed.
        version: its version.
    """

    group: str
    name: str
    value: str
    distribution: str
    version: str

    @property
    def origin(self) -> str:
        """Package and version, for people."""
        return f"{self.distribution} {self.version}".strip()

    @property
    def title(self) -> str:
        """What it is and where it comes from, for people."""
        return f"{self.name} ({self.group}) of {self.origin}"

    def load(self) -> Any:
        """The object that the entry point names; imported the first time.

        Returns:
            The object.

        Raises:
            PluginError: when it cannot be imported, naming package, entry point and what to do; the same again later.
        """
        return _load(self)

    def refusal(self, why: str) -> PluginError:
        """An error that says why it is not used; it is kept for `problems` as well.

        Args:
            why: the reason, without a full stop.

        Returns:
            The error, to be raised or not.
        """
        error = PluginError(
            f"The plug-in {self.title} cannot be used: {why}.",
            where=f"{self.name} = {self.value!r}",
            advice=f"Update or uninstall {self.distribution}, or leave plug-ins out with --no-plugins ({OFF}=1).",
        )
        _PROBLEMS[self] = error
        return error


_PROBLEMS: dict[Plugin, PluginError] = {}
_CREDITED: dict[str, set[Plugin]] = {}


def enabled() -> bool:
    """Whether plug-ins are looked for at all."""
    return os.environ.get(OFF, "") in ("", "0")


@contextmanager
def switched_off(off: bool = True) -> Iterator[None]:
    """Turn plug-ins off inside the block, for this process and those that it starts.

    What was loaded before stays loaded. The environment is afterwards as it was, whatever the block did to it.

    Args:
        off: False leaves them as they are.

    Yields:
        Nothing.
    """
    before = os.environ.get(OFF)
    if off:
        os.environ[OFF] = "1"
    try:
        yield
    finally:
        os.environ.pop(OFF, None)
        if before is not None:
            os.environ[OFF] = before


def installed(group: str) -> tuple[Plugin, ...]:
    """What installed packages offer in a group, by distribution and name; nothing when plug-ins are off.

    Args:
        group: of entry points.

    Returns:
        One record per entry point. No code of theirs has run.

    >>> installed("assay.nothing")
    ()
    """
    return _found().get(group, ()) if enabled() else ()


def groups() -> tuple[str, ...]:
    """The groups of assay in which anything is installed."""
    return tuple(sorted(_found())) if enabled() else ()


@cache
def _found() -> dict[str, tuple[Plugin, ...]]:
    found: dict[str, list[Plugin]] = {}
    entries = metadata.entry_points()  # of a package that is on the path twice, those of the first
    for group in entries.groups:
        if group.startswith(RULES) or group in (OPERATORS, ANALYSES, RENDERERS):
            for entry in entries.select(group=group):
                name, version = (entry.dist.name, entry.dist.version) if entry.dist is not None else (entry.value, "")
                found.setdefault(group, []).append(Plugin(group, entry.name, entry.value, name, version))
    order = {group: sorted(each, key=lambda one: (one.distribution, one.name)) for group, each in found.items()}
    return {group: tuple(each) for group, each in order.items()}


@cache
def _imported(plugin: Plugin) -> Any:
    return metadata.EntryPoint(plugin.name, plugin.value, plugin.group).load()


def _load(plugin: Plugin) -> Any:
    if plugin in _PROBLEMS:
        raise _PROBLEMS[plugin]
    try:
        return _imported(plugin)
    except (Exception, SystemExit) as error:
        raise plugin.refusal(f"{type(error).__name__}: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0][:300].rstrip(".")


def problems() -> dict[Plugin, PluginError]:
    """What is wrong with the plug-ins that were tried so far, and are not used for it."""
    return {plugin: _PROBLEMS[plugin] for plugin in sorted(_PROBLEMS)} if enabled() else {}


def credit(plugin: Plugin, operators: Iterable[str]) -> None:
    """Remember that a plug-in has a part in what happens to these operators."""
    for operator in operators:
        _CREDITED.setdefault(operator, set()).add(plugin)


def credited(operators: Iterable[str]) -> set[Plugin]:
    """The plug-ins that have a part in what happens to these operators."""
    return {plugin for operator in operators for plugin in _CREDITED.get(operator, ())}


def versions(used: Iterable[Plugin]) -> dict[str, str]:
    """Versions of the packages of these plug-ins, by the name that a provenance lists them under."""
    return {f"{VERSION_KEY}{plugin.distribution}": plugin.version for plugin in sorted(used)}
