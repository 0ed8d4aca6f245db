"""The adaptive attacker: wrong decisions inside a budget that the detector does not flag."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from assay.attacks.projected import Norm, into_ball, pgd, unit
from assay.attacks.target import Bounds, checked_batch, inside
from assay.boundary.detection.detector import Detector
from assay.boundary.detection.evaluation import Share
from assay.boundary.detection.objectives import Objective
from assay.boundary.detection.view import against
from assay.boundary.field import Field
from assay.errors import UsageError
from assay.results import Displayed
from assay.seeding import content_generator


@dataclass(frozen=True, eq=False)
class Evasion(Displayed):
    """What an attacker who knows the detector reached, beside one who does not. Grade: sampled, a lower estimate.

    Attributes:
        x: (N, ...) attacked samples.
        misclassified: (N,) decided otherwise than y.
        score: (N,) of the detector.
        flagged: (N,) by the detector.
        evaded: (N,) misclassified and not flagged; a sample the detector cannot score counts.
        success: share evaded.
        oblivious: share that plain projected gradient descent of the same size and steps makes misclassified and not
            flagged.
        oblivious_misclassified: share that it makes misclassified at all.
        epsilon: size of the change.
        norm: of it.
    """

    x: Tensor
    misclassified: Tensor
    score: Tensor
    flagged: Tensor
    evaded: Tensor
    success: Share
    oblivious: Share
    oblivious_misclassified: Share
    epsilon: float
    norm: str


def evade(
    detector: Detector,
    x: Tensor,
    y: Tensor,
    *,
    epsilon: float,
    norm: Norm = "l2",
    steps: int = 100,
    probes: int = 8,
    looks: int = 10,
    queries: int = 10,
    bounds: Bounds | Literal["auto"] = "auto",
    seed: int = 0,
) -> Evasion:
    """Attack network and detector together, inside the budget of an ordinary attack.

    Begins where plain projected gradient descent of the same size ends. Then selective steps (Bryniarski et al. 2022):
    while a sample is decided rightly, climb the margin of the best wrong class; while it is wrong, descend the
    detector's statistic. What one step would spoil of the other's aim is projected out of it (Yu et al. 2020). Now and
    then the detector itself is asked about the last wrong point, and the best one is kept. What is still flagged goes
    through a random search that asks the detector only.

    Args:
        detector: fitted.
        x: (N, ...) clean samples.
        y: (N,) their classes.
        epsilon: largest change in `norm`.
        norm: ``l2`` or ``linf``, per sample.
        steps: of the descent.
        probes: random directions per step, fewer than the detector's: errors average out over the steps.
        looks: how often the detector is asked on the way.
        queries: of the random search, per sample still flagged; 0 leaves it out.
        bounds: legal range of inputs; ``auto`` takes that of a Subject, None clamps nothing.
        seed: of all random directions, with the values of a sample.

    Returns:
        The attacked samples and shares, beside those of an attack of the same size that does not know the detector.

    Raises:
        UsageError: for settings that do not fit.

    Example:
        >>> def model(x):
        ...     return torch.stack([x[:, 0] * 0, x[:, 0] - 1 - 0.05 * x[:, 1:].square().sum(1)], 1)
        >>> x = torch.zeros(1, 5, dtype=torch.float64)
        >>> detector = Detector(threshold=0.0, probes=4).fit(model, x)
        >>> evade(detector, x, torch.tensor([0]), epsilon=1.1, steps=2, queries=1).misclassified
        tensor([True])
    """
    if norm not in get_args(Norm) or not 0 < epsilon < math.inf or min(steps, probes, looks) < 1 or queries < 0:
        raise UsageError(
            f"epsilon={epsilon}, norm={norm!r}, steps={steps}, probes={probes}, looks={looks} and queries={queries} "
            "cannot be used.",
            where="evade",
            advice="epsilon is positive, norm 'l2' or 'linf', steps, probes and looks at least 1.",
        )
    field, _ = detector.view_settings
    x = field.prepared(x)
    limits = field.bounds if isinstance(bounds, str) else bounds
    checked_batch(x, y, limits)
    objective = Objective(detector, probes=probes, seed=seed)
    objective.calibrate(x[:64])
    keeper = _Keeper(detector, x, y)
    keeper.offer(torch.arange(len(x)), x)
    plain = pgd(field.target, x, y, epsilon=epsilon, norm=norm, steps=max(1, min(steps, 40)), bounds=limits)
    fooled = (field.label(plain) != y).cpu()
    missed = fooled & ~detector.predict(plain)
    keeper.offer(torch.arange(len(x)), plain)
    point, last = plain.clone(), plain.clone()
    every = max(1, steps // looks)
    for step in range(steps):
        rows = keeper.open
        if not len(rows):
            break
        length = 0.1 * epsilon * (1 - 0.9 * step / steps)
        moved = point[rows] + length * _direction(field, objective, point[rows], y[rows], norm, step)
        point[rows] = inside(x[rows] + into_ball(moved - x[rows], epsilon, norm), x[rows], limits)
        wrong = rows[field.label(point[rows]) != y[rows]]
        last[wrong] = point[wrong]
        if (step + 1) % every == 0 or step + 1 == steps:
            keeper.offer(rows, last[rows])
    for query in range(queries):
        rows = keeper.open
        if not len(rows):
            break
        tried = _nearby(keeper.x[rows], x[rows], epsilon * 0.3 * 0.8**query, norm, seed + query)
        keeper.offer(rows, inside(x[rows] + into_ball(tried - x[rows], epsilon, norm), x[rows], limits))
    return Evasion(
        x=keeper.x,
        misclassified=keeper.wrong,
        score=keeper.score,
        flagged=keeper.flagged,
        evaded=keeper.evaded,
        success=Share.of(keeper.evaded.numpy()),
        oblivious=Share.of(missed.numpy()),
        oblivious_misclassified=Share.of(fooled.numpy()),
        epsilon=epsilon,
        norm=norm,
    )


class _Keeper:
    """The best point of every sample so far: wrong beats right, not flagged beats flagged, then the lower score."""

    def __init__(self, detector: Detector, x: Tensor, y: Tensor) -> None:
        self.detector, self.y = detector, y
        self.x = x.clone()
        self.wrong = torch.zeros(len(x), dtype=torch.bool)
        self.flagged = torch.zeros(len(x), dtype=torch.bool)
        self.score = torch.full((len(x),), torch.inf, dtype=torch.float64)

    @property
    def evaded(self) -> Tensor:
        return self.wrong & ~self.flagged

    @property
    def open(self) -> Tensor:
        """Rows that are still worth working on."""
        return (~self.evaded).nonzero()[:, 0]

    def offer(self, rows: Tensor, points: Tensor) -> None:
        view = self.detector.view(points)
        wrong = (view.own != self.y[rows]).cpu()
        asked = wrong.nonzero()[:, 0]
        score, flagged = self.score[rows], self.flagged[rows]
        if len(asked):
            seen = self.detector.view(points[asked])
            score, flagged = score.clone(), flagged.clone()
            score[asked] = self.detector.score(seen).cpu()
            flagged[asked] = self.detector.predict(seen).cpu()
        now, before = torch.nan_to_num(score, nan=-torch.inf), torch.nan_to_num(self.score[rows], nan=-torch.inf)
        better = wrong & (~self.wrong[rows] | (~flagged & self.flagged[rows]) | (now < before))
        chosen = rows[better]
        self.x[chosen], self.score[chosen], self.flagged[chosen] = points[better], score[better], flagged[better]
        self.wrong[chosen] = True


def _direction(field: Field, objective: Objective, point: Tensor, y: Tensor, norm: Norm, step: int) -> Tensor:
    """Where to go next, a step of length one in the norm."""
    logits = field.logits(point)
    rival = against(logits, y).scatter(1, y[:, None], -torch.inf).argmax(1)
    wrong = (logits.argmax(1) != y).reshape(-1, *[1] * (point.dim() - 1))
    margin = field.gradient(point, y, rival)
    suspicion = objective.gradient(point, step=step)
    direction = torch.where(wrong, _without_harm(-suspicion, margin), _without_harm(margin, -suspicion))
    return direction.sign() if norm == "linf" else unit(direction)


def _nearby(best: Tensor, x: Tensor, length: float, norm: Norm, seed: int) -> Tensor:
    """Random steps of a length from the best points so far."""
    steps = []
    for sample, start in zip(best, x, strict=True):
        draw = torch.randn(start.shape, generator=content_generator(start, seed), dtype=torch.float64)
        steps.append((draw.sign() if norm == "linf" else draw / draw.norm()).to(sample))
    return best + length * torch.stack(steps)


def _without_harm(vectors: Tensor, others: Tensor) -> Tensor:
    """Vectors less their part against the others; whole where nothing else is left of them."""
    one, other = vectors.flatten(1).double(), others.flatten(1).double()
    square, product = other.square().sum(1, keepdim=True), (one * other).sum(1, keepdim=True)
    part = one - other * (product.clamp(max=0) / torch.where(square == 0, 1.0, square))
    gone = part.norm(dim=1, keepdim=True) <= 1e-6 * one.norm(dim=1, keepdim=True)
    return torch.where(gone, one, part).reshape(vectors.shape).to(vectors.dtype)
