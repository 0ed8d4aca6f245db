"""The report: one inert HTML file with everything inlined, and the fragment a notebook shows for one result.

A model with very many layers gets pages beside its report, which hold what the layer table has no room for.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from assay.grade import Grade
from assay.render import beside, headlines, layers, svg, view
from assay.render.environment import asset, environment, lines, markup, page
from assay.render.spread import FITS, Fit, Spread, pages, spread
from assay.results import Audit, Provenance, Result

LIMIT = 1_000_000
"""Bytes of any page."""

FIGURE_ROOM = 320_000
"""Bytes that the layers leave to figures, as far as there are figures."""


@dataclass(frozen=True)
class Report:
    """A report as text.

    Attributes:
        page: the HTML file.
        beside: pages of layers by file name, for the folder beside it; empty when all is on the page.
    """

    page: str
    beside: Mapping[str, str] = field(default_factory=dict)


def write_report(audit: Audit, path: str | Path) -> Path:
    """Write the report atomically, with pages of layers in the folder beside it where one page cannot hold them.

    Args:
        audit: what to report.
        path: the HTML file; a directory gets a `report.html`.

    Returns:
        The file's path.

    Raises:
        StoreError: when the disk is full or the place cannot be written.
    """
    target = Path(path)
    target = target / "report.html" if target.is_dir() else target
    made = compose(audit, target)
    return beside.write(target, made.page, made.beside)


def render(audit: Audit) -> str:
    """The report as HTML text, without pages beside it. The same audit gives the same bytes.

    No script, style, picture or font comes from elsewhere, and the content security policy forbids it.

    Returns:
        The page, at most `LIMIT` bytes long.
    """
    return compose(audit).page


def compose(audit: Audit, path: Path | None = None) -> Report:
    """The report as text, and the pages beside it.

    Args:
        audit: what to report.
        path: where the report will stand, so that the pages can lead to each other; None for a report that stands
            alone and says what it leaves out.

    Returns:
        Pages of at most `LIMIT` bytes.
    """
    joined = layers.join(audit)
    anchors = [_anchor(key, index) for index, key in enumerate(audit.results)]
    drawn = [view.drawings(r.figures, r.arrays, a) for r, a in zip(audit.results.values(), anchors, strict=True)]
    graph = svg.graph(audit.graph_svg, joined.names)
    profiles = [] if graph.svg or not audit.graph_svg else view.drawings(joined.profiles(), {}, "layers")
    for fit in FITS:
        if not fit.graph and graph.svg:
            graph = svg.Graph(note=svg.too_large(len(joined.names)))
            profiles = view.drawings(joined.profiles(), {}, "layers")
        taken = len(graph.svg) + (0 if fit.telling else (joined if fit.everything else joined.main).bytes)
        if taken > LIMIT:
            continue
        pictures = [*drawn, profiles]
        divided = spread(joined, fit, graph.places, path)
        without = _page(audit, joined, fit, anchors, _within(pictures, 0), divided, graph)
        room = LIMIT - len(without.encode())
        if room >= min(sum(len(figure.svg.encode()) for some in pictures for figure in some), FIGURE_ROOM):
            break
    made = _page(audit, joined, fit, anchors, _within(pictures, room), divided, graph)
    return Report(made, pages(joined, path) if path is not None and divided.links else {})


def result_fragment(result: Result) -> str:
    """One result as a piece of HTML for a notebook: no script, and styles that touch nothing else."""
    drawn = _within([view.drawings(result.figures, result.arrays, "assay-result")], LIMIT)[0]
    content = view.section(result, "assay-result", drawn)
    digest = hashlib.sha256("\n".join(figure.svg for figure in content.figures).encode()).hexdigest()[:8]
    made = environment().get_template("fragment.html.j2").render(section=content, css=markup(asset("fragment.css")))
    return made.replace("assay-result-f", f"assay-{digest}-f")  # ids stay unique when a notebook shows several results


def _page(
    audit: Audit,
    joined: layers.LayerTable,
    fit: Fit,
    anchors: Sequence[str],
    pictures: Sequence[Sequence[view.FigureView]],
    divided: Spread,
    graph: svg.Graph,
) -> str:
    """The page with these pictures."""
    sections = [
        view.section(result, anchor, some, [table for name, table in joined.joined if name == key], fit.table_rows)
        for (key, result), anchor, some in zip(audit.results.items(), anchors, pictures[:-1], strict=True)
    ]
    places = dict(zip(audit.results, sections, strict=True))
    top = headlines.choose(audit)
    facts = view.facts(audit.subject)
    return page(
        "report.html.j2",
        name=str(audit.subject.get("name") or "model"),
        verdict=view.verdict(audit),
        about=view.about(facts),
        facts=facts,
        top=[(item, [places[source] for source in item.sources]) for item in top.shown],
        rest=[(places[key], count) for key, count in top.rest.items()],
        sections=sections,
        grid=divided.here,
        layer_notes=[*joined.notes, *divided.notes],
        beside=divided.links,
        profiles=pictures[-1],
        graph=graph,
        left_out=sorted(audit.left_out.items()),
        provenance=[
            (s.title, _provenance(r.provenance)) for s, r in zip(sections, audit.results.values(), strict=True)
        ],
        versions=_versions(audit),
        grades=list(Grade),
    )


def _left_out(figure: view.FigureView, index: int) -> view.FigureView:
    """A figure as it stands on a page that has no room for it."""
    said = f"Left out to keep the page small; draw it with result.plot({index})."
    return replace(figure, svg="", note=said) if figure.svg else figure


def _within(pictures: Sequence[Sequence[view.FigureView]], room: int) -> list[list[view.FigureView]]:
    """Show what fits into so many bytes: the first figure of every section before the second of any."""
    made = [[_left_out(figure, index) for index, figure in enumerate(some)] for some in pictures]
    order = sorted((index, number) for number, some in enumerate(pictures) for index in range(len(some)))
    for index, number in order:
        figure = pictures[number][index]
        taken = len(figure.svg.encode()) + len(figure.note.encode())
        if figure.svg and taken <= room:
            made[number][index] = figure
            room -= taken
    return made


def _provenance(provenance: Provenance | None) -> list[tuple[str, Any]]:
    if provenance is None:
        return []
    rows = [
        ("Analysis", provenance.analysis),
        ("Model", provenance.model),
        ("Model digest", provenance.model_digest),
        ("Data", provenance.data),
        ("Data digest", provenance.data_digest),
        ("Seed", str(provenance.seed)),
        ("Code executed (--trust)", "; ".join(provenance.trusted) or "none"),
    ]
    config = lines(view.as_json(provenance.config, indent=1)) if provenance.config else ""
    return [(label, value) for label, value in [*rows, ("Configuration", config)] if value]


def _versions(audit: Audit) -> list[tuple[str, str]]:
    found: dict[str, set[str]] = {}
    for result in audit.results.values():
        for library, version in (result.provenance.versions if result.provenance else {}).items():
            found.setdefault(library, set()).add(str(version))
    return [(library, ", ".join(sorted(versions))) for library, versions in sorted(found.items())]


def _anchor(key: str, index: int) -> str:
    return f"result-{key}" if re.fullmatch(r"[a-z][a-z0-9_-]{0,40}", key) else f"result-{index}"
