"""The report in a real browser: no complaint, no request, no overflow; sorting, filtering and colouring work."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.security.test_report_hostile import NAMES, hostile_audit
from tests.support import synthetic
from tests.support.devtools import Page, browser

from assay.render.html import write_report

pytestmark = pytest.mark.browser

CELLS = (
    "[...document.querySelectorAll('#layertable tbody tr')].filter(r => !r.hidden).map(r => r.cells[{0}].textContent)"
)
FILLS = "[...document.querySelectorAll('svg.graph .node rect')].map(r => getComputedStyle(r).fill)"
CONTRAST = """(() => {
  const luminance = (colour) => {
    const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3).map((v) => v / 255)
      .map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ratio = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  const backdrop = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const colour = getComputedStyle(e).backgroundColor;
      if (!colour.endsWith(', 0)')) return luminance(colour);
    }
    return luminance('rgb(255, 255, 255)');
  };
  const words = [...document.querySelectorAll('p,dd,dt,th,td,h1,h2,h3,.chip,.grade,summary,figcaption,a')]
    .filter((e) => e.textContent.trim() && e.getClientRects().length && !e.closest('.skip'));
  const drawn = [...document.querySelectorAll('svg.drawing text, svg.graph .node text')];
  const inked = (e) => ratio(luminance(getComputedStyle(e).color), backdrop(e));
  const measured = words.map((e) => [inked(e), e.className, e.textContent]);
  for (const e of drawn) {
    const fill = getComputedStyle(e).fill;
    const rect = e.closest('.node')?.querySelector('rect');
    const inMatrix = ['rgb(255, 255, 255)', 'rgb(0, 0, 0)'].includes(fill);
    if (rect) measured.push([ratio(luminance(fill), luminance(getComputedStyle(rect).fill)), 'node', e.textContent]);
    else if (!inMatrix) measured.push([ratio(luminance(fill), backdrop(e.closest('figure'))), 'svg', e.textContent]);
  }
  return measured.sort((a, b) => a[0] - b[0])[0];
})()"""


@pytest.fixture(scope="module")
def page(chromium: str, tmp_path_factory) -> Iterator[Page]:
    with browser(chromium, tmp_path_factory.mktemp("browser") / "profile") as opened:
        yield opened


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    return write_report(synthetic.audit(12), tmp_path_factory.mktemp("report") / "report.html")


def overflow(page: Page) -> int:
    """Pixels by which the page is wider than the window."""
    return page.run("document.documentElement.scrollWidth - document.documentElement.clientWidth")


def opened(page: Page, report: Path, width: int = 1280, **how) -> Page:
    page.complaints.clear()
    page.requests.clear()
    page.window(width, **how)
    page.open(report)
    return page


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


@pytest.mark.slow
def test_a_thousand_layers(page: Page, tmp_path: Path):
    path = write_report(synthetic.audit(1000), tmp_path / "large.html")
    opened(page, path, 390)
    assert page.complaints == []
    assert overflow(page) <= 0
    page.run("document.querySelectorAll('#layertable thead button')[4].click()")
    numbers = [float(v.replace(",", "")) for v in page.run(CELLS.format(4))]
    assert numbers == sorted(numbers, reverse=True)
