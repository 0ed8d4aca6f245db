"""Training of one arm: the same recipe and the same batches, some weights frozen to the bit."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NoReturn

import torch
from torch import Tensor, nn
from torch.func import functional_call

from assay.attacks import Attack, attacked
from assay.errors import NumericalError, UsageError
from assay.filtering.retraining.splits import Bounds, Pair
from assay.filtering.units import Unit
from assay.subject import private_copy

OptimizerFactory = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
}


@dataclass(frozen=True)
class Recipe:
    """How every arm is trained.

    Attributes:
        epochs: passes over the training samples.
        batch_size: samples per step.
        learning_rate: of a named optimiser; a function brings its own.
        optimizer: ``adam``, ``adamw``, ``sgd``, or a function of the trainable parameters.
        adversarial: share of each batch that is replaced by attacked inputs.
        attack: what attacks them; needed where the share is not zero.
        bounds: legal range of inputs, or None.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    optimizer: str | OptimizerFactory
    adversarial: float
    attack: Attack | None
    bounds: Bounds

    def start(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        """A fresh optimiser.

        Returns:
            It.

        Raises:
            UsageError: for an unknown name, or a function that does not make one.
        """
        if not isinstance(self.optimizer, str):
            made = self.optimizer(parameters)
            if isinstance(made, torch.optim.Optimizer):
                return made
        elif self.optimizer in OPTIMIZERS:
            return OPTIMIZERS[self.optimizer](parameters, lr=self.learning_rate)  # pyright: ignore[reportCallIssue]
        raise UsageError(
            f"{self.optimizer!r} makes no optimiser.",
            where="optimizer",
            advice=f"Use {', '.join(OPTIMIZERS)}, or a function from a list of parameters to a torch.optim.Optimizer.",
        )


def batches(count: int, size: int, seed: int, epoch: int) -> Iterator[Tensor]:
    """Rows of every batch of one epoch, by seed and epoch alone.

    A last batch of one sample joins the one before: batch norm has no statistics of a single sample.

    Yields:
        Row numbers of a batch.
    """
    generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
    parts = list(torch.randperm(count, generator=generator).split(size))
    if len(parts) > 1 and len(parts[-1]) == 1 and size > 1:
        parts[-2:] = [torch.cat(parts[-2:])]
    yield from parts


def train_arm(
    model: nn.Module, units: Sequence[Unit], chosen: Sequence[str], samples: Pair, recipe: Recipe, seed: int, arm: str
) -> tuple[nn.Module, int]:
    """Continue training a copy of a model in which the weights of all other units stay as they are, to the bit.

    Biases, batch norm and whatever else is in no unit are trained in every arm. The whole network is in training mode
    for the loss, and in evaluation mode when inputs are attacked. Random numbers (dropout) begin from the seed.

    Args:
        model: the checkpoint; only read.
        units: all units.
        chosen: names of those to train.
        samples: to train on.
        recipe: how.
        seed: of batches and dropout.
        arm: its name, for errors.

    Returns:
        The trained copy in evaluation mode, frozen, and the number of optimiser steps.

    Raises:
        NumericalError: when the loss, or the network, is no longer finite.
        UsageError: for an optimiser that cannot be used.
    """
    network = trainable_copy(model)
    held = _freeze(network, units, set(chosen))
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = recipe.start(parameters) if parameters else None
    steps = 0
    devices = range(torch.cuda.device_count())
    with torch.random.fork_rng(devices=devices), torch.enable_grad():
        torch.manual_seed(seed)
        for epoch in range(recipe.epochs):
            for rows in batches(len(samples.y), recipe.batch_size, seed, epoch):
                x, y = samples.x[rows], samples.y[rows]
                where = f"arm {arm}, seed {seed}, epoch {epoch + 1}, step {steps + 1}"
                _attack_some(network, x, y, recipe, where)
                network.train()
                loss = _loss(network, x, y, where)
                if not bool(torch.isfinite(loss)):
                    _refuse_divergence(where)
                if optimizer is not None:
                    _step(optimizer, loss, held)
                steps += 1
    network.eval().requires_grad_(False)
    if not all(bool(torch.isfinite(parameter).all()) for parameter in parameters):
        _refuse_divergence(f"arm {arm}, seed {seed}, after the last step")
    return network, steps


def trainable_copy(model: nn.Module) -> nn.Module:
    """A copy with memory of its own, every floating-point parameter trainable."""
    network = copy.deepcopy(private_copy(model))  # the first shares memory, and counts changes with, the original
    for parameter in network.parameters():
        parameter.requires_grad_(parameter.dtype.is_floating_point)
    return network


def as_function(network: nn.Module) -> Callable[[Tensor], Tensor]:
    """The network as it is now, without gradients to its parameters: what an attack gets to see."""
    state = {name: parameter.detach() for name, parameter in network.named_parameters()}
    return lambda x: functional_call(network, state, (x,))


def _refuse_divergence(where: str, cause: Exception | None = None) -> NoReturn:
    raise NumericalError(
        "Training diverged: the loss or the weights are NaN or infinite.",
        where=where,
        advice="Use a smaller learning rate, or an optimiser that clips gradients.",
    ) from cause


@dataclass(frozen=True, eq=False)
class _Held:
    """Entries of a parameter that stay as they are while others of it are trained."""

    parameter: nn.Parameter
    mask: Tensor
    values: Tensor


def _freeze(network: nn.Module, units: Sequence[Unit], chosen: set[str]) -> list[_Held]:
    parameters = dict(network.named_parameters(remove_duplicate=False))
    groups: dict[str, list[Unit]] = {}
    for unit in units:
        groups.setdefault(unit.parameter, []).append(unit)
    held: list[_Held] = []
    for name, group in groups.items():
        frozen = [unit for unit in group if unit.name not in chosen]
        parameter = parameters[name]
        if len(frozen) == len(group):
            parameter.requires_grad_(False)
        elif frozen:
            mask = torch.zeros_like(parameter, dtype=torch.bool, requires_grad=False)
            for unit in frozen:
                unit.take(mask).fill_(True)
            held.append(_Held(parameter, mask, parameter.detach()[mask].clone()))
    return held


def _attack_some(network: nn.Module, x: Tensor, y: Tensor, recipe: Recipe, where: str) -> None:
    """Replace the first rows of a batch, which the shuffle chose, by attacked ones; in place."""
    count = round(recipe.adversarial * len(y))
    if not count or recipe.attack is None:
        return
    network.eval()
    try:
        x[:count] = attacked(recipe.attack, as_function(network), x[:count], y[:count], bounds=recipe.bounds)
    except NumericalError as error:  # the inputs were finite when they came, so it is the network
        _refuse_divergence(where, error)


def _loss(network: nn.Module, x: Tensor, y: Tensor, where: str) -> Tensor:
    try:
        outputs = network(x)
    except (RuntimeError, ValueError, TypeError) as error:
        raise UsageError(
            f"The model cannot be run in training mode: {str(error).splitlines()[0][:200]}",
            where=where,
            advice="Batch norm needs more than one value per channel: use a larger batch_size.",
        ) from error
    if not isinstance(outputs, Tensor) or outputs.dim() != 2:
        shape = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise UsageError(
            f"In training mode the model returns {shape} instead of logits (B, K).",
            where=where,
            advice="Switch auxiliary outputs off, or wrap the model so that it returns the logits alone.",
        )
    return nn.functional.cross_entropy(outputs, y)


def _step(optimizer: torch.optim.Optimizer, loss: Tensor, held: list[_Held]) -> None:
    optimizer.zero_grad(set_to_none=True)
    if loss.requires_grad:
        loss.backward()
    for part in held:
        if part.parameter.grad is not None:
            part.parameter.grad[part.mask] = 0
    try:
        optimizer.step()
    except TypeError as error:
        raise UsageError(
            f"The optimiser {type(optimizer).__name__} cannot take a plain step: {error}",
            where="optimizer",
            advice="Use one whose step() needs no arguments.",
        ) from error
    with torch.no_grad():
        for part in held:  # weight decay and momentum move weights without a gradient
            part.parameter[part.mask] = part.values
