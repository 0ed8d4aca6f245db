"""The scalable domain: every activation as mean + low-rank factor + independent rest (specification 5.2).

Memory per live tensor: r + 2 copies of the activation. Time: r + 1 passes of the linear layers plus one with squared weights.
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
from assay.graph import Node
from assay.interpret import Step, Tied
from assay.moments.domain import Fallback, Trust, broadcast_variance, frozen_value, operands_of, share_of, smooth


@dataclass(frozen=True, eq=False)
class FactorElement:
    """A random tensor: mean (B, ...) and covariance as factor and rest."""

    name: str
    mean: Tensor
    covariance: LowRankPlusDiagonal

    @cached_property
    def variance(self) -> Tensor:
        """(B, ...)."""
        return diagonal(self.covariance)


class FactorDomain:
    """Elements share the sources of their factors, so branches that meet again keep their covariance; the rests count as independent.

    Args:
        fallback: what to do without a rule.
        record: keep the steps for the reverse walk.
    """

    def __init__(self, *, fallback: Fallback = "linearise", record: bool = True) -> None:
        self.fallback: Fallback = fallback
        self.record = record
        self.steps: list[Step] = []
        self.trust = Trust()
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
        if smoothed.innovation is not None:
            rest = rest + smoothed.innovation
        rest = rest.expand(smoothed.mean.shape)
        if self.record:
            innovation = None if smoothed.innovation is None else broadcast_variance(smoothed.innovation, smoothed.mean)
            self.steps.append(Step(node.name, names, smoothed.linear, innovation))
        self.trust.record(node, names, grade, all_pairs=False)
        element = FactorElement(node.name, smoothed.mean, LowRankPlusDiagonal(factor, rest))
        self.trust.innovation_share[node.name] = share_of(smoothed.innovation, element.variance)
        return element

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
        """Joint draws: shared sources, own rests; the same random numbers for every sample, so a batch equals single inputs."""
        shared: Tensor | None = None
        draws: dict[str, Tensor] = {}
        for element in elements:
            covariance = element.covariance
            if element.name in draws:
                continue
            if shared is None:
                shared = torch.randn((count, covariance.rank), generator=self._generator, dtype=covariance.rest.dtype)
            own = torch.randn((count, 1, *covariance.shape[1:]), generator=self._generator, dtype=covariance.rest.dtype)
            draws[element.name] = torch.einsum("kr,rb...->kb...", shared, covariance.factor) + own * safe_sqrt(covariance.rest)
        return [draws[element.name] for element in elements]
