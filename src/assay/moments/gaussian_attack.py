"""Gaussian attacks: the noise in a box of means and spreads that changes decisions most, found on analytic moments."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from assay.covariance import Diagonal
from assay.errors import CaptureError, UsageError
from assay.grade import Grade, combine
from assay.intervals import wilson
from assay.moments.answers import output_index
from assay.moments.basis import columns
from assay.moments.batches import activations, slices
from assay.moments.methods import Request
from assay.moments.methods.factor import walk
from assay.moments.probabilities import pairwise_differences
from assay.moments.propagation import checked_input, propagate
from assay.results import Displayed
from assay.subject import Subject

Objective = Literal["logits", "pairwise"]
Method = Literal["auto", "factor", "gain", "sample"]

_SAMPLES = 16
"""Draws per step of method ``sample``."""
_DRAWN_AT_ONCE = 256
_SEARCH_BYTES = 2_000_000_000
"""Memory of one differentiated propagation."""
_SILENT = 0.02
"""Share of a box below which sparsity sets an element to 0: Adam never stops exactly there."""


@dataclass(frozen=True)
class FoolingRate:
    """How often one kind of noise fools the model.

    Attributes:
        noise: which noise.
        rate: share of noisy inputs whose decision changed, or became the target.
        low: lower end of the 95 % Wilson interval over the trials, for these inputs.
        high: upper end.
        trials: inputs times draws; noise without spread needs a single draw per input.

    Example:
        >>> FoolingRate("attack", 0.3, 0.25, 0.36, 400).rate
        0.3
    """

    noise: str
    rate: float
    low: float
    high: float
    trials: int


@dataclass(frozen=True, eq=False)
class GaussianAttack(Displayed):
    """The noise found, and what it does beside noise of other kinds; all rates are sampled.

    Attributes:
        mean: (B, ...) mean of the noise, inside its box.
        std: (B, ...) deviation of the noise, inside its box.
        label: (B,) decision without noise.
        target: (B,) class to reach, or None.
        attacked: (B,) False for inputs that had the target's class already; they count in no rate.
        margin: (B,) analytic objective reached: below 0 the mean logits say the attack succeeds. Logits for the
            objective ``logits``, standard deviations for ``pairwise``.
        objective: (steps + 1,) average margin over the inputs along the search.
        rates: the attack, its mean alone, its spread alone, and isotropic noise of equal energy E|n|^2.
        fooled: (B,) fooling rate of the attack per input.
        energy: (B,) E|n|^2, before any clipping.
        grade: of the margin.
        method: that gave the margin.
    """

    mean: Tensor
    std: Tensor
    label: Tensor
    target: Tensor | None
    attacked: Tensor
    margin: Tensor
    objective: Tensor
    rates: tuple[FoolingRate, ...]
    fooled: Tensor
    energy: Tensor
    grade: Grade
    method: str

    def rate(self, noise: str) -> FoolingRate:
        """The fooling rate of one kind of noise, by name.

        Returns:
            The row of `rates`.

        Raises:
            KeyError: for a noise that was not tried.
        """
        for row in self.rates:
            if row.noise == noise:
                return row
        raise KeyError(f"no noise {noise!r}; there are {[row.noise for row in self.rates]}")


def attack(
    model: nn.Module | Subject,
    x: Tensor,
    *,
    target: Tensor | int | None = None,
    mean_bound: float,
    std_bound: float,
    steps: int = 80,
    lr: float = 0.05,
    objective: Objective = "logits",
    sparsity: float = 0.0,
    smoothness: float = 0.0,
    method: Method = "auto",
    rank: int = 64,
    draws: int = 400,
    clip: bool | None = None,
    seed: int = 0,
) -> GaussianAttack:
    """Find Gaussian noise in a box that changes decisions, and measure how often it does.

    Minimises E g_c - max over j of E g_j (the decision c against its strongest rival), or max over j of E g_j - E g_t
    for a target t, over the noise's mean |m| <= mean_bound and deviation 0 <= s <= std_bound of every input element,
    by Adam with projection on the boxes. Keeps the best point of every input.

    Args:
        model: a classifier, or a Subject.
        x: (B, ...) inputs.
        target: class to reach, an index or (B,); any other decision when None.
        mean_bound: largest absolute mean of the noise, in units of the data; 0 for zero-mean noise.
        std_bound: largest deviation; 0 for a fixed change.
        steps: gradient steps; the step size falls to a tenth along a half cosine.
        lr: first step, as a share of the box.
        objective: ``logits``, the difference of expected logits, or ``pairwise``, the same in standard deviations of
            the difference: its normal distribution function is the probability of each pair.
        sparsity: weight of the sum over elements of |m| + s; elements below 2 % of their boxes are set to 0.
        smoothness: weight of the total variation of m and s over the picture.
        method: ``factor`` (low rank), ``gain`` (full covariances), ``sample`` (16 common draws a step, any model), or
            ``auto``: factor, or sample where the model cannot be captured.
        rank: columns of ``factor``; exact for the first layer with at least as many as input elements.
        draws: noisy copies per input that the fooling rates are measured with.
        clip: clip noisy inputs to the subject's legal range when measuring; by default where it has one. The means of
            the noisy inputs always stay inside it.
        seed: of the draws.

    Returns:
        GaussianAttack.

    Raises:
        UsageError: for boxes, weights or counts that make no sense.

    Source: Bibi, Alfadly, Ghanem, CVPR 2018 (Gaussian adversarial attacks).

    Example:
        >>> found = attack(nn.Identity(), torch.tensor([[1.0, 0.0]]), mean_bound=1.0, std_bound=0.1, steps=60)
        >>> [round(abs(float(m)), 2) for m in found.mean[0]], found.rates[1].rate
        ([1.0, 1.0], 1.0)
    """
    subject, x = checked_input(model, x)
    _check(x, mean_bound, std_bound, steps, lr, objective, sparsity, smoothness, method, draws)
    clean = subject.probe(x)
    label = clean.argmax(1)
    wanted = None if target is None else output_index(target, clean, "target")
    own = label if wanted is None else wanted
    view = _View(subject, _resolved(subject, method), rank, seed)
    parts = []
    for rows in torch.arange(len(x)).split(_together(subject, x, view.method, rank)):
        aim = _Aim(own[rows], wanted is not None, objective == "pairwise")
        box = _Box(x[rows], mean_bound, std_bound, subject.preprocessing.bounds)
        parts.append(_search(view, aim, box, steps, lr, sparsity, smoothness))
    found = _Found(*(torch.cat([getattr(part, name) for part in parts]) for name in ("mean", "std", "margin", "path")))
    attacked = torch.ones_like(label, dtype=torch.bool) if wanted is None else wanted != label
    limits = subject.preprocessing.bounds if clip is None or clip else None
    energy = (found.mean.square() + found.std.square()).flatten(1).sum(1)
    per_element = (energy / x[0].numel()).sqrt().reshape(-1, *(1,) * (x.dim() - 1)).expand(x.shape)
    nothing = torch.zeros_like(x)
    kinds = {
        "attack": (found.mean, found.std),
        "mean alone": (found.mean, nothing),
        "spread alone": (nothing, found.std),
        "isotropic, equal energy": (nothing, per_element),
    }
    measured = {
        name: _fooled(subject, x, mean, std, label, wanted, draws, seed, limits) for name, (mean, std) in kinds.items()
    }
    rows = []
    for name, share in measured.items():
        fixed = not bool((kinds[name][1] > 0).any())
        rows.append(_rate(name, share[attacked], 1 if fixed else draws))
    return GaussianAttack(
        found.mean,
        found.std,
        label,
        wanted,
        attacked,
        found.margin,
        found.path.mean(0),
        tuple(rows),
        measured["attack"],
        energy,
        view.grade,
        view.method,
    )


def _check(
    x: Tensor,
    mean_bound: float,
    std_bound: float,
    steps: int,
    lr: float,
    objective: str,
    sparsity: float,
    smoothness: float,
    method: str,
    draws: int,
) -> None:
    def refuse(what: str, where: str, advice: str) -> None:
        raise UsageError(what, where=where, advice=advice)

    if not (0 <= mean_bound < math.inf and 0 <= std_bound < math.inf and mean_bound + std_bound > 0):
        refuse(
            f"The boxes must be finite and not both empty, got mean_bound={mean_bound:g}, std_bound={std_bound:g}.",
            "mean_bound",
            "Give sizes in units of the data.",
        )
    if steps < 1 or draws < 1 or not 0 < lr <= 1:
        refuse("steps and draws must be at least 1, and lr in (0, 1].", "steps", "Leave the defaults.")
    if objective not in ("logits", "pairwise") or method not in ("auto", "factor", "gain", "sample"):
        refuse(
            f"Unknown objective {objective!r} or method {method!r}.",
            "objective",
            "Objectives: logits, pairwise. Methods: auto, factor, gain, sample.",
        )
    if not (0 <= sparsity < math.inf and 0 <= smoothness < math.inf):
        refuse("sparsity and smoothness must not be negative.", "sparsity", "Leave them at 0 to start with.")
    if smoothness and x.dim() != 4:
        refuse(f"Smoothness needs pictures (B, C, H, W), got shape {tuple(x.shape)}.", "smoothness", "Leave it at 0.")


def _resolved(subject: Subject, method: Method) -> Method:
    if method != "auto":
        return method
    try:
        subject.graph  # noqa: B018  (captured or not is the question)
    except CaptureError:
        return "sample"
    return "factor"


def _together(subject: Subject, x: Tensor, method: str, rank: int) -> int:
    """Inputs whose differentiated propagation fits in memory; each is searched on its own, so nothing else changes."""
    if method == "gain":
        return next(slices(subject, len(x), method, rank)).stop
    copies = _SAMPLES if method == "sample" else min(rank, x[0].numel()) + 10
    return max(1, int(_SEARCH_BYTES / (16 * activations(subject) * copies)))


@dataclass(frozen=True, eq=False)
class _Box:
    """Where the noise may lie: positions u in [-1, 1] and v in [0, 1], times the bounds."""

    x: Tensor
    mean_bound: float
    std_bound: float
    limits: tuple[float, float] | None

    def mean(self, u: Tensor) -> Tensor:
        """Mean of the noise; what leaves the legal range is cut off."""
        mean = self.mean_bound * u
        if self.limits is None:
            return mean
        low, high = self.x.clamp(max=self.limits[0]), self.x.clamp(min=self.limits[1])
        return torch.minimum(torch.maximum(self.x + mean, low), high) - self.x

    def project(self, u: Tensor, v: Tensor) -> None:
        """Back into the boxes, in place."""
        with torch.no_grad():
            if self.mean_bound > 0:
                u.copy_(self.mean(u.clamp(-1, 1)) / self.mean_bound)
            v.clamp_(0, 1)


class _View:
    """Mean, and where wanted covariance, of the logits under given noise, differentiable in both."""

    def __init__(self, subject: Subject, method: Method, rank: int, seed: int) -> None:
        self.subject, self.method, self.rank, self.seed = subject, method, rank, seed
        self.grade = Grade.SAMPLED

    def __call__(self, mean: Tensor, std: Tensor, *, covariance: bool) -> tuple[Tensor, Tensor | None]:
        """Logits' mean (B, K) and covariance (B, K, K) or None."""
        if self.method == "sample":
            return self._sampled(mean, std, covariance)
        if self.method == "gain" or covariance:
            found = propagate(
                self.subject, mean, Diagonal(std.square()), method=self.method, rank=self.rank, seed=self.seed
            )
            self.grade = found.grade
            return found.mean, found.covariance
        # the expected logits alone need no reverse walk
        request = Request(self.subject, mean, Diagonal(std.square()), None, self.rank, 2, self.seed, "linearise")
        start = columns(request.covariance, self.rank, seed=self.seed)
        result, domain, _ = walk(request, start, record=False)
        own = Grade.EXACT if start.exact else Grade.STATISTICAL
        self.grade = combine([own, domain.trust.grade_of(request.graph.output)])
        return result.mean, None

    def _sampled(self, mean: Tensor, std: Tensor, covariance: bool) -> tuple[Tensor, Tensor | None]:
        generator = torch.Generator().manual_seed(self.seed)
        half = torch.randn((_SAMPLES // 2, 1, *mean.shape[1:]), generator=generator, dtype=mean.dtype)
        noisy = mean + torch.cat([half, -half]) * std
        outputs = self.subject.probe.function(noisy.flatten(0, 1)).reshape(_SAMPLES, len(mean), -1)
        if not covariance:
            return outputs.mean(0), None
        centred = outputs - outputs.mean(0)
        return outputs.mean(0), torch.einsum("sbi,sbj->bij", centred, centred) / (_SAMPLES - 1)


@dataclass(frozen=True, eq=False)
class _Aim:
    """What the search minimises."""

    own: Tensor
    targeted: bool
    pairwise: bool

    def margin(self, mean: Tensor, covariance: Tensor | None) -> Tensor:
        """(B,) how far the strongest rival is from winning; below 0 it wins."""
        rows = torch.arange(len(mean))
        lead = mean[rows, self.own].unsqueeze(1) - mean
        if covariance is not None and self.pairwise:
            variance = pairwise_differences(mean, covariance)[1][rows, self.own]
            noisy = variance > 0
            lead = lead / torch.where(noisy, variance, torch.ones_like(variance)).sqrt().clamp(min=1e-6)
        others = lead.scatter(1, self.own.unsqueeze(1), torch.inf)
        closest = others.min(1).values
        return -closest if self.targeted else closest


@dataclass(frozen=True, eq=False)
class _Found:
    mean: Tensor
    std: Tensor
    margin: Tensor
    path: Tensor
    """(B, steps + 1) margin along the search."""


def _search(view: _View, aim: _Aim, box: _Box, steps: int, lr: float, sparsity: float, smoothness: float) -> _Found:
    """Adam with projection; the best penalised objective of every input along the way."""
    x = box.x
    u = torch.zeros_like(x).requires_grad_()
    v = torch.full_like(x, 0.5).requires_grad_()
    optimiser = torch.optim.Adam([u, v], lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps, eta_min=0.1 * lr)
    best = torch.full((len(x),), torch.inf, dtype=x.dtype)
    kept = [u.detach().clone(), v.detach().clone()]
    history = []
    for step in range(steps + 1):
        with torch.enable_grad():
            mean, std = box.mean_bound * u, box.std_bound * v
            margin = aim.margin(*view(x + mean, std, covariance=aim.pairwise))
            loss = margin + _penalty(mean, std, sparsity, smoothness)
        better = loss.detach() < best
        best = torch.where(better, loss.detach(), best)
        shaped = better.reshape(-1, *(1,) * (x.dim() - 1))
        kept = [torch.where(shaped, now.detach(), before) for now, before in zip((u, v), kept, strict=True)]
        history.append(margin.detach())
        if step == steps:
            break
        optimiser.zero_grad()
        gradients = torch.autograd.grad(loss.sum(), (u, v), allow_unused=True)
        for tensor, gradient in zip((u, v), gradients, strict=True):
            tensor.grad = torch.zeros_like(tensor) if gradient is None else gradient
        optimiser.step()
        schedule.step()
        box.project(u, v)
    if sparsity:
        kept = [torch.where(one.abs() < _SILENT, torch.zeros_like(one), one) for one in kept]
    mean, std = box.mean_bound * kept[0], box.std_bound * kept[1]
    with torch.no_grad():
        margin = aim.margin(*view(x + mean, std, covariance=aim.pairwise))
    return _Found(mean, std, margin, torch.stack(history, 1))


def _penalty(mean: Tensor, std: Tensor, sparsity: float, smoothness: float) -> Tensor:
    total = torch.zeros(len(mean), dtype=mean.dtype)
    if sparsity:
        total = total + sparsity * (mean.abs() + std).flatten(1).sum(1)
    if smoothness:
        for picture in (mean, std):
            total = total + smoothness * sum(picture.diff(dim=axis).abs().flatten(1).sum(1) for axis in (-2, -1))
    return total


def _fooled(
    subject: Subject,
    x: Tensor,
    mean: Tensor,
    std: Tensor,
    label: Tensor,
    target: Tensor | None,
    draws: int,
    seed: int,
    limits: tuple[float, float] | None,
) -> Tensor:
    """(B,) share of noisy copies with another decision than the label, or with the target."""
    if not bool((std > 0).any()):
        draws = 1
    shares = []
    for row in range(len(x)):
        generator = torch.Generator().manual_seed(seed + row)
        hits = 0
        for start in range(0, draws, _DRAWN_AT_ONCE):
            count = min(_DRAWN_AT_ONCE, draws - start)
            noise = torch.randn((count, *x.shape[1:]), generator=generator, dtype=x.dtype)
            noisy = x[row] + mean[row] + std[row] * noise
            if limits is not None:
                noisy = noisy.clamp(*limits)
            decided = subject.probe(noisy).argmax(1)
            hits += int((decided != label[row] if target is None else decided == target[row]).sum())
        shares.append(hits / draws)
    return torch.tensor(shares, dtype=torch.float64)


def _rate(noise: str, shares: Tensor, draws: int) -> FoolingRate:
    trials = len(shares) * draws
    if not trials:
        return FoolingRate(noise, math.nan, math.nan, math.nan, 0)
    rate = float(shares.mean())
    return FoolingRate(noise, rate, *wilson(rate, trials), trials)
