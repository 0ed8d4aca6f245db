"""The table of data formats. A format is one file in `assay.load.formats`; adding one changes nothing else."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from assay.load.trust import Trust
from assay.preprocess import Preprocessing
from assay.subject import Data

Mode = Literal["RGB", "L"]


@dataclass(frozen=True)
class DataRequest:
    """What was asked for; every format takes what concerns it.

    Attributes:
        spec: the specification as given.
        preprocessing: resize and crop act now, bounds say what pixel values are mapped to.
        trust: whether code may run, and the record of what did.
        limit: number of samples wanted, or None for all.
        inputs_key: array of inputs in an `.npz`, or None to recognise it by name.
        targets_key: array of targets in an `.npz`, or None likewise.
        target_column: target of a table, or None to recognise it by name.
        mode: colour of pictures, RGB or L (grey).
    """

    spec: str
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    trust: Trust = field(default_factory=Trust)
    limit: int | None = None
    inputs_key: str | None = None
    targets_key: str | None = None
    target_column: str | None = None
    mode: Mode = "RGB"

    @property
    def path(self) -> Path:
        """The specification read as a path."""
        return Path(self.spec)


@dataclass(frozen=True)
class DataFormat:
    """One way data can be given.

    Attributes:
        form: how a specification of it looks, for help and messages.
        accepts: whether a request is of this form; decided by its text and by what lies on disk, opening nothing.
        read: the data, or an error of `assay.errors`.
    """

    form: str
    accepts: Callable[[DataRequest], bool]
    read: Callable[[DataRequest], Data]


_FORMATS: dict[str, DataFormat] = {}


def data_format(
    form: str, accepts: Callable[[DataRequest], bool]
) -> Callable[[Callable[[DataRequest], Data]], Callable[[DataRequest], Data]]:
    """Register the decorated reader as the one for specifications of this form."""

    def register(read: Callable[[DataRequest], Data]) -> Callable[[DataRequest], Data]:
        _FORMATS[form] = DataFormat(form, accepts, read)
        return read

    return register


def has_suffix(*suffixes: str) -> Callable[[DataRequest], bool]:
    """A test for files by the end of their name; folders are not meant."""
    return lambda request: request.path.suffix.lower() in suffixes and not request.path.is_dir()


def data_formats() -> tuple[DataFormat, ...]:
    """All formats, in the order of their file names.

    Returns:
        The table.

    Example:
        >>> any(each.form == "sklearn:NAME" for each in data_formats())
        True
    """
    from assay.load import formats

    for module in pkgutil.iter_modules(formats.__path__):
        importlib.import_module(f"{formats.__name__}.{module.name}")
    return tuple(_FORMATS.values())
