"""Which weights a bit plan chooses formats for: every dense or convolution weight of the prepared graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from assay.errors import SubjectError
from assay.graph import Graph, Node

if TYPE_CHECKING:
    from assay.sensitivity.roundoff.formats import Format

_OPERATORS = frozenset({"linear", "conv", "conv_transpose", "matmul"})


@dataclass(frozen=True, eq=False)
class WeightLayer:
    """One weight tensor and the nodes that use it.

    Attributes:
        name: module path; the parameter's own name where a module holds several weights.
        parameter: name of the parameter node.
        uses: nodes that multiply data by it; more than one for a shared weight.
        weight: its value, batch norms folded in.
    """

    name: str
    parameter: str
    uses: tuple[Node, ...]
    weight: Tensor

    @property
    def size(self) -> int:
        """Numbers stored."""
        return self.weight.numel()

    @property
    def output_axis(self) -> int:
        """Axis of the weight that counts output channels: 1 for a transposed convolution, last for a product."""
        return {"conv_transpose": 1, "matmul": self.weight.dim() - 1}.get(self.uses[0].op, 0)

    def rounded(self, target: Format) -> Tensor:
        """The weight in a format; scales per channel or group belong to output channels."""
        return self._placed(target).round(self.weight)

    def errors(self, formats: Sequence[Format]) -> Tensor:
        """(F, *weight) errors Q(W) - W in every format."""
        wide = self.weight.double()
        return torch.stack([(self._placed(target).round(wide) - wide).to(self.weight.dtype) for target in formats])

    def _placed(self, target: Format) -> Format:
        from assay.sensitivity.roundoff.integers import IntegerFormat

        return target.along(self.output_axis) if self.output_axis and isinstance(target, IntegerFormat) else target


def weight_layers(graph: Graph) -> tuple[WeightLayer, ...]:
    """Every weight with at least two axes that multiplies something depending on the input, in graph order.

    Biases and the gains of normalisations are not among them: they are few, and kept in full precision.

    Args:
        graph: a prepared graph (batch norms folded).

    Returns:
        The layers.

    Raises:
        SubjectError: when there is none.
    """
    uses: dict[str, list[Node]] = {}
    for node in graph:
        if node.op not in _OPERATORS or len(node.inputs) < 2 or node.inputs[0] not in graph.dependent:
            continue
        weight = node.inputs[1]
        if weight is not None and weight in graph.parameters and graph.parameters[weight].dim() >= 2:
            uses.setdefault(weight, []).append(node)
    paths = [nodes[0].module_path for nodes in uses.values()]
    layers = []
    for parameter, nodes in uses.items():
        path = nodes[0].module_path
        name = path if path and paths.count(path) == 1 else graph.parameter_names.get(parameter, parameter)
        layers.append(WeightLayer(name, parameter, tuple(nodes), graph.parameters[parameter]))
    if not layers:
        raise SubjectError(
            "The model has no dense or convolution weight to choose a format for.",
            where="graph",
            advice="Bit widths are chosen for the weights of linear and convolution layers.",
        )
    return tuple(layers)
