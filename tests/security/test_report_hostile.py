"""Names and drawings written by an attacker are inert in the report, the fragment, the figures and the terminal."""

import re
from dataclasses import replace

import html5lib
import numpy
import pytest

from assay.grade import Grade
from assay.render import svg
from assay.render.beside import folder_of
from assay.render.html import LIMIT, render, result_fragment, write_report
from assay.render.spread import FITS
from assay.render.terminal import to_text
from assay.results import Audit, Column, Figure, Finding, Provenance, Quantity, Result, Status, Table

XHTML = "{http://www.w3.org/1999/xhtml}"
RELATIVE = re.compile(
    r"#[\w-]+|(\./re%27port%22%3Cb%3E_layers/)?layers-\d{4}\.html(#r\d+)?|\.\./re%27port%22%3Cb%3E\.html#layers"
)
NAMES = {
    "script": "</script><script>alert(1)</script>",
    "style": "</style><img src=x onerror=alert(1)>",
    "quotes": '" onmouseover="alert(1)" x=\'',
    "attribute": "'><svg/onload=alert(1)>",
    "comment": "<!--<script>--><![CDATA[",
    "template": "{{ 7 * 7 }}{% include 'x' %}${7*7}",
    "direction": "safe\u202egnp.exe\u2066\u200f",
    "nul": "a\x00b\x1b[31m\x9b\ud800\uffff",
    "long": "n" * 10_000,
    "url": "javascript:alert(1)",
    "entity": "&lt;script&gt;&#0;&NoSuch;",
    "empty": "",
}
ALLOWED = set(
    re.findall(
        r"\w+",
        "html head meta title style body a header p h1 h2 h3 div dl dt dd bdi nav ul ol li i main section span abbr "
        "details summary figure figcaption table thead tbody tr th td label select option input footer script code b "
        "pre svg g path rect line text tspan defs clipPath marker linearGradient image optgroup",
    )
)


def hostile_audit(name: str) -> Audit:
    """An audit in which every text is the hostile one."""
    table = Table(
        name,
        name,
        (Column("node", name, node=True, description=name), Column(name, name, name, Grade.EXACT, name)),
        ((name, 1.0), (name + "2", 2.0)),
        name,
    )
    words = Table(name, name, (Column(name, name, name, None, name),), ((name,), (None,)), name)
    data = {"x": [1, 2], "series": [{"label": name, "y": [1, 2]}, {"label": name, "y": [2, 1]}]}
    grid = {"array": "m", "row_labels": [name, name], "column_labels": [name, name]}
    figures = (
        Figure("lines", name, name, data | {"x_label": name, "y_label": name}),
        Figure("bars", name, name, {"labels": [name, name], "series": [{"label": name, "values": [1, 2]}]}),
        Figure("matrix", name, name, grid | {"x_label": name, "y_label": name, "percent": False}),
        Figure("heatmaps", name, name, {"panels": [{"array": "m", "title": name}], "columns": 1}),
        Figure(name, name, name, {}),
    )
    provenance = Provenance(name, name, name, name, name, {name: name, "list": [name]}, 0, {name: name}, (name,))
    result = Result(
        name,
        name,
        name,
        {name: Quantity(1.0, Grade.EXACT, name, name, 0.0, 2.0, name)},
        {"a": table, name: words},
        {"m": numpy.eye(2)},
        figures,
        (Finding(name, Status.FAIL, name, name, name), Finding(name, Status.PASS, name)),
        (name,),
        provenance,
    )
    subject = dict.fromkeys(("name", "model_digest", "task", "data", name), name) | {
        "class_names": [name] * 60,
        "trusted": [name],
        "warnings": [name],
        "preprocessing": {name: name},
        "bounds": [name, name],
    }
    escaped = "".join(c if c.isalnum() else f"&#{ord(c)};" for c in name if c.isprintable())
    graph = (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9">'
        f'<g class="node" data-node="{escaped}"><title>{escaped}</title><rect width="3" height="3"/>'
        f"<text>{escaped}</text></g></svg>"
    )
    return Audit(subject, {name: result}, {name: name}, graph, table)


def crowded_audit(name: str, count: int = 600) -> Audit:
    """The hostile audit with so many hostile layers that they take pages beside the report."""
    audit = hostile_audit(name)
    columns = (Column("node", "node", node=True), Column(name, name, name, Grade.EXACT, name), Column("b", name))
    rows = tuple((f"{index}{name[:500]}", float(index), name) for index in range(count))
    result = next(iter(audit.results.values()))
    table = Table(name, name, columns, rows, name)
    return replace(audit, results={name: replace(result, tables={"a": table}, figures=())})


@pytest.mark.parametrize("kind", NAMES)
def test_hostile_names_are_inert(kind: str):
    page = render(hostile_audit(NAMES[kind]))
    root = html5lib.HTMLParser(strict=True).parse(page)
    tags = {str(e.tag).rpartition("}")[2] for e in root.iter() if isinstance(e.tag, str)}
    assert tags <= ALLOWED
    assert len(list(root.iter(f"{XHTML}script"))) == 1
    assert len(list(root.iter(f"{XHTML}style"))) == 1
    for element in root.iter():
        if not isinstance(element.tag, str):  # a comment
            raise AssertionError("a comment came into the page")
        assert not [name for name in element.attrib if str(name).lower().startswith("on") or name == "style"]
        for name in ("href", "src", "{http://www.w3.org/1999/xlink}href"):
            assert re.match(r"#[\w-]+$|data:image/png;base64,[A-Za-z0-9+/=]+$", element.get(name) or "#x")
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u200e\u200f\ud800-\udfff]", page)
    assert len(page) < 250_000
    page.encode()


@pytest.mark.parametrize("kind", NAMES)
def test_hostile_names_are_inert_on_pages_beside_the_report(kind: str, tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("assay.render.html.FITS", [FITS[-1]])
    path = write_report(crowded_audit(NAMES[kind]), tmp_path / "re'port\"<b>.html")
    pages = sorted(folder_of(path).iterdir())
    assert len(pages) >= 2
    for file in (path, *pages):
        page = file.read_text(encoding="utf-8")
        root = html5lib.HTMLParser(strict=True).parse(page)
        assert {str(e.tag).rpartition("}")[2] for e in root.iter() if isinstance(e.tag, str)} <= ALLOWED
        assert len(list(root.iter(f"{XHTML}script"))) == 1
        policy = next(e.get("content") for e in root.iter(f"{XHTML}meta") if e.get("http-equiv"))
        assert policy.startswith("default-src 'none';")
        for element in root.iter():
            assert not [name for name in element.attrib if str(name).lower().startswith("on") or name == "style"]
            assert RELATIVE.fullmatch(element.get("href") or "#x"), element.get("href")
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u200e\u200f\ud800-\udfff]", page)
        assert len(page.encode()) <= LIMIT


@pytest.mark.parametrize("kind", NAMES)
def test_hostile_names_are_inert_in_fragment_and_terminal(kind: str):
    audit = hostile_audit(NAMES[kind])
    fragment = result_fragment(next(iter(audit.results.values())))
    root = html5lib.HTMLParser(strict=True).parseFragment(fragment)
    tags = {str(e.tag).rpartition("}")[2] for e in root.iter()}
    assert tags <= ALLOWED | {"strong", "DOCUMENT_FRAGMENT"}
    assert "script" not in tags
    shown = to_text(audit, width=120)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\ud800-\udfff]", shown)


def test_a_template_in_a_name_is_not_run():
    page = render(hostile_audit(NAMES["template"]))
    assert "{{ 7 * 7 }}" in page
    assert "49" not in re.sub(r"<svg.*?</svg>|<script.*?</script>|<style.*?</style>", "", page, flags=re.S)


@pytest.mark.parametrize(
    "inside",
    [
        "<script>alert(1)</script>",
        "<style>@import 'http://x';</style>",
        "<foreignObject><body xmlns='http://www.w3.org/1999/xhtml'><script>1</script></body></foreignObject>",
        "<image href='http://evil/x.png'/>",
        "<use href='http://evil/x.svg#a'/>",
        "<a href='javascript:alert(1)'><rect width='1' height='1'/></a>",
        "<rect onclick='alert(1)' style='background:url(//evil)' fill='url(//evil)' width='1' height='1'/>",
        "<rect style='fill:red;x:expression(1)' clip-path='url(//evil#a)' filter='url(#f)' width='1'/>",
        "<set attributeName='href' to='javascript:alert(1)'/><animate attributeName='x'/>",
        "<rect transform='url(#x)' font-weight='URL(x)' opacity='url(#y)' width='1'/>",
        "<text>&lt;script&gt;alert(1)&lt;/script&gt;</text>",
        "<title>&lt;/title&gt;&lt;script&gt;</title>",
        "<g id='layertable' class='node\"x' data-node='other'><rect/></g>",
        "<path d='M0 0\"&gt;&lt;script&gt;'/>",
        "<?xml-stylesheet href='//evil'?><!-- c --><g xml:base='//evil' xmlns:evil='//evil' evil:a='x'/>",
    ],
)
def test_a_hostile_drawing_keeps_only_shapes(inside: str):
    start = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9" onload="alert(1)">'
    text = f'{start}{inside}<rect width="2" height="2"/></svg>'
    drawn = svg.graph(text, ["a"])
    assert drawn.note == ""
    assert '<rect width="2" height="2"/>' in drawn.svg
    root = html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parseFragment(drawn.svg)
    for element in root.iter():
        if element.tag == "DOCUMENT_FRAGMENT":
            continue
        assert str(element.tag).rpartition("}")[2] in {"svg", "g", "rect", "path", "text", "title"}
        names = {str(name).lower() for name in element.attrib}
        assert names <= {"class", "viewbox", "width", "height", "role", "aria-label", "d", "id"}
        assert element.get("id") in (None, "g-layertable")
    assert "evil" not in drawn.svg
    assert "url" not in drawn.svg.lower()
    assert "<script" not in drawn.svg


@pytest.mark.parametrize(
    "text",
    [
        "<svg",
        "<html/>",
        "<svg xmlns='http://www.w3.org/2000/svg'/>",
        "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 nan nan'/>",
        "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 1e300 5'/>",
        "<!DOCTYPE svg [<!ENTITY a 'aaaaaaaaaa'><!ENTITY b '&a;&a;&a;'>]><svg viewBox='0 0 1 1'>&b;</svg>",
        "<svg viewBox='0 0 1 1'>" + "<g>" * 20_000 + "</g>" * 20_000 + "</svg>",
        "<svg viewBox='0 0 1 1'>" + "<rect width='1' height='1'/>" * 300_000 + "</svg>",
        "<svg viewBox='0 0 1 1'>" + "<rect width='1' height='1'/>" * 30_000 + "</svg>",
        "\ud800",
    ],
    ids=range(10),
)
def test_a_broken_drawing_is_left_out_with_a_reason(text: str):
    drawn = svg.graph(text, [])
    assert drawn.svg == ""
    assert drawn.note
    page = render(Audit({"name": "m"}, {}, graph_svg=text))
    assert "The drawing" in page
