"""Gains that last: the best filter chosen on some samples, tested on others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from assay.errors import UsageError
from assay.filtering.bootstrap import content_key, interval, resampled_means
from assay.filtering.recording import Baseline, Recording, Split
from assay.filtering.scores import performance
from assay.results import Displayed


@dataclass(frozen=True)
class Gain(Displayed):
    """The best threshold among all filters of a unit, as chosen and as tested.

    Attributes:
        filter: which filter.
        threshold: index of the threshold.
        stress: its stress coordinate, between 0 and 1.
        chosen: performance p on the samples it was chosen on; biased upwards, being the best of many.
        held_out: performance on the other samples; unbiased.
        low: lower end of the interval of `held_out`.
        high: upper end.
        antifragile: whether p > 1 where it was chosen and the whole interval lies above 1 on the others.
    """

    filter: str
    threshold: int
    stress: float
    chosen: float
    held_out: float
    low: float
    high: float
    antifragile: bool


def held_out_gain(
    recordings: Mapping[str, Recording],
    baseline: Baseline,
    *,
    split: Split = "adversarial",
    chosen_on: np.ndarray | None = None,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> Gain:
    """Whether some threshold makes the network better than unfiltered, on samples that had no part in choosing it.

    The largest of 75 performances exceeds 1 by luck alone; a class drawn from it needs samples of its own.

    Args:
        recordings: by filter name.
        baseline: the unfiltered network on the same samples.
        split: ``clean`` or ``adversarial``.
        chosen_on: (N,) bool, the samples to choose on; None takes a random half, the same for every unit.
        level: probability that the interval covers.
        draws: bootstrap resamples.
        seed: of the half and the resamples, together with the values of the baseline.

    Returns:
        The threshold with the best performance where it was chosen (the first of equals), tested on the other samples.

    Raises:
        NumericalError: where performance is undefined on either half.
        UsageError: for recordings or a choice that do not fit the baseline, or when no filter changes a weight.

    Example:
        >>> baseline = Baseline(np.tile([True, False], 50))
        >>> better = Recording(np.stack([baseline.clean, np.ones(100, bool)]), None, np.array([0.9, 0.8]))
        >>> gain = held_out_gain({"high": better}, baseline, split="clean")
        >>> gain.threshold, gain.antifragile
        (1, True)
    """
    values = baseline.split(split)
    if values is None or not recordings or not 0 < level < 1 or draws < 1:
        raise UsageError(
            f"There is nothing to test with split={split!r}, level={level}, draws={draws}.",
            where="held_out_gain",
            advice="Give recordings and a baseline of this split, 0 < level < 1 and at least one draw.",
        )
    for name, recording in recordings.items():
        recording.check(baseline, name)
    key = content_key(baseline.clean, baseline.adversarial, seed=seed)
    chosen_on = _half(len(values), key) if chosen_on is None else np.asarray(chosen_on)
    if chosen_on.shape != values.shape or chosen_on.dtype != bool or chosen_on.all() or not chosen_on.any():
        raise UsageError(
            "chosen_on must be True for some samples and False for others.",
            where="chosen_on",
            advice=f"Give {len(values)} booleans.",
        )
    best: tuple[float, str, int] | None = None
    for name, recording in recordings.items():
        p = performance(_take(recording, chosen_on), _take_baseline(baseline, chosen_on), split)
        assert recording.changed is not None
        p = np.where(recording.changed > 0, p, -np.inf)
        index = int(p.argmax())
        if np.isfinite(p[index]) and (best is None or p[index] > best[0]):
            best = (float(p[index]), name, index)
    if best is None:
        raise UsageError("No filter changes a weight.", where="recordings", advice="Choose another unit.")
    chosen, name, index = best
    rest, others = _take(recordings[name], ~chosen_on), _take_baseline(baseline, ~chosen_on)
    held_out = float(performance(rest, others, split)[index])
    current, base = rest.split(split), others.split(split)
    assert current is not None
    assert base is not None
    means = resampled_means(np.stack([current[index], base], 1), draws, key + b"held out")
    with np.errstate(divide="ignore", invalid="ignore"):
        drawn = means[:, 0] / means[:, 1] if baseline.higher_is_better else means[:, 1] / means[:, 0]
    low, high = interval(drawn, held_out, level)
    stress = index / max(1, len(rest.clean) - 1)
    return Gain(name, index, stress, chosen, held_out, low, high, chosen > 1 and low > 1)


def _half(count: int, key: bytes) -> np.ndarray:
    """A random half of the samples."""
    generator = np.random.Generator(np.random.PCG64(int.from_bytes(key, "little")))
    picked = np.zeros(count, dtype=bool)
    picked[generator.permutation(count)[: (count + 1) // 2]] = True
    return picked


def _take(recording: Recording, samples: np.ndarray) -> Recording:
    attacked = None if recording.adversarial is None else recording.adversarial[:, samples]
    return Recording(recording.clean[:, samples], attacked, recording.density, recording.changed)


def _take_baseline(baseline: Baseline, samples: np.ndarray) -> Baseline:
    attacked = None if baseline.adversarial is None else baseline.adversarial[samples]
    return Baseline(baseline.clean[samples], attacked, baseline.higher_is_better)
