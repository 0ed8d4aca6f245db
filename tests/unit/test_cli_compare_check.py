"""`assay compare` and `assay check` as they are typed: exit codes, files, what goes to which stream."""

import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from tests.support.comparing import measured

from assay.cli import main
from assay.results import Audit
from assay.store import open_run
from assay.store.checksums import write_checksums

QUICK = ("--resamples", "999")


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """Two runs, the second of which is worse in one quantity."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    x = np.random.default_rng(0).lognormal(size=30)
    for name, factor in (("good", 1.0), ("bad", 1.3)):
        run = measured({"kappa": (factor * x).tolist()}, layers={"conv": 1.0, "head": factor})
        run.save(tmp_path / name)
    return "good", "bad"


def test_compare_as_a_process(runs: tuple[str, str], run_cli, capsys: pytest.CaptureFixture[str]):
    done = run_cli("compare", *runs, "-o", "found", "--fail-on", "worse", *QUICK)
    assert done.returncode == 1, done.stderr
    assert "Worse: median kappa" in done.stdout.replace("\n", " ")
    assert "Report: found/report.html" in done.stdout
    assert done.stderr == ""
    assert "Before and after" in Path("found/report.html").read_text(encoding="utf-8")
    assert main(["verify", "found"]) == 0
    Path("found/report.html").write_text("changed", encoding="utf-8")
    assert main(["verify", "found"]) == 3
    assert main(["report", "found", "-q"]) == 0
    assert main(["verify", "found"]) == 0
    capsys.readouterr()


def test_compare_never_fails_unless_asked(runs: tuple[str, str], capsys: pytest.CaptureFixture[str]):
    assert main(["compare", *runs, *QUICK, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["results"]["compare"]["summary"]["worse"]["value"] == 1
    assert document["directory"] == "assay-compare"
    # the other way round it is better
    assert main(["compare", "bad", "good", *QUICK, "-q", "--fail-on", "worse"]) == 0
    assert Path("assay-compare-2").is_dir()


def test_comparisons_can_be_checked(runs: tuple[str, str], capsys: pytest.CaptureFixture[str]):
    main(["compare", *runs, *QUICK, "-q", "-o", "found"])
    assert main(["check", "found", "--rule", "compare.worse <= 1"]) == 0
    assert main(["check", "found", "--rule", "compare.worse == 0"]) == 1
    assert main(["check", "found", "--rule", "compare.quantities.change[quantity=kappa] <= 0.2"]) == 1
    capsys.readouterr()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["compare", "good"], 2, "missing"),
        (["compare", "good", "nowhere"], 3, "no run"),
        (["compare", "good", "other"], 2, "no analysis in common"),
        (["compare", "good", "bad", "-o", "good"], 2, "would replace"),
        (["compare", "good", "bad", "--fail-on", "better"], 2, "better"),
        (["compare", "good", "bad", "--level", "2"], 2, "level"),
        (["check", "good"], 2, "nothing to check"),
        (["check", "nowhere", "--rule", "probe.kappa < 1"], 3, "no run"),
        (["check", "good", "--rule", "probe.kapa < 1"], 2, "Did you mean kappa"),
        (["check", "good", "--rule", "kappa"], 2, "no rule"),
        (["check", "good", "--require", "absent.toml"], 2, "cannot be read"),
    ],
)
def test_mistakes_are_explained(runs, arguments: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]):
    other = measured({"a": [1.0] * 6}).results["probe"]
    Audit({}, {"other": type(other)("other", "", "")}).save("other")
    before = sorted(path.read_bytes() for path in Path("good").rglob("*") if path.is_file())
    assert main(arguments) == code
    captured = capsys.readouterr()
    assert said in captured.err.replace("\n", " ")
    assert "Traceback" not in captured.err
    assert captured.out == ""
    assert before == sorted(path.read_bytes() for path in Path("good").rglob("*") if path.is_file())


def test_damaged_runs_are_refused(runs: tuple[str, str], capsys: pytest.CaptureFixture[str]):
    write_checksums(Path("bad"))
    (Path("bad") / "results" / "probe.json").write_bytes(b"{}")
    assert main(["compare", *runs]) == 3
    assert main(["check", "bad", "--rule", "probe.kappa < 1"]) == 3
    capsys.readouterr()
    assert not Path("assay-compare").exists()


def test_check_as_a_process(runs: tuple[str, str], run_cli):
    Path("rules.toml").write_text(
        'require = ["probe.kappa.max <= 1e9"]\n[[rule]]\ntext = "probe.kappa < 1e-9"\nname = "tiny"\n', encoding="utf-8"
    )
    done = run_cli("check", "good", "--require", "rules.toml", "--junit", "out/j.xml", "--markdown", "out/c.md")
    assert done.returncode == 1, done.stderr
    assert done.stdout.startswith("PASS  probe.kappa.max <= 1e+09")
    assert "1 of 2 rules met" in done.stdout
    root = ElementTree.parse("out/j.xml").getroot()
    assert (root.get("tests"), root.get("failures")) == ("2", "1")
    assert "2 rules: 1 failed" in Path("out/c.md").read_text(encoding="utf-8")


def test_check_as_json(runs: tuple[str, str], capsys: pytest.CaptureFixture[str]):
    assert main(["check", "good", "--rule", "probe.kappa < 1e-9", "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["format"] == "assay-check"
    assert document["passed"] is False
    (outcome,) = document["outcomes"]
    assert outcome["status"] == "fail"
    assert outcome["grade"] == "linearised"


def test_a_rule_that_warns_does_not_fail(runs: tuple[str, str], capsys: pytest.CaptureFixture[str]):
    Path("rules.toml").write_text('[[rule]]\ntext = "probe.kappa < 0"\nseverity = "warn"\n', encoding="utf-8")
    assert main(["check", "good", "--require", "rules.toml"]) == 0
    assert "WARN" in capsys.readouterr().out


def test_the_list_shows_what_can_be_named(runs: tuple[str, str], capsys: pytest.CaptureFixture[str]):
    assert main(["check", "good", "--list"]) == 0
    text = capsys.readouterr().out
    value = open_run("good").results["probe"].summary["kappa"].value
    assert f"probe.kappa  {value:.4g}" in text
    assert "probe.inputs.kappa  30 values" in text
    assert main(["check", "good", "--list", "--json"]) == 0
    paths = [entry["path"] for entry in json.loads(capsys.readouterr().out)["paths"]]
    assert "probe.layers.gain" in paths
