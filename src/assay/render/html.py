"""The report: one inert HTML file with everything inlined, and the fragment a notebook shows for one result."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assay.grade import Grade
from assay.render import layers, svg, text, view
from assay.results import Audit, Provenance, Result, Status
from assay.results.atomic import write_atomic

if TYPE_CHECKING:
    from jinja2 import Environment

TOP_FINDINGS = 10


def write_report(audit: Audit, path: str | Path) -> Path:
    """Write the report atomically.

    Args:
        audit: what to report.
        path: the HTML file; a directory gets a `report.html`.

    Returns:
        The file's path.

    Raises:
        StoreError: when the disk is full or the place cannot be written.
    """
    target = Path(path)
    return write_atomic(target / "report.html" if target.is_dir() else target, render(audit))


def render(audit: Audit) -> str:
    """The report as HTML text. The same audit gives the same bytes.

    No script, style, picture or font comes from elsewhere, and the content security policy forbids it.

    Returns:
        The page.
    """
    joined = layers.join(audit)
    graph = svg.graph(audit.graph_svg, joined.names)
    budget = view.Budget.beside(len(graph.svg) + joined.bytes)
    sections = [
        view.section(result, _anchor(key, index), [table for name, table in joined.joined if name == key], budget)
        for index, (key, result) in enumerate(audit.results.items())
    ]
    places = dict(zip(audit.results, sections, strict=True))
    top = [
        (finding, places[key])
        for status in sorted(Status, key=lambda s: -s.severity)
        for key, result in audit.results.items()
        for finding in result.findings
        if finding.status is status and status is not Status.PASS
    ]
    css, script = _asset("report.css"), _asset("report.js")
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            name=str(audit.subject.get("name") or "model"),
            verdict=view.verdict(audit),
            facts=view.facts(audit.subject),
            top=top[:TOP_FINDINGS],
            more=max(len(top) - TOP_FINDINGS, 0),
            sections=sections,
            layers=joined,
            graph=graph,
            left_out=sorted(audit.left_out.items()),
            provenance=[
                (s.title, _provenance(r.provenance)) for s, r in zip(sections, audit.results.values(), strict=True)
            ],
            versions=_versions(audit),
            grades=list(Grade),
            css=_markup(css),
            script=_markup(script),
            style_hash=_hash(css),
            script_hash=_hash(script),
        )
    )


def result_fragment(result: Result) -> str:
    """One result as a piece of HTML for a notebook: no script, and styles that touch nothing else."""
    content = view.section(result, "assay-result", [], view.Budget())
    digest = hashlib.sha256("\n".join(figure.svg for figure in content.figures).encode()).hexdigest()[:8]
    page = _environment().get_template("fragment.html.j2").render(section=content, css=_markup(_asset("fragment.css")))
    return page.replace("assay-result-f", f"assay-{digest}-f")  # ids stay unique when a notebook shows several results


def _provenance(provenance: Provenance | None) -> list[tuple[str, str]]:
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
    config = _lines(view.as_json(provenance.config, indent=1)) if provenance.config else ""
    return [(label, value) for label, value in [*rows, ("Configuration", config)] if value]


def _lines(content: str) -> Any:
    """Text whose line ends are kept while everything else is cleaned and escaped."""
    from markupsafe import escape

    cleaned = [text.clean(line, 500) for line in content[:20_000].split("\n")]
    return _markup("<pre>") + _markup("\n").join(escape(line) for line in cleaned) + _markup("</pre>")


def _versions(audit: Audit) -> list[tuple[str, str]]:
    found: dict[str, set[str]] = {}
    for result in audit.results.values():
        for library, version in (result.provenance.versions if result.provenance else {}).items():
            found.setdefault(library, set()).add(str(version))
    return [(library, ", ".join(sorted(versions))) for library, versions in sorted(found.items())]


def _anchor(key: str, index: int) -> str:
    return f"result-{key}" if re.fullmatch(r"[a-z][a-z0-9_-]{0,40}", key) else f"result-{index}"


def _hash(content: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()


def _markup(content: str) -> Any:
    from markupsafe import Markup

    return Markup(content)


@cache
def _asset(name: str) -> str:
    return files("assay.render").joinpath("templates", name).read_text("utf-8").replace("\r\n", "\n")


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FunctionLoader, StrictUndefined
    from markupsafe import Markup

    def finalize(value: Any) -> Any:
        if isinstance(value, Markup) or not isinstance(value, str):
            return "" if value is None else value
        return text.clean(value)

    environment = Environment(
        loader=FunctionLoader(_asset),
        autoescape=True,
        finalize=finalize,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=False,
    )
    words: Mapping[Status, str] = {
        Status.PASS: "pass",
        Status.WARN: "attention",
        Status.FAIL: "fail",
        Status.ERROR: "error",
    }
    environment.filters |= {
        "short": text.short,
        "inline": Markup,
        "digest": lambda value: value,
        "grade_word": lambda grade: grade.value.replace("_", " "),
        "status_word": lambda status: words[status],
        "plural": text.plural,
    }
    return environment
