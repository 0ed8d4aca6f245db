"""The pages of the reference that are made from the code are those of the code as it is."""

import importlib.util
import sys
from types import ModuleType

import pytest
from tests.support.documents import DOCS

from assay.cli.program import verbs
from assay.config import AuditConfig


def reference() -> ModuleType:
    """tools/make_reference.py as a module."""
    spec = importlib.util.spec_from_file_location("make_reference", DOCS.parent / "tools" / "make_reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_reference"] = module
    spec.loader.exec_module(module)
    return module


REFERENCE = reference()


@pytest.mark.parametrize("name", ["cli", "configuration"])
def test_a_page_is_up_to_date(name: str):
    page = (DOCS / "reference" / f"{name}.md").read_text(encoding="utf-8")
    assert page == REFERENCE.PAGES[name](), f"run: python tools/make_reference.py {name}"


def test_the_costs_of_the_built_in_network_are_up_to_date():
    page = (DOCS / "reference" / "costs.md").read_text(encoding="utf-8")
    assert "\n".join(REFERENCE.demo_costs()) in page, "run: python tools/make_reference.py costs"


def test_every_verb_and_every_setting_is_listed():
    cli = (DOCS / "reference" / "cli.md").read_text(encoding="utf-8")
    assert [name for name in verbs() if f"\n## {name}\n" not in cli] == []
    settings = (DOCS / "reference" / "configuration.md").read_text(encoding="utf-8")
    for section, field in AuditConfig.model_fields.items():
        part = settings.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
        assert [name for name in field.annotation.model_fields if f"| `{name}` |" not in part] == []


@pytest.mark.parametrize(
    ("kind", "said"),
    [(int | None, "integer"), (tuple[float, ...], "numbers"), (bool, "true or false"), (int | str, "integer or text")],
)
def test_types_in_words(kind: object, said: str):
    assert REFERENCE._kind(kind) == said
