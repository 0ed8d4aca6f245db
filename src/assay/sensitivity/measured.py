"""The measured counterpart of the condition numbers: how much outputs really change, at random and under attack.

Both are amplifications, (||f(x + d) - f(x)|| / ||f(x)||) / (||d|| / ||x||), and so stand directly beside kappa: random
directions beside kappa_rms, the attack beside kappa. Seeds follow each sample's values, not its place in a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from assay.attacks import largest_response
from assay.errors import NumericalError, UsageError
from assay.grade import Grade
from assay.inputs import checked_outputs, norms, prepared, rows_per_pass
from assay.progress import Progress
from assay.results import Displayed
from assay.seeding import content_generator
from assay.sensitivity.condition import check_outputs_nonzero, condition_numbers
from assay.subject import Subject


@dataclass(frozen=True, eq=False)
class RandomResponse(Displayed):
    """Amplification over Gaussian directions on spheres of relative size eps. Grade `sampled`; all float64.

    Attributes:
        sizes: the S relative sizes eps.
        directions: directions per input.
        rms: (B, S) root mean square.
        rms_error: (B, S) its standard error.
        mean: (B, S) mean.
        maximum: (B, S) largest seen.
    """

    sizes: tuple[float, ...]
    directions: int
    rms: Tensor
    rms_error: Tensor
    mean: Tensor
    maximum: Tensor
    grade: Grade = Grade.SAMPLED


@dataclass(frozen=True, eq=False)
class AdversarialResponse(Displayed):
    """Largest amplification an attack found: a lower estimate of the worst case at each size. Grade `sampled`.

    Attributes:
        sizes: the S relative sizes eps.
        amplification: (B, S) float64, per nominal size eps ||x|| (with a clamp the change made may be smaller).
        perturbation: (B, S, ...) the input changes found.
        from_singular: (B, S) True where the best path began at +- the top singular vector, False at a random start.
    """

    sizes: tuple[float, ...]
    amplification: Tensor
    perturbation: Tensor
    from_singular: Tensor
    grade: Grade = Grade.SAMPLED


def random_response(
    model: nn.Module | Subject,
    x: Tensor,
    sizes: Sequence[float] = (1e-3, 1e-2, 1e-1),
    *,
    directions: int = 100,
    seed: int = 0,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> RandomResponse:
    """Measure the amplification of changes in random directions, uniform on the sphere of radius eps ||x||.

    The same directions serve every size. Cost: `directions` x S + 1 forward passes per input.

    Args:
        model: a module or Subject.
        x: (B, ...) inputs, none of them zero.
        sizes: relative sizes eps > 0.
        directions: per input, at least 2.
        seed: together with the values of an input it fixes the directions.
        batch_size: samples per pass; None chooses by memory.
        progress: called as progress(done, total, text).

    Returns:
        Mean, root mean square and maximum per input and size, with the standard error.

    Raises:
        NumericalError: where x = 0 or f(x) = 0.
        SubjectError: for inputs or a model that cannot be used.
        UsageError: for sizes that are not positive or fewer than two directions.

    Example:
        >>> model = nn.Linear(2, 2, bias=False)
        >>> model.weight.data = 3 * torch.eye(2)
        >>> random_response(model, torch.tensor([[0.6, 0.8]]), (0.1,), directions=4).rms.round(decimals=3)
        tensor([[1.]], dtype=torch.float64)
    """
    if directions < 2:
        raise UsageError(
            f"directions must be at least 2, got {directions}.", where="random_response", advice="Try 100."
        )
    subject, x, input_norm, output_norm, clean, sizes = _prepared(model, x, sizes, batch_size)
    rows = rows_per_pass(x, batch_size, gradients=False)
    group, share = max(1, rows // directions), min(rows, directions)
    total = torch.zeros(3, len(x), len(sizes), dtype=torch.float64)  # sums of r, r^2, r^4
    maximum = torch.zeros(len(x), len(sizes), dtype=torch.float64)
    for begin in range(0, len(x), group):
        part = x[begin : begin + group]
        end = begin + len(part)
        generators = [content_generator(sample, seed) for sample in part]
        for first in range(0, directions, share):
            count = min(share, directions - first)
            unit = torch.stack([_directions(part[0], count, generator) for generator in generators])
            for column, size in enumerate(sizes):
                radius = (size * input_norm[begin:end]).to(x.dtype).reshape(-1, *[1] * x.dim())
                moved = part[:, None] + radius * unit
                change = (subject.probe(moved.flatten(0, 1)) - clean[begin:end].repeat_interleave(count, 0)).double()
                ratio = (
                    checked_outputs(change).norm(dim=1).reshape(len(part), count) / output_norm[begin:end, None] / size
                )
                total[:, begin:end, column] += torch.stack([ratio.sum(1), ratio.square().sum(1), ratio.pow(4).sum(1)])
                maximum[begin:end, column] = torch.maximum(maximum[begin:end, column], ratio.amax(1))
        if progress is not None:
            progress(end, len(x), "random directions")
    mean, second, fourth = total / directions
    spread = ((fourth - second.square()).clamp(min=0) / (directions - 1)).sqrt()  # standard error of the mean square
    rms = second.sqrt()
    error = torch.where(rms > 0, spread / (2 * rms), 0.0)
    return RandomResponse(sizes, directions, rms, error, mean, maximum)


def adversarial_response(
    model: nn.Module | Subject,
    x: Tensor,
    sizes: Sequence[float] = (1e-3, 1e-2, 1e-1),
    *,
    right: Tensor | None = None,
    steps: int = 30,
    random_starts: int = 4,
    clamp: tuple[float, float] | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> AdversarialResponse:
    """Measure the worst amplification an attack finds: gradient ascent of ||f(x + d) - f(x)|| on ||d|| = eps ||x||.

    Starts from + and - the top right singular vector of the Jacobian and from random directions, so that it can beat
    the linear prediction as well as confirm it. Cost: S (2 + random_starts) (`steps` + 1) forward and `steps` backward
    passes per input.

    Args:
        model: a module or Subject.
        x: (B, ...) inputs, none of them zero.
        sizes: relative sizes eps > 0.
        right: (B, ...) top right singular vectors if known (`ConditionNumbers.right`); else they are computed.
        steps: gradient steps.
        random_starts: random directions to start from, besides the two singular ones.
        clamp: legal range of input values to stay in; None attacks without regard to any.
        seed: together with the values of an input it fixes the random starts.
        batch_size: samples (times starts) per pass; None chooses by memory.
        progress: called as progress(done, total, text).

    Returns:
        The largest amplification per input and size, and the change that caused it.

    Raises:
        NumericalError: where x = 0 or f(x) = 0.
        SubjectError: for inputs or a model that cannot be used.
        UsageError: for sizes that are not positive, a shape that does not fit, or no steps.

    Example:
        >>> model = nn.Linear(2, 1, bias=False)
        >>> model.weight.data = torch.tensor([[3.0, 4.0]])
        >>> adversarial_response(model, torch.tensor([[0.6, 0.8]]), (0.1,)).amplification.round(decimals=3)
        tensor([[1.]], dtype=torch.float64)
    """
    if random_starts < 0 or steps < 1 or (clamp is not None and not clamp[0] < clamp[1]):
        raise UsageError(
            f"steps={steps}, random_starts={random_starts}, clamp={clamp} cannot be used.",
            where="adversarial_response",
            advice="Give at least one step, no negative count, and clamp=(low, high) with low < high.",
        )
    subject, x, input_norm, output_norm, _, sizes = _prepared(model, x, sizes, batch_size)
    if right is None:
        right = condition_numbers(subject, x, kinds=("worst",), seed=seed, batch_size=batch_size).right
    if right.shape != x.shape:
        raise UsageError(
            f"right has shape {tuple(right.shape)}, the inputs {tuple(x.shape)}.",
            where="adversarial_response",
            advice="Pass ConditionNumbers.right of the same inputs, or None.",
        )
    right = right.to(x.dtype)
    group = max(1, rows_per_pass(x, batch_size, gradients=True) // (2 + random_starts))
    amplification = torch.zeros(len(x), len(sizes), dtype=torch.float64)
    perturbation = x.new_zeros(len(x), len(sizes), *x.shape[1:])
    from_singular = torch.zeros(len(x), len(sizes), dtype=torch.bool)
    for begin in range(0, len(x), group):
        part = x[begin : begin + group]
        rows = slice(begin, begin + len(part))
        generators = [content_generator(sample, seed + 1) for sample in part]
        drawn = torch.stack([_directions(part[0], random_starts, generator) for generator in generators])
        starts = torch.cat([right[rows, None], -right[rows, None], drawn], 1)
        for column, size in enumerate(sizes):
            found = largest_response(subject.probe, part, size * input_norm[rows], starts, steps=steps, bounds=clamp)
            amplification[rows, column] = found.change / output_norm[rows] / size
            perturbation[rows, column] = found.perturbation
            from_singular[rows, column] = found.start < 2
        if progress is not None:
            progress(rows.stop, len(x), "attack")
    return AdversarialResponse(sizes, amplification, perturbation, from_singular)


def _prepared(
    model: nn.Module | Subject, x: Tensor, sizes: Sequence[float], batch_size: int | None
) -> tuple[Subject, Tensor, Tensor, Tensor, Tensor, tuple[float, ...]]:
    if not sizes or not all(0 < size < float("inf") for size in sizes):
        raise UsageError(
            f"sizes must be positive numbers, got {sizes}.", where="sizes", advice="Try (1e-3, 1e-2, 1e-1)."
        )
    subject, x = prepared(model, x)
    step = rows_per_pass(x, batch_size, gradients=False)
    clean = checked_outputs(torch.cat([subject.probe(x[first : first + step]) for first in range(0, len(x), step)]))
    input_norm, output_norm = norms(x), norms(clean)
    check_outputs_nonzero(output_norm)
    zero = (input_norm == 0).nonzero()[:, 0].tolist()
    if zero:
        raise NumericalError(
            "A relative change of an input that is zero does not exist.",
            where=f"samples {', '.join(map(str, zero[:5]))}",
            advice="Leave these inputs out, or move the data so that zero is not an input.",
        )
    return subject, x, input_norm, output_norm, clean, tuple(float(size) for size in sizes)


def _directions(sample: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Unit vectors of the sample's shape, uniform on the sphere, drawn one by one so that chunks do not matter."""
    if not count:
        return sample.new_zeros(0, *sample.shape)
    drawn = torch.stack([torch.randn(sample.numel(), dtype=torch.float64, generator=generator) for _ in range(count)])
    return torch.nn.functional.normalize(drawn, dim=1).to(sample.dtype).reshape(count, *sample.shape)
