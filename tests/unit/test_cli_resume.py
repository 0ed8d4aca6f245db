"""`assay resume` and `assay verify`: going on where a run ended, and finding damage in every file of one."""

import json
import os
import random
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import numpy
import pytest
from safetensors.torch import save_file
from tests.support.sweeping import Products

from assay.cli import main
from assay.cli.job import UNFINISHED
from assay.grade import Grade
from assay.load.demo import demo_model
from assay.results import Quantity, Result
from assay.store import open_run, save_result
from assay.sweep import run as sweep

AUDIT = ["audit", "demo", "--limit", "4", "-o", "run", "-q"]
UNUSABLE, USAGE, INTERRUPTED, TERMINATED = 3, 2, 130, 143


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.delenv("ASSAY_DEBUG", raising=False)


@pytest.fixture
def analyses(monkeypatch: pytest.MonkeyPatch):
    """A function that puts stand-ins in the place of the analyses; the second sweeps. Returns the names that ran."""
    import assay.audit  # noqa: F401

    module = sys.modules["assay.audit"]
    ran: list[str] = []

    def put(**stop: Any) -> list[str]:
        def act(name: str) -> None:
            ran.append(name)
            if name in stop:
                stop[name]()

        def first(subject: Any, config: Any, *, progress: Any = None) -> Result:
            act("moments")
            return Result("moments", "Moments", "Why?", {"one": Quantity(1.0, Grade.EXACT)})

        def second(subject: Any, config: Any, *, directory: Path | None = None, progress: Any = None) -> Result:
            class Job(Products):
                def open(self, stage: int, done: Any) -> Any:
                    compute = super().open(stage, done)

                    def computed(item: Any) -> Any:
                        if item.name == "product 4":
                            act("sensitivity")
                        return compute(item)

                    return computed

            outcomes = sweep(Job(count=6), directory=directory, progress=progress)
            means = numpy.array([outcomes[f"product {n}"]["mean"] for n in range(6)])
            return Result("sensitivity", "Sensitivity", "How?", arrays={"means": means})

        table = {
            "moments": module.Analysis(first, lambda subject, config: "little"),
            "sensitivity": module.Analysis(second, lambda subject, config: "little", sweeps=True),
        }
        monkeypatch.setattr(module, "ANALYSES", table)
        ran.clear()
        return ran

    return put


def contents(folder: str) -> dict[str, bytes]:
    """What has to be the same after any interruption: results, and the sealed sweep without its times."""
    varying = {"timing.json", "times.json", "manifest.json", "checksums.json", "report.html"}
    files = (path for path in Path(folder).rglob("*") if path.is_file() and path.name not in varying)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def interrupt() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("stop", "code"), [(interrupt, INTERRUPTED), (lambda: os.kill(os.getpid(), signal.SIGTERM), TERMINATED)]
)
def test_interrupted_and_resumed(stop: Any, code: int, analyses, capsys: pytest.CaptureFixture[str]):
    analyses()
    assert main([*AUDIT[:-2], "whole", "-q"]) == 0
    ran = analyses(sensitivity=stop)
    assert main(AUDIT) == code
    assert "Finished and saved: moments. `assay resume run` goes on" in " ".join(capsys.readouterr().err.split())
    assert ran == ["moments", "sensitivity"]
    assert open_run("run").left_out == {"sensitivity": UNFINISHED}
    assert main(["verify", "run"]) == 0
    assert "not finished" in capsys.readouterr().out
    ran = analyses()
    assert main(["resume", "run", "-q"]) == 0
    assert ran == ["sensitivity"]  # the other one is taken as it is
    assert contents("run").keys() == contents("whole").keys()
    different = [name for name, content in contents("whole").items() if contents("run")[name] != content]
    assert not different
    assert main(["verify", "run"]) == 0
    assert "intact" in capsys.readouterr().out


def test_resuming_what_is_complete_computes_nothing(analyses):
    analyses()
    assert main(AUDIT) == 0
    before = contents("run")
    ran = analyses()
    assert main(["resume", "run", "-q"]) == 0
    assert ran == []
    assert contents("run") == before


def test_resume_goes_on_with_the_same_options(analyses, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    save_file(demo_model().state_dict(), "weights.safetensors")
    numpy.savez("data.npz", inputs=numpy.zeros((5, 1, 8, 8), "float32"), targets=numpy.zeros(5, int))
    (tmp_path / "net.py").write_text(
        "from assay.load.demo import demo_model\ndef make():\n    return demo_model()\n", encoding="utf-8"
    )
    options = ["--data", "data.npz", "--weights", "weights.safetensors", "--bounds", "0", "16", "--trust"]
    analyses(sensitivity=interrupt)
    command = ["audit", "net.py:make", *options, "--only", "moments,sensitivity", "--seed", "7", "-o", "run", "-q"]
    assert main(command) == INTERRUPTED
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")  # relative paths begin where the run did
    ran = analyses()
    assert main(["resume", "../run", "-q"]) == USAGE  # trust is given anew each time
    assert ran == []
    assert main(["resume", "../run", "-q", "--trust"]) == 0
    assert ran == ["sensitivity"]
    result = open_run("../run").results["sensitivity"]
    assert result.provenance is not None
    assert result.provenance.seed == 7
    assert open_run("../run").subject["samples"] == 5


def test_changed_data_are_refused(analyses, capsys: pytest.CaptureFixture[str]):
    numpy.savez("data.npz", inputs=numpy.zeros((5, 1, 8, 8), "float32"), targets=numpy.zeros(5, int))
    analyses(sensitivity=interrupt)
    assert main(["audit", "demo", "--data", "data.npz", "-o", "run", "-q"]) == INTERRUPTED
    numpy.savez("data.npz", inputs=numpy.ones((5, 1, 8, 8), "float32"), targets=numpy.zeros(5, int))
    ran = analyses()
    assert main(["resume", "run", "-q"]) == UNUSABLE
    assert "The data is not the one that the run began with" in capsys.readouterr().err
    assert ran == []


def test_changed_weights_are_refused(analyses, capsys: pytest.CaptureFixture[str]):
    state = demo_model().state_dict()
    save_file(state, "weights.safetensors")
    analyses(sensitivity=interrupt)
    assert main(["audit", "weights.safetensors", "--arch", "demo", "--data", "demo", "-o", "run", "-q"]) == INTERRUPTED
    save_file({name: value + 1 for name, value in state.items()}, "weights.safetensors")
    assert main(["resume", "run", "-q"]) == UNUSABLE
    assert "The model is not the one" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda run: (run / "config.toml").write_text("[moments]\nseed = 3\n"), "configuration is not the one"),
        (lambda run: (run / "invocation.json").unlink(), "no run that can be resumed"),
        (lambda run: (run / "invocation.json").write_text("{}"), "request is damaged"),
        (lambda run: (run / "run.json").write_text("{"), "run.json"),
    ],
)
def test_what_cannot_be_resumed(break_it: Any, message: str, analyses, capsys: pytest.CaptureFixture[str]):
    analyses(sensitivity=interrupt)
    assert main(AUDIT) == INTERRUPTED
    break_it(Path("run"))
    assert main(["resume", "run", "-q"]) == UNUSABLE
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said


def test_results_of_other_versions_are_computed_again(analyses, monkeypatch: pytest.MonkeyPatch):
    analyses(sensitivity=interrupt)
    assert main(AUDIT) == INTERRUPTED
    ran = analyses()
    monkeypatch.setattr(sys.modules["assay.audit"], "__version__", "999")
    assert main(["resume", "run", "-q"]) == 0
    assert ran == ["moments", "sensitivity"]


def test_one_flipped_byte_in_any_file_of_a_run(analyses, capsys: pytest.CaptureFixture[str]):
    analyses()
    assert main(AUDIT) == 0
    files = sorted(path for path in Path("run").rglob("*") if path.is_file())
    names = {path.name for path in files}
    assert {"run.json", "timing.json", "config.toml", "invocation.json", "report.html", "checksums.json"} <= names
    assert {"graph.svg", "nodes.json", "moments.json", "sensitivity.safetensors", "table.sqlite"} <= names
    draw = random.Random(0)
    for path in files:
        before = path.read_bytes()
        for place in {0, len(before) - 1, *(draw.randrange(len(before)) for _ in range(12))} if before else ():
            path.write_bytes(before[:place] + bytes([before[place] ^ 1 << place % 8]) + before[place + 1 :])
            capsys.readouterr()
            assert main(["verify", "run", "--json"]) == UNUSABLE, (path, place)
            found = json.loads(capsys.readouterr().out)
            assert [damage["path"] for damage in found["damages"]] == [path.relative_to("run").as_posix()]
        path.write_bytes(before)
    assert main(["verify", "run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["complete"]


def test_one_flipped_byte_in_an_unfinished_run(analyses, capsys: pytest.CaptureFixture[str]):
    analyses(sensitivity=interrupt)
    assert main(AUDIT) == INTERRUPTED
    draw = random.Random(0)
    for name in ("run.json", "timing.json", "config.toml", "invocation.json", "results/moments.json"):
        path = Path("run") / name
        before = path.read_bytes()
        for place in {0, len(before) - 1, *(draw.randrange(len(before)) for _ in range(30))} if before else ():
            path.write_bytes(before[:place] + bytes([before[place] ^ 1 << place % 8]) + before[place + 1 :])
            assert main(["verify", "run"]) == UNUSABLE, (name, place)
            assert f"damaged: {name}" in capsys.readouterr().out
        path.write_bytes(before)
    assert main(["verify", "run"]) == 0


def test_missing_file_is_damage(analyses, capsys: pytest.CaptureFixture[str]):
    analyses()
    assert main(AUDIT) == 0
    Path("run/report.html").unlink()
    assert main(["verify", "run"]) == UNUSABLE
    assert "report.html: it is missing" in capsys.readouterr().out


def test_a_report_made_again_belongs_to_the_run(analyses):
    analyses()
    assert main(AUDIT) == 0
    Path("run/report.html").write_text("spoiled")
    assert main(["verify", "run"]) == UNUSABLE
    assert main(["report", "run", "-q"]) == 0
    assert main(["verify", "run"]) == 0


def test_a_report_blesses_no_other_damage(analyses):
    analyses()
    assert main(AUDIT) == 0
    with open("run/config.toml", "a") as file:
        file.write("# changed\n")
    assert main(["report", "run", "-q"]) == 0
    assert main(["verify", "run"]) == UNUSABLE


def test_a_result_saved_later_makes_the_run_an_unfinished_one(analyses):
    analyses()
    assert main(AUDIT) == 0
    save_result(Result("more", "More", "What?"), "run")
    assert not Path("run/checksums.json").exists()
    assert main(["verify", "run"]) == 0


def test_other_files_in_the_directory_are_left_alone(analyses, capsys: pytest.CaptureFixture[str]):
    Path("run").mkdir()
    Path("run/notes.txt").write_text("mine")
    analyses()
    assert main(AUDIT) == 0
    Path("run/notes.txt").write_text("mine, changed")
    assert main(["verify", "run"]) == 0
    assert "notes.txt" not in Path("run/checksums.json").read_text()


def test_verify_of_what_is_no_run(capsys: pytest.CaptureFixture[str]):
    Path("empty").mkdir()
    assert main(["verify", "empty"]) == UNUSABLE
    assert "holds no run" in capsys.readouterr().err
    assert main(["verify", "absent"]) == UNUSABLE


def test_interrupted_sweep_is_kept(analyses):
    analyses(sensitivity=interrupt)
    assert main(AUDIT) == INTERRUPTED
    assert len(list(Path("run").glob("sweeps/*/outcomes/*/*.safetensors"))) == 4
    shutil.rmtree(next(Path("run").glob("sweeps/*")))
    analyses()
    assert main(["resume", "run", "-q"]) == 0
