"""Outcomes of rules as JUnit XML, which continuous integration shows beside the tests."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from assay.render.placing import place_file
from assay.render.text import clean
from assay.results import Audit, Outcome, Status, outcomes_of

_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 does not allow, not even as a reference."""


def render_check(outcomes: Sequence[Outcome], suite: str = "assay check") -> str:
    """One test case per outcome: FAIL is a failure, ERROR an error, WARN a skipped test that says why.

    Args:
        outcomes: in order.
        suite: name of the test suite.

    Returns:
        An XML document. Characters that XML forbids, and invisible ones, show as their code points.

    Example:
        >>> passed = Outcome("bits", "sensitivity.bits.max <= 8", Status.PASS, "7 bit meets <= 8; sampled.")
        >>> "<testcase" in render_check([passed])
        True
    """
    counts = {status: sum(outcome.status is status for outcome in outcomes) for status in Status}
    facts = {
        "name": _text(suite),
        "tests": str(len(outcomes)),
        "failures": str(counts[Status.FAIL]),
        "errors": str(counts[Status.ERROR]),
        "skipped": str(counts[Status.WARN]),
    }
    root = ElementTree.Element("testsuites", {key: facts[key] for key in ("name", "tests", "failures", "errors")})
    found = ElementTree.SubElement(root, "testsuite", facts | {"time": "0"})
    for outcome in outcomes:
        _case(found, outcome)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=False).join(
        ('<?xml version="1.0" encoding="UTF-8"?>\n', "\n")
    )


def export(audit: Audit, path: Path) -> list[Path]:
    """Write the findings of a run as JUnit XML.

    Args:
        audit: the run.
        path: the file.

    Returns:
        The file.

    Raises:
        StoreError: when something else is there or the place cannot be written.
    """
    content = render_check(outcomes_of(audit), "assay audit").encode()
    return [place_file(path, lambda file: file.write(content), lambda head: b'<testsuites name="assay' in head)]


def _case(suite: ElementTree.Element, outcome: Outcome) -> None:
    group = f"assay.{outcome.rule.partition('.')[0]}"
    case = ElementTree.SubElement(suite, "testcase", {"classname": _text(group), "name": _text(outcome.name)})
    case.set("time", "0")
    told = _text(outcome.sentence)
    tag = {Status.FAIL: "failure", Status.ERROR: "error", Status.WARN: "skipped"}.get(outcome.status)
    if tag is not None:
        problem = ElementTree.SubElement(case, tag, {"message": told if tag != "skipped" else f"warning: {told}"})
        if tag != "skipped":
            problem.set("type", f"assay.{outcome.status.value}")
            problem.text = _body(outcome)
    if tag is None or tag == "skipped":
        ElementTree.SubElement(case, "system-out").text = _body(outcome)


def _body(outcome: Outcome) -> str:
    lines = [f"rule: {outcome.rule}", outcome.sentence]
    if outcome.because:
        lines.append(f"because: {outcome.because}")
    return "\n".join(_text(line) for line in lines)


def _text(text: str) -> str:
    return _FORBIDDEN.sub("", clean(text))
