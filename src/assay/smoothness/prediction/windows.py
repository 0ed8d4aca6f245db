"""New kinks of the nodes of a network: thresholds of single units, ties in windows, and a pool with what reads it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from assay.gaussian import KinkLaw, MaximumLaw, maximum_law, threshold_kinks
from assay.graph import Graph, Node, evaluate_node
from assay.smoothness.prediction.domain import KinkDomain
from assay.smoothness.prediction.laws import Element
from assay.smoothness.switches import THRESHOLDS, Threshold

_SPLIT = frozenset({"relu", "leaky_relu", "prelu", "clip"})
"""Activations of constant slope between thresholds: what a pool before them passes on is split there."""
_POINTS = 128


@dataclass(frozen=True)
class Local:
    """New kinks of one node.

    Attributes:
        node: the node.
        law: of every unit, (n,): jumps of the unit's own slope.
        reader: name of the node whose adjoint the kinks are multiplied by: itself, or the activation after a pool.
        passed: of every unit at the reader's output: for a pool before an activation, by its slope at the tie.
        error: standard error of the SMP of every unit.
    """

    node: Node
    law: KinkLaw
    reader: str
    passed: KinkLaw
    error: Tensor


class Observer:
    """Looks at every node during the forward walk and keeps the laws of those with kinks.

    Args:
        original: the graph with its pools.
        lowered: the same with pools as windows and pairwise maxima.
    """

    def __init__(self, original: Graph, lowered: Graph) -> None:
        self.found: dict[str, Local] = {}
        self.original, self.lowered = original, lowered
        self.pools: dict[str, Node] = {}
        self.parts: set[str] = set()
        self.crossings: dict[str, tuple[KinkLaw, ...]] = {}
        self.together = 0  # units that are a copy or mirror image of another: their kinks coincide
        for node in original:
            if node.op in ("max_pool", "adaptive_max_pool") and f"{node.name}_window0" in lowered.last_use:
                self.pools[f"{node.name}_window0"] = node
                self.parts |= {n.name for n in lowered if n.name == node.name or n.name.startswith(f"{node.name}_max")}

    def __call__(self, node: Node, operands: Sequence[Any], domain: KinkDomain) -> None:
        """Keep the laws of a node with kinks."""
        pool = self.pools.get(node.name)
        if pool is not None:
            self._pool(pool, operands[0], domain)
        if node.name in self.parts:
            return
        if node.op in THRESHOLDS:
            self._threshold(node, operands, domain)
        elif node.op in ("maximum", "minimum"):  # other maxima have no rule: the domain refuses them
            self._extreme(node, operands, domain)

    def _keep(
        self, node: Node, law: KinkLaw, passed: KinkLaw | None = None, reader: str = "", error: Tensor | None = None
    ) -> None:
        none = torch.zeros_like(law.smp)
        self.found[node.name] = Local(node, law, reader or node.name, passed or law, none if error is None else error)

    def _threshold(self, node: Node, operands: Sequence[Any], domain: KinkDomain) -> None:
        element: Element = operands[0]
        flat = [element.mean, *operands[1:]]
        variance, speed = (v.clamp(min=0).sqrt() for v in domain.variances(element, element))
        if element.dense:
            matrix = domain.block(element.name, element.name)[0].abs()
            same = (matrix >= (1 - 1e-9) * variance.unsqueeze(1) * variance) & (variance.unsqueeze(1) * variance > 0)
            self.together += int((same.sum(1) > 1).sum())
        laws = []
        exact = self.crossings.get(node.name)
        for place, threshold in enumerate(THRESHOLDS[node.op](flat, node.attributes)):
            change = _per_unit(threshold.change, element.mean)
            if exact is None:
                laws.append(
                    threshold_kinks(element.mean.reshape(-1), variance, speed, level=threshold.level, change=change)
                )
            else:
                laws.append(_scaled(exact[place], change))
        if laws:
            self._keep(node, _sum(laws))

    def _extreme(self, node: Node, operands: Sequence[Any], domain: KinkDomain) -> None:
        moving = [value for value in operands[:2] if isinstance(value, Element)]
        sign = -1.0 if node.op == "minimum" else 1.0
        if len(moving) == 1:
            element = moving[0]
            constant = operands[1] if isinstance(operands[0], Element) else operands[0]
            gap = (element.mean - constant).reshape(-1)
            std, speed = (v.clamp(min=0).sqrt() for v in domain.variances(element, element))
            self._keep(node, threshold_kinks(gap, std, speed))
            return
        mean = sign * torch.stack([element.mean.reshape(-1) for element in moving], 1)
        pairs = [[domain.variances(a, b) for b in moving] for a in moving]
        values, slopes = (torch.stack([torch.stack([cell[k] for cell in row], 1) for row in pairs], 1) for k in (0, 1))
        law = maximum_law(mean, values, slopes)
        self._keep(node, law.ties[0])

    def _pool(self, pool: Node, source: Element, domain: KinkDomain) -> None:
        reader = self._reader(pool)
        thresholds: tuple[Threshold, ...] = ()
        if reader is not None:
            inputs = [torch.empty(self._shape(pool), dtype=torch.float64), *self._fixed(reader)]
            thresholds = THRESHOLDS[reader.op](inputs, reader.attributes)
        law = window_law(
            candidate_places(pool.name, self.lowered, source.mean.shape),
            source,
            domain,
            [one.level for one in thresholds],
        )
        whole = _sum(law.ties)
        if reader is None:
            self._keep(pool, whole, error=law.error)
            return
        self.crossings[reader.name] = law.crossings
        like = torch.empty(self._shape(pool))
        slope = torch.zeros(like.numel(), dtype=torch.float64) + _first_slope(reader, self._fixed(reader), like)
        passed = [_scaled(law.ties[0], slope)]
        for threshold, ties in zip(thresholds, law.ties[1:], strict=True):
            slope = slope + _per_unit(threshold.change, like)
            passed.append(_scaled(ties, slope))
        self._keep(pool, whole, _sum(passed), reader.name, law.error)

    def _shape(self, node: Node) -> tuple[int, ...]:
        return tuple(size if isinstance(size, int) else size.multiple for size in node.spec.shape)

    def _fixed(self, node: Node) -> list[Tensor | None]:
        return [None if name is None else self.lowered.parameters.get(name) for name in node.inputs[1:]]

    def _reader(self, pool: Node) -> Node | None:
        readers = [node for node in self.original if pool.name in node.inputs]
        if len(readers) != 1 or pool.name == self.original.output or readers[0].op not in _SPLIT:
            return None
        return readers[0]


def candidate_places(pool: str, lowered: Graph, shape: Sequence[int]) -> Tensor:
    """Which elements of its source every window of a pool sees.

    Args:
        pool: its name.
        lowered: the graph with the pool as windows and pairwise maxima.
        shape: of the source for a batch of one.

    Returns:
        (windows, k) places in the flat source, -1 for padding.
    """
    places = torch.arange(math.prod(shape), dtype=torch.float64).reshape(tuple(shape))
    found = [
        evaluate_node(node, [places], 1).reshape(-1)
        for node in lowered
        if node.op == "window" and node.name.startswith(f"{pool}_window")
    ]
    return torch.stack(found, 1).clamp(min=-1).long()


def window_law(windows: Tensor, source: Element, domain: KinkDomain, levels: Sequence[float]) -> MaximumLaw:
    """Laws of all windows of a pool from the covariances of what it reads.

    Args:
        windows: (m, k) places in the source, -1 for padding.
        source: what the pool reads.
        domain: holds its covariances.
        levels: thresholds of what reads the pool.

    Returns:
        Laws (m,).
    """
    inside = windows >= 0
    places = windows.clamp(min=0)
    mean, (values, slopes) = source.mean.reshape(-1), domain.block(source.name, source.name)
    if source.dense:
        rows, columns = places.unsqueeze(2), places.unsqueeze(1)
        values, slopes = values[rows, columns], slopes[rows, columns]
    else:
        values, slopes = torch.diag_embed(values[places]), torch.diag_embed(slopes[places])
    both = (inside.unsqueeze(2) & inside.unsqueeze(1)).to(mean)
    std = values.diagonal(dim1=1, dim2=2).clamp(min=0).sqrt().amax()
    low = min([float(mean.min()), *levels]) - 100 * float(std) - 1.0  # never the largest
    centre = torch.where(inside, mean[places], torch.full_like(mean[places], low))
    return maximum_law(centre, values * both, slopes * both, levels, points=_POINTS)


def _first_slope(node: Node, fixed: Sequence[Tensor | None], like: Tensor) -> Tensor | float:
    if node.op == "leaky_relu":
        return float(node.attributes.get("negative_slope", 0.01))
    if node.op == "prelu":
        (change,) = (one.change for one in THRESHOLDS["prelu"]([like.double(), *fixed], node.attributes))
        return 1 - _per_unit(change, like)
    return 1.0 if node.op == "clip" and node.attributes.get("low") is None else 0.0


def _per_unit(change: Tensor | float, like: Tensor) -> Tensor:
    return torch.as_tensor(change, dtype=torch.float64).expand(like.shape).reshape(-1)


def _scaled(law: KinkLaw, factor: Tensor) -> KinkLaw:
    size = factor.abs()
    return KinkLaw(law.rate * (size > 0), law.smp * size, law.energy * size.square())


def _sum(laws: Sequence[KinkLaw]) -> KinkLaw:
    return KinkLaw(*(torch.stack(parts).sum(0) for parts in zip(*laws, strict=True)))
