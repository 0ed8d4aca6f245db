"""A row per layer while a walk goes by: how much noise, how much of it new, how far to trust it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import torch

from assay.graph import Graph, Node
from assay.moments.domain import Trust, thinned
from assay.moments.result import LayerNoise


class LayerRecorder:
    """Observer of a forward walk.

    Args:
        trust: of the domain that walks.
        graph: as captured: only its nodes get a row.
        shape: third and fourth cumulants of a node's argument, where the domain finds them.
    """

    def __init__(
        self, trust: Trust, graph: Graph, shape: Mapping[str, tuple[float, float]] = MappingProxyType({})
    ) -> None:
        self.shape = shape
        self.trust = trust
        self.graph = graph
        self._layers = {node.name for node in graph.layers}
        self._rows: list[tuple[Node, float, float]] = []

    def __call__(self, node: Node, element: Any) -> None:
        """Take down one node's noise."""
        with torch.no_grad():
            mean = thinned(element.mean)
            finite = mean.abs() < torch.finfo(mean.dtype).max / 16  # padding of max pools
            signal = float((mean.square() * finite).mean().sqrt())
            noise = element.mean_variance
            relative = noise**0.5 / signal if signal > 0 else float("nan")
            self._rows.append((node, noise, relative))

    def layers(self) -> tuple[LayerNoise, ...]:
        """Rows in order; the nodes that a lowered max pool consists of are left out, but for the last."""
        names = {node.name for node in self.graph}
        return tuple(
            LayerNoise(
                node.name,
                self.graph[node.name].place,
                variance,
                relative,
                self.trust.innovation_share[node.name],
                self.trust.grades[node.name],
                *self.shape.get(node.name, (None, None)),
            )
            for node, variance, relative in self._rows
            if node.name in self.trust.grades and node.name in names and node.op != "identity"
        )


def average_layers(parts: Sequence[Sequence[LayerNoise]], weights: Sequence[int]) -> tuple[LayerNoise, ...]:
    """Rows of several batches as one: averages by the batches' sizes, largest cumulants."""
    total = sum(weights)
    averaged = []
    for rows in zip(*parts, strict=True):
        mean: dict[str, float | None] = {
            name: sum(getattr(row, name) * weight for row, weight in zip(rows, weights, strict=True)) / total
            for name in ("variance", "relative", "innovation_share")
        }
        for name in ("skewness", "excess"):
            known = [value for row in rows if (value := getattr(row, name)) is not None]
            mean[name] = max(known, default=None)
        averaged.append(replace(rows[0], **mean))
    return tuple(averaged)
