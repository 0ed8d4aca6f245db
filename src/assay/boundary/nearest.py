"""From a point across the boundary to the nearest point of the boundary: crossings of rays, and steps along it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from assay.attacks.deepfool import with_company
from assay.attacks.projected import Norm
from assay.boundary.field import Field, pair, runner_up
from assay.seeding import content_generator

STEPS = (1.0, 0.5, 0.25, 0.1, 0.03, 0.01)
_MEMORY = 6  # pairs of the quasi-Newton step
_EVALUATIONS = 200  # of one crossing; bisection alone needs about 60


@dataclass(frozen=True, eq=False)
class Geometry:
    """What near means: a norm, and the legal box.

    Attributes:
        norm: ``l2`` or ``linf``.
        low: lowest legal values, broadcast against (B, ...), or None.
        high: highest legal values, or None.
    """

    norm: Norm
    low: Tensor | None = None
    high: Tensor | None = None

    def size(self, change: Tensor) -> Tensor:
        """(B,) norm of (B, ...), float64."""
        flat = change.flatten(1).double()
        return flat.norm(dim=1) if self.norm == "l2" else flat.abs().amax(1)

    def steepest(self, gradient: Tensor) -> Tensor:
        """The direction in which a step of given size along the gradient does most; its length is free."""
        return gradient if self.norm == "l2" else gradient.sign()

    def legal(self, points: Tensor, rows: Tensor | slice = slice(None)) -> Tensor:
        """Points moved into the box."""
        if self.low is None or self.high is None:
            return points
        return torch.minimum(torch.maximum(points, self.low[rows]), self.high[rows])

    def on_plane(self, x: Tensor, z: Tensor, value: Tensor, gradient: Tensor, rows: Tensor) -> Tensor:
        """The point nearest to x in the box where the linearisation of F at z is zero.

        It is x - t d clamped to the box, d the steepest direction; t solves a monotone equation in one unknown, in
        closed form without a box, else by doubling and bisection. Where the box does not reach the plane, the point of
        the box that comes closest to it.

        Args:
            x: (n, ...) float64 inputs.
            z: (n, ...) float64 points of the boundary.
            value: (n,) F at z, float64.
            gradient: (n, ...) float64, of F at z.
            rows: (n,) rows of the box.

        Returns:
            (n, ...) float64.
        """
        direction = self.steepest(gradient)
        along = _dot(gradient, direction)
        at_x = value + _dot(gradient, x - z)  # the linearisation at x
        t = at_x / torch.where(along == 0, 1.0, along)
        if self.low is None:
            return x - _wide(t, x) * direction

        def residual(t: Tensor) -> tuple[Tensor, Tensor]:
            point = self.legal(x - _wide(t, x) * direction, rows)
            return point, at_x + _dot(gradient, point - x)

        near, far = torch.zeros_like(t), t.clone()
        for _ in range(40):
            short = residual(far)[1] * at_x > 0
            if not bool(short.any()):
                break
            far = torch.where(short, 2 * far, far)
        for _ in range(60):
            middle = (near + far) / 2
            short = residual(middle)[1] * at_x > 0
            near, far = torch.where(short, middle, near), torch.where(short, far, middle)
        return residual(far)[0]


@dataclass(frozen=True, eq=False)
class Region:
    """The region that is left, of every row: where F <= 0 towards the runner-up, or towards one rival.

    Attributes:
        field: the classifier.
        own: (B,) class of the region.
        rival: (B,) the only other class that counts, or None for whichever comes next.
    """

    field: Field
    own: Tensor
    rival: Tensor | None = None

    def margin(self, points: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """F (n,) float64 and the rival (n,) at points (n, ...) of these rows."""
        logits, own = self.field.logits(with_company(points))[: len(points)], self.own[rows]
        rival = runner_up(logits, own) if self.rival is None else self.rival[rows]
        return pair(logits, own, rival).double(), rival

    def value_and_gradient(self, points: Tensor, rows: Tensor, rival: Tensor) -> tuple[Tensor, Tensor]:
        """F (n,) and its gradient (n, ...) towards rivals (n,), float64."""
        own, count = self.own[rows], len(points)
        points = with_company(points)
        fill = torch.arange(len(points), device=points.device) % max(1, count)
        value, gradient = self.field.value_and_gradient(points, own[fill], rival[fill])
        return value[:count].double(), gradient[:count].double()


class Rays:
    """Rays from inputs and where they leave the region.

    Points are computed in float64 and rounded to the model's type, so that what is tested is what is returned.
    """

    def __init__(self, region: Region, geometry: Geometry, x: Tensor) -> None:
        self.region, self.geometry, self.x = region, geometry, x
        self.start = x.double()
        self.unit = torch.finfo(x.dtype).eps
        rows = torch.arange(len(x), device=x.device)
        self.at_start = region.margin(x, rows)[0]

    def at(self, rows: Tensor, direction: Tensor, distance: Tensor) -> Tensor:
        """Points (n, ...) at distances (n,) along directions (n, ...) float64, in the model's type, in the box."""
        points = (self.start[rows] + _wide(distance, direction) * direction).to(self.x.dtype)
        return self.geometry.legal(points, rows)

    def crossing(
        self, rows: Tensor, direction: Tensor, near: Tensor, far: Tensor, at_near: Tensor, at_far: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Where a ray leaves the region between two distances, by Chandrupatla's bracketing (1997).

        The bracket is narrowed to the resolution of the inputs; returned is its end inside the region, F <= 0.

        Args:
            rows: (n,) rows of the inputs.
            direction: (n, ...) float64.
            near: (n,) distance where F <= 0.
            far: (n,) distance where F > 0.
            at_near: (n,) F there.
            at_far: (n,) F there.

        Returns:
            Points (n, ...) and their rivals (n,).
        """
        b, fb, a, fa = near.clone(), at_near.clone(), far.clone(), at_far.clone()
        c, fc = b.clone(), fb.clone()
        share = (fa / (fa - fb)).nan_to_num(0.5)  # of the way from a to b
        open_ = torch.arange(len(rows), device=rows.device)
        for _ in range(_EVALUATIONS):
            width = (b - a)[open_].abs()
            least = 0.5 * self.unit * torch.maximum(a, b)[open_] / width
            best = torch.where(fa.abs() < fb.abs(), fa, fb)[open_]
            going = (least < 0.5) & (best != 0) & (width > 0)
            open_, least = open_[going], least[going]
            if not len(open_):
                break
            t = torch.minimum(torch.maximum(share[open_], least), 1 - least)
            trial = a[open_] + t * (b - a)[open_]
            value, _ = self.region.margin(self.at(rows[open_], direction[open_], trial), rows[open_])
            same = (value > 0) == (fa[open_] > 0)
            c[open_], fc[open_] = torch.where(same, a[open_], b[open_]), torch.where(same, fa[open_], fb[open_])
            b[open_], fb[open_] = torch.where(same, b[open_], a[open_]), torch.where(same, fb[open_], fa[open_])
            a[open_], fa[open_] = trial, value
            share[open_] = _share(a[open_], b[open_], c[open_], fa[open_], fb[open_], fc[open_])
        inner = torch.where(fa > 0, b, a)
        points = self.at(rows, direction, inner)
        return points, self.region.margin(points, rows)[1]

    def first_crossing(self, rows: Tensor, far: Tensor, samples: int) -> tuple[Tensor, Tensor, Tensor]:
        """The first change of decision on segments from x to far points, as a scan at even distances sees it.

        Args:
            rows: (n,) rows of the inputs.
            far: (n, ...) far points.
            samples: points of the scan on each segment, its end among them.

        Returns:
            Points (n, ...), rivals (n,), and whether the decision changes on the segment (n,); where it does not, the
            point is the end.
        """
        direction = far.double() - self.start[rows]
        near, at_near = torch.zeros(len(rows), dtype=torch.float64, device=far.device), self.at_start[rows]
        end, at_end = torch.ones_like(near), torch.full_like(near, -torch.inf)
        rival = torch.zeros_like(rows)
        points = far.clone()
        open_ = torch.arange(len(rows), device=rows.device)
        for sample in range(1, samples + 1):
            share = sample / samples
            there = self.at(rows[open_], direction[open_], torch.full_like(near[open_], share))
            if sample == samples:
                there = far[open_]
            value, towards = self.region.margin(there, rows[open_])
            over = value > 0
            end[open_[over]], at_end[open_[over]] = share, value[over]
            near[open_[~over]], at_near[open_[~over]] = share, value[~over]
            rival[open_] = towards
            open_ = open_[~over]
            if not len(open_):
                break
        crossed = at_end > 0
        if bool(crossed.any()):
            points[crossed], rival[crossed] = self.crossing(
                rows[crossed], direction[crossed], near[crossed], end[crossed], at_near[crossed], at_end[crossed]
            )
        return points, rival, crossed


def _share(a: Tensor, b: Tensor, c: Tensor, fa: Tensor, fb: Tensor, fc: Tensor) -> Tensor:
    """Where to look next between a (0) and b (1): inverse quadratic interpolation where it is safe, else the middle."""
    xi, phi = (a - b) / (c - b), (fa - fb) / (fc - fb)
    safe = (phi.square() < xi) & ((1 - phi).square() < 1 - xi)
    inverse = fa / (fb - fa) * fc / (fb - fc) + (c - a) / (b - a) * fa / (fc - fa) * fb / (fc - fb)
    return torch.where(safe & torch.isfinite(inverse), inverse, 0.5)


@dataclass(eq=False)
class Found:
    """Points of the boundary found so far, improved in place.

    Attributes:
        point: (B, ...).
        rival: (B,).
        distance: (B,) float64.
    """

    point: Tensor
    rival: Tensor
    distance: Tensor

    def offer(self, rows: Tensor, point: Tensor, rival: Tensor, distance: Tensor) -> Tensor:
        """Take what is closer; returns where it was (n,)."""
        closer = distance < self.distance[rows]
        kept = rows[closer]
        self.point[kept], self.rival[kept], self.distance[kept] = point[closer], rival[closer], distance[closer]
        return closer


def refine(rays: Rays, found: Found, rows: Tensor, *, iterations: int = 60) -> None:
    """Move points along the boundary towards the one nearest to x, never away from it.

    Hasofer and Lind (1974), Rackwitz and Fiessler (1978): the target is the point nearest to x on the tangent plane.
    The step towards it is rescaled by the curvature seen in earlier steps (limited-memory BFGS, Nocedal 1980) and cut
    until the ray through the new point leaves the region earlier than now; the crossing of that ray is the next point.
    A row stops where the target is the point itself to the resolution of its type, or no step comes closer.

    Args:
        rays: of all inputs.
        found: improved in place.
        rows: (n,) rows to refine.
        iterations: at most so many steps.
    """
    geometry = rays.geometry
    enough = 0.1 * rays.unit**0.5  # an angle; the distance differs by its square
    memory = _Memory(rows, found.point)
    rows = rows[found.distance[rows] > 0]
    earlier: Tensor | None = None
    pull_before = torch.zeros_like(found.point, dtype=torch.float64)
    for _ in range(iterations):
        if not len(rows):
            return
        z = found.point[rows]
        value, gradient = rays.region.value_and_gradient(z, rows, found.rival[rows])
        usable = torch.isfinite(gradient.flatten(1)).all(1) & (gradient.flatten(1) != 0).any(1)
        rows, z, value, gradient = rows[usable], z[usable], value[usable], gradient[usable]
        wide = z.double()
        goal = geometry.on_plane(rays.start[rows], wide, value, gradient, rows)
        pull = goal - wide
        going = geometry.size(pull) > enough * found.distance[rows]
        rows, wide, pull = rows[going], wide[going], pull[going]
        if not len(rows):
            return
        if earlier is not None and geometry.norm == "l2":  # the other distance has no second derivative
            memory.learn(rows, wide - earlier[rows], pull_before[rows] - pull)
        earlier = torch.zeros_like(pull_before) if earlier is None else earlier
        earlier[rows], pull_before[rows] = wide, pull
        moved = _advance(rays, found, rows, wide, memory.step(rows, pull))
        stuck = ~moved & memory.full(rows)
        if bool(stuck.any()):
            memory.forget(rows[stuck])
            again = _advance(rays, found, rows[stuck], wide[stuck], pull[stuck])
            moved[stuck.nonzero()[:, 0][again]] = True
        rows = rows[moved]


def _advance(rays: Rays, found: Found, rows: Tensor, z: Tensor, step: Tensor) -> Tensor:
    """The longest of the cut steps whose ray leaves the region earlier; returns where there was one (n,)."""
    moved = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
    open_ = torch.arange(len(rows), device=rows.device)
    waiting: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    for cut in STEPS:
        mine = rows[open_]
        change = rays.geometry.legal(z[open_] + cut * step[open_], mine) - rays.start[mine]
        size = rays.geometry.size(change)
        direction = change / _wide(torch.where(size == 0, 1.0, size), change)
        shorter = found.distance[mine] * (1 - 8 * rays.unit)
        value, _ = rays.region.margin(rays.at(mine, direction, shorter), mine)
        over = value > 0
        moved[open_[over]] = True
        waiting.append((mine[over], direction[over], shorter[over], value[over]))
        open_ = open_[~over]
        if not len(open_):
            break
    won, direction, far, at_far = (torch.cat(each) for each in zip(*waiting, strict=True))
    if len(won):
        points, rival = rays.crossing(won, direction, torch.zeros_like(far), far, rays.at_start[won], at_far)
        found.offer(won, points, rival, rays.geometry.size(points.double() - rays.start[won]))
    return moved


def shaken(rays: Rays, found: Found, rows: Tensor, *, size: float, seed: int) -> Tensor:
    """Look beside the points, in a direction drawn for each, for a ray that leaves earlier: the way off a saddle.

    Args:
        rays: of all inputs.
        found: improved in place.
        rows: (n,) rows to try.
        size: of the sideways step, in units of the distance.
        seed: of the directions, together with the values of the inputs.

    Returns:
        (m,) the rows that moved.
    """
    rows = rows[found.distance[rows] > 0]
    if not len(rows):
        return rows
    drawn = []
    for row in rows.tolist():
        sample = rays.x[row]
        noise = torch.randn(sample.shape, generator=content_generator(sample, seed), dtype=torch.float64)
        drawn.append((noise / noise.norm()).to(sample.device))
    aside = torch.stack(drawn)
    z = found.point[rows].double()
    length = (z - rays.start[rows]).flatten(1).norm(dim=1)
    moved = _advance(rays, found, rows, z, size * _wide(length, z) * aside)
    return rows[moved]


class _Memory:
    """Steps and differences of gradients of the last few iterations, for rows of a batch (Nocedal 1980)."""

    def __init__(self, rows: Tensor, like: Tensor) -> None:
        self.count = len(like)
        self.shape = like.shape[1:]
        self.pairs: list[tuple[Tensor, Tensor, Tensor]] = []

    def learn(self, rows: Tensor, step: Tensor, change: Tensor) -> None:
        """A step (n, ...) and the change of the gradient of half the squared distance along it."""
        curvature = _dot(step, change)
        good = curvature > 1e-10 * (_dot(step, step) * _dot(change, change)).sqrt()
        inverse = torch.zeros(self.count, dtype=torch.float64, device=step.device)
        inverse[rows[good]] = 1 / curvature[good]
        steps = torch.zeros(self.count, *self.shape, dtype=torch.float64, device=step.device)
        changes = torch.zeros_like(steps)
        steps[rows], changes[rows] = step, change
        self.pairs = [*self.pairs[1 - _MEMORY :], (steps, changes, inverse)]

    def full(self, rows: Tensor) -> Tensor:
        """(n,) whether anything is remembered."""
        known = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
        for _, _, inverse in self.pairs:
            known |= inverse[rows] > 0
        return known

    def forget(self, rows: Tensor) -> None:
        """Start anew."""
        for _, _, inverse in self.pairs:
            inverse[rows] = 0

    def step(self, rows: Tensor, pull: Tensor) -> Tensor:
        """The pull (n, ...) times an estimate of the inverse Hessian of half the squared distance on the boundary."""
        left, shares = pull.clone(), []
        scale = torch.ones(len(rows), dtype=torch.float64, device=pull.device)
        for steps, changes, inverse in reversed(self.pairs):
            share = inverse[rows] * _dot(steps[rows], left)
            left = left - _wide(share, pull) * changes[rows]
            shares.append(share)
        for _, changes, inverse in self.pairs:  # the newest known pair sets the scale
            size = inverse[rows] * _dot(changes[rows], changes[rows])
            scale = torch.where(size > 0, 1 / size.clamp(min=1e-300), scale)
        result = _wide(scale, pull) * left
        for (steps, changes, inverse), share in zip(self.pairs, reversed(shares), strict=True):
            back = inverse[rows] * _dot(changes[rows], result)
            result = result + _wide(share - back, pull) * steps[rows]
        return result


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a.flatten(1) * b.flatten(1)).sum(1)


def _wide(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (like.dim() - 1))
