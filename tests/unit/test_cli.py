"""The command line when all goes well: help, settings, what lies in the run directory, what goes to which stream."""

import io
import json
import os
import subprocess
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
import tomlkit
from tests.support.quick import QUICK

from assay.cli import job, main, streams
from assay.cli.failures import flag_of
from assay.cli.program import verbs
from assay.cli.request import exit_code
from assay.config import AuditConfig, read_config
from assay.filtering.config import FAITHFUL
from assay.results import Audit, Finding, Result, Status
from assay.store import open_run

FAST = (
    *("--data", "demo", "--limit", "8", "--moments.inputs", "2", "--moments.check", "20", "--moments.maps", "0"),
    *("--moments.sigmas", "0.05", "--sensitivity.inputs", "2", "--sensitivity.random-directions", "4"),
    *("--sensitivity.attack-steps", "2", "--sensitivity.relative-sizes", "0.001"),
    *QUICK,
)
NETS = """
import torch
from torch import nn

class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(64, 10)
    def forward(self, x):
        x = x.flatten(1)
        if x.sum() > 0:
            x = 1.5 * x
        return self.head(x)

class Product(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(64, 10)
    def forward(self, x):
        return self.head(torch.cumprod(x.flatten(1) + 0.5, 1))

def branching():
    print("made by a factory")
    return Branching().eval()

def product():
    return Product().eval()
"""


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.delenv("ASSAY_DEBUG", raising=False)


@pytest.fixture
def configured(monkeypatch: pytest.MonkeyPatch):
    """A function (*arguments) -> the configuration that `assay audit demo` would run with."""
    seen: list[AuditConfig] = []

    def perform(load: Any, directory: Path, config: AuditConfig, **rest: Any) -> Audit:
        seen.append(config)
        return Audit({}, {})

    monkeypatch.setattr(job, "perform", perform)

    def configure(*arguments: str) -> AuditConfig:
        assert main(["audit", "demo", *arguments]) == 0
        return seen[-1]

    return configure


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> types.SimpleNamespace:
    """A small audit of the demo, run once through `main`: exit code, what was printed, and the directory."""
    folder = tmp_path_factory.mktemp("finished")
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        patch.setenv("COLUMNS", "120")
        code = main(["audit", "demo", *FAST, "-o", str(folder / "run"), "--fail-on", "never"])
    return types.SimpleNamespace(code=code, out=out.getvalue(), err=err.getvalue(), directory=folder / "run")


def fields() -> list[tuple[str, str]]:
    return [
        (section, name)
        for section, field in AuditConfig.model_fields.items()
        for name in field.annotation.model_fields  # type: ignore[union-attr]
    ]


LEGAL = {
    ("filtering", "n"): 27,  # odd
    ("filtering", "replacements"): ("rerandomise",),
    ("filtering", "include"): ("layer1.*",),
    ("filtering", "exclude"): ("head",),
    ("filtering", "epsilon"): 0.5,
}


def other_value(section: str, name: str) -> Any:
    """A legal value that is not the default."""
    if (section, name) in LEGAL:
        return LEGAL[section, name]
    field = AuditConfig.model_fields[section].annotation.model_fields[name]  # type: ignore[union-attr]
    kind, default = field.annotation, field.default
    if get_args(kind) and all(isinstance(choice, str) for choice in get_args(kind)):
        return next(choice for choice in get_args(kind) if choice != default)
    if isinstance(default, bool):
        return not default
    if default is None or isinstance(default, int):
        return (default or 6) + 1
    if get_origin(kind) is not tuple:
        return 0.99 * default
    return default[1:] if isinstance(default[0], str) else tuple(0.99 * value for value in default)


def tokens(value: Any) -> list[str]:
    if isinstance(value, bool):
        return []
    return [str(each) for each in value] if isinstance(value, tuple) else [str(value)]


def nothing_but_text(text: str) -> bool:
    return "\x1b" not in text and "Traceback" not in text


@pytest.mark.parametrize("verb", verbs())
def test_every_verb_explains_itself(verb: str, capsys: pytest.CaptureFixture[str]):
    assert main([verb, "--help"]) == 0
    shown = capsys.readouterr()
    assert verbs()[verb]
    assert verbs()[verb] in shown.out
    assert f"assay {verb}" in shown.out
    assert shown.err == ""


def test_help_lists_every_verb_and_option(capsys: pytest.CaptureFixture[str]):
    assert main([]) == main(["--help"]) == main(["-h"]) == 0
    overview = capsys.readouterr().out
    assert all(verb in overview for verb in verbs())
    assert "Exit codes" in overview
    main(["audit", "--help"])
    details = capsys.readouterr().out
    words = {
        "--data",
        "--only",
        "--output -o",
        "--config",
        "--weights",
        "--arch",
        "--trust",
        "--preprocess",
        "--bounds",
    }
    words |= {
        "--channel-order",
        "--classes",
        "--task",
        "--limit",
        "--strict",
        "--fail-on",
        "--json",
        "--quiet",
        "--seed",
    }
    words |= {"Moments:", "Sensitivity:", "[default: 0.02 0.05 0.1]"}
    assert not {word for word in words if word not in details}
    assert "--no-" not in details
    assert "--empty-" not in details


def test_help_needs_no_torch():
    code = "import sys; from assay.cli import main; assert main(['--help']) == 0; assert main(['--version']) == 0\n"
    code += "print(sorted({name.split('.')[0] for name in sys.modules} & {'torch', 'numpy', 'scipy', 'matplotlib'}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_package_offers_its_public_names():
    import assay

    assert {"load_subject", "load_data", "audit", "open_run", "Subject", "Data", "Preprocessing"} <= set(assay.__all__)
    for name in assay.__all__:
        assert getattr(assay, name) is not None
    from assay.audit import ANALYSES

    assert callable(assay.audit)  # also after the module of the same name was imported
    assert set(ANALYSES) == set(AuditConfig.model_fields)
    with pytest.raises(AttributeError, match="nonsense"):
        _ = assay.nonsense


@pytest.mark.parametrize(("section", "name"), fields())
def test_flag_and_toml_mean_the_same(section: str, name: str, configured, tmp_path: Path):
    value = other_value(section, name)
    by_flag = configured(flag_of((section, name)), *tokens(value))
    file = tmp_path / "settings.toml"
    file.write_text(tomlkit.dumps({section: {name: value}}), encoding="utf-8")
    by_file = configured("--config", str(file))
    assert by_flag == by_file
    assert getattr(getattr(by_flag, section), name) == value
    untouched = by_flag.model_dump()
    for changed in (name, *(FAITHFUL if name == "faithful" else ())):  # a preset sets others along
        untouched[section][changed] = AuditConfig().model_dump()[section][changed]
    assert untouched == AuditConfig().model_dump()


def test_values_may_be_separated_by_commas(configured):
    assert configured("--moments.sigmas", "0.1,0.2").moments.sigmas == (0.1, 0.2)
    assert configured("--moments.sigmas", "0.1, 0.2", "0.3").moments.sigmas == (0.1, 0.2, 0.3)


def test_flags_override_the_file(configured, tmp_path: Path):
    file = tmp_path / "settings.toml"
    file.write_text("[moments]\nrank = 5\ninputs = 6\nseed = 3\n[sensitivity]\nseed = 4\n", encoding="utf-8")
    config = configured("--config", str(file), "--moments.rank", "9")
    assert (config.moments.rank, config.moments.inputs, config.moments.seed, config.sensitivity.seed) == (9, 6, 3, 4)
    config = configured("--config", str(file), "--seed", "7", "--sensitivity.seed", "8")
    assert (config.moments.seed, config.sensitivity.seed) == (7, 8)


def test_a_flag_equal_to_the_default_still_overrides_the_file(configured, tmp_path: Path):
    file = tmp_path / "settings.toml"
    file.write_text("[moments]\nrank = 5\n", encoding="utf-8")
    assert configured("--config", str(file), "--moments.rank", "32").moments.rank == 32


def test_strict_forbids_fallbacks(configured, tmp_path: Path):
    file = tmp_path / "settings.toml"
    file.write_text('[moments]\nfallback = "sample"\n', encoding="utf-8")
    assert configured("--config", str(file)).moments.fallback == "sample"
    assert configured("--config", str(file), "--strict").moments.fallback == "error"


def test_an_audit_leaves_a_complete_directory(finished):
    assert finished.code == 0
    assert {"run.json", "report.html", "config.toml", "results"} <= {each.name for each in finished.directory.iterdir()}
    run = open_run(finished.directory)
    assert list(run.results) == ["moments", "sensitivity", "filtering", "boundary", "smoothness"]
    assert not run.left_out
    config = read_config(finished.directory / "config.toml")
    assert (config.moments.inputs, config.sensitivity.attack_steps) == (2, 2)


def test_the_result_goes_to_stdout_and_the_plan_to_stderr(finished):
    assert f"Report: {finished.directory / 'report.html'}" in finished.out
    assert "Plan for demo" in finished.err
    assert "moments: " in finished.err
    assert "Plan" not in finished.out
    assert nothing_but_text(finished.out + finished.err)


def test_report_makes_the_same_page_again(finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    again = tmp_path / "again.html"
    assert main(["report", str(finished.directory), "-o", str(again)]) == 0
    assert again.read_bytes() == (finished.directory / "report.html").read_bytes()
    assert f"Report: {again}" in capsys.readouterr().out


def test_json_is_one_document(finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    page = tmp_path / "page.html"
    assert main(["report", str(finished.directory), "--json", "-o", str(page)]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["format"] == "assay-audit"
    assert (document["directory"], document["report"]) == (str(finished.directory), str(page))
    assert set(document["results"]) == {"moments", "sensitivity", "filtering", "boundary", "smoothness"}


def test_quiet_prints_nothing(finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["report", str(finished.directory), "-q", "-o", str(tmp_path / "page.html")]) == 0
    assert main(["audit", "demo", *FAST, "--only", "sensitivity", "-q", "--fail-on", "never"]) == 0
    assert capsys.readouterr() == ("", "")


def test_directories_are_not_overwritten_unasked():
    assert job.fresh_directory("runs") == Path("runs")
    Path("runs").mkdir()
    Path("runs-2").touch()
    assert job.fresh_directory("runs") == Path("runs-3")


@pytest.mark.parametrize("worst", list(Status))
def test_exit_code_follows_fail_on(worst: Status):
    findings = (Finding("rule", Status.PASS, "Fine."), Finding("rule", worst, "Something."))
    run = Audit({}, {"moments": Result("moments", "", "", findings=findings)})
    expected = {"warn": worst is not Status.PASS, "fail": worst in (Status.FAIL, Status.ERROR)}
    expected |= {"error": worst is Status.ERROR, "never": False}
    assert {level: bool(exit_code(run, level)) for level in expected} == expected


def test_findings_set_the_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    flags = ("--only", "sensitivity", "-q", "--sensitivity.ill-conditioned-above", "0.001")
    code = main(["audit", "demo", *FAST, *flags, "-o", "strict", "--fail-on", "warn"])
    assert open_run("strict").status is not Status.PASS
    assert code == 1


def test_demo_audits_the_built_in_network(monkeypatch: pytest.MonkeyPatch):
    seen: list[Mapping[str, Any]] = []
    monkeypatch.setattr(job, "perform", lambda asked, directory, config, **rest: seen.append(locals()))
    assert main(["demo"]) == 0
    assert main(["demo", "-o", "elsewhere"]) == 0
    subject = seen[0]["asked"].load()
    assert (subject.name, len(subject.data), subject.output_count) == ("demo", 500, 10)
    assert [str(each["directory"]) for each in seen] == ["assay-demo", "elsewhere"]
    assert seen[0]["config"] == AuditConfig()


@pytest.mark.slow
def test_demo_from_the_shell(run_cli, tmp_path: Path):
    done = run_cli("demo")
    assert done.returncode == 0, done.stderr
    assert "Report: assay-demo/report.html" in done.stdout
    assert set(open_run(tmp_path / "assay-demo").results) == {
        "moments",
        "sensitivity",
        "filtering",
        "boundary",
        "smoothness",
    }
    assert nothing_but_text(done.stdout + done.stderr)


def test_what_a_factory_prints_stays_out_of_the_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    Path("nets.py").write_text(NETS, encoding="utf-8")
    arguments = [
        "audit",
        "nets.py:branching",
        "--trust",
        *FAST,
        "--only",
        "sensitivity",
        "--json",
        "--fail-on",
        "never",
    ]
    assert main(arguments) == 0
    shown = capsys.readouterr()
    document = json.loads(shown.out)
    assert document["subject"]["trusted"] == ["factory nets.py:branching"]
    assert document["directory"] == "assay-audit"
    assert "made by a factory" in shown.err


def test_doctor_shows_operators_and_versions(capsys: pytest.CaptureFixture[str]):
    from torch import nn

    from assay.load.demo import demo_model

    parameters = sum(each.numel() for each in demo_model().parameters())
    convolutions = sum(isinstance(each, nn.Conv2d) for each in demo_model().modules())
    assert main(["doctor", "demo"]) == 0
    text = capsys.readouterr().out
    words = (f"{parameters:,}", "Captured", "conv", "closed_form", "every layer has a rule", "torch")
    assert not [word for word in words if word not in text]
    assert main(["doctor", "demo", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["capture"]["captured"] is True
    assert found["approximated"] == {"moments": []}
    assert {"operator": "conv", "count": convolutions, "moments": "exact"} in found["operators"]
    assert found["model"]["parameters"] == parameters


def test_doctor_names_what_would_be_approximated(capsys: pytest.CaptureFixture[str]):
    Path("nets.py").write_text(NETS, encoding="utf-8")
    assert main(["doctor", "nets.py:product", "--trust", "--data", "demo", "--limit", "4"]) == 0
    text = capsys.readouterr().out
    assert "no rule: approximated" in text
    assert "cumprod" in text.partition("--strict would refuse")[2]


def test_doctor_works_where_capture_fails(capsys: pytest.CaptureFixture[str]):
    Path("nets.py").write_text(NETS, encoding="utf-8")
    assert main(["doctor", "nets.py:branching", "--trust", "--data", "demo", "--limit", "4", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    line = NETS.splitlines().index("        if x.sum() > 0:") + 1
    assert found["capture"]["captured"] is False
    assert found["capture"]["where"].endswith(f"nets.py:{line}")
    assert "control flow" in found["capture"]["reason"]
    assert found["versions"]["torch"]


def test_doctor_works_without_data(capsys: pytest.CaptureFixture[str]):
    Path("nets.py").write_text(NETS, encoding="utf-8")
    assert main(["doctor", "nets.py:product", "--trust"]) == 0
    text = capsys.readouterr().out
    assert "Not captured" in text
    assert "example" in text


def test_text_fits_an_ascii_terminal(finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    raw = io.BytesIO()
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    assert main(["report", str(finished.directory), "-o", str(tmp_path / "page.html")]) == 0
    sys.stdout.flush()
    text = raw.getvalue().decode("ascii")
    assert "kappa" in text
    assert max(map(len, text.split("Report:")[0].splitlines())) <= 60  # transliterations are a little longer
    assert sys.stdout.errors == "strict"


def test_no_color_is_respected(finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    arguments = ["report", str(finished.directory), "-o", str(tmp_path / "page.html")]
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    main(arguments)
    assert "\x1b[36m" in capsys.readouterr().out  # the grade, in cyan
    monkeypatch.setenv("NO_COLOR", "1")
    main(arguments)
    assert "\x1b[3" not in capsys.readouterr().out


def test_progress_is_for_terminals(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    with streams.progress() as show:
        assert show is None  # a captured stream is no terminal
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with streams.progress() as show:
        assert show is not None
        show(1, 4, "sampling [bold]")
        show(4, 4, "sampling [bold]")
        show(1, 9, "attack")
    shown = capsys.readouterr()
    assert "sampling [bold]" in shown.err
    assert "1/9" in shown.err
    assert shown.out == ""
    with streams.progress(quiet=True) as show:
        assert show is None


@pytest.mark.skipif(os.name != "posix", reason="pipes end differently elsewhere")
def test_a_reader_that_goes_away_is_no_error(run_cli):
    reading, writing = os.pipe()
    os.close(reading)
    paths = os.pathsep.join(path for path in (str(Path(job.__file__).parents[2]), os.environ.get("PYTHONPATH")) if path)
    environment = os.environ | {"PYTHONPATH": paths}
    done = subprocess.run(
        [sys.executable, "-m", "assay", "--help"], stdout=writing, stderr=subprocess.PIPE, env=environment, check=False
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")
