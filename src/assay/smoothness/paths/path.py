"""What a path is: a curve in input space with its tangent, and the places where the curve itself has kinks."""

from __future__ import annotations

from typing import Literal, Protocol, runtime_checkable

from torch import Tensor

Side = Literal["left", "right"]


@runtime_checkable
class Path(Protocol):
    """A continuous curve x(t) in input space, twice differentiable between its knots.

    Attributes:
        start: first parameter.
        end: last parameter, larger than `start`.
        knots: parameters strictly between them at which x'(t) jumps, ascending: kinks of the path, not of a network.
    """

    @property
    def start(self) -> float:
        """First parameter."""
        ...

    @property
    def end(self) -> float:
        """Last parameter."""
        ...

    @property
    def knots(self) -> tuple[float, ...]:
        """Parameters at which the tangent jumps."""
        ...

    def at(self, t: Tensor, *, side: Side = "right") -> tuple[Tensor, Tensor]:
        """Points and tangents.

        Args:
            t: (n,) float64 parameters within [start, end].
            side: whose tangent a knot has: of the piece before it or after it.

        Returns:
            x(t) (n, ...) and x'(t) (n, ...), float64.
        """
        ...
