"""The scalable domain: every activation as mean + low-rank factor + independent rest.

Innovations are not kept as an independent rest, which would forget how later layers correlate them and starve the
variances of deep
networks: they enter a few columns of their own with random signs, which keeps every later variance unbiased.

Memory per live tensor: r + 2 copies of the activation, none of them twice: elementwise maps overwrite columns that
nothing reads any more, sums over columns stream. Time: r + 1 passes of the linear layers, plus one with squared weights
where there is an independent rest.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from assay.covariance import LowRankPlusDiagonal
from assay.covariance.functions import safe_sqrt
from assay.gaussian import followed
from assay.grade import Grade, combine
from assay.graph import Node
from assay.interpret import Gains, OperatorMap, Step, Tied
from assay.moments.disturbance import Disturbance
from assay.moments.domain import (
    Fallback,
    Trust,
    broadcast_variance,
    frozen_value,
    operands_of,
    share_of,
    smooth,
    thinned,
)
from assay.moments.folding import Folded
from assay.moments.streamed import Blend, carry, in_parts, products


@dataclass(frozen=True, eq=False)
class FactorElement:
    """A random tensor: mean (B, ...) and covariance as factor and rest."""

    name: str
    mean: Tensor
    covariance: LowRankPlusDiagonal
    sketched: bool = False
    """Whether its variance holds innovations carried by random signs: an estimate."""
    covered: bool = False
    """Whether its factor is all of its covariance: the rest is zero."""
    known: Tensor | None = None
    """Its variance, where that was found with less work than from the columns."""

    @cached_property
    def variance(self) -> Tensor:
        """(B, ...)."""
        if self.known is not None:
            return self.known
        factor = self.covariance.factor
        total = products(factor, factor)
        return total if self.covered else total + self.covariance.rest

    @cached_property
    def mean_variance(self) -> float:
        """Mean over units (over evenly spaced ones of a large layer), without the variance of every unit."""
        factor, rest = self.covariance.factor.detach(), self.covariance.rest.detach()
        return float(thinned(factor, 2).square().sum(0).mean() + thinned(rest).mean())


_SIGNS = 1 << 20
"""Where a column's signs may begin in the common sequence."""


@lru_cache(maxsize=2)
def _signs(size: int, dtype: torch.dtype) -> Tensor:
    """Random signs: nodes and columns read them from different places on, which is as good as drawing anew."""
    generator = torch.Generator().manual_seed(0)
    return 2 * torch.randint(0, 2, (size + _SIGNS,), generator=generator, dtype=torch.int8).to(dtype) - 1


class FactorDomain:
    """Elements share the sources of their factors, so branches that meet again keep their covariance.

    Their rests count as independent.

    Args:
        fallback: what to do without a rule.
        record: keep the steps for the reverse walk.
        innovation_columns: how many of the factor's last columns carry innovations; with 0 they become independent
            rest.
        disturbance: noise on weights and activations, with columns of its own before those of innovations.
        folded: by layer, what its weights were made of when a batch norm was folded into them.
    """

    def __init__(
        self,
        *,
        fallback: Fallback = "linearise",
        record: bool = True,
        innovation_columns: int = 0,
        disturbance: Disturbance | None = None,
        folded: Mapping[str, Folded] = MappingProxyType({}),
    ) -> None:
        self.fallback: Fallback = fallback
        self.innovation_columns = innovation_columns
        self.record = record
        self.steps: list[Step] = []
        self.trust = Trust()
        self.disturbance = disturbance
        self.folded = folded
        self.given: dict[str, FactorElement] = {}  # what a walk starts from, and holds no longer than it is read
        self._carried = 0
        self._holders: defaultdict[int, set[str]] = defaultdict(set)  # who reads which memory, by its address
        self._generator = torch.Generator().manual_seed(0)

    def apply(self, node: Node, operands: Sequence[Any], live: frozenset[str], batch: int) -> FactorElement:
        """Smoothed node applied to factor and rest."""
        bundle = operands_of(node, operands, batch, self)
        smoothed, grade = smooth(bundle, self.fallback)
        elements = bundle.elements
        names = tuple(element.name for element in elements)
        factor = self._through(smoothed.linear, elements, live, smoothed.mean)
        covered = all(element.covered for element in elements)
        if covered:
            rest = smoothed.mean.new_zeros(()).expand(smoothed.mean.shape)
        else:
            tied = Tied(smoothed.linear, names) if len(set(names)) < len(names) else smoothed.linear
            rest = tied.squared(*(element.covariance.rest for element in elements))
        innovation = None if smoothed.innovation is None else broadcast_variance(smoothed.innovation, smoothed.mean)
        sketched = any(element.sketched for element in elements)
        if innovation is not None:
            grade = Grade.STATISTICAL if sketched and grade != Grade.LINEARISED else grade
            if self.innovation_columns:
                factor, sketched = self._carry(factor, innovation), True
            else:
                rest, covered = rest + innovation, False
        rest = rest.expand(smoothed.mean.shape)
        sources: tuple[Any, ...] = ()
        if self.disturbance is not None and self.disturbance.reaches(node):
            added = self.disturbance.at(node, bundle, smoothed.mean)
            first = len(factor) - self.innovation_columns - self.disturbance.columns
            last = len(factor) - self.innovation_columns
            factor = torch.cat([factor[:first], factor[first:last] + added.columns, factor[last:]])
            rest, sources, covered = rest + added.rest, added.sources, False
            innovation = added.independent if innovation is None else innovation + added.independent
            sketched = sketched or not self.disturbance.whole
            grade = combine([grade, added.grade])
        if self.record:
            own = self.folded.get(node.name)
            linear = smoothed.linear
            if own is not None and isinstance(linear, OperatorMap):
                linear = own.rescaled(linear)
            self.steps.append(Step(node.name, names, linear, innovation, sources))
        self.trust.record(node, names, grade, all_pairs=False)
        known = None
        if node.op == "window" and self.disturbance is None:  # it only picks: so it does with the variances
            known = smoothed.linear.squared(elements[0].variance)
        element = FactorElement(node.name, smoothed.mean, LowRankPlusDiagonal(factor, rest), sketched, covered, known)
        self._holders[factor.untyped_storage().data_ptr()].add(node.name)
        self.trust.innovation_share[node.name] = share_of(smoothed.innovation, element.mean_variance)
        return element

    def _through(self, linear: Any, elements: Sequence[FactorElement], live: frozenset[str], mean: Tensor) -> Tensor:
        """Columns of the result; elementwise maps overwrite columns that nothing else will read."""
        columns = [element.covariance.factor for element in elements]
        same = all(column.shape == columns[0].shape for column in columns)
        if not same or self.disturbance is not None or followed(*columns):
            return linear.apply(*columns)
        free = [place for place, element in enumerate(elements) if self._alone(element, live)]
        if isinstance(linear, Blend) and linear.weight.shape == columns[0].shape[1:] and not followed(linear.weight):
            target = columns[free[0]] if free else torch.empty_like(columns[0], memory_format=torch.contiguous_format)
            return linear.into(columns[0], columns[1], target)
        if isinstance(linear, OperatorMap) and linear.operator.name == "conv" and len(columns) == 1:
            learnt = any(value is not None and value.requires_grad for value in linear.inputs)
            return linear.apply(*columns) if learnt else in_parts(linear, columns[0], mean.shape)
        if not free:
            return linear.apply(*columns)
        if isinstance(linear, Gains) and len(columns) == 1:
            gain = linear.gains[0]
            if gain.shape == columns[0].shape[1:] and not followed(gain):
                return columns[0].mul_(gain)
        if isinstance(linear, OperatorMap) and linear.operator.name == "add" and len(columns) == 2:
            target, other = columns[free[0]], columns[1 - free[0]]
            factors = (1.0, linear.attributes.get("alpha", 1))
            if factors[free[0]] == 1:
                return target.add_(other, alpha=factors[1 - free[0]])
        return linear.apply(*columns)

    def keep(self, columns: Tensor) -> None:
        """Never write over these: they are someone else's."""
        self._holders[columns.untyped_storage().data_ptr()].add("")

    def _alone(self, element: FactorElement, live: frozenset[str]) -> bool:
        """Whether nothing will read the columns of this element any more, under this or another name."""
        factor = element.covariance.factor
        held = self._holders[factor.untyped_storage().data_ptr()]
        return element.name not in live and held == {element.name} and factor.is_contiguous()

    def _carry(self, factor: Tensor, innovation: Tensor) -> Tensor:
        """Add the innovation to the last columns with random signs, the same for every sample and every run."""
        count = self.innovation_columns
        generator = torch.Generator().manual_seed(self._carried)
        self._carried += 1
        starts = torch.randint(0, _SIGNS, (count,), generator=generator).tolist()
        size = math.prod(innovation.shape[1:])
        signs = _signs(max(size, _SIGNS), innovation.dtype)
        rows = [signs[start : start + size].reshape(innovation.shape[1:]) for start in starts]
        if followed(factor, innovation):
            spread = safe_sqrt(innovation / count)
            return torch.cat([factor[:-count], factor[-count:] + spread * torch.stack(rows).unsqueeze(1)])
        carry(factor[-count:], innovation, rows)  # the columns are this node's own
        return factor

    def freeze(self, node: Node, operands: Sequence[Any], batch: int) -> Tensor:
        """Value at the means."""
        return frozen_value(node, operands, batch, self.trust)

    def release(self, name: str) -> None:
        """Forget who holds which memory."""
        self.given.pop(name, None)
        for pointer, names in list(self._holders.items()):
            names.discard(name)
            if not names:
                del self._holders[pointer]

    def between(self, first: FactorElement, second: FactorElement) -> Tensor:
        """Elementwise covariance; all of the variance when both are the same tensor."""
        if first.name == second.name:
            return first.variance
        return products(first.covariance.factor, second.covariance.factor)

    def draw(self, elements: Sequence[FactorElement], count: int) -> list[Tensor]:
        """Joint draws: shared sources, own rests; the same for every sample, so a batch equals single inputs."""
        shared: Tensor | None = None
        draws: dict[str, Tensor] = {}
        for element in elements:
            covariance = element.covariance
            if element.name in draws:
                continue
            if shared is None:
                shared = torch.randn((count, covariance.rank), generator=self._generator, dtype=covariance.rest.dtype)
            own = torch.randn((count, 1, *covariance.shape[1:]), generator=self._generator, dtype=covariance.rest.dtype)
            draws[element.name] = torch.einsum("kr,rb...->kb...", shared, covariance.factor) + own * safe_sqrt(
                covariance.rest
            )
        return [draws[element.name] for element in elements]
