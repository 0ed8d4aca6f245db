"""Attacks as functions (model, x, y) -> x_adv: ours by name, anyone's as they are, with what they return checked."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from assay.attacks.deepfool import deepfool
from assay.attacks.projected import fgsm, pgd
from assay.attacks.target import Bounds, Model, Target, checked_batch, chunk_size, inside, target_of
from assay.errors import NumericalError, UsageError


class Attack(Protocol):
    """Anything that turns inputs into attacked inputs."""

    def __call__(self, model: Any, x: Tensor, y: Tensor, /) -> Tensor:
        """Attack a batch.

        Args:
            model: what is attacked. `attacked` passes a frozen `torch.nn.Module` in evaluation mode.
            x: (B, ...) inputs.
            y: (B,) labels.

        Returns:
            (B, ...) attacked inputs.
        """
        ...


NAMED: Mapping[str, Callable[..., Tensor]] = {
    "fgsm": fgsm,
    "pgd": pgd,
    "pgd-l2": partial(pgd, norm="l2"),
    "deepfool": deepfool,
}


def attack_of(attack: str | Attack, *, epsilon: float | None = None, **settings: Any) -> Attack:
    """An attack by name, or any function (model, x, y) -> x_adv, with its settings filled in.

    Args:
        attack: ``fgsm``, ``pgd``, ``pgd-l2``, ``deepfool``, or a function.
        epsilon: size of the change. A function gets it as the keyword `epsilon`; None leaves it to the function.
            ``deepfool`` finds the size itself and takes none.
        **settings: further keywords, such as steps=40.

    Returns:
        A function of (model, x, y).

    Raises:
        UsageError: for an unknown name, a named attack without the epsilon it needs, or keywords that the attack does
            not take.

    Example:
        >>> attack_of("fgsm", epsilon=0.5)(lambda x: x, torch.tensor([[1.0, 0.0]]), torch.tensor([0]))
        tensor([[0.5000, 0.5000]])
    """
    function = NAMED.get(attack) if isinstance(attack, str) else attack
    if function is None:
        raise UsageError(
            f"There is no attack {attack!r}.",
            where="attack",
            advice=f"Use one of {', '.join(NAMED)}, or a function (model, x, y) -> attacked x.",
        )
    if isinstance(attack, str) and epsilon is None and _takes(function, "epsilon"):
        raise UsageError(
            f"The attack {attack!r} needs an epsilon.", where="epsilon", advice="Give one, or find it by auto_epsilon."
        )
    given = settings | ({} if epsilon is None else {"epsilon": epsilon})
    refused = [name for name in given if not _takes(function, name)]
    if refused:
        raise UsageError(
            f"The attack does not take {', '.join(refused)}.",
            where="attack",
            advice="Leave them out, or wrap the attack in a function that has these keywords.",
        )
    return partial(function, **given) if given else function


def attacked(
    attack: Attack,
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    parameters: Mapping[str, Tensor] | None = None,
    bounds: Bounds | Literal["auto"] = "auto",
    batch_size: int | None = None,
) -> Tensor:
    """Run any attack on a model, batch by batch, and check what it returns.

    The attack sees a frozen module in evaluation mode: neither the user's model nor its gradients can change. What it
    returns is clamped to the bounds, whether or not the attack knows of them.

    Args:
        attack: a function (model, x, y) -> x_adv, such as `attack_of` returns.
        model: a module, a Subject, or a function (B, ...) -> (B, K).
        x: (B, ...) inputs.
        y: (B,) labels.
        parameters: weights to exchange, by name: the changed network is what is attacked.
        bounds: legal range of inputs; ``auto`` takes those of a Subject, None clamps nothing.
        batch_size: samples per call of the attack; None chooses by memory.

    Returns:
        (B, ...) attacked inputs, detached, in the type of x.

    Raises:
        NumericalError: for NaN in inputs or in what the attack returns.
        SubjectError: for a module that cannot be copied.
        UsageError: for inputs or bounds that do not fit, or an attack that returns something else.

    Example:
        >>> model = lambda x: torch.stack([x.sum(1), -x.sum(1)], 1)
        >>> attacked(lambda model, x, y: x - 1, model, torch.ones(1, 2), torch.tensor([0]), bounds=(0.5, 2))
        tensor([[0.5000, 0.5000]])
    """
    target = target_of(model, parameters)
    if not isinstance(bounds, str) and bounds != target.bounds:  # our attacks look there, and clamp at every step
        target = Target(target)
        target.bounds = bounds
    bounds = target.bounds
    checked_batch(x, y, bounds)
    size = chunk_size(x, batch_size)
    found: list[Tensor] = []
    for part, labels in zip(x.detach().split(size), y.split(size), strict=True):
        result = attack(target, part.clone(), labels.clone())  # an attack may work in place
        if not isinstance(result, Tensor) or result.shape != part.shape:
            shown = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
            raise UsageError(
                f"The attack returned {shown} for inputs {tuple(part.shape)}.",
                where="attack",
                advice="Return the attacked inputs, one tensor of the shape of x.",
            )
        result = result.detach().to(part.device, part.dtype)
        if not bool(torch.isfinite(result).all()):
            raise NumericalError("The attack returned NaN or infinity.", where="attack", advice="Check its step size.")
        found.append(inside(result, part, bounds))
    return torch.cat(found)


def _takes(function: Callable[..., Any], name: str) -> bool:
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # built in C, without a signature: let the call itself complain
        return True
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return True
    return name in parameters and parameters[name].kind is not inspect.Parameter.POSITIONAL_ONLY
