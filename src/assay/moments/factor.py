"""The scalable domain: every activation as mean + low-rank factor + independent rest (specification 5.2).

Innovations are not kept as an independent rest, which would forget how later layers correlate them and starve the
variances of deep
networks: they enter a few columns of their own with random signs, which keeps every later variance unbiased.

Memory per live tensor: r + 2 copies of the activation. Time: r + 1 passes of the linear layers plus one with squared
weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from assay.covariance import LowRankPlusDiagonal, diagonal
from assay.covariance.functions import safe_sqrt
from assay.grade import Grade, combine
from assay.graph import Node
from assay.interpret import Step, Tied
from assay.moments.disturbance import Disturbance
from assay.moments.domain import Fallback, Trust, broadcast_variance, frozen_value, operands_of, share_of, smooth


@dataclass(frozen=True, eq=False)
class FactorElement:
    """A random tensor: mean (B, ...) and covariance as factor and rest."""

    name: str
    mean: Tensor
    covariance: LowRankPlusDiagonal
    sketched: bool = False
    """Whether its variance holds innovations carried by random signs: an estimate."""

    @cached_property
    def variance(self) -> Tensor:
        """(B, ...)."""
        return diagonal(self.covariance)


class FactorDomain:
    """Elements share the sources of their factors, so branches that meet again keep their covariance.

    Their rests count as independent.

    Args:
        fallback: what to do without a rule.
        record: keep the steps for the reverse walk.
        innovation_columns: how many of the factor's last columns carry innovations; with 0 they become independent
            rest.
        disturbance: noise on weights and activations, with columns of its own before those of innovations.
    """

    def __init__(
        self,
        *,
        fallback: Fallback = "linearise",
        record: bool = True,
        innovation_columns: int = 0,
        disturbance: Disturbance | None = None,
    ) -> None:
        self.fallback: Fallback = fallback
        self.innovation_columns = innovation_columns
        self.record = record
        self.steps: list[Step] = []
        self.trust = Trust()
        self.disturbance = disturbance
        self._carried = 0
        self._generator = torch.Generator().manual_seed(0)

    def apply(self, node: Node, operands: Sequence[Any], live: frozenset[str], batch: int) -> FactorElement:
        """Smoothed node applied to factor and rest."""
        bundle = operands_of(node, operands, batch, self)
        smoothed, grade = smooth(bundle, self.fallback)
        elements = bundle.elements
        names = tuple(element.name for element in elements)
        factor = smoothed.linear.apply(*(element.covariance.factor for element in elements))
        tied = Tied(smoothed.linear, names) if len(set(names)) < len(names) else smoothed.linear
        rest = tied.squared(*(element.covariance.rest for element in elements))
        innovation = None if smoothed.innovation is None else broadcast_variance(smoothed.innovation, smoothed.mean)
        sketched = any(element.sketched for element in elements)
        if innovation is not None:
            grade = Grade.STATISTICAL if sketched and grade != Grade.LINEARISED else grade
            if self.innovation_columns:
                factor, sketched = self._carry(factor, innovation), True
            else:
                rest = rest + innovation
        rest = rest.expand(smoothed.mean.shape)
        sources: tuple[Any, ...] = ()
        if self.disturbance is not None and self.disturbance.reaches(node):
            added = self.disturbance.at(node, bundle, smoothed.mean)
            first = len(factor) - self.innovation_columns - self.disturbance.columns
            last = len(factor) - self.innovation_columns
            factor = torch.cat([factor[:first], factor[first:last] + added.columns, factor[last:]])
            rest, sources = rest + added.rest, added.sources
            innovation = added.independent if innovation is None else innovation + added.independent
            sketched = sketched or not self.disturbance.whole
            grade = combine([grade, added.grade])
        if self.record:
            self.steps.append(Step(node.name, names, smoothed.linear, innovation, sources))
        self.trust.record(node, names, grade, all_pairs=False)
        element = FactorElement(node.name, smoothed.mean, LowRankPlusDiagonal(factor, rest), sketched)
        self.trust.innovation_share[node.name] = share_of(smoothed.innovation, element.variance)
        return element

    def _carry(self, factor: Tensor, innovation: Tensor) -> Tensor:
        """Add the innovation to the last columns with random signs, the same for every sample and every run."""
        count = self.innovation_columns
        generator = torch.Generator().manual_seed(self._carried)
        self._carried += 1
        drawn = torch.randint(0, 2**count, innovation.shape[1:], generator=generator, dtype=torch.int16)
        bits = torch.arange(count, dtype=torch.int16).reshape(-1, *(1,) * innovation.dim())
        signs = 1 - 2 * ((drawn.unsqueeze(0) >> bits) & 1)  # one draw gives a unit's signs in all columns
        added = safe_sqrt(innovation / count) * signs.to(innovation)
        if factor.requires_grad or added.requires_grad:
            return torch.cat([factor[:-count], factor[-count:] + added])
        factor[-count:] += added  # the columns are this node's own
        return factor

    def freeze(self, node: Node, operands: Sequence[Any], batch: int) -> Tensor:
        """Value at the means."""
        return frozen_value(node, operands, batch, self.trust)

    def release(self, name: str) -> None:
        """Nothing to do: an element holds all it needs."""

    def between(self, first: FactorElement, second: FactorElement) -> Tensor:
        """Elementwise covariance; all of the variance when both are the same tensor."""
        if first.name == second.name:
            return first.variance
        return (first.covariance.factor * second.covariance.factor).sum(0)

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
