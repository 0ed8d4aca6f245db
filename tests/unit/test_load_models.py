"""Loading models: every form of specification, and every way a file of weights can be wrong."""

import contextlib
import io
import json
import random
import struct
import sys
import zipfile
from pathlib import Path

import numpy
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from assay.errors import MissingExtra, SubjectError, TrustRequired, UsageError
from assay.load import load_subject
from assay.load.demo import DiabetesNet, DigitsNet, demo_data, demo_facts, demo_model, diabetes_split, digits_split
from assay.load.models import FORMS, load_model

FACTORY = """
from torch import nn

def make():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.ReLU(), nn.Linear(4, 10))
"""


@pytest.fixture
def factory(tmp_path: Path) -> str:
    (tmp_path / "nets.py").write_text(FACTORY)
    return f"{tmp_path / 'nets.py'}:make"


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(5)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.ReLU(), nn.Linear(4, 10)).state_dict()


def with_weights(path: Path, factory: str):
    return load_subject(path, arch=factory, trust=True, data="demo", limit=20)


# The demo networks


def test_demo_network_is_well_trained_and_says_so_truly():
    subject = load_subject("demo")
    assert subject.data is not None
    assert len(subject.data) == 500
    accuracy = (subject.probe(subject.data.inputs).argmax(1) == subject.data.targets).double().mean().item()
    assert accuracy >= 0.975
    assert accuracy == pytest.approx(float(demo_facts()["test_accuracy"]), abs=1e-4)
    assert not subject.warnings
    assert not subject.trusted
    assert subject.class_names == tuple("0123456789")
    assert sum(p.numel() for p in subject.model.parameters()) == 5_014


def test_demo_regression_explains_what_it_says():
    subject = load_subject("demo:regression")
    assert subject.task == "regression"
    assert subject.data is not None
    x, y = subject.data.inputs, subject.data.targets
    assert y.shape == (111, 1)
    explained = 1 - float((subject.probe(x) - y).square().mean() / y.var(correction=0))
    assert explained > 0.4
    assert explained == pytest.approx(float(demo_facts("regression")["test_r2"]), abs=1e-3)
    assert load_subject("demo:regression", data="demo").data.digest == subject.data.digest


def test_demo_splits_do_not_overlap():
    for split, sizes in ((digits_split(), (1297, 500)), (diabetes_split(), (331, 111))):
        assert (len(split.train_inputs), len(split.test_inputs)) == sizes
        train = {row.numpy().tobytes() for row in split.train_inputs}
        assert not train & {row.numpy().tobytes() for row in split.test_inputs}
    split = diabetes_split()
    assert torch.allclose(split.train_inputs.mean(0), torch.zeros(10), atol=1e-5)
    assert torch.allclose(split.train_targets.std(), torch.tensor(1.0), atol=1e-5)


def test_demo_files_are_small_and_carry_their_origin():
    folder = Path(sys.modules["assay.load"].__file__).parent.parent / "data"
    assert sum(file.stat().st_size for file in folder.glob("*.safetensors")) < 300_000
    for task in ("classification", "regression"):
        facts = demo_facts(task)
        assert facts["script"] == "tools/train_demo.py"
        assert {"seed", "torch", "scikit-learn", "numpy"} <= facts.keys()


def test_loading_leaves_the_random_streams_alone():
    before = (torch.get_rng_state(), random.getstate(), str(numpy.random.get_state()))
    load_subject("demo", limit=10)
    load_subject("demo:regression", limit=10)
    after = (torch.get_rng_state(), random.getstate(), str(numpy.random.get_state()))
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


# Weights with a network


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth", ".bin"])
def test_weights_in_every_format_give_the_same_model(tmp_path, factory, state, suffix):
    path = tmp_path / f"weights{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    subject = with_weights(path, factory)
    assert torch.equal(subject.model[3].weight, state["3.weight"])
    assert not subject.warnings
    assert subject.trusted == (f"factory {factory}",)
    other = load_subject(factory, weights=path, trust=True, data="demo", limit=20)
    assert other.digest == subject.digest


def test_demo_architecture_takes_weights(tmp_path):
    trained = demo_model()
    save_file({name: tensor * 2 for name, tensor in trained.state_dict().items()}, tmp_path / "w.safetensors")
    subject = load_subject(tmp_path / "w.safetensors", arch="demo", data="demo", limit=20)
    assert torch.equal(subject.model.head.bias, 2 * trained.head.bias)
    assert torch.equal(load_subject("demo").model.head.bias, trained.head.bias)


@pytest.mark.parametrize(
    ("wrap", "said"),
    [
        (lambda state: {"state_dict": state, "epoch": 3}, "'state_dict'"),
        (lambda state: {"model": state, "loss": 0.1}, "'model'"),
        (lambda state: {f"module.{name}": tensor for name, tensor in state.items()}, "'module.'"),
        (lambda state: {f"_orig_mod.module.{name}": tensor for name, tensor in state.items()}, "'_orig_mod.'"),
        (lambda state: {"state_dict": {f"model.{name}": tensor for name, tensor in state.items()}}, "'model.'"),
        (lambda state: {name: tensor.half() for name, tensor in state.items()}, "float16"),
    ],
)
def test_usual_wrappings_are_taken_off_and_said(tmp_path, factory, state, wrap, said):
    torch.save(wrap(state), tmp_path / "w.pt")
    subject = with_weights(tmp_path / "w.pt", factory)
    assert torch.allclose(subject.model[3].weight, state["3.weight"], atol=1e-3)
    assert any(said in warning for warning in subject.warnings)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda state: state.pop("3.bias"), "missing: 3.bias"),
        (lambda state: state.update({"9.weight": torch.ones(1)}), "not in the network: 9.weight"),
        (lambda state: state.update({"3.weight": torch.ones(10, 5)}), r"size mismatch for 3\.weight"),
        (lambda state: state.update({"3.weight": torch.full((10, 4), float("nan"))}), r"NaN[\s\S]*3\.weight"),
        (lambda state: state.clear(), "dictionary"),
    ],
)
def test_weights_that_do_not_fit_are_refused_with_names(tmp_path, factory, state, change, named):
    change(state)
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(SubjectError, match=named):
        with_weights(tmp_path / "w.pt", factory)


def test_long_lists_of_names_are_cut(tmp_path):
    torch.save({f"layer{i}.weight": torch.ones(2) for i in range(40)}, tmp_path / "w.pt")
    with pytest.raises(SubjectError, match=r"layer4\.weight and 35 more") as caught:
        load_subject(tmp_path / "w.pt", arch="demo")
    assert len(str(caught.value)) < 1000


def test_tied_weights_may_be_stored_once(tmp_path):
    (tmp_path / "tied.py").write_text(
        "from torch import nn\ndef make():\n    a, b = nn.Linear(64, 64), nn.Linear(64, 64)\n    b.weight = a.weight\n"
        "    return nn.Sequential(nn.Flatten(), a, b)\n"
    )
    torch.manual_seed(0)
    weight = torch.rand(64, 64)
    save_file({"1.weight": weight, "1.bias": torch.ones(64), "2.bias": torch.ones(64)}, tmp_path / "w.safetensors")
    subject = with_weights(tmp_path / "w.safetensors", f"{tmp_path / 'tied.py'}:make")
    assert torch.equal(subject.model[2].weight, weight)


def test_old_batch_norm_without_counter_loads(tmp_path):
    (tmp_path / "normed.py").write_text(
        "from torch import nn\ndef make():\n    return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), "
        "nn.Linear(64, 10))\n"
    )
    state = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.BatchNorm1d(64), torch.nn.Linear(64, 10)).state_dict()
    state["1.running_mean"] += 0.5
    del state["1.num_batches_tracked"]
    save_file(state, tmp_path / "w.safetensors")
    subject = with_weights(tmp_path / "w.safetensors", f"{tmp_path / 'normed.py'}:make")
    assert torch.equal(subject.model[1].running_mean, torch.full((64,), 0.5))


def test_weights_do_not_reach_an_object_that_others_hold(tmp_path, state, monkeypatch):
    (tmp_path / "assay_test_held.py").write_text(FACTORY + "\nmodel = make()\n")
    torch.save(state, tmp_path / "w.pt")
    monkeypatch.syspath_prepend(tmp_path)
    spec = "assay_test_held:model"
    plain = load_model(spec, trust=True).module
    kept = plain[3].weight.detach().clone()
    load_model(spec, trust=True, weights=tmp_path / "w.pt")
    assert torch.equal(plain[3].weight, kept)


# Damaged and hostile files


def absurd_safetensors(length: int) -> bytes:
    return struct.pack("<Q", length) + b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'


def lying_safetensors() -> bytes:
    header = json.dumps({"a": {"dtype": "F32", "shape": [10**9, 10**9], "data_offsets": [0, 4]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(4)


def zip_bomb() -> bytes:
    """A well-formed archive that says it holds 4 EB."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("w/data.pkl", b"x")
    content = bytearray(buffer.getvalue())
    start = content.rindex(b"PK\x01\x02")
    name = struct.unpack("<H", content[start + 28 : start + 30])[0]
    extra = struct.pack("<HHQ", 1, 8, 2**62)
    content[start + 24 : start + 28] = b"\xff" * 4
    content[start + 30 : start + 32] = struct.pack("<H", len(extra))
    content[start + 46 + name : start + 46 + name] = extra
    end = content.rindex(b"PK\x05\x06")
    content[end + 12 : end + 16] = struct.pack("<I", end - start)
    return bytes(content)


DAMAGED = {
    "empty.pt": b"",
    "empty.safetensors": b"",
    "text.pt": b"these are not weights, whatever the name says\n" * 20,
    "text.safetensors": b"these are not weights, whatever the name says\n" * 20,
    "magic.pt": b"PK\x03\x04" + bytes(200),
    "protocol.pt": b"\x80\x02" + bytes(50),
    "bomb.pt": zip_bomb(),
    "huge_header.safetensors": absurd_safetensors(2**62),
    "long_header.safetensors": absurd_safetensors(10**8 + 1),
    "lying.safetensors": lying_safetensors(),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_file_is_one_clear_error(tmp_path, name):
    (tmp_path / name).write_bytes(DAMAGED[name])
    with pytest.raises(SubjectError) as caught:
        load_subject(tmp_path / name, arch="demo")
    assert name in caught.value.where
    assert "\n" not in caught.value.what
    assert len(caught.value.what) < 400


def test_archive_larger_than_memory_is_refused_by_its_table_of_contents(tmp_path):
    for name in ("bomb.pt", "bomb.pt2"):
        (tmp_path / name).write_bytes(zip_bomb())
        with pytest.raises(SubjectError, match="GB of memory"):
            load_subject(tmp_path / name, trust=True)


def test_flipped_bytes_never_escape_as_another_error(tmp_path):
    """Any damage gives a model or an error of ours; these flips once gave errors of zipfile and of the decoder."""
    good = tmp_path / "w.pt"
    torch.save(demo_model().state_dict(), good)
    content, generator = good.read_bytes(), random.Random(1)
    for _ in range(150):
        damaged = bytearray(content)
        for _ in range(generator.choice((1, 3, 10))):
            damaged[-1 - generator.randrange(600)] = generator.randrange(256)
        good.write_bytes(damaged)
        with contextlib.suppress(SubjectError, TrustRequired):
            load_subject(good, arch="demo")


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("share", [0.0005, 0.02, 0.5, 0.99])
def test_truncated_file_is_one_clear_error(tmp_path, suffix, share):
    path = tmp_path / f"w{suffix}"
    save_file(demo_model().state_dict(), path) if suffix == ".safetensors" else torch.save(
        demo_model().state_dict(), path
    )
    content = path.read_bytes()
    path.write_bytes(content[: max(9, int(share * len(content)))])
    with pytest.raises(SubjectError, match="damaged"):
        load_subject(path, arch="demo")


@pytest.mark.parametrize("content", [[1, 2], {"a": 3}, "text", torch.ones(3)])
def test_file_of_something_else_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(SubjectError, match="not a dictionary of tensors"):
        load_subject(tmp_path / "w.pt", arch="demo")


def test_torchscript_is_refused_with_the_way_out(tmp_path):
    with pytest.warns(DeprecationWarning, match="torch.jit"):
        torch.jit.trace(demo_model(), torch.rand(2, 1, 8, 8)).save(tmp_path / "w.pt")
    for trust in (False, True):
        with pytest.raises(SubjectError, match="TorchScript"):
            load_subject(tmp_path / "w.pt", arch="demo", trust=trust)


def test_missing_file_and_folder_are_said(tmp_path):
    with pytest.raises(SubjectError, match="no such weights file"):
        load_subject(tmp_path / "none.pt", arch="demo")
    (tmp_path / "folder.pt").mkdir()
    with pytest.raises(SubjectError, match="folder"):
        load_subject(tmp_path / "folder.pt", arch="demo")


# Requests that do not make sense


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"spec": "nonsense"}, "demo:regression"),
        ({"spec": "torchvision:"}, "not a model specification"),
        ({"spec": "{w}"}, "--arch"),
        ({"spec": "{w}", "arch": "demo", "weights": "{w}"}, "twice"),
        ({"spec": "demo", "arch": "demo"}, "not such a file"),
        ({"spec": "{w}", "arch": "{w}"}, "must name a network"),
        ({"spec": "demo", "preprocessing": "imagenette"}, "imagenet"),
        ({"spec": "demo", "limit": 0}, "at least 1"),
    ],
)
def test_requests_that_make_no_sense(tmp_path, state, arguments, said):
    torch.save(state, tmp_path / "w.pt")
    arguments = {
        key: str(value).replace("{w}", str(tmp_path / "w.pt")) if key != "limit" else value
        for key, value in arguments.items()
    }
    with pytest.raises(UsageError, match=said):
        load_subject(arguments.pop("spec"), **arguments)


def test_onnx_is_said_to_be_unsupported(tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"\x08\x07")
    with pytest.raises(SubjectError, match="not supported yet"):
        load_subject(tmp_path / "m.onnx")


@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_missing_collection_names_the_extra(monkeypatch, library):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingExtra, match=r"assay\[vision\]"):
        load_subject(f"{library}:resnet18")


def test_collection_that_breaks_on_import_is_explained(tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", [finder for finder in sys.meta_path if "torchvision" not in str(finder)])
    with pytest.raises(SubjectError, match="nms does not exist") as caught:
        load_subject("torchvision:resnet18")
    assert "must match torch" in caught.value.advice


# Factories and exported programs


def test_factory_in_a_package_and_in_a_file(tmp_path, monkeypatch, factory):
    (tmp_path / "assay_test_package").mkdir()
    (tmp_path / "assay_test_package" / "__init__.py").write_text("")
    (tmp_path / "assay_test_package" / "models.py").write_text("from .parts import make\n")
    (tmp_path / "assay_test_package" / "parts.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    path = list(sys.path)
    subject = load_subject("assay_test_package.models:make", trust=True, data="demo", limit=10)
    assert subject.trusted == ("factory assay_test_package.models:make",)
    assert load_subject(factory, trust=True, data="demo", limit=10).output_count == 10
    assert sys.path == path


def test_factory_may_import_its_neighbours_and_draw_numbers(tmp_path):
    (tmp_path / "assay_test_neighbour.py").write_text(FACTORY)
    (tmp_path / "main.py").write_text(
        "import random, numpy, torch\nfrom assay_test_neighbour import make as build\ndef make():\n"
        "    random.seed(1); numpy.random.seed(1); torch.manual_seed(1); torch.set_default_dtype(torch.float64)\n"
        "    torch.set_grad_enabled(False)\n    return build().float()\n"
    )
    before = (torch.get_rng_state(), random.getstate(), str(numpy.random.get_state()))
    load_model(f"{tmp_path / 'main.py'}:make", trust=True)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (random.getstate(), str(numpy.random.get_state()))
    assert torch.get_default_dtype() == torch.float32
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    ("code", "error", "said"),
    [
        ("def make(): raise ValueError('broken inside')", SubjectError, "broken inside"),
        ("import sys; sys.exit(3)", SubjectError, "SystemExit"),
        ("def make(): return 7", SubjectError, "returned int"),
        ("def other(): pass", UsageError, "other"),
        ("def make(:", SubjectError, "SyntaxError"),
        ("import assay_no_such_module", SubjectError, "assay_no_such_module"),
    ],
)
def test_broken_factory_is_one_clear_error(tmp_path, code, error, said):
    (tmp_path / "broken.py").write_text(code)
    with pytest.raises(error, match=said):
        load_subject(f"{tmp_path / 'broken.py'}:make", trust=True)


def test_factory_in_no_module():
    with pytest.raises(UsageError, match="assay_no_such_package"):
        load_subject("assay_no_such_package.models:make", trust=True)


def test_batch_normalisation_in_training_mode_is_taken_from_a_factory(tmp_path):
    (tmp_path / "f.py").write_text(
        "from assay.load.demo import DigitsNet\ndef make():\n    return DigitsNet().train()\n"
    )
    subject = load_subject(f"{tmp_path / 'f.py'}:make", trust=True, data="demo", limit=10)
    assert any("training mode" in warning for warning in subject.warnings)


def export(path: Path, **options) -> None:
    program = torch.export.export(demo_model(), (torch.rand(2, 1, 8, 8),), **options)
    torch.export.save(program, path)


def test_exported_program_computes_what_the_model_does(tmp_path):
    export(tmp_path / "m.pt2", dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    subject = load_subject(tmp_path / "m.pt2", trust=True, data="demo", limit=30)
    assert torch.allclose(subject.probe(subject.data.inputs), demo_model()(subject.data.inputs), atol=1e-5)
    assert subject.trusted == ("exported program m.pt2",)
    assert load_subject(tmp_path / "m.pt2", trust=True).output_count == 10


def test_exported_program_with_a_fixed_batch_is_refused(tmp_path):
    export(tmp_path / "m.pt2")
    with pytest.raises(SubjectError, match="dynamic batch axis"):
        load_subject(tmp_path / "m.pt2", trust=True)


@pytest.mark.parametrize("content", [b"nothing", b"PK\x03\x04" + bytes(100)])
def test_damaged_program_is_one_clear_error(tmp_path, content):
    (tmp_path / "m.pt2").write_bytes(content)
    with pytest.raises(SubjectError, match="damaged"):
        load_subject(tmp_path / "m.pt2", trust=True)


# Outputs and their names


def test_class_names_come_from_a_list_or_a_file(tmp_path):
    names = [f"digit {i}" for i in range(10)]
    (tmp_path / "names.txt").write_text("\n".join(names))
    (tmp_path / "names.json").write_text(json.dumps(names))
    for given in (names, tmp_path / "names.txt", str(tmp_path / "names.json")):
        assert load_subject("demo", limit=10, class_names=given, data="sklearn:digits").class_names == tuple(names)
    with pytest.raises(SubjectError, match="2 class names and 10 outputs"):
        load_subject("demo", limit=10, class_names=["a", "b"])


def test_every_form_is_listed_in_the_error():
    with pytest.raises(UsageError) as caught:
        load_subject("?")
    assert all(form in caught.value.advice for form in FORMS)


def test_architectures_can_be_built_directly():
    assert DigitsNet()(demo_data().inputs[:3]).shape == (3, 10)
    assert DiabetesNet()(torch.zeros(3, 10)).shape == (3, 1)
