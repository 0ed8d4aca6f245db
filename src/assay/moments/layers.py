"""A row per layer while a walk goes by: how much noise, how much of it new, how far to trust it."""

from __future__ import annotations

from typing import Any

import torch

from assay.graph import Node
from assay.moments.domain import Trust
from assay.moments.result import LayerNoise


class LayerRecorder:
    """Observer of a forward walk."""

    def __init__(self, trust: Trust) -> None:
        self.trust = trust
        self._rows: list[tuple[Node, float, float]] = []

    def __call__(self, node: Node, element: Any) -> None:
        with torch.no_grad():
            variance = element.variance
            finite = element.mean.abs() < torch.finfo(element.mean.dtype).max / 16  # padding of max pools
            signal = (element.mean.square() * finite).mean().sqrt()
            noise = variance.mean()
            relative = float(noise.sqrt() / signal) if float(signal) > 0 else float("nan")
            self._rows.append((node, float(noise), relative))

    def layers(self) -> tuple[LayerNoise, ...]:
        """Rows in order; intermediate nodes of a lowered max pool are left out."""
        return tuple(
            LayerNoise(node.name, node.place, variance, relative, self.trust.innovation_share[node.name], self.trust.grades[node.name])
            for node, variance, relative in self._rows
            if node.name in self.trust.grades and node.op not in ("window", "identity") and "_max" not in node.name
        )
