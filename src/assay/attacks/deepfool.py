"""DeepFool: steps to the nearest boundary of the linearised network (Moosavi-Dezfooli, Fawzi, Frossard, CVPR 2016)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from assay.attacks.projected import Norm
from assay.attacks.target import Bounds, Model, Target, check_outputs, checked_batch, chunk_size, inside, target_of
from assay.errors import NumericalError, UsageError
from assay.results import Displayed
from assay.seeding import content_generator

_WALL = 10  # steps after which elements held by the bounds leave the linearisation
_JITTER = 1e-3  # of the legal range, or of the largest element: where no gradient says where to go
_ROWS = 4  # fewer than that, and matrix products take other kernels, which round otherwise
_SMALL = 4096  # elements of an input up to which rows are added to that end


@dataclass(frozen=True, eq=False)
class Fooled(Displayed):
    """Where DeepFool ended.

    Attributes:
        point: (B, ...) the last point tried; the input itself where nothing had to be done.
        found: (B,) whether the decision there is another one (the target, where there is one).
        steps: (B,) steps made.
    """

    point: Tensor
    found: Tensor
    steps: Tensor


def deepfool(
    model: Model,
    x: Tensor,
    y: Tensor | None = None,
    *,
    norm: Norm = "l2",
    overshoot: float = 0.02,
    steps: int = 50,
    candidates: int = 10,
    target: int | Tensor | None = None,
    bounds: Bounds | Literal["auto"] = "auto",
    seed: int = 0,
    batch_size: int | None = None,
) -> Tensor:
    """DeepFool: the small change that alters the decision, by steps to the boundary of the linearised network.

    Every step takes, over the candidate classes k, the smallest |F_k| / ||grad F_k|| in the dual norm, where
    F_k = f_k - f_own, and adds the change that would bring this F_k to zero (Moosavi-Dezfooli, Fawzi, Frossard 2016,
    algorithm 2). The search ends as soon as x + (1 + overshoot) r is decided otherwise. Each step is longer by a few
    units of rounding, doubled as long as they do not suffice, so that exact ties do not stop it; where all gradients
    vanish, a little seeded noise takes the place of a step. Only samples still to be fooled are computed.

    Args:
        model: a module, a Subject, or a function (B, ...) -> (B, K); untouched.
        x: (B, ...) inputs, in the units of the data.
        y: (B,) labels; inputs that are decided otherwise come back as they are. None: the decisions of the model.
        norm: ``l2`` or ``linf``: what is kept small.
        overshoot: share by which the change is lengthened; not negative.
        steps: at most so many; each costs one pass forward and one backward per rival.
        candidates: classes considered, the own one among them: those with the largest logits at x.
        target: class to reach, one for all or (B,); None for any other. Inputs decided so come back as they are,
            all others are moved, whatever y says.
        bounds: legal range of inputs; ``auto`` takes those of a Subject, None clamps nothing.
        seed: of the noise, together with the values of a sample (not its place in the batch).
        batch_size: samples per pass; None chooses by memory. Samples do not influence each other.

    Returns:
        (B, ...) attacked inputs, detached; where the search failed, the last point tried. Their distance from x is an
        upper estimate of the distance to the boundary, grade `sampled`.

    Raises:
        NumericalError: for NaN in inputs, or in what the model makes of them.
        SubjectError: for a module that cannot be copied.
        UsageError: for labels, bounds, or settings that do not fit.

    Example:
        >>> deepfool(lambda x: x, torch.tensor([[1.0, 0.0], [0.0, 3.0]]), overshoot=0.5)
        tensor([[0.2500, 0.7500],
                [2.2500, 0.7500]])
    """
    network = target_of(model)
    limits = network.bounds if isinstance(bounds, str) else bounds
    checked_batch(x, x if y is None else y, limits)
    _check(norm, overshoot, steps, candidates)
    own = None if y is None else per_sample(y, x, "y")
    goal = None if target is None else per_sample(target, x, "target")
    size = chunk_size(x, batch_size)
    found: list[Tensor] = []
    for start, part in zip(range(0, len(x), size), x.detach().split(size), strict=True):
        rows = slice(start, start + size)
        search = _Search(network, part, norm, limits, overshoot=overshoot, candidates=candidates, seed=seed)
        labels, goals = (None if each is None else each[rows] for each in (own, goal))
        found.append(search.run(steps, labels, goals, pairwise=False).point)
    return torch.cat(found)


def fooled(
    network: Target,
    x: Tensor,
    own: Tensor,
    *,
    norm: Norm = "l2",
    overshoot: float = 0.02,
    steps: int = 50,
    candidates: int = 10,
    rival: Tensor | None = None,
    bounds: Bounds = None,
    seed: int = 0,
) -> Fooled:
    """DeepFool as a part of other searches: with what became of each sample, in one batch, arguments unchecked.

    Args:
        network: the model.
        x: (B, ...) inputs.
        own: (B,) class to leave.
        norm: as in `deepfool`.
        overshoot: as in `deepfool`.
        steps: as in `deepfool`.
        candidates: as in `deepfool`.
        rival: (B,) the only other class that counts: the search ends where its logit exceeds that of `own`, whichever
            class is above both. None: any other.
        bounds: legal range of inputs.
        seed: of the noise where gradients vanish.

    Returns:
        The last points, and which of them are across.

    Example:
        >>> network = target_of(lambda x: torch.stack([x[:, 0], 1 - x[:, 0]], 1))
        >>> found = fooled(network, torch.tensor([[1.0, 0.0]]), torch.tensor([0]))
        >>> found, bool(found.point[0, 0] < 0.5)
        (Fooled(1 inputs, decided otherwise: 100 % exact, steps: 1 count exact), True)
    """
    search = _Search(network, x.detach(), norm, bounds, overshoot=overshoot, candidates=candidates, seed=seed)
    return search.run(steps, own, rival, pairwise=True)


def with_company(rows: Tensor) -> Tensor:
    """A few rows as four, by repetition, where inputs are small: so that few round like many, and paths do not part."""
    if len(rows) >= _ROWS or len(rows) == 0 or rows[0].numel() > _SMALL:
        return rows.detach()
    return rows.detach().repeat(_ROWS, *[1] * (rows.dim() - 1))[:_ROWS]


def per_sample(value: int | Tensor, x: Tensor, name: str) -> Tensor:
    """A class for every sample, from one class or (B,) of them.

    Returns:
        (B,) int64.

    Raises:
        UsageError: for anything else.
    """
    classes = torch.as_tensor(value, device=x.device)
    if classes.dtype.is_floating_point or classes.dtype == torch.bool or classes.shape not in ((), (len(x),)):
        raise UsageError(
            f"{name} must be one class or {len(x)} of them, got {classes.dtype} of shape {tuple(classes.shape)}.",
            where=name,
            advice="Give class indices 0..K-1.",
        )
    return classes.long().expand(len(x))


def _check(norm: str, overshoot: float, steps: int, candidates: int) -> None:
    if norm not in get_args(Norm) or not 0 <= overshoot < math.inf or steps < 1 or candidates < 2:
        raise UsageError(
            f"norm={norm!r}, overshoot={overshoot}, steps={steps}, candidates={candidates} cannot be used.",
            where="deepfool",
            advice="norm is 'l2' or 'linf', overshoot not negative, steps at least 1, candidates at least 2.",
        )


class _Search:
    """DeepFool on one batch. Rows that are done take no further part."""

    def __init__(
        self,
        network: Target,
        x: Tensor,
        norm: Norm,
        bounds: Bounds,
        *,
        overshoot: float,
        candidates: int,
        seed: int,
    ) -> None:
        self.network, self.x, self.norm, self.bounds = network, x, norm, bounds
        self.stretch, self.candidates, self.seed = 1 + overshoot, candidates, seed
        self.unit = torch.finfo(x.dtype).eps
        self.length = x.flatten(1).double().norm(dim=1) if norm == "l2" else x.flatten(1).abs().amax(1).double()

    def run(self, steps: int, own: Tensor | None, goal: Tensor | None, *, pairwise: bool) -> Fooled:
        """All samples, at most `steps` steps each."""
        x = self.x
        point, change = x.clone(), torch.zeros_like(x)
        last = torch.zeros_like(x)  # the change before the latest step
        found = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        made = torch.zeros(len(x), dtype=torch.long, device=x.device)
        push = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        noise, back = torch.zeros_like(push), torch.full_like(push, 0.5)
        rows = torch.arange(len(x), device=x.device)
        rivals = torch.empty(len(x), 0, dtype=torch.long, device=x.device)
        for step in range(steps + 1):
            leaf, logits = self._forward(point[rows])
            if step == 0:
                own, goal = self._classes(logits, own, goal)
                rivals = self._rivals(logits.detach(), own, goal)
            assert own is not None
            values = logits.detach()
            finite = torch.isfinite(values).all(1)
            done = finite & self._across(values, own[rows], None if goal is None else goal[rows], pairwise)
            found[rows[done]] = True
            broken = rows[~finite]
            if step == steps:  # what is returned is a point that the model answers at
                point[broken] = inside(x[broken] + self.stretch * last[broken], x[broken], self.bounds)
            if step == steps or bool(done.all()):
                break
            # Half the step, then a quarter of that, a sixteenth: overflow may be far off.
            change[broken] = last[broken] + _wide(back[broken], x).to(x.dtype) * (change[broken] - last[broken])
            back[broken] = back[broken].square()
            back[rows[finite]] = 0.5
            keep = finite & ~done
            left = rows[keep]
            if len(left):
                mine, theirs = own[left], rivals[left]
                if goal is not None and not pairwise:
                    mine = _top_besides(values[keep], goal[left])
                if len(left) * (theirs.shape[1] + 1) < len(rows) * theirs.shape[1]:
                    leaf, logits = self._forward(point[left])  # cheaper than going back through rows that are done
                    keep = torch.ones(len(left), dtype=torch.bool, device=x.device)
                moved = self._step(leaf, logits, keep, mine, theirs, left, push, noise, free=step >= _WALL)
                last[left] = change[left]
                change[left] += moved
            rows = rows[~done]
            made[rows] += 1
            point[rows] = inside(x[rows] + self.stretch * change[rows], x[rows], self.bounds)
        return Fooled(point, found, made)

    def _forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            leaf = with_company(points).requires_grad_(True)
            return leaf, self.network(leaf.clone())[: len(points)]

    def _classes(self, logits: Tensor, own: Tensor | None, goal: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The class of every sample to leave, after checking what the model returns."""
        check_outputs(logits, logits.detach() if own is None else own)
        finite = torch.isfinite(logits.detach()).all(1)
        if logits.shape[1] < 2:
            raise UsageError("A model with one output decides nothing.", where="model", advice="Return (B, K), K >= 2.")
        if not bool(finite.all()):
            raise NumericalError(
                "The model returns NaN or infinity.",
                where=f"sample {int((~finite).nonzero()[0])} of the batch",
                advice="Check the weights and the scale of this input.",
            )
        if goal is not None:
            check_outputs(logits, goal)
        return (logits.detach().argmax(1) if own is None else own.long()), goal

    def _rivals(self, logits: Tensor, own: Tensor, goal: Tensor | None) -> Tensor:
        if goal is not None:
            return goal[:, None]
        masked = logits.scatter(1, own[:, None], -torch.inf)
        return masked.topk(min(self.candidates, logits.shape[1]) - 1, dim=1).indices

    @staticmethod
    def _across(logits: Tensor, own: Tensor, goal: Tensor | None, pairwise: bool) -> Tensor:
        if goal is None:
            return logits.argmax(1) != own
        if pairwise:
            return (logits.gather(1, goal[:, None]) > logits.gather(1, own[:, None]))[:, 0]
        return logits.argmax(1) == goal

    def _step(
        self,
        leaf: Tensor,
        logits: Tensor,
        keep: Tensor,
        own: Tensor,
        rivals: Tensor,
        rows: Tensor,
        push: Tensor,
        noise: Tensor,
        *,
        free: bool,
    ) -> Tensor:
        """Change of the rows `keep` of the pass, which are `rows` of the batch."""
        kept = logits[keep]
        values = kept.gather(1, rivals) - kept.gather(1, own[:, None])
        best = torch.full((len(rows),), torch.inf, dtype=torch.float64, device=leaf.device)
        chosen, size = torch.zeros_like(self.x[rows]), torch.ones_like(best)
        for column in range(rivals.shape[1]):
            gradient = None
            if values.requires_grad:
                more = column + 1 < rivals.shape[1]
                total = values[:, column].sum()
                (gradient,) = torch.autograd.grad(total, leaf, retain_graph=more, allow_unused=True)
            if gradient is None:
                continue
            gradient = gradient[: len(keep)][keep]
            if free and self.bounds is not None:
                gradient = gradient * self._movable(leaf.detach()[: len(keep)][keep], gradient)
            flat = gradient.flatten(1)
            steep = flat.double().norm(dim=1) if self.norm == "l2" else flat.abs().sum(1, dtype=torch.float64)
            distance = values.detach()[:, column].double().abs() / steep
            better = (distance < best) & torch.isfinite(steep)  # NaN, such as 0 / 0, is never better
            best, size = torch.where(better, distance, best), torch.where(better, steep, size)
            chosen = torch.where(_wide(better, chosen), gradient, chosen)
        known = torch.isfinite(best)
        scale = kept.detach().abs().amax(1).double()
        least = 4 * self.unit * (scale / size + self.length[rows])
        push[rows] = torch.maximum(torch.where(best <= push[rows], 2.0, 1.0) * push[rows], least)
        reach = torch.where(known, best + push[rows], 0.0)
        direction = chosen / _wide(size, chosen) if self.norm == "l2" else chosen.sign()
        moved = (_wide(reach, chosen) * direction).to(chosen.dtype)
        lost = (~known).nonzero()[:, 0]
        for index in lost.tolist():
            moved[index] = self._noise(rows[index], noise)
        return moved

    def _movable(self, points: Tensor, gradient: Tensor) -> Tensor:
        """Elements that a step along the gradient would not press against the bounds."""
        assert self.bounds is not None
        low, high = self.bounds
        return ~(((points <= low) & (gradient < 0)) | ((points >= high) & (gradient > 0)))

    def _noise(self, row: Tensor, noise: Tensor) -> Tensor:
        """A little of the sample's own noise, twice as much every time."""
        sample = self.x[row]
        noise[row] = 2 * noise[row] if noise[row] else 1.0
        width = self.bounds[1] - self.bounds[0] if self.bounds else float(sample.abs().max()) or 1.0
        drawn = torch.randn(sample.shape, generator=content_generator(sample, self.seed), dtype=torch.float64)
        return (float(noise[row]) * _JITTER * width * drawn).to(sample.device, sample.dtype)


def _top_besides(logits: Tensor, excluded: Tensor) -> Tensor:
    return logits.scatter(1, excluded[:, None], -torch.inf).argmax(1)


def _wide(values: Tensor, like: Tensor) -> Tensor:
    """(B,) in a shape that broadcasts against (B, ...)."""
    return values.reshape(-1, *[1] * (like.dim() - 1))
