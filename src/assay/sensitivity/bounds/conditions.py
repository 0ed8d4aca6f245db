"""Relative condition numbers of the layers of a chain, with guaranteed norms: what `theorem_a` takes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from assay.certified.global_bound import Norm, graph_bound, norm_name
from assay.certified.prepared import bound_graph
from assay.errors import NumericalError, UnsupportedOperator
from assay.grade import Grade
from assay.inputs import prepared
from assay.results import Displayed
from assay.sensitivity.bounds.stage import stages, values_at
from assay.sensitivity.condition import check_outputs_nonzero
from assay.subject import Subject


@dataclass(frozen=True, eq=False)
class ChainConditions(Displayed):
    """Relative condition numbers of the layers of a chain at inputs.

    Attributes:
        kappa: (B, L) A_l ||W_l|| ||x_(l-1)|| / ||x_l||; may be below 1 where a layer has a bias.
        gains: (L,) A_l ||W_l||, guaranteed.
        places: module path of each layer.
        sizes: (B, L + 1) norms of the input and of every layer's output.
        grade: guaranteed, for the relative changes that `theorem_a` takes.
    """

    kappa: Tensor
    gains: Tensor
    places: tuple[str, ...]
    sizes: Tensor
    grade: Grade = Grade.BOUND

    @property
    def input(self) -> Tensor:
        """K_in, (B,): worst relative output change per relative input change; the kappas multiplied."""
        return self.gains.prod() * self.sizes[:, 0] / self.sizes[:, -1]

    @property
    def from_layer(self) -> Tensor:
        """K_W(l), (B, L): worst relative output change per relative change of a layer's weights, first order in it."""
        return self.kappa.flip(1).cumprod(1).flip(1)


def chain_conditions(model: nn.Module | Subject, x: Tensor, *, norm: Norm | float = 2) -> ChainConditions:
    """kappa_l = A_l ||W_l|| ||x_(l-1)|| / ||x_l|| of every layer, with the activations' norms at the inputs.

    Args:
        model: a module or Subject whose graph is a chain of layers; batch norms are folded first.
        x: (B, ...) inputs.
        norm: 2 or "inf".

    Returns:
        Conditions; grade `bound`.

    Raises:
        NumericalError: where a layer's output is zero, so that no relative change of it exists.
        UnsupportedOperator: for a network with branches, or a node without a global constant.
    """
    kind = norm_name(norm)
    subject, x = prepared(model, x)
    graph = bound_graph(subject, x)
    found = stages(graph)
    mixed = [stage for stage in found if stage.joins or len(stage.weighted) != 1]
    if mixed:
        raise UnsupportedOperator(
            "Relative layer conditions are defined for chains of layers.",
            where="; ".join(stage.place for stage in mixed[:5]),
            advice="Use lipschitz_bound, ladder or certified_ball for networks with branches.",
        )
    values = [graph_bound(one.graph, kind=kind, method="product").value for one in found]
    gains = torch.tensor(values, dtype=torch.float64)
    kept = values_at(graph, x.double(), {graph.input, *(stage.end for stage in found)})
    order = float("inf") if kind == "inf" else 2
    tensors = [kept[graph.input], *(kept[stage.end] for stage in found)]
    sizes = torch.stack([torch.linalg.vector_norm(one.flatten(1), order, dim=1) for one in tensors], 1)
    check_outputs_nonzero(sizes[:, -1])
    dead = (sizes[:, 1:] == 0).nonzero()
    if len(dead):
        raise NumericalError(
            "The output of a layer is zero, so a relative change of it does not exist.",
            where=f"sample {int(dead[0, 0])}, {found[int(dead[0, 1])].place}",
            advice="Leave this input out, or use lipschitz_bound, which is absolute.",
        )
    return ChainConditions(gains * sizes[:, :-1] / sizes[:, 1:], gains, tuple(one.place for one in found), sizes)
