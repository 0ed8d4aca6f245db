"""Loading folders of pictures: labels, sizes, colours, and every way a folder or a file in it can be wrong."""

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image

from assay.errors import SubjectError
from assay.load import load_data, load_subject
from assay.preprocess import Preprocessing

SQUARE = Preprocessing(resize=8, crop=8)


def picture(path: Path, colour: Sequence[int] | int = (255, 0, 51), size: tuple[int, int] = (10, 8), **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    mode = "L" if isinstance(colour, int) else "RGB"
    Image.new(mode, size, colour if isinstance(colour, int) else tuple(colour)).save(path, **options)
    return path


def test_class_folders_become_labels_in_the_order_of_their_names(tmp_path):
    for name in ("dog", "cat"):
        for number in range(3):
            picture(tmp_path / name / f"{number}.png", (number * 10, 0, 0) if name == "cat" else (0, number * 10, 0))
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "cat" / "notes.txt").write_text("not a picture")
    (tmp_path / "cat" / "._0.png").write_text("a resource fork")
    data = load_data(tmp_path, SQUARE)
    assert data.class_names == ("cat", "dog")
    assert data.targets.tolist() == [0, 0, 0, 1, 1, 1]
    assert data.inputs.shape == (6, 3, 8, 8)
    assert torch.allclose(
        data.inputs[:, :, 0, 0] * 255,
        torch.tensor([[0, 0, 0], [10, 0, 0], [20, 0, 0], [0, 0, 0], [0, 10, 0], [0, 20, 0]]).float(),
    )
    assert data.bounds == (0.0, 1.0)
    assert load_data(tmp_path, SQUARE, limit=2).targets.tolist() == [0, 1]
    assert load_data(tmp_path, SQUARE).digest == data.digest


def test_folders_named_by_integers_are_the_labels(tmp_path):
    for name in ("207", "5", "30"):
        picture(tmp_path / name / "x.jpg")
    data = load_data(tmp_path, SQUARE)
    assert data.targets.tolist() == [5, 30, 207]
    assert data.class_names == ()


def test_named_folders_need_the_names_of_a_larger_model(tmp_path):
    (tmp_path / "net.py").write_text(
        "from torch import nn\ndef make():\n    return nn.Sequential(nn.Flatten(), nn.Linear(192, 5))\n"
    )
    for name in ("house_cat", "Dog"):
        picture(tmp_path / "data" / name / "x.png")
    options = {"data": tmp_path / "data", "trust": True, "preprocessing": SQUARE}
    spec = f"{tmp_path / 'net.py'}:make"
    with pytest.raises(SubjectError, match="5 outputs"):
        load_subject(spec, **options)
    subject = load_subject(spec, **options, class_names=["ant", "dog", "bee", "house cat", "cow"])
    assert subject.data.targets.tolist() == [1, 3]
    assert subject.class_names[3] == "house cat"


@pytest.mark.parametrize(
    ("name", "content", "targets", "class_names"),
    [
        ("labels.csv", "file,label\nb.png,7\na.png,3\n", [3, 7], ()),
        ("labels.csv", "a.png,dog\nb.png,big cat\n", [1, 0], ("big cat", "dog")),
        ("labels.csv", "a.png,0.5\nb.png,1.5\n", [[0.5], [1.5]], ()),
        ("labels.csv", "a.png,1,2\nb.png,3,4\n", [[1.0, 2.0], [3.0, 4.0]], ()),
        ("labels.txt", "a.png 3\nb.png\t7\n", [3, 7], ()),
        ("labels.json", '{"a.png": 3, "b.png": 7}', [3, 7], ()),
        ("labels.json", '{"a.png": "x", "b.png": "y"}', [0, 1], ("x", "y")),
    ],
)
def test_flat_folder_takes_labels_from_a_file(tmp_path, name, content, targets, class_names):
    for file in ("a.png", "b.png", "c.png"):
        picture(tmp_path / file)
    (tmp_path / name).write_text(content)
    data = load_data(tmp_path, SQUARE)
    assert data.targets.tolist() == targets
    assert data.class_names == class_names
    assert any("1 pictures without an entry" in note for note in data.notes)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a.png,1\nmissing.png,2\n", "not there"),
        ("a.png,1\n../secret.png,2\n", "outside"),
        ("a.png,1\na.png,2\n", "twice"),
        ("a.png\n", "no label"),
        ("a.png,\n", "no label"),
        ("file,label\n", "no labels"),
        ("a.png,1,2\nb.png,3\n", "more target values"),
    ],
)
def test_labels_that_do_not_match_are_refused(tmp_path, content, said):
    folder = tmp_path / "pictures"
    picture(folder / "a.png")
    picture(folder / "b.png")
    picture(tmp_path / "secret.png")
    (folder / "labels.csv").write_text(content)
    with pytest.raises(SubjectError, match=said):
        load_data(folder, SQUARE)


def test_flat_folder_without_labels_has_no_targets(tmp_path):
    picture(tmp_path / "2.png", (20, 0, 0))
    picture(tmp_path / "1.png", (10, 0, 0))
    data = load_data(tmp_path, SQUARE)
    assert data.targets is None
    assert (data.inputs[:, 0, 0, 0] * 255).round().tolist() == [10, 20]


def test_split_folders_do_not_become_classes(tmp_path):
    for split in ("train", "val"):
        picture(tmp_path / split / "cat" / "x.png")
    with pytest.raises(SubjectError, match="two levels down"):
        load_data(tmp_path, SQUARE)


def test_exif_rotation_is_applied(tmp_path):
    upright = Image.new("RGB", (8, 16), (0, 0, 0))
    upright.paste((255, 255, 255), (0, 0, 8, 8))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 270 degrees to look at it
    upright.rotate(90, expand=True).save(tmp_path / "x.png", exif=exif)
    data = load_data(tmp_path)
    assert data.inputs.shape == (1, 3, 16, 8)
    assert float(data.inputs[0, :, :8].mean()) == 1.0
    assert float(data.inputs[0, :, 8:].mean()) == 0.0


def test_pixels_are_mapped_to_the_bounds(tmp_path):
    picture(tmp_path / "x.png", (255, 0, 51))
    for bounds, wanted in (((0.0, 255.0), [255, 0, 51]), ((-1.0, 1.0), [1, -1, -0.6]), (None, [1, 0, 0.2])):
        data = load_data(tmp_path, Preprocessing(bounds=bounds))
        assert torch.allclose(data.inputs[0, :, 0, 0], torch.tensor(wanted, dtype=torch.float32), atol=1e-6)
        assert data.bounds == (bounds or (0.0, 1.0))


def test_grey_pictures_for_a_model_of_one_channel(tmp_path):
    picture(tmp_path / "data" / "x.png", 51, size=(8, 8))
    subject = load_subject("demo", data=tmp_path / "data")
    assert subject.data.inputs.shape == (1, 1, 8, 8)
    assert torch.allclose(subject.data.inputs, torch.tensor(0.2))
    assert load_data(tmp_path / "data").inputs.shape == (1, 3, 8, 8)


def test_sixteen_bits_keep_their_brightness_and_thirty_two_are_refused(tmp_path):
    Image.fromarray(numpy.full((8, 8), 51 * 257, numpy.uint16)).save(tmp_path / "x.png")
    assert torch.allclose(load_data(tmp_path).inputs, torch.tensor(0.2))
    Image.fromarray(numpy.full((8, 8), 7.0, numpy.float32)).save(tmp_path / "y.tiff")
    with pytest.raises(SubjectError, match="32-bit"):
        load_data(tmp_path)


def test_different_sizes_need_resize_and_crop(tmp_path):
    picture(tmp_path / "a.png", size=(10, 8))
    picture(tmp_path / "b.png", size=(8, 10))
    with pytest.raises(SubjectError, match="10 x 8 and 8 x 10"):
        load_data(tmp_path)
    with pytest.raises(SubjectError, match="smaller than the crop"):
        load_data(tmp_path, Preprocessing(crop=9))
    assert load_data(tmp_path, Preprocessing(crop=8)).inputs.shape == (2, 3, 8, 8)


def test_empty_folders_are_said(tmp_path):
    with pytest.raises(SubjectError, match="no pictures"):
        load_data(tmp_path)
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "text.txt").write_text("x")
    with pytest.raises(SubjectError, match="no pictures"):
        load_data(tmp_path)


@pytest.mark.parametrize("content", [b"", b"no picture at all", b"\x89PNG\r\n\x1a\n" + bytes(50)])
def test_corrupt_picture_is_named(tmp_path, content):
    picture(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(content)
    with pytest.raises(SubjectError, match="cannot be read") as caught:
        load_data(tmp_path, SQUARE)
    assert caught.value.where.endswith("b.png")


def test_truncated_picture_is_named(tmp_path):
    noise = numpy.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=numpy.uint8)
    Image.fromarray(noise).save(tmp_path / "a.jpg")
    content = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(content[: len(content) // 2])
    with pytest.raises(SubjectError, match="cannot be read"):
        load_data(tmp_path)


@pytest.mark.parametrize("side", [10_000, 60_000])
def test_decompression_bomb_is_refused_unread(tmp_path, side):
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    (tmp_path / "bomb.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )
    with pytest.raises(SubjectError, match="decompression bomb"):
        load_data(tmp_path)


@pytest.mark.models("torchvision")
@pytest.mark.parametrize("size", [(61, 40), (40, 61), (33, 33), (20, 47)])
def test_resize_and_crop_equal_torchvision(tmp_path, size):
    from torchvision.transforms import v2

    noise = numpy.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=numpy.uint8)
    Image.fromarray(noise).save(tmp_path / "x.png")
    ours = load_data(tmp_path, Preprocessing(resize=30, crop=25)).inputs[0]
    transform = v2.Compose([v2.Resize(30), v2.CenterCrop(25), v2.PILToTensor()])
    assert torch.equal((ours * 255).round().to(torch.uint8), transform(Image.fromarray(noise)))


def test_preset_by_name_and_bounds_from_the_pictures(tmp_path):
    picture(tmp_path / "data" / "x.png", size=(300, 260))
    (tmp_path / "net.py").write_text(
        "from torch import nn\ndef make():\n"
        "    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))\n"
    )
    subject = load_subject(f"{tmp_path / 'net.py'}:make", data=tmp_path / "data", trust=True, preprocessing="imagenet")
    assert subject.data.inputs.shape == (1, 3, 224, 224)
    assert [name for name, _ in subject.model.named_children()] == ["preprocessing", "model"]
    given = Preprocessing(mean=(0.5,), std=(0.5,))
    assert load_subject(
        f"{tmp_path / 'net.py'}:make", data=tmp_path / "data", trust=True, preprocessing=given
    ).preprocessing.bounds == (0, 1)
