"""Rules put to the numbers of a run. What is missing, not a number or of too weak a grade never passes."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from assay.errors import UsageError
from assay.grade import Grade
from assay.requiring.rules import Rule
from assay.results import Audit, Outcome, Quantity, Status
from assay.results.paths import STATISTICS, parse, statistic, values

_COMPARE: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
}


@dataclass(frozen=True)
class Reading:
    """The number that a path names.

    Attributes:
        value: the number; NaN where a value is missing.
        unit: of the number.
        grade: of the number, where it has one.
        quantity: the summary's scalar, where the path names that.
        missing: values that are missing.
        count: values it was taken over.
    """

    value: float
    unit: str = ""
    grade: Grade | None = None
    quantity: Quantity | None = None
    missing: int = 0
    count: int = 1


def check(audit: Audit, rules: Sequence[Rule]) -> tuple[Outcome, ...]:
    """Put rules to a run.

    Args:
        audit: the run.
        rules: what its numbers have to meet.

    Returns:
        One outcome per rule, in order: PASS; WARN or FAIL by the rule's severity; ERROR (WARN for a rule that only
        warns) where the analysis did not run.

    Raises:
        UsageError: for a path that names nothing in the run, or more than one number.

    Example:
        >>> from assay.requiring import parse_rule
        >>> from assay.results import Result
        >>> kappa = Quantity(12.0, Grade.LINEARISED)
        >>> run = Audit({}, {"sensitivity": Result("sensitivity", "", "", {"kappa": kappa})})
        >>> [outcome.status.value for outcome in check(run, [parse_rule("sensitivity.kappa < 10")])]
        ['fail']
    """
    return tuple(_outcome(audit, rule) for rule in rules)


def read(audit: Audit, path: str) -> Reading | None:
    """The number that a path names.

    Args:
        audit: the run.
        path: with the name of the analysis.

    Returns:
        The number; None where the run left the analysis out.

    Raises:
        UsageError: for an unknown analysis or name, or where the path names several numbers and no statistic.
    """
    analysis, _, rest = path.partition(".")
    if analysis not in audit.results:
        if analysis in audit.left_out:
            return None
        close = get_close_matches(analysis, audit.results, 1)
        raise UsageError(
            f"The run has no analysis {analysis!r}.",
            where=path,
            advice=(f"Did you mean {close[0]}? " if close else "") + f"It has: {', '.join(audit.results) or 'none'}.",
        )
    result = audit.results[analysis]
    parts = parse(rest, result)
    found = values(parts, result)
    cells = found.values
    text = any(isinstance(cell, str) for cell in cells)
    if text and parts.statistic != "count":
        raise UsageError(f"{parts.name} holds texts.", where=path, advice="Only .count can be taken of texts.")
    if not parts.statistic and len(cells) != 1:
        raise UsageError(
            f"{parts.name} holds {len(cells)} values.",
            where=path,
            advice=f"Add a statistic ({STATISTICS}), or a selector that leaves one: [column=value].",
        )
    missing = sum(cell is None or cell != cell for cell in cells)
    taken = statistic(cells, parts.statistic or "max")
    unit = "" if parts.statistic == "count" else found.unit
    return Reading(taken, unit, found.grade, found.quantity, missing, len(cells))


def _outcome(audit: Audit, rule: Rule) -> Outcome:
    bad = Status.WARN if rule.severity == "warn" else Status.FAIL
    found = read(audit, rule.path)
    if found is None:
        analysis = rule.path.partition(".")[0]
        error = Status.WARN if rule.severity == "warn" else Status.ERROR
        why = f"Not judged: {analysis} was left out of this run. {audit.left_out[analysis]}"
        return Outcome(rule.name or rule.text, rule.text, error, why, because=rule.because)
    value, end, why = _compared(found, rule)
    passed = not why and _COMPARE[rule.operator](value, rule.limit)
    interval = _interval(found.quantity)
    said = f"{_figure(value)}{f' {found.unit}' if found.unit else ''}{f' ({end})' if end else ''}"
    grade = found.grade.label if found.grade else "no grade"
    sentence = (
        why
        or f"{said} {'meets' if passed else 'does not meet'} {rule.operator} {rule.limit:g}; {grade}"
        + (f", {interval}" if interval else "")
        + "."
    )
    status = Status.PASS if passed else bad
    shown = None if math.isnan(value) else value
    return Outcome(
        rule.name or rule.text, rule.text, status, sentence, shown, found.unit, found.grade, interval, rule.because
    )


def _compared(found: Reading, rule: Rule) -> tuple[float, str, str]:
    """The number to compare, which end of an interval it is, and why it cannot pass, if so."""
    value, end = found.value, ""
    if rule.use != "value":
        quantity = found.quantity
        bound = None if quantity is None else quantity.low if rule.use == "low" else quantity.high
        if quantity is None or bound is None:
            return (
                math.nan,
                "",
                f"Does not pass: {rule.path} has no interval, and the rule asks for its {rule.use} end.",
            )
        value, end = bound, f"{rule.use} end of the interval"
    if found.missing:
        return math.nan, "", f"Does not pass: {found.missing} of {found.count} values are missing or not a number."
    if math.isnan(value):
        return math.nan, "", "Does not pass: there is no number."
    if rule.grades and found.grade not in rule.grades:
        has = found.grade.label if found.grade else "no grade"
        wanted = ", ".join(grade.label for grade in rule.grades)
        return value, end, f"Does not pass: {_figure(value)} is {has}; the rule asks for {wanted}."
    return value, end, ""


def _interval(quantity: Quantity | None) -> str:
    if quantity is None or quantity.low is None or quantity.high is None:
        return ""
    named = f" ({quantity.interval})" if quantity.interval else ""
    return f"{_figure(quantity.low)} to {_figure(quantity.high)}{named}"


def _figure(value: float) -> str:
    return f"{value:.6g}"
