"""Fast gradient sign and projected gradient descent, in the maximum norm and in the Euclidean norm."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from assay.attacks.target import (
    Bounds,
    Loss,
    Model,
    Target,
    checked_batch,
    chunk_size,
    input_gradient,
    inside,
    loss_of,
    target_of,
)
from assay.errors import UsageError
from assay.seeding import content_generator

Norm = Literal["linf", "l2"]


def fgsm(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    epsilon: float,
    bounds: Bounds | Literal["auto"] = "auto",
    targeted: bool = False,
    loss: Loss | None = None,
    batch_size: int | None = None,
) -> Tensor:
    """Fast gradient sign method: x + epsilon sign(grad of the loss), clamped (Goodfellow, Shlens, Szegedy, ICLR 2015).

    All samples are attacked, those that are wrong already too. An element whose gradient is exactly zero stays; a
    network so sure of itself that the loss underflows is therefore not attacked (use another `loss` for such a one).

    Args:
        model: a module, a Subject, or a function (B, ...) -> (B, K); untouched.
        x: (B, ...) inputs, in the units of the data.
        y: (B,) labels; regression targets climb the squared error.
        epsilon: largest change of an element, in the units of x; not negative.
        bounds: legal range of inputs; ``auto`` takes those of a Subject, None clamps nothing.
        targeted: y are the labels to reach, and the loss is descended.
        loss: (outputs, y) -> a number or one per sample; None for cross-entropy (squared error).
        batch_size: samples per pass; None chooses by memory. Samples do not influence each other.

    Returns:
        (B, ...) attacked inputs, detached. What an attack finds is a lower estimate of the worst case.

    Raises:
        NumericalError: for NaN in inputs or gradients.
        SubjectError: for a module that cannot be copied.
        UsageError: for labels, bounds or an epsilon that do not fit.

    Example:
        >>> identity = lambda x: x
        >>> fgsm(identity, torch.tensor([[0.5, 0.25]]), torch.tensor([0]), epsilon=0.375, bounds=(0.0, 1.0))
        tensor([[0.1250, 0.6250]])
    """
    target, bounds = _prepared(model, x, y, epsilon, bounds)
    loss, sign = loss_of(loss, y), -1.0 if targeted else 1.0
    size = chunk_size(x, batch_size)
    found: list[Tensor] = []
    for part, labels in zip(x.detach().split(size), y.split(size), strict=True):
        gradient = input_gradient(target, part, labels, loss)
        found.append(inside(part + sign * epsilon * gradient.sign(), part, bounds))
    return torch.cat(found)


def pgd(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    epsilon: float,
    norm: Norm = "linf",
    steps: int = 20,
    step_size: float | None = None,
    random_start: bool = False,
    bounds: Bounds | Literal["auto"] = "auto",
    targeted: bool = False,
    loss: Loss | None = None,
    seed: int = 0,
    batch_size: int | None = None,
) -> Tensor:
    """Projected gradient descent: steps along the gradient, back into the ball, into the bounds (Madry et al. 2018).

    Each step adds `step_size` times the sign of the gradient (``linf``) or the gradient over its length (``l2``), then
    projects the change onto the ball and clamps to the bounds. The last point is returned.

    Args:
        model: a module, a Subject, or a function (B, ...) -> (B, K); untouched.
        x: (B, ...) inputs, in the units of the data.
        y: (B,) labels; regression targets climb the squared error.
        epsilon: radius of the ball, in the units of x; not negative.
        norm: ``linf`` or ``l2``, per sample.
        steps: number of steps, at least 1.
        step_size: length of a step in the same norm; None for 2.5 epsilon / steps (Madry et al. 2018).
        random_start: start at a point drawn uniformly from the ball.
        bounds: legal range of inputs; ``auto`` takes those of a Subject, None clamps nothing.
        targeted: y are the labels to reach, and the loss is descended.
        loss: (outputs, y) -> a number or one per sample; None for cross-entropy (squared error).
        seed: of the random start, together with the values of a sample (not its place in the batch).
        batch_size: samples per pass; None chooses by memory. Samples do not influence each other.

    Returns:
        (B, ...) attacked inputs, detached. What an attack finds is a lower estimate of the worst case.

    Raises:
        NumericalError: for NaN in inputs or gradients.
        SubjectError: for a module that cannot be copied.
        UsageError: for labels, bounds, or settings that do not fit.

    Example:
        >>> identity = lambda x: x
        >>> pgd(identity, torch.zeros(1, 2), torch.tensor([0]), epsilon=1.0, norm="l2").norm()
        tensor(1.)
    """
    target, bounds = _prepared(model, x, y, epsilon, bounds)
    if norm not in get_args(Norm) or steps < 1 or not (step_size is None or 0 <= step_size < math.inf):
        raise UsageError(
            f"norm={norm!r}, steps={steps}, step_size={step_size} cannot be used.",
            where="pgd",
            advice="norm is 'linf' or 'l2', steps at least 1, step_size not negative.",
        )
    loss, sign = loss_of(loss, y), -1.0 if targeted else 1.0
    length = sign * (2.5 * epsilon / steps if step_size is None else step_size)
    size = chunk_size(x, batch_size)
    found: list[Tensor] = []
    for part, labels in zip(x.detach().split(size), y.split(size), strict=True):
        point = part
        if random_start:
            drawn = torch.stack([_start(sample, norm, seed) for sample in part])
            point = inside(part + epsilon * drawn, part, bounds)
        for _ in range(steps):
            gradient = input_gradient(target, point, labels, loss)
            direction = gradient.sign() if norm == "linf" else unit(gradient)
            point = inside(part + into_ball(point + length * direction - part, epsilon, norm), part, bounds)
        found.append(point)
    return torch.cat(found)


def _prepared(
    model: Model, x: Tensor, y: Tensor, epsilon: float, bounds: Bounds | Literal["auto"]
) -> tuple[Target, Bounds]:
    if isinstance(epsilon, bool) or not isinstance(epsilon, int | float) or not 0 <= epsilon < math.inf:
        raise UsageError(
            f"epsilon must be a number that is not negative, got {epsilon!r}.",
            where="epsilon",
            advice="Give it in the units of the inputs, such as 8 / 255 for pictures in [0, 1].",
        )
    target = target_of(model)
    chosen = target.bounds if isinstance(bounds, str) else bounds
    checked_batch(x, y, chosen)
    return target, chosen


def into_ball(change: Tensor, epsilon: float, norm: Norm) -> Tensor:
    """Changes (B, ...) pulled back into the ball, per sample."""
    if norm == "linf":
        return change.clamp(-epsilon, epsilon)
    size = _norms(change)
    factor = epsilon / torch.where(size == 0, 1.0, size)
    return change * torch.where(size > epsilon, factor, 1.0).to(change.dtype)


def unit(gradient: Tensor) -> Tensor:
    """Gradients of length one per sample, however small they were; zero stays zero."""
    size = _norms(gradient)
    return (gradient.double() / torch.where(size == 0, 1.0, size)).to(gradient.dtype)


def _norms(batch: Tensor) -> Tensor:
    """Euclidean norm per sample in float64, in a shape that broadcasts."""
    return batch.double().flatten(1).norm(dim=1).reshape(-1, *[1] * (batch.dim() - 1))


def _start(sample: Tensor, norm: Norm, seed: int) -> Tensor:
    """A point drawn uniformly from the unit ball, by the sample's values and the seed."""
    generator = content_generator(sample, seed)
    if norm == "linf":
        drawn = 2 * torch.rand(sample.shape, generator=generator, dtype=torch.float64) - 1
    else:
        direction = torch.randn(sample.shape, generator=generator, dtype=torch.float64)
        radius = torch.rand((), generator=generator, dtype=torch.float64) ** (1 / sample.numel())
        drawn = direction / direction.norm() * radius
    return drawn.to(sample.device, sample.dtype)
