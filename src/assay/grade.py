"""How far a number can be trusted: every number assay prints carries one of these grades."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum


class Grade(StrEnum):
    """Reliability of a number, strongest first.

    `EXACT` up to rounding; `BOUND` guaranteed; `CLOSED_FORM` exact under a stated assumption (for example
    Gaussian pre-activations); `LINEARISED` first order; `STATISTICAL` from a statistical model;
    `SAMPLED` measured by sampling, with a standard error.

    Example:
        >>> Grade.BOUND.meaning
        'a guaranteed bound'
        >>> combine([Grade.BOUND, Grade.SAMPLED])
        <Grade.SAMPLED: 'sampled'>
    """

    EXACT = "exact"
    BOUND = "bound"
    CLOSED_FORM = "closed_form"
    LINEARISED = "linearised"
    STATISTICAL = "statistical"
    SAMPLED = "sampled"

    @property
    def label(self) -> str:
        """The name in a sentence."""
        return self.value.replace("_", " ")

    @property
    def meaning(self) -> str:
        """One plain sentence for the reader of a report."""
        return _MEANING[self]


_MEANING = {
    Grade.EXACT: "exact up to rounding",
    Grade.BOUND: "a guaranteed bound",
    Grade.CLOSED_FORM: "a formula that is exact under a stated assumption",
    Grade.LINEARISED: "first order: right for small changes",
    Grade.STATISTICAL: "from a statistical model",
    Grade.SAMPLED: "measured by sampling, with a standard error",
}

# What a number computed from several others inherits: the loosest of them, sampling noise aside.
_LOOSENESS = (
    Grade.EXACT,
    Grade.BOUND,
    Grade.CLOSED_FORM,
    Grade.SAMPLED,
    Grade.STATISTICAL,
    Grade.LINEARISED,
)


def combine(grades: Iterable[Grade]) -> Grade:
    """Grade of a number computed from numbers of these grades: the loosest.

    A bound mixed with an approximation is no longer a bound.

    Args:
        grades: of the numbers it is computed from.

    Returns:
        The loosest; exact when there is none.

    Example:
        >>> combine([Grade.EXACT, Grade.CLOSED_FORM]).value
        'closed_form'
    """
    present = set(grades)
    return max(present, key=_LOOSENESS.index, default=Grade.EXACT)
