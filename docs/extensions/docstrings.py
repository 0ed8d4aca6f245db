"""Docstrings as the house writes them, for Sphinx: names in single backticks are code, stars and bars are themselves.

Runs before the sections are read. Examples (lines of `>>>` and what follows them) and indented blocks after `::` stay
as they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from sphinx.application import Sphinx

BEFORE_NAPOLEON = 100
_ROLE = re.compile(r":[a-z:]+:`[^`]+`")
_CODE = re.compile(r"(?<!`)`([^`]+)`(?!`)")
_SPAN = re.compile(r"(``.+?``)")


def prepared(text: str) -> str:
    """One line of prose.

    Args:
        text: the line.

    Returns:
        The line with code in double backticks and no accidental emphasis, substitution or reference.
    """
    if _ROLE.search(text):
        return text
    parts = _SPAN.split(_CODE.sub(r"``\1``", text))
    return "".join(part if part.startswith("``") else _escaped(part) for part in parts)


def _escaped(text: str) -> str:
    head = re.match(r"^\s*\*{0,2}[\w*, ]+:\s", text)  # the name of an argument, which napoleon escapes by itself
    kept = head.group(0) if head else ""
    rest = text[len(kept) :]
    rest = re.sub(r"([*|])", r"\\\1", rest) if not re.match(r"^\s*\* ", text) else text
    return kept + re.sub(r"(?<=\w)_(?=$|[^\w])", r"\\_", rest)


def lines_prepared(lines: list[str]) -> Iterator[str]:
    """Every line of a docstring.

    Yields:
        The line, prepared where it is prose.
    """
    example = literal = False
    depth = 0
    for line in lines:
        indent = len(line) - len(line.lstrip())
        if example:
            example = bool(line.strip())
        if literal and line.strip() and indent <= depth:
            literal = False
        if line.lstrip().startswith(">>>"):
            example = True
        if example or literal:
            yield line
            continue
        if line.rstrip().endswith("::"):
            literal, depth = True, indent
        yield prepared(line)


def process(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Prepare a docstring in place."""
    lines[:] = list(lines_prepared(lines))


def setup(app: Sphinx) -> dict[str, Any]:
    """Run before napoleon."""
    app.connect("autodoc-process-docstring", process, priority=BEFORE_NAPOLEON)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
