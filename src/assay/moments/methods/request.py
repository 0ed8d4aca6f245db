"""One propagation as a method sees it: everything checked and brought into one form."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from assay.covariance import Covariance
from assay.graph import Graph, lower_max_pools, pool_before_activation
from assay.moments.domain import Fallback
from assay.subject import Subject


def _read(graph: Graph) -> Graph:
    """Without nodes that the output does not depend on, such as the indices that a max pool also gives."""
    wanted = {graph.output}
    for node in reversed(graph.nodes):
        if node.name in wanted:
            wanted.update(name for name in node.inputs if name is not None)
    return graph.replace_nodes(
        tuple(node for node in graph if node.name in wanted or node.op in ("input", "parameter"))
    )


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

    @cached_property
    def graph(self) -> Graph:
        """The captured graph with max pools moved before activations and lowered to pairwise maxima."""
        return lower_max_pools(pool_before_activation(_read(self.subject.graph)))

    def seeds(self, count: int) -> Tensor:
        """Cotangents (m, B, K) that select the wanted outputs."""
        batch = self.mean.shape[0]
        if self.outputs is None:
            return torch.eye(count, dtype=self.mean.dtype).unsqueeze(1).expand(count, batch, count)
        return torch.nn.functional.one_hot(self.outputs, count).to(self.mean.dtype).transpose(0, 1)

    def pick(self, values: Tensor) -> Tensor:
        """Wanted outputs of (B, K)."""
        return values if self.outputs is None else values.gather(1, self.outputs)
