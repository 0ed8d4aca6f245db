"""Module robust criticality: how much robustness a small worst-case change of one unit's weights can destroy.

The rival of filtering scores as a rule for what to retrain: Zhu, Hu, Wang, Xie, Zhang, Wang, Liu, "Improving
Generalization of Adversarial Training via Robust Critical Fine-Tuning" (RiFT), ICCV 2023, arXiv 2308.02533, tunes the
least critical module of a robust network on clean data and then interpolates between old and new weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from assay.attacks import Attack, attack_of, attacked, auto_epsilon, target_of
from assay.attacks.target import check_outputs, chunk_size
from assay.errors import NumericalError, UsageError
from assay.filtering.units import Choice, Granularity, Unit, select_units
from assay.grade import Grade
from assay.progress import Progress
from assay.results import Displayed
from assay.subject import Subject

Bounds = tuple[float, float] | None


@dataclass(frozen=True)
class Criticality(Displayed):
    """What the worst change found does to one unit. A search finds a lower estimate of the worst case.

    Attributes:
        unit: name of the unit.
        weights: number of weights in it.
        loss: mean cross-entropy on attacked samples, unchanged network.
        changed_loss: the same under the change; the samples are those made on the unchanged network.
        accuracy: share of attacked samples that are right, unchanged network.
        changed_accuracy: the same under the change.
        norm: length of the change relative to that of the weights; at most alpha.
    """

    unit: str
    weights: int
    loss: float
    changed_loss: float
    accuracy: float
    changed_accuracy: float
    norm: float

    @property
    def rise(self) -> float:
        """Robust criticality: rise of the loss, not negative."""
        return self.changed_loss - self.loss

    @property
    def drop(self) -> float:
        """Loss of robust accuracy."""
        return self.accuracy - self.changed_accuracy

    @property
    def grade(self) -> Grade:
        """Measured on samples, by a search."""
        return Grade.SAMPLED


class Criticalities(Displayed, tuple[Criticality, ...]):
    """The rows of `robust_criticality`, shown as one table."""


def robust_criticality(
    model: nn.Module | Subject,
    data: tuple[Tensor, Tensor],
    *,
    alpha: float = 0.1,
    steps: int = 10,
    step_size: float | None = None,
    attack: str | Attack = "pgd",
    epsilon: float | Literal["auto"] | None = "auto",
    include: Choice | Sequence[Choice] = "weight",
    granularity: Granularity = "tensor",
    bounds: Bounds | Literal["auto"] = "auto",
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> Criticalities:
    """Rise of the loss on attacked samples under the worst change of each unit, ||change|| <= alpha ||weights||.

    Samples are attacked once, on the unchanged network. From no change at all, `steps` steps of `step_size` ||weights||
    along the normalised gradient of the mean loss over all samples are taken, each projected back into the Euclidean
    ball; the point of highest loss is kept. Nothing is random. Cost: per unit, steps + 1 passes forward and steps
    backward over the samples.

    Args:
        model: a classifier, used in evaluation mode; untouched.
        data: inputs (N, ...) and labels (N,).
        alpha: radius relative to the length of the unit's weights; the paper uses 0.1.
        steps: of gradient ascent.
        step_size: relative as alpha is; None for 2.5 alpha / steps.
        attack: ``pgd``, ``fgsm``, ``pgd-l2``, or a function (model, x, y) -> x_adv.
        epsilon: its size; ``auto`` halves the accuracy on these samples; None for a function with its own.
        include: units, as in `select_units`.
        granularity: ``tensor`` or ``channel``.
        bounds: legal range of inputs; ``auto`` takes that of a Subject.
        batch_size: samples per pass; None chooses by memory.
        progress: called as progress(done, total, text).

    Returns:
        One per unit, in the order of the network. Grade: sampled.

    Raises:
        NumericalError: for losses or gradients that are not finite.
        UsageError: for settings or samples that do not fit.

    Example:
        >>> layer = nn.Linear(2, 2, bias=False)
        >>> layer.weight.data = torch.eye(2)
        >>> (row,) = robust_criticality(layer, (torch.eye(2), torch.tensor([0, 1])), epsilon=0.1)
        >>> row.unit, row.rise > 0, row.norm <= 0.1 + 1e-6
        ('weight', True, True)
    """
    if not 0 < alpha < math.inf or steps < 1 or not (step_size is None or 0 < step_size < math.inf):
        raise UsageError(
            f"alpha={alpha}, steps={steps}, step_size={step_size} cannot be used.",
            where="robust_criticality",
            advice="alpha and step_size are positive, steps at least 1.",
        )
    with torch.inference_mode(False):  # copies made in that mode have no gradients
        subject = model if isinstance(model, Subject) else Subject.from_model(model, data)
        units = select_units(subject, include, granularity=granularity)
        x, y = data
        if y.dtype.is_floating_point:
            raise UsageError("Robust criticality needs integer labels.", where="data", advice="Give a classifier's.")
        limits = subject.preprocessing.bounds if isinstance(bounds, str) else bounds
        if isinstance(epsilon, str):
            epsilon = auto_epsilon(subject, x, y, attack, bounds=limits, batch_size=batch_size).epsilon
        points = attacked(attack_of(attack, epsilon=epsilon), subject, x, y, bounds=limits, batch_size=batch_size)
        search = _Search(subject.model, points, y, chunk_size(points, batch_size))
        found: list[Criticality] = []
        for unit in units:
            found.append(search.run(unit, alpha, steps, 2.5 * alpha / steps if step_size is None else step_size))
            if progress is not None:
                progress(len(found), len(units), f"robust criticality, {unit.name}")
        return Criticalities(found)


def least_critical(found: Sequence[Criticality], count: int = 1) -> tuple[str, ...]:
    """Names of the units whose worst change raises the loss least: RiFT's choice of what to tune.

    Args:
        found: as `robust_criticality` returns them.
        count: how many units; the published rule tunes one.

    Returns:
        Names in the order given; of equals, the earlier ones.

    Raises:
        UsageError: for more units than there are, or less than none.

    Example:
        >>> one, other = Criticality("a", 9, 0.5, 0.6, 0.9, 0.8, 0.1), Criticality("b", 9, 0.5, 0.9, 0.9, 0.6, 0.1)
        >>> least_critical([one, other])
        ('a',)
    """
    if not 0 <= count <= len(found):
        raise UsageError(f"There are {len(found)} units, not {count}.", where="count", advice="Choose fewer.")
    chosen = {row.unit for row in sorted(found, key=lambda row: row.rise)[:count]}
    return tuple(row.unit for row in found if row.unit in chosen)


@dataclass(frozen=True)
class Interpolation:
    """One point between two networks.

    Attributes:
        share: 0 is the old network, 1 the new one.
        clean: accuracy on clean samples.
        robust: accuracy on samples attacked anew.
    """

    share: float
    clean: float
    robust: float


def interpolated(old: Mapping[str, Tensor], new: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """State dict (1 - share) old + share new; what is not floating point, such as counters, is taken from `new`.

    Returns:
        New tensors; the ends are the given ones to the bit.

    Raises:
        UsageError: for state dicts of different networks.

    Example:
        >>> interpolated({"weight": torch.zeros(2)}, {"weight": torch.ones(2)}, 0.25)
        {'weight': tensor([0.2500, 0.2500])}
    """
    if old.keys() != new.keys() or any(old[name].shape != new[name].shape for name in old):
        raise UsageError(
            "The two state dicts differ in names or shapes.", where="interpolated", advice="Use one network."
        )
    result: dict[str, Tensor] = {}
    for name, value in new.items():
        plain = not value.dtype.is_floating_point
        result[name] = value.detach().clone() if plain else torch.lerp(old[name].detach(), value.detach(), share)
    return result


def interpolate(
    model: nn.Module | Subject,
    new: Mapping[str, Tensor],
    data: tuple[Tensor, Tensor],
    *,
    shares: Sequence[float] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
    attack: str | Attack = "pgd",
    epsilon: float | None = None,
    bounds: Bounds | Literal["auto"] = "auto",
    tolerance: float = 0.001,
) -> tuple[float, tuple[Interpolation, ...]]:
    """RiFT's last step: walk from the old weights to the new ones as far as robustness is kept.

    Args:
        model: the old network; untouched.
        new: state dict of the new one, under the names of the user's module.
        data: validation samples; the test samples would flatter the choice.
        shares: points to try.
        attack: as in `robust_criticality`.
        epsilon: its size.
        bounds: legal range of inputs; ``auto`` takes that of a Subject.
        tolerance: loss of robust accuracy that is accepted.

    Returns:
        The share with the highest clean accuracy among those whose robust accuracy is at least that of the old network
        less the tolerance (the smallest of equals; 0 when there is none), and all points.

    Raises:
        UsageError: for weights of another network, or an attack without a size.
    """
    subject = model if isinstance(model, Subject) else Subject.from_model(model, data)
    prefix = "" if subject.preprocessing.is_identity else "model."
    state = {name: tensor for name, tensor in subject.model.state_dict().items() if name.startswith(prefix)}
    x, y = data
    function = attack_of(attack, epsilon=epsilon)

    def point(share: float) -> Interpolation:
        mixed = interpolated(state, {prefix + name: value for name, value in new.items()}, share)
        target = target_of(subject, mixed)
        robust = attacked(function, target, x, y, bounds=bounds)
        return Interpolation(share, *(_loss_and_accuracy(target, z, y)[1] for z in (x, robust)))

    start = point(0.0)
    points = tuple(start if share == 0 else point(share) for share in shares)
    kept = [entry for entry in points if entry.robust >= start.robust - tolerance]
    best = max(kept, key=lambda entry: (entry.clean, -entry.share)) if kept else start
    return best.share, points


class _Search:
    """Gradient ascent over the weights of one unit at a time, on fixed samples."""

    def __init__(self, model: nn.Module, x: Tensor, y: Tensor, size: int) -> None:
        self.model, self.y = model, y
        self.parts = list(zip(x.split(size), y.split(size), strict=True))
        self.state = {name: parameter.detach() for name, parameter in model.named_parameters(remove_duplicate=False)}
        self.loss, self.accuracy = _mean(self._measure(part, labels, {}) for part, labels in self.parts)

    def run(self, unit: Unit, alpha: float, steps: int, step: float) -> Criticality:
        """The worst change found."""
        whole = self.state[unit.parameter]
        weights = unit.take(whole).detach().clone()
        length = float(weights.double().norm())
        change = torch.zeros_like(weights)
        best, accuracy, reached = self.loss, self.accuracy, 0.0
        for index in range(steps + 1):
            last = index == steps
            loss, right, gradient = self._gradient(unit, whole, weights + change, wanted=not last)
            if not math.isfinite(loss):
                raise NumericalError(
                    "The loss is NaN or infinite under a changed weight.",
                    where=unit.name,
                    advice="Use a smaller alpha.",
                )
            if loss > best:
                best, accuracy, reached = loss, right, float(change.double().norm())
            size = 0.0 if gradient is None else float(gradient.double().norm())
            if gradient is None or size == 0 or length == 0:
                break
            change = change + (step * length / size) * gradient
            moved = float(change.double().norm())
            if moved > alpha * length:
                change = change * (alpha * length / moved)
        norm = reached / length if length else 0.0
        return Criticality(unit.name, weights.numel(), self.loss, best, self.accuracy, accuracy, norm)

    def _gradient(
        self, unit: Unit, whole: Tensor, weights: Tensor, *, wanted: bool
    ) -> tuple[float, float, Tensor | None]:
        """Mean loss, accuracy and, if wanted, gradient of the mean loss by the unit's weights."""
        total, pairs = torch.zeros_like(weights), []
        for x, y in self.parts:
            with torch.set_grad_enabled(wanted):
                point = weights.detach().clone().requires_grad_(wanted)
                changed = whole.clone()
                unit.take(changed).copy_(point)
                loss, right, count = self._measure(x, y, unit.parameters(changed))
                pairs.append((loss.detach(), right, count))
                if wanted and loss.requires_grad:
                    (gradient,) = torch.autograd.grad(loss, point, allow_unused=True)
                    total += 0 if gradient is None else gradient
        mean, accuracy = _mean(pairs)
        return mean, accuracy, total if wanted else None

    def _measure(self, x: Tensor, y: Tensor, changed: Mapping[str, Tensor]) -> tuple[Tensor, int, int]:
        """Summed loss, number right, number of samples."""
        outputs = functional_call(self.model, {**self.state, **changed}, (x.clone(),))
        check_outputs(outputs, y)
        loss = nn.functional.cross_entropy(outputs, y, reduction="sum")
        return loss, int((outputs.argmax(1) == y).sum()), len(y)


def _mean(parts: Iterable[tuple[Tensor, int, int]]) -> tuple[float, float]:
    losses, rights, counts = zip(*parts, strict=True)
    return sum(float(loss) for loss in losses) / sum(counts), sum(rights) / sum(counts)


def _loss_and_accuracy(model: nn.Module, x: Tensor, y: Tensor) -> tuple[float, float]:
    with torch.no_grad():
        size = chunk_size(x, None)
        parts = [(model(a.clone()), b) for a, b in zip(x.split(size), y.split(size), strict=True)]
        return _mean(
            (nn.functional.cross_entropy(out, b, reduction="sum"), int((out.argmax(1) == b).sum()), len(b))
            for out, b in parts
        )
