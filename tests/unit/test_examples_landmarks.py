"""Landmark networks of the examples: published weights give what their own code gives; the loaders trust no archive."""

import io
import json
import math
import os
import re
import sys
import tarfile
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image

from assay.certified.prepared import bound_graph
from assay.load import load_subject
from assay.smoothness import Line, Network
from assay.smoothness.remedies import rewritten

EXAMPLES = Path(__file__).parents[2] / "examples"
MANIFEST = "model/face_landmark_68_model-weights_manifest.json"
BYTES = "face_landmark_68_model.bin"
EYES_NOSE_MOUTH = (range(36, 42), range(42, 48), (30,), (48,), (54,))
"""Where the 68 points hold what the 5 points are."""
# What the package's own JavaScript (1.7.15, CPU backend) answers to `stored_bytes` and `picture`, the first 12 points.
PUBLISHED = (
    0.0178166, -0.901961, -0.412147, 0.72451, 0.696738, 0.0203023, -0.861621, 1.61444,
    -1.02156, -0.0468056, 0.0525467, -0.604553, 0.539514, -0.369518, -0.405054, -0.762223,
    0.00504636, 0.461821, 0.439305, -0.306831, 0.490029, 0.551653, 0.306924, 0.941214,
)  # fmt: skip


@pytest.fixture
def examples(monkeypatch):
    """The modules of the examples, importable as their neighbours import them."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    yield
    for name in ("onet", "face_landmarks", "head_shift"):
        sys.modules.pop(name, None)


def layers() -> list[tuple[str, list[int], int]]:
    """Names and shapes of the tensors of the 68-point network in the order of the file, and inputs of every output."""
    found: list[tuple[str, list[int], int]] = []
    sizes = (3, 32, 64, 128, 256)
    for block in range(4):
        inputs, outputs = sizes[block], sizes[block + 1]
        for index in range(4):
            name = f"dense{block}/conv{index}"
            if block == index == 0:
                found.append((f"{name}/filters", [3, 3, 3, outputs], 27))
            else:
                into = inputs if index == 0 else outputs
                found.append((f"{name}/depthwise_filter", [3, 3, into, 1], 9))
                found.append((f"{name}/pointwise_filter", [1, 1, into, outputs], into))
            found.append((f"{name}/bias", [outputs], 300))
    return [*found, ("fc/weights", [256, 136], 256), ("fc/bias", [136], 300)]


def manifest() -> list[dict]:
    entries = []
    for name, shape, inputs in layers():
        limit = 1.7 / math.sqrt(inputs)
        scaling = {"dtype": "uint8", "scale": 2 * limit / 255, "min": -limit}
        entries.append({"name": name, "shape": shape, "dtype": "float32", "quantization": scaling})
    return [{"weights": entries, "paths": [BYTES]}]


def stored_bytes() -> bytes:
    count = sum(math.prod(shape) for _, shape, _ in layers())
    return numpy.random.RandomState(68).randint(0, 256, count).astype(numpy.uint8).tobytes()


def picture() -> torch.Tensor:
    """(1, 3, 112, 112) as the network wants it."""
    pixels = numpy.random.RandomState(112).randint(0, 256, (112, 112, 3)).astype(numpy.float32)
    mean = torch.tensor((122.782, 117.001, 104.298))
    return ((torch.from_numpy(pixels) - mean) / 255).permute(2, 0, 1).unsqueeze(0)


def archive(path: Path, **replaced: bytes | tarfile.TarInfo) -> Path:
    files: dict[str, bytes | tarfile.TarInfo] = {
        "manifest": json.dumps(manifest()).encode(),
        "weights": stored_bytes(),
    } | replaced
    names = {"manifest": f"package/{MANIFEST}", "weights": f"package/model/{BYTES}"}
    with tarfile.open(path, "w:gz") as tar:
        for key, content in files.items():
            info = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(names[key])
            info.name = names[key]
            if isinstance(content, bytes):
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
            else:
                tar.addfile(info)
    return path


def test_68_points_are_what_the_package_computes(examples, tmp_path):
    import face_landmarks

    network = face_landmarks.load(archive(tmp_path / "package.tgz"))
    with torch.no_grad():
        found = network(picture())[0] / 112
    published = torch.tensor(PUBLISHED)
    assert torch.allclose(found[: len(published)], published, rtol=2e-5, atol=2e-6)


def test_folder_and_archive_agree_and_the_archive_is_read_as_a_factory(examples, tmp_path, monkeypatch):
    import face_landmarks

    file = archive(tmp_path / "package.tgz")
    with tarfile.open(file) as tar:
        tar.extractall(tmp_path, filter="data")
    packed, unpacked = face_landmarks.load(file), face_landmarks.load(tmp_path / "package")
    assert all(torch.equal(a, b) for a, b in zip(packed.parameters(), unpacked.parameters(), strict=True))
    monkeypatch.setenv("FACE_API", str(file))
    subject = load_subject(f"{EXAMPLES / 'face_landmarks.py'}:load", trust=True)
    assert torch.equal(subject.model(picture()), packed(picture()))


def test_without_a_package_the_variable_is_named(examples, monkeypatch):
    import face_landmarks

    monkeypatch.delenv("FACE_API", raising=False)
    with pytest.raises(FileNotFoundError, match="FACE_API"):
        face_landmarks.load()


def link(target: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo()
    info.type = tarfile.SYMTYPE
    info.linkname = target
    return info


def renamed(path: str) -> bytes:
    group = manifest()[0]
    return json.dumps([{**group, "paths": [path]}]).encode()


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        ({"weights": link("../../secret")}, "plain file|linkname"),
        ({"weights": bytes(5_000_000)}, "plain file"),
        ({"weights": stored_bytes()[:-1]}, "fc/bias"),
        ({"weights": stored_bytes() + b"0"}, "belong to no tensor"),
        ({"manifest": renamed("../../../secret")}, "secret"),
    ],
    ids=["link", "huge", "short", "long", "path"],
)
def test_a_doctored_archive_is_refused(examples, tmp_path, replaced, message):
    import face_landmarks

    (tmp_path / "secret").write_bytes(stored_bytes())
    with pytest.raises((ValueError, KeyError), match=message):
        face_landmarks.load(archive(tmp_path / "package.tgz", **replaced))


def test_a_path_out_of_the_folder_is_not_followed(examples, tmp_path):
    import face_landmarks

    folder = tmp_path / "package"
    (folder / "model").mkdir(parents=True)
    (tmp_path / "secret").write_bytes(stored_bytes())
    (folder / MANIFEST).write_bytes(renamed("../../secret"))
    with pytest.raises(FileNotFoundError, match="secret"):
        face_landmarks.load(folder)


def face(installed_file, side: int) -> torch.Tensor:
    """A face of 110 pixels out of a photo, (1, 3, side, side) in 0..255."""
    file = installed_file("scikit-image", "skimage/data/astronaut.png")
    with Image.open(file) as photo:
        small = photo.convert("RGB").resize((side, side), Image.Resampling.BICUBIC, box=(168, 62, 278, 172))
    return torch.from_numpy(numpy.asarray(small, dtype=numpy.float32)).permute(2, 0, 1).unsqueeze(0)


@pytest.mark.models("facenet-pytorch", "scikit-image")
def test_five_points_and_a_face_are_found_on_a_real_photo(examples, installed_file):
    import onet

    inputs = (face(installed_file, 48) - 127.5) / 128
    whole = load_subject(f"{EXAMPLES / 'onet.py'}:load", trust=True).model
    points = load_subject(f"{EXAMPLES / 'onet.py'}:landmarks", trust=True).model
    with torch.no_grad():
        answers = whole(torch.cat([inputs, torch.zeros_like(inputs)]))
        found = points(inputs)[0].reshape(5, 2)
    assert answers[0, 0] > 0.99
    assert answers[1, 0] < 0.5
    assert torch.allclose(found, 48 * answers[0, 5:].reshape(2, 5).T, atol=1e-4)
    # Read off the photo by eye; where the tip of a nose is, one can say within some pixels only.
    seen = torch.tensor([[203, 101], [247, 103], [222, 126], [204, 140], [244, 142]])
    assert (found * 110 / 48 + torch.tensor([168.0, 62.0]) - seen).norm(dim=1).max() < 6
    assert len(onet.POINTS) == 5


@pytest.mark.models("facenet-pytorch")
def test_landmarks_are_piecewise_linear(examples):
    import onet

    network = onet.landmarks().double()
    torch.manual_seed(3)
    x, direction = torch.randn(1, 3, 48, 48).double(), torch.randn(1, 3, 48, 48).double()
    step = 1e-9 * direction
    with torch.no_grad():
        bend = network(x + step) - 2 * network(x) + network(x - step)
        slope = network(x + step) - network(x)
    assert bend.abs().max() < 1e-4 * slope.abs().max()


@pytest.mark.models("facenet-pytorch", "scikit-image")
def test_both_networks_see_the_same_face(examples, installed_file):
    import face_landmarks
    import onet

    if not os.environ.get("FACE_API"):
        pytest.skip("FACE_API names no archive of @vladmandic/face-api 1.7.15")
    with torch.no_grad():
        five = onet.landmarks()((face(installed_file, 48) - 127.5) / 128).reshape(5, 2) / 48
        mean = torch.tensor(face_landmarks.MEAN).reshape(1, 3, 1, 1)
        many = face_landmarks.load()((face(installed_file, 112) - mean) / 255).reshape(68, 2) / 112
    same = torch.stack([many[list(places)].mean(0) for places in EYES_NOSE_MOUTH])
    distance = (five - same).norm(dim=1)
    assert distance.mean() < 0.02
    assert distance.max() < 0.035


@pytest.mark.models("facenet-pytorch", "scikit-image")
def test_landmarks_follow_the_head(examples):
    import head_shift

    case = head_shift.five_points()
    ends = torch.tensor([0.0, 4.0], dtype=torch.float64)
    shift, growth = (case.track(case.path(kind), ends).reshape(2, 5, 2) for kind in ("translate", "scale"))
    slopes = (shift[1] - shift[0]) / 4  # pixels of the photo per pixel of the photo
    assert (slopes[:, 0] - 1).abs().max() < 0.35
    assert slopes[:, 1].abs().max() < 0.2
    apart = (growth[:, 1] - growth[:, 0]).norm(dim=1)  # the eyes, when the head comes 4 % closer
    assert 1.0 < apart[1] / apart[0] < 1.08
    away = head_shift.apart(shift[:1].reshape(1, 10), torch.zeros(1, 10))
    assert away.shape == (1, 5)


@pytest.mark.models("facenet-pytorch", "scikit-image")
@pytest.mark.parametrize("change", ["average", "blur"])
def test_soft_pools_are_those_of_the_remedy(examples, change):
    import head_shift

    case = head_shift.five_points()
    inputs = case.path("rotate").at(torch.tensor([0.0, 2.0], dtype=torch.float64))[0]
    graph = rewritten(bound_graph(case.model, inputs), change)
    expected = Network.from_graph(graph, (3, 48, 48), None).values(inputs)
    with torch.no_grad():
        found = head_shift.with_soft_pools(case, change, (1, 2, 3)).model(inputs)
        published = case.model(inputs)
    assert torch.allclose(found, expected, atol=1e-12)
    assert (found - published).abs().max() > 0.1


@pytest.mark.models("facenet-pytorch", "scikit-image")
def test_training_towards_the_teacher_changes_only_the_student(examples):
    import head_shift

    case = head_shift.five_points()
    before = [parameter.clone() for parameter in case.model.parameters()]
    blurred = head_shift.with_soft_pools(case, "blur", (1, 2, 3))
    taught = head_shift.imitating(blurred, case, 3)
    again = head_shift.imitating(blurred, case, 3)
    assert all(torch.equal(a, b) for a, b in zip(before, case.model.parameters(), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(before, taught.model.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(taught.model.parameters(), again.model.parameters(), strict=True))
    assert next(taught.model.parameters()).dtype == torch.float64


@pytest.mark.models("facenet-pytorch", "scikit-image")
def test_most_of_o_nets_smp_comes_from_its_first_pools(examples):
    import head_shift

    case = head_shift.five_points()
    found = case.measured(case.path("translate", 0.0, 0.5), 9)
    parts = head_shift.grouped(case, found)
    shares = {name: float(part.sum() / found.value.sum()) for name, part in parts.items()}
    assert sum(shares.values()) == pytest.approx(1.0)
    assert shares["pool1"] > 0.4
    assert shares["pool1"] + shares["pool2"] > 0.65
    assert 4000 < found.density < 11000


@pytest.mark.slow
@pytest.mark.models("facenet-pytorch", "scikit-image")
def test_estimators_agree_on_a_real_face(examples):
    import head_shift

    case = head_shift.five_points()
    ends = torch.tensor([0.0, 0.04 / case.shrunk], dtype=torch.float64)
    line = Line(*case.path("translate").at(ends)[0])
    exact, event = case.measured(line, estimator="exact_line"), case.measured(line, 33)
    assert (event.value / exact.value - 1).abs().max() < 0.02
    assert event.count == pytest.approx(exact.count, rel=0.01)
    for kind in head_shift.UNITS:
        event, kernel = case.measured(case.path(kind), 65), case.measured(case.path(kind), 129, "kac_rice")
        assert abs(float(kernel.value.sum() / event.value.sum()) - 1) < 0.03


@pytest.mark.models("facenet-pytorch", "scikit-image")
def test_the_page_has_a_place_for_every_table(examples):
    import head_shift

    page = (EXAMPLES.parent / "docs" / "smoothness_results.md").read_text(encoding="utf-8")
    names = re.findall(r"<!-- begin (\w+) -->", page)
    assert "kac_rice" in names
    for name in names:
        page = head_shift.filled(page, name, f"table of {name}")
        assert f"<!-- begin {name} -->\n\ntable of {name}\n\n<!-- end {name} -->" in page
    assert len(re.findall(r"<!-- end (\w+) -->", page)) == len(names)
    with pytest.raises(SystemExit, match="nowhere"):
        head_shift.filled(page, "nowhere", "")
