"""Presets, plans, configuration files, verbs of single analyses and completion, through the command line."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tomlkit

from assay.analyses import BUILT_IN
from assay.cli import job, main
from assay.cli.template import template
from assay.config import AuditConfig, read_config
from assay.presets import PRESETS
from assay.results import Audit
from assay.store import open_run

ANALYSES = tuple(BUILT_IN)


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.delenv("ASSAY_DEBUG", raising=False)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch):
    """A function (*arguments) -> what `job.perform` was asked for by that command line."""
    seen: list[dict[str, Any]] = []

    def perform(asked: Any, directory: Path, config: AuditConfig, **rest: Any) -> Audit:
        seen.append({"only": asked.only, "directory": directory, "config": config})
        return Audit({}, {})

    monkeypatch.setattr(job, "perform", perform)

    def ask(*arguments: str) -> dict[str, Any]:
        assert main(arguments) == 0
        return seen[-1]

    return ask


def efforts(config: AuditConfig) -> set[str]:
    return {getattr(config, name).effort for name in ANALYSES}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_sets_the_effort_of_every_analysis_and_says_what_it_costs(name: str, asked):
    preset = PRESETS[name]
    assert preset.name == name
    assert preset.cost.endswith(".")
    for arguments in (["audit", "demo"], ["demo"]):
        config = asked(*arguments, f"--{name}")["config"]
        assert config == preset.config()
        assert efforts(config) == {name}


def test_without_a_preset_it_is_standard(asked):
    config = asked("audit", "demo")["config"]
    assert config == AuditConfig()
    assert efforts(config) == {"standard"}
    assert not any(getattr(config, name).model_fields_set for name in ANALYSES)


def test_flags_and_files_override_single_values_of_a_preset(asked):
    Path("own.toml").write_text("[moments]\nrank = 5\n", encoding="utf-8")
    config = asked("audit", "demo", "--quick", "--config", "own.toml", "--boundary.effort", "thorough")["config"]
    assert (config.moments.effort, config.moments.rank, config.boundary.effort) == ("quick", 5, "thorough")
    assert config.moments.model_fields_set == {"effort", "rank"}


@pytest.mark.parametrize("verb", ["audit", "plan", "moments"])
def test_presets_exclude_each_other(verb: str, capsys: pytest.CaptureFixture[str]):
    assert main([verb, "demo", "--quick", "--thorough"]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("error: --quick and --thorough exclude each other.")


def test_a_preset_that_contradicts_the_file_is_refused(capsys: pytest.CaptureFixture[str]):
    Path("own.toml").write_text('[filtering]\neffort = "quick"\n', encoding="utf-8")
    assert main(["audit", "demo", "--thorough", "--config", "own.toml"]) == 2
    shown = capsys.readouterr().err
    assert "--thorough contradicts the file" in shown
    assert "filtering" in shown


SMALL = ("--limit", "6", "--smoothness.paths", "1", "--smoothness.samples", "9", "--smoothness.parts", "indices")


@pytest.mark.slow
def test_a_run_names_its_preset(run_cli, tmp_path: Path):
    done = run_cli("smoothness", "demo", "--data", "demo", *SMALL, "--quick", "-o", "run", "--json")
    assert done.returncode in (0, 1), done.stderr
    assert list(json.loads(done.stdout)["results"]) == ["smoothness"]
    provenance = open_run(tmp_path / "run").results["smoothness"].provenance
    assert provenance is not None
    assert provenance.config["effort"] == "quick"
    config = read_config(tmp_path / "run" / "config.toml")
    assert efforts(config) == {"quick"}
    assert config.smoothness.samples == 9


@pytest.mark.slow
def test_the_file_of_a_run_makes_it_again(run_cli, tmp_path: Path):
    done = run_cli("smoothness", "demo", "--limit", "20", "--quick", "-o", "run", "-q")
    options = ("--only", "smoothness", "--config", "run/config.toml", "-o", "again", "-q")
    again = run_cli("audit", "demo", "--limit", "20", *options)
    assert again.returncode == done.returncode, again.stderr
    first, second = (open_run(tmp_path / name).results["smoothness"] for name in ("run", "again"))
    assert first.tables == second.tables
    assert first.provenance is not None
    assert second.provenance is not None
    assert first.provenance.config == second.provenance.config


@pytest.mark.parametrize("name", ANALYSES)
def test_a_verb_of_one_analysis_runs_it_and_has_its_flags_alone(
    name: str, asked, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    found = asked(name, "demo", "--quick", f"--{name}.seed", "3")
    assert found["only"] == (name,)
    assert found["directory"] == Path(f"assay-{name}")
    assert getattr(found["config"], name).seed == 3
    assert main([name, "--help"]) == 0
    shown = capsys.readouterr().out
    assert [each for each in ANALYSES if f"--{each}.seed" in shown] == [name]
    assert all(flag in shown for flag in ("--data", "--quick", "--config", "--fail-on", "--output"))
    other = next(each for each in ANALYSES if each != name)
    assert main([name, "demo", f"--{other}.seed", "3"]) == 2
    assert main([name, "torchvision:resnet18"]) == 2
    assert "--data" in capsys.readouterr().err


def test_plan_says_what_it_costs_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["plan", "demo", "--quick", "--limit", "40", "--only", "moments,boundary", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["format"] == "assay-plan"
    assert document["grade"] == "estimate"
    assert [each["name"] for each in document["analyses"]] == ["moments", "boundary"]
    for each in document["analyses"]:
        assert each["operations"] > 0
        assert 0 < each["seconds"]["low"] < each["seconds"]["expected"] < each["seconds"]["high"]
    total = document["total"]
    parts = sum(each["seconds"]["expected"] for each in document["analyses"])
    assert total["seconds"]["expected"] == pytest.approx(parts)
    assert total["memory"] > max(each["memory"] for each in document["analyses"])
    assert list(tmp_path.iterdir()) == []


def test_plan_in_words(capsys: pytest.CaptureFixture[str]):
    assert main(["plan", "demo", "--thorough", "--only", "smoothness"]) == 0
    thorough = capsys.readouterr().out
    assert main(["plan", "demo", "--only", "smoothness"]) == 0
    standard = capsys.readouterr().out
    assert "16 paths of each kind" in thorough
    assert "4 paths of each kind" in standard
    assert "an estimate; nothing was written" in standard
    assert "all of it" in standard
    assert main(["plan", "demo:regression", "--only", "boundary"]) == 0
    assert "does not run" in capsys.readouterr().out


def test_plan_refuses_what_an_audit_refuses(capsys: pytest.CaptureFixture[str]):
    assert main(["plan", "demo", "--only", "nonsense"]) == 2
    assert "no analysis 'nonsense'" in capsys.readouterr().err
    assert main(["plan", "torchvision:resnet18"]) == 2
    assert "--data" in capsys.readouterr().err


def settings(text: str) -> list[str]:
    """The lines of a file that would be settings without their comment sign."""
    return [line for line in text.splitlines() if line.startswith("#") and line[1:2].isalpha()]


def test_the_written_file_changes_nothing_and_with_every_line_set_equals_the_defaults(tmp_path: Path):
    assert main(["init"]) == 0
    file = tmp_path / "assay.toml"
    assert read_config(file) == AuditConfig()
    assert not any(getattr(read_config(file), name).model_fields_set for name in ANALYSES)
    text = file.read_text(encoding="utf-8")
    lines = settings(text)
    for line in lines:
        text = text.replace(f"\n{line}\n", f"\n{line[1:]}\n")
    file.write_text(text, encoding="utf-8")
    everything = read_config(file)
    assert everything == AuditConfig()
    fields = {(name, key) for name in ANALYSES for key in type(getattr(everything, name)).model_fields}
    assert {(name, key) for name in ANALYSES for key in getattr(everything, name).model_fields_set} == {
        (name, key) for name, key in fields if getattr(getattr(everything, name), key) is not None
    }
    for name, key in fields:  # also those without a default are described
        part = text.split(f"[{name}]")[1].split("\n[")[0]
        assert f"\n{key} = " in part or f"\n# {key} is not set." in part


def test_the_written_file_describes_names_ranges_and_presets():
    text = template()
    flat = " ".join(line.removeprefix("# ").strip() for line in text.splitlines())
    for name in ANALYSES:
        for field in BUILT_IN[name].config.model_fields.values():  # type: ignore[union-attr]
            assert field.description
            assert " ".join(field.description.split()) in flat
    assert "(a whole number, at least 2; quick: 13; thorough: 49) #n = 25" in flat
    assert "(a number, above 0 and below 1) #false_positive_rate = 0.05" in flat
    assert 'one of "quick", "standard", "thorough"' in flat
    assert all(preset.cost in flat for preset in PRESETS.values())


def test_the_written_file_takes_a_preset_and_says_how_to_use_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["init", "net.py:make", "--data", "my pictures", "--quick", "-o", "own.toml"]) == 0
    assert read_config("own.toml") == PRESETS["quick"].config()
    assert "assay audit net.py:make --data 'my pictures' --config own.toml" in Path("own.toml").read_text()
    assert capsys.readouterr().out == ""
    assert main(["init", "--print"]) == 0
    assert tomlkit.parse(capsys.readouterr().out).unwrap() == {name: {} for name in ANALYSES}
    assert read_config_text(template(model="a\nb\x00", file="x\ny")) == AuditConfig()


def read_config_text(text: str) -> AuditConfig:
    Path("text.toml").write_text(text, encoding="utf-8")
    return read_config("text.toml")


def test_a_file_is_not_replaced_unasked(capsys: pytest.CaptureFixture[str]):
    Path("assay.toml").write_text("mine", encoding="utf-8")
    assert main(["init"]) == 3
    assert "--force" in capsys.readouterr().err
    assert Path("assay.toml").read_text(encoding="utf-8") == "mine"
    assert main(["init", "--force"]) == 0
    assert read_config("assay.toml") == AuditConfig()
    Path("folder").mkdir()
    assert main(["init", "--force", "-o", "folder"]) == 3
    assert "directory" in capsys.readouterr().err


COMPLETE = """
source ./script
ask() { COMP_WORDS=("$@"); COMP_CWORD=$(($#-1)); COMPREPLY=(); _assay 2>/dev/null; echo "${COMPREPLY[@]}"; }
complete -p assay
ask assay aud
ask assay audit --qu
ask assay audit demo --moments.met
ask assay audit demo --moments.method fa
ask assay completion z
"""


def test_bash_completes_verbs_options_and_choices(capsys: pytest.CaptureFixture[str]):
    assert main(["completion", "bash"]) == 0
    Path("script").write_text(capsys.readouterr().out, encoding="utf-8")
    done = subprocess.run(["bash", "-c", COMPLETE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "complete -F _assay assay"
    assert lines[1:] == ["audit", "--quick --quiet", "--moments.method", "factor", "zsh"]


@pytest.mark.slow
@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_get_their_scripts(shell: str, capsys: pytest.CaptureFixture[str]):
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert ("#compdef assay" if shell == "zsh" else "complete -c assay") in script
    assert "smoothness.paths" in script
    if shell == "fish":
        assert "test (count $subcommands) -eq 0; and" in script


def test_an_unknown_shell_is_refused(capsys: pytest.CaptureFixture[str]):
    assert main(["completion", "tcsh"]) == 2
    assert "bash" in capsys.readouterr().err


def test_init_and_completion_need_no_torch():
    code = "import sys; from assay.cli import main; assert main(['init', '-o', 'x.toml', '--quick']) == 0\n"
    code += "assert main(['audit', '--help']) == 0; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "False"
