"""Factories: `package.module:name` and `FILE.py:name`. The only code of strangers that loading ever calls."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from assay.errors import SubjectError, UsageError
from assay.load.isolation import isolated
from assay.load.limits import existing_file
from assay.load.trust import Trust, require_trust
from assay.subject import Data

_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
_FILE = re.compile(r".+\.py:[A-Za-z_]\w*")


def is_factory(spec: str) -> bool:
    """Whether a specification has the form of a factory.

    Returns:
        True for `package.module:name` and `FILE.py:name`.

    Example:
        >>> is_factory("mypkg.models:make"), is_factory("nets/small.py:make"), is_factory("weights.pt")
        (True, True, False)
    """
    return bool(_FILE.fullmatch(spec) or _MODULE.fullmatch(spec))


def call_factory(spec: str, trust: bool | Trust) -> Any:
    """Import and call a factory; an object that is already a model or data is handed over as it is.

    The caller's random streams and torch's global switches are as before afterwards.

    Returns:
        What the factory returned.

    Raises:
        TrustRequired: before anything is imported, when trust was not given.
        UsageError: when the module or the name in it does not exist.
        SubjectError: when the code raises.
    """
    require_trust(trust, f"factory {spec}", spec)
    source, _, name = spec.rpartition(":")
    with isolated():
        module = _from_file(Path(source)) if source.endswith(".py") else _from_package(source)
        try:
            made = getattr(module, name)
        except AttributeError as error:
            public = [each for each in vars(module) if not each.startswith("_") and callable(vars(module)[each])]
            raise UsageError(
                f"{source} has no {name!r}.",
                where=spec,
                advice=f"Functions and classes there: {', '.join(public[:8])}.",
            ) from error
        if isinstance(made, (nn.Module, Tensor, tuple, Data, Dataset, DataLoader)) or not callable(made):
            return made
        with _explained(f"The factory {name!r}", spec):
            return made()


def _from_package(name: str) -> ModuleType:
    with _importable(Path.cwd()), _explained(f"Importing {name!r}", name):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not (name == error.name or name.startswith(error.name + ".")):
                raise
            raise UsageError(
                f"There is no module {error.name!r}.",
                where=name,
                advice="Install it, run from the folder that holds it, or give the file: FILE.py:name.",
            ) from error


def _from_file(path: Path) -> ModuleType:
    path = existing_file(path, "Python file").resolve()
    # A name of its own, so that a file called "random.py" replaces nothing; registered because dataclasses look it up.
    name = f"assay_factory_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError("This is not a Python file.", where=str(path))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        with _importable(path.parent), _explained(f"Importing {path.name!r}", str(path)):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Let imports find neighbours in this folder, last so that they shadow nothing installed."""
    entry = str(folder)
    sys.path.append(entry)
    try:
        yield
    finally:
        if entry in sys.path:  # the last one: an equal entry of the caller's stays
            del sys.path[len(sys.path) - 1 - sys.path[::-1].index(entry)]


@contextmanager
def _explained(what: str, where: str) -> Iterator[None]:
    """Turn whatever the user's code raises into one error that names its line."""
    try:
        yield
    except (SubjectError, UsageError):
        raise
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        place = f"{frames[-1].filename}, line {frames[-1].lineno}" if frames else where
        raise SubjectError(
            f"{what} raised {type(error).__name__}: {str(error)[:300]}",
            where=place,
            advice="Call it in a Python session to see the whole traceback.",
        ) from error
