"""Other packages' operators, rules and analyses: found late, used when asked for, refused clearly, never in the way."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from tests.support.packages import Offer, forget, pretended

from assay import analyses, plugins
from assay.audit import ANALYSES, audit, computed_by, estimates
from assay.cli import main
from assay.cli.examination import installed_plugins
from assay.cli.invocation import Invocation
from assay.cli.options import Loading
from assay.cli.settings import flags_of, merged
from assay.config import AuditConfig, configuration, read_config, section, to_toml
from assay.errors import PluginError, UsageError
from assay.grade import Grade
from assay.graph import OPERATORS
from assay.graph.operators import ATEN
from assay.interpret import RuleTable
from assay.load import load_subject
from assay.store import open_run

ANALYSIS = """
from typing import Annotated
from pydantic import BaseModel, ConfigDict, Field
from assay.analyses import Analysis
from assay.grade import Grade
from assay.results import Quantity, Result

class Config(BaseModel):
    "Count: how many inputs there are."
    model_config = ConfigDict(frozen=True, extra="forbid")
    factor: Annotated[int, Field(ge=1, description="How often each counts.")] = 1

def run(subject, config, *, progress=None):
    number = config.factor * len(subject.data)
    return Result("count", "Count", "How many?", {"inputs": Quantity(number, Grade.EXACT)})

def fail(subject, config, *, progress=None):
    raise KeyError("oh")

COUNT = Analysis(run, lambda subject, config: "nothing", Config)
FAILING = Analysis(fail, lambda subject, config: "nothing", Config)
LATER = Analysis("counting:run", "counting:missing", Config)
NONSENSE = {"run": run}
"""
OPERATOR = """
import torch
from assay.graph import Aten, Operator, Sample
def row(name, *targets):
    samples = lambda g: [Sample((torch.randn(2, 3, generator=g, dtype=torch.float64),))]
    forms = tuple(Aten(one) for one in targets)
    return Operator(name, "activation", torch.arctan, samples, elementwise=True, aten=forms)
ARCTAN = row("arctan", "atan.default")
RELU = row("relu", "atan.default")
CALL = row("other", "relu.default")
PAIR = row("pair", "atan2.default")
PAIR = __import__("dataclasses").replace(PAIR, aten=(Aten("atan2.default", ("self", "other")),))
"""


@pytest.fixture
def offer(tmp_path: Path):
    folder = tmp_path / "site"
    folder.mkdir()
    with pretended(folder) as function:
        yield function


def counting(offer: Offer, name: str = "count", what: str = "COUNT") -> None:
    offer("counting", {"assay.analyses": f"{name} = counting:{what}"}, ANALYSIS)


def test_nothing_is_imported_until_it_is_asked_for(offer: Offer):
    counting(offer)
    assert list(ANALYSES) == [*analyses.BUILT_IN, "count"]
    assert "count" in ANALYSES
    assert "counting" not in sys.modules
    assert ANALYSES["count"].config is not None
    assert "counting" in sys.modules


def test_an_analysis_has_a_section_flags_a_plan_and_a_result(offer: Offer, tmp_path: Path):
    counting(offer)
    kind: Any = configuration()
    assert issubclass(kind, AuditConfig)
    assert section(AuditConfig(), "count").factor == 1
    file = tmp_path / "settings.toml"
    file.write_text("[count]\nfactor = 3\n", encoding="utf-8")
    by_file = read_config(file)
    flags: Any = flags_of(kind)
    assert "Count: how many inputs there are." in repr(flags.model_fields["count"])
    by_flag = merged(flags.model_validate({"count": {"factor": 3}}))
    assert by_flag == by_file
    file.write_text(to_toml(by_file), encoding="utf-8")
    assert read_config(file) == by_file
    subject = load_subject("demo", limit=5)
    assert [(name, str(plan)) for name, plan in estimates(subject, only=["count"])] == [("count", "nothing")]
    found = audit(subject, only=["count"], config=by_file, out=tmp_path / "run")
    assert found.results["count"].summary["inputs"].value == 15
    kept = open_run(tmp_path / "run").results["count"]
    assert kept.provenance is not None
    assert kept.provenance.versions["plug-in counting"] == "1.0"
    assert dict(kept.provenance.config) == {"factor": 3}
    assert computed_by(kept, section(by_file, "count"))
    assert not computed_by(kept, section(AuditConfig(), "count"))


def test_a_result_of_another_version_is_not_taken_again(offer: Offer, tmp_path: Path):
    counting(offer)
    result = audit(load_subject("demo", limit=5), only=["count"]).results["count"]
    assert computed_by(result, section(AuditConfig(), "count"))
    (tmp_path / "site" / "counting-1.0.dist-info" / "METADATA").write_text("Name: counting\nVersion: 1.1\n")
    forget()
    assert not computed_by(result, section(AuditConfig(), "count"))


def test_a_wrong_value_is_told_by_its_key(offer: Offer, tmp_path: Path):
    counting(offer)
    file = tmp_path / "settings.toml"
    file.write_text("[count]\nfactor = 0\n", encoding="utf-8")
    with pytest.raises(UsageError, match=r"count\.factor"):
        read_config(file)
    file.write_text("[nobody]\nfactor = 0\n", encoding="utf-8")
    with pytest.raises(UsageError, match="There is no analysis 'nobody'") as caught:
        read_config(file)
    assert "[nobody]" in caught.value.where


@pytest.mark.parametrize(
    ("name", "what", "why"),
    [
        ("moments", "COUNT", "belongs to assay"),
        ("Count!", "COUNT", "small letters"),
        ("count", "NONSENSE", "is a dict, not an assay.audit.Analysis"),
        ("count", "ABSENT", "AttributeError"),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_origin(name: str, what: str, why: str, offer: Offer):
    counting(offer, name, what)
    assert configuration() is AuditConfig
    assert ANALYSES["moments"] is analyses.BUILT_IN["moments"]
    (error,) = plugins.problems().values()
    assert why in error.what
    assert "counting 1.0" in error.what
    assert f"counting:{what}" in error.where
    assert "--no-plugins" in error.advice


def test_a_broken_package_is_told_and_hinders_nobody(offer: Offer, tmp_path: Path):
    counting(offer)
    offer("broken", {"assay.analyses": "dead = broken:DEAD"}, "import no_such_library\n")
    subject = load_subject("demo", limit=5)
    configuration()
    found = audit(subject, only=["count"])
    assert list(found.results) == ["count"]
    assert "no_such_library" in found.left_out["plug-in dead"]
    assert "broken 1.0" in found.left_out["plug-in dead"]
    with pytest.raises(PluginError, match="no_such_library"):
        audit(subject, only=["dead"])
    file = tmp_path / "settings.toml"
    file.write_text("[dead]\nx = 1\n", encoding="utf-8")
    with pytest.raises(PluginError, match=r"broken 1\.0"):
        read_config(file)


def test_an_analysis_that_fails_is_blamed_by_name(offer: Offer):
    counting(offer, "count", "FAILING")
    subject = load_subject("demo", limit=5)
    with pytest.raises(PluginError, match=r"'count' of counting 1\.0 failed: KeyError"):
        audit(subject, only=["count"])
    with pytest.raises(PluginError, match="failed: KeyError"):
        audit(subject, only=["count"])
    assert not plugins.problems()  # other data may suit it


def test_a_result_of_another_name_is_refused(offer: Offer):
    counting(offer, "number")
    with pytest.raises(PluginError, match="returned a result called 'count'"):
        audit(load_subject("demo", limit=5), only=["number"])


def test_functions_named_by_text_are_imported_when_called(offer: Offer):
    counting(offer, "count", "LATER")
    subject = load_subject("demo", limit=5)
    assert audit(subject, only=["count"]).results["count"].summary["inputs"].value == 5
    with pytest.raises(PluginError, match="missing"):
        estimates(subject, only=["count"])
    with pytest.raises(ValueError, match=r"package\.module:function"):
        analyses.Analysis("nonsense", "nonsense")


def test_plug_ins_can_be_turned_off(offer: Offer, monkeypatch: pytest.MonkeyPatch):
    counting(offer)
    with plugins.switched_off():
        assert "count" not in ANALYSES
        assert plugins.groups() == ()
        with pytest.raises(UsageError, match="There is no analysis 'count'") as caught:
            audit(load_subject("demo", limit=5), only=["count"])
        assert plugins.OFF in caught.value.advice
    assert "count" in ANALYSES
    monkeypatch.setenv(plugins.OFF, "1")
    assert "count" not in ANALYSES
    monkeypatch.setenv(plugins.OFF, "0")
    assert "count" in ANALYSES


def test_the_first_of_two_packages_keeps_the_name(offer: Offer):
    offer("zebra", {"assay.analyses": "count = zebra:COUNT"}, ANALYSIS)
    offer("counting", {"assay.analyses": "count = counting:COUNT"}, ANALYSIS)
    assert analyses.offered()["count"].distribution == "counting"
    (error,) = plugins.problems().values()
    assert "zebra 1.0" in error.what
    assert "counting 1.0" in error.what


def test_help_and_runs_import_no_plug_in(offer: Offer, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    counting(offer)
    audit(load_subject("demo", limit=5), only=["count"], out=tmp_path / "run")
    forget()
    groups = ("operators", "rules.moments", "analyses", "renderers")
    offer("bomb", {f"assay.{group}": f"bomb{n} = bomb:X" for n, group in enumerate(groups)}, "X = 1")
    assert {one.distribution for group in plugins.groups() for one in plugins.installed(group)} == {"bomb", "counting"}
    assert main(["verify", str(tmp_path / "run")]) == 0
    assert main(["report", str(tmp_path / "run"), "-q"]) == 0
    assert main(["export", str(tmp_path / "run"), "--format", "json", "-o", str(tmp_path / "run.json")]) == 0
    assert main(["--help"]) == 0
    capsys.readouterr()
    assert "bomb" not in sys.modules


def test_a_run_remembers_that_plug_ins_were_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(plugins.OFF, raising=False)
    (tmp_path / "config.toml").write_text("", encoding="utf-8")
    for off in (True, False):
        with plugins.switched_off(off):
            Invocation.of("demo", Loading(), None, "never").write(tmp_path)
        with plugins.switched_off(False):
            Invocation.read(tmp_path, trust=False)
            assert plugins.enabled() is not off
        assert plugins.enabled()


def test_doctor_lists_them(offer: Offer):
    counting(offer)
    offer("broken", {"assay.renderers": "dead = broken:DEAD"}, "import no_such_library\n")
    found = {each["name"]: each for each in installed_plugins()}
    assert found["count"] == {"name": "count", "group": "assay.analyses", "package": "counting 1.0", "problem": ""}
    assert "no_such_library" in found["dead"]["problem"]


def test_operators_are_added_when_one_is_missing(offer: Offer):
    offer("waves", {"assay.operators": "arctan = waves:ARCTAN"}, OPERATOR)
    assert "relu" in OPERATORS
    assert "aten.relu.default" in ATEN
    assert "input" not in OPERATORS
    assert "waves" not in sys.modules
    row, _ = ATEN["aten.atan.default"]
    assert row is OPERATORS["arctan"]
    assert "arctan" in list(OPERATORS)
    assert len(OPERATORS) == len(list(OPERATORS))
    assert {one.distribution for one in plugins.credited(["arctan", "relu"])} == {"waves"}


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ("RELU", "operator 'relu' already"),
        ("CALL", "belongs to the operator 'relu'"),
        ("row", "Operator"),
        ("PAIR", "takes several"),
    ],
)
def test_operators_that_are_taken_are_refused(what: str, why: str, offer: Offer):
    offer("waves", {"assay.operators": f"arctan = waves:{what}"}, OPERATOR)
    before = OPERATORS["relu"]
    assert "arctan" not in OPERATORS
    assert OPERATORS["relu"] is before
    (error,) = plugins.problems().values()
    assert why in error.what


def test_rules_that_fail_add_nothing(offer: Offer):
    code = "from assay.grade import Grade\n"
    code += "def good(table):\n    table.rule('softmax', grade=Grade.BOUND)(len)\n"
    code += "def bad(table):\n    table.rule('tanh', 'softmax', grade=Grade.BOUND)(max)\n"
    offer("ruling", {"assay.rules.trial": "a = ruling:good\nb = ruling:bad"}, code)
    table: RuleTable[Any] = RuleTable("trial")
    table.freeze()
    found = table.lookup("softmax")
    assert found is not None
    assert found.grade is Grade.BOUND
    assert table.lookup("tanh") is None
    (error,) = plugins.problems().values()
    assert "registered twice" in error.what
    assert [one.name for one in plugins.credited(["softmax", "tanh"])] == ["a"]
