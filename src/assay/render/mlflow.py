"""An audit as a run of an MLflow tracking server (extra ``mlflow``): the only renderer that uses a network.

It connects to the address that it is given and to no other; MLflow's own usage statistics are switched off.
"""

from __future__ import annotations

import logging
import os
import re
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from assay.errors import AssayError, MissingExtra, TrackingError, UsageError
from assay.render.export import export
from assay.render.mlflow_fields import Fields, collect
from assay.results import Audit

EXPERIMENT = "assay"
ARTIFACTS: Mapping[str, str] = {
    "html": "report.html",
    "json": "audit.json",
    "csv": "tables",
    "parquet": "parquet",
    "safetensors": "arrays.safetensors",
}
"""What a format is called among the artifacts of the run."""

_BATCH = 40
_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "30"}
"""MLflow's own defaults keep a user waiting for minutes; what the user has set stands."""
_SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ASYNC_LOGGING": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


@dataclass(frozen=True)
class Logged:
    """Where an audit was logged.

    Attributes:
        uri: address of the server, without what is secret in it.
        experiment: name of the experiment.
        experiment_id: its identifier.
        run_id: identifier of the run.
        run_name: its name.
        metrics: how many were logged.
        parameters: how many were logged.
        artifacts: names of the files and folders that were uploaded.
    """

    uri: str
    experiment: str
    experiment_id: str
    run_id: str
    run_name: str
    metrics: int
    parameters: int
    artifacts: tuple[str, ...]


def log_audit(
    audit: Audit,
    *,
    experiment: str | None = None,
    run_name: str | None = None,
    tracking_uri: str | None = None,
    run_id: str | None = None,
    artifacts: Sequence[str] = ("html", "json", "csv"),
) -> Logged:
    """Log an audit: its quantities as metrics, its settings as parameters, report and tables as artifacts.

    `assay.render.mlflow_fields.collect` says what the metrics, parameters and tags are.

    Args:
        audit: what to log.
        experiment: name of the experiment, made when missing; MLFLOW_EXPERIMENT_NAME, else ``assay``, if None.
        run_name: name of the new run; that of the model if None.
        tracking_uri: the server; what `mlflow.set_tracking_uri` or MLFLOW_TRACKING_URI say if None. User and password
            in it are used, and never shown.
        run_id: log into this run instead of a new one, and leave it open.
        artifacts: formats to upload, of `ARTIFACTS`.

    Returns:
        Where it was logged.

    Raises:
        UsageError: when no server is given, or for an unknown format.
        MissingExtra: without MLflow.
        TrackingError: when the server cannot be reached or refuses; a run that was begun is marked as failed.
    """
    unknown = [name for name in artifacts if name not in ARTIFACTS]
    if unknown:
        raise UsageError(
            f"There is no artifact {unknown[0]!r}.", where="artifacts", advice=f"Choose from: {', '.join(ARTIFACTS)}."
        )
    given = tracking_uri or ""
    address, secret = _split(given)
    with _environment(_SETTINGS | secret, _PATIENCE), _quiet():
        try:
            library: Any = import_module("mlflow")
        except ImportError as error:
            raise MissingExtra("mlflow", "mlflow", "Logging to MLflow") from error
        if not address and library.is_tracking_uri_set():
            given = library.get_tracking_uri()
            address, secret = _split(given)
        if not address:
            raise UsageError(
                "No MLflow server was named.",
                where="--uri",
                advice="Say --uri http://HOST:PORT (in Python: tracking_uri=...), or set MLFLOW_TRACKING_URI.",
            )
        session = _Session(shown(given), [given, *secret.values()])
        with _environment(secret, {}), tempfile.TemporaryDirectory(prefix="assay-") as written:
            with session.explained("The tracking server cannot be used"):
                client = library.MlflowClient(tracking_uri=address)
                folder = _experiment(client, experiment)
            for name in artifacts:  # before a run is made, which then needs nothing but the server
                export(audit, Path(written) / ARTIFACTS[name], name)
            return session.log(client, audit, folder, run_name, run_id, Path(written))


def shown(uri: str) -> str:
    """An address without user, password and query.

    Returns:
        What may be printed.

    >>> shown("https://me:pass@host:5000/path?token=1")
    'https://host:5000/path'
    """
    return re.sub(r"\?.*", "", re.sub(r"://.*@", "://", uri, flags=re.DOTALL), flags=re.DOTALL)


@dataclass(frozen=True)
class _Session:
    """One logging: knows what must not be shown."""

    uri: str
    secrets: Sequence[str]

    @contextmanager
    def explained(self, what: str, advice: str = "") -> Iterator[None]:
        """Errors of MLflow as one error of ours, without anything secret and without its cause, which may show it."""
        try:
            yield
        except AssayError:
            raise
        except Exception as error:
            why, more = self._reason(error)
        else:
            return
        raise TrackingError(f"{what}: {why}.", where=self.uri, advice=f"{advice} {more}".strip()) from None

    def log(
        self, client: Any, audit: Audit, folder: Any, run_name: str | None, run_id: str | None, written: Path
    ) -> Logged:
        """Make the run, fill it and upload what was written."""
        fields = collect(audit)
        name = run_name or str(audit.subject.get("name") or "assay")
        with self.explained("The run could not be made"):
            run = client.get_run(run_id) if run_id else client.create_run(folder.experiment_id, run_name=name)
        identifier, done = run.info.run_id, False
        artifacts = sorted(entry.name for entry in written.iterdir())
        try:
            advice = f"Nothing of yours was changed; run {identifier} on the server is incomplete."
            with self.explained("Logging stopped", advice):
                _fill(client, identifier, fields)
                if artifacts:
                    client.log_artifacts(identifier, str(written))
                if not run_id:
                    client.set_terminated(identifier, "FINISHED")
            done = True
        finally:
            if not done and not run_id:
                with suppress(Exception):
                    client.set_terminated(identifier, "FAILED")
        return Logged(
            uri=self.uri,
            experiment=folder.name,
            experiment_id=run.info.experiment_id,
            run_id=identifier,
            run_name=run.info.run_name,
            metrics=len(fields.metrics),
            parameters=len(fields.parameters),
            artifacts=tuple(artifacts),
        )

    def _reason(self, error: Exception) -> tuple[str, str]:
        """What went wrong in a few words, and what to do."""
        text = str(error)
        if isinstance(error, ImportError):
            return "this kind of address needs the whole of MLflow", "pip install mlflow"
        for each in self.secrets:
            text = text.replace(each, "...") if each else text
        code = re.search(r"(?:error code|status code:?) (40[13])\b", text)
        if code:
            return (
                f"it refuses the credentials ({code.group(1)})",
                "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN.",
            )
        if "Max retries exceeded" in text or "Failed to establish" in text or "timed out" in text:
            return "it does not answer", "Check that it runs and that the address is right, then run again."
        first = shown(text.strip().splitlines()[0]) if text.strip() else type(error).__name__
        return first[:300].rstrip("."), "Mend that, then run again."


def _split(uri: str) -> tuple[str, dict[str, str]]:
    """An address without user and password, and these as the environment variables that MLflow reads.

    Returns:
        Address and variables.

    Raises:
        UsageError: for an address that is none.
    """
    try:
        parts = urlsplit(uri)
        if parts.scheme not in ("http", "https"):
            return uri, {}
        good, user, password = bool(parts.hostname) and (parts.port or 1) > 0, parts.username, parts.password
    except ValueError:
        good, user, password, parts = False, None, None, None
    if not good or parts is None:
        raise UsageError("This is no address of a server.", where="--uri", advice="Write it as http://HOST:PORT.")
    address = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    names = {"MLFLOW_TRACKING_USERNAME": user, "MLFLOW_TRACKING_PASSWORD": password}
    return address, {name: unquote(value) for name, value in names.items() if value is not None}


def _experiment(client: Any, name: str | None) -> Any:
    """The experiment of that name, made when missing."""
    wanted = name or os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
    found = client.get_experiment_by_name(wanted)
    if found is None:
        try:
            found = client.get_experiment(client.create_experiment(wanted))
        except Exception:
            found = client.get_experiment_by_name(wanted)  # somebody else made it in between
            if found is None:
                raise
    if found.lifecycle_stage != "active":
        raise UsageError(
            f"The experiment {wanted!r} has been deleted on the server.",
            where="--experiment",
            advice="Restore it there, or name another one.",
        )
    return found


def _fill(client: Any, run_id: str, fields: Fields) -> None:
    """Metrics, parameters and tags, in batches that a server takes."""
    entities: Any = import_module("mlflow.entities")
    now = int(time.time() * 1000)
    metrics = [entities.Metric(key, value, now, 0) for key, value in fields.metrics.items()]
    parameters = [entities.Param(key, value) for key, value in fields.parameters.items()]
    tags = [entities.RunTag(key, value) for key, value in fields.tags.items()]
    tags.append(entities.RunTag("mlflow.note.content", fields.description))
    for kind, items in (("metrics", metrics), ("params", parameters), ("tags", tags)):
        for start in range(0, len(items), _BATCH):
            client.log_batch(run_id, **{kind: items[start : start + _BATCH]})


@contextmanager
def _environment(forced: Mapping[str, str], unset: Mapping[str, str]) -> Iterator[None]:
    """Variables that MLflow reads, for the time of the block; those in `unset` only where there are none."""
    wanted = {**{key: value for key, value in unset.items() if key not in os.environ}, **forced}
    before = {key: os.environ.get(key) for key in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for key, value in before.items():
            os.environ.pop(key, None)
            if value is not None:
                os.environ[key] = value


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the remarks of the client's libraries about each attempt to themselves; the error says what matters."""
    loggers = [logging.getLogger(name) for name in ("urllib3", "mlflow", "alembic")]
    before = [each.level for each in loggers]
    for each in loggers:
        each.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for each, level in zip(loggers, before, strict=True):
            each.setLevel(level)
