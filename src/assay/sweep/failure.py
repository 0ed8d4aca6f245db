"""Errors on their way from a worker, as plain values: some exceptions cannot be pickled, and would break a pool."""

from __future__ import annotations

import contextlib
import pickle
import traceback
from dataclasses import dataclass

import assay.errors as known
from assay.errors import AssayError


@dataclass(frozen=True)
class Failure:
    """An error as plain values.

    Attributes:
        kind: name of its class; for one of ours, of the nearest class in `assay.errors`.
        what: its message.
        where: place, for one of ours.
        advice: next step, for one of ours.
        trace: traceback; empty for one of ours.
        pickled: the error itself, where it can be pickled.
    """

    kind: str
    what: str
    where: str = ""
    advice: str = ""
    trace: str = ""
    pickled: bytes = b""


def failure_of(error: Exception) -> Failure:
    """An error as plain values; what is not ours comes with its traceback as text."""
    if isinstance(error, AssayError):
        kind = next(kind for kind in type(error).__mro__ if kind.__module__ == known.__name__)
        return Failure(kind.__name__, error.what, error.where, error.advice)
    pickled = b""
    with contextlib.suppress(Exception):
        pickled = pickle.dumps(error)
        pickle.loads(pickled)
        return Failure(type(error).__name__, str(error), trace=traceback.format_exc(), pickled=pickled)
    return Failure(type(error).__name__, str(error), trace=traceback.format_exc())


def raised(failure: Failure, item: str) -> BaseException:
    """The error that a failure stands for.

    Returns:
        One of `assay.errors` with its message, place and advice; else the original with the worker's traceback noted.
    """
    kind = getattr(known, failure.kind, None)
    if not failure.trace and isinstance(kind, type) and issubclass(kind, AssayError):
        error = kind.__new__(kind)  # classes with arguments of their own are filled in past them
        AssayError.__init__(error, failure.what, where=failure.where or item, advice=failure.advice)
        return error
    original: BaseException
    try:
        original = pickle.loads(failure.pickled)
    except Exception:
        original = RuntimeError(f"{failure.kind}: {failure.what}")
    original.add_note(f"Item {item!r}, in a worker:\n{failure.trace}")
    return original
