"""The one place that decides whether opening something may execute code, and that remembers what did."""

from __future__ import annotations

from assay.errors import TrustRequired


class Trust:
    """The user's answer to "may this run code?", and the record of what ran because of it.

    Attributes:
        given: whether --trust was given.
        executed: what was executed, in order, such as "factory mypkg.models:make"; goes into the report.
    """

    def __init__(self, given: bool = False) -> None:
        self.given = bool(given)
        self.executed: list[str] = []

    @classmethod
    def of(cls, trust: bool | Trust) -> Trust:
        """The record itself, or a fresh one for a plain yes or no."""
        return trust if isinstance(trust, Trust) else cls(trust)


def require_trust(trust: bool | Trust, what: str, where: str) -> None:
    """Stop unless the user allowed code to run; note it down if so. Call it *before* anything is opened or imported.

    Args:
        trust: yes, no, or the record of this load.
        what: the thing that will run, such as "factory mypkg.models:make".
        where: the file or specification that asks for it.

    Raises:
        TrustRequired: when trust was not given.

    Example:
        >>> trust = Trust(True)
        >>> require_trust(trust, "factory models:make", "models:make")
        >>> trust.executed
        ['factory models:make']
    """
    record = Trust.of(trust)
    if not record.given:
        raise TrustRequired(
            f"Opening this would execute code ({what}), and trust was not given.",
            where=where,
            advice="Read it first. If you trust its origin, repeat with --trust (trust=True in Python).",
        )
    if what not in record.executed:
        record.executed.append(what)
