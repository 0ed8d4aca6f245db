"""The report and the other renderers of a whole audit."""

import base64
import errno
import hashlib
import itertools
import json
import math
import os
import re
from dataclasses import replace

import html5lib
import pytest
from tests.support import synthetic

from assay.errors import StoreError
from assay.grade import Grade
from assay.render import svg, view
from assay.render.html import render, result_fragment, write_report
from assay.render.json import to_json
from assay.render.terminal import to_text
from assay.results import Audit, Column, Figure, Finding, Quantity, Result, Status, Table

NAMESPACE = "{http://www.w3.org/1999/xhtml}"
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def audit() -> Audit:
    return synthetic.audit(12)


@pytest.fixture(scope="module")
def page(audit: Audit) -> str:
    return render(audit)


def parse(page: str):
    return html5lib.HTMLParser(strict=True).parse(page)


def words(element) -> str:
    return " ".join("".join(element.itertext()).split())


def test_the_page_is_valid_and_begins_with_the_verdict(page: str):
    root = parse(page)
    assert root.get("lang") == "en"
    body = words(root.find(f"{NAMESPACE}body"))
    order = [
        "residual digits network",
        "Of 5 checks, 1 failed and 1 calls for attention.",
        "The weights are random",
        "What matters most",
        "label changes for 7.3 %",
        "Train with noise of this size",
        "What was examined",
        "none beyond assay itself",
        "If every input value carries a little Gaussian noise, how uncertain does the answer become? fail",
        "What the model computes, from top to bottom",
        "What was left out, and why",
        "branches on its data",
        "What it takes to repeat",
        "How far to trust a number",
    ]
    places = [body.find(part, 0) for part in order]
    assert -1 not in places
    assert sorted(places) == places


def test_headings_are_in_order_and_ids_are_unique(page: str):
    root = parse(page)
    levels = [int(e.tag[-1]) for e in root.iter() if re.fullmatch(re.escape(NAMESPACE) + "h[1-6]", str(e.tag))]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    ids = [e.get("id") for e in root.iter() if e.get("id")]
    assert len(set(ids)) == len(ids)
    links = {e.get("href")[1:] for e in root.iter() if (e.get("href") or "").startswith("#")}
    assert links <= set(ids)
    assert set(re.findall(r"url\(#([\w-]+)\)", page)) <= set(ids)


def test_the_policy_fits_what_is_inlined(page: str):
    root = parse(page)
    metas = [e for e in root.iter(f"{NAMESPACE}meta") if e.get("http-equiv") == "Content-Security-Policy"]
    policy = metas[0].get("content")
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    assert "http" not in policy
    for tag, directive in (("style", "style-src"), ("script", "script-src")):
        elements = list(root.iter(NAMESPACE + tag))
        assert len(elements) == 1
        digest = base64.b64encode(hashlib.sha256(elements[0].text.encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}'" in policy
    for element in root.iter():
        assert "style" not in element.attrib
        assert not [name for name in element.attrib if str(name).lower().startswith("on")]
        for name in ("src", "href", "action", "data"):
            assert (element.get(name) or "#").startswith(("#", "data:image/png;base64,"))


def test_every_number_shows_its_grade(audit: Audit, page: str):
    root = parse(page)
    cards = [e for e in root.iter(f"{NAMESPACE}dl") if e.get("class") == "quantities"]
    for cards_of, result in zip(cards, audit.results.values(), strict=True):  # at most 8, so none are folded away
        shown = [words(e) for e in cards_of.iter(f"{NAMESPACE}abbr")]
        assert shown == [q.grade.value.replace("_", " ") for q in result.summary.values()]
    heads = [th for th in root.iter(f"{NAMESPACE}th") if words(th).startswith("Noise gain")]
    assert len(heads) == 2
    assert all("closed form" in words(th) for th in heads)
    assert all(grade.meaning in page for grade in Grade)


def test_without_a_graph_the_table_still_stands(audit: Audit):
    bare = {name: replace(result, figures=()) for name, result in audit.results.items()}
    page = render(replace(audit, graph_svg="", nodes=None, results=bare))
    assert 'id="layertable"' in page
    assert 'id="colour"' not in page


def test_the_graph_keeps_nodes_and_links(audit: Audit):
    assert audit.nodes is not None
    names = audit.nodes.column("name")
    drawn = svg.graph(audit.graph_svg, names)
    assert drawn.note == ""
    assert re.findall(r'<g class="node" id="n(\d+)">', drawn.svg) == [str(i) for i in range(12)]
    assert drawn.svg.count('<a href="#r') == 12


def test_many_figures_cannot_burst_the_page(audit: Audit, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("assay.render.html.LIMIT", 150_000)
    noisy = Figure("heatmaps", "n", "", {"panels": [{"array": "photo", "title": "p"}] * 9, "columns": 3})
    result = replace(audit.results["moments"], figures=(noisy,) * 4)
    page = render(replace(audit, results={"moments": result, "more": replace(result, name="more", figures=(noisy,))}))
    assert len(page.encode()) <= 150_000
    assert "Left out to keep the page small; draw it with result.plot(3)." in page
    assert "result.plot(0)" not in page  # the first figure of every section comes before the second of any


def test_captions_describe_figures(page: str):
    root = parse(page)
    captions = {e.get("id"): words(e) for e in root.iter(f"{NAMESPACE}figcaption")}
    drawings = [e for e in root.iter(f"{SVG}svg") if e.get("class") == "drawing"]
    assert len(drawings) == 9
    for drawing in drawings:
        assert drawing.get("role") == "img"
        assert drawing.get("aria-label")
        assert captions[drawing.get("aria-describedby")]


def test_long_tables_and_those_of_layers_are_folded(page: str):
    root = parse(page)
    folded = [words(e) for e in root.iter(f"{NAMESPACE}details") if e.get("class") == "fold"]
    assert [" ".join(part.split()[:3]) for part in folded] == ["Show 12 rows", "Show 6 rows"]


def test_more_numbers_and_checks_are_folded_away():
    findings = tuple(Finding("r", Status.PASS, f"sentence {i}.") for i in range(9))
    summary = {f"q{i}": Quantity(1.0 + i, Grade.EXACT, label=f"number {i}") for i in range(11)}
    page = render(Audit({"name": "m"}, {"a": Result("a", "A", "q", summary, findings=findings)}))
    assert "3 more checks passed" in page
    assert "3 more numbers" in page
    assert page.index("number 7") < page.index("3 more numbers") < page.index("number 8")


def test_long_tables_are_cut_with_a_note(audit: Audit):
    table = Table("t", "Long", (Column("a"), Column("b", grade=Grade.EXACT)), tuple((f"r{i}", i) for i in range(5000)))
    page = render(Audit({"name": "m"}, {"r": Result("r", "R", "q", tables={"t": table})}))
    assert "First 200 of 5,000 rows" in page
    assert "<td>r199</td>" in page
    assert "<td>r200</td>" not in page


def test_a_figure_that_cannot_be_drawn_costs_only_itself(audit: Audit):
    broken = replace(audit.results["moments"], figures=(Figure("pie", "A pie", "", {}),))
    page = render(replace(audit, results={"moments": broken}))
    assert "could not be drawn" in page
    assert "A pie" in page


def test_the_page_is_the_same_each_time(audit: Audit, page: str):
    result = audit.results["moments"]
    assert result.provenance is not None
    other = replace(result, provenance=replace(result.provenance, wall_seconds=1.0, peak_bytes=5))
    assert render(replace(audit, results={**audit.results, "moments": other})) == page


@pytest.mark.parametrize(
    ("statuses", "headline"),
    [
        ([], "Measured, not judged: no check was applied."),
        (["pass"], "The one check passed."),
        (["pass"] * 3, "All 3 checks passed."),
        (["warn", "warn", "pass"], "Of 3 checks, none failed and 2 call for attention."),
        (["error"], "Of 1 check, 1 could not be completed and none failed."),
        (["error", "fail", "warn"], "Of 3 checks, 1 could not be completed, 1 failed and 1 calls for attention."),
    ],
)
def test_the_verdict_in_words(statuses, headline):
    findings = tuple(Finding("r", Status(s), "s") for s in statuses)
    audit = Audit({}, {"a": Result("a", "A", "q", findings=findings)})
    assert view.verdict(audit).headline == headline


def test_nothing_measured():
    audit = Audit({"name": "m"}, {}, {"moments": "no graph"})
    assert view.verdict(audit).headline == "Nothing was measured."
    page = render(audit)
    parse(page)
    assert "no graph" in page


def test_trusted_code_is_named(audit: Audit):
    page = render(Audit({**audit.subject, "trusted": ["factory.py:build"]}, {}))
    assert "was executed, because it was trusted: factory.py:build." in page


def test_an_unforeseen_subject_is_shown():
    facts = view.facts({"name": "m", "bounds": [-1, 1], "preprocessing": "as trained", "colour_space": {"a": [1]}})
    assert ("Bounds of the data", "−1 to 1") in facts.rows
    assert ("Preprocessing", "as trained") in facts.rows
    assert ("Colour space", '{"a": [1]}') in facts.rows


def test_writing_is_atomic(audit: Audit, tmp_path, monkeypatch):
    audit = replace(audit, results={})
    path = write_report(audit, tmp_path)
    assert path == tmp_path / "report.html"
    before = path.read_bytes()

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="disk is full"):
        write_report(replace(audit, left_out={}), path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["report.html"]


def test_a_fragment_stands_in_any_page(audit: Audit):
    fragment = audit.results["moments"]._repr_html_()
    root = html5lib.HTMLParser(strict=True).parseFragment(fragment)
    assert "<script" not in fragment
    css = next(e for e in root.iter(f"{NAMESPACE}style")).text
    selectors = [part.strip() for block in re.findall(r"([^{}]+)\{", css) for part in block.split(",")]
    assert all(selector.startswith(".assay-fragment") for selector in selectors)
    ids = [e.get("id") for e in root.iter() if e.get("id")]
    other = re.findall(r' id="([^"]+)"', result_fragment(audit.results["sensitivity"]))
    assert ids
    assert not set(ids) & set(other)


def test_json_is_strict_and_complete(audit: Audit):
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    document = json.loads(to_json(audit), parse_constant=refuse)
    assert document["status"] == "fail"
    assert document["results"]["sensitivity"]["summary"]["local"]["value"] == "NaN"
    flip = document["results"]["moments"]["summary"]["flip"]
    assert flip["grade"] == "closed_form"
    assert flip["value"] == 7.3184
    assert document["results"]["moments"]["arrays"]["maps"] == {"shape": [3, 28, 28], "dtype": "float64"}
    assert document["results"]["moments"]["tables"]["classes"]["columns"][2]["unit"] == "%"
    assert len(document["findings"]) == 5
    assert document["left_out"] == dict(audit.left_out)


def test_json_of_infinity():
    result = Result("r", "R", "q", {"a": Quantity(math.inf, Grade.BOUND, low=-math.inf)})
    shown = json.loads(to_json(Audit({}, {"r": result}), indent=None))["results"]["r"]["summary"]["a"]
    assert (shown["value"], shown["low"]) == ("Infinity", "-Infinity")


def test_terminal(audit: Audit):
    assert max(map(len, to_text(audit, width=60).splitlines())) <= 60
    shown = to_text(audit, report="out/report.html", width=150)
    for part in (
        "Of 5 checks, 1 failed and 1 calls for attention.",
        "FAIL  With noise of sd 0.05",
        "→ Train with noise",
        "closed form",
        "1.0 to 24.7 (5th to 95th percentile",
        "12.3 s, 345 MB",
        "The weights are random",
        "Left out: smoothness",
        "Report: out/report.html",
    ):
        assert part in shown
    assert "\x1b" not in shown
    assert "\x1b[" in to_text(audit, colour=True)


def test_terminal_reads_names_neither_as_markup_nor_as_control_sequences():
    name = "[bold red]x[/] \x1b]0;owned\x07 \u202e"
    finding = Finding("r", Status.FAIL, name, name, name)
    result = Result(
        "r", name, "q", {name: Quantity(1.0, Grade.EXACT, name, name)}, findings=(finding,), warnings=(name,)
    )
    shown = to_text(Audit({"name": name}, {"r": result}, {name: name}))
    assert shown.count("[bold red]x[/]") >= 6
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", shown)
