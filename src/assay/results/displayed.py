"""How result objects show themselves: each can say what it holds as a small `Result`, which every renderer knows."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, singledispatch
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas

    from assay.results.model import Quantity, Result

FIGURES = 4
ROWS = 20
"""Most rows of a table in a notebook; `to_frame()` has them all."""


class Displayed:
    """Mixin of result objects: a short `repr`, notebook display, `plot()` and `to_frame()`, all from `result()`.

    How objects of a class look is a function registered with `result_of` in the module `display` of the class's
    package, or of the nearest package around it that has one; it is imported when something is first shown. A class
    may override `result` instead.

    Example:
        >>> from assay.grade import Grade
        >>> from assay.results import Quantity, Result
        >>> class Answer(Displayed):
        ...     def result(self, rows=None):
        ...         return Result("answer", "The answer", "", {"answer": Quantity(42.0, Grade.EXACT, label="answer")})
        >>> Answer()
        Answer(answer: 42 exact)
    """

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if "__repr__" not in vars(cls):
            cls.__repr__ = Displayed.__repr__  # in the class itself, or `dataclass` writes one that prints all tensors

    def result(self, rows: int | None = None) -> Result:
        """The same as a `Result`: key figures with grades, tables, figures. The store and all renderers take it.

        Args:
            rows: most rows of a table; None for all, 0 where only the key figures matter.

        Returns:
            A result without provenance.
        """
        _import_display(type(self))
        return result_of(self, rows)

    def to_frame(self, table: str | None = None) -> pandas.DataFrame:
        """One of the tables of `result` as a pandas DataFrame, the first when none is named (extra ``tables``)."""
        return self.result().to_frame(table)

    def plot(self, index: int = 0) -> Any:
        """Draw one of the figures of `result` as a matplotlib Figure."""
        return self.result(ROWS).plot(index)

    def _repr_html_(self) -> str:
        return in_notebook(self.result(ROWS))

    def __repr__(self) -> str:
        try:
            return f"{type(self).__name__}({in_words(self.result(0))})"
        except Exception as error:  # a debugger asks objects that are half built, too
            return f"<{type(self).__name__} that cannot be described: {type(error).__name__}>"


@singledispatch
def result_of(shown: object, rows: int | None) -> Result:
    """A result object as a small `Result`; implemented class by class in the `display` modules of their packages.

    Args:
        shown: the object.
        rows: most rows of a table; None for all.

    Raises:
        TypeError: for a class without an implementation.
    """
    raise TypeError(f"nothing says how {type(shown).__qualname__} is displayed: register it with result_of")


def in_words(result: Result) -> str:
    """The first four key figures: counts as they are, other numbers with their grade.

    Returns:
        One line.

    >>> from assay.grade import Grade
    >>> from assay.results import Quantity, Result
    >>> figures = {"n": Quantity(3, Grade.EXACT, label="inputs"), "d": Quantity(0.5, Grade.SAMPLED, label="distance")}
    >>> in_words(Result("points", "", "", figures))
    '3 inputs, distance: 0.5 sampled'
    """
    return ", ".join(_said(key, item) for key, item in list(result.summary.items())[:4])


def _said(key: str, item: Quantity) -> str:
    label = item.label or key.replace("_", " ")
    if isinstance(item.value, int):
        return f"{item.value} {label}"
    scale, percent = (100, " %") if item.unit == "share" else (1, "")
    band = "" if item.low is None or item.high is None else f" [{scale * item.low:.4g}, {scale * item.high:.4g}]"
    unit = f" {item.unit}" if item.unit and not percent else ""
    return f"{label}: {scale * item.value:.4g}{percent}{band}{unit} {item.grade.label}"


def in_notebook(result: Result) -> str:
    """A result as a piece of inert HTML: the first `FIGURES` figures, and `ROWS` rows of every table."""
    from assay.render.html import result_fragment

    tables = {name: table.first(ROWS) for name, table in result.tables.items()}
    notes, total = result.warnings, len(result.figures)
    if total > FIGURES:
        notes = (
            *notes,
            f"{FIGURES} of {total} figures are shown; plot({FIGURES}) to plot({total - 1}) draw the others.",
        )
    return result_fragment(replace(result, tables=tables, figures=result.figures[:FIGURES], warnings=notes))


@cache
def _import_display(shown: type) -> None:
    """Import the module that says how objects of a class look."""
    package = shown.__module__
    while package := package.rpartition(".")[0]:
        if find_spec(f"{package}.display") is not None:
            import_module(f"{package}.display")
            return
