"""Outcomes of rules as Markdown for a comment on a pull request: no name in it can mention, link or embed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from assay.render.placing import place_file
from assay.render.text import clean, plural
from assay.results import Audit, Outcome, Status, outcomes_of

LIMIT = 60_000
"""Bytes: comments on GitHub end at 65,536 characters."""

_MARKS = {Status.PASS: "✅ pass", Status.WARN: "⚠️ warn", Status.FAIL: "❌ fail", Status.ERROR: "🛑 error"}
_SPECIAL = re.compile(r"[!-/:-@\[-`{-~]")
_PLAIN = frozenset(" .,;()%+-'=")
_BREAK = "\u200b"
_LINKING = re.compile(r"(?i)(?<=@)|(?<=#)|(?<=:)(?=//)|(?<=\bwww)(?=\.)|(?<=\bmailto)(?=:)|(?<=\bgh)(?=-)")


def render_check(outcomes: Sequence[Outcome], title: str = "assay check") -> str:
    """A verdict, then a table with the worst outcomes first, cut before `LIMIT`.

    Args:
        outcomes: in order.
        title: heading.

    Returns:
        GitHub-flavoured Markdown, which others read as well.

    Example:
        >>> passed = Outcome("bits", "sensitivity.bits.max <= 8", Status.PASS, "7 bit meets <= 8; sampled.")
        >>> print(render_check([passed]).splitlines()[2])
        **1 rule: all passed.**
    """
    ranked = sorted(outcomes, key=lambda outcome: -outcome.status.severity)
    lines = [f"### {escape(title)}", "", f"**{_verdict(outcomes)}**", ""]
    if ranked:
        lines += ["| outcome | rule | what was found |", "| --- | --- | --- |"]
    size = sum(len(line.encode()) + 1 for line in lines)
    for place, outcome in enumerate(ranked):
        row = _row(outcome)
        size += len(row.encode()) + 1
        if size > LIMIT - 200:
            lines += ["", f"{plural(len(ranked) - place, 'more outcome')} left out to keep this short."]
            break
        lines.append(row)
    return "\n".join(lines) + "\n"


def export(audit: Audit, path: Path) -> list[Path]:
    """Write the findings of a run as Markdown.

    Args:
        audit: the run.
        path: the file.

    Returns:
        The file.

    Raises:
        StoreError: when something else is there or the place cannot be written.
    """
    content = render_check(outcomes_of(audit), f"assay audit of {audit.subject.get('name', '')}").encode()
    return [place_file(path, lambda file: file.write(content), lambda head: head.startswith(b"### assay "))]


def escape(text: str, limit: int = 600) -> str:
    r"""Text that shows as it is: Markdown and HTML are spelled as references, mentions and links are broken up.

    A zero-width space stands where the site would otherwise see a name, a number or an address in the finished page.

    Args:
        text: anything.
        limit: of characters; the middle of a longer text is left out.

    Returns:
        Markdown.

    Example:
        >>> escape("a|b <i> @all").replace("\u200b", "")
        'a&#124;b &#60;i&#62; &#64;all'
    """
    broken = _LINKING.sub(_BREAK, clean(text, limit))
    return _SPECIAL.sub(lambda match: match[0] if match[0] in _PLAIN else f"&#{ord(match[0])};", broken)


def _row(outcome: Outcome) -> str:
    name = f"<code>{escape(outcome.name, 300)}</code>"
    if outcome.name != outcome.rule:
        name += f"<br><code>{escape(outcome.rule, 300)}</code>"
    found = escape(outcome.sentence)
    if outcome.because:
        found += f"<br>{escape(outcome.because, 300)}"
    return f"| {_MARKS[outcome.status]} | {name} | {found} |"


def _verdict(outcomes: Sequence[Outcome]) -> str:
    if not outcomes:
        return "Nothing was checked."
    total = plural(len(outcomes), "rule")
    words = {Status.ERROR: "could not be judged", Status.FAIL: "failed", Status.WARN: "warned"}
    counts = {status: sum(outcome.status is status for outcome in outcomes) for status in words}
    said = [f"{count} {words[status]}" for status, count in counts.items() if count]
    return f"{total}: {', '.join(said)}." if said else f"{total}: all passed."
