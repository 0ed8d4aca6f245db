"""What an audit says about decisions beyond the flip probability: confidence, the noise they stand, an attack."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from assay.effort import SHARE
from assay.errors import CaptureError
from assay.grade import Grade
from assay.moments.batches import activations
from assay.moments.config import MomentsConfig
from assay.moments.gaussian_attack import GaussianAttack, attack
from assay.moments.levels import Search, noise_level
from assay.moments.probabilities import argmax_probabilities, expected_softmax
from assay.subject import Subject

_SEARCH_BUDGET = 2e9
"""Activations, columns included, that the search for noise levels may propagate; otherwise it interpolates."""
_ATTACK_BUDGET = 1e9
"""The same for the attack."""
_PROPAGATIONS = 16
_COLUMNS = 64
_FEWEST_ATTACKED = 2
_ATTACK_DRAWS = 400


class LevelMoments(Protocol):
    """Moments of the followed outputs at one noise level."""

    @property
    def sigma(self) -> float:
        """Deviation of the noise."""
        ...

    @property
    def mean(self) -> Tensor:
        """(n, m)."""
        ...

    @property
    def covariance(self) -> Tensor:
        """(n, m, m)."""
        ...

    @property
    def grade(self) -> Grade:
        """Of both."""
        ...


@dataclass(frozen=True)
class Standing:
    """How much noise every decision stands.

    Attributes:
        flip: probabilities of a flip that were asked for, F of them.
        share: (n, F) deviation of the noise as a share of the value range; inf where the flip probability is not
            reached up to `highest`.
        highest: largest share looked at.
        searched: whether every level was propagated; otherwise moments were interpolated between the noise levels.
        grade: of the numbers.
    """

    flip: tuple[float, ...]
    share: Tensor
    highest: float
    searched: bool
    grade: Grade


@dataclass(frozen=True)
class Decisions:
    """Answers about decisions, for n inputs and m followed outputs.

    Attributes:
        clean: (n,) softmax of the decision without noise.
        expected: per level, (n,) expected softmax of the decision.
        error: largest standard error of `expected`.
        standing: noise that decisions stand.
        attack: Gaussian attack on the first inputs, or None.
        attacked: positions of the attacked inputs.
        attack_bound: half width of the attack's box, as a share of the value range.
        notes: what was left out, and why.
    """

    clean: Tensor
    expected: tuple[Tensor, ...]
    error: float
    standing: Standing
    attack: GaussianAttack | None
    attacked: Tensor
    attack_bound: float
    notes: tuple[str, ...]


def decide(
    subject: Subject,
    config: MomentsConfig,
    x: Tensor,
    clean: Tensor,
    outputs: Tensor,
    levels: Sequence[LevelMoments],
) -> Decisions:
    """All answers about decisions.

    Args:
        subject: a classifier.
        config: settings.
        x: (n, ...) analysed inputs.
        clean: (n, K) logits without noise.
        outputs: (n, m) followed outputs, the decision first.
        levels: moments by increasing noise.

    Returns:
        Decisions.
    """
    rest = clean.scatter(1, outputs, -torch.inf).logsumexp(1)
    found = [expected_softmax(level.mean, level.covariance, rest=rest, seed=config.seed) for level in levels]
    standing, note = _standing(subject, config, x, clean.gather(1, outputs), levels)
    chosen, why = attacked_inputs(subject, config, len(x))
    bound = config.attack_bound or config.sigmas[-1]
    result = None
    if len(chosen):
        width = bound * subject.preprocessing.value_range
        result = attack(
            subject,
            x[chosen],
            mean_bound=width,
            std_bound=width,
            steps=config.attack_steps,
            rank=_columns(subject, config),
            draws=_ATTACK_DRAWS,
            seed=config.seed,
        )
    return Decisions(
        clean.softmax(1).gather(1, outputs[:, :1])[:, 0],
        tuple(share[:, 0] for share, _ in found),
        max(float(error[:, 0].max()) for _, error in found),
        standing,
        result,
        chosen,
        bound,
        tuple(sentence for sentence in (note, why) if sentence),
    )


def _standing(
    subject: Subject, config: MomentsConfig, x: Tensor, clean: Tensor, levels: Sequence[LevelMoments]
) -> tuple[Standing, str]:
    scale = subject.preprocessing.value_range
    columns = _columns(subject, config)
    work = activations(subject) * len(x) * _PROPAGATIONS * (columns + 10)
    if (
        work <= _SEARCH_BUDGET * SHARE[config.effort]
        and config.method in ("auto", "exact", "gain", "factor")
        and _captured(subject)
    ):
        found = noise_level(
            subject, x, flip=config.flip_levels, method="factor", rank=columns, seed=config.seed, tolerance=0.02,
            fallback=config.fallback,
        )  # fmt: skip
        return Standing(found.flip, found.sigma / scale, found.highest / scale, True, found.grade), ""
    search = Search(
        Interpolated(clean, levels), len(x), config.flip_levels, 1e-3 * scale, levels[-1].sigma, 0.01
    )  # fmt: skip
    sigma, _ = search.run(torch.zeros(len(x), dtype=torch.bool))
    standing = Standing(config.flip_levels, sigma / scale, levels[-1].sigma / scale, False, levels[-1].grade)
    return standing, (
        f"The noise that flips decisions was interpolated between the noise levels, and looked for up to "
        f"{standing.highest:g} of the range only."
    )


class Interpolated:
    """P(flip) between noise levels, from interpolated moments.

    The mean and the covariance per noise variance are linear in the noise variance between neighbouring levels; below
    the first level, the mean goes to the clean outputs.

    Args:
        clean: (n, m) outputs without noise, the decision first.
        levels: by increasing noise.
    """

    def __init__(self, clean: Tensor, levels: Sequence[LevelMoments]) -> None:
        self.variances = torch.tensor([0.0, *(level.sigma**2 for level in levels)], dtype=torch.float64)
        self.means = torch.stack([clean, *(level.mean for level in levels)])
        ratios = [level.covariance / level.sigma**2 for level in levels]
        self.ratios = torch.stack([ratios[0], *ratios])

    def __call__(self, rows: Tensor, sigma: Tensor) -> Tensor:
        """(len(rows),) probability that another output than the first is the largest."""
        variance = sigma.double().square().clamp(max=float(self.variances[-1]))
        upper = torch.searchsorted(self.variances, variance).clamp(1, len(self.variances) - 1)
        start, end = self.variances[upper - 1], self.variances[upper]
        weight = ((variance - start) / (end - start)).to(self.means)
        mean = torch.lerp(self.means[upper - 1, rows], self.means[upper, rows], weight.unsqueeze(1))
        ratio = torch.lerp(self.ratios[upper - 1, rows], self.ratios[upper, rows], weight.reshape(-1, 1, 1))
        shares, _ = argmax_probabilities(mean, ratio * variance.to(ratio).reshape(-1, 1, 1))
        return 1 - shares[:, 0]


def attacked_inputs(subject: Subject, config: MomentsConfig, count: int) -> tuple[Tensor, str]:
    """Positions of the inputs to attack, spread evenly, and why there are none; both may be empty."""
    none = torch.empty(0, dtype=torch.int64)
    if not config.attack_inputs:
        return none, ""
    work = 3 * activations(subject) * config.attack_steps * (_columns(subject, config) + 10)
    affordable = int(_ATTACK_BUDGET * SHARE[config.effort] / work)
    wanted = min(config.attack_inputs, count)
    if "attack_inputs" not in config.model_fields_set:
        if config.effort == "thorough":
            affordable = max(affordable, _FEWEST_ATTACKED)
        if affordable < min(_FEWEST_ATTACKED, wanted):
            return none, "No Gaussian attack, since the model is large; set attack_inputs to run it all the same."
        wanted = min(wanted, affordable)
    return torch.linspace(0, count - 1, wanted).round().long().unique(), ""


def _columns(subject: Subject, config: MomentsConfig) -> int:
    """Columns for the search and the attack: all that a small input needs, else as many as everywhere."""
    size = math.prod(subject.example.shape[1:])
    return max(size, 1) if size <= _COLUMNS else config.rank


def _captured(subject: Subject) -> bool:
    try:
        subject.graph  # noqa: B018  (captured or not is the question)
    except CaptureError:
        return False
    return True
