"""The domain of global bounds: how every operator passes on a bound on the norm of a change, or why it cannot."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from assay.certified.change import Change, joined
from assay.certified.nonlinear import bend_gain, reason_against
from assay.certified.slopes import slopes
from assay.certified.stretch import single_node
from assay.errors import UnsupportedOperator
from assay.graph import OPERATORS, Graph, Node


@dataclass(frozen=True)
class Layer:
    """One node of a bounded graph.

    Attributes:
        node: its name.
        place: module path and operator, for people.
        gain: guaranteed norm of the node alone; of several inputs, the largest.
        bound: guaranteed bound on its change per unit of input change.
    """

    node: str
    place: str
    gain: float
    bound: float


class ChangeDomain:
    """Carries a `Change` through every operator; see `assay.interpret.forward`.

    Args:
        graph: the prepared graph.
        kind: norm, ``2`` or ``inf``.
        methods: of `chain`, those to follow beside ``auto``; ``product`` is always among them.
        shown: the method whose bound the rows show.
    """

    def __init__(self, graph: Graph, kind: str, methods: tuple[str, ...], shown: str = "auto") -> None:
        self.graph = graph
        self.kind = kind
        self.methods = methods
        self.shown = shown
        self.layers: list[Layer] = []
        self.reasons: dict[str, str] = {}
        if kind == "inf":
            self.reasons |= {m: "it bounds the 2-norm only" for m in ("frobenius", "eclipse") if m in methods}
        self.refused: list[tuple[Node, str]] = []
        self._readers: dict[str, int] = {}
        for node in graph:
            for name in node.inputs:
                if name is not None:
                    self._readers[name] = self._readers.get(name, 0) + 1

    def start(self, name: str, shape: torch.Size) -> Change:
        """The input's change: itself."""
        return Change.at(name, shape, dict.fromkeys((*self.methods, "auto"), 1.0))

    def apply(self, node: Node, operands: Sequence[Any], live: frozenset[str], batch: int) -> Change:
        """Change of a node from those of its inputs."""
        varying = frozenset(i for i, one in enumerate(operands) if isinstance(one, Change))
        change, gain = self._change(node, operands, varying)
        ends = self._readers.get(node.name, 0) != 1 or node.name == self.graph.output
        if ends and node.name != change.anchor:
            change = change.closed(node.name, self.kind, self.reasons)
        self.layers.append(Layer(node.name, node.place, gain, change.so_far(self.shown, self.kind)))
        return change

    def freeze(self, node: Node, operands: Sequence[Any], batch: int) -> Tensor:
        """Integers and comparisons jump: refused."""
        self.refused.append((node, "an integer or a comparison that depends on the input jumps"))
        shape = [size if isinstance(size, int) else size.multiple for size in node.spec.shape]
        return torch.zeros(shape, dtype=node.spec.dtype)

    def release(self, name: str) -> None:
        """Nothing is kept per node."""

    def raise_refusals(self) -> None:
        """Name every node that has no global bound.

        Raises:
            UnsupportedOperator: if there is any.
        """
        if self.refused:
            lines = "; ".join(f"{node.place}: {reason}" for node, reason in self.refused)
            raise UnsupportedOperator(
                f"No guaranteed global bound exists for {len(self.refused)} nodes of this model: {lines}.",
                where=", ".join(node.name for node, _ in self.refused),
                advice="Ask for the local number at your inputs: assay.sensitivity.condition_number or bounds.ladder.",
            )

    def _change(self, node: Node, operands: Sequence[Any], varying: frozenset[int]) -> tuple[Change, float]:
        row = OPERATORS[node.op]
        if row.family == "activation" and varying == {0}:
            found = slopes(node, operands[1:])
            if not isinstance(found, str):
                return operands[0].bent(found), found.gain
            return self._refuse(node, operands, found)
        if row.affine_in(varying):
            return self._affine(node, operands, varying)
        first: Change = operands[min(varying)]
        gain = bend_gain(node, first.shape, self.kind, varying, self._shape(node))
        if gain is None:
            return self._refuse(node, operands, reason_against(node))
        ends = [operands[i].closed(node.name, self.kind, self.reasons) for i in sorted(varying)]
        bounds = {
            m: gain * (max if self.kind == "inf" else math.hypot)(*values) if len(values) > 1 else gain * values[0]
            for m, values in ((m, [end.bounds[m] for end in ends]) for m in first.bounds)
        }
        return Change.at(node.name, self._shape(node), bounds), gain

    def _affine(self, node: Node, operands: Sequence[Any], varying: frozenset[int]) -> tuple[Change, float]:
        values = [torch.zeros(one.shape, dtype=torch.float64) if isinstance(one, Change) else one for one in operands]
        stretches = {i: single_node(self.graph, node, i, values) for i in sorted(varying)}
        changes = [operands[i].through(stretch) for i, stretch in stretches.items()]
        gain = max(stretch.gains[self.kind] for stretch in stretches.values())
        if len(changes) == 1:
            return changes[0], gain
        disjoint = node.op in ("cat", "where")
        return joined(node.name, changes, self.kind, self.reasons, disjoint=disjoint), gain

    def _refuse(self, node: Node, operands: Sequence[Any], reason: str) -> tuple[Change, float]:
        """Note the node and go on, so that all of them are named at once."""
        self.refused.append((node, reason))
        bounds = dict.fromkeys((*self.methods, "auto"), math.inf)
        return Change.at(node.name, self._shape(node), bounds), math.inf

    def _shape(self, node: Node) -> torch.Size:
        return torch.Size([size if isinstance(size, int) else size.multiple for size in node.spec.shape])
