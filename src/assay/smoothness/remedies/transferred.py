"""Kinks of a network, passed on as if some of its nodes were others: a forecast from one sweep and its gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from assay.graph import Graph, Node, evaluate_node
from assay.smoothness.estimators.crossings import Crossings, crossings
from assay.smoothness.estimators.rows import planned
from assay.smoothness.estimators.windows import window_places
from assay.smoothness.network import Network
from assay.smoothness.paths import Path
from assay.smoothness.remedies.softening import returning
from assay.smoothness.switches import candidates
from assay.smoothness.walk import Switch, per_sample, tangent_of


def transferred(
    network: Network,
    instead: Mapping[str, Sequence[Node]],
    parameters: Mapping[str, Tensor],
    path: Path,
    samples: int,
    memory: int = 2**28,
    *,
    silu: float | None = None,
) -> Tensor:
    """SMP of the outputs with the kinks of the network as it is, but slopes and gradients through other nodes.

    By the adjoint identity, SMP is the sum over kinks of |gradient of the output| |jump of the unit's slope|. Kinks of
    the nodes that go are left out. Those of all others stay where they are, because values stay as they are; slopes of
    units behind a node that goes, and gradients before it, are those of what stands in its place. So a unit that lost
    its max-pool window to another counts with its share of the average, and the slopes behind are those of averages.

    Args:
        network: before the change.
        instead: node that goes -> nodes that stand in its place, the last one with its name.
        parameters: of those nodes.
        path: a path.
        samples: points of it.
        memory: bytes for a sweep.
        silu: sharpness, where thresholds become SiLUs: max pools behind those make kinks of their own, see
            `softening.returning`.

    Returns:
        (K,) SMP.
    """
    total = torch.zeros(network.outputs, dtype=torch.float64)
    for rows in planned(path, samples).chunks(network.rows(memory)):
        x, tangent = rows.points(path)
        sweep = network.sweep(x, tangent, adjoints=False, linked=rows.linked, last=rows.last)
        by_name = {switch.node.name: switch for switch in sweep.switches}
        found = {}
        for switch, events in zip(sweep.switches, crossings(sweep, rows), strict=True):
            name = switch.node.name
            if name in instead:
                pool = by_name.get(switch.node.inputs[0] or "")
                if silu is None or pool is None or not _wakes(switch.node) or not len(events.step):
                    continue
                events = events._replace(local=events.local * _returning(network.graph, pool, events, silu))
            if len(events.step):
                found[name] = switch, events
        if found:
            total += _Pass(network, instead, parameters, x, tangent, frozenset(found)).sums(found)
    return total


def _wakes(node: Node) -> bool:
    """Whether a threshold is that of a ReLU: flat below, and 0."""
    return node.op == "relu" or (node.op == "clip" and node.attributes.get("low") == 0)


def _returning(graph: Graph, pool: Switch, events: Crossings, silu: float) -> Tensor:
    """Shares (e,) of the kinks of units behind a pool that the pool makes again."""
    if pool.winners is None or pool.node.op not in ("max_pool", "adaptive_max_pool", "amax"):
        return torch.zeros_like(events.local)
    places = window_places(graph, pool.node)[events.unit]
    inside = places >= 0
    candidate = places.clamp(min=0)
    row = events.step[:, None]
    values = torch.lerp(
        pool.inputs[row, candidate],
        pool.inputs[row + 1, candidate],
        events.place[:, None],
    ).where(inside, -torch.inf)
    largest = values.argmax(1, keepdim=True)
    return returning(values.scatter(1, largest, -torch.inf), silu)


class _Pass:
    """Values of the network at points, with slopes and gradients of what stands instead."""

    def __init__(
        self,
        network: Network,
        instead: Mapping[str, Sequence[Node]],
        parameters: Mapping[str, Tensor],
        x: Tensor,
        xdot: Tensor,
        wanted: frozenset[str],
    ) -> None:
        graph = network.graph
        self.rows = len(x)
        self.values: dict[str, Tensor] = {**graph.parameters, **parameters, graph.input: x}
        self.tangents: dict[str, Tensor] = {graph.input: xdot}
        self.slopes: dict[str, Tensor] = {}  # of what a wanted node compares
        for node in graph:
            if node.op in ("input", "parameter"):
                continue
            if node.name in wanted:
                still = [None if name is None else self._moving(name) for name in node.inputs]
                self.slopes[node.name] = candidates(node.op, still)
            with torch.enable_grad():
                value = self._value(node)
                for other in instead.get(node.name, ()):
                    if other.op != "parameter":
                        self._step(other)
                if node.name in instead:
                    made = self.values[node.name]
                    value = value.detach() + made - made.detach()
            if node.name in instead:
                self.values[node.name] = value
            else:
                self._step(node, value)
            if node.name in wanted and not self.values[node.name].requires_grad:
                self.values[node.name].requires_grad_(True)
            self._forget(graph, node, wanted)
        outputs = self.values[graph.output].reshape(self.rows, -1)
        with torch.enable_grad():
            self.outputs = outputs if network.projection is None else outputs @ network.projection

    def sums(self, found: Mapping[str, tuple[Switch, Crossings]]) -> Tensor:
        """(K,) sums over crossings of |jump of the unit's slope| |gradient|, each between those at both ends."""
        local = {name: self._local(name, *both) for name, both in found.items()}
        sums = []
        for k in range(self.outputs.shape[1]):
            gradients = torch.autograd.grad(
                self.outputs[:, k].sum(),
                [self.values[name] for name in found],
                retain_graph=True,
                allow_unused=True,
                materialize_grads=True,
            )
            total = self.outputs.new_zeros(())
            for (name, (switch, events)), gradient in zip(found.items(), gradients, strict=True):
                g = per_sample(switch.node, gradient, self.rows)
                ends = (g[events.step, events.unit].abs(), g[events.step + 1, events.unit].abs())
                total = total + (torch.lerp(*ends, events.place) * local[name]).sum().detach()
            sums.append(total.detach())
        return torch.stack(sums)

    def _local(self, name: str, switch: Switch, events: Crossings) -> Tensor:
        """|jump of the slope| of each unit, scaled from slopes as they are to slopes as they become."""
        was, becomes = (
            torch.lerp(self._speed(switch, slopes, events, 0), self._speed(switch, slopes, events, 1), events.place)
            for slopes in (switch.slopes, self.slopes[name])
        )
        return events.local.abs() * torch.where(was > 0, becomes / torch.where(was > 0, was, 1.0), 1.0)

    def _speed(self, switch: Switch, slopes: Tensor, events: Crossings, row: int) -> Tensor:
        """|slope| of what crosses, at one end of the step."""
        if switch.winners is None:
            return slopes[events.step + row, events.unit].abs()
        before, after = (switch.winners[events.step + end, events.unit] for end in (0, 1))
        at = events.step + row
        return (slopes[at, before] - slopes[at, after]).abs()

    def _step(self, node: Node, value: Tensor | None = None) -> None:
        """Value and tangent of one node."""
        if value is None:
            value = self._value(node)
        moving = [None if name is None else self.tangents.get(name) for name in node.inputs]
        if any(one is not None for one in moving):
            operands = [None if name is None else self.values[name].detach() for name in node.inputs]
            self.tangents[node.name] = tangent_of(node, operands, moving, self.rows)
        self.values[node.name] = value

    def _value(self, node: Node) -> Tensor:
        with torch.enable_grad():
            return evaluate_node(node, [None if name is None else self.values[name] for name in node.inputs], self.rows)

    def _moving(self, name: str) -> Tensor:
        found = self.tangents.get(name)
        return torch.zeros_like(self.values[name]) if found is None else found

    def _forget(self, graph: Graph, node: Node, wanted: frozenset[str]) -> None:
        for name in node.inputs:
            if name is not None and graph.last_use.get(name) == node.name and name not in graph.parameters:
                self.tangents.pop(name, None)
                if name not in wanted:
                    self.values.pop(name, None)
