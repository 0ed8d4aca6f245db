"""The report without a mouse, without eyes, and on paper."""

import base64
import re
import zlib
from pathlib import Path
from typing import Any

import pytest
from tests.support.devtools import Page
from tests.support.reading import CONTRAST, opened

pytestmark = pytest.mark.browser


def tree(page: Page) -> list[dict[str, Any]]:
    """What a screen reader is told: role, name, description and value of everything that is not ignored."""
    page.send("Accessibility.enable")
    nodes = page.send("Accessibility.getFullAXTree")["nodes"]

    def value(node: dict[str, Any], key: str) -> str:
        return str(node.get(key, {}).get("value", ""))

    return [
        {key: value(node, key) for key in ("role", "name", "description")}
        | {"properties": {each["name"]: each["value"].get("value") for each in node.get("properties", [])}}
        for node in nodes
        if not node.get("ignored")
    ]


def test_landmarks_headings_and_names_for_a_screen_reader(page: Page, report: Path):
    told = tree(opened(page, report))
    roles = [node["role"] for node in told]
    for landmark in ("banner", "navigation", "main", "contentinfo"):
        assert roles.count(landmark) == 1, landmark
    regions = [node["name"] for node in told if node["role"] == "region"]
    assert "What matters most" in regions
    assert all(regions)
    assert len(set(regions)) == len(regions)
    for role in ("button", "link", "combobox", "searchbox", "image", "table", "textbox", "heading"):
        assert [node for node in told if node["role"] == role and not node["name"].strip()] == [], role
    images = [node for node in told if node["role"] == "image" and node["name"] != "Graph of the model"]
    assert len(images) == 9
    assert all(node["description"] for node in images)  # the caption says how to read it
    assert {node["name"] for node in told if node["role"] in ("combobox", "searchbox")} == {
        "Colour the graph by", "Show layers with", "Columns",
    }  # fmt: skip
    current = [node["name"] for node in told if node["role"] == "link" and ": " in node["name"]][:2]
    assert [name.replace(" :", ":") for name in current] == ["Moments: fail", "Sensitivity: pass"]


def test_a_keyboard_reaches_everything_and_focus_is_seen(page: Page, report: Path):
    opened(page, report)
    seen: list[str] = []
    for _ in range(400):
        page.press("Tab", 9)
        name, outline, width = page.run(
            "(() => { const e = document.activeElement, s = getComputedStyle(e);"
            " return [e.id || e.className || e.tagName, s.outlineStyle, parseFloat(s.outlineWidth)]; })()"
        )
        if name == "BODY":
            break
        assert outline != "none", name
        assert width >= 1, name
        seen.append(name)
    assert seen[0] == "skip"
    assert page.run("document.querySelector('.skip').getBoundingClientRect().left") < 0  # only while it has the focus
    assert {"colour", "filter", "columns"} <= set(seen)
    buttons = page.run("[...document.querySelectorAll('thead button')].filter(b => b.checkVisibility()).length")
    assert seen.count("BUTTON") == buttons
    assert not [name for name in seen if name.startswith("n")]  # nodes of the graph: the table has the same links


def test_the_skip_link_leads_past_the_contents(page: Page, report: Path):
    opened(page, report)
    page.press("Tab", 9)
    assert page.run("document.activeElement.className") == "skip"
    assert page.run("document.activeElement.getBoundingClientRect().left") >= 0
    page.press("Enter", 13, "\r")
    assert page.run("document.activeElement.id") == "content"


def test_the_arrow_keys_choose_the_colours(page: Page, report: Path):
    opened(page, report)
    page.run("document.getElementById('colour').focus()")
    before = page.run("document.getElementById('high').textContent")
    page.press("ArrowDown", 40)
    assert page.run("document.getElementById('colour').selectedOptions[0].text") == "Condition number κ"
    assert page.run("document.getElementById('high').textContent") != before
    assert page.run("document.getElementById('legend').getAttribute('role')") == "status"


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_pages_beside_the_report_are_legible(page: Page, large_report: Path, dark: bool):
    opened(page, large_report.parent / "report_layers" / "layers-0002.html", dark=dark)
    ratio, kind, words = page.run(CONTRAST)
    assert ratio >= 4.5, f"contrast {ratio:.2f}: {kind} {words!r}"
    roles = [node["role"] for node in tree(page)]
    assert [roles.count(role) for role in ("banner", "main", "contentinfo")] == [1, 1, 1]


def test_paper_shows_what_is_folded_away(page: Page, report: Path):
    folded = "[...document.querySelectorAll('details')].map(d => d.lastElementChild.checkVisibility({{{0}}}))"
    visible = folded.format("contentVisibilityAuto: true, visibilityProperty: true")
    try:
        opened(page, report, scripts=False)
        assert not any(page.run(visible))
        opened(page, report, scripts=False, media="print", dark=True)
        assert all(page.run(visible))  # even where no script opens them
        assert page.run("[...document.querySelectorAll('.tools')].every(t => getComputedStyle(t).display === 'none')")
        avoids = "['.finding', 'figure', 'tr'].map(s => getComputedStyle(document.querySelector(s)).breakInside)"
        assert page.run(avoids) == ["avoid"] * 3
        assert page.run("getComputedStyle(document.querySelector('h2')).breakAfter") == "avoid"
    finally:
        page.window(1280)


def test_the_printed_pages_are_few_and_white(page: Page, report: Path):
    try:
        opened(page, report, dark=True)
        printed = base64.b64decode(page.send("Page.printToPDF", printBackground=True)["data"])
        assert 3 <= len(re.findall(rb"/Type\s*/Page\b", printed)) <= 30
        streams = [zlib.decompress(part) for part in re.findall(rb"stream\r?\n(x.*?)endstream", printed, re.DOTALL)]
        assert len(streams) > 3
        assert page.run("[...document.querySelectorAll('details')].every(d => !d.open)")  # as before
    finally:
        page.window(1280)
