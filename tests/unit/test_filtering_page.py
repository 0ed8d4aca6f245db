"""The pictures and networks of the filtering benchmark, and the page of the documentation made from its results."""

import gzip
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

PROJECT = Path(__file__).resolve().parents[2]


def loaded(folder: str, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, PROJECT / folder / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


NETWORKS = loaded("benchmarks", "_filtering_networks")
PAGE = loaded("tools", "make_filtering_page")


def write_idx(file: Path, array: np.ndarray, kind: int = 8) -> None:
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    file.write_bytes(gzip.compress(bytes([0, 0, kind, array.ndim]) + sizes + array.tobytes()))


@pytest.fixture
def fashion(tmp_path: Path) -> Path:
    values = np.random.default_rng(0)
    for kind, count in (("train", 30), ("t10k", 20)):
        write_idx(tmp_path / f"{kind}-images-idx3-ubyte.gz", values.integers(0, 256, (count, 28, 28)).astype(np.uint8))
        write_idx(tmp_path / f"{kind}-labels-idx1-ubyte.gz", np.arange(count, dtype=np.uint8) % 10)
    return tmp_path


def test_fashion_is_padded_and_scaled(fashion: Path) -> None:
    pictures = NETWORKS.fashion(fashion)
    assert pictures.train_inputs.shape == (30, 1, 32, 32)
    assert pictures.test_inputs.shape == (20, 1, 32, 32)
    edge = pictures.train_inputs.clone()
    edge[:, :, 2:30, 2:30] = 0
    assert not edge.any()
    assert 0.99 < float(pictures.train_inputs.max()) <= 1
    raw = gzip.decompress((fashion / "t10k-images-idx3-ubyte.gz").read_bytes())[16:]
    assert torch.equal(
        pictures.test_inputs[3, 0, 2:30, 2:30] * 255,
        torch.tensor(list(raw[3 * 784 : 4 * 784])).reshape(28, 28).float() / 255 * 255,
    )


def test_other_idx_types_are_refused(fashion: Path) -> None:
    write_idx(fashion / "train-images-idx3-ubyte.gz", np.zeros((2, 28, 28), np.uint8), kind=13)
    with pytest.raises(ValueError, match="not an IDX file"):
        NETWORKS.fashion(fashion)


def test_parts_of_the_test_pictures_do_not_overlap(fashion: Path) -> None:
    pictures = NETWORKS.fashion(fashion)
    first, labels = pictures.testing(5)
    more, _ = pictures.testing(12)
    rest, _ = pictures.testing(15, skip=5)
    assert torch.equal(more[:5], first)  # sweeps of fewer pictures see the first of the others
    assert len(labels) == 5
    everything = torch.cat([first, rest]).flatten(1)
    assert len(torch.unique(everything, dim=0)) == 20


def test_cifar_keeps_its_channels(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3)).astype(np.uint8)
    labels = np.array([1, 2, 3])
    np.savez(tmp_path / "some.npz", x_test=values[:2], y_test=labels[:2], x_train=values, y_train=labels)
    pictures = NETWORKS.cifar(tmp_path / "some.npz")
    assert pictures.train_inputs.shape == (3, 3, 32, 32)
    assert pictures.test_labels.tolist() == [1, 2]
    assert float(pictures.test_inputs[1, 2, 5, 7] * 255) == pytest.approx(float(values[1, 5, 7, 2]))


@pytest.mark.models("torchvision")
@pytest.mark.parametrize(
    ("architecture", "units"), [("resnet18", 21), ("resnet50", 54), ("squeezenet1_1", 26), ("shufflenet_v2_x1_0", 57)]
)
def test_the_four_architectures_have_their_units(architecture: str, units: int) -> None:
    from assay.filtering import select_units

    found = select_units(NETWORKS.network(architecture, channels=1).eval())
    assert len(found) == units
    assert found[0].shape[1] == 1


def test_every_place_of_the_page_is_known() -> None:
    text = (PROJECT / "docs" / "filtering_results.md").read_text(encoding="utf-8")
    begun, ended = re.findall(r"<!-- begin (\w+) -->", text), re.findall(r"<!-- end (\w+) -->", text)
    assert begun == ended
    assert set(begun) == set(PAGE.MADE)


def cell(unit: str, score: float, label: str, **others: Any) -> dict[str, Any]:
    filled = {"filter": "mean", "split": "adversarial", "reference": "compressed", "attack": "static", "removed": 0.5}
    return filled | {"unit": unit, "score": score, "low": score - 0.01, "high": score + 0.01, "label": label} | others


def test_tables_follow_the_numbers() -> None:
    found = []
    for split, reference in (*((split, "compressed") for split in PAGE.SPLITS), ("adversarial", "unfiltered")):
        found += [
            cell(unit, score, label, split=split, reference=reference)
            for unit, score, label in (("a", -0.3, "fragile"), ("b", 0.1, "antifragile"), ("c", 0.2, "antifragile"))
        ]
    cells = {"static": (0.05, 0.07, 0.01), "adaptive": (-0.05, 0.06)}
    for attack, scores in cells.items():
        labels = ["antifragile" if score > 0.03 else "undecided" for score in scores]
        found += [
            cell(unit, score, label, filter="high", split="difference", attack=attack)
            for unit, score, label in zip("abc", scores, labels, strict=False)
        ]
    sweep = {"title": "N", "data": "D", "tau": 0.02, "screen": 0.02, "filters": ["high", "mean"], "units": list("abc"),
             "cells": found}  # fmt: skip
    results = PAGE.Results.__new__(PAGE.Results)
    results.sweeps, results.comparisons = [sweep | {"main": True}, sweep | {"main": False}], []
    rows = PAGE.classes(results).splitlines()[2:]
    assert len(rows) == 4  # sweeps that only serve comparisons are left out
    assert rows[1] == "| N, D | adversarial | compressed | 1 | 0 | 2 | 0 | 0.020 |"
    # Of three cells two are screened; one of them stays above tau, the other falls below -tau.
    assert PAGE.adaptive(results).splitlines()[2] == "| N, D | 3 | 2: 0.02 | 1 | 1 | -0.055 | 2 | 1 |"
    page = "before <!-- begin classes -->old<!-- end classes --> after"
    filled = PAGE.filled(page, results)
    assert "old" not in filled
    assert filled.startswith("before ")
    assert PAGE.filled(filled, results) == filled
    with pytest.raises(KeyError):
        PAGE.filled("<!-- begin nothing --><!-- end nothing -->", results)
