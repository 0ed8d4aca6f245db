"""Nearest boundary points within subspaces: DeepFool and its refinement, with gradients restricted to the subspace."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from assay.boundary.field import Field, pair, runner_up
from assay.results import Displayed

Bases = Tensor | None
_FINE, _COARSE = 60, 7  # steps towards the boundary: to rounding, and for a candidate that may be dropped
_WORTHWHILE = 3e-5  # relative gain below which refining stops
_STEPS = (1.0, 0.5, 0.25, 0.1)


@dataclass(frozen=True, eq=False)
class RestrictedPoints(Displayed):
    """Nearest points found where the decision changes, reached by moving within subspaces only.

    Attributes:
        point: (B, ...) NaN where not found.
        distance: (B,) float64 Euclidean; NaN where not found.
        found: (B,) bool.
    """

    point: Tensor
    distance: Tensor
    found: Tensor


def nearest_within(
    field: Field, x: Tensor, bases: Bases, *, steps: int = 50, candidates: int = 10, refine: int = 30
) -> RestrictedPoints:
    """Nearest change of decision within x + span(rows of the basis), by linearising until the decision changes.

    Args:
        field: logits.
        x: (B, ...) inputs, prepared by the field.
        bases: (B, m, d) orthonormal rows, one subspace per input; None searches the full space.
        steps: of DeepFool at most.
        candidates: rival classes looked at per step.
        refine: steps towards the foot of the perpendicular that are tried afterwards.

    Returns:
        RestrictedPoints: an upper bound of the distance, as of every search.

    Source: Moosavi-Dezfooli, Fawzi and Frossard (2016, algorithm 2), restricted to a subspace as in Fawzi,
        Moosavi-Dezfooli and Frossard (2016); refined as by Hasofer and Lind (1974), with a safeguard.
    """
    logits = field.logits(x)
    own = logits.argmax(1)
    count = min(candidates, logits.shape[1] - 1)
    masked = logits.scatter(1, own[:, None], -torch.inf)
    rivals = masked.topk(count, 1).indices
    outside = _deepfool(field, x, bases, own, rivals, steps)
    changed = field.label(outside) != own
    inside, outside = (each.clone() for each in _narrowed(field, x, outside, own, _FINE))
    active = changed.nonzero()[:, 0]
    for _ in range(refine):
        if not len(active):
            break
        some = None if bases is None else bases[active]
        near, far, moved = _refined(field, x[active], inside[active], outside[active], some, own[active])
        inside[active], outside[active] = near, far
        active = active[moved]
    inside, outside = _narrowed(field, inside, outside, own, _FINE)
    distance = (outside - x).flatten(1).double().norm(dim=1)
    missing = ~changed
    point = outside.masked_fill(missing.reshape(-1, *(1,) * (x.dim() - 1)), torch.nan)
    return RestrictedPoints(point, distance.masked_fill(missing, torch.nan).cpu(), changed.cpu())


def restrict(vectors: Tensor, bases: Bases) -> Tensor:
    """Projections of vectors (B, R, d) onto subspaces (B, m, d) of their rows."""
    if bases is None:
        return vectors
    return torch.einsum("brm,bmd->brd", torch.einsum("brd,bmd->brm", vectors, bases), bases)


def _deepfool(field: Field, x: Tensor, bases: Bases, own: Tensor, rivals: Tensor, steps: int) -> Tensor:
    """A point beyond the boundary for every input where one is found; the last point tried elsewhere."""
    outside, total = x.clone(), torch.zeros_like(x)
    active = torch.arange(len(x), device=x.device)
    for _ in range(steps):
        here = x[active] + total[active]
        values, gradients = field.gradients_to(here, own[active], rivals[active])
        parts = restrict(gradients.flatten(2), None if bases is None else bases[active])
        lengths = parts.norm(dim=2)
        ratio = torch.where(lengths > 0, values.abs() / lengths, torch.inf)
        nearest = ratio.argmin(1)
        rows = torch.arange(len(active), device=x.device)
        length = lengths[rows, nearest]
        usable = length > 0
        # The absolute part gets over exact ties, where the linear step is zero.
        size = (values[rows, nearest].abs() + 1e-6 * (1 + values[rows, nearest].abs())) / length.square()
        move = parts[rows, nearest] * torch.where(usable, size, 0.0)[:, None]
        total[active] += move.reshape(here.shape)
        tried = x[active] + 1.02 * total[active]
        sound = torch.isfinite(tried.flatten(1)).all(1)
        outside[active] = torch.where(sound.reshape(-1, *(1,) * (x.dim() - 1)), tried, outside[active])
        still = field.label(outside[active]) == own[active]
        active = active[still & usable & sound]
        if not len(active):
            break
    return outside


def _narrowed(field: Field, inside: Tensor, outside: Tensor, own: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Two points that enclose a change of decision, moved together by regula falsi on the margin (Illinois)."""
    shape = (-1, *(1,) * (inside.dim() - 1))
    below, above = _margin(field, inside, own)[0], _margin(field, outside, own)[0]
    last = torch.zeros_like(own)
    for step in range(steps):
        gap = above - below
        share = torch.where(gap > 0, -below / torch.where(gap > 0, gap, 1.0), 0.5)
        # Every third step halves the bracket, whatever the margin looks like.
        share = torch.full_like(share, 0.5) if step % 3 == 2 else share.nan_to_num(0.5).clamp(0.02, 0.98)
        middle = inside + share.to(inside).reshape(shape) * (outside - inside)
        if bool(((middle == inside) | (middle == outside)).all()):
            break
        value, label = _margin(field, middle, own)
        same = label == own
        above = torch.where(same, torch.where(last == 1, above / 2, above), value)
        below = torch.where(same, value, torch.where(last == -1, below / 2, below))
        last = torch.where(same, 1, -1)
        kept = same.reshape(shape)
        inside, outside = torch.where(kept, middle, inside), torch.where(kept, outside, middle)
    return inside, outside


def _margin(field: Field, x: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
    """(B,) float64 largest other logit minus that of `own`, and (B,) decisions."""
    logits = field.logits(x)
    return pair(logits.double(), own, runner_up(logits, own)), logits.argmax(1)


def _refined(
    field: Field, x: Tensor, inside: Tensor, outside: Tensor, bases: Bases, own: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """A closer pair of points where there is one: towards the foot of the perpendicular on the linearised boundary.

    Returns:
        The pairs, and (B,) which of them are closer than before by enough to go on.
    """
    rival = runner_up(field.logits(outside), own)
    value, gradient = field.value_and_gradient(outside, own, rival)
    slope = restrict(gradient.flatten(1)[:, None], bases)[:, 0]
    moved = (outside - x).flatten(1)
    square = slope.square().sum(1)
    usable = square > 0
    share = ((slope * moved).sum(1) - value) / torch.where(usable, square, 1.0)
    foot = share[:, None] * slope
    best = moved.norm(dim=1)
    improved = torch.zeros_like(usable)
    inside, outside = inside.clone(), outside.clone()
    for step in _STEPS:
        waiting = (usable & ~improved).nonzero()[:, 0]
        if not len(waiting):
            break
        start = x[waiting]
        goal = moved[waiting] + step * (foot[waiting] - moved[waiting])
        # Somewhat beyond the candidate, so that the ray crosses the boundary although it bends away.
        beyond = start + (1.1 * goal).reshape(start.shape)
        crosses = field.label(beyond) != own[waiting]
        near, far = _narrowed(field, start, beyond, own[waiting], _COARSE)
        reach = (far - start).flatten(1).norm(dim=1)
        better = crosses & (reach < best[waiting] * (1 - _WORTHWHILE))
        rows = waiting[better]
        inside[rows], outside[rows] = near[better], far[better]
        improved[rows] = True
    return inside, outside, improved
