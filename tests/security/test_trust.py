"""Opening a model or data executes nothing unless trust was given: every file here writes a canary when it runs."""

import pickle
import socket
import sys
import zipfile
from pathlib import Path

import numpy
import pytest
import torch

from assay.errors import SubjectError, TrustRequired, UsageError
from assay.load import load_data, load_subject
from assay.load.demo import demo_model
from assay.load.trust import Trust, require_trust


class Bomb:
    """Writes a file while it is being unpickled."""

    def __init__(self, canary: Path):
        self.canary = str(canary)

    def __reduce__(self):
        return Path.write_text, (Path(self.canary), "executed")


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "canary"


@pytest.fixture
def factory(tmp_path: Path, canary: Path) -> str:
    (tmp_path / "nets.py").write_text(
        f"from pathlib import Path\nPath({str(canary)!r}).write_text('executed')\n"
        "from assay.load.demo import demo_data, demo_model\n"
        "def make():\n    return demo_model()\ndef data():\n    return demo_data()\n"
    )
    return f"{tmp_path / 'nets.py'}:make"


def pickled(path: Path, kind: str, canary: Path) -> Path:
    """A file that executes code when unpickled, in one of the shapes a file of weights can have."""
    content = {
        "object": Bomb(canary),
        "beside weights": {"state_dict": demo_model().state_dict(), "note": Bomb(canary)},
        "module": demo_model(),
        "old format": Bomb(canary),
        "bare pickle": Bomb(canary),
    }[kind]
    if kind == "bare pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind != "old format")
    return path


def test_canaries_would_sing(tmp_path, canary):
    for kind in ("object", "beside weights", "old format"):
        torch.load(pickled(tmp_path / "w.pt", kind, canary), weights_only=False)
        assert canary.read_text() == "executed"
        canary.unlink()


@pytest.mark.parametrize("kind", ["object", "beside weights", "module", "old format", "bare pickle"])
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin"])
@pytest.mark.parametrize("arch", [None, "demo"])
def test_pickle_needs_trust(tmp_path, canary, kind, suffix, arch):
    path = pickled(tmp_path / f"w{suffix}", kind, canary)
    with pytest.raises(TrustRequired, match="pickled objects") as caught:
        load_subject(path, arch=arch)
    assert "--trust" in caught.value.advice
    with pytest.raises(TrustRequired):
        load_subject("demo", weights=path)
    assert not canary.exists()


def test_pickled_module_loads_with_trust_and_is_recorded(tmp_path, canary):
    path = pickled(tmp_path / "net.pt", "module", canary)
    subject = load_subject(path, trust=True, data="demo", limit=10)
    assert subject.trusted == ("pickle net.pt",)
    assert subject.output_count == 10
    assert load_subject(path, arch="demo", trust=True, data="demo", limit=10).output_count == 10


def test_trust_is_not_recorded_where_none_was_needed(tmp_path):
    torch.save(demo_model().state_dict(), tmp_path / "w.pt")
    assert load_subject(tmp_path / "w.pt", arch="demo", trust=True, limit=10).trusted == ()


def test_pickle_with_trust_runs_after_the_refusal_only(tmp_path, canary):
    path = pickled(tmp_path / "w.pt", "beside weights", canary)
    subject = load_subject(path, arch="demo", trust=True, data="demo", limit=10)
    assert canary.exists()
    assert subject.trusted == ("pickle w.pt",)


def test_other_pickle_protocols_are_not_called_damaged(tmp_path):
    torch.save(demo_model().state_dict(), tmp_path / "w.pt", pickle_protocol=4)
    with pytest.raises(TrustRequired, match="protocol 4"):
        load_subject(tmp_path / "w.pt", arch="demo")
    assert load_subject(tmp_path / "w.pt", arch="demo", trust=True, data="demo", limit=10).output_count == 10


def test_factory_needs_trust(canary, factory):
    for arguments in ({"spec": factory}, {"spec": "demo", "data": factory.replace("make", "data")}):
        with pytest.raises(TrustRequired, match="factory"):
            load_subject(**arguments)
    with pytest.raises(TrustRequired):
        load_data(factory.replace("make", "data"))
    assert not canary.exists()
    subject = load_subject(factory, data="demo", limit=10, trust=True)
    assert canary.read_text() == "executed"
    assert subject.trusted == (f"factory {factory}",)


def test_factory_as_architecture_needs_trust(tmp_path, canary, factory):
    torch.save(demo_model().state_dict(), tmp_path / "w.pt")
    with pytest.raises(TrustRequired):
        load_subject(tmp_path / "w.pt", arch=factory)
    assert not canary.exists()


def test_package_factory_imports_nothing_without_trust(tmp_path, canary, monkeypatch):
    package = tmp_path / "assay_canary_package"
    package.mkdir()
    (package / "__init__.py").write_text(f"open({str(canary)!r}, 'w').close()\n")
    (package / "models.py").write_text("def make(): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(TrustRequired):
        load_subject("assay_canary_package.models:make")
    assert not canary.exists()
    assert "assay_canary_package" not in sys.modules


def test_exported_program_needs_trust_before_it_is_opened(tmp_path, canary):
    program = torch.export.export(
        demo_model(), (torch.rand(2, 1, 8, 8),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)
    )
    torch.export.save(program, tmp_path / "m.pt2")
    torch.save(Bomb(canary), tmp_path / "sample.pt")
    poisoned = tmp_path / "poisoned.pt2"
    with zipfile.ZipFile(tmp_path / "m.pt2") as source, zipfile.ZipFile(poisoned, "w") as target:
        for entry in source.infolist():
            is_sample = entry.filename.endswith("sample_inputs/model.pt")
            name = entry.filename.replace("m/", "poisoned/", 1)
            target.writestr(name, (tmp_path / "sample.pt").read_bytes() if is_sample else source.read(entry))
    with pytest.raises(TrustRequired, match="exported program"):
        load_subject(poisoned)
    assert not canary.exists()


@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
def test_object_arrays_are_never_opened(tmp_path, canary, name):
    array = numpy.array([Bomb(canary), None], dtype=object)
    if name == "a.npy":
        numpy.save(tmp_path / name, array, allow_pickle=True)
    else:
        numpy.savez(tmp_path / name, x=array)
    for trust in (False, True):
        with pytest.raises(SubjectError, match="pickled objects"):
            load_data(tmp_path / name, trust=trust)
    assert not canary.exists()


def test_pickle_under_another_name_is_not_executed(tmp_path, canary):
    for name in ("w.safetensors", "a.npy", "a.npz", "t.csv", "t.parquet", "pictures/x.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(pickle.dumps(Bomb(canary)))
        with pytest.raises(SubjectError):
            load_subject(path, arch="demo") if path.suffix == ".safetensors" else load_data(
                path.parent if path.suffix == ".png" else path
            )
    assert not canary.exists()


@pytest.mark.models("torchvision", "timm")
@pytest.mark.parametrize(
    "spec",
    ["timm:hf-hub:someone/net", "timm:local-dir:/tmp", "torchvision:fasterrcnn_resnet50_fpn", "torchvision:raft_large"],
)
def test_names_that_would_download_are_unknown(monkeypatch, spec):
    def refuse(*_):
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    with pytest.raises(UsageError, match="has no classification network"):
        load_subject(spec)


def test_the_decision_is_made_in_one_place():
    trust = Trust(False)
    with pytest.raises(TrustRequired) as caught:
        require_trust(trust, "factory a:b", "a:b")
    assert caught.value.exit_code == 2
    assert trust.executed == []
    package = Path(sys.modules["assay.load"].__file__).parent
    for file in package.rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        assert ".given" not in text or file.name == "trust.py"
        assert "allow_pickle=True" not in text
        assert "pickle.load" not in text
