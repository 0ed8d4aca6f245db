"""What a run was asked for, kept in its directory so that `assay resume` can go on."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assay import plugins
from assay.cli.options import Loading
from assay.errors import StoreError, TrustRequired
from assay.results import checked
from assay.results.atomic import write_atomic
from assay.store.checksums import fingerprint
from assay.store.layout import CONFIG, INVOCATION, SCHEMA

if TYPE_CHECKING:
    from assay.subject import Subject

FORMAT = "assay-invocation"
_PATHS = ("weights", "classes")


@dataclass(frozen=True)
class Invocation:
    """A request for an audit.

    Attributes:
        model: specification of the model.
        loading: how it and its data are loaded.
        only: names of analyses; all when None.
        fail_on: severity from which the exit code is 1.
        folder: the folder that relative paths begin at.
    """

    model: str
    loading: Loading
    only: tuple[str, ...] | None
    fail_on: str
    folder: str

    @classmethod
    def of(cls, model: str, loading: Loading, only: Sequence[str] | None, fail_on: str) -> Invocation:
        """A request made here."""
        return cls(model, loading, None if only is None else tuple(only), fail_on, os.getcwd())

    def load(self) -> Subject:
        """The subject, loaded from the folder where the request was made, as far as that is still there."""
        with contextlib.chdir(self.folder) if Path(self.folder).is_dir() else contextlib.nullcontext():
            return self.loading.load(self.model)

    def write(self, directory: Path) -> None:
        """Keep the request in a run directory that has its configuration already.

        Raises:
            StoreError: when it cannot be written.
        """
        loading = {
            name: str(value) if isinstance(value, Path) else value for name, value in asdict(self.loading).items()
        }
        content = {
            "format": FORMAT,
            "schema": SCHEMA,
            "model": self.model,
            "loading": {name: value for name, value in loading.items() if value is not None},
            "only": self.only,
            "fail_on": self.fail_on,
            "folder": self.folder,
            "plugins": plugins.enabled(),
            "files": {CONFIG: fingerprint(directory / CONFIG)},
        }
        write_atomic(directory / INVOCATION, checked.document(content))

    @classmethod
    def read(cls, directory: Path, *, trust: bool) -> Invocation:
        """The request that a run directory was made for.

        Args:
            directory: the run.
            trust: allow what was trusted then to execute code now.

        Returns:
            The request.

        Raises:
            StoreError: when there is none, it is damaged, or the configuration has been changed.
            TrustRequired: when the run executes code and trust was not given again.
        """
        path = directory / INVOCATION
        if not path.is_file():
            raise StoreError(
                "This directory holds no run that can be resumed.",
                where=str(directory),
                advice="Give the -o directory of `assay audit`.",
            )
        content = path.read_bytes()
        document: dict[str, Any] = json.loads(content) if checked.intact(content) else {}
        if document.get("format") != FORMAT or document.get("schema") != SCHEMA:
            raise StoreError(
                "The run's request is damaged or of another version.",
                where=str(path),
                advice="Run `assay audit` again with the same options and the same -o: what is done is found.",
            )
        if not (directory / CONFIG).is_file() or fingerprint(directory / CONFIG) != document["files"][CONFIG]:
            raise StoreError(
                "The run's configuration is not the one that it began with.",
                where=str(directory / CONFIG),
                advice="Undo the change, or begin a new run with `assay audit --config`.",
            )
        if not document.get("plugins", True):
            os.environ[plugins.OFF] = "1"  # as it was when the run began; worker processes have to know, too
        known = {field.name for field in fields(Loading)}
        options = {name: value for name, value in document["loading"].items() if name in known}
        if options.get("trust") and not trust:
            raise TrustRequired(
                "This run executes code from its model or data, as it was allowed to when it began.",
                where=document["model"],
                advice="Repeat with --trust to allow it again.",
            )
        options |= {name: Path(options[name]) for name in _PATHS if name in options}
        options |= {name: tuple(value) for name, value in options.items() if isinstance(value, list)}
        only = None if document["only"] is None else tuple(document["only"])
        return cls(document["model"], Loading(**options), only, document["fail_on"], document["folder"])
