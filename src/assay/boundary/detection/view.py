"""What the detection statistics look at: boundary, bends and surroundings of samples, each found once and shared."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from assay.boundary.field import Field, runner_up
from assay.boundary.points import BoundaryPoint, boundary_point
from assay.boundary.shape import mean_curvature
from assay.seeding import content_generator

ELEMENTS = 2**23  # of random directions held at a time


@dataclass(frozen=True)
class Look:
    """How to look at a sample. Lengths are in the units of the inputs.

    Attributes:
        scale: over which the curvature of the boundary is measured.
        smoothing: radius of the sphere that logits are averaged over.
        probes: random directions, each used in both senses.
        seed: of the directions, together with the values of a sample.
        candidates: most rival classes whose curvature at the sample is measured, those with the largest logits.
        refine: search the nearest boundary point rather than take the first one found.
        bounds: legal range that boundary points keep to; None for the boundary of the function itself.
    """

    scale: float
    smoothing: float
    probes: int = 60
    seed: int = 0
    candidates: int = 10
    refine: bool = True
    bounds: tuple[float, float] | None = None


@dataclass(frozen=True, eq=False)
class Around:
    """Differences F_i = f_i - f_own averaged over a sphere about samples; the own class's column is zero.

    Attributes:
        mean: (B, K) float64 average of F_i over the sphere.
        rise: (B, K) how far that is above F_i at the sample.
        error: (B, K) standard error of both; the part of F_i that is odd about the sample is averaged out exactly.
    """

    mean: Tensor
    rise: Tensor
    error: Tensor


class View:
    """A batch as the statistics see it. Everything is computed at first use; rows do not influence each other.

    Attributes:
        field: the classifier.
        x: (B, ...) prepared inputs.
        look: how to look at them.
        offset: (B, K) differences F_i at the samples, float64.
        own: (B,) predicted class.
        rival: (B,) class with the second largest logit.
    """

    def __init__(self, field: Field, x: Tensor, look: Look) -> None:
        self.field, self.look = field, look
        self.x = field.prepared(x)
        logits = field.logits(self.x)
        self.own = logits.argmax(1)
        self.rival = runner_up(logits, self.own)
        self.magnitude = logits.abs().amax(1).double()
        self.offset = against(logits.double(), self.own)
        self._around: dict[float, Around] = {}

    @cached_property
    def boundary(self) -> BoundaryPoint:
        """The boundary point next to every sample."""
        return boundary_point(self.field, self.x, bounds=self.look.bounds, refine=self.look.refine)

    @cached_property
    def curvature(self) -> tuple[Tensor, Tensor]:
        """(B,) mean curvature at the boundary points, at the scale of the look, and its standard error; float64."""
        mean, error = mean_curvature(
            self.field,
            self.boundary,
            estimator="difference",
            scale=self.look.scale,
            probes=self.look.probes,
            seed=self.look.seed,
        )
        return mean.double().cpu(), error.double().cpu()

    def around(self, radius: float) -> Around:
        """Averages over the sphere of a radius; 2 T passes forward per sample, T the number of probes."""
        if radius not in self._around:
            count, probes = len(self.x), self.look.probes
            group = max(1, ELEMENTS // (probes * self.x[0].numel()))
            mean, error = [], []
            for begin in range(0, count, group):
                rows = slice(begin, min(count, begin + group))
                steps = radius * self.directions(rows)
                centre = self.x[rows, None]
                both = [self.field.logits((centre + sign * steps).flatten(0, 1)) for sign in (1, -1)]
                pairs = ((both[0].double() + both[1].double()) / 2).reshape(len(steps), probes, -1)
                values = pairs - pairs.gather(2, self.own[rows, None, None].expand(-1, probes, 1))
                mean.append(values.mean(1))
                error.append(values.std(1) / math.sqrt(probes))
            average = torch.cat(mean)
            self._around[radius] = Around(average, average - self.offset, torch.cat(error))
        return self._around[radius]

    @cached_property
    def candidates(self) -> Tensor:
        """(B, C) rival classes in descending order of their logits."""
        count = min(self.look.candidates, self.offset.shape[1] - 1)
        return _without(self.offset, self.own).topk(count, dim=1).indices

    @cached_property
    def bends(self) -> tuple[Tensor, Tensor]:
        """(B, C) mean curvature at the sample of the level set of F_i, per candidate class, and its standard error.

        Second differences over the sphere give the trace of the Hessian of every class in the same passes; that along
        the gradient is taken off. NaN where a class has no gradient.
        """
        radius = self.look.smoothing
        around = self.around(radius)
        _, gradients = self.field.gradients_to(self.x, self.own, self.candidates)
        flat = gradients.double().flatten(2)
        length = flat.norm(dim=2)
        normals = (flat / torch.where(length == 0, 1.0, length)[..., None]).reshape(gradients.shape).to(self.x.dtype)
        along = torch.stack([self._second_difference(column, normals, radius) for column in range(normals.shape[1])], 1)
        size = self.x[0].numel()
        trace = 2 * size * around.rise.gather(1, self.candidates) / radius**2
        error = 2 * size * around.error.gather(1, self.candidates) / radius**2
        tangent = (max(1, size - 1) * length).where(length > 0, torch.nan)
        return (trace - along) / tangent, error / tangent

    @cached_property
    def flat_around(self) -> Tensor:
        """(B,) the network is affine between the sample and the sphere, up to rounding: no bend can be measured."""
        around = self.around(self.look.smoothing)
        bound = rounding(self.x) * (1 + self.magnitude + around.mean.abs().amax(1))
        return ((around.rise.abs() + around.error).amax(1)) <= bound

    @cached_property
    def flat_boundary(self) -> Tensor:
        """(B,) the boundary does not bend at all over the scale of the look, up to rounding."""
        mean, error = self.curvature
        return (mean.abs() + error) * self.look.scale <= rounding(self.x)

    def directions(self, rows: slice) -> Tensor:
        """(b, T, ...) the unit vectors along which the surroundings of some rows are probed."""
        return sphere_directions(self.x[rows], self.look.probes, self.look.seed)

    def _second_difference(self, column: int, normals: Tensor, radius: float) -> Tensor:
        """(B,) n.H n of one candidate's F along its own normal, over the radius."""
        step, rival = radius * normals[:, column], self.candidates[:, column]
        ends = sum(self.field.value(self.x + sign * step, self.own, rival).double() for sign in (1, -1))
        return (ends - 2 * self.offset.gather(1, rival[:, None])[:, 0]) / radius**2


def rounding(x: Tensor) -> float:
    """Relative size below which a second difference in the type of x is rounding."""
    return 64 * torch.finfo(x.dtype).eps


def sphere_directions(x: Tensor, count: int, seed: int) -> Tensor:
    """(B, count, ...) unit vectors, uniform on the sphere, keyed to the values of each sample (B, ...) and the seed."""
    drawn = []
    for sample in x:
        draw = torch.randn((count, sample.numel()), generator=content_generator(sample, seed), dtype=torch.float64)
        drawn.append((draw / draw.norm(dim=1, keepdim=True)).reshape(-1, *sample.shape).to(x))
    return torch.stack(drawn)


def against(logits: Tensor, own: Tensor) -> Tensor:
    """(B, K) differences F_i = f_i - f_own."""
    return logits - logits.gather(1, own[:, None])


def _without(values: Tensor, own: Tensor) -> Tensor:
    """Values with the own class out of the race."""
    return values.scatter(1, own[:, None], -torch.inf)
