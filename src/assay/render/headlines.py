"""The few findings that a report begins with: the most severe first, every analysis heard before one speaks twice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from assay.results import Audit, Finding, Status

MOST = 5


@dataclass
class Headline:
    """One finding for the top of the report.

    Attributes:
        finding: what to print.
        sources: keys of the results that say it.
        places: every place it is said of.
        others: how many more findings the same rule has of this status.
    """

    finding: Finding
    sources: list[str]
    places: list[str] = field(default_factory=list)
    others: int = 0


@dataclass(frozen=True)
class Headlines:
    """What the report begins with.

    Attributes:
        shown: at most `MOST`, in order.
        rest: by result key, how many findings that call for attention are not among them.
    """

    shown: Sequence[Headline]
    rest: Mapping[str, int]


def choose(audit: Audit, most: int = MOST) -> Headlines:
    """The findings that matter most, with what the reader finds further down.

    Severe ones come first; among equals, analyses take turns. The same sentence said twice counts once, and a rule that
    speaks of many layers is represented by its first finding. Where fewer than `most` call for attention, analyses that
    have not been heard add the first of their checks that passed.

    Returns:
        The findings to begin with.

    >>> from assay.results import Result
    >>> bad = [Finding("a.x", Status.WARN, "bent", place) for place in ("one", "two")]
    >>> found = choose(Audit({}, {"a": Result("a", "A", "", findings=tuple(bad))}))
    >>> [(each.finding.sentence, each.places) for each in found.shown]
    [('bent', ['one', 'two'])]
    """
    groups = _groups(audit)
    ranked = [group for status in reversed(Status) for group in _in_turn(groups, status)]
    bad = [group for group in ranked if group.finding.status is not Status.PASS]
    shown = bad[:most]
    heard = {source for group in shown for source in group.sources}
    for group in ranked:
        if group.finding.status is Status.PASS and len(shown) < most and not heard & set(group.sources):
            shown.append(group)
            heard |= set(group.sources)
    rest: dict[str, int] = {}
    for group in bad:
        said_of = len(group.places) if group in shown else 0
        missing = group.others + (0 if said_of else max(len(group.places), 1))
        if missing:
            rest[group.sources[0]] = rest.get(group.sources[0], 0) + missing
    return Headlines(shown, rest)


def _groups(audit: Audit) -> list[Headline]:
    """One entry per sentence, and per rule of an analysis one for each status, in order."""
    by_sentence: dict[tuple[Status, str, str], Headline] = {}
    by_rule: dict[tuple[str, str, Status], Headline] = {}
    for key, result in audit.results.items():
        for finding in result.findings:
            same = by_sentence.get((finding.status, finding.sentence, finding.next_step))
            if same is not None:
                same.places += [finding.place] if finding.place not in same.places else []
                same.sources += [key] if key not in same.sources else []
                continue
            first = by_rule.get((key, finding.rule, finding.status))
            if first is not None and finding.status is not Status.PASS:
                first.others += 1
                continue
            group = Headline(finding, [key], [finding.place])
            by_sentence[finding.status, finding.sentence, finding.next_step] = group
            by_rule.setdefault((key, finding.rule, finding.status), group)
    return list(by_sentence.values())


def _in_turn(groups: Sequence[Headline], status: Status) -> list[Headline]:
    """Those of one status: the first of every analysis, then the second of every analysis, and so on."""
    turns: dict[str, int] = {}
    ranked: list[tuple[int, Headline]] = []
    for group in groups:
        if group.finding.status is status:
            ranked.append((turns.get(group.sources[0], 0), group))
            turns[group.sources[0]] = turns.get(group.sources[0], 0) + 1
    return [group for _, group in sorted(ranked, key=lambda pair: pair[0])]
