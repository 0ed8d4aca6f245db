"""The nearest points of the decision boundary: DeepFool, the first crossing, and steps to the true nearest point."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from assay.attacks.deepfool import fooled, per_sample
from assay.attacks.projected import Norm
from assay.attacks.target import Bounds, Model, check_outputs, checked_batch
from assay.boundary.field import Field, field_of, pair, runner_up
from assay.boundary.nearest import Found, Geometry, Rays, Region, refine, shaken
from assay.errors import UsageError
from assay.results import Displayed
from assay.seeding import content_generator

_SCAN = 8  # points at which the way to DeepFool's answer is looked at
_CHECK = 16  # the same, on the way to the final point
_SHAKES = (0.1, 0.3, 0.3)  # sideways steps tried at the end, in units of the distance
_HOPE = 1.3  # a start that is farther from the best point, in units of its distance, is given up
_FEW_ELEMENTS = 32  # up to which random directions are followed too
_PAIRS, _LEAST_PAIRS = 2, 16  # of opposite directions: per element, and at least
_FAR = 10.0  # where they end as long as no boundary is known, in units of the largest element and 1
_TIE = 4  # units of rounding that make a tie


@dataclass(frozen=True, eq=False)
class BoundaryPoint(Displayed):
    """Points of the decision boundary near inputs; an upper estimate of the distance to it, grade `sampled`.

    F is f_rival - f_label. A point lies on the side of `label`, F <= 0, to the rounding of F: it is the last
    representable point before the decision changes, as seen by the passes of the search (a pass over another number of
    rows may round otherwise). Where nothing was found, point, distance, residual,
    normal, gradient_norm and cosine are NaN, and rival is the runner-up at x.

    Attributes:
        x: (B, ...) inputs, in the model's type.
        point: (B, ...) on the boundary.
        label: (B,) class whose region is left.
        rival: (B,) class on the other side.
        distance: (B,) ||point - x|| in `norm`, float64.
        found: (B,) whether there is a point.
        residual: (B,) |F| at the point, float64.
        normal: (B, ...) gradient of F over its length: from label to rival; zeros where the gradient is.
        gradient_norm: (B,) Euclidean length of the gradient of F, float64.
        cosine: (B,) distance of the tangent plane at the point over distance of the point, both from x, in `norm` and
            inside the bounds, float64: 1 at a nearest point, and at distance 0. For ``l2`` without bounds that is the
            cosine between point - x and the normal; for ``linf`` it is
            grad F . (point - x) / (||grad F||_1 ||point - x||_inf).
        valid: (B,) whether label and rival are the two largest logits at the point (to rounding).
        first_distance: (B,) length of DeepFool's change, overshoot included, before anything was refined, float64;
            where DeepFool did not get across, of its change towards the first single class to which it did,
            and NaN where it did to none (the point is then another search's).
        misclassified: (B,) whether x is decided otherwise than `label=` said; label is then the decision.
        norm: ``l2`` or ``linf``.
        refined: whether the points were moved towards the nearest one.
    """

    x: Tensor
    point: Tensor
    label: Tensor
    rival: Tensor
    distance: Tensor
    found: Tensor
    residual: Tensor
    normal: Tensor
    gradient_norm: Tensor
    cosine: Tensor
    valid: Tensor
    first_distance: Tensor
    misclassified: Tensor
    norm: str = "l2"
    refined: bool = True

    def __len__(self) -> int:
        return len(self.x)

    def take(self, rows: Tensor) -> BoundaryPoint:
        """Some rows, by index or by a mask (B,)."""
        names = [name for name, value in vars(self).items() if isinstance(value, Tensor)]
        return replace(self, **{name: getattr(self, name)[rows] for name in names})


def boundary_point(
    model: Model | Field,
    x: Tensor,
    *,
    target: int | Tensor | None = None,
    label: Tensor | None = None,
    norm: Norm = "l2",
    bounds: Bounds | Literal["auto"] = "auto",
    refine: bool = True,
    starts: int = 2,
    steps: int = 50,
    overshoot: float = 0.02,
    candidates: int = 10,
    seed: int = 0,
    batch_size: int | None = None,
) -> BoundaryPoint:
    """The nearest point where the decision changes, for every input.

    DeepFool leads across the boundary (Moosavi-Dezfooli, Fawzi, Frossard 2016); the first crossing on the way is found
    by bracketing; steps to the point of the tangent plane nearest to x (Hasofer and Lind 1974), each brought back to
    the boundary along the ray from x and taken only if closer, lead to a nearest point; a few sideways looks lead off
    saddles. With
    `starts` above 1 the same is done towards the next classes by logit, and for inputs of up to 32 elements also from
    where random directions leave the region; the closest is kept. The result is a local minimum of the distance, so an
    upper estimate of the distance to the boundary.

    With `target`, the boundary is that of the pair, f_target = f_label, whatever a third class says: `valid` tells
    whether the pair decides at the point. Rows whose decision is the target have no such boundary: not found.

    Args:
        model: a module, a Subject, a function (B, ...) -> (B, K), or a Field.
        x: (B, ...) inputs; computed in the type of the model's parameters, or their own where it has none.
        target: the class on the other side, one for all or (B,); None for whichever is closest.
        label: (B,) classes that should be left; rows that are decided otherwise are marked `misclassified` and leave
            the class of the decision. None: the decisions. Where classes tie at x to rounding, `label` decides, else
            the lowest index does, and x is its own boundary point.
        norm: ``l2``, or ``linf`` (refined along the steepest directions of that norm).
        bounds: legal range of inputs; ``auto`` takes that of a Subject, None means none. Points stay inside.
        refine: whether to go on from the first crossing to a nearest point.
        starts: classes to start towards, the closest first; 1 is DeepFool alone. Only used with `refine`.
        steps: of DeepFool.
        overshoot: of DeepFool; positive.
        candidates: classes that DeepFool considers, the own one among them.
        seed: of the sideways looks, together with the values of a sample (not its place in the batch).
        batch_size: samples per pass; None chooses by memory. Samples do not influence each other.

    Returns:
        The points, with what speaks for them.

    Raises:
        NumericalError: for inputs that are NaN.
        SubjectError: for inputs or outputs of the model that cannot be used.
        UsageError: for settings, classes or bounds that do not fit.

    Example:
        >>> ball = lambda x: torch.stack([4 - x.square().sum(1), torch.zeros(len(x))], 1)
        >>> found = boundary_point(ball, torch.tensor([[0.5, 0.0, 0.0]], dtype=torch.float64))
        >>> found.point, found.distance
        (tensor([[2., 0., 0.]], dtype=torch.float64), tensor([1.5000], dtype=torch.float64))
    """
    field = field_of(model, batch_size=batch_size)
    if norm not in get_args(Norm) or starts < 1 or steps < 1 or not 0 < overshoot < 10 or candidates < 2:
        raise UsageError(
            f"norm={norm!r}, starts={starts}, steps={steps}, overshoot={overshoot}, candidates={candidates} cannot be "
            "used.",
            where="boundary_point",
            advice="norm is 'l2' or 'linf', starts and steps at least 1, overshoot positive, candidates at least 2.",
        )
    x = field.prepared(x)
    limits = field.bounds if isinstance(bounds, str) else bounds
    checked_batch(x, x, limits)
    logits = field.logits(x)
    wanted = None if label is None else per_sample(label, x, "label")
    rival = None if target is None else per_sample(target, x, "target")
    for classes in (wanted, rival):
        if classes is not None:
            check_outputs(logits, classes)
    own, tied, missed = _own(field, x, logits, wanted, rival)
    search = _Search(
        field, norm, limits, refine, starts, {"steps": steps, "overshoot": overshoot, "candidates": candidates}, seed
    )
    others = () if rival is None else (rival,)
    parts = [search.run(*part) for part in field.passes(x, own, tied, missed, *others)]
    joined = {
        name: torch.cat([getattr(part, name) for part in parts])
        for name, value in vars(parts[0]).items()
        if isinstance(value, Tensor)
    }
    return replace(parts[0], **joined)


def _own(
    field: Field, x: Tensor, logits: Tensor, wanted: Tensor | None, rival: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Class of the region that each input is in, whether it lies on its boundary, and whether `wanted` is not it.

    A tie is a difference that rounding could make: of the logits, or of the inputs times the gradient. Without
    `wanted`, the lowest of two classes that tie is the own one (of a pair with a `rival`, the other one is).

    Args:
        field: the classifier.
        x: (B, ...) inputs.
        logits: (B, K) there.
        wanted: (B,) classes that should be left, or None.
        rival: (B,) the only other class that counts, or None.

    Returns:
        Three tensors (B,): class, on its boundary, misclassified.
    """
    decided = logits.argmax(1)
    unit = torch.finfo(x.dtype).eps
    length = x.flatten(1).double().norm(dim=1)

    def at_tie(mine: Tensor, theirs: Tensor) -> Tensor:
        gap = pair(logits, mine, theirs).double().abs()
        scale = logits.gather(1, torch.stack([mine, theirs], 1)).abs().amax(1).double()
        steep = field.gradient(x, mine, theirs).flatten(1).double().norm(dim=1)  # logits may be small all of them
        return (gap <= _TIE * unit * (scale + steep * length)) & (mine != theirs)

    second = runner_up(logits, decided)
    if wanted is not None:
        missed = (wanted != decided) & ~at_tie(wanted, decided)
        own = torch.where(missed, decided, wanted)
    else:
        missed = torch.zeros_like(decided, dtype=torch.bool)
        level = at_tie(decided, second)
        lowest = torch.minimum(decided, second)
        if rival is not None:
            lowest = torch.where(decided == rival, second, decided)
        own = torch.where(level, lowest, decided)
    other = runner_up(logits, own) if rival is None else rival
    return own, at_tie(own, other), missed


@dataclass(frozen=True, eq=False)
class _Search:
    field: Field
    norm: Norm
    bounds: Bounds
    refined: bool
    starts: int
    deepfool: dict[str, Any]
    seed: int

    def run(self, x: Tensor, own: Tensor, tied: Tensor, missed: Tensor, rival: Tensor | None = None) -> BoundaryPoint:
        """One part of the batch."""
        geometry = self._geometry(x)
        rays = Rays(Region(self.field, own, rival), geometry, x)
        infinite = torch.full((len(x),), torch.inf, dtype=torch.float64, device=x.device)
        next_one = runner_up(self.field.logits(x), own) if rival is None else rival
        found = Found(x.clone(), next_one.clone(), torch.where(tied, 0.0, infinite))
        rows = (~tied).nonzero()[:, 0] if rival is None else (~tied & (own != rival)).nonzero()[:, 0]
        first = torch.where(tied, 0.0, torch.nan).double()
        first[rows] = self._start(rays, found, rows, None if rival is None else rival[rows])
        order = self._order(rays) if rival is None else next_one[:, None]
        for place in range(1, order.shape[1]):  # where DeepFool goes in circles, towards one class alone it may not
            lost = rows[~torch.isfinite(found.distance[rows])]
            first[lost] = self._start(rays, found, lost, order[lost, place])
        if self.refined:
            reached = rows[torch.isfinite(found.distance[rows])]
            self._refine(rays, found, reached)
            for place in range(1, min(self.starts, order.shape[1])):
                self._other_start(rays, found, rows, order[rows, place])
            if x[0].numel() <= _FEW_ELEMENTS:
                self._look_around(rays, found, rows)
        self._clear(rays, found, rows)
        return self._described(rays, found, first, missed)

    def _geometry(self, x: Tensor) -> Geometry:
        if self.bounds is None:
            return Geometry(self.norm)
        low, high = self.bounds  # inputs outside by rounding stay where they are
        return Geometry(self.norm, x.clamp(max=low), x.clamp(min=high))

    def _start(self, rays: Rays, found: Found, rows: Tensor, rival: Tensor | None) -> Tensor:
        """DeepFool and the first crossing on its way; returns the length of its change (n,), NaN where it failed."""
        length = torch.full((len(rows),), torch.nan, dtype=torch.float64, device=rows.device)
        if not len(rows):
            return length
        settings = {"norm": self.norm, "bounds": self.bounds, "seed": self.seed} | self.deepfool
        across = fooled(self.field.target, rays.x[rows], rays.region.own[rows], rival=rival, **settings)
        rows, far = rows[across.found], across.point[across.found]
        if len(rows):
            points, towards, _ = rays.first_crossing(rows, far, _SCAN)
            found.offer(rows, points, towards, rays.geometry.size(points.double() - rays.start[rows]))
            length[across.found] = rays.geometry.size(far.double() - rays.start[rows])
        return length

    def _refine(self, rays: Rays, found: Found, rows: Tensor) -> None:
        refine(rays, found, rows)
        for number, size in enumerate(_SHAKES):
            moved = shaken(rays, found, rows, size=size, seed=self.seed + number)
            refine(rays, found, moved)

    def _order(self, rays: Rays) -> Tensor:
        """(B, R) the candidate classes besides the own one, the largest logit at x first."""
        logits = self.field.logits(rays.x).scatter(1, rays.region.own[:, None], -torch.inf)
        return logits.topk(min(self.deepfool["candidates"], logits.shape[1]) - 1, dim=1).indices

    def _other_start(self, rays: Rays, found: Found, rows: Tensor, rival: Tensor) -> None:
        """The same towards one class, kept where it is closer."""
        another = Found(found.point.clone(), found.rival.clone(), torch.full_like(found.distance, torch.inf))
        self._start(rays, another, rows, rival)
        self._refine(rays, another, rows[another.distance[rows] < _HOPE * found.distance[rows]])
        found.offer(rows, another.point[rows], another.rival[rows], another.distance[rows])

    def _look_around(self, rays: Rays, found: Found, rows: Tensor) -> None:
        """Follow random directions out to the distance found, and refine what they meet: few elements, few directions.

        Gradients lead to a near boundary, which may not be the nearest where it winds. In many dimensions random
        directions meet nothing within that distance.
        """
        before = found.distance.clone()
        drawn = [self._directions(rays, row) for row in rows.tolist()]
        for number in range(len(drawn[0]) if drawn else 0):
            direction = torch.stack([each[number] for each in drawn])
            reach = torch.where(
                torch.isfinite(found.distance[rows]),
                found.distance[rows],
                _FAR * (1 + rays.x[rows].flatten(1).abs().amax(1).double()),
            )
            far = rays.at(rows, direction, reach)
            points, rival, crossed = rays.first_crossing(rows, far, _SCAN)
            distance = rays.geometry.size(points.double() - rays.start[rows])
            found.offer(rows[crossed], points[crossed], rival[crossed], distance[crossed])
        closer = rows[found.distance[rows] < before[rows]]
        if len(closer):
            self._refine(rays, found, closer)

    def _directions(self, rays: Rays, row: int) -> Tensor:
        """(k, ...) directions of length 1 in the norm, those of a sample's own values, each with its opposite."""
        sample = rays.x[row]
        generator = content_generator(sample, self.seed)
        pairs = max(_LEAST_PAIRS, _PAIRS * sample.numel())
        half = torch.randn((pairs, *sample.shape), generator=generator, dtype=torch.float64)
        both = torch.cat([half, -half]).to(sample.device)
        return both / rays.geometry.size(both).reshape(-1, *[1] * sample.dim())

    def _clear(self, rays: Rays, found: Found, rows: Tensor) -> None:
        """Where the way to the point is not inside the region, go back to the first change of decision."""
        rows = rows[torch.isfinite(found.distance[rows]) & (found.distance[rows] > 0)]
        if not len(rows):
            return
        points, rival, crossed = rays.first_crossing(rows, found.point[rows], _CHECK)
        distance = rays.geometry.size(points.double() - rays.start[rows])
        found.offer(rows[crossed], points[crossed], rival[crossed], distance[crossed])

    def _described(self, rays: Rays, found: Found, first: Tensor, missed: Tensor) -> BoundaryPoint:
        own, geometry = rays.region.own, rays.geometry
        there = torch.isfinite(found.distance)
        every = torch.arange(len(own), device=own.device)
        value, gradient = rays.region.value_and_gradient(found.point, every, found.rival)
        length = gradient.flatten(1).norm(dim=1)
        normal = gradient / torch.where(length == 0, 1.0, length).reshape(-1, *[1] * (gradient.dim() - 1))
        flat = geometry.on_plane(rays.start, found.point.double(), value, gradient, every) - rays.start
        outward = (gradient * (found.point.double() - rays.start)).flatten(1).sum(1).sign()
        distance = torch.where(found.distance == 0, 1.0, found.distance)
        aligned = outward * (geometry.size(flat) / distance).clamp(max=1)
        aligned = torch.where(found.distance == 0, 1.0, aligned)
        logits = self.field.logits(found.point)
        slack = _TIE * torch.finfo(logits.dtype).eps * logits.abs().amax(1, keepdim=True)
        third = logits.scatter(1, torch.stack([own, found.rival], 1), -torch.inf).amax(1)
        lower = torch.minimum(logits.gather(1, own[:, None]), logits.gather(1, found.rival[:, None]))
        valid = there & (own != found.rival) & (third <= (lower + slack)[:, 0])

        def known(values: Tensor) -> Tensor:
            shape = (-1, *[1] * (values.dim() - 1))
            return torch.where(there.reshape(shape), values, torch.nan)

        return BoundaryPoint(
            x=rays.x,
            point=known(found.point),
            label=own,
            rival=found.rival,
            distance=known(found.distance),
            found=there,
            residual=known(value.abs()),
            normal=known(normal.to(rays.x.dtype)),
            gradient_norm=known(length),
            cosine=known(aligned),
            valid=valid,
            first_distance=known(first),
            misclassified=missed,
            norm=self.norm,
            refined=self.refined,
        )
