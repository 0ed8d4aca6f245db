"""What an attacker who knows the detector descends: its statistics, as functions that can be differentiated.

Each needs first derivatives only, so that piecewise linear networks, whose second derivatives are zero, give useful
gradients: curvature is read off the rise of logits over a sphere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from assay.boundary.detection.detector import COMBINATION, Detector
from assay.boundary.detection.view import Look, against, sphere_directions
from assay.boundary.field import Field, runner_up


@dataclass(frozen=True, eq=False)
class Situation:
    """Points under attack, in a graph that leads back to them.

    Attributes:
        field: the classifier.
        look: of the detector.
        x: (b, ...) the points.
        own: (b,) their predicted class.
        offset: (b, K) differences F_i there.
        directions: (b, p, ...) unit vectors.
    """

    field: Field
    look: Look
    x: Tensor
    own: Tensor
    offset: Tensor
    directions: Tensor

    def around(self, centre: Tensor, radius: float) -> Tensor:
        """(b, K) average of F_i over both ends of the directions."""
        steps = radius * self.directions
        ends = torch.cat([centre[:, None] + steps, centre[:, None] - steps], 1)
        logits = self.field.target(ends.flatten(0, 1)).reshape(len(centre), ends.shape[1], -1)
        return against(logits.mean(1), self.own)

    def leading(self, values: Tensor) -> Tensor:
        """(b,) the largest value of a rival."""
        return values.scatter(1, self.own[:, None], -torch.inf).amax(1)


def _gap(situation: Situation) -> Tensor:
    return situation.leading(situation.offset)


def _smoothed(situation: Situation) -> Tensor:
    return situation.leading(situation.around(situation.x, situation.look.smoothing))


def _drift(situation: Situation) -> Tensor:
    return situation.leading(situation.around(situation.x, situation.look.smoothing) - situation.offset)


def _bend_at_sample(situation: Situation) -> Tensor:
    rise = situation.around(situation.x, situation.look.smoothing) - situation.offset
    return rise.sum(1) / (rise.shape[1] - 1)  # in proportion to the mean curvature, but for the gradients' lengths


def _bend_at_boundary(situation: Situation) -> Tensor:
    """Rise of F over the sphere about the boundary point, over the length of its gradient."""
    field, look = situation.field, situation.look
    with torch.no_grad():
        rival = runner_up(situation.offset, situation.own)
    point = situation.x.detach()
    for _ in range(3):  # steps of Newton along the gradient: the point moves with the sample
        value, gradient = field.value_and_gradient(point, situation.own, rival)
        square = gradient.flatten(1).square().sum(1)
        length = value / torch.where(square == 0, torch.ones_like(square), square)
        point = point - length.reshape(-1, *[1] * (point.dim() - 1)) * gradient
    norm = field.gradient(point, situation.own, rival).flatten(1).norm(dim=1)
    centre = situation.x + (point - situation.x).detach()
    logits = against(field.target(centre), situation.own)
    rise = (situation.around(centre, look.scale) - logits).gather(1, rival[:, None])[:, 0]
    size = centre[0].numel()
    return 2 * size / max(1, size - 1) / look.scale**2 * rise / torch.where(norm == 0, torch.ones_like(norm), norm)


SURROGATES: Mapping[str, Callable[[Situation], Tensor]] = {
    "kappa_at_boundary": _bend_at_boundary,
    "kappa_at_sample": _bend_at_sample,
    "drift": _drift,
    "smoothed_margin": _smoothed,
    "logit_gap": _gap,
    "distance": _gap,  # the same order to first order, where gradients are alike
}
"""By the statistic they stand for. Statistics without an entry are attacked as `smoothed_margin`."""


class Objective:
    """What to make small: the surrogate of a detector's statistic, or how far any component is above what is usual.

    Args:
        detector: fitted.
        probes: random directions per step.
        seed: of the directions, which change with every step.
    """

    def __init__(self, detector: Detector, *, probes: int, seed: int) -> None:
        self.field, self.look = detector.view_settings
        names = (detector.statistic,)
        combination = detector.combination
        if detector.statistic == COMBINATION and not isinstance(combination, str):
            names = combination.components
        self.names = tuple(dict.fromkeys(name if name in SURROGATES else "smoothed_margin" for name in names))
        self.probes, self.seed = probes, seed
        self._usual: dict[str, tuple[Tensor, Tensor]] = {}

    def calibrate(self, x: Tensor) -> None:
        """Learn the usual median and spread of every surrogate from clean samples, so that components can be added."""
        for name in self.names:
            with torch.no_grad():
                values = SURROGATES[name](self.situation(x, step=0)).double()
            spread = values.std() if len(values) > 1 else torch.ones(())
            self._usual[name] = (values.median(), torch.where(spread > 0, spread, 1.0))

    def gradient(self, x: Tensor, *, step: int) -> Tensor:
        """(B, ...) gradient of the objective at points (B, ...); samples do not influence each other."""
        rows = max(1, 512 // (2 * self.probes + 1))
        found = []
        for part in x.split(rows):
            with torch.enable_grad():
                point = part.detach().requires_grad_(True)
                situation = self.situation(point, step=step)
                total = sum(self._excess(name, situation).sum() for name in self.names)
                gradient = None
                if isinstance(total, Tensor) and total.requires_grad:
                    (gradient,) = torch.autograd.grad(total, point, allow_unused=True)
            found.append(torch.zeros_like(part) if gradient is None else gradient.detach())
        return torch.cat(found)

    def _excess(self, name: str, situation: Situation) -> Tensor:
        value = SURROGATES[name](situation)
        if len(self.names) == 1:
            return value
        usual, spread = self._usual.get(name, (torch.zeros(()), torch.ones(())))
        return ((value - usual.to(value)) / spread.to(value)).clamp(min=0).square()

    def situation(self, x: Tensor, *, step: int) -> Situation:
        """Points under attack with directions of a step."""
        logits = self.field.target(x)
        own = logits.detach().argmax(1)
        directions = sphere_directions(x.detach(), self.probes, self.seed + step)
        return Situation(self.field, self.look, x, own, against(logits, own), directions)
