"""Packages whose names are imported when first used, so that reading settings or printing help needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any


def lazily(package: str, names: Mapping[str, Sequence[str]]) -> tuple[Callable[[str], Any], list[str]]:
    """`__getattr__` and `__all__` of a package.

    Args:
        package: dotted name of the package.
        names: public names by the submodule that defines them; a module elsewhere in assay by its full name.

    Returns:
        A module-level `__getattr__` that imports a name's submodule on first use, and the list of names.
    """
    full = {module: module if module.startswith("assay.") else f"{package}.{module}" for module in names}
    home = {name: full[module] for module, group in names.items() for name in group}

    def get(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(home[name]), name)

    return get, sorted(home)
