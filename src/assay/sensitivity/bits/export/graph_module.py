"""A prepared graph as an nn.Module, so that exporters see exactly the network that the plan was made for."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from assay.graph import Graph, evaluate


class GraphModule(nn.Module):
    """Runs a graph; its parameters are frozen parameters of the module.

    Args:
        graph: prepared graph.

    Attributes:
        names: parameter name in this module, by parameter node.
    """

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph
        self.names: dict[str, str] = {}
        for index, (node, value) in enumerate(graph.parameters.items()):
            self.names[node] = f"parameter_{index}"
            if value.is_floating_point():
                self.register_parameter(self.names[node], nn.Parameter(value.detach().clone(), requires_grad=False))
            else:
                self.register_buffer(self.names[node], value.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (B, K)."""
        values = {node: getattr(self, name) for node, name in self.names.items()}
        return evaluate(self.graph, x, parameters=values)

    def assign(self, weights: dict[str, Tensor]) -> None:
        """Replace parameters by node name."""
        with torch.no_grad():
            for node, value in weights.items():
                getattr(self, self.names[node]).copy_(value)
