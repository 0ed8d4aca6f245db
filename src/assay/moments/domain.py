"""What the two Gaussian domains share: choosing a rule, falling back visibly, and recording what each node did."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn

from torch import Tensor

from assay.errors import UnsupportedOperator
from assay.grade import Grade, combine
from assay.graph import OPERATORS, Graph, Node, evaluate_node
from assay.interpret import fallback, unsupported
from assay.moments.rules import TABLE
from assay.moments.smoothed import Operands, Smoothed

Fallback = Literal["linearise", "sample", "error"]

_FALLBACK_DRAWS = 64


@dataclass
class Trust:
    """Grade of every node's numbers, and whether its value is exactly Gaussian.

    A closed form is exact on a Gaussian input, where the domain uses the covariances of all pairs of units; its
    output is not Gaussian any more, so the next closed form is exact only under the assumption of Gaussian
    pre-activations. Where two
    branches meet after non-linearities of their own, their cross-covariance is first order.
    """

    grades: dict[str, Grade] = field(default_factory=dict)
    gaussian: dict[str, bool] = field(default_factory=dict)
    innovation_share: dict[str, float] = field(default_factory=dict)
    frozen: set[str] = field(default_factory=set)
    """Nodes whose value at the means stands for a distribution."""

    def grade_of(self, name: str) -> Grade:
        """Grade of a node; of a constant, whether its value was frozen on the way."""
        return self.grades.get(name, Grade.LINEARISED if self.frozen else Grade.EXACT)

    def record(self, node: Node, inputs: Sequence[str], own: Grade, *, all_pairs: bool) -> None:
        """Grade a node from its rule's and its inputs'; `all_pairs`: covariances of innovations are kept too."""
        curved = sum(not self.gaussian.get(name, True) for name in set(inputs))
        gaussian = curved == 0
        from_rule = Grade.EXACT if own == Grade.CLOSED_FORM and gaussian and all_pairs else own
        if own == Grade.EXACT and curved > 1:
            from_rule = Grade.CLOSED_FORM
        worst = [self.grades.get(name, Grade.EXACT) for name in inputs]
        if any(self._follows_frozen(name) for name in node.inputs if name is not None and name not in inputs):
            worst.append(Grade.LINEARISED)
        self.grades[node.name] = combine([from_rule, *worst])
        self.gaussian[node.name] = gaussian and own == Grade.EXACT

    def _follows_frozen(self, name: str) -> bool:
        """Whether an input without an element may depend on a frozen node: all but parameters and constants may."""
        return name in self.frozen or (bool(self.frozen) and _LEAF.search(name) is None)


_LEAF = re.compile(r"^[pbc]_|_(constant\d+|value)$")
"""Names that capture gives to parameters, buffers and constants."""


def smooth(operands: Operands, policy: Fallback) -> tuple[Smoothed, Grade]:
    """The node as a random affine map, by its rule or by the fallback the user allowed.

    Returns:
        The smoothed node and its rule's grade.

    Raises:
        UnsupportedOperator: when there is no rule and the policy is ``error``.
    """
    rule = TABLE.lookup(operands.node.op, frozenset(operands.varying))
    if rule is not None:
        return rule.function(operands), rule.grade
    if policy == "error":
        _refuse([operands.node])
    means = [element.mean for element in operands.elements]
    if policy == "sample":
        replaced = fallback.sampled(operands.function, means, operands.draw(operands.elements, _FALLBACK_DRAWS))
        return Smoothed(replaced.mean, replaced.linear, replaced.innovation), Grade.SAMPLED
    replaced = fallback.linearise(operands.function, means)
    return Smoothed(replaced.mean, replaced.linear), Grade.LINEARISED


def refuse_unsupported(graph: Graph) -> None:
    """Stop before any work when some node has no rule: what --strict means.

    Raises:
        UnsupportedOperator: listing all such nodes with their module paths.
    """
    nodes = unsupported(graph, TABLE)
    if nodes:
        _refuse(nodes)


def _refuse(nodes: Sequence[Node]) -> NoReturn:
    listing = "; ".join(node.place for node in nodes)
    raise UnsupportedOperator(
        f"{len(nodes)} operator(s) have no rule in the moments domain and --strict forbids approximating them.",
        where=listing,
        advice="Drop --strict to linearise or sample them (graded so), or add a rule (see docs/architecture.md).",
    )


def operands_of(node: Node, values: Sequence[Any], batch: int, domain: Any) -> Operands:
    """Bundle a node's inputs for its rule."""
    attributes = dict(node.resolved(batch))
    return Operands(node, OPERATORS[node.op], values, attributes, domain.between, domain.draw)


def frozen_value(node: Node, values: Sequence[Any], batch: int, trust: Trust) -> Tensor:
    """Value of an integer or boolean node at the means; marks what depends on it as linearised."""
    trust.frozen.add(node.name)
    points = [value if value is None or isinstance(value, Tensor) else value.mean for value in values]
    return evaluate_node(node, points, batch)


_UNITS, _RUN = 16_384, 16
"""Most units that a layer's mean noise is taken over, and how many of them lie side by side: a cache line's worth."""


def thinned(values: Tensor, leading: int = 1) -> Tensor:
    """Every unit of a small layer, evenly spaced short runs of a large one: (..., u) with the leading axes kept."""
    flat = values.flatten(leading) if values.dim() > leading else values.unsqueeze(-1)
    runs = flat.shape[-1] // _RUN
    step = flat.shape[-1] // _UNITS | 1
    if step == 1:
        return flat
    return flat[..., : runs * _RUN].unflatten(-1, (runs, _RUN))[..., ::step, :].flatten(-2)


def share_of(innovation: Tensor | None, variance: float) -> float:
    """Share of a node's mean variance that is its own innovation."""
    if innovation is None or variance <= 0:
        return 0.0
    return min(1.0, float(thinned(innovation.detach()).mean()) / variance)


def broadcast_variance(innovation: Tensor | None, mean: Tensor) -> Tensor:
    """Innovation variance in the shape of the mean; zeros for None."""
    return mean.new_zeros(mean.shape) if innovation is None else innovation.expand(mean.shape)
