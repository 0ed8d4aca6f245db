"""The analyses by name: those of assay, and those that other packages offer by entry points `assay.analyses`.

Nothing here needs torch: an analysis is imported when it runs, and a package's record of one when it is asked for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from assay import plugins
from assay.boundary.config import BoundaryConfig
from assay.errors import PluginError, UsageError
from assay.filtering.config import FilteringConfig
from assay.moments.config import MomentsConfig
from assay.plugins import Plugin
from assay.sensitivity.config import SensitivityConfig
from assay.smoothness.config import SmoothnessConfig

if TYPE_CHECKING:
    from assay.results import Result

NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
RESERVED = frozenset({"graph", "all", "plugins", "audit", "config"})


@dataclass(frozen=True)
class Analysis:
    """One analysis as the audit runs it.

    Functions may be given as ``"package.module:function"`` and are imported when they are called; so reading settings
    and printing help need neither torch nor the rest of a package.

    Attributes:
        run: `(subject, config, *, progress) -> Result`, the result named as the analysis. What it raises of
            `SubjectError` is the reason why it is left out.
        plan: `(subject, config) -> str`, a plain estimate of what it will cost (or an `assay.effort.Estimate`).
        config: its settings, a frozen pydantic model with a default for every field and, where it draws random numbers,
            a field `seed`. Its docstring is the heading of its flags, its fields are flags and TOML keys.
        sweeps: `run` also takes `directory`, the run directory, to keep what is finished and go on after any stop.
        too_long: `(subject, config) -> str`, why an audit of everything leaves it out; empty when it does not.
    """

    run: Callable[..., Result] | str
    plan: Callable[[Any, Any], Any] | str
    config: type[BaseModel] | None = None
    sweeps: bool = False
    too_long: Callable[[Any, Any], str] | str | None = None

    def __post_init__(self) -> None:
        for name in ("run", "plan", "too_long"):
            given = getattr(self, name)
            if isinstance(given, str):
                object.__setattr__(self, name, _later(given))


def _later(place: str) -> Callable[..., Any]:
    """A function that imports another one when it is called."""
    module, separator, name = place.partition(":")
    if not separator or not module or not name.isidentifier():
        raise ValueError(f"{place!r} is not package.module:function")

    def call(*arguments: Any, **keywords: Any) -> Any:
        return getattr(import_module(module), name)(*arguments, **keywords)

    return call


BUILT_IN: Mapping[str, Analysis] = {
    "moments": Analysis("assay.moments:analyse", "assay.moments:plan", MomentsConfig),
    "sensitivity": Analysis("assay.sensitivity:analyse", "assay.sensitivity:plan", SensitivityConfig),
    "filtering": Analysis(
        "assay.filtering:examine",
        "assay.filtering:plan",
        FilteringConfig,
        sweeps=True,
        too_long="assay.filtering:too_long",
    ),
    "boundary": Analysis("assay.boundary:analyse", "assay.boundary:plan", BoundaryConfig),
    "smoothness": Analysis("assay.smoothness:analyse", "assay.smoothness:plan", SmoothnessConfig),
}
"""Every analysis of assay, in the order they run. To add one, add a line, and a field in `config.AuditConfig`."""


class _Analyses(Mapping[str, Analysis]):
    """Listing the names imports nothing of other packages; looking up one of theirs imports that one."""

    def __getitem__(self, name: str) -> Analysis:
        if name in BUILT_IN:
            return BUILT_IN[name]
        return checked(offered()[name])

    def __iter__(self) -> Iterator[str]:
        yield from BUILT_IN
        yield from offered()

    def __len__(self) -> int:
        return len(BUILT_IN) + len(offered())

    def __contains__(self, name: object) -> bool:  # a Mapping would look it up, and import it
        return name in BUILT_IN or name in offered()


ANALYSES: Mapping[str, Analysis] = _Analyses()
"""Every analysis there is, in the order they run; looking up a broken one of another package raises `PluginError`."""


def offered() -> Mapping[str, Plugin]:
    """The analyses of other packages by name; not those whose name is taken, by assay or by an earlier package."""
    found: dict[str, Plugin] = {}
    for plugin in plugins.installed(plugins.ANALYSES):
        name = plugin.name
        if name in BUILT_IN or name in RESERVED:
            plugin.refusal(f"the name {name!r} belongs to assay")
        elif name in found:
            plugin.refusal(f"{found[name].origin} has an analysis of that name")
        elif not NAME.fullmatch(name):
            plugin.refusal("the name of an analysis has small letters, digits and underscores")
        else:
            found[name] = plugin
    return found


def checked(plugin: Plugin) -> Analysis:
    """The record behind an entry point.

    Returns:
        The analysis.

    Raises:
        PluginError: when it cannot be imported, or is not what an analysis has to be.
    """
    found = plugin.load()
    if not isinstance(found, Analysis):
        raise plugin.refusal(f"{plugin.value} is a {type(found).__name__}, not an assay.audit.Analysis")
    config = found.config
    if not isinstance(config, type) or not issubclass(config, BaseModel):
        raise plugin.refusal("its `config` is no pydantic model")
    try:
        config()
    except ValidationError as error:
        raise plugin.refusal(f"its settings have no default: {error.errors()[0]['loc']}") from error
    return found


def usable() -> Mapping[str, Analysis]:
    """The analyses of other packages that can be used; `plugins.problems` tells of the rest."""
    found = {}
    for name, plugin in offered().items():
        try:
            found[name] = checked(plugin)
        except PluginError:
            continue
    return found


def unknown(name: str, *, where: str = "--only") -> UsageError:
    """The error for a name that no analysis has."""
    off = "" if plugins.enabled() else f" Plug-ins are turned off ({plugins.OFF})."
    return UsageError(
        f"There is no analysis {name!r}.",
        where=where,
        advice=f"Choose from: {', '.join(ANALYSES)}; or install the package that offers it.{off}",
    )
