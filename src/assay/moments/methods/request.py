"""One propagation as a method sees it: everything checked and brought into one form."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from assay.covariance import Covariance
from assay.errors import CaptureError
from assay.graph import Graph, evaluate, fold_batch_norms, lower_composites, lower_max_pools, pool_before_activation
from assay.moments.domain import Fallback
from assay.moments.folding import Folded, fold_on_the_way
from assay.moments.sources import NOTHING, Sources, leaf_of, with_activation_noise
from assay.probe import Probe
from assay.subject import Subject

_EXACT_WIDTH = 4096
_EXACT_BYTES = 1_500_000_000


def read_nodes(graph: Graph) -> Graph:
    """Without nodes that the output does not depend on, such as the indices that a max pool also gives."""
    wanted = {graph.output}
    for node in reversed(graph.nodes):
        if node.name in wanted:
            wanted.update(name for name in node.inputs if name is not None)
    return graph.replace_nodes(
        tuple(node for node in graph if node.name in wanted or node.op in ("input", "parameter"))
    )


def _lowered(graph: Graph) -> Graph:
    return lower_composites(lower_max_pools(pool_before_activation(graph)))


@dataclass(frozen=True, eq=False)
class Request:
    """Arguments of one propagation.

    Attributes:
        subject: the model.
        mean: (B, ...) input means.
        covariance: of the input, over the same batch.
        outputs: (B, m) indices of the outputs wanted, or None for all.
        rank: columns of the low-rank form.
        samples: draws of sampled methods.
        seed: of random directions and draws.
        fallback: what to do with operators that have no rule.
        reason: why this method was chosen.
        noise_on: noise on weights and activations.
        parameters: values that replace the model's own, by their name in the model; they may require gradients.
    """

    subject: Subject
    mean: Tensor
    covariance: Covariance
    outputs: Tensor | None
    rank: int
    samples: int
    seed: int
    fallback: Fallback
    reason: str = ""
    noise_on: Sources = NOTHING
    parameters: Mapping[str, Tensor] = field(default_factory=dict)

    @cached_property
    def captured(self) -> Graph:
        """The graph as captured, with the given parameters, and a node for every noisy activation."""
        graph = read_nodes(self.subject.graph)
        if self.parameters:
            given = {
                leaf: self.parameters[name]
                for leaf, name in graph.parameter_names.items()
                if name in self.parameters and leaf in graph.parameters
            }
            graph = replace(graph, parameters={**graph.parameters, **given})
        return with_activation_noise(graph, self.noise_on)

    @cached_property
    def graph(self) -> Graph:
        """The captured graph with batch norms folded, max pools moved before activations and lowered to maxima."""
        return _lowered(self.captured if self.noise_on else fold_batch_norms(self.captured))

    @cached_property
    def walked(self) -> tuple[Graph, Mapping[str, Folded]]:
        """The same for one walk: weights are folded where they are used, and what those are made of, by layer."""
        graph, folded = (self.captured, {}) if self.noise_on else fold_on_the_way(self.captured)
        return _lowered(graph if self.noise_on else fold_batch_norms(graph)), folded

    @cached_property
    def probe(self) -> Probe:
        """The model as a function of its input, with the given parameters."""
        return Probe(self.subject.model, self.parameters)

    def disturbed(
        self, row: int
    ) -> tuple[Callable[[Tensor, dict[str, Tensor], dict[str, Tensor]], Tensor], dict[str, Tensor], dict[str, Tensor]]:
        """The network as a function of its input, its noisy parameters and noise on its activations.

        Args:
            row: the input meant.

        Returns:
            The function, the parameters' values, and the variances (1, ...) of the activations' noise by node. Without
            noisy activations no graph is needed.
        """
        weights = {name: self.parameters.get(name, self._own[name]) for name in self.noise_on.weights}
        variances = {
            name: variance[row : row + 1] if len(variance) > 1 else variance
            for name, variance in self.noise_on.activations.items()
        }
        if not variances:
            return lambda x, w, a: Probe(self.subject.model, {**self.parameters, **w}).function(x), weights, {}
        graph = self.captured
        leaves = {leaf: name for leaf, name in graph.parameter_names.items() if name in weights}

        def function(x: Tensor, w: dict[str, Tensor], a: dict[str, Tensor]) -> Tensor:
            given = {leaf: w[name] for leaf, name in leaves.items()} | {leaf_of(name): a[name] for name in a}
            return evaluate(graph, x, parameters=given)

        return function, weights, variances

    @cached_property
    def _own(self) -> dict[str, Tensor]:
        return {name: tensor.detach() for name, tensor in self.subject.model.named_parameters()}

    def seeds(self, count: int) -> Tensor:
        """Cotangents (m, B, K) that select the wanted outputs."""
        batch = self.mean.shape[0]
        if self.outputs is None:
            return torch.eye(count, dtype=self.mean.dtype).unsqueeze(1).expand(count, batch, count)
        return torch.nn.functional.one_hot(self.outputs, count).to(self.mean.dtype).transpose(0, 1)

    def pick(self, values: Tensor) -> Tensor:
        """Wanted outputs of (B, K)."""
        return values if self.outputs is None else values.gather(1, self.outputs)

    def choose(self) -> tuple[str, str]:
        """The method that fits the size of the model, and why."""
        try:
            graph = self.graph
        except CaptureError as error:
            return "linearize", error.what[:1].lower() + error.what[1:].rstrip(".")
        width = max(node.spec.size_per_sample for node in graph.nodes if node.name in graph.dependent)
        item = torch.finfo(self.mean.dtype).bits // 8
        needed = 4 * self.mean.shape[0] * width * width * item
        if width <= _EXACT_WIDTH and needed <= _EXACT_BYTES:
            return "exact", f"the widest layer has {width} units, so full covariances fit ({needed / 1e6:.0f} MB)"
        return "factor", f"the widest layer has {width} units: full covariances would take {needed / 1e9:.1f} GB"
