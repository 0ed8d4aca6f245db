"""The layer table: what is joined, what stands on the page and what beside it, and that pages stay small."""

import errno
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import html5lib
import pytest
from tests.support import synthetic, synthetic_layers

from assay.cli.program import main
from assay.errors import StoreError
from assay.grade import Grade
from assay.render import beside, layers
from assay.render.grid import grid
from assay.render.html import LIMIT, compose, render, write_report
from assay.results import Audit, Column, Result, Table
from assay.store import layout
from assay.store.checksums import CHECKSUMS, read_checksums, write_checksums
from assay.sweep.verify import verify

NAMESPACE = "{http://www.w3.org/1999/xhtml}"


def words(element) -> str:
    return " ".join("".join(element.itertext()).split())


def ids(page: str) -> set[str]:
    return set(re.findall(r' id="([^"]+)"', page))


def table_of(values: Mapping[str, float | None], name: str = "score", **more) -> Result:
    columns = (Column("node", node=True), Column(name, grade=Grade.SAMPLED, **more))
    return Result("made", "Made", "q", tables={"t": Table("t", "T", columns, tuple(values.items()))})


def test_the_layer_table_joins_all_results():
    audit = synthetic.audit(12)
    joined = layers.join(audit)
    assert audit.nodes is not None
    assert joined.names == tuple(audit.nodes.column("name"))
    assert [c.column.name for c in joined.columns] == [
        "op", "path", "shape", "noise_gain", "std", "rule", "norm", "upper", "condition", "bits",
    ]  # fmt: skip
    assert [c.column.name for c in joined.main.columns] == ["op", "path", "shape", "noise_gain", "condition"]
    assert joined.groups == [("Layer", 3), ("Noise moments", 3), ("Layer sensitivity", 4)]
    norms = next(c for c in joined.columns if c.column.name == "norm")
    assert (norms.texts[0], norms.values[0]) == ("–", None)
    assert norms.texts[1] != "–"
    root = html5lib.HTMLParser(strict=True).parse(render(audit))
    table = next(e for e in root.iter(f"{NAMESPACE}table") if e.get("id") == "layertable")
    rows = list(table.find(f"{NAMESPACE}tbody"))
    assert [row.get("id") for row in rows] == [f"r{i}" for i in range(12)]
    assert all(len(row) == 11 for row in rows)


def test_every_analysis_offers_colours_for_the_graph():
    root = html5lib.HTMLParser(strict=True).parse(render(synthetic_layers.audit(12, figures=False)))
    offered = next(e for e in root.iter(f"{NAMESPACE}select") if e.get("id") == "colour")
    groups = {e.get("label"): [words(o) for o in e] for e in offered.iter(f"{NAMESPACE}optgroup")}
    assert groups["Main values"] == [
        "Noise growth", "Condition number κ", "Fragility (below 0: fragile)", "Kinks (share of the SMP)",
    ]  # fmt: skip
    assert list(groups) == ["Main values", "Noise moments", "Layer sensitivity", "Fragile weights", "Kinks"]
    heads = [words(e) for e in root.iter(f"{NAMESPACE}th") if e.get("scope") == "col" and e.get("data-of") is not None]
    values = [int(o.get("value")) for o in offered.iter(f"{NAMESPACE}option") if o.get("value")]
    assert heads[values[0] - 1].startswith("Noise gain")
    assert len(values) == len(set(values)) == 4 + 1 + 3 + 15 + 10 + 5


def test_the_analyses_themselves_name_what_colours_the_graph():
    """What a number per layer means is the analysis's to say, where it makes the table."""
    package = Path(layers.__file__).parents[1]
    sections = ("bits", "norms", "parameters", "roundoff")
    named = ["filtering/tables", "moments/tables", "sensitivity/layers", "smoothness/sections/kinks"]
    for name in [*named, *(f"sensitivity/sections/{section}" for section in sections)]:
        text = (package / f"{name}.py").read_text(encoding="utf-8")
        assert "lens=" in text, name
        assert "node=True" in text, name


def test_tables_with_several_rows_a_layer_are_not_joined():
    audit = synthetic.audit(12)
    units = Table("units", "Units", (Column("node", node=True), Column("score")), (("conv1", 1.0), ("conv1", 2.0)))
    more = {**audit.results, "filtering": Result("filtering", "Filtering", "q", tables={"u": units})}
    joined = layers.join(replace(audit, results=more))
    assert "score" not in [c.column.name for c in joined.columns]
    assert "Units" in joined.notes[0]


def test_rows_without_a_node_do_not_hinder_the_others():
    made = table_of({})
    columns = made.tables["t"].columns
    table = Table("t", "T", columns, ((None, 1.0), ("a", 2.0), (None, 3.0)))
    joined = layers.join(Audit({}, {"made": replace(made, tables={"t": table})}))
    assert (joined.names, joined.columns[0].values) == (("a",), (2.0,))


def test_layers_that_the_graph_lacks_stand_where_their_table_has_them():
    nodes = Table("n", "N", (Column("node", node=True), Column("op")), (("b", "x"), ("c", "x"), ("e", "x")))
    made = table_of({"a": 1.0, "b": 2.0, "d": 3.0, "d2": 4.0, "e": 5.0, "f": 6.0})
    assert layers.join(Audit({}, {"m": made}, nodes=nodes)).names == ("a", "b", "d", "d2", "c", "e", "f")
    assert layers.join(Audit({}, {"m": table_of({"y": 1.0})}, nodes=nodes)).names == ("b", "c", "e", "y")


def test_without_a_word_from_the_analysis_the_first_number_is_the_main_one():
    joined = layers.join(Audit({}, {"m": table_of({"a": 1.0})}))
    assert [column.main for column in joined.columns] == [True]
    assert joined.columns[0].lens == "score"
    named = layers.join(Audit({}, {"m": table_of({"a": 1.0}, lens="Friendly")}))
    assert named.columns[0].lens == "Friendly"


def test_telling_layers_are_those_of_the_largest_values():
    values = {f"n{i}": float(i % 7) for i in range(1000)} | {"n500": -90.0, "n3": 80.0}
    joined = layers.join(Audit({}, {"m": table_of(values)}))
    assert joined.telling(2) == [3, 500]
    assert len(joined.telling(100)) == 100
    assert joined.telling(2000) == list(range(1000))


def test_values_that_are_missing_have_no_text_in_the_grid():
    joined = layers.join(Audit({}, {"m": table_of({"a": 1.5, "b": None})}))
    assert [row.cells for row in grid(joined, [0, 1], lambda row: "").rows] == ["<td>1.5", "<td>"]


@pytest.mark.parametrize(("count", "columns"), [(10, 40), (1000, 10), (1000, 40)])
def test_up_to_a_thousand_layers_fit_on_one_page(count: int, columns: int, tmp_path: Path):
    audit = synthetic.audit(count) if columns == 10 else synthetic_layers.audit(count)
    path = write_report(audit, tmp_path / "report.html")
    page = path.read_text(encoding="utf-8")
    assert len(page.encode()) <= LIMIT
    assert page.count('<tr id="r') == count + (columns == 40)  # one layer that only one analysis knows
    assert '<svg class="graph"' in page
    assert page.count('<svg class="drawing"') == 9
    assert beside.folder_of(path).exists() == ((count, columns) == (1000, 40))
    if count == 1000:
        assert "First 25 of 1,000 rows" in page


@pytest.mark.parametrize("count", [12, pytest.param(1000, marks=pytest.mark.slow), 2500])
@pytest.mark.parametrize("drawn", [True, False])
def test_no_link_leads_nowhere(count: int, drawn: bool, tmp_path: Path):
    audit = synthetic_layers.audit(count, figures=False)
    path = write_report(audit if drawn else replace(audit, graph_svg=""), tmp_path / "report.html")
    page = path.read_text(encoding="utf-8")
    for link in set(re.findall(r'href="([^"]*)"', page)):
        file, _, anchor = link.partition("#")
        there = (tmp_path / file).read_text(encoding="utf-8") if file else page
        assert not anchor or f'id="{anchor}"' in there, link


@pytest.fixture(scope="module")
def ten_thousand() -> Audit:
    return synthetic_layers.audit(10_000, figures=False)


def test_ten_thousand_layers_take_pages_beside_the_report(ten_thousand: Audit, tmp_path: Path):
    path = write_report(ten_thousand, tmp_path / "out:put 1.html")
    page = path.read_text(encoding="utf-8")
    pages = sorted((tmp_path / "out:put 1_layers").iterdir())
    assert [file.name for file in pages] == [f"layers-{i + 1:04d}.html" for i in range(len(pages))]
    texts = [file.read_text(encoding="utf-8") for file in pages]
    assert max(len(text.encode()) for text in [page, *texts]) <= LIMIT
    assert "those where one of these values is among the largest" in page
    assert "is too large for this page" in page
    assert page.count('<svg class="drawing"') == 4  # the main values along the network stand in for the graph
    rows = [int(row) for text in texts for row in re.findall(r'<tr id="r(\d+)"', text)]
    assert rows == list(range(10_001))
    assert all(result.title in page for result in ten_thousand.results.values())
    assert all(finding.sentence.split("<")[0][:40] in page for finding in ten_thousand.findings)
    links = re.findall(r'<tr id="r(\d+)"><th scope="row"><a href="([^"]+)">', page)
    assert 300 <= len(links) <= 400
    for row, link in links[::40]:
        address, _, anchor = link.partition("#")
        assert anchor == f"r{row}"
        assert address.startswith("./out%3Aput%201_layers/layers-")
        assert f'id="{anchor}"' in (tmp_path / address.replace("%3A", ":").replace("%20", " ")).read_text("utf-8")
    for text in texts[:2]:
        html5lib.HTMLParser(strict=True).parse(text)
        assert "default-src 'none'" in text
        assert '<a href="../out%3Aput%201.html#layers">' in text
        assert "Kinks (share" not in text  # there is no graph to colour
        assert all(name in {file.name for file in pages} for name in re.findall(r'<a href="(layers-[^"#]+)"', text))


def test_a_report_without_a_place_has_no_links_to_pages(ten_thousand: Audit):
    made = compose(ten_thousand)
    assert made.beside == {}
    assert "The saved run has all of them." in made.page
    assert "layers-0001" not in made.page


@pytest.fixture
def crowded(monkeypatch: pytest.MonkeyPatch) -> Audit:
    """An audit that does not fit on its page, because pages are small."""
    monkeypatch.setattr("assay.render.html.LIMIT", 150_000)
    monkeypatch.setattr("assay.render.spread.PAGE_BYTES", 150_000)
    return synthetic_layers.audit(250, figures=False)


def test_pages_of_an_earlier_report_are_removed_and_nothing_else(crowded: Audit, tmp_path: Path):
    path = write_report(crowded, tmp_path)
    folder = beside.folder_of(path)
    count = len(list(folder.iterdir()))
    (folder / "layers-9999.html").write_text("old")
    (folder / "notes.html").write_text("mine")
    (folder / "layers-0001.html.bak").write_text("mine")
    write_report(crowded, tmp_path)
    assert len(list(folder.iterdir())) == count + 2
    write_report(synthetic.audit(10), tmp_path)
    assert sorted(os.listdir(folder)) == ["layers-0001.html.bak", "notes.html"]
    (folder / "notes.html").unlink()
    (folder / "layers-0001.html.bak").unlink()
    beside.remove(path)
    assert os.listdir(tmp_path) == []


def test_a_failing_disk_keeps_the_old_report(crowded: Audit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = write_report(synthetic.audit(10), tmp_path)
    before = path.read_bytes()

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="disk is full"):
        write_report(crowded, path)
    assert path.read_bytes() == before
    assert list(beside.folder_of(path).glob("*")) == []


def test_pages_are_not_written_through_a_link(crowded: Audit, tmp_path: Path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "layers-0007.html").write_text("mine")
    (tmp_path / "report_layers").symlink_to(elsewhere)
    with pytest.raises(StoreError):
        write_report(crowded, tmp_path / "report.html")
    beside.remove(tmp_path / "report.html")
    assert [file.name for file in elsewhere.iterdir()] == ["layers-0007.html"]


def test_verify_knows_the_pages(crowded: Audit, tmp_path: Path):
    folder = crowded.save(tmp_path / "run")
    assert beside.folder_of(folder / layout.REPORT).name == layout.REPORT_LAYERS
    write_report(crowded, folder / layout.REPORT)
    write_checksums(folder)
    page = folder / layout.REPORT_LAYERS / "layers-0002.html"
    assert f"{layout.REPORT_LAYERS}/{page.name}" in read_checksums(folder)
    assert verify(folder).intact
    page.write_text(page.read_text(encoding="utf-8").replace("conv2d", "conv3d"), encoding="utf-8")
    assert [damage.path for damage in verify(folder).damages] == ["report_layers/layers-0002.html"]
    stale = folder / layout.REPORT_LAYERS / "layers-0777.html"
    stale.write_text("old")
    write_checksums(folder)
    assert main(["report", str(folder), "--quiet"]) == 0
    assert not stale.exists()
    assert verify(folder).intact
    assert (folder / CHECKSUMS).exists()
    page.unlink()
    assert [damage.path for damage in verify(folder).damages] == ["report_layers/layers-0002.html"]
