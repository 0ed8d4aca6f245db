"""The example package in examples/: built and installed without a network, used by the verbs, removed again."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from assay.store import open_run

PROJECT = Path(__file__).resolve().parents[2]
EXAMPLE = PROJECT / "examples" / "assay-plugin-example"
NETWORK = ("assay_plugin_example.network:make", "--trust", "--data", "demo", "--limit", "12")


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package in it, as pip puts it there."""
    pytest.importorskip("hatchling", reason="the extra `dev` has it")
    folder = tmp_path_factory.mktemp("example")
    source = shutil.copytree(EXAMPLE, folder / "source", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index"]
    command += ["--no-deps", "--no-build-isolation", "--target", str(folder / "site"), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "site"


@pytest.fixture
def run(installed: Path, run_cli, tmp_path: Path):
    """A function (*arguments) that runs assay with the package on its path; `without` it, as after uninstalling."""

    def call(*arguments: str, without: bool = False, code: int = 0) -> SimpleNamespace:
        env = {} if without else {"PYTHONPATH": os.pathsep.join([str(PROJECT / "src"), str(installed)])}
        done = run_cli(*arguments, env=env)
        assert done.returncode == code, done.stderr + done.stdout
        return done

    return call


def test_the_analysis_by_flags_and_by_file(run, tmp_path: Path):
    (tmp_path / "settings.toml").write_text("[occlusion]\npatch = 3\nflips_above = 0.9\n", encoding="utf-8")
    flags = ("--config", "settings.toml", "--occlusion.flips-above", "0.0")
    shown = run("audit", *NETWORK, "--only", "occlusion", *flags, "-o", "run", "--fail-on", "warn", code=1)
    assert "36 places of a square of 3 pixels on 12 pictures" in shown.stderr
    audit = open_run(tmp_path / "run")
    result = audit.results["occlusion"]
    assert result.provenance is not None
    assert dict(result.provenance.config) | {"patch": 3, "flips_above": 0.0} == dict(result.provenance.config)
    assert result.provenance.versions["plug-in assay-plugin-example"] == "0.1.0"
    assert audit.nodes is not None
    assert audit.nodes.column("operator").count("dead_zone") == 3
    assert "Occlusion" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "intact" in run("verify", "run", without=True).stdout
    run("export", "run", "--format", "annotations", "-o", "findings.txt")
    assert (tmp_path / "findings.txt").read_text(encoding="utf-8").startswith("::warning title=occlusion.flips::One ")


@pytest.mark.slow
def test_resumed_with_and_without_the_package(run, tmp_path: Path):
    run("audit", *NETWORK, "--only", "occlusion,sensitivity", "-o", "run", "-q", "--fail-on", "never")
    before = {path: path.read_bytes() for path in (tmp_path / "run" / "results").iterdir()}
    run("resume", "run", "--trust", "-q")
    assert {path: path.read_bytes() for path in (tmp_path / "run" / "results").iterdir()} == before
    refused = run("resume", "run", "--trust", without=True, code=2).stderr
    assert "occlusion" in refused
    for arguments in (("verify", "run"), ("report", "run", "-q"), ("compare", "run", "run", "-q")):
        run(*arguments, without=True)
    told = run("audit", "demo", "--only", "occlusion", "--no-plugins", code=2).stderr
    assert "There is no analysis 'occlusion'" in told
    assert "ASSAY_NO_PLUGINS" in told
    assert "--occlusion.patch" in run("audit", "--help").stdout
    assert "--occlusion.patch" not in run("audit", "--help", "--no-plugins").stdout
    planned = run("plan", *NETWORK, "--only", "occlusion", "--json").stdout
    assert "occlusion" in json.dumps(json.loads(planned))


@pytest.mark.slow
def test_the_operator_has_a_rule_and_kinks(run, tmp_path: Path):
    found = json.loads(run("doctor", *NETWORK, "--json").stdout)
    listed = {each["operator"]: each for each in found["operators"]}
    assert listed["dead_zone"]["count"] == 3
    assert listed["dead_zone"]["moments"] == "closed_form"
    assert "dead_zone" not in json.dumps(found["approximated"])
    few = ("--smoothness.effort", "quick", "--moments.effort", "quick", "--fail-on", "never", "--strict")
    run("audit", *NETWORK, "--only", "moments,smoothness", *few, "-o", "run", "-q")
    audit = open_run(tmp_path / "run")
    assert set(audit.results) == {"moments", "smoothness"}
    for result in audit.results.values():
        assert result.provenance is not None
        assert result.provenance.versions["plug-in assay-plugin-example"] == "0.1.0"


@pytest.mark.slow
def test_its_own_tests_pass(installed: Path):
    path = os.pathsep.join([str(PROJECT / "src"), str(installed)])
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(EXAMPLE / "tests")]
    done = subprocess.run(
        [*command, "-c", os.devnull, f"--rootdir={EXAMPLE}"],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
