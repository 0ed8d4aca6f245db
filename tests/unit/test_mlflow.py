"""Logging to MLflow: names, lengths and numbers that every server takes, secrets that are never shown.

The tests at the end talk to a real server, a process of its own with an SQLite backend.
"""

import contextlib
import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
import time
import types
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support import hostile, synthetic

from assay.cli import main
from assay.errors import MissingExtra, TrackingError, UsageError
from assay.grade import Grade
from assay.render import mlflow as tracking
from assay.render.json import to_json
from assay.render.mlflow import log_audit, shown
from assay.render.mlflow_fields import KEY_LENGTH, PARAMETER_LENGTH, TAG_LENGTH, collect
from assay.results import Audit, Quantity, Result
from assay.store import open_run, save_audit

SECRET = "hunter2"
LEGAL = re.compile(r"[\w. /\-]+", re.ASCII)


# What is logged


@pytest.mark.parametrize(
    "audit", [hostile.audit(), synthetic.audit(), Audit({}, {})], ids=["hostile", "usual", "empty"]
)
def test_names_and_lengths_are_legal(audit: Audit):
    fields = collect(audit)
    for name in (*fields.metrics, *fields.parameters, *fields.tags):
        assert LEGAL.fullmatch(name), name
        assert len(name) <= KEY_LENGTH
        assert os.path.normpath(name) == name
        assert not name.startswith(("/", ".."))
    assert all(math.isfinite(value) for value in fields.metrics.values())
    assert all(len(text) <= PARAMETER_LENGTH for text in fields.parameters.values())
    assert all(len(text) <= TAG_LENGTH for text in (*fields.tags.values(), fields.description))


def test_every_quantity_is_a_metric_with_its_interval_grade_and_unit():
    audit = synthetic.audit()
    fields = collect(audit)
    for analysis, result in audit.results.items():
        for key, item in result.summary.items():
            for ending, value in (("", item.value), (".low", item.low), (".high", item.high)):
                usual = value is not None and math.isfinite(value)
                assert fields.metrics.get(f"{analysis}/{key}{ending}") == (value if usual else None)
        grades = json.loads(fields.tags[f"assay.grades.{analysis}"])
        assert grades == {key: item.grade.value for key, item in result.summary.items()}
    counted = {status: sum(one.status == status for one in audit.findings) for status in ("pass", "warn", "fail")}
    assert {name: fields.metrics[f"findings/{name}"] for name in counted} == counted


def test_numbers_that_are_not_finite_are_told_in_a_tag():
    fields = collect(hostile.audit())
    unlike = json.loads(fields.tags["assay.not_finite"])
    assert sorted(unlike.values()) == ["-Infinity", "Infinity", "NaN"]
    assert not set(unlike) & set(fields.metrics)


def test_settings_are_flat_and_long_ones_are_cut_and_named():
    fields = collect(hostile.audit())
    flat = {key.rpartition(".")[2]: text for key, text in fields.parameters.items()}
    assert (flat["seed"], flat["list"], flat["none"]) == ("0", '[1, 2.5, "Infinity"]', "null")
    assert flat["long"].endswith("x…")
    [cut] = json.loads(fields.tags["assay.shortened"])
    assert cut.endswith(".long")


def test_names_that_meet_stay_apart():
    summary = {
        name: Quantity(float(index), Grade.EXACT) for index, name in enumerate(["a b?", "a b!", "a b_", "x" * 400])
    }
    metrics = collect(Audit({}, {"r": Result("r", "", "", summary)})).metrics
    assert sorted(value for name, value in metrics.items() if name.startswith("r/")) == [0, 1, 2, 3]


def test_too_many_grades_leave_valid_json():
    summary = {f"quantity number {index}": Quantity(1.0, Grade.EXACT, "unit") for index in range(400)}
    tags = collect(Audit({}, {"r": Result("r", "", "", summary)})).tags
    assert len(tags["assay.grades.r"]) <= TAG_LENGTH
    kept = json.loads(tags["assay.grades.r"])
    assert kept.pop("...") == "the rest is in audit.json"
    assert len(kept) > 50
    assert set(kept.values()) == {"exact"}


def test_the_description_cannot_become_markup():
    said = collect(hostile.audit()).description
    assert "\\[a\\](b) \\<b\\>" in said
    assert "<b>" not in said


# Addresses


@pytest.mark.parametrize("uri", [
    f"http://me:{SECRET}@host:5000", f"https://me:{SECRET}@host/path?token={SECRET}", f"postgresql://u:{SECRET}@db/x",
    f"http://me:{SECRET}/x@host", f"http://host?password={SECRET}", f"http://{SECRET}@host", f"http://a@b:{SECRET}@host",
    f"http://me:{SECRET}\n@host",
])  # fmt: skip
def test_secrets_are_not_shown(uri: str):
    assert SECRET not in shown(uri)
    assert "host" in shown(uri) or "db" in shown(uri)


@pytest.mark.parametrize(
    "uri", ["http://", "http://host:port", f"http://me:{SECRET}/x@host", "http://[::1", "https:///x"]
)
def test_addresses_that_are_none(uri: str, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(UsageError, match="no address") as caught:
        log_audit(Audit({}, {}), tracking_uri=uri)
    assert SECRET not in str(caught.value)


def test_a_missing_library_names_its_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(MissingExtra, match="mlflow") as caught:
        log_audit(Audit({}, {}), tracking_uri="http://127.0.0.1:1")
    assert "assay[mlflow]" in caught.value.advice


# The order of things, with a stand-in for the library


class Server:
    """What a client was asked to do, and what fails."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.fails: dict[str, Exception] = {}
        self.environment: dict[str, str] = {}

    def module(self) -> types.ModuleType:
        server = self

        class Client:
            def __init__(self, tracking_uri: str) -> None:
                server.calls.append(("client", (tracking_uri,)))

            def __getattr__(self, name: str) -> Any:
                def call(*values: Any, **named: Any) -> Any:
                    server.environment = dict(os.environ)
                    server.calls.append((name, values))
                    if name in server.fails:
                        raise server.fails[name]
                    info = types.SimpleNamespace(run_id="r1", run_name="demo", experiment_id="7")
                    return types.SimpleNamespace(info=info, experiment_id="7", name="assay", lifecycle_stage="active")

                return call

        def item(*values: Any) -> tuple[Any, ...]:
            return values

        entities = types.SimpleNamespace(Metric=item, Param=item, RunTag=item)
        return types.SimpleNamespace(MlflowClient=Client, entities=entities, is_tracking_uri_set=lambda: False)  # pyright: ignore[reportReturnType]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    stand_in = Server()
    module = stand_in.module()
    monkeypatch.setitem(sys.modules, "mlflow", module)
    monkeypatch.setitem(sys.modules, "mlflow.entities", module.entities)
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        monkeypatch.delenv(name)
    return stand_in


def test_credentials_go_into_the_environment_and_leave_it(server: Server):
    before = dict(os.environ)
    logged = log_audit(synthetic.audit(), tracking_uri=f"http://me:{SECRET}%21@host:5000/x", artifacts=())
    assert server.calls[0] == ("client", ("http://host:5000/x",))
    assert server.environment["MLFLOW_TRACKING_USERNAME"] == "me"
    assert server.environment["MLFLOW_TRACKING_PASSWORD"] == f"{SECRET}!"
    assert server.environment["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert dict(os.environ) == before
    assert logged.uri == "http://host:5000/x"
    assert SECRET not in repr(logged)


def test_a_run_that_breaks_off_is_marked_and_its_error_tells_no_secret(server: Server):
    server.fails["log_batch"] = RuntimeError(f"no: http://me:{SECRET}@host:5000/api with password {SECRET}")
    with pytest.raises(TrackingError, match="Logging stopped") as caught:
        log_audit(synthetic.audit(), tracking_uri=f"http://me:{SECRET}@host:5000", artifacts=())
    assert ("set_terminated", ("r1", "FAILED")) in server.calls
    assert SECRET not in str(caught.value)
    assert "r1" in caught.value.advice
    assert caught.value.exit_code == 3
    assert caught.value.__suppress_context__


def test_an_interrupt_marks_the_run_too(server: Server):
    server.fails["log_batch"] = KeyboardInterrupt()  # pyright: ignore[reportArgumentType]
    with pytest.raises(KeyboardInterrupt):
        log_audit(synthetic.audit(), tracking_uri="http://host", artifacts=())
    assert ("set_terminated", ("r1", "FAILED")) in server.calls


def test_a_given_run_stays_open(server: Server):
    log_audit(synthetic.audit(), tracking_uri="http://host", artifacts=(), run_id="r1")
    names = [name for name, _ in server.calls]
    assert "get_run" in names
    assert not {"create_run", "set_terminated"} & set(names)


def test_artifacts_are_written_before_a_run_is_made(server: Server, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtra):
        log_audit(synthetic.audit(), tracking_uri="http://host", artifacts=("parquet",))
    assert "create_run" not in [name for name, _ in server.calls]
    with pytest.raises(UsageError, match="'pickle'"):
        log_audit(synthetic.audit(), tracking_uri="http://host", artifacts=("pickle",))


def test_no_server_named(server: Server):
    with pytest.raises(UsageError, match="No MLflow server was named"):
        log_audit(synthetic.audit())
    assert not server.calls


@pytest.mark.parametrize("text", ["API request failed with error code 401 != 200", "status code: 403"])
def test_refused_credentials_are_told(server: Server, text: str):
    server.fails["get_experiment_by_name"] = RuntimeError(text)
    with pytest.raises(TrackingError, match="refuses the credentials") as caught:
        log_audit(synthetic.audit(), tracking_uri="http://host")
    assert "MLFLOW_TRACKING_USERNAME" in caught.value.advice


@pytest.mark.parametrize("arguments", [
    ("--format", "mlflow", "-o", "x"), ("--format", "csv", "-o", "x", "--uri", f"http://me:{SECRET}@h"),
    ("--format", "mlflow", f"http://me:{SECRET}@h"), (), ("--format", "csv"),
    ("--format", "csv", "-o", "x", "--experiment", "e"), ("--format", "mlflow", "--uri", f"http://me:{SECRET}@h:port"),
    ("--format", f"http://me:{SECRET}@h", "-o", "x"),
])  # fmt: skip
def test_wrong_options(arguments: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str], server: Server):
    save_audit(synthetic.audit(), tmp_path / "run")
    assert main(["export", str(tmp_path / "run"), *arguments]) == 2
    printed = capsys.readouterr()
    assert SECRET not in printed.out + printed.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


# A real server


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A tracking server with an SQLite backend, in a process group of its own."""
    pytest.importorskip("mlflow.server", reason="not installed: mlflow (`make test-all` installs it)")
    folder, port = tmp_path_factory.mktemp("server"), free_port()
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")} | quiet
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/runs.db", "--artifacts-destination", str(folder / "files")]
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
        )
    try:
        until = time.monotonic() + 300
        while not answers(f"http://127.0.0.1:{port}/health"):
            assert process.poll() is None and time.monotonic() < until, (folder / "log").read_text()  # noqa: PT018
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def answers(url: str) -> bool:
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=5):
            return True
    except OSError:
        return False


@pytest.fixture
def client(address: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    for name in [name for name in os.environ if name.lower().endswith("_proxy") or name.startswith("MLFLOW_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow import MlflowClient

    return MlflowClient(address)


@pytest.mark.slow
def test_a_stored_run_reads_back_from_the_server(client: Any, address: str, tmp_path: Path, run_cli: Any):
    save_audit(synthetic.audit(), tmp_path / "run")
    held = open_run(tmp_path / "run")
    uri = address.replace("http://", f"http://me:{SECRET}@")
    options = ("--experiment", "read back", "--run-name", "first")
    done = run_cli("export", tmp_path / "run", "--format", "mlflow", "--uri", uri, *options, "--json")
    assert done.returncode == 0, done.stderr
    assert SECRET not in done.stdout + done.stderr
    logged = json.loads(done.stdout)
    run, fields = client.get_run(logged["run_id"]), collect(held)
    assert (run.info.status, run.info.run_name) == ("FINISHED", "first")
    assert client.get_experiment(run.info.experiment_id).name == "read back"
    assert run.data.metrics == dict(fields.metrics)
    assert run.data.params == dict(fields.parameters)
    own = {key: text for key, text in run.data.tags.items() if key.startswith("assay.")}
    assert own == {key: text for key, text in fields.tags.items() if key.startswith("assay.")}
    assert run.data.tags["mlflow.note.content"] == fields.description
    files = Path(client.download_artifacts(run.info.run_id, "", str(tmp_path)))
    assert (files / "audit.json").read_text() == to_json(held) + "\n"
    assert "assay report" in (files / "report.html").read_text(encoding="utf-8")
    held.export(tmp_path / "tables", "csv")
    for file in sorted((tmp_path / "tables").rglob("*.*")):
        assert (files / "tables" / file.relative_to(tmp_path / "tables")).read_bytes() == file.read_bytes()


@pytest.mark.slow
def test_the_server_takes_hostile_audits_whole(client: Any, address: str):
    audit = hostile.audit()
    logged = log_audit(audit, tracking_uri=address, artifacts=("json", "csv", "safetensors"), run_name="☃\u202e")
    run, fields = client.get_run(logged.run_id), collect(audit)
    assert logged.experiment == tracking.EXPERIMENT
    assert run.data.metrics == dict(fields.metrics)
    assert run.data.params == dict(fields.parameters)
    assert {key: run.data.tags[key] for key in fields.tags} == dict(fields.tags)
    assert {each.path for each in client.list_artifacts(logged.run_id)} == {
        "audit.json",
        "tables",
        "arrays.safetensors",
    }


@pytest.mark.slow
def test_a_run_of_the_users_is_filled_and_left_open(client: Any, address: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    mine = client.create_run(client.create_experiment("mine"))
    logged = log_audit(synthetic.audit(), run_id=mine.info.run_id, artifacts=())
    run = client.get_run(mine.info.run_id)
    assert (logged.run_id, logged.experiment_id) == (mine.info.run_id, mine.info.experiment_id)
    assert run.info.status == "RUNNING"
    assert run.data.metrics == dict(collect(synthetic.audit()).metrics)


@pytest.mark.slow
def test_a_deleted_experiment_is_told(client: Any, address: str):
    client.delete_experiment(client.create_experiment("gone"))
    with pytest.raises(UsageError, match="'gone' has been deleted"):
        log_audit(synthetic.audit(), tracking_uri=address, experiment="gone")


@pytest.mark.slow
def test_a_server_that_does_not_answer(tmp_path: Path, run_cli: Any):
    pytest.importorskip("mlflow", reason="not installed: mlflow (`make test-all` installs it)")
    save_audit(synthetic.audit(), tmp_path / "run")
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    uri = f"http://me:{SECRET}@127.0.0.1:{free_port()}"
    for flags in ((), ("--debug",)):
        done = run_cli("export", tmp_path / "run", "--format", "mlflow", "--uri", uri, *flags)
        assert done.returncode == 3
        assert "error: The tracking server cannot be used: it does not answer." in done.stderr
        assert SECRET not in done.stdout + done.stderr
        assert done.stdout == ""
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before
