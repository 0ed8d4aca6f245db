"""Capture of the networks people use, and the pages of the documentation that are made from the code."""

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from assay.graph import OPERATORS

PROJECT = Path(__file__).resolve().parents[2]


def load_tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_tables", PROJECT / "tools" / "make_tables.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_tables"] = module
    spec.loader.exec_module(module)
    return module


TABLES = load_tool()
FAMILIES = {family.name: family for family in TABLES.FAMILIES}
SMALL: dict[str, tuple[int, dict[str, Any]]] = {
    "resnet18": (64, {}),
    "mobilenet_v2": (64, {}),
    "shufflenet_v2_x0_5": (64, {}),
    "squeezenet1_1": (64, {}),
    "densenet121": (64, {}),
    "googlenet": (64, {}),
    "vit_b_16": (64, {"image_size": 64}),
}
LAYERS = {"resnet18": 69, "mobilenet_v2": 152, "squeezenet1_1": 65, "vit_b_16": 380}


@pytest.mark.models("torchvision")
@pytest.mark.parametrize("name", SMALL)
def test_the_graph_equals_the_network(name: str):
    size, options = SMALL[name]
    found = TABLES.measure(FAMILIES[name], size, **options)
    assert found.gap < 1e-5
    assert not found.opaque
    assert found.layers == LAYERS.get(name, found.layers)
    assert found.kinds > 3


@pytest.mark.slow
@pytest.mark.parametrize(
    "family", [pytest.param(f, marks=pytest.mark.models(f.library)) for f in TABLES.FAMILIES], ids=FAMILIES
)
def test_the_graph_equals_the_network_at_its_own_size(family: Any):
    assert TABLES.measure(family).gap < 1e-4


def test_enough_families_are_listed():
    assert len(TABLES.TORCHVISION) >= 24
    assert len(TABLES.TIMM) >= 10
    assert len(FAMILIES) == len(TABLES.FAMILIES)


def test_the_page_of_operators_is_up_to_date():
    page = (PROJECT / "docs" / "operators.md").read_text(encoding="utf-8")
    assert page == TABLES.operators_page(), "run: python tools/make_tables.py operators"
    assert set(re.findall(r"^\| `(\w+)` \|", page, flags=re.MULTILINE)) == set(OPERATORS)


def test_the_page_of_captures_lists_the_families():
    page = (PROJECT / "docs" / "capture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([^`]+)` \|.*\| ([\d.e+-]+) \| [\d.]+ \|$", page, flags=re.MULTILINE)
    assert [name for name, _ in rows] == list(FAMILIES), "run: python tools/make_tables.py capture"
    assert all(float(gap) < 1e-4 for _, gap in rows)
