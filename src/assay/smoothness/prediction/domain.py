"""The domain `kinks`: means, covariances of values and of slopes along the edges of a graph.

Up to a stated width every pair of live tensors keeps both covariances as matrices, so branches that meet again keep
theirs. Wider tensors keep variances only, and what follows from them is graded as a statistical model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from assay.covariance import LinearMap
from assay.grade import Grade
from assay.graph import OPERATORS, Node
from assay.interpret.linear import Tied
from assay.smoothness.prediction.laws import Bent, Element, Inputs, Straight, unsupported
from assay.smoothness.prediction.rules import rule_for

_EXPLICIT = 1 << 26
"""Entries of a linear map that is written out to carry variances exactly into or out of a wide tensor."""


class Step:
    """What the backward walk needs of one node.

    Attributes:
        element: of the node.
        inputs: elements that vary, in the order of the law.
        law: what the node does.
        joint: E s_ai s_bj for all pairs of units, or of each unit for wide tensors; empty for a straight node.
    """

    def __init__(
        self, element: Element, inputs: list[Element], law: Straight | Bent, joint: list[list[Tensor]]
    ) -> None:
        self.element, self.inputs, self.law, self.joint = element, inputs, law, joint


class KinkDomain:
    """Carries elements through a graph; see `assay.interpret.forward`.

    Args:
        width: widest tensor that keeps matrices.
        look: called with every node, its inputs (elements or tensors) and the domain, before its law is applied.
    """

    def __init__(self, width: int, look: Callable[[Node, Sequence[Any], KinkDomain], None]) -> None:
        self.width, self.look = width, look
        self.blocks: dict[tuple[str, str], tuple[Tensor, Tensor]] = {}
        self.steps: list[Step] = []
        self.grades: dict[str, Grade] = {}
        self.wide: list[str] = []

    def lift(self, name: str, mean: Tensor, moments: tuple[Tensor, Tensor]) -> Element:
        """The input: mean in its shape, matrices (n, n) or variances (n,) of values and slopes."""
        self.blocks[name, name] = moments
        return Element(name, mean, moments[0].dim() == 2)

    def apply(self, node: Node, operands: Sequence[Any], live: frozenset[str], batch: int) -> Element:
        """Element of a node."""
        self.look(node, operands, self)
        inputs = Inputs(
            node,
            OPERATORS[node.op],
            operands,
            dict(node.resolved(batch)),
            lambda a, b: self.variances(operands[a], operands[b])[0],
            lambda a, b: self.block(operands[a].name, operands[b].name)[0],
        )
        rule, grade = rule_for(inputs)
        law = rule(inputs)
        sources = [operands[place] for place in inputs.varying]
        size = law.mean.numel()
        dense = size <= self.width and all(s.dense for s in sources)
        element = Element(node.name, law.mean, dense)
        if isinstance(law, Straight):
            joint: list[list[Tensor]] = []
            moments = self._straight(law.linear, sources, element, live)
        else:
            moments, joint = self._bent(law, sources, element, live)
        if moments[0].dim() == 2 and not dense:
            element = Element(node.name, law.mean, True)
        if not element.dense:
            self.wide.append(node.name)
        self.blocks[node.name, node.name] = moments
        self.grades[node.name] = grade
        self.steps.append(Step(element, sources, law, joint))
        return element

    def freeze(self, node: Node, operands: Sequence[Any], batch: int) -> Tensor:
        """Integers and comparisons jump along a path: refused."""
        raise unsupported(node)

    def release(self, name: str) -> None:
        """Drop every block of a dead tensor."""
        for pair in [pair for pair in self.blocks if name in pair]:
            del self.blocks[pair]

    def block(self, first: str, second: str) -> tuple[Tensor, Tensor]:
        """Covariances of values and of slopes, (n_first, n_second)."""
        found = self.blocks.get((first, second))
        if found is not None:
            return found
        found = self.blocks.get((second, first))
        if found is None:  # one of them came out of a wide tensor: what they share is not known
            none = torch.zeros((self._size(first), self._size(second)), dtype=torch.float64)
            return none, none
        return found[0].T, found[1].T

    def _size(self, name: str) -> int:
        return self.blocks[name, name][0].shape[0]

    def variances(self, first: Element, second: Element) -> tuple[Tensor, Tensor]:
        """Covariances of values and of slopes at the same places, (n,); zero between different wide tensors."""
        if first.dense and second.dense:
            values, slopes = self.block(first.name, second.name)
            return values.diagonal(), slopes.diagonal()
        if first.name == second.name:
            return self.blocks[first.name, first.name]
        return torch.zeros(first.size, dtype=torch.float64), torch.zeros(first.size, dtype=torch.float64)

    def _related(self, live: frozenset[str]) -> list[str]:
        found = (self.blocks.get((name, name)) for name in sorted(live))
        return [name for name, block in zip(sorted(live), found, strict=True) if block and block[0].dim() == 2]

    def _straight(
        self, linear: LinearMap, sources: list[Element], element: Element, live: frozenset[str]
    ) -> tuple[Tensor, Tensor]:
        if not element.dense:
            return self._wide(linear, sources, element)
        names = dict.fromkeys([*(s.name for s in sources), *self._related(live)])
        cross = {}
        for name in names:
            both = [self.block(s.name, name) for s in sources]
            cross[name] = tuple(_columns(linear, sources, [pair[k] for pair in both]) for k in (0, 1))
        own = tuple(_columns(linear, sources, [cross[s.name][k].T for s in sources]) for k in (0, 1))
        for name in self._related(live):
            self.blocks[element.name, name] = cross[name]  # type: ignore[assignment]
        return (own[0] + own[0].T) / 2, (own[1] + own[1].T) / 2

    def _wide(self, linear: LinearMap, sources: list[Element], element: Element) -> tuple[Tensor, Tensor]:
        entries = element.size * sources[0].size
        if len(sources) == 1 and sources[0].dense and entries <= _EXPLICIT:
            map_ = _columns(linear, sources, [torch.eye(sources[0].size, dtype=torch.float64)])
            block = self.blocks[sources[0].name, sources[0].name]
            return (map_ @ block[0] * map_).sum(1), (map_ @ block[1] * map_).sum(1)
        if len(sources) == 1 and element.size <= self.width and entries <= _EXPLICIT:
            map_ = written(linear, sources[0], element)
            values, slopes = self.blocks[sources[0].name, sources[0].name]
            return map_ * values @ map_.T, map_ * slopes @ map_.T
        names = [s.name for s in sources]
        carried = Tied(linear, names) if len(set(names)) < len(names) else linear
        parts = [self.variances(s, s) for s in sources]
        found = []
        for k in (0, 1):
            shaped = [part[k].reshape(s.mean.shape) for part, s in zip(parts, sources, strict=True)]
            found.append(carried.squared(*shaped).reshape(-1))
        if element.size <= self.width:
            return torch.diag(found[0]), torch.diag(found[1])
        return found[0], found[1]

    def _bent(
        self, law: Bent, sources: list[Element], element: Element, live: frozenset[str]
    ) -> tuple[tuple[Tensor, Tensor], list[list[Tensor]]]:
        many = range(len(sources))
        if not element.dense:
            slopes = sum(
                (law.squares[a][b] * self.variances(sources[a], sources[b])[1] for a in many for b in many),
                torch.zeros_like(law.variance),
            )
            return (law.variance, slopes), law.squares
        for name in self._related(live):
            both = [self.block(s.name, name) for s in sources]
            parts = [sum_([g.unsqueeze(1) * p[k] for g, p in zip(law.gains, both, strict=True)]) for k in (0, 1)]
            self.blocks[element.name, name] = parts[0], parts[1]
        values, joint = law.pairs()
        values.diagonal().copy_(law.variance)
        for a in many:
            for b in many:
                joint[a][b].diagonal().copy_(law.squares[a][b])
        speeds = [joint[a][b] * self.block(sources[a].name, sources[b].name)[1] for a in many for b in many]
        slopes = sum_(speeds)
        return ((values + values.T) / 2, (slopes + slopes.T) / 2), joint


def sum_(terms: Sequence[Tensor]) -> Tensor:
    """Sum of at least one tensor."""
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def _columns(linear: LinearMap, sources: Sequence[Element], matrices: Sequence[Tensor]) -> Tensor:
    """A linear map on the columns of matrices (n_source, k): (n_out, k)."""
    stacks = [m.T.reshape(m.shape[1], *s.mean.shape) for m, s in zip(matrices, sources, strict=True)]
    image = linear.apply(*stacks)
    return image.reshape(matrices[0].shape[1], -1).T


def pulled(linear: LinearMap, element: Element, rows: Tensor) -> list[Tensor]:
    """The transposed map on rows (k, n_out): one (k, n_source) per source."""
    found = linear.transpose(rows.reshape(len(rows), *element.mean.shape))
    return [part.reshape(len(rows), -1) for part in found]


def written(linear: LinearMap, source: Element, element: Element) -> Tensor:
    """The matrix (n_out, n_source) of a map of one input, by its rows."""
    return pulled(linear, element, torch.eye(element.size, dtype=torch.float64))[0]


__all__ = ["KinkDomain", "Step", "pulled", "sum_", "written"]
