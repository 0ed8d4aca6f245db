"""Filters that put other weights in place: those of the start of training, or a fresh draw of the same kind.

A layer is robust to re-initialisation (or re-randomisation) when the network works on after its trained weights were
replaced by those it started from (or by new random ones), and critical otherwise: Zhang, Bengio, Singer, "Are all
layers created equal?", JMLR 23 (2022), sections 3.1 and 3.2.
"""

from __future__ import annotations

import copy
import hashlib
from typing import Literal

import torch
from torch import Tensor, nn

from assay.errors import NumericalError, UsageError

Distribution = Literal["layer", "normal", "shuffle"]


def reinitialised(weight: Tensor, initial: Tensor, *, name: str = "weight") -> Tensor:
    """The weights that a tensor had in an earlier checkpoint, checked to fit in its place.

    Args:
        weight: the trained weights.
        initial: the same tensor of the earlier checkpoint, usually the one before the first step.
        name: of the parameter, for messages.

    Returns:
        A copy of `initial` in the type and on the device of `weight`. Grade: exact.

    Raises:
        NumericalError: for NaN or infinite values.
        UsageError: for another shape.

    Example:
        >>> reinitialised(torch.ones(2), torch.tensor([0.5, 0.25])).tolist()
        [0.5, 0.25]
    """
    if initial.shape != weight.shape:
        raise UsageError(
            f"The checkpoint has shape {tuple(initial.shape)} where the model has {tuple(weight.shape)}.",
            where=name,
            advice="Give a checkpoint of the same architecture.",
        )
    result = initial.detach().to(weight.device, weight.dtype, copy=True)
    if not bool(torch.isfinite(result).all()):
        raise NumericalError("The checkpoint holds NaN or infinity.", where=name, advice="Check the weights file.")
    return result


def rerandomised(
    weight: Tensor,
    *,
    distribution: Distribution = "shuffle",
    layer: nn.Module | None = None,
    parameter: str = "weight",
    like: Tensor | None = None,
    draws: int = 1,
    seed: int = 0,
    name: str = "",
) -> Tensor:
    """Fresh random weights in place of trained ones.

    Draw k depends on `seed`, `name`, the shape and k alone: neither on other draws nor on the state of any global
    generator, which is left as it was. ``shuffle`` also depends on the weights, which it permutes.

    Args:
        weight: the trained weights.
        distribution: ``layer`` draws as the layer's own `reset_parameters` does (where the network was initialised by
            torch's defaults, this is the distribution at the start); ``normal`` draws independent normal numbers of
            the mean and standard deviation of `like`; ``shuffle`` permutes the trained weights.
        layer: the module that owns the parameter; needed by ``layer``, copied, not changed.
        parameter: its name in that module.
        like: whose mean and standard deviation ``normal`` takes; None for the trained weights.
        draws: how many.
        seed: of the draws.
        name: of the parameter in the model, so that tensors of one shape get different numbers.

    Returns:
        (draws, *weight.shape) in the type and on the device of `weight`. Grade: sampled; the spread over draws tells
        how much the choice of numbers matters.

    Raises:
        UsageError: for an unknown distribution, fewer than one draw, or a layer that cannot be reset.

    Example:
        >>> fresh = rerandomised(torch.arange(4.0), draws=3)
        >>> fresh.shape, fresh.sort(dim=1).values[2].tolist()
        (torch.Size([3, 4]), [0.0, 1.0, 2.0, 3.0])
    """
    if draws < 1 or distribution not in ("layer", "normal", "shuffle"):
        raise UsageError(
            f"distribution={distribution!r} with draws={draws} cannot be used.",
            where="rerandomised",
            advice="Use 'layer', 'normal' or 'shuffle', and at least one draw.",
        )
    weight = weight.detach()
    drawn: list[Tensor] = []
    for draw in range(draws):
        key = f"{seed}|{name}|{tuple(weight.shape)}|{draw}|{distribution}"
        number = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little") >> 1
        generator = torch.Generator().manual_seed(number)
        if distribution == "layer":
            values = _reset(layer, parameter, weight, number, name or parameter)
        elif distribution == "normal":
            source = (weight if like is None else like.detach()).double().cpu()
            values = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
            values = source.mean() + source.std(correction=0) * values
        else:
            values = weight.reshape(-1).cpu()[torch.randperm(weight.numel(), generator=generator)]
        drawn.append(values.reshape(weight.shape).to(weight.device, weight.dtype))
    return torch.stack(drawn)


def _reset(layer: nn.Module | None, parameter: str, weight: Tensor, number: int, name: str) -> Tensor:
    """The parameter of a copy of the layer after `reset_parameters` with a generator of its own."""
    reset = getattr(layer, "reset_parameters", None) or getattr(layer, "_reset_parameters", None)
    own = None if layer is None else dict(layer.named_parameters(recurse=False)).get(parameter)
    if layer is None or not callable(reset) or own is None or own.shape != weight.shape:
        raise UsageError(
            f"A {type(layer).__name__} has no parameter {parameter!r} of shape {tuple(weight.shape)} to draw anew.",
            where=name,
            advice="Pass the layer that owns the weights and has reset_parameters(), or use 'normal' or 'shuffle'.",
        )
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        # Values of the copy are overwritten anyway: a fresh CPU tensor each, so that nothing of the user's is touched.
        memo = {id(tensor): nn.Parameter(torch.empty_like(tensor, device="cpu")) for tensor in layer.parameters()}
        fresh = copy.deepcopy(layer, memo)
        torch.default_generator.manual_seed(number)
        getattr(fresh, "reset_parameters", getattr(fresh, "_reset_parameters", None))()  # pyright: ignore
        return dict(fresh.named_parameters(recurse=False))[parameter].detach()
