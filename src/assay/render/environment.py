"""Templates, style sheets and scripts of the report, and the one way from any text to a page."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from assay.render import text
from assay.results import Status

if TYPE_CHECKING:
    from jinja2 import Environment

WORDS = {Status.PASS: "pass", Status.WARN: "attention", Status.FAIL: "fail", Status.ERROR: "error"}


def page(template: str, **content: Any) -> str:
    """Fill a template of a whole page; style and script are inlined, and their digests are the page's only licence.

    Returns:
        HTML.
    """
    css, script = asset("report.css"), asset("report.js")
    return (
        environment()
        .get_template(template)
        .render(css=markup(css), script=markup(script), style_hash=digest(css), script_hash=digest(script), **content)
    )


def markup(content: str) -> Any:
    """Text that is HTML already."""
    from markupsafe import Markup

    return Markup(content)


def safe(content: str) -> str:
    """Any text as HTML: cleaned and escaped."""
    from markupsafe import escape

    return str(escape(text.clean(content)))


def lines(content: str) -> Any:
    """Text whose line ends are kept while everything else is cleaned and escaped."""
    from markupsafe import escape

    cleaned = [text.clean(line, 500) for line in content[:20_000].split("\n")]
    return markup("<pre>") + markup("\n").join(escape(line) for line in cleaned) + markup("</pre>")


def digest(content: str) -> str:
    """What a content security policy calls an inlined style or script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()


@cache
def asset(name: str) -> str:
    """A file of the folder `templates`."""
    return files("assay.render").joinpath("templates", name).read_text("utf-8").replace("\r\n", "\n")


@cache
def environment() -> Environment:
    """Where templates are filled: every text is cleaned and escaped, and a missing name is an error."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined
    from markupsafe import Markup

    def finalize(value: Any) -> Any:
        if isinstance(value, Markup) or not isinstance(value, str):
            return "" if value is None else value
        return text.clean(value)

    made = Environment(
        loader=FunctionLoader(asset),
        autoescape=True,
        finalize=finalize,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=False,
    )
    made.filters |= {
        "short": text.short,
        "inline": Markup,
        "grade_word": lambda grade: grade.value.replace("_", " "),
        "status_word": WORDS.__getitem__,
        "plural": text.plural,
    }
    return made
