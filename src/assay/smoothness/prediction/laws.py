"""What a node does to a Gaussian process: a linear map, or units that switch the slopes of their inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from assay.covariance import LinearMap
from assay.errors import UnsupportedOperator
from assay.graph import Node, Operator

Pairs = Callable[[], tuple[Tensor, list[list[Tensor]]]]


@dataclass(frozen=True)
class Straight:
    """A node that is affine, or that was replaced by its tangent at the mean.

    Attributes:
        mean: of the output, in its shape.
        linear: what values and slopes go through.
    """

    mean: Tensor
    linear: LinearMap


@dataclass(frozen=True)
class Bent:
    """A node whose unit i has the slope sum_a s_ai x'_ai, with random switches s that depend on values only.

    Attributes:
        mean: of the output, in its shape.
        gains: E s_a, (n,) for each varying input.
        squares: E s_a s_b of each unit, (n,).
        variance: of the output, (n,).
        pairs: covariance of the output (n, n) and E s_ai s_bj (n, n) for all pairs of units; diagonals are not read.
    """

    mean: Tensor
    gains: list[Tensor]
    squares: list[list[Tensor]]
    variance: Tensor
    pairs: Pairs


@dataclass(frozen=True)
class Element:
    """A tensor inside the network: its mean; the domain keeps covariances.

    Attributes:
        name: of the node.
        mean: in the shape of the node's value for a batch of one.
        dense: whether covariances are matrices.
    """

    name: str
    mean: Tensor
    dense: bool

    @property
    def size(self) -> int:
        """Number of units."""
        return self.mean.numel()


@dataclass(frozen=True)
class Inputs:
    """Inputs of one node.

    Attributes:
        node: the node.
        operator: its row.
        values: elements where they vary, tensors or None elsewhere.
        attributes: with sizes resolved.
        variances: (first, second) -> covariance (n,) of units at the same place of two varying inputs.
        matrix: (first, second) -> covariance (n, n) of two varying inputs.
    """

    node: Node
    operator: Operator
    values: Sequence[Any]
    attributes: dict[str, Any]
    variances: Callable[[int, int], Tensor]
    matrix: Callable[[int, int], Tensor]

    @property
    def varying(self) -> tuple[int, ...]:
        """Positions of elements."""
        return tuple(i for i, value in enumerate(self.values) if isinstance(value, Element))

    @property
    def means(self) -> list[Tensor | None]:
        """All inputs as numbers."""
        return [value.mean if isinstance(value, Element) else value for value in self.values]

    def evaluate(self, *varying: Tensor) -> Tensor:
        """The node as a function of its varying inputs."""
        filled = self.means
        for place, value in zip(self.varying, varying, strict=True):
            filled[place] = value
        return self.operator.evaluate(*filled, **self.attributes)


Rule = Callable[[Inputs], Straight | Bent]


def unsupported(node: Node) -> UnsupportedOperator:
    """The error for a node whose kinks the prediction does not know."""
    return UnsupportedOperator(
        f"The kinks of {node.place} cannot be predicted.",
        where=node.place,
        advice="Measure them along a path instead: smp(model, path).",
    )
