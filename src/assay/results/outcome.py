"""What came of a rule that a user put to the numbers of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from assay.grade import Grade
from assay.results.finding import Status

if TYPE_CHECKING:
    from assay.results.model import Audit


@dataclass(frozen=True)
class Outcome:
    """One rule, the number it asked for, and whether that passed.

    Attributes:
        name: what the rule is called; its text when it has no name.
        rule: its text, such as ``sensitivity.bits.max <= 8``.
        status: PASS; WARN or FAIL by the rule's severity; ERROR when there was nothing to judge.
        sentence: the outcome in plain words, with value, unit and grade.
        value: the number; None when there is none.
        unit: of the number.
        grade: of the number, where it has one.
        interval: the interval in words; empty without one.
        because: why the rule is there, in the words of its author.

    Example:
        >>> from assay.results.finding import Status
        >>> Outcome("small enough", "sensitivity.bits.max <= 8", Status.PASS, "It is 7.", value=7.0).status
        <Status.PASS: 'pass'>
    """

    name: str
    rule: str
    status: Status
    sentence: str
    value: float | None = None
    unit: str = ""
    grade: Grade | None = None
    interval: str = ""
    because: str = ""


def outcomes_of(audit: Audit) -> tuple[Outcome, ...]:
    """The findings of a run as outcomes, most severe first.

    Returns:
        One per finding, passes too.

    Example:
        >>> from assay.results import Audit, Finding, Result, Status
        >>> found = Finding("size.limit", Status.WARN, "The model is large.")
        >>> [one.status for one in outcomes_of(Audit({}, {"size": Result("size", "", "", findings=(found,))}))]
        [<Status.WARN: 'warn'>]
    """
    return tuple(
        Outcome(
            name=f"{finding.rule} ({finding.place})" if finding.place else finding.rule,
            rule=finding.rule,
            status=finding.status,
            sentence=finding.sentence,
            because=finding.next_step,
        )
        for finding in audit.findings
    )
