"""The measured counterpart of the parameters' condition numbers: weights really changed, at random and by an attack.

Amplifications ||f(w + dw) - f(w)|| / ||f(w)|| per relative size eta, to stand beside `parameter_condition`: random
noise beside ``rms``, the attack beside ``worst``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from assay.errors import UsageError
from assay.grade import Grade
from assay.graph import Graph, evaluate
from assay.inputs import checked_outputs, norms, prepared
from assay.progress import Progress
from assay.results import Displayed
from assay.seeding import content_generator
from assay.sensitivity.condition import check_outputs_nonzero
from assay.sensitivity.parameters.perturbation import Noise, parameter_condition
from assay.sensitivity.parameters.select import chosen_parameters, folded_graph, frobenius
from assay.subject import Subject

Budget = Literal["each", "joint"]


@dataclass(frozen=True, eq=False)
class ParameterResponse(Displayed):
    """Measured amplification of relative changes of parameters. Grade `sampled`; float64.

    Attributes:
        sizes: the S relative sizes eta.
        names: parameters changed.
        amplification: (B, S) root mean square over noise, or the largest an attack found.
        error: (B, S) standard error of a root mean square; zero for an attack.
        maximum: (B, S) largest seen.
    """

    sizes: tuple[float, ...]
    names: tuple[str, ...]
    amplification: Tensor
    error: Tensor
    maximum: Tensor
    grade: Grade = Grade.SAMPLED


def random_parameter_response(
    model: nn.Module | Subject,
    x: Tensor,
    sizes: Sequence[float] = (1e-3, 1e-2, 1e-1),
    *,
    parameters: str | Sequence[str] = "weights",
    noise: Noise = "elementwise",
    draws: int = 100,
    seed: int = 0,
    progress: Progress | None = None,
) -> ParameterResponse:
    """Measure the response to independent Gaussian noise on the weights, the same draws for every input.

    Cost: `draws` x S + 1 forward passes over the batch.

    Args:
        model: a module or Subject.
        x: (B, ...) inputs.
        sizes: relative sizes eta > 0 of the noise.
        parameters: as in `parameter_condition`.
        noise: ``elementwise`` for deviations eta |w|, ``tensor`` for eta ||W||_F / sqrt(size of W).
        draws: at least 2.
        seed: of the noise.
        progress: called as progress(done, total, text).

    Returns:
        Root mean square amplification per input and size, with its standard error.

    Raises:
        NumericalError: where f(x) = 0.
        SubjectError: for inputs or a model that cannot be used.
        UsageError: for sizes that are not positive, fewer than two draws, or an unknown parameter or noise.
    """
    if draws < 2 or noise not in ("elementwise", "tensor"):
        raise UsageError(
            f"draws={draws} and noise={noise!r} cannot be used.",
            where="random_parameter_response",
            advice="At least two draws; noise elementwise or tensor.",
        )
    sizes = _checked(sizes)
    subject, x = prepared(model, x)
    graph = folded_graph(subject)
    names = chosen_parameters(subject, graph, parameters)
    clean, output_norm = _clean(graph, x)
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros(2, len(x), len(sizes), dtype=torch.float64)  # sums of r^2 and r^4
    maximum = torch.zeros(len(x), len(sizes), dtype=torch.float64)
    for done in range(draws):
        unit = {name: _noise(graph.parameters[name], noise, generator) for name in names}
        for column, size in enumerate(sizes):
            changed = {name: graph.parameters[name] + size * unit[name] for name in names}
            with torch.no_grad():
                outputs = checked_outputs(evaluate(graph, x, parameters=changed))
            ratio = norms(outputs - clean) / output_norm / size
            total[:, :, column] += torch.stack([ratio.square(), ratio.pow(4)])
            maximum[:, column] = torch.maximum(maximum[:, column], ratio)
        if progress is not None:
            progress(done + 1, draws, "noise on weights")
    second, fourth = total / draws
    rms = second.sqrt()
    spread = ((fourth - second.square()).clamp(min=0) / (draws - 1)).sqrt()
    error = torch.where(rms > 0, spread / (2 * rms), 0.0)
    return ParameterResponse(sizes, names, rms, error, maximum)


def adversarial_parameter_response(
    model: nn.Module | Subject,
    x: Tensor,
    sizes: Sequence[float] = (1e-3, 1e-2, 1e-1),
    *,
    parameters: str | Sequence[str] = "weights",
    budget: Budget = "each",
    steps: int = 30,
    random_starts: int = 1,
    seed: int = 0,
    progress: Progress | None = None,
) -> ParameterResponse:
    """Measure the worst change of the weights that an attack finds, for every input on its own.

    Gradient ascent of ||f(w + dw) - f(w)||, projected back to the budget after each step, from + and - the first-order
    optimum for a joint budget and from random changes. Cost per input and size: (2 + `random_starts`) x `steps` passes
    forward and backward, one input at a time.

    Args:
        model: a module or Subject.
        x: (B, ...) inputs.
        sizes: relative sizes eta > 0.
        parameters: as in `parameter_condition`.
        budget: ``each`` for ||dW_l||_F = eta ||W_l||_F in every parameter; ``joint`` for sum_l (||dW_l|| / ||W_l||)^2 =
            eta^2.
        steps: gradient steps.
        random_starts: random changes to start from, besides the two first-order ones.
        seed: with the values of an input it fixes the random starts.
        progress: called as progress(done, total, text).

    Returns:
        The largest amplification per input and size: a lower estimate of the worst case.

    Raises:
        NumericalError: where f(x) = 0.
        SubjectError: for inputs or a model that cannot be used.
        UsageError: for sizes that are not positive, no steps, or an unknown budget or parameter.
    """
    if steps < 1 or random_starts < 0 or budget not in ("each", "joint"):
        raise UsageError(
            f"steps={steps}, random_starts={random_starts}, budget={budget!r} cannot be used.",
            where="adversarial_parameter_response",
            advice="At least one step, no negative count, and budget each or joint.",
        )
    sizes = _checked(sizes)
    subject, x = prepared(model, x)
    graph = folded_graph(subject)
    names = chosen_parameters(subject, graph, parameters)
    _, output_norm = _clean(graph, x)
    left = parameter_condition(subject, x, parameters=names, seed=seed).left
    assert left is not None
    largest = torch.zeros(len(x), len(sizes), dtype=torch.float64)
    for row in range(len(x)):
        ascent = _Ascent(graph, x[row : row + 1], names, budget, steps)
        first = ascent.gradient({name: graph.parameters[name] for name in names}, left[row : row + 1])
        starts = [first, {name: -value for name, value in first.items()}]
        generator = content_generator(x[row], seed)
        for _ in range(random_starts):
            starts.append({name: _gaussian(graph.parameters[name], generator) for name in names})
        for column, size in enumerate(sizes):
            found = max(ascent.climb(start, size) for start in starts)
            largest[row, column] = found / float(output_norm[row]) / size
        if progress is not None:
            progress(row + 1, len(x), "attack on weights")
    return ParameterResponse(sizes, names, largest, torch.zeros_like(largest), largest)


class _Ascent:
    """Projected gradient ascent for one input."""

    def __init__(self, graph: Graph, x: Tensor, names: Sequence[str], budget: Budget, steps: int) -> None:
        self.graph, self.x, self.names, self.budget, self.steps = graph, x, tuple(names), budget, steps
        with torch.no_grad():
            self.clean = evaluate(graph, x)
        self.scales = {name: frobenius(graph.parameters[name]) for name in names}

    def gradient(self, weights: Mapping[str, Tensor], seed: Tensor) -> dict[str, Tensor]:
        """Gradient of seed . f in units of relative change: ||W_l|| J_l^T seed."""
        with torch.enable_grad():
            leaves = {name: weights[name].detach().requires_grad_(True) for name in self.names}
            outputs = evaluate(self.graph, self.x, parameters=leaves)
            grads = torch.autograd.grad(outputs, list(leaves.values()), seed, allow_unused=True)
        found = {}
        for name, grad in zip(self.names, grads, strict=True):
            found[name] = torch.zeros_like(weights[name]) if grad is None else grad * self.scales[name]
        return found

    def unit(self, change: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A relative change of size one under the budget."""
        sizes = {name: frobenius(change[name]) for name in self.names}
        joint = sum(size * size for size in sizes.values()) ** 0.5
        used = {name: joint if self.budget == "joint" else size for name, size in sizes.items()}
        return {name: change[name] / (used[name] or 1.0) for name in self.names}

    def weights(self, unit: Mapping[str, Tensor], size: float) -> dict[str, Tensor]:
        """Changed weights for a relative change of this size."""
        return {n: self.graph.parameters[n] + size * self.scales[n] * unit[n] for n in self.names}

    def climb(self, start: Mapping[str, Tensor], size: float) -> float:
        """Largest ||f(w + dw) - f(w)|| on the path; steps fall from 10 to 0.1 of the budget."""
        unit, best = self.unit(start), 0.0
        for index in range(self.steps + 1):
            changed = self.weights(unit, size)
            with torch.no_grad():
                difference = evaluate(self.graph, self.x, parameters=changed) - self.clean
            length = float(norms(difference))
            best = max(best, length)
            if index == self.steps or length == 0:
                break
            step = 10.0 * 0.01 ** (index / max(1, self.steps - 1))
            uphill = self.unit(self.gradient(changed, difference / length))
            unit = self.unit({name: unit[name] + step * uphill[name] for name in self.names})
        return best


def _clean(graph: Graph, x: Tensor) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        clean = checked_outputs(evaluate(graph, x))
    output_norm = norms(clean)
    check_outputs_nonzero(output_norm)
    return clean, output_norm


def _checked(sizes: Sequence[float]) -> tuple[float, ...]:
    if not sizes or not all(0 < size < float("inf") for size in sizes):
        raise UsageError(f"sizes must be positive, got {sizes}.", where="sizes", advice="Try (1e-3, 1e-2, 1e-1).")
    return tuple(float(size) for size in sizes)


def _noise(weight: Tensor, noise: Noise, generator: torch.Generator) -> Tensor:
    drawn = _gaussian(weight, generator)
    return drawn * (weight.abs() if noise == "elementwise" else weight.square().mean().sqrt())


def _gaussian(weight: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(weight.shape, generator=generator, dtype=torch.float64).to(weight.dtype)
