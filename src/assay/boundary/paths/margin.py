"""The margin m = f_own - max of the others, and the move to points where it is at least a wanted size."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from assay.attacks.target import Bounds
from assay.boundary.field import Field

_STEPS = 40
_OVERSHOOT = 1.02
_PATIENCE = 6
_ACCEPTED = 1 / 64
"""Share of the wanted margin that is taken where no more can be had."""


def margin_of(logits: Tensor, own: Tensor) -> Tensor:
    """(B,) f_own - max over the other classes, from logits (B, K)."""
    index = own[:, None]
    return (logits.gather(1, index) - logits.scatter(1, index, -torch.inf).amax(1, keepdim=True))[:, 0]


def margin_and_gradient(target: Field, x: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
    """(B,) margins and their gradients (B, ...); a gradient that is not finite counts as zero."""
    values, gradients = [], []
    for part, mine in target.passes(x, own):
        with torch.enable_grad():
            point = part.detach().requires_grad_(True)
            value = margin_of(target.target(point.clone()), mine)
            found = None
            if value.requires_grad:
                found = torch.autograd.grad(value.sum(), point, allow_unused=True)[0]
        gradient = torch.zeros_like(part) if found is None else found.detach()
        broken = ~torch.isfinite(gradient.flatten(1)).all(1)
        gradient[broken] = 0.0
        values.append(value.detach().nan_to_num(-torch.inf, torch.inf, -torch.inf))
        gradients.append(gradient)
    return torch.cat(values), torch.cat(gradients)


def to_margin(
    target: Field,
    x: Tensor,
    own: Tensor,
    wanted: Tensor,
    radius: Tensor,
    generators: Sequence[torch.Generator],
    bounds: Bounds,
) -> tuple[Tensor, Tensor]:
    """Move points to where the margin is as wanted: Newton steps along its gradient, and jitter where it stalls.

    x <- x + 1.02 (wanted - m) grad m / |grad m|^2, the rival chosen again in every step, no step longer than half the
    radius. Without a gradient (symmetric points, dead units) or progress, a random step from the best point so far.

    Args:
        target: the network.
        x: (B, ...) points.
        own: (B,) classes.
        wanted: (B,) margins, positive.
        radius: (B,) length scale.
        generators: one per row, so that rows do not influence each other.
        bounds: legal range of inputs.

    Returns:
        The best points found (B, ...) and their margins (B,).
    """
    best, value = x.clone(), torch.full_like(wanted, -torch.inf)
    current, stalled, shaken = x.clone(), torch.zeros_like(own), torch.zeros_like(own)
    for _ in range(_STEPS):
        rows = (value < wanted).nonzero()[:, 0]
        if not len(rows):
            break
        m, gradient = margin_and_gradient(target, current[rows], own[rows])
        gradient = _inward(current[rows], gradient, bounds)
        better = m > value[rows]
        best[rows[better]], value[rows[better]] = current[rows[better]], m[better]
        stalled[rows] = torch.where(better, 0, stalled[rows] + 1)
        square = gradient.flatten(1).square().sum(1)
        missing = (wanted[rows] - m).clamp(min=0)
        flat = ~torch.isfinite(m) | (square.sqrt() * radius[rows] <= 1e-6 * missing) | (stalled[rows] >= _PATIENCE)
        length = torch.where(flat, 0.0, _OVERSHOOT * missing / square.sqrt().clamp(min=1e-30))
        length = torch.minimum(length, radius[rows] / 2) / square.sqrt().clamp(min=1e-30)
        current[rows] = current[rows] + _rowwise(length, x) * gradient
        for row in rows[flat].tolist():
            shaken[row] += 1
            stalled[row] = 0
            step = torch.randn(x.shape[1:], generator=generators[row], dtype=torch.float64).to(x)
            size = 0.02 * 1.6 ** float(shaken[row]) * float(radius[row]) / max(float(step.norm()), 1e-30)
            current[row] = best[row] + size * step
        current[rows] = clamped(current[rows], bounds)
    return best, value


def reached(value: Tensor, wanted: Tensor) -> Tensor:
    """(B,) whether a margin is near enough to what was wanted to go on with."""
    return value >= _ACCEPTED * wanted


def clamped(x: Tensor, bounds: Bounds) -> Tensor:
    """X within the bounds."""
    return x if bounds is None else x.clamp(*bounds)


def _inward(x: Tensor, gradient: Tensor, bounds: Bounds) -> Tensor:
    """The gradient without components that would leave the bounds."""
    if bounds is None:
        return gradient
    low, high = bounds
    leaving = ((x <= low) & (gradient < 0)) | ((x >= high) & (gradient > 0))
    return gradient.masked_fill(leaving, 0.0)


def _rowwise(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape((-1,) + (1,) * (like.dim() - 1))
