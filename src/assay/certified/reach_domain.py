"""The domain of certified balls: how every operator passes on how far its inputs can move."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap

from assay.certified.nonlinear import bend_gain, reason_against, windows
from assay.certified.reach import SLACK, Reach, Source, added, settle
from assay.certified.slopes import slopes, slopes_between
from assay.certified.stretch import ENTRIES, SIDE, Stretch, single_node
from assay.errors import UnsupportedOperator
from assay.graph import OPERATORS, Graph, Node, evaluate_node
from assay.norms.gram import vector_norm

_TINY = 1e-12  # relative to the largest value of a layer: what rounding may do to a pre-activation
_PER_PASS = 2**22


class ReachDomain:
    """Carries a `Reach` of one sample through every operator; see `assay.interpret.forward`.

    Args:
        graph: the prepared graph.
        joint: keep sources apart through activations; False forgets after each how its units move together.
    """

    def __init__(self, graph: Graph, joint: bool) -> None:
        self.graph = graph
        self.joint = joint
        self.refused: list[tuple[Node, str]] = []
        self._stretches: dict[tuple[str, int], Stretch] = {}

    def apply(self, node: Node, operands: Sequence[Any], live: frozenset[str], batch: int) -> Reach:
        """Reach of a node from those of its inputs."""
        varying = frozenset(i for i, one in enumerate(operands) if isinstance(one, Reach))
        numbers = [one.value if isinstance(one, Reach) else one for one in operands]
        value = evaluate_node(node, numbers, 1)
        row = OPERATORS[node.op]
        if row.family == "activation" and varying == {0}:
            return self._activation(node, operands[0], numbers[1:], value)
        if row.affine_in(varying):
            return added([self._affine(node, i, operands[i], numbers, value) for i in sorted(varying)], value)
        if node.op in ("max_pool", "adaptive_max_pool") and varying == {0}:
            return self._max_pool(node, operands[0], value)
        gain = bend_gain(node, numbers[min(varying)].shape, "2", varying, value.shape)
        if gain is None:
            return self._refuse(node, value, reason_against(node))
        rest = gain * math.hypot(*(operands[i].norm() for i in varying))
        return Reach(value, torch.full_like(value, rest), {}, rest)

    def freeze(self, node: Node, operands: Sequence[Any], batch: int) -> Tensor:
        """Integers and comparisons jump: refused."""
        self.refused.append((node, "an integer or a comparison that depends on the input jumps"))
        return evaluate_node(node, [one.value if isinstance(one, Reach) else one for one in operands], 1)

    def release(self, name: str) -> None:
        """Nothing is kept per node."""

    def raise_refusals(self) -> None:
        """Name every node that could not be bounded.

        Raises:
            UnsupportedOperator: if there is any.
        """
        if self.refused:
            found = list({node.name: (node, reason) for node, reason in self.refused}.values())
            raise UnsupportedOperator(
                f"No bound on the ball for {len(found)} nodes of this model: "
                + "; ".join(f"{node.place}: {reason}" for node, reason in found)
                + ".",
                where=", ".join(node.name for node, _ in found),
                advice="Ask for the local number at your inputs: assay.sensitivity.condition_number or bounds.ladder.",
            )

    def _affine(
        self, node: Node, position: int, reach: Reach, numbers: Sequence[Tensor | None], value: Tensor
    ) -> Reach:
        key = (node.name, position)
        if key not in self._stretches:
            self._stretches[key] = single_node(self.graph, node, position, numbers)
        stretch = self._stretches[key]
        rest = reach.rest * stretch.gains["2"]
        sources: dict[str, Source] = {}
        for name, source in reach.sources.items():
            if len(source.columns) * value.numel() > ENTRIES:  # too large to carry on: only its norm is
                rest += source.norm() * SLACK * stretch.gains["2"]
            else:
                sources[name] = Source(_stacked(stretch.function, source.columns, value), source.size)
        return settle(value, sources, rest, rest)

    def _activation(self, node: Node, reach: Reach, fixed: Sequence[Tensor | None], value: Tensor) -> Reach:
        tiny = _TINY * reach.value.abs().max()
        low, high = slopes_between(node, fixed, reach.value - reach.spread - tiny, reach.value + reach.spread + tiny)
        if not bool((torch.isfinite(low) & torch.isfinite(high)).all()):
            reason = slopes(node, fixed)
            return self._refuse(node, value, reason if isinstance(reason, str) else "its slope is not bounded there")
        moving = reach.spread > 0
        middle, half = torch.where(moving, (low + high) / 2, 0.0), torch.where(moving, (high - low) / 2, 0.0)
        gain = torch.maximum(low.abs(), high.abs()) * moving
        spread = gain * reach.spread
        if not self.joint:
            size = reach.norm(gain)
            return Reach(value, spread, {}, size).collapsed(node.name)
        root = half.sqrt()
        sources = {n: Source(middle * s.columns, s.size) for n, s in reach.sources.items()}
        rest = reach.rest * float(middle.abs().max())
        size = reach.norm(root)
        units = root.reshape(-1) > 0
        if size > 0 and int(units.sum()) <= SIDE:
            columns = torch.diag(root.reshape(-1))[units].reshape(-1, *value.shape)
            sources[node.name] = Source(columns, size)
        elif size > 0:
            rest += size * float(root.max())
        return settle(value, sources, rest, rest, spread)

    def _max_pool(self, node: Node, reach: Reach, value: Tensor) -> Reach:
        """A window's change is a convex combination of those of the elements that may win it somewhere in the ball."""
        taps, present = windows(node, reach.value, value)  # (T, 1, ..) places in the flat input, and which exist
        tiny = _TINY * reach.value.abs().max()
        centre, spread = reach.value.reshape(-1), reach.spread.reshape(-1)
        floor = torch.where(present, (centre - spread)[taps], -math.inf).amax(0)
        rivals = present & ((centre + spread)[taps] + tiny >= floor)
        most = torch.where(rivals, spread[taps], 0.0).amax(0)
        counts = torch.zeros_like(centre).index_add_(0, taps[rivals], torch.ones(int(rivals.sum()), dtype=centre.dtype))
        overlap = math.sqrt(float(counts.max()))
        if not self.joint:
            size = reach.norm((counts > 0).to(centre.dtype)) * overlap
            return Reach(value, most, {}, size).collapsed(node.name)
        number = rivals.sum(0)
        share = (rivals / number).to(centre.dtype)
        apart = torch.where(rivals, ((number - 1) / number).sqrt(), 0.0).to(centre.dtype)
        sources, size = {}, reach.rest * overlap
        for name, source in reach.sources.items():
            gathered = source.flat[:, taps]  # (c, T, 1, ...)
            mean = (gathered * share).sum(1)
            sources[name] = Source(mean, source.size)
            rows = ((gathered - mean[:, None]) * apart)[:, apart > 0]
            size += Source(rows, source.size).norm()  # the largest of n numbers of mean 0: at most (n - 1) / n of all
        size = min(size, vector_norm(2 * most * (number - 1) / number)) * SLACK
        open_windows = ((number > 1) & (most > 0)).reshape(-1)
        rest = reach.rest * overlap
        if size > 0 and int(open_windows.sum()) <= SIDE:
            columns = torch.eye(value.numel(), dtype=value.dtype)[open_windows].reshape(-1, *value.shape)
            sources[node.name] = Source(columns, size)
        else:
            rest += size
        return settle(value, sources, rest, rest, most)

    def _refuse(self, node: Node, value: Tensor, reason: str) -> Reach:
        self.refused.append((node, reason))
        return Reach(value, torch.zeros_like(value), {}, 0.0)


def _stacked(function: Callable[[Tensor], Tensor], columns: Tensor, value: Tensor) -> Tensor:
    size = max(1, _PER_PASS // max(columns[0].numel(), value.numel()))
    return torch.cat([vmap(function)(part) for part in columns.split(size)])
