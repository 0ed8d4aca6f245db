"""The gate of the examples, run as a build would run it: open for the good model, closed for a degraded one."""

import os
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from xml.etree import ElementTree

import pytest

GATE = Path(__file__).resolve().parents[2] / "examples" / "ci_gate"


def gate(out: str, model: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", str(GATE / "gate.sh"), out, model, "--arch", "demo", "--data", "demo"], cwd=folder, text=True,
        capture_output=True, check=False, timeout=900,
        env=os.environ | {"ASSAY": f"{sys.executable} -m assay", "NO_COLOR": "1"} | environment,
    )  # fmt: skip


def outcomes(folder: Path) -> dict[str, list[str]]:
    """Tags inside each test case of the JUnit file, by name."""
    root = ElementTree.parse(folder / "junit.xml").getroot()
    return {str(case.get("name")): [child.tag for child in case] for case in root.iter("testcase")}


@pytest.mark.slow
def test_the_gate_opens_for_a_good_model_and_closes_for_one_of_three_bits(tmp_path: Path):
    (tmp_path / "good.safetensors").write_bytes((files("assay.data") / "digits.safetensors").read_bytes())
    subprocess.run(
        [sys.executable, str(GATE / "degrade.py"), "good.safetensors", "bad.safetensors", "--bits", "3"],
        cwd=tmp_path, check=True,
    )  # fmt: skip

    good = gate("good", "good.safetensors", tmp_path)
    assert good.returncode == 0, good.stdout + good.stderr
    found = outcomes(tmp_path / "good")
    assert set(map(tuple, found.values())) == {("system-out",)}
    assert "all passed" in (tmp_path / "good" / "comment.md").read_text(encoding="utf-8")
    assert (tmp_path / "good" / "run" / "report.html").is_file()
    assert not (tmp_path / "good" / "compare").exists()

    bad = gate("bad", "bad.safetensors", tmp_path, BASELINE="good/run")
    assert bad.returncode == 1, bad.stdout + bad.stderr
    found = outcomes(tmp_path / "bad")
    assert found["accuracy"] == found["decisions under noise"] == ["failure"]
    assert found["sensitivity.bits.max <= 8"] == ["system-out"]
    root = ElementTree.parse(tmp_path / "bad" / "junit.xml").getroot()
    assert root.get("failures") == "2"
    assert "Worse: clean accuracy" in bad.stdout.replace("\n", " ")
    assert (tmp_path / "bad" / "compare" / "report.html").is_file()

    again = gate("again", "good.safetensors", tmp_path, BASELINE="good/run")
    assert again.returncode == 0, again.stdout + again.stderr


def test_a_gate_that_cannot_work_says_so(tmp_path: Path):
    done = gate("out", "absent.safetensors", tmp_path)
    assert done.returncode in (2, 3)
    assert "absent.safetensors" in done.stderr
    assert not (tmp_path / "out" / "junit.xml").exists()
