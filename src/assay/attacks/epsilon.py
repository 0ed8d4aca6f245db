"""The size of attack that halves the accuracy: where clean and attacked data have the most to tell apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from assay.attacks.attack import Attack, attack_of, attacked
from assay.attacks.target import Bounds, Model, Target, check_outputs, checked_batch, chunk_size, target_of
from assay.errors import NumericalError, UsageError
from assay.results import Displayed

STEPS = 12  # of bisection: epsilon to 1 / 4096 of where it started


@dataclass(frozen=True)
class AutoEpsilon(Displayed):
    """An epsilon and how it was found.

    Attributes:
        epsilon: in the units of the inputs.
        clean_accuracy: of the model on the samples used.
        adversarial_accuracy: at this epsilon, on the same samples.
        bracket: the last two sizes bisection stood between: accuracy is above the goal at the first, not at the second.
        tried: every (epsilon, adversarial accuracy) measured, in order.
    """

    epsilon: float
    clean_accuracy: float
    adversarial_accuracy: float
    bracket: tuple[float, float]
    tried: tuple[tuple[float, float], ...]


def auto_epsilon(
    model: Model,
    x: Tensor,
    y: Tensor,
    attack: str | Attack = "fgsm",
    *,
    share: float = 0.5,
    bounds: Bounds | Literal["auto"] = "auto",
    bisections: int = STEPS,
    batch_size: int | None = None,
    **settings: Any,
) -> AutoEpsilon:
    """The size of attack at which the accuracy is half the clean one, by bisection.

    The search begins at the width of the legal range (of the data where there are no bounds; times the square root of
    the number of elements for ``pgd-l2``) and halves it until the attack does enough harm, since attacks with large
    steps may overshoot. Use validation data: on the test data itself the share is met by construction.

    Args:
        model: a module, a Subject, or a function (B, ...) -> (B, K).
        x: (B, ...) inputs.
        y: (B,) labels.
        attack: ``fgsm``, ``pgd``, ``pgd-l2``, or a function (model, x, y, epsilon=...) -> x_adv.
        share: of the clean accuracy that shall be left, between 0 and 1.
        bounds: legal range of inputs; ``auto`` takes those of a Subject, None clamps nothing.
        bisections: how many; each costs one attack on all samples.
        batch_size: samples per pass; None chooses by memory.
        **settings: further keywords of the attack.

    Returns:
        The end of the last bracket whose accuracy is closer to the goal (the smaller one when equal), and all that was
        tried. Grade: sampled.

    Raises:
        NumericalError: when no sample is right to begin with, or the attack never does enough harm.
        SubjectError: for a module that cannot be copied.
        UsageError: for a share or bisections out of range, labels that are none, or an attack without `epsilon`.

    Example:
        >>> x = torch.tensor([[0.75, 0.25], [1.0, 0.0]])  # margins that epsilons of 0.25 and 0.5 close
        >>> found = auto_epsilon(lambda x: x + torch.tensor([0.0, 1e-4]), x, torch.tensor([0, 0]), bounds=(0.0, 1.0))
        >>> found.adversarial_accuracy, round(found.epsilon, 2)
        (0.5, 0.25)
    """
    if not 0 < share < 1 or bisections < 1 or y.dtype.is_floating_point:
        raise UsageError(
            f"share={share}, bisections={bisections} and targets of type {y.dtype} cannot be used.",
            where="auto_epsilon",
            advice="0 < share < 1, at least one bisection, and integer labels; for regression give epsilon yourself.",
        )
    target = target_of(model)
    limits = target.bounds if isinstance(bounds, str) else bounds
    checked_batch(x, y, limits)
    clean = _accuracy(target, x, y, batch_size)
    if clean == 0:
        raise NumericalError(
            "The model gets no sample right, so that there is no accuracy to halve.",
            where="auto_epsilon",
            advice="Check the labels and the preprocessing, or give epsilon yourself.",
        )
    tried: list[tuple[float, float]] = []

    def measured(epsilon: float) -> float:
        function = attack_of(attack, epsilon=epsilon, **settings)
        points = attacked(function, target, x, y, bounds=limits, batch_size=batch_size)
        tried.append((epsilon, _accuracy(target, points, y, batch_size)))
        return tried[-1][1]

    goal = share * clean
    width = limits[1] - limits[0] if limits is not None else float(x.max() - x.min()) or 1.0
    high = width * x[0].numel() ** 0.5 if attack == "pgd-l2" or settings.get("norm") == "l2" else width
    at_high = measured(high)
    for _ in range(STEPS):
        if at_high <= goal:
            break
        high /= 2
        at_high = measured(high)
    if at_high > goal:
        raise NumericalError(
            f"No attack of size {tried[0][0]:.4g} to {high:.4g} brings the accuracy from {clean:.1%} to {goal:.1%}.",
            where="auto_epsilon",
            advice="Use a stronger attack such as pgd, another loss, or give epsilon yourself.",
        )
    low, at_low = 0.0, clean
    for _ in range(bisections):
        middle = (low + high) / 2
        accuracy = measured(middle)
        if accuracy > goal:
            low, at_low = middle, accuracy
        else:
            high, at_high = middle, accuracy
    epsilon, reached = (low, at_low) if at_low - goal <= goal - at_high else (high, at_high)
    return AutoEpsilon(epsilon, clean, reached, (low, high), tuple(tried))


def _accuracy(target: Target, x: Tensor, y: Tensor, batch_size: int | None) -> float:
    size, correct = chunk_size(x, batch_size), 0
    with torch.no_grad():
        for part, labels in zip(x.split(size), y.split(size), strict=True):
            outputs = target(part.clone())
            check_outputs(outputs, labels)
            correct += int((outputs.argmax(1) == labels).sum())
    return correct / len(x)
