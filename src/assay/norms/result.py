"""What a norm computation returns: an estimate between a lower and a guaranteed upper bound, each with its grade."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from assay.grade import Grade
from assay.results import Displayed


@dataclass(frozen=True)
class OperatorNorm(Displayed):
    """Norm (for a non-linear layer: smallest known Lipschitz constant) of one layer.

    Attributes:
        value: best estimate. Its `grade` is EXACT (up to rounding), STATISTICAL (Lanczos: a lower estimate that
            converges from below) or BOUND (the method gives upper bounds only).
        grade: of `value`.
        lower: the true norm is at least this, up to rounding; 0 where the method gives no lower bound.
        upper: guaranteed: the true norm is at most this. Holds for the layer in exact arithmetic, with a relative
            margin for rounding (1e-5 for weights stored below double precision, else 1e-10).
        probable: exceeded with probability at most 1e-6 over the seed of the Lanczos start; never above `upper`, and
            equal to it where no probability statement could be made.
        method: that gave `value`.
        upper_method: that gave `upper`.
        norm: ``2``, ``inf`` or ``frobenius``.
        bounds: every guaranteed upper bound that was computed, by method, without the margin for rounding.
        iterations: Lanczos steps; 0 where none were made.
        notes: what a reader should know, such as how a bound for a padding mode was derived.
    """

    value: float
    grade: Grade
    lower: float
    upper: float
    probable: float
    method: str
    upper_method: str
    norm: str = "2"
    bounds: Mapping[str, float] = field(default_factory=dict)
    iterations: int = 0
    notes: tuple[str, ...] = ()

    @property
    def upper_grade(self) -> Grade:
        """A guaranteed bound."""
        return Grade.BOUND

    @property
    def lower_grade(self) -> Grade:
        """A guaranteed bound from below."""
        return Grade.BOUND

    @property
    def probable_grade(self) -> Grade:
        """A probability statement about the seed, except where `probable` is the guaranteed bound itself."""
        return Grade.BOUND if self.probable >= self.upper else Grade.STATISTICAL

    def __float__(self) -> float:
        return self.value
