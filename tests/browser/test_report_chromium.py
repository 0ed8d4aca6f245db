"""The report in a real browser: no complaint, no request, no overflow; sorting, filtering and colouring work."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from tests.security.test_report_hostile import NAMES, crowded_audit, hostile_audit
from tests.support import synthetic, synthetic_layers
from tests.support.devtools import Page
from tests.support.reading import CONTRAST, choose, opened, overflow

from assay.render.html import write_report
from assay.render.spread import FITS
from assay.results import Audit

pytestmark = pytest.mark.browser

CELLS = (
    "[...document.querySelectorAll('#layertable tbody tr')].filter(r => !r.hidden).map(r => r.cells[{0}].textContent)"
)
FILLS = "[...document.querySelectorAll('svg.graph .node rect')].map(r => getComputedStyle(r).fill)"


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_no_complaint_no_request_no_overflow(page: Page, report: Path, width: int, dark: bool):
    opened(page, report, width, dark=dark)
    assert page.complaints == []
    assert {url for url in page.requests if not url.startswith("data:image/png")} == {report.resolve().as_uri()}
    assert overflow(page) <= 0
    beyond = page.run(
        "[...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll, nav, .skip, svg')"
        " && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.tagName + '.' + e.className)"
    )
    assert beyond == []
    background = page.run("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(17, 22, 28)") == dark


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_all_words_are_legible(page: Page, report: Path, dark: bool):
    opened(page, report, dark=dark)
    page.run("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    ratio, kind, words = page.run(CONTRAST)
    assert ratio >= 4.5, f"contrast {ratio:.2f}: {kind} {words!r}"


def test_many_analyses_do_not_widen_a_telephone(page: Page, tmp_path: Path):
    made = replace(synthetic.audit(10).results["sensitivity"], figures=())
    results = {f"analysis{index}": replace(made, name=f"analysis{index}") for index in range(8)}
    path = write_report(Audit({"name": "m"}, results), tmp_path / "report.html")
    opened(page, path, 390)
    assert overflow(page) <= 0
    assert page.run("document.querySelector('nav ul').scrollWidth") > 390  # the contents scroll within themselves


def test_the_policy_stops_an_added_script(page: Page, report: Path, tmp_path: Path):
    spoiled = tmp_path / "spoiled.html"
    text = report.read_text(encoding="utf-8")
    spoiled.write_text(text.replace("<main", "<script>window.owned = 1</script><main"), encoding="utf-8")
    opened(page, spoiled)
    assert page.run("window.owned === undefined")
    assert any("Content Security Policy" in complaint for complaint in page.complaints)


def test_columns_sort_with_the_keyboard(page: Page, report: Path):
    opened(page, report)
    before = page.run(CELLS.format(4))
    heads = "document.querySelectorAll('#layertable thead tr:last-child th')"
    assert page.run(f"[...{heads}].every(h => h.querySelector('button') && h.getAttribute('aria-sort') === 'none')")
    page.run(f"{heads}[4].querySelector('button').focus()")
    page.press("Enter", 13, "\r")
    numbers = [float(v) for v in page.run(CELLS.format(4))]
    assert numbers == sorted(numbers, reverse=True)
    assert numbers != [float(v) for v in before]
    assert page.run(f"{heads}[4].getAttribute('aria-sort')") == "descending"
    page.press(" ", 32, " ")
    assert [float(v) for v in page.run(CELLS.format(4))] == sorted(numbers)
    page.press("Enter", 13, "\r")
    assert page.run(CELLS.format(4)) == before
    assert page.run(f"{heads}[4].getAttribute('aria-sort')") == "none"
    page.run(f"{heads}[7].querySelector('button').click()")
    norms = page.run(CELLS.format(7))
    assert all(norms[:6])
    assert norms[6:] == [""] * 6  # what is missing goes last
    for expected in (sorted(before_names := page.run(CELLS.format(0))), sorted(before_names, reverse=True)):
        page.run(f"{heads}[0].querySelector('button').click()")
        assert page.run(CELLS.format(0)) == expected
    assert page.complaints == []


def test_the_filter_finds_layers(page: Page, report: Path):
    opened(page, report)
    page.run("document.getElementById('filter').focus()")
    for letter in "conv":
        page.press(letter, ord(letter.upper()), letter)
    assert len(page.run(CELLS.format(0))) == 5
    assert page.run("document.getElementById('count').textContent") == "5 of 12 layers"
    assert page.run("document.getElementById('count').getAttribute('role')") == "status"  # spoken when it changes
    page.run("document.querySelectorAll('#layertable thead button')[4].click()")
    said = page.run("document.getElementById('count').textContent")
    assert said == "5 of 12 layers, sorted by Noise gain, descending"


def test_the_graph_is_coloured_by_a_column(page: Page, report: Path):
    opened(page, report)
    fills = page.run(FILLS)
    assert len(set(fills)) > 6
    assert fills[0] == "rgb(68, 1, 84)"  # the smallest gain
    assert fills[-1] == "rgb(253, 231, 37)"  # the largest
    assert page.run("document.getElementById('low').textContent") == page.run(CELLS.format(4))[0]
    page.run("{ const s = document.getElementById('colour'); s.value = ''; s.dispatchEvent(new Event('change')); }")
    assert len(set(page.run(FILLS))) == 1
    assert page.run("document.getElementById('legend').hidden")
    page.run("{ const s = document.getElementById('colour'); s.value = '7'; s.dispatchEvent(new Event('change')); }")
    assert len(set(page.run(FILLS))) == 7  # six layers with a norm, the others plain


def test_a_number_with_a_sign_has_two_hues_and_says_what_it_means(page: Page, tmp_path: Path):
    path = write_report(synthetic_layers.audit(40, figures=False), tmp_path / "report.html")
    opened(page, path)
    choose(page, "colour", "Fragility (below 0: fragile)")
    column = page.run("document.getElementById('colour').value")
    painted = page.run(
        f"[...document.querySelectorAll('#layertable tbody tr')].map(r => [r.cells[{column}].textContent, "
        "document.getElementById(r.id.replace('r', 'n'))]).filter(([v, n]) => v && n)"
        ".map(([v, n]) => [v, getComputedStyle(n.querySelector('rect')).fill, n.querySelector('title').textContent])"
    )
    assert len(painted) > 10
    for value, fill, title in painted:
        red, _, blue = (int(part) for part in re.findall(r"\d+", fill))
        assert (red > blue) == value.startswith("\u2212"), (value, fill)
        assert title.endswith(f"Fragility (below 0: fragile): {value}")
    said = page.run("document.getElementById('legend').innerText")
    assert "Below 0 the layer is fragile. The middle colour is 0." in said
    assert "of 41 layers have no such number and no colour." in said
    low, high = (page.run(f"document.getElementById('{end}').textContent") for end in ("low", "high"))
    assert low == "\u2212" + high


def test_columns_of_one_analysis_are_shown(page: Page, tmp_path: Path):
    path = write_report(synthetic_layers.audit(12, figures=False), tmp_path / "report.html")
    opened(page, path)
    heads = (
        "[...document.querySelectorAll('#layertable thead tr:last-child th')].filter(h => !h.hidden)"
        ".map(h => h.querySelector('.label').textContent)"
    )
    main = ["Node", "Operator", "Module", "Output shape", "Noise gain", "Condition", "S", "share"]
    assert page.run(heads) == main
    choose(page, "columns", "Layer sensitivity")
    assert page.run(heads)[:4] == ["Node", "Operator norm", "Upper bound", "Condition"]
    choose(page, "columns", "all values")
    assert len(page.run(heads)) == 45
    spans = "[...document.querySelectorAll('.groups th')].filter(h => !h.hidden).reduce((n, h) => n + h.colSpan, 0)"
    assert page.run(spans) == 44
    choose(page, "columns", "main values")
    assert page.run(heads) == main
    assert page.run(spans) == 7
    assert page.complaints == []


@pytest.mark.parametrize("width", [1280, 390])
def test_pages_beside_the_report_are_as_inert_and_usable(page: Page, large_report: Path, width: int):
    path = large_report
    opened(page, path, width)
    assert overflow(page) <= 0
    assert page.complaints == []
    target = page.run("document.querySelector('#layertable tbody a').getAttribute('href')")
    page.requests.clear()
    beside, _, anchor = target.partition("#")
    page.open(path.parent / beside)
    assert {url for url in page.requests if not url.startswith("data:")} == {(path.parent / beside).resolve().as_uri()}
    assert page.complaints == []
    assert overflow(page) <= 0
    assert page.run(f"document.getElementById('{anchor}') !== null")
    assert page.run("document.querySelector('[aria-current=page]').textContent.length > 3")
    page.run("document.querySelectorAll('#layertable thead button')[4].click()")
    numbers = [float(v.replace(",", "")) for v in page.run(CELLS.format(4)) if v]
    assert numbers == sorted(numbers, reverse=True)
    page.run("{ const f = document.getElementById('filter'); f.value = 'relu'; f.dispatchEvent(new Event('input')); }")
    assert page.run("document.getElementById('count').textContent").split(" of ")[0].isdigit()
    assert set(page.run(CELLS.format(1))) == {"relu"}
    assert page.run("document.querySelector('header a').href") == path.resolve().as_uri() + "#layers"


def test_names_lead_to_the_graph_and_back(page: Page, report: Path):
    opened(page, report)
    page.run("document.querySelector('#r5 a').click()")
    assert page.run("document.querySelector('.node:target').id") == "n5"
    page.run(
        "document.querySelector('#n3 a').dispatchEvent(new MouseEvent('click', {bubbles: true, cancelable: true}))"
    )
    assert page.run("document.querySelector('tr:target').id") == "r3"


def test_the_page_reads_without_scripts(page: Page, report: Path):
    try:
        opened(page, report, 390, scripts=False)
        assert page.run("document.querySelectorAll('#layertable tbody tr').length") == 12
        assert page.run("[...document.querySelectorAll('.tools')].every(t => getComputedStyle(t).display === 'none')")
        assert page.run("document.querySelectorAll('thead button').length") == 0
        assert overflow(page) <= 0
        assert page.complaints == []
    finally:
        page.window(1280, scripts=True)


def test_print_shows_everything_on_white(page: Page, report: Path):
    try:
        opened(page, report, dark=True, media="print")
        assert page.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert page.run("getComputedStyle(document.querySelector('nav')).display") == "none"
        assert page.run("getComputedStyle(document.querySelector('.table > .scroll')).overflow") == "visible"
        ratio, kind, words = page.run(CONTRAST)
        assert ratio >= 4.5, f"contrast {ratio:.2f}: {kind} {words!r}"
        assert len(page.send("Page.printToPDF")["data"]) > 20_000
    finally:
        page.window(1280)


@pytest.mark.parametrize("kind", NAMES)
def test_hostile_names_do_nothing(page: Page, tmp_path: Path, kind: str):
    path = write_report(hostile_audit(NAMES[kind]), tmp_path / "hostile.html")
    opened(page, path, 390)
    assert page.complaints == []
    assert {url for url in page.requests if not url.startswith("data:image/png")} == {path.resolve().as_uri()}
    assert overflow(page) <= 0
    assert page.run("document.title.endsWith('· assay report')")


@pytest.mark.parametrize("kind", NAMES)
def test_hostile_names_do_nothing_beside_the_report(
    page: Page, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("assay.render.html.FITS", FITS[-1:])
    path = write_report(crowded_audit(NAMES[kind]), tmp_path / "hostile.html")
    beside = sorted((tmp_path / "hostile_layers").iterdir())[-1]
    opened(page, beside, 390)
    assert page.complaints == []
    assert {url for url in page.requests if not url.startswith("data:")} == {beside.resolve().as_uri()}
    assert overflow(page) <= 0
    assert page.run("document.title.endsWith('· assay report')")
    assert path.stat().st_size <= 1_000_000


@pytest.mark.slow
def test_a_thousand_layers(page: Page, tmp_path: Path):
    path = write_report(synthetic.audit(1000), tmp_path / "large.html")
    opened(page, path, 390)
    assert page.complaints == []
    assert overflow(page) <= 0
    page.run("document.querySelectorAll('#layertable thead button')[4].click()")
    numbers = [float(v.replace(",", "")) for v in page.run(CELLS.format(4))]
    assert numbers == sorted(numbers, reverse=True)
