"""Loading data: the formats, what they decide and say, and every way a file can be wrong."""

import io
import struct
import sys
import zipfile
from pathlib import Path

import numpy
import pandas
import pytest
import torch

from assay.errors import MissingExtra, SubjectError, UsageError
from assay.load import load_data, load_subject
from assay.load.choose import chosen_rows
from assay.load.registry import data_formats
from assay.preprocess import Preprocessing

SQUARE = Preprocessing(resize=8, crop=8)


# Choosing samples


@pytest.mark.parametrize("labels", [torch.arange(1000) // 100, torch.arange(1000) % 10, torch.randperm(1000) % 10])
@pytest.mark.parametrize("limit", [10, 37, 500, 999])
def test_limit_keeps_every_class_at_its_share(labels, limit):
    rows = chosen_rows(1000, limit, labels)
    counts = labels[rows].bincount(minlength=10)
    assert len(rows) == limit == len(set(rows.tolist()))
    assert counts.max() - counts.min() <= 1
    assert rows.tolist() == sorted(rows.tolist())


def test_limit_without_labels_spreads_evenly():
    rows = chosen_rows(100, 5)
    assert rows.tolist() == [10, 30, 50, 70, 90]
    assert chosen_rows(3, 5).tolist() == chosen_rows(3, None).tolist() == [0, 1, 2]


# Built-in sets


def test_sklearn_sets():
    digits = load_data("sklearn:digits")
    assert digits.inputs.shape == (1797, 1, 8, 8)
    assert (float(digits.inputs.min()), float(digits.inputs.max())) == digits.bounds == (0.0, 1.0)
    iris = load_data("sklearn:iris")
    assert (iris.inputs.shape, iris.class_names) == ((150, 4), ("setosa", "versicolor", "virginica"))
    diabetes = load_data("sklearn:diabetes")
    assert diabetes.targets.dtype.is_floating_point
    for name in ("wine", "breast_cancer"):
        assert len(load_data(f"sklearn:{name}", limit=20)) == 20
    with pytest.raises(UsageError, match="breast_cancer"):
        load_data("sklearn:california_housing")


def test_unknown_specifications_list_the_forms(tmp_path):
    for spec, error in (
        ("nothing", UsageError),
        (str(tmp_path / "no.npz"), SubjectError),
        ("no/such/folder", SubjectError),
    ):
        with pytest.raises(error):
            load_data(spec)
    with pytest.raises(UsageError) as caught:
        load_data("nothing")
    assert all(each.form in caught.value.advice for each in data_formats())
    (tmp_path / "film.mp4").write_bytes(b"x")
    with pytest.raises(SubjectError, match="not supported"):
        load_data(tmp_path / "film.mp4")


# Arrays


@pytest.mark.parametrize(
    ("keys", "chosen"),
    [
        (("x", "y"), ("x", "y")),
        (("X", "Y"), ("X", "Y")),
        (("images", "labels"), ("images", "labels")),
        (("x_train", "y_train", "x_test", "y_test"), ("x_test", "y_test")),
        (("train_images", "train_labels", "test_images", "test_labels"), ("test_images", "test_labels")),
        (("data", "something"), ("data", None)),
        (("pixels",), ("pixels", None)),
        (("arr_0", "arr_1"), ("arr_0", "arr_1")),
    ],
)
def test_usual_names_of_arrays(tmp_path, keys, chosen):
    arrays = {}
    for place, key in enumerate(keys):
        is_input = key == chosen[0] or key.lower() in ("x_train", "train_images")
        arrays[key] = numpy.full((5, 3), place, numpy.float32) if is_input else numpy.full(5, place)
    numpy.savez(tmp_path / "a.npz", **arrays)
    data = load_data(tmp_path / "a.npz")
    assert torch.equal(data.inputs, torch.from_numpy(arrays[chosen[0]]))
    assert (None if data.targets is None else data.targets.tolist()) == (
        None if chosen[1] is None else arrays[chosen[1]].tolist()
    )


def test_named_arrays_and_their_absence(tmp_path):
    numpy.savez_compressed(tmp_path / "a.npz", p=numpy.ones((4, 2)), q=numpy.arange(4), r=numpy.zeros(4))
    data = load_data(tmp_path / "a.npz", inputs_key="p", targets_key="q")
    assert data.targets.tolist() == [0, 1, 2, 3]
    with pytest.raises(SubjectError, match="p, q, r"):
        load_data(tmp_path / "a.npz")
    with pytest.raises(UsageError, match="'z'"):
        load_data(tmp_path / "a.npz", inputs_key="z")


@pytest.mark.parametrize(
    ("shape", "wanted"),
    [
        ((4, 6, 5, 3), (4, 3, 6, 5)),
        ((4, 6, 5, 1), (4, 1, 6, 5)),
        ((4, 3, 6, 5), (4, 3, 6, 5)),
        ((4, 6, 5), (4, 1, 6, 5)),
        ((4, 7), (4, 7)),
    ],
)
def test_bytes_are_pictures(tmp_path, shape, wanted):
    array = numpy.random.default_rng(0).integers(0, 256, shape, dtype=numpy.uint8)
    array.reshape(-1)[:2] = 0, 255
    numpy.savez(tmp_path / "a.npz", x=array)
    data = load_data(tmp_path / "a.npz")
    assert data.inputs.shape == wanted
    assert (float(data.inputs.min()), float(data.inputs.max())) == data.bounds == (0.0, 1.0)
    assert data.notes
    moved = array.transpose(0, 3, 1, 2) if shape != wanted and len(shape) == 4 else array.reshape(wanted)
    assert torch.allclose(data.inputs * 255, torch.from_numpy(moved.astype(numpy.float32)), atol=1e-4)
    raw = load_data(tmp_path / "a.npz", Preprocessing(bounds=(0, 255)))
    assert float(raw.inputs.max()) == 255.0


def test_types_of_targets(tmp_path):
    x = numpy.ones((3, 2), numpy.float64)
    for y, wanted, names in (
        (numpy.array(["b", "a", "b"]), [1, 0, 1], ("a", "b")),
        (numpy.array([[1], [0], [2]]), [1, 0, 2], ()),
        (numpy.eye(3)[[2, 0, 1]], [2, 0, 1], ()),
        (numpy.array([True, False, True]), [1, 0, 1], ()),
        (numpy.array([1.5, 2.5, 3.5]), [1.5, 2.5, 3.5], ()),
    ):
        numpy.savez(tmp_path / "a.npz", x=x, y=y)
        data = load_data(tmp_path / "a.npz")
        assert data.targets.tolist() == wanted
        assert data.class_names == names
    assert data.inputs.dtype == torch.float64


def test_npy_holds_inputs_and_reads_only_what_it_needs(tmp_path):
    numpy.save(tmp_path / "a.npy", numpy.arange(20, dtype=">f4").reshape(10, 2))
    data = load_data(tmp_path / "a.npy", limit=2)
    assert data.targets is None
    assert data.inputs.tolist() == [[4, 5], [14, 15]]


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (numpy.full((3, 2), numpy.nan), "NaN"),
        (numpy.array([[1.0, numpy.inf]]), "NaN or infinite"),
        (numpy.ones((0, 3)), "empty"),
        (numpy.ones(5), "batch"),
        (numpy.float64(3.0), "empty"),
        (numpy.ones((2, 2), complex), "complex"),
        (numpy.array([["a", "b"]]), "numbers"),
        (numpy.zeros(3, [("a", "f4"), ("b", "i4")]), "records"),
        (numpy.array([["2020-01-01"]], "datetime64[D]"), "dates"),
    ],
)
def test_arrays_that_are_no_batch_of_numbers(tmp_path, array, said):
    numpy.save(tmp_path / "a.npy", array)
    numpy.savez(tmp_path / "a.npz", x=array)
    for name in ("a.npy", "a.npz"):
        with pytest.raises(SubjectError, match=said):
            load_data(tmp_path / name)


def test_unequal_lengths_are_refused(tmp_path):
    numpy.savez(tmp_path / "a.npz", x=numpy.ones((3, 2)), y=numpy.arange(4))
    with pytest.raises(SubjectError, match="3 inputs and 4 targets"):
        load_data(tmp_path / "a.npz")


def lying_npy(shape: tuple[int, ...]) -> bytes:
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(16)


def archive_of(member: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("x.npy", member)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.npy", b""),
        ("a.npy", b"not an array"),
        ("a.npy", b"\x93NUMPY\x01\x00\xff\xff"),
        ("a.npy", lying_npy((10**9, 10**6))),
        ("a.npz", b""),
        ("a.npz", b"not an archive"),
        ("a.npz", archive_of(b"not an array")),
        ("a.npz", archive_of(lying_npy((10**9, 10**6)))),
        ("a.npz", archive_of(lying_npy((4, 1)))[:60]),
    ],
)
def test_damaged_arrays_are_one_clear_error(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SubjectError) as caught:
        load_data(tmp_path / name)
    assert name in caught.value.where
    assert len(caught.value.what) < 400


def test_honest_header_of_the_same_kind_loads(tmp_path):
    (tmp_path / "a.npz").write_bytes(archive_of(lying_npy((4, 1))))
    assert load_data(tmp_path / "a.npz").inputs.shape == (4, 1)


# Tables


def frame() -> pandas.DataFrame:
    return pandas.DataFrame({"b": [1.0, 2.0, 3.0], "a": [4, 5, 6], "label": ["x", "y", "x"]})


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_tables(tmp_path, suffix):
    path = tmp_path / f"t.{suffix}"
    frame().to_csv(path, index=False) if suffix == "csv" else frame().to_parquet(path)
    data = load_data(path)
    assert data.inputs.tolist() == [[1, 4], [2, 5], [3, 6]]
    assert data.targets.tolist() == [0, 1, 0]
    assert data.class_names == ("x", "y")
    assert any("'label'" in note for note in data.notes)
    with pytest.raises(SubjectError, match="label"):
        load_data(path, target_column="a")
    with pytest.raises(UsageError, match="b, a, label"):
        load_data(path, target_column="price")


@pytest.mark.parametrize(
    ("text", "columns", "targets", "note"),
    [
        ("a,b\n1,2\n3,4\n", 2, None, ""),
        ("a,b,y\n1,2,0\n3,4,1\n", 2, [0, 1], "'y'"),
        ("a,b,Target\n1,2,0.5\n3,4,1.5\n", 2, [0.5, 1.5], "'Target'"),
        ("1,2\n3,4\n", 2, None, "no header"),
        (",a,b\n0,1,2\n1,3,4\n", 2, None, "row number"),
    ],
)
def test_csv_headers_and_targets(tmp_path, text, columns, targets, note):
    (tmp_path / "t.csv").write_text(text)
    data = load_data(tmp_path / "t.csv")
    assert data.inputs.tolist() == [[1, 2], [3, 4]]
    assert data.inputs.shape[1] == columns
    assert (None if data.targets is None else data.targets.tolist()) == targets
    assert note in " ".join(data.notes)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("t.csv", b"a,b\n1,2\n3,\n", "'b' has a gap"),
        ("t.csv", b"a,b,y\n1,2,0\n3,4,\n", "target has a gap"),
        ("t.csv", b"a,b\n1,inf\n", "infinite"),
        ("t.csv", b"a,b\n1,word\n", "not: b"),
        ("t.csv", b"a,b\n", "empty"),
        ("t.csv", b"\xff\xfe\x00binary\x00" * 9, "cannot be read"),
        ("t.csv", b"a,b\n1,2,3,4\n5\n6,7,8,9,10\n", "cannot be read"),
        ("t.csv", b"y\n1\n2\n", "no features"),
        ("t.parquet", b"PAR1 no table", "cannot be read"),
        ("t.parquet", b"PAR1" + bytes(100) + struct.pack("<I", 2**31 - 1) + b"PAR1", "cannot be read"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SubjectError, match=said):
        load_data(tmp_path / name)


@pytest.mark.parametrize(("library", "name"), [("pandas", "t.csv"), ("pyarrow.parquet", "t.parquet")])
def test_missing_table_library_names_the_extra(tmp_path, monkeypatch, library, name):
    (tmp_path / name).write_bytes(b"a,b\n1,2\n")
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingExtra, match=r"assay\[tables\]"):
        load_data(tmp_path / name)


# Factories of data

DATA_FACTORIES = """
import numpy, torch
from PIL import Image
from assay.subject import Data
from torch.utils.data import DataLoader, Dataset, TensorDataset

x, y = torch.arange(12.0).reshape(6, 2), torch.arange(6)
def pair(): return x, y
def arrays(): return x.numpy(), y.numpy()
def alone(): return x
def own(): return Data(x, y, "mine")
def dataset(): return TensorDataset(x, y)
def loader(): return DataLoader(TensorDataset(x, y), batch_size=4)
class Pictures(Dataset):
    def __len__(self): return 6
    def __getitem__(self, i): return Image.new("RGB", (20 + i, 16), (0, 51, 255)), i
def pictures(): return Pictures()
class Ragged(Dataset):
    def __len__(self): return 2
    def __getitem__(self, i): return torch.ones(i + 1), 0
def ragged(): return Ragged()
class Broken(Dataset):
    def __len__(self): return 2
    def __getitem__(self, i): raise KeyError("lost")
def broken(): return Broken()
def nothing(): return None
def lists(): return [[1.0, 2.0], [3.0]], [0, 1]
"""


@pytest.fixture
def source(tmp_path: Path) -> str:
    (tmp_path / "sets.py").write_text(DATA_FACTORIES)
    return f"{tmp_path / 'sets.py'}:"


@pytest.mark.parametrize("name", ["pair", "arrays", "own", "dataset", "loader"])
def test_data_factories(source, name):
    data = load_data(source + name, trust=True)
    assert torch.equal(data.inputs, torch.arange(12.0).reshape(6, 2))
    assert data.targets.tolist() == list(range(6))
    assert len(load_data(source + name, trust=True, limit=2)) == 2


def test_data_factory_of_pictures_and_without_targets(source):
    data = load_data(source + "pictures", SQUARE, trust=True)
    assert data.inputs.shape == (6, 3, 8, 8)
    assert torch.allclose(data.inputs[0, :, 0, 0], torch.tensor([0, 0.2, 1.0]))
    assert load_data(source + "alone", trust=True).targets is None


@pytest.mark.parametrize(
    ("name", "said"),
    [("ragged", "different shapes"), ("broken", "lost"), ("nothing", "NoneType"), ("lists", "unequal")],
)
def test_data_factories_that_fail(source, name, said):
    with pytest.raises(SubjectError, match=said):
        load_data(source + name, trust=True)


def test_what_a_data_factory_ran_is_recorded(source):
    (Path(source.removesuffix(":")).parent / "net.py").write_text(
        "from torch import nn\ndef make(): return nn.Linear(2, 6)\n"
    )
    spec = source.replace("sets.py:", "net.py:make")
    subject = load_subject(spec, data=source + "pair", trust=True)
    assert subject.trusted == (f"factory {spec}", f"factory {source}pair")


# Model and data together


def test_task_follows_the_targets(tmp_path):
    (tmp_path / "net.py").write_text("from torch import nn\ndef make(): return nn.Linear(2, 1)\n")
    numpy.savez(tmp_path / "a.npz", x=numpy.ones((4, 2)), y=numpy.array([0.1, 0.2, 0.3, 0.4]))
    subject = load_subject(f"{tmp_path / 'net.py'}:make", data=tmp_path / "a.npz", trust=True)
    assert subject.task == "regression"
    assert subject.data.targets.shape == (4, 1)
    assert any("regression" in warning for warning in subject.warnings)


def test_labels_stored_as_floats_are_labels_when_the_task_says_so(tmp_path):
    (tmp_path / "net.py").write_text("from torch import nn\ndef make(): return nn.Linear(2, 3)\n")
    numpy.savez(tmp_path / "a.npz", x=numpy.ones((4, 2)), y=numpy.array([0.0, 1.0, 2.0, 1.0]))
    subject = load_subject(f"{tmp_path / 'net.py'}:make", data=tmp_path / "a.npz", trust=True, task="classification")
    assert subject.data.targets.tolist() == [0, 1, 2, 1]
    with pytest.raises(SubjectError, match="3 outputs"):
        load_subject(f"{tmp_path / 'net.py'}:make", data=tmp_path / "a.npz", trust=True)


def test_data_of_the_wrong_shape_are_explained(tmp_path):
    numpy.savez(tmp_path / "a.npz", x=numpy.ones((4, 3, 8, 8), numpy.float32))
    with pytest.raises(SubjectError, match=r"does not accept inputs of shape \(3, 8, 8\)"):
        load_subject("demo", data=tmp_path / "a.npz")
