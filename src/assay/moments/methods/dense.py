"""Full covariance layer by layer: exact pairs or first-order gain, skip connections with their cross-covariance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from assay.covariance import to_dense
from assay.graph import Graph, Node
from assay.interpret import forward
from assay.moments.dense import DenseDomain, DenseElement
from assay.moments.domain import Fallback, operands_of
from assay.moments.layers import LayerRecorder
from assay.moments.methods.request import Request
from assay.moments.result import Moments
from assay.moments.sources import Sources, noisy, output_block, uses_of


def exact(request: Request) -> Moments:
    """Exact covariance of every pair of units under Gaussian pre-activations. Cost and memory O(n^2) per layer."""
    return outcome(request, _domain(request, exact=True), "exact")


def gain(request: Request) -> Moments:
    """First-order covariances off the diagonal, exact variances. Cost as `exact` without the pair kernel."""
    return outcome(request, _domain(request, exact=False), "gain")


class Disturbed(DenseDomain):
    """The full-covariance domain with noise on weights and activations.

    Such noise is uncorrelated with everything before its node (weights that several nodes read are refused), so only
    the node's own block grows.

    Args:
        graph: that will be walked.
        sources: the noise.
        exact: see `DenseDomain`.
        fallback: see `DenseDomain`.
    """

    def __init__(self, graph: Graph, sources: Sources, *, exact: bool, fallback: Fallback) -> None:
        super().__init__(exact=exact, fallback=fallback)
        self.uses = uses_of(graph, sources)
        self.activations = {noisy(name): variance for name, variance in sources.activations.items()}

    def apply(self, node: Node, operands: Sequence[Any], live: frozenset[str], batch: int) -> DenseElement:
        """As without, and the noise that enters at this node."""
        element = super().apply(node, operands, live, batch)
        matrix = self.block(node.name, node.name)
        if node.name in self.activations:
            added = self.activations[node.name].expand(element.mean.shape).flatten(1)
            matrix = matrix + torch.diag_embed(added)
        elif node.name in self.uses:
            bundle = operands_of(node, operands, batch, self)
            source = bundle.elements[0].name
            for use in self.uses[node.name]:
                matrix = matrix + output_block(use, bundle, self.block(source, source))
            self.trust.gaussian[node.name] = False
        else:
            return element
        self.blocks[node.name, node.name] = matrix
        variance = matrix.diagonal(dim1=1, dim2=2).reshape(element.mean.shape)
        return DenseElement(node.name, element.mean, variance)


def _domain(request: Request, *, exact: bool) -> Disturbed:
    return Disturbed(request.graph, request.noise_on, exact=exact, fallback=request.fallback)


def outcome(request: Request, domain: DenseDomain, method: str) -> Moments:
    """Walk the graph in a full-covariance domain and read the outputs' moments."""
    graph = request.graph
    recorder = LayerRecorder(domain.trust, request.subject.graph, domain.shape)
    start = domain.lift(graph.input, request.mean, to_dense(request.covariance).matrix)
    result = forward(graph, domain, {graph.input: start}, batch=request.mean.shape[0], observe=recorder)
    if isinstance(result, Tensor):  # an output that no noise reaches
        size = result[0].numel()
        result = domain.lift(graph.output, result, result.new_zeros((len(result), size, size)))
    matrix = domain.block(graph.output, graph.output)
    if request.outputs is not None:
        count = request.outputs.shape[1]
        rows = request.outputs.unsqueeze(2).expand(-1, -1, matrix.shape[2])
        matrix = matrix.gather(1, rows).gather(2, request.outputs.unsqueeze(1).expand(-1, count, -1))
    grade = domain.trust.grade_of(graph.output)
    return Moments(
        request.pick(result.mean), matrix, grade, method, request.reason, request.outputs, None, recorder.layers()
    )
