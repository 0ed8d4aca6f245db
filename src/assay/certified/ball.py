"""A certified local Lipschitz constant: guaranteed for all changes of the input up to a radius around it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from assay.certified.global_bound import graph_bound
from assay.certified.prepared import bound_graph
from assay.certified.reach import Reach
from assay.certified.reach_domain import ReachDomain
from assay.errors import NumericalError, UnsupportedOperator, UsageError
from assay.grade import Grade
from assay.graph import Graph
from assay.inputs import prepared
from assay.interpret import forward
from assay.results import Displayed
from assay.subject import Subject


@dataclass(frozen=True, eq=False)
class CertifiedBall(Displayed):
    """What changes of the input within a ball can do at most. All float64; guaranteed.

    Attributes:
        radius: (B,) Euclidean radius of the ball around each input.
        change: (B,) largest possible ||f(x + d) - f(x)||.
        spread: (B, K) largest possible change of each output.
        lipschitz: (B,) Lipschitz constant between any two points of the ball: change / radius.
        global_value: the global bound, which is never exceeded by `lipschitz`; infinite where there is none.
        grade: guaranteed.
    """

    radius: Tensor
    change: Tensor
    spread: Tensor
    lipschitz: Tensor
    global_value: float
    grade: Grade = Grade.BOUND


def certified_ball(
    model: nn.Module | Subject,
    x: Tensor,
    radius: float | Sequence[float] | Tensor,
    *,
    method: Literal["auto", "steps", "joint"] = "auto",
) -> CertifiedBall:
    """Guaranteed Lipschitz constant on the ball ||d|| <= radius around every input.

    A unit's pre-activation z_i moves by at most r ||row_i(W D)||, so its slope lies in a known interval over the ball.
    ``steps``: with D the largest slopes, the next change is at most ||D' W D|| r, layer by layer (after Avant and
    Morgansen 2021, arXiv 2006.00149). ``joint``: units whose slope is certain pass changes on as they are, and only the
    others open a new source (see `reach`), so for a small radius the constant tends to the Jacobian's norm. ``auto``
    takes the smaller of both, and never more than the global bound. Max pools pass on only what may win.

    Args:
        model: a module or Subject.
        x: (B, ...) centres, in the units of the data.
        radius: Euclidean; one number, or one per input.
        method: ``steps``, ``joint`` or ``auto``.

    Returns:
        Guaranteed constants, in double precision with rounding added.

    Raises:
        UnsupportedOperator: naming every node that cannot be bounded.
        UsageError: for a radius that is not positive and finite.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 2, bias=False), torch.nn.ReLU())
        >>> _ = net[0].weight.data.copy_(torch.tensor([[3.0, 0.0], [0.0, 1.0]]))
        >>> found = certified_ball(net, torch.tensor([[-1.0, 1.0], [1.0, 1.0]]), 0.1)
        >>> [round(float(value), 6) for value in found.lipschitz]
        [1.0, 3.0]
    """
    subject, x = prepared(model, x)
    graph = bound_graph(subject, x)
    radii = torch.as_tensor(radius, dtype=torch.float64)
    if radii.numel() != 1 and radii.shape != (len(x),):
        raise UsageError(
            f"{tuple(radii.shape)} radii do not fit {len(x)} inputs.",
            where="radius",
            advice="Give one, or one per input.",
        )
    radii = radii.reshape(-1).expand(len(x))
    if not bool(((radii > 0) & torch.isfinite(radii)).all()):
        raise UsageError("The radius must be positive and finite.", where="radius", advice="Try 0.01 * x.norm().")
    if method not in ("auto", "steps", "joint"):
        raise UsageError(f"Unknown method {method!r}.", where="certified_ball", advice="Use auto, steps or joint.")
    best = _global_value(graph)
    change = best * radii
    spread: Tensor | None = None
    for joint in (True, False) if method == "auto" else (method == "joint",):
        reached, each = graph_balls(graph, x.double(), radii, joint=joint)
        change = torch.minimum(change, reached)
        spread = each if spread is None else torch.minimum(spread, each)
    assert spread is not None
    lipschitz = (change / radii).clamp(max=best)
    return CertifiedBall(radii, change, torch.minimum(spread, change[:, None]), lipschitz, best)


def graph_balls(graph: Graph, x: Tensor, radii: Tensor, *, joint: bool) -> tuple[Tensor, Tensor]:
    """Largest change (B,) and spread (B, K) of a prepared graph's output, one input after the other."""
    domain = ReachDomain(graph, joint)
    changes, spreads = [], []
    with torch.no_grad():
        for point, radius in zip(x, radii.tolist(), strict=True):
            found = forward(graph, domain, {graph.input: Reach.ball(graph.input, point[None], radius)}, batch=1)
            domain.raise_refusals()
            moves = isinstance(found, Reach)
            changes.append(found.norm() if moves else 0.0)
            spreads.append(found.spread[0] if moves else torch.zeros_like(found[0]))
    return torch.tensor(changes, dtype=torch.float64), torch.stack(spreads)


def _global_value(graph: Graph) -> float:
    try:
        return graph_bound(graph).value
    except (NumericalError, UnsupportedOperator):
        return math.inf
