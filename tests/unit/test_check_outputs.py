"""Outcomes as JUnit XML and Markdown: real parsers read them, and hostile names stay text."""

import html
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay.grade import Grade
from assay.render import junit, markdown
from assay.results import Audit, Finding, Outcome, Result, Status

HOSTILE = (
    'x"/><script>alert(1)</script>&amp;<!-- ]]> \x00\x08\x1b[31m \ud800 \uffff \u202e | `code` **bold** '
    "[link](http://evil) ![i](x) @team #12 GH-3 https://evil.example www.evil.example mailto:a@b.c a@b.c ~~x~~ $x$ "
)


def outcome(text: str, status: Status = Status.FAIL) -> Outcome:
    return Outcome(text, text, status, text, 1.0, "bit", Grade.BOUND, "", text)


def shown(text: str) -> str:
    """What a reader of the finished page sees: references resolved, tags and breaks gone."""
    return html.unescape(re.sub(r"</?(code|br)>", "", text)).replace("\u200b", "")


def test_junit_counts_and_cases():
    statuses = [Status.PASS, Status.FAIL, Status.WARN, Status.ERROR, Status.PASS]
    root = ElementTree.fromstring(junit.render_check([outcome(f"moments.x{i} < 1", s) for i, s in enumerate(statuses)]))
    suite = root.find("testsuite")
    assert suite is not None
    assert {key: suite.get(key) for key in ("tests", "failures", "errors", "skipped")} == {
        "tests": "5",
        "failures": "1",
        "errors": "1",
        "skipped": "1",
    }
    cases = suite.findall("testcase")
    assert [case.get("classname") for case in cases] == ["assay.moments"] * 5
    children = [[child.tag for child in case] for case in cases]
    assert children == [["system-out"], ["failure"], ["skipped", "system-out"], ["error"], ["system-out"]]
    failure = cases[1].find("failure")
    assert failure is not None
    assert failure.get("message") == "moments.x1 < 1"


@given(st.text(max_size=80))
def test_junit_takes_any_name(text: str):
    root = ElementTree.fromstring(junit.render_check([outcome(text)], text).encode("utf-8"))
    assert len(root.findall(".//testcase")) == 1
    assert len(root.findall(".//failure")) == 1


def test_junit_with_a_hostile_name():
    content = junit.render_check([outcome(HOSTILE)])
    root = ElementTree.fromstring(content.encode("utf-8"))
    name = root.findall(".//testcase")[0].get("name")
    assert name is not None
    assert "<script>" in name  # as text
    assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\uffff]", content)


@given(st.text(max_size=120))
def test_markdown_keeps_its_table(text: str):
    page = markdown.render_check([outcome(text), outcome("b", Status.PASS)], text)
    rows = [line for line in page.splitlines() if line.startswith("|")]
    assert len(rows) == 4
    assert all(row.count("|") == 4 for row in rows)
    assert set(re.findall(r"<[^>]*>", page)) <= {"<code>", "</code>", "<br>"}


def test_markdown_with_a_hostile_name():
    page = markdown.render_check([outcome(HOSTILE)], HOSTILE)
    assert set(re.findall(r"<[^>]*>", page)) <= {"<code>", "</code>", "<br>"}
    plain = html.unescape(page)
    for pattern in (r"@\w", r"#\d", r"https?://", r"www\.", r"mailto:", r"(?i)gh-\d"):
        assert not re.search(pattern, plain), pattern
    body = page.split("| --- |", 1)[1].replace("&#", "")
    assert not re.search(r"[*_`\[\]~$]", body.replace("❌", ""))
    assert "alert(1)" in shown(page)
    assert "@team" in shown(page)


def test_markdown_is_short_enough_for_a_comment():
    many = [outcome(f"moments.{'x' * 200}{i} | < 1", Status.PASS if i % 7 else Status.FAIL) for i in range(2000)]
    page = markdown.render_check(many)
    assert len(page.encode()) < 60_000
    assert "2,000 rules: 286 failed" in page
    assert re.search(r"[\d,]+ more outcomes left out", page)
    body = [line for line in page.splitlines() if line.startswith(("| ❌", "| ✅"))]
    assert all(line.startswith("| ❌") for line in body)  # failures first


@pytest.mark.parametrize(
    ("statuses", "verdict"),
    [
        ([], "Nothing was checked."),
        ([Status.PASS], "1 rule: all passed."),
        ([Status.WARN], "1 rule: 1 warned."),
        ([Status.ERROR, Status.FAIL], "2 rules: 1 could not be judged, 1 failed."),
    ],
)
def test_markdown_says_the_verdict_first(statuses: list[Status], verdict: str):
    page = markdown.render_check([outcome("a", status) for status in statuses])
    assert page.splitlines()[2] == f"**{verdict}**"


def test_findings_of_a_run_can_be_exported(tmp_path: Path):
    finding = Finding("moments.flip", Status.WARN, "It flips.", "input 3", "Look.")
    run = Audit({"name": "net"}, {"moments": Result("moments", "", "", findings=(finding,))})
    (file,) = junit.export(run, tmp_path / "a.xml")
    assert ElementTree.parse(file).getroot().get("tests") == "1"
    (file,) = markdown.export(run, tmp_path / "a.md")
    assert "It flips" in file.read_text(encoding="utf-8")
