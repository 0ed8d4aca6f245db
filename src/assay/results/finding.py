"""A finding: a threshold rule applied to a result, in plain words, with a place and a next step."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """Outcome of a rule, mildest first.

    Example:
        >>> max(Status, key=lambda status: status.severity)
        <Status.ERROR: 'error'>
    """

    PASS = "pass"
    WARN = "warn"
    FAIL = "fail"
    ERROR = "error"

    @property
    def severity(self) -> int:
        """0 for PASS to 3 for ERROR."""
        return list(Status).index(self)


@dataclass(frozen=True)
class Finding:
    """One rule's outcome on one result.

    Attributes:
        rule: stable identifier, such as ``moments.flip_probability``.
        status: PASS, WARN, FAIL or ERROR.
        sentence: what was found, in plain words, with the number and its grade.
        place: layer, class or input it concerns; may be empty.
        next_step: what to do about it; empty for a pass.

    Example:
        >>> Finding("size.limit", Status.WARN, "The model is large.", next_step="Prune it.").status.severity
        1
    """

    rule: str
    status: Status
    sentence: str
    place: str = ""
    next_step: str = ""


def worst(findings: Iterable[Finding]) -> Status:
    """Most severe status among findings; PASS when there is none.

    Returns:
        The status.

    Example:
        >>> worst([Finding("a", Status.PASS, "Fine."), Finding("b", Status.WARN, "Hm.")])
        <Status.WARN: 'warn'>
        >>> worst([])
        <Status.PASS: 'pass'>
    """
    return max((finding.status for finding in findings), key=lambda status: status.severity, default=Status.PASS)
