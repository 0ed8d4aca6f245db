"""Errors a user can meet: each says what is wrong, where, and what to do next, and carries its exit code."""

from __future__ import annotations


class AssayError(Exception):
    """Base of every error assay raises on purpose.

    Attributes:
        what: what is wrong, one sentence.
        where: the file, layer or argument it concerns; may be empty.
        advice: what to do next; may be empty.
        exit_code: the process exit code the command line uses for this class.

    Example:
        >>> error = AssayError("The file is empty.", where="data.npz", advice="Give one with samples.")
        >>> print(error)
        The file is empty.
        Where: data.npz
        Next: Give one with samples.
    """

    exit_code = 4

    def __init__(self, what: str, *, where: str = "", advice: str = "") -> None:
        self.what = what
        self.where = where
        self.advice = advice
        super().__init__(what)

    def __str__(self) -> str:
        parts = [self.what]
        if self.where:
            parts.append(f"Where: {self.where}")
        if self.advice:
            parts.append(f"Next: {self.advice}")
        return "\n".join(parts)


class UsageError(AssayError):
    """The request itself is off: an option, a name, a value out of range.

    Example:
        >>> UsageError.exit_code
        2
    """

    exit_code = 2


class MissingExtra(UsageError):
    """An optional library is needed and not installed."""

    def __init__(self, library: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the library {library!r}, which is not installed.",
            where=library,
            advice=f"pip install 'assay[{extra}]'" if extra else f"pip install {library}",
        )


class TrustRequired(UsageError):
    """Opening this would execute code, and --trust was not given.

    Example:
        >>> issubclass(TrustRequired, UsageError)
        True
    """


class PluginError(UsageError):
    """What another package adds to assay cannot be used."""


class SubjectError(AssayError):
    """The model or the data cannot be used.

    Example:
        >>> SubjectError.exit_code
        3
    """

    exit_code = 3


class CaptureError(SubjectError):
    """The model could not be captured as a graph.

    Example:
        >>> issubclass(CaptureError, SubjectError)
        True
    """


class UnsupportedOperator(SubjectError):
    """Operators without a rule were met while fallbacks were forbidden (--strict)."""


class NumericalError(SubjectError):
    """A computation met NaN or infinity, or would have to return a wrong number."""


class StoreError(AssayError):
    """A run directory cannot be read or written (missing, damaged, disk full).

    Example:
        >>> StoreError.exit_code
        3
    """

    exit_code = 3


class TrackingError(AssayError):
    """A tracking server cannot be reached, or refuses what it is sent."""

    exit_code = 3
