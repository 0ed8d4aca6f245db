"""Full covariance layer by layer: exact pairs or first-order gain, skip connections with their cross-covariance."""

from __future__ import annotations

from torch import Tensor

from assay.covariance import to_dense
from assay.interpret import forward
from assay.moments.dense import DenseDomain
from assay.moments.layers import LayerRecorder
from assay.moments.methods.request import Request
from assay.moments.result import Moments


def exact(request: Request) -> Moments:
    """Exact covariance of every pair of units under Gaussian pre-activations. Cost and memory O(n^2) per layer."""
    return _dense(request, "exact")


def gain(request: Request) -> Moments:
    """First-order covariances off the diagonal, exact variances. Cost as `exact` without the pair kernel."""
    return _dense(request, "gain")


def _dense(request: Request, method: str) -> Moments:
    graph = request.graph
    domain = DenseDomain(exact=method == "exact", fallback=request.fallback)
    recorder = LayerRecorder(domain.trust, request.subject.graph)
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
