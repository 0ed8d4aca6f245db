"""The checks of both runs: which of them come out otherwise now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from assay.results import Audit, Column, Finding, Status, Table, worst


@dataclass(frozen=True)
class Check:
    """One rule that came out otherwise.

    Attributes:
        rule: its identifier.
        before: in the first run; None where it was not applied.
        after: in the second run; None where it was not applied.
        sentence: what was found, in the second run where it was applied there.
        place: where.
    """

    rule: str
    before: Status | None
    after: Status | None
    sentence: str
    place: str

    @property
    def change(self) -> str:
        """In one word: what a reader looks for."""
        one, other = (0 if status is None else status.severity for status in (self.before, self.after))
        if one == other:
            return "new check" if self.before is None else "no longer checked"
        if other > one:
            return "appeared" if one == 0 else "worse"
        return "disappeared" if other == 0 else "milder"


def changed(before: Audit, after: Audit, shared: Sequence[str]) -> list[Check]:
    """Rules that came out otherwise. One that was applied at several places counts with its most severe finding.

    Returns:
        The worst of the second run first.
    """
    found = []
    for name in shared:
        one, other = _by_rule(before.results[name].findings), _by_rule(after.results[name].findings)
        for rule in dict.fromkeys([*other, *one]):
            first, second = one.get(rule, ()), other.get(rule, ())
            statuses = [worst(group) if group else None for group in (first, second)]
            if statuses[0] == statuses[1]:
                continue
            told = max(second or first, key=lambda finding: finding.status.severity)
            found.append(Check(rule, statuses[0], statuses[1], told.sentence, told.place))
    return sorted(found, key=lambda check: -(check.after.severity if check.after else -1))


def table(found: Sequence[Check]) -> Table:
    """One row per check that came out otherwise."""
    columns = (
        Column("rule", "check"),
        Column("change", "what happened"),
        Column("before", "before"),
        Column("after", "after"),
        Column("place", "where"),
        Column("sentence", "in words"),
    )
    records = [
        {
            "rule": each.rule,
            "change": each.change,
            "before": each.before.value if each.before else "not applied",
            "after": each.after.value if each.after else "not applied",
            "place": each.place,
            "sentence": each.sentence,
        }
        for each in found
    ]
    caption = "Thresholds are crossed by chance, too: a check alone proves no difference."
    return Table.from_records("findings", "Checks that came out otherwise", columns, records, caption)


def _by_rule(findings: Sequence[Finding]) -> dict[str, list[Finding]]:
    rules: dict[str, list[Finding]] = {}
    for finding in findings:
        rules.setdefault(finding.rule, []).append(finding)
    return rules
