"""The findings a report begins with: severity, turns, duplicates."""

from assay.render.headlines import choose
from assay.render.html import render
from assay.results import Audit, Finding, Result, Status

FAIL, WARN, PASS, ERROR = Status.FAIL, Status.WARN, Status.PASS, Status.ERROR


def audit_of(**findings: list[tuple[Status, str]]) -> Audit:
    """One result per keyword; every finding has a rule of its own."""
    results = {
        name: Result(name, name.upper(), "q", findings=tuple(Finding(f"{name}.{s}", status, s) for status, s in some))
        for name, some in findings.items()
    }
    return Audit({"name": "m"}, results)


def sentences(audit: Audit) -> list[str]:
    return [each.finding.sentence for each in choose(audit).shown]


def test_severe_findings_come_first_and_analyses_take_turns():
    audit = audit_of(
        a=[(WARN, "a1"), (WARN, "a2"), (WARN, "a3"), (PASS, "a4")],
        b=[(PASS, "b1"), (WARN, "b2"), (WARN, "b3"), (FAIL, "b4")],
        c=[(ERROR, "c1"), (PASS, "c2")],
    )
    assert sentences(audit) == ["c1", "b4", "a1", "b2", "a2"]
    assert choose(audit).rest == {"a": 1, "b": 1}


def test_an_analysis_without_complaint_adds_its_first_check():
    audit = audit_of(a=[(WARN, "a1"), (PASS, "a2")], b=[(PASS, "b1"), (PASS, "b2")], c=[(PASS, "c1")])
    assert sentences(audit) == ["a1", "b1", "c1"]
    assert choose(audit).rest == {}
    many = audit_of(**{name: [(PASS, name)] for name in "abcdefg"})
    assert sentences(many) == list("abcde")


def test_the_same_sentence_counts_once_with_all_its_places_and_analyses():
    said = [Finding("x", WARN, "It bends.", place, "Straighten it.") for place in ("one", "two", "one")]
    results = {name: Result(name, name, "q", findings=tuple(said)) for name in ("a", "b")}
    headlines = choose(Audit({}, results))
    assert len(headlines.shown) == 1
    assert headlines.shown[0].places == ["one", "two"]
    assert headlines.shown[0].sources == ["a", "b"]
    assert headlines.rest == {}


def test_a_rule_that_speaks_of_many_layers_has_one_headline():
    said = [Finding("x", WARN, f"Layer {i} bends.", f"layer {i}") for i in range(30)]
    headlines = choose(Audit({}, {"a": Result("a", "a", "q", findings=tuple(said))}))
    assert [(each.finding.sentence, each.others) for each in headlines.shown] == [("Layer 0 bends.", 29)]
    assert headlines.rest == {"a": 29}


def test_headlines_lead_to_their_sections():
    page = render(audit_of(a=[(FAIL, f"a{i}") for i in range(7)], b=[(WARN, "b1")]))
    top = page[page.index('<ol class="findings">') : page.index("</ol>")]
    assert top.count("<li") == 5
    assert 'href="#result-a"' in top
    assert 'More to look at: 2 in <a href="#result-a">A</a>, 1 in <a href="#result-b">B</a>.' in page
