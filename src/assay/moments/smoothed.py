"""What a moments rule sees and returns: the node as a random affine map, the *smoothed* network.

Every rule replaces y = f(x) by y = mean + A (x - E x) + e: A is the expected Jacobian (exact cross-covariances,
Stein's lemma), e an independent innovation. Chained over the graph this is a linear network driven by Gaussian
noise, whose output
covariance follows forwards by columns or backwards by its transpose.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from assay.covariance import LinearMap
from assay.covariance.functions import safe_sqrt
from assay.gaussian import in_blocks
from assay.graph import Node, Operator


class Element(Protocol):
    """A random tensor along an edge, as a domain holds it."""

    name: str
    mean: Tensor

    @property
    def variance(self) -> Tensor:
        """(B, ...)."""
        ...


@dataclass(frozen=True)
class Operands:
    """Inputs of one node: elements where random, tensors where fixed.

    Attributes:
        node: the node.
        operator: its operator row.
        values: elements, tensors or None, by position.
        attributes: attributes with sizes resolved.
        between: elementwise covariance of two elements, supplied by the domain.
        draw: joint zero-mean draws (n, B, ...) of the varying inputs, supplied by the domain.
    """

    node: Node
    operator: Operator
    values: Sequence[Any]
    attributes: dict[str, Any]
    between: Callable[[Any, Any], Tensor]
    draw: Callable[[Sequence[Any], int], list[Tensor]]
    varying: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        varying = tuple(i for i, v in enumerate(self.values) if v is not None and not isinstance(v, Tensor))
        object.__setattr__(self, "varying", varying)

    @property
    def elements(self) -> list[Any]:
        """The varying inputs, in order."""
        return [self.values[i] for i in self.varying]

    @property
    def means(self) -> list[Tensor | None]:
        """All inputs as numbers: means where they vary."""
        return [v.mean if i in self.varying else v for i, v in enumerate(self.values)]

    def mean(self, position: int = 0) -> Tensor:
        """Mean of a varying input."""
        return self.values[position].mean

    def std(self, position: int = 0) -> Tensor:
        """Standard deviation of a varying input; its gradient is 0, not NaN, where the variance is 0."""
        return in_blocks(lambda variance: (safe_sqrt(variance),), self.values[position].variance)[0]

    def covariance(self, first: int, second: int) -> Tensor:
        """Elementwise covariance of two varying inputs, broadcast."""
        return self.between(self.values[first], self.values[second])

    def function(self, *varying: Tensor) -> Tensor:
        """The node as a function of its varying inputs."""
        filled = list(self.values)
        for position, value in zip(self.varying, varying, strict=True):
            filled[position] = value
        return self.operator.evaluate(*filled, **self.attributes)


Blocks = Callable[[int, int], Tensor]
"""(i, j) -> covariance (B, n, n) of the i-th and j-th varying inputs, both spread over the n units of the output."""


@dataclass(frozen=True)
class Kernel:
    """Covariance of the innovations of all pairs of units, for domains that hold full matrices.

    Attributes:
        innovation: blocks of the inputs' covariance -> covariance (B, n, n) of the innovations. Its diagonal is not
            read: `Smoothed.innovation` holds it.
        exact: whether it is exact up to rounding for Gaussian inputs; False for a series cut short.
    """

    innovation: Callable[[Blocks], Tensor]
    exact: bool = True


@dataclass(frozen=True)
class Smoothed:
    """A node as a random affine map.

    Attributes:
        mean: E y, (B, ...).
        linear: expected Jacobian in the varying inputs.
        innovation: variance (B, ...) of what the map leaves unexplained; None for an affine node.
        kernel: covariance of the innovations where it is known for every pair of units.
    """

    mean: Tensor
    linear: LinearMap
    innovation: Tensor | None = None
    kernel: Kernel | None = None
