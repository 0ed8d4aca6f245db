"""Sensitivity maps: which input elements make an output noisy, and which move its mean."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from assay.covariance import Diagonal, diagonal
from assay.errors import CaptureError, UsageError
from assay.grade import Grade, combine
from assay.moments.answers import output_index
from assay.moments.basis import columns
from assay.moments.methods import Request
from assay.moments.methods.factor import adjoint, walk
from assay.moments.noise import Noise, as_covariance
from assay.moments.propagation import checked_input
from assay.results import Displayed
from assay.subject import Subject


@dataclass(frozen=True, eq=False)
class SensitivityMap(Displayed):
    """Which input elements make an output noisy, and which move its mean. With patches, elements are patches.

    Attributes:
        variance_share: (B, ...) share of the output variance that each element's noise brings through the expected
            Jacobian.
        jacobian: (B, ...) expected Jacobian of the output combination, per element of the input: its sign says which
            way the element pushes.
        variance: (B,) variance of the output combination.
        explained: (B,) sum of the shares; the rest is made by non-linearities acting on several elements at once.
        mean_shift: (B, ...) derivative of the mean of the output combination with respect to the element's noise
            variance: output per squared unit of the data. None without a graph (linearised means do not move) or when
            not asked for; operators without a rule, which the grade tells, add nothing to it.
        class_mean_shift: (B, ...) the same for the target output alone; equal to `mean_shift` without `versus`.
        grade: reliability; statistical where fewer columns than input elements were used.
    """

    variance_share: Tensor
    jacobian: Tensor
    variance: Tensor
    explained: Tensor
    mean_shift: Tensor | None
    class_mean_shift: Tensor | None
    grade: Grade


def sensitivity_map(
    model: nn.Module | Subject,
    x: Tensor,
    cov: Noise,
    *,
    target: Tensor | int | None = None,
    versus: Tensor | int | None = None,
    rank: int = 32,
    patch: tuple[int, int] | None = None,
    mean_shift: bool = True,
    sketches: int = 4,
) -> SensitivityMap:
    """Share of an output's variance, and shift of its mean, that each input element contributes, for independent noise.

    The variance share comes from the expected Jacobian (reverse walk), the mean shift from differentiating the
    propagation itself. With fewer columns than input elements the shift is averaged over sketches, whose noise falls
    with rank times sketches; patches average it further.

    Args:
        model: a module or Subject.
        x: (B, ...) inputs.
        cov: noise with independent elements: a float or variances.
        target: output of interest, an index or (B,); the decision at x when None.
        versus: subtract this output: the map of the difference, whose sign decides a flip.
        rank: columns used for the neurons' variances; with at least as many as input elements nothing is estimated.
        patch: (height, width) of patches of pictures (B, C, H, W): shares and shifts are summed over each patch.
        mean_shift: compute the mean shift too; it needs the activations of a whole pass in memory, rank + 10 times.
        sketches: random sets of columns to average the mean shift over.

    Returns:
        SensitivityMap; graded linearised where the model cannot be captured (plain Jacobian instead of the expected
        one).

    Raises:
        UsageError: for correlated noise, whose variance has no per-element share; for patches of what is no picture.

    Source: the smoothed network's Jacobian, derived in docs/mathematics/moments.md.

    Example:
        >>> layer = nn.Linear(2, 1, bias=False)
        >>> layer.weight.data = torch.tensor([[3.0, 4.0]])
        >>> sensitivity_map(layer, torch.zeros(1, 2), 1.0).variance_share
        tensor([[0.3600, 0.6400]])
    """
    subject, x = checked_input(model, x)
    covariance = as_covariance(cov, x)
    if not isinstance(covariance, Diagonal):
        raise UsageError(
            "A sensitivity map needs independent noise.", where="cov", advice="Give a number or variances."
        )
    if patch is not None and (x.dim() != 4 or len(patch) != 2 or min(patch) < 1):
        raise UsageError(
            f"Patches of {patch} need pictures (B, C, H, W) and sizes of at least 1, got shape {tuple(x.shape)}.",
            where="patch",
            advice="Leave patch out, or give (height, width).",
        )
    clean = subject.probe(x)
    own = _one_hot(clean.argmax(1) if target is None else output_index(target, clean, "target"), clean)
    seed = own if versus is None else own - _one_hot(output_index(versus, clean, "versus"), clean)
    request = Request(subject, x, covariance, None, rank, 2, 0, "linearise")
    total, jacobian, grade = _expected_jacobian(request, seed)
    contribution = jacobian.square() * diagonal(covariance)
    safe = torch.where(total > 0, total, torch.ones_like(total)).reshape(-1, *(1,) * (x.dim() - 1))
    share = contribution / safe
    shifts = _shifts(request, [seed, own], sketches) if mean_shift else [None, None]
    found = SensitivityMap(share, jacobian, total, share.reshape(len(x), -1).sum(1), shifts[0], shifts[1], grade)
    if patch is None:
        return found
    return replace(
        found,
        variance_share=patch_sums(share, patch),
        mean_shift=None if shifts[0] is None else patch_sums(shifts[0], patch),
        class_mean_shift=None if shifts[1] is None else patch_sums(shifts[1], patch),
    )


def patch_sums(values: Tensor, patch: tuple[int, int]) -> Tensor:
    """Sums over patches: (B, C, H, W) -> (B, C, ceil(H / h), ceil(W / w)); the last ones hold what is left.

    Returns:
        The sums.

    Example:
        >>> patch_sums(torch.ones(1, 1, 3, 4), (2, 2)).tolist()
        [[[[4.0, 4.0], [2.0, 2.0]]]]
    """
    height, width = patch
    below, right = -values.shape[2] % height, -values.shape[3] % width
    padded = nn.functional.pad(values, (0, right, 0, below))
    return nn.functional.avg_pool2d(padded, (height, width)) * (height * width)


def _expected_jacobian(request: Request, seed: Tensor) -> tuple[Tensor, Tensor, Grade]:
    try:
        start = columns(request.covariance, request.rank)
        _, domain, _ = walk(request, start)
    except CaptureError:
        _, pullback = request.subject.probe.vjp(request.mean)
        jacobian = pullback(seed)
        return (jacobian.square() * diagonal(request.covariance)).flatten(1).sum(1), jacobian, Grade.LINEARISED
    covariance, jacobian = adjoint(request, domain.steps, seed.unsqueeze(0))
    own = Grade.EXACT if start.exact else Grade.STATISTICAL
    return covariance[:, 0, 0], jacobian[0], combine([own, domain.trust.grade_of(request.walked[0].output)])


def _shifts(request: Request, seeds: list[Tensor], sketches: int) -> list[Tensor | None]:
    """Derivatives (B, ...) of the mean of every combination with respect to the input's variances.

    A root has no derivative at 0: elements without noise get a little for it.

    Returns:
        One tensor per combination; None for each where the model cannot be captured.
    """
    try:
        request.graph  # noqa: B018  (captured or not is the question)
    except CaptureError:
        return [None] * len(seeds)
    floor = diagonal(request.covariance).detach().amax() * 1e-6
    if float(floor) == 0:
        floor = floor + (1e-3 * request.subject.preprocessing.value_range) ** 2
    totals: list[Tensor] = [torch.zeros_like(request.mean) for _ in seeds]
    whole = request.rank >= math.prod(request.mean.shape[1:])
    count = 1 if whole else max(1, sketches)
    for sketch in range(count):
        with torch.enable_grad():
            variance = torch.maximum(diagonal(request.covariance).detach(), floor).requires_grad_()
            noisy = replace(request, covariance=Diagonal(variance))
            start = columns(noisy.covariance, request.rank, seed=sketch)
            result, _, _ = walk(noisy, start, record=False)
            for index, seed in enumerate(seeds):
                scalar = (result.mean * seed).sum()
                if not scalar.requires_grad:  # an output that no noise reaches
                    continue
                (found,) = torch.autograd.grad(scalar, variance, retain_graph=index + 1 < len(seeds), allow_unused=True)
                if found is not None:
                    totals[index] += found / count
    return list(totals)


def _one_hot(index: Tensor, like: Tensor) -> Tensor:
    return torch.nn.functional.one_hot(index, like.shape[1]).to(like.dtype)
