"""The command line when something is wrong: one message with what, where and what next, and the exit code."""

import errno
import os
import pickle
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from safetensors.torch import save_file
from tests.support.quick import QUICK

from assay.cli import main
from assay.cli.job import UNFINISHED
from assay.grade import Grade
from assay.load.demo import demo_model
from assay.results import Quantity, Result
from assay.store import open_run

USAGE, UNUSABLE, INTERNAL, INTERRUPTED = 2, 3, 4, 130
FAST = (
    *("--moments.inputs", "2", "--moments.check", "20", "--moments.maps", "0", "--moments.sigmas", "0.05"),
    *("--sensitivity.inputs", "2", "--sensitivity.random-directions", "4", "--sensitivity.attack-steps", "2"),
    *("--fail-on", "never"),
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
        self.inner = nn.Linear(64, 10)
    def forward(self, x):
        return self.inner(torch.cumprod(x.flatten(1) + 0.5, 1))

branching = Branching
product = Product

def training():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.BatchNorm1d(10)).train()

def broken():
    raise RuntimeError("no such luck")

def number():
    return 7
"""


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.delenv("ASSAY_DEBUG", raising=False)
    (tmp_path / "nets.py").write_text(NETS, encoding="utf-8")


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]):
    """A function that runs `main` and checks that it refuses: exit code, three-part message, nothing on stdout."""

    def run(arguments: Sequence[str], code: int, *words: str) -> str:
        returned = main(arguments)
        shown = capsys.readouterr()
        check_message(shown.err, *words)
        assert (returned, shown.out) == (code, ""), shown.err
        return shown.err

    return run


@pytest.fixture
def analyses(monkeypatch: pytest.MonkeyPatch):
    """A function that puts quick stand-ins in the place of the analyses: a result, or an exception to raise."""
    import assay.audit  # noqa: F401

    module = sys.modules["assay.audit"]

    def put(**behaviour: Any) -> None:
        def analysis(name: str) -> Any:
            def run(subject: Any, config: Any, *, progress: Any = None) -> Result:
                if isinstance(behaviour.get(name), BaseException):
                    raise behaviour[name]
                return Result(name, name.capitalize(), "Why?", {"one": Quantity(1.0, Grade.EXACT)})

            return module.Analysis(run=run, plan=lambda subject, config: "next to nothing")

        monkeypatch.setattr(module, "ANALYSES", {name: analysis(name) for name in ("moments", "sensitivity")})

    return put


def check_message(text: str, *words: str) -> None:
    assert "Traceback" not in text
    labels = [line.split(":")[0] for line in text.splitlines() if line.startswith(("error:", "where:", "next:"))]
    assert labels == ["error", "where", "next"], text
    assert not [word for word in words if word not in text], text


def npz(name: str, inputs: Any, targets: Any = None) -> list[str]:
    """Arguments for `audit` of the demo network on these arrays."""
    arrays = {"x": numpy.asarray(inputs, dtype=numpy.float32)}
    numpy.savez(name, **arrays, **({} if targets is None else {"y": numpy.asarray(targets)}))
    keys = ["--inputs-key", "x", *([] if targets is None else ["--targets-key", "y"])]
    return ["audit", "demo", "--data", name, *keys]


class Bomb:
    """Writes a file while it is being unpickled."""

    def __reduce__(self):
        return Path.write_text, (Path("canary"), "executed")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("bogus", ["bogus", "Verbs: audit"]),
        ("audti demo", ["audti", "Did you mean `assay audit`?"]),
        ("--bogus", ["--bogus", "Verbs: audit"]),
        ("audit", ["MODEL is missing", "assay audit MODEL"]),
        ("report", ["DIRECTORY is missing"]),
        ("audit demo --bogus 3", ["--bogus", "assay audit --help"]),
        ("audit demo --moments.input 3", ["--moments.input", "--moments.inputs"]),
        ("audit demo extra", ["extra"]),
        ("audit demo --mean", ["--mean"]),
        ("audit demo --mean 0.5,blue", ["--mean", "blue"]),
        ("audit demo --bounds 1", ["--bounds", "2 values"]),
        ("audit demo --bounds 1 0", ["--bounds", "low < high"]),
        ("audit demo --std 0", ["--std", "positive"]),
        ("audit demo --preprocess imagnet", ["imagnet", "imagenet"]),
        ("audit torchvision:resnet18 --data demo --resize 64", ["--resize", "--preprocess imagenet"]),
        ("audit demo --channel-order GBR", ["--channel-order", "BGR"]),
        ("audit demo --limit 0", ["--limit"]),
        ("audit demo --limit many", ["--limit", "many"]),
        ("audit demo --only", ["--only"]),
        ("audit demo --only momentum", ["momentum", "moments, sensitivity"]),
        ("audit demo --fail-on always", ["--fail-on", "always", "never"]),
        ("audit demo --seed -1", ["--seed", "greater than or equal to 0"]),
        ("audit demo --moments 3", ["--moments", "group of options"]),
        ("audit demo --moments.inputs 0", ["--moments.inputs", "greater than 0"]),
        ("audit demo --moments.inputs few", ["--moments.inputs", "few"]),
        ("audit demo --moments.method magic", ["--moments.method", "magic", "linearize"]),
        ("audit demo --moments.sigmas 0.2,0.1", ["--moments.sigmas", "increase"]),
        ("audit demo --moments.flip-above 2", ["--moments.flip-above", "less than or equal to 1"]),
        ("audit demo --sensitivity.relative-sizes 2", ["--sensitivity.relative-sizes", "(0, 1]"]),
        ("audit demo --strict --moments.fallback sample", ["--strict", "--moments.fallback"]),
        ("audit torchvision:resnet18", ["--data"]),
        ("audit nonsense --data demo", ["nonsense", "torchvision:NAME"]),
        ("doctor torchvision:resnet0", ["resnet0"]),
        ("audit demo --data nonsense", ["nonsense", "folder"]),
        ("audit nets.py:product --data demo", ["nets.py:product", "--trust"]),
        ("audit nets.py:absent --data demo --trust", ["absent", "branching"]),
    ],
)
def test_wrong_usage(line: str, words: list[str], refused):
    refused(line.split(), USAGE, *words)
    assert sorted(os.listdir()) == ["nets.py"]  # a refused request leaves nothing behind


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"[moments\nrank = 3", ["not valid TOML", "line 1"]),
        (b"[moments]\nrang = 3", ["moments.rang"]),
        (b"[momentum]\nrank = 3", ["momentum"]),
        (b"[moments]\nrank = 'many'", ["moments.rank", "integer"]),
        (b"[moments]\nrank = 0", ["moments.rank", "greater than 0"]),
        (b"moments = 3", ["moments"]),
        (b"\xff\xfe", ["cannot be read"]),
    ],
)
def test_bad_configuration_file(content: bytes, words: list[str], refused):
    Path("bad.toml").write_bytes(content)
    refused(["audit", "demo", "--config", "bad.toml"], USAGE, "bad.toml", *words)


def test_missing_configuration_file(refused):
    refused(["audit", "demo", "--config", "absent.toml"], USAGE, "absent.toml")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("doctor absent.safetensors --arch demo", ["absent.safetensors", "no such"]),
        ("doctor absent.py:make --trust", ["absent.py"]),
        ("doctor nets.py:broken --trust", ["no such luck", "nets.py, line"]),
        ("doctor nets.py:number --trust", ["int", "nn.Module"]),
        ("audit model.onnx --data demo", ["ONNX", "model.onnx"]),
        ("audit demo --data absent.npz", ["absent.npz"]),
        ("audit demo --classes absent.txt", ["absent.txt"]),
        ("report absent", ["holds no run", "absent"]),
    ],
)
def test_what_is_not_there(line: str, words: list[str], refused):
    refused(line.split(), UNUSABLE, *words)


def wrong_shape() -> str:
    state = demo_model().state_dict()
    first = next(iter(state))
    state[first] = torch.zeros(2, *state[first].shape)
    save_file(state, "weights.safetensors")
    return first


def truncated() -> str:
    save_file(demo_model().state_dict(), "weights.safetensors")
    content = Path("weights.safetensors").read_bytes()
    Path("weights.safetensors").write_bytes(content[: len(content) // 2])
    return "damaged"


def no_numbers() -> str:
    Path("weights.safetensors").write_bytes(os.urandom(64))
    return "damaged"


def empty() -> str:
    Path("weights.safetensors").touch()
    return "empty"


@pytest.mark.parametrize("damage", [wrong_shape, truncated, no_numbers, empty])
def test_weights_that_cannot_be_used(damage: Callable[[], str], refused):
    word = damage()
    refused(["doctor", "demo", "--weights", "weights.safetensors"], UNUSABLE, "weights.safetensors", word)
    refused(["doctor", "weights.safetensors", "--arch", "demo"], UNUSABLE, "weights.safetensors", word)


def test_corrupt_pickle(refused):
    torch.save(demo_model().state_dict(), "weights.pt")
    content = bytearray(Path("weights.pt").read_bytes())
    Path("weights.pt").write_bytes(content[: len(content) // 3])
    refused(["doctor", "weights.pt", "--arch", "demo"], UNUSABLE, "weights.pt", "damaged")


def test_weights_without_a_network(refused):
    save_file(demo_model().state_dict(), "weights.safetensors")
    refused(["doctor", "weights.safetensors"], USAGE, "weights.safetensors", "--arch")


def test_hostile_pickle_is_not_executed(run_cli, tmp_path: Path):
    (tmp_path / "weights.pt").write_bytes(pickle.dumps({"weight": Bomb()}))
    done = run_cli("audit", "weights.pt", "--arch", "demo", "--data", "demo")
    check_message(done.stderr, "weights.pt", "--trust")
    assert (done.returncode, done.stdout) == (USAGE, "")
    assert not (tmp_path / "canary").exists()


def test_exported_program_needs_trust(refused):
    Path("model.pt2").write_bytes(b"PK\x03\x04")
    refused(["audit", "model.pt2", "--data", "demo"], USAGE, "model.pt2", "--trust")


def test_missing_extra(refused, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    refused(["doctor", "timm:resnet18"], USAGE, "timm", "pip install")


def test_data_of_the_wrong_shape(refused):
    refused(npz("data.npz", numpy.zeros((4, 3, 8, 8))), UNUSABLE, "(3, 8, 8)", "Check")


def test_data_with_nan(refused):
    inputs = numpy.full((4, 1, 8, 8), 0.5)
    inputs[2, 0, 3, 3] = numpy.nan
    refused(npz("data.npz", inputs), UNUSABLE, "NaN", "sample 2", "data.npz")


def test_labels_out_of_range(refused):
    refused(npz("data.npz", numpy.zeros((4, 1, 8, 8)), [0, 1, 2, 10]), UNUSABLE, "10 outputs", "data.npz")


def test_more_inputs_than_labels(refused):
    refused(npz("data.npz", numpy.zeros((4, 1, 8, 8)), [0, 1]), UNUSABLE, "data.npz", "4", "2")


def test_data_outside_the_bounds(refused):
    arguments = npz("data.npz", numpy.full((4, 1, 8, 8), 7.0))
    refused([*arguments, "--bounds", "0", "1"], UNUSABLE, "outside the bounds", "--bounds")


def test_empty_folder_of_data(refused):
    Path("pictures").mkdir()
    refused(["audit", "demo", "--data", "pictures"], UNUSABLE, "pictures")


def test_pickled_array_is_refused(refused):
    numpy.save("data.npy", numpy.array([Bomb()], dtype=object), allow_pickle=True)
    refused(["audit", "demo", "--data", "data.npy"], UNUSABLE, "data.npy")
    assert not Path("canary").exists()


def test_class_names_that_do_not_match(refused):
    Path("names.txt").write_text("cat\ndog\n", encoding="utf-8")
    refused(["audit", "demo", "--classes", "names.txt"], UNUSABLE, "2 class names", "10 outputs")


def test_model_in_training_mode_is_analysed_in_evaluation_mode(capsys: pytest.CaptureFixture[str]):
    arguments = [
        "audit",
        "nets.py:training",
        "--trust",
        "--data",
        "demo",
        "--limit",
        "8",
        "--only",
        "sensitivity",
        *FAST,
    ]
    assert main(arguments) == 0
    shown = capsys.readouterr()
    assert "was in training mode" in shown.out
    assert "Traceback" not in shown.err


def test_strict_lists_what_has_no_rule(refused, capsys: pytest.CaptureFixture[str]):
    arguments = ["audit", "nets.py:product", "--trust", "--data", "demo", "--limit", "8", "--only", "moments", *FAST]
    refused([*arguments, "--strict"], UNUSABLE, "--strict", "cumprod")
    assert main([*arguments, "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


def test_model_that_cannot_be_captured(refused, capsys: pytest.CaptureFixture[str]):
    arguments = ["audit", "nets.py:branching", "--trust", "--data", "demo", "--limit", "8", *FAST]
    assert main(arguments) == 0
    shown = capsys.readouterr()
    line = NETS.splitlines().index("        if x.sum() > 0:") + 1
    place = f"nets.py:{line}"
    assert "Left out: graph" in shown.out
    assert place in shown.out.replace("\n", "")
    assert "control flow" in shown.out
    assert "Traceback" not in shown.err
    assert set(open_run("assay-audit").results) == {"moments", "sensitivity", "filtering", "boundary", "smoothness"}
    refused([*arguments, "--strict"], UNUSABLE, place, "control flow")


def test_output_directory_that_is_a_file(refused):
    Path("taken").touch()
    refused(["audit", "demo", "-o", "taken"], UNUSABLE, "taken", "-o")
    refused(["demo", "-o", "taken/below"], UNUSABLE, "taken", "-o")


def test_output_directory_without_permission(refused, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # whoever runs the tests may write anywhere
    refused(["audit", "demo", "-o", "locked"], UNUSABLE, "No permission", "-o")


def test_output_directory_that_turns_out_read_only(refused, analyses, monkeypatch: pytest.MonkeyPatch):
    def read_only(self: Path, *arguments: Any, **keywords: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self))

    analyses()
    monkeypatch.setattr(Path, "mkdir", read_only)
    refused(["audit", "demo", "--limit", "4", "-o", "locked"], UNUSABLE, "No permission", "locked")


@pytest.mark.parametrize("writes", [0, 12])
def test_full_disk(writes: int, refused, analyses, monkeypatch: pytest.MonkeyPatch):
    done = 0
    real = os.fsync

    def fsync(handle: int) -> None:
        nonlocal done
        done += 1
        if done > writes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    analyses()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        refused(["audit", "demo", "--limit", "4", "-o", "run"], UNUSABLE, "disk is full", "run", "Free some space")
    assert not list(Path("run").rglob("*.tmp"))
    if writes:  # what was complete before the disk was full is readable
        assert open_run("run").subject["name"] == "demo"


def test_full_device_behind_stdout(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    class Full:
        encoding = "utf-8"

        def write(self, text: str) -> int:
            return len(text)

        def flush(self) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", Full())
        code = main(["--version"])
    check_message(capsys.readouterr().err, "No space left", "standard output")
    assert code == UNUSABLE


def test_damaged_run(refused, analyses):
    analyses()
    assert main(["audit", "demo", "--limit", "4", "-o", "run", "-q"]) == 0
    file = Path("run/results/moments.json")
    file.write_bytes(file.read_bytes().replace(b"Why?", b"Who?"))
    refused(["report", "run"], UNUSABLE, "moments.json", "SHA-256")


def test_interrupt_keeps_what_is_finished(analyses, capsys: pytest.CaptureFixture[str]):
    analyses()
    assert main(["audit", "demo", "--limit", "4", "-o", "run", "-q"]) == 0
    analyses(sensitivity=KeyboardInterrupt())
    assert main(["audit", "demo", "--limit", "5", "-o", "run"]) == INTERRUPTED
    shown = capsys.readouterr()
    assert "Finished and saved: moments." in shown.err
    assert "assay report run" in shown.err
    assert "Traceback" not in shown.err
    assert shown.out == ""
    run = open_run("run")  # nothing of the earlier run is mixed in
    assert list(run.results) == ["moments"]
    assert run.subject["samples"] == 5
    assert run.left_out == {"sensitivity": UNFINISHED}
    assert not Path("run/report.html").exists()
    assert main(["report", "run"]) == 0
    assert UNFINISHED in capsys.readouterr().out


def test_interrupt_before_anything_is_finished(analyses, capsys: pytest.CaptureFixture[str]):
    analyses(moments=KeyboardInterrupt())
    assert main(["audit", "demo", "--limit", "4", "-o", "run"]) == INTERRUPTED
    assert "nothing was saved" in capsys.readouterr().err


def test_internal_error_is_reported_without_traceback(
    analyses, capsys, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    analyses(moments=ZeroDivisionError("division by zero"))
    arguments = ["audit", "demo", "--limit", "4", "-o", "run", "-q"]
    assert main(arguments) == INTERNAL
    shown = capsys.readouterr()
    assert "internal error: ZeroDivisionError: division by zero" in shown.err
    assert "Traceback" not in shown.err
    (log,) = tmp_path.glob("assay-error-*.log")
    assert str(log) in shown.err
    assert "Traceback" in log.read_text(encoding="utf-8")
    assert main([*arguments, "--debug"]) == INTERNAL
    assert "Traceback" in capsys.readouterr().err
    monkeypatch.setenv("ASSAY_DEBUG", "1")
    assert main(arguments) == INTERNAL
    assert "Traceback" in capsys.readouterr().err


def test_too_little_memory(analyses, refused):
    analyses(moments=MemoryError())
    refused(["audit", "demo", "--limit", "4", "-o", "run", "-q"], UNUSABLE, "memory", "--moments.inputs")
    analyses(moments=RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."))
    refused(["audit", "demo", "--limit", "4", "-o", "run", "-q"], UNUSABLE, "memory", "8 bytes")


def test_from_the_shell(run_cli):
    done = run_cli("audit", "demo", "--bogus")
    check_message(done.stderr, "--bogus")
    assert (done.returncode, done.stdout) == (USAGE, "")


def test_names_in_messages_are_harmless(refused):
    text = refused(["report", "run\x1b[31m\u202ered"], UNUSABLE)
    assert "\x1b[31m" not in text
    assert "\u202e" not in text
