"""Filtering through the command line, as a process of its own: runs, stops, goes on, and is checked."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from assay.store import open_run

SMALL = ("--only", "filtering", "--limit", "60", "--filtering.n", "5", "--filtering.draws", "50")


def assay(*arguments: str | Path, cwd: Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "assay", *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)
    assert not check or done.returncode == 0, done.stderr
    return done


def test_audit_of_one_analysis_with_json(tmp_path: Path):
    done = assay("audit", "demo", *SMALL, "-o", "run", "--json", cwd=tmp_path)
    document = json.loads(done.stdout)
    assert list(document["results"]) == ["filtering"]
    units = open_run(tmp_path / "run").results["filtering"].tables["units"]
    assert [row[1] for row in units.rows] == ["first.weight", "second.weight", "third.weight", "head.weight"]
    assert (tmp_path / "run" / "report.html").stat().st_size < 300_000


@pytest.mark.slow
def test_workers_change_nothing_and_a_killed_run_goes_on(tmp_path: Path):
    assay("audit", "demo", *SMALL, "-o", "alone", "-q", cwd=tmp_path)
    command = [sys.executable, "-m", "assay", "audit", "demo", *SMALL, "--filtering.workers", "2", "-o", "two", "-q"]
    process = subprocess.Popen(command, cwd=tmp_path, start_new_session=True, stderr=subprocess.DEVNULL)
    begun = time.monotonic()
    while not list((tmp_path / "two").glob("sweeps/*/outcomes/*/*.safetensors")):
        assert time.monotonic() - begun < 120, "no piece was finished"
        assert process.poll() is None or list((tmp_path / "two").glob("sweeps/*/manifest.json"))
        if process.poll() is not None:
            break
        time.sleep(0.02)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assay("resume", "two", "-q", cwd=tmp_path)
    first, second = (open_run(tmp_path / name).results["filtering"] for name in ("alone", "two"))
    assert first.tables == second.tables
    assert first.findings == second.findings
    for name in first.arrays:
        assert (first.arrays[name] == second.arrays[name]).all()
    assert "intact" in assay("verify", "two", cwd=tmp_path).stdout


@pytest.mark.slow
def test_one_flipped_byte_is_found(tmp_path: Path):
    assay("audit", "demo", *SMALL, "--filtering.attack", "none", "-o", "run", "-q", cwd=tmp_path)
    path = next((tmp_path / "run").glob("sweeps/*/outcomes-0000.safetensors"))
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    done = assay("verify", "run", cwd=tmp_path, check=False)
    assert done.returncode == 3
    assert "outcomes-0000.safetensors" in done.stdout


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--filtering.n", "4"), "odd"),
        (("--filtering.include", "nothing.here"), "nothing.here"),
        (("--filtering.epsilon", "-1"), "epsilon"),
        (("--filtering.faithful", "--filtering.n", "9"), "faithful"),
    ],
)
def test_wrong_flags(tmp_path: Path, flags: tuple[str, ...], said: str):
    done = assay("audit", "demo", "--only", "filtering", "--limit", "20", *flags, "-o", "r", cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_regression_is_examined_on_clean_data(tmp_path: Path):
    assay("audit", "demo:regression", *SMALL, "-o", "run", "-q", cwd=tmp_path)
    result = open_run(tmp_path / "run").results["filtering"]
    assert any("clean data alone" in warning for warning in result.warnings)
    assert "adversarial" not in [column.name for column in result.tables["units"].columns]
