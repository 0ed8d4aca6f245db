"""What a bit plan has to decide: groups of options (a layer's weight, a stored activation), one format for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from assay.errors import UsageError
from assay.graph import Graph, Node, evaluate
from assay.sensitivity.bits.layers import WeightLayer, weight_layers

if TYPE_CHECKING:
    from assay.sensitivity.roundoff.formats import Format
    from assay.sensitivity.roundoff.sites import Precision


@dataclass(frozen=True, eq=False)
class Group:
    """One thing that gets one format.

    Attributes:
        name: module path of the layer; of an activation, that of the layer that computes it, or ``input``.
        kind: what is rounded.
        size: numbers stored; per sample for activations.
        formats: the options.
        node: parameter node of a weight, or the node whose value is stored.
    """

    name: str
    kind: Literal["weights", "activations"]
    size: int
    formats: tuple[Format, ...]
    node: str


@dataclass(frozen=True, eq=False)
class Problem:
    """A prepared graph with calibration inputs and the formats to choose from.

    Attributes:
        graph: prepared graph.
        x: (B, ...) calibration inputs.
        formats: for weights.
        activations: formats by node whose value is stored; fixed scales where they are integers. Empty: exact.
    """

    graph: Graph
    x: Tensor
    formats: tuple[Format, ...]
    activations: Mapping[str, tuple[Format, ...]]

    @cached_property
    def layers(self) -> tuple[WeightLayer, ...]:
        """The weights."""
        return weight_layers(self.graph)

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """Weights in graph order, then activations."""
        weights = [Group(layer.name, "weights", layer.size, self.formats, layer.parameter) for layer in self.layers]
        names = _activation_names(self.graph, tuple(self.activations))
        activations = [
            Group(names[node], "activations", self.graph[node].spec.size_per_sample, formats, node)
            for node, formats in self.activations.items()
        ]
        return (*weights, *activations)

    @cached_property
    def rows(self) -> np.ndarray:
        """Group of every option, options of all groups in a row."""
        return np.repeat(np.arange(len(self.groups)), [len(group.formats) for group in self.groups])

    @cached_property
    def outputs_count(self) -> int:
        """K."""
        return self.graph[self.graph.output].spec.size_per_sample

    def of(self, options: Sequence[int]) -> list[tuple[Group, Format]]:
        """Groups with their chosen formats."""
        return [(group, group.formats[option]) for group, option in zip(self.groups, options, strict=True)]

    def layers_precision(self, options: Sequence[int]) -> tuple[Precision, dict[str, Precision]]:
        """The formats as `simulate` takes them: of the network (its input), and of every site by node name."""
        from assay.sensitivity.roundoff.sites import Precision, sites

        chosen = self.of(options)
        weights = {group.node: target for group, target in chosen if group.kind == "weights"}
        stored = {group.node: target for group, target in chosen if group.kind == "activations"}
        uses = {node.name: layer.parameter for layer in self.layers for node in layer.uses}
        by_site = {
            site.node: Precision(weights=weights.get(uses.get(site.node, "")), activations=stored.get(site.stored))
            for site in sites(self.graph)
        }
        return Precision(input=stored.get(self.graph.input)), by_site

    def outputs(self, options: Sequence[int] | None = None, x: Tensor | None = None) -> Tensor:
        """Run the network for real with the chosen formats (exactly when None), on `x` or the calibration inputs.

        Args:
            options: one per group.
            x: (B, ...).

        Returns:
            (B, K) float64.
        """
        from assay.sensitivity.roundoff.simulation import Simulator
        from assay.sensitivity.roundoff.sites import Precision

        network, by_site = (Precision(), {}) if options is None else self.layers_precision(options)
        with torch.no_grad():
            return Simulator(self.graph, network, layers=by_site)(self.x if x is None else x)


def calibrated_activations(
    graph: Graph, x: Tensor, formats: Sequence[Format], percentile: float | None = None
) -> dict[str, tuple[Format, ...]]:
    """Formats of every stored value, integer scales fixed from calibration inputs; the graph's input comes first.

    Args:
        graph: prepared graph.
        x: (B, ...) calibration inputs.
        formats: the options.
        percentile: share of values that a range has to hold, in percent; None for all.

    Returns:
        Formats by node.

    Raises:
        UsageError: when there is no format.
    """
    from assay.sensitivity.roundoff.integers import IntegerFormat, calibrated
    from assay.sensitivity.roundoff.sites import sites

    if not formats:
        raise UsageError("Give at least one format for activations, or None.", where="activations")
    wanted = dict.fromkeys(site.stored for site in sites(graph))
    kept: dict[str, list[Tensor]] = {graph.input: [x]}

    def observe(node: Node, value: Tensor) -> None:
        if node.name in wanted:
            kept.setdefault(node.name, []).append(value)

    with torch.no_grad():
        evaluate(graph, x, observe=observe)
    found: dict[str, tuple[Format, ...]] = {}
    for name, values in kept.items():
        options: list[Format] = []
        for target in formats:
            if isinstance(target, IntegerFormat) and target.granularity in ("tensor", "channel"):
                axis = 1 if target.granularity == "channel" else None
                target = calibrated(target, torch.cat(values), percentile=percentile, axis=axis)
            options.append(target)
        found[name] = tuple(options)
    return found


def _activation_names(graph: Graph, nodes: Sequence[str]) -> dict[str, str]:
    """A name for every stored value: the module path of the layer that computes it, with the node's name if shared."""
    from assay.sensitivity.roundoff.sites import sites

    paths = {site.stored: site.module_path for site in sites(graph)} | {graph.input: "input"}
    paths = {node: paths.get(node) or node for node in nodes}
    shared = {path for path in paths.values() if list(paths.values()).count(path) > 1}
    return {node: f"{path} ({node})" if path in shared else path for node, path in paths.items()}
