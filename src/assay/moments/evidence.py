"""Everything the moments analysis computes, before it is put into words, tables and figures."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from assay.effort import SHARE
from assay.errors import CaptureError, SubjectError
from assay.grade import Grade, combine
from assay.moments.batches import activations, slices
from assay.moments.config import MomentsConfig
from assay.moments.decisions import Decisions, decide
from assay.moments.effort import draws as draws_of
from assay.moments.effort import fitted
from assay.moments.layers import average_layers
from assay.moments.maps import SensitivityMap, sensitivity_map
from assay.moments.methods import Request
from assay.moments.methods.monte_carlo import draw_outputs
from assay.moments.noise import as_covariance
from assay.moments.probabilities import argmax_probabilities, candidates
from assay.moments.propagation import propagate
from assay.moments.result import LayerNoise, Moments
from assay.progress import Progress
from assay.subject import Subject

_ALL_OUTPUTS = 64
_PAIR_BUDGET = 6e8
"""Pairs of units an audit may propagate exactly before `auto` turns to the low-rank method."""
_SHIFT_BUDGET = 5e7
"""Activations, columns included, kept for the mean shift of one map: about a gigabyte."""
_SHIFT_SKETCHES = 4
_MAP_COLUMNS = 64

_SAMPLES = 1000
"""Draws of method ``mc`` when no check says how many."""


@dataclass(frozen=True)
class Level:
    """One noise level over all inputs; n inputs, m followed outputs each.

    Attributes:
        sigma: deviation of the noise in units of the data.
        share: the same as a share of the value range.
        mean: (n, m) propagated mean.
        covariance: (n, m, m) propagated covariance.
        variance: (n, m) its diagonal.
        argmax: (n, m) probability that each followed output is the largest; empty for regression.
        sampled_mean: (n, m) from `draws` samples, or None.
        sampled_variance: (n, m), or None.
        sampled_flip: (n,) share of draws with another decision than the clean one, or None.
        layers: noise per layer.
        grade: of the propagated numbers.
        method: that ran, with the reason.
    """

    sigma: float
    share: float
    mean: Tensor
    covariance: Tensor
    variance: Tensor
    argmax: Tensor
    sampled_mean: Tensor | None
    sampled_variance: Tensor | None
    sampled_flip: Tensor | None
    layers: tuple[LayerNoise, ...]
    grade: Grade
    method: str
    reason: str

    @property
    def flip(self) -> Tensor:
        """(n,) probability that the decision changes; the clean decision is the first followed output."""
        return 1 - self.argmax[:, 0]


@dataclass(frozen=True)
class Evidence:
    """All levels, over the same inputs.

    Attributes:
        subject: what was analysed.
        config: how.
        rows: indices of the inputs in the data.
        clean: (n, K) outputs without noise.
        outputs: (n, m) indices of the followed outputs, the clean decision first for classifiers.
        levels: by increasing noise.
        maps: sensitivity maps of the first inputs at the largest level.
        decisions: confidence, the noise that decisions stand, and an attack; None for regression.
        draws: samples per input and level of the check; 0 for none.
        warnings: for the reader.
    """

    subject: Subject
    config: MomentsConfig
    rows: Tensor
    clean: Tensor
    outputs: Tensor
    levels: tuple[Level, ...]
    maps: SensitivityMap | None
    decisions: Decisions | None
    draws: int
    warnings: tuple[str, ...]

    @property
    def classifier(self) -> bool:
        """Whether the outputs are logits."""
        return self.subject.task == "classification"


def collect(subject: Subject, config: MomentsConfig, progress: Progress | None) -> Evidence:
    """Run propagation, its check by sampling, and the maps.

    Returns:
        The evidence.

    Raises:
        SubjectError: without data.
    """
    if subject.data is None:
        raise SubjectError("Moments need data.", where=subject.name, advice="Give inputs with --data.")
    config, less = fitted(config, subject)
    rows = torch.linspace(0, len(subject.data) - 1, min(config.inputs, len(subject.data))).round().long().unique()
    x = subject.data.inputs[rows]
    clean = torch.cat([subject.probe(part) for part in x.split(16)])
    outputs = _followed(subject, config, clean)
    draws = draws_of(config, subject, len(x))
    total = len(x) * len(config.sigmas) + 2
    report = progress or (lambda done, total, text: None)
    levels = []
    for index, share in enumerate(config.sigmas):
        levels.append(
            _level(
                subject,
                config,
                x,
                outputs,
                share,
                draws,
                lambda done, text, i=index: report(i * len(x) + done, total, text),
            )
        )
    maps, note = _maps(subject, config, x, outputs)
    report(total - 1, total, "sensitivity maps")
    decisions = None
    if subject.task == "classification" and clean.shape[1] > 1:
        decisions = decide(subject, config, x, clean, outputs, levels)
    report(total, total, "noise that decisions stand")
    notes = (*less, *_warnings(subject, levels), *note, *(decisions.notes if decisions is not None else ()))
    return Evidence(subject, config, rows, clean, outputs, tuple(levels), maps, decisions, draws, notes)


def _followed(subject: Subject, config: MomentsConfig, clean: Tensor) -> Tensor:
    count = clean.shape[1]
    if subject.task != "classification":
        return torch.arange(min(count, _ALL_OUTPUTS)).expand(len(clean), -1)
    return candidates(clean, clean.argmax(1), count if count <= _ALL_OUTPUTS else config.top)


def _level(
    subject: Subject,
    config: MomentsConfig,
    x: Tensor,
    outputs: Tensor,
    share: float,
    draws: int,
    report: Callable[[int, str], None],
) -> Level:
    sigma = share * subject.preprocessing.value_range
    parts: list[Moments] = []
    sampled: list[tuple[Tensor, Tensor, Tensor]] = []
    done = 0
    method = _method(subject, config, len(x))
    for chunk in slices(subject, len(x), method, config.rank):
        moments = propagate(
            subject,
            x[chunk],
            sigma**2,
            method=method,
            outputs=outputs[chunk],
            rank=config.rank,
            samples=draws or _SAMPLES,
            seed=config.seed,
            fallback=config.fallback,
        )
        parts.append(moments)
        for row in range(*chunk.indices(len(x))):
            if draws:
                sampled.append(_sample(subject, config, x, outputs, row, sigma, draws))
            done += 1
            report(done, f"noise {share:g}")
    mean = torch.cat([part.mean for part in parts])
    covariance = torch.cat([part.covariance for part in parts])
    shares = (
        argmax_probabilities(mean, covariance)[0]
        if subject.task == "classification"
        else mean.new_zeros((len(mean), 0))
    )
    checks = [torch.stack(values) for values in zip(*sampled, strict=True)] if sampled else [None, None, None]
    return Level(
        sigma,
        share,
        mean,
        covariance,
        covariance.diagonal(dim1=1, dim2=2),
        shares,
        checks[0],
        checks[1],
        checks[2],
        average_layers([part.layers for part in parts], [len(part.mean) for part in parts]),
        combine(part.grade for part in parts),
        parts[0].method,
        parts[0].reason,
    )


def _sample(
    subject: Subject, config: MomentsConfig, x: Tensor, outputs: Tensor, row: int, sigma: float, draws: int
) -> tuple[Tensor, Tensor, Tensor]:
    # draws of their own for every input, so errors average out over inputs and their spread tells how well; and
    # others than
    # those of method "mc", which would agree with itself
    alone = x[row : row + 1]
    request = Request(
        subject, alone, as_covariance(sigma**2, alone), None, 1, draws, config.seed + 1 + row, "linearise"
    )
    values = draw_outputs(request, 0)
    followed = values[:, outputs[row]]
    flipped = (values.argmax(1) != outputs[row, 0]).to(values.dtype).mean()
    return followed.mean(0), followed.var(0), flipped


def _method(subject: Subject, config: MomentsConfig, count: int) -> str:
    """`auto` by the cost of the whole audit, not of one call."""
    if config.method != "auto":
        return config.method
    try:
        pairs = sum(node.spec.size_per_sample**2 for node in subject.graph.layers)
    except CaptureError:
        return "auto"
    return "auto" if pairs * count * len(config.sigmas) <= _PAIR_BUDGET * SHARE[config.effort] else "factor"


def _maps(
    subject: Subject, config: MomentsConfig, x: Tensor, outputs: Tensor
) -> tuple[SensitivityMap | None, tuple[str, ...]]:
    if not config.maps or subject.preprocessing.value_range <= 0:
        return None, ()
    sigma = config.sigmas[-1] * subject.preprocessing.value_range
    versus = outputs[: config.maps, 1] if subject.task == "classification" and outputs.shape[1] > 1 else None
    rank = max(config.rank, _MAP_COLUMNS) if x[0].numel() <= _MAP_COLUMNS else config.rank
    shifts = activations(subject) * (rank + 10) <= _SHIFT_BUDGET * SHARE[config.effort]
    parts = [
        sensitivity_map(
            subject,
            x[i : i + 1],
            sigma**2,
            target=outputs[i : i + 1, 0],
            versus=None if versus is None else versus[i : i + 1],
            rank=rank,
            mean_shift=shifts,
            sketches=_SHIFT_SKETCHES,
        )
        for i in range(min(config.maps, len(x)))
    ]
    joined = SensitivityMap(
        torch.cat([part.variance_share for part in parts]),
        torch.cat([part.jacobian for part in parts]),
        torch.cat([part.variance for part in parts]),
        torch.cat([part.explained for part in parts]),
        _joined([part.mean_shift for part in parts]),
        _joined([part.class_mean_shift for part in parts]),
        combine(part.grade for part in parts),
    )
    note = "No maps of the mean shift, since the model is large." if not shifts else ""
    return joined, (note,) if note else ()


def _joined(parts: list[Tensor | None]) -> Tensor | None:
    present = [part for part in parts if part is not None]
    return torch.cat(present) if len(present) == len(parts) else None


def _warnings(subject: Subject, levels: list[Level]) -> tuple[str, ...]:
    notes = []
    bounds = subject.preprocessing.bounds
    if bounds is not None and subject.data is not None:
        notes.append(
            f"Noise is Gaussian and not clipped to the data's range {bounds[0]:g} to {bounds[1]:g}; real noise "
            f"often is."
        )
    if levels[0].method in ("linearize",) and not levels[0].layers:
        notes.append(f"No per-layer numbers, since {levels[0].reason}.")
    approximated = [row.place for row in levels[0].layers if row.grade in (Grade.LINEARISED, Grade.SAMPLED)]
    if approximated:
        notes.append(f"From {approximated[0]} on, numbers rest on operators without a rule, which were approximated.")
    return tuple(notes)


def noise_floor(draws: int) -> float:
    """Mean absolute error, in deviations, that sampling alone has."""
    return math.sqrt(2 / math.pi / draws)
