"""`forensics`: measure tracks, calibrate, look for rival explanations, and say kinks, no evidence, or nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from assay.errors import UsageError
from assay.seeding import content_generator
from assay.smoothness.estimators.sampled import positive, real_array
from assay.smoothness.evidence.calibration import bootstrap, conformal, smooth_curves
from assay.smoothness.evidence.combination import RULES, Combination, combined, holm
from assay.smoothness.evidence.confounders import Caveat, found_in
from assay.smoothness.evidence.result import SCOPE, Forensics, TrackEvidence, Verdict
from assay.smoothness.evidence.statistic import (
    SHORTEST_REACH,
    SHORTEST_TRACK,
    kink_energy,
    kink_shares,
    noise_variance,
)
from assay.smoothness.evidence.tracks import Tracks, with_times

LEAST_POWER = 0.5
MAGNITUDES = 1e-100, 1e100  # of a track; beyond, squares and sixth differences leave the range of doubles
WIDEST = 1.0  # largest scale used over the scale at which the motion bends; beyond, sharp smooth turns pass for kinks


@dataclass(frozen=True)
class _Test:
    p_value: float
    method: str
    power: float
    reason: str


def forensics(
    track: Any,
    *,
    reference: Any = None,
    step: float = 1.0,
    times: Any = None,
    names: Sequence[str] = (),
    level: float = 0.05,
    combination: Combination = "joint",
    replicates: int = 99,
    seed: int = 0,
) -> Forensics:
    """Ask whether tracks have kinks, as the output of a network with ReLU or max pooling does.

    Args:
        track: (n,) samples, (n, m) of m tracks recorded together, or `Tracks`.
        reference: tracks known to be free of kinks, with the same sampling, noise and treatment: a list of (n,) or
            (n, m) arrays or `Tracks`, or one array (n, r) of r tracks. With at least 1 / level - 1 of them p-values are
            conformal; else they come from smooth curves fitted to the track itself.
        step: time between samples.
        times: (n,) instead of `step`.
        names: of the tracks.
        level: of the test.
        combination: ``joint``, ``bonferroni`` or ``harmonic``, see `assay.smoothness.evidence.combination.RULES`.
        replicates: smooth tracks drawn where there are no references.
        seed: of the draws.

    Returns:
        Statistic, p-value, verdict and caveats. Grade: statistical.

    Raises:
        UsageError: for arrays of the wrong shape, unusable references, or arguments out of range.

    Example:
        >>> t = np.arange(500) / 50
        >>> noise = 1e-3 * np.random.default_rng(0).standard_normal(500)
        >>> found = forensics(np.abs(np.sin(t * t / 3)) + noise, step=1 / 50)
        >>> found.verdict, found.p_value, found.method
        ('kinks', 0.01, 'spline bootstrap')
        >>> forensics(np.sin(t) + noise, step=1 / 50).verdict
        'no evidence of kinks'
    """
    if not 0 < level < 1 or replicates < 1 / level - 1:
        raise UsageError(
            f"A test at level {level} needs at least {1 / level - 1:.0f} replicates." if 0 < level < 1 else
            f"A level lies between 0 and 1, got {level}.", where="level, replicates", advice="0.05 and 99 are usual.",
        )  # fmt: skip
    if seed < 0:
        raise UsageError(f"A seed is not negative, got {seed}.", where="seed", advice="Give 0 or a larger one.")
    if combination not in RULES:
        raise UsageError(f"There is no rule {combination!r}.", where="combination", advice=f"Rules: {', '.join(RULES)}")
    tracks = _tracks(track, step, times, names)
    known, remarks = _references(reference, tracks, level)
    values = tracks.values.T
    problems = [tracks.irregular and f"{tracks.irregular}: resample the track to a constant step"] * len(values)
    problems = [problem or _problem(y) for problem, y in zip(problems, values, strict=True)]
    single = [
        _examine(y, name, problem, tracks.step, known, level, replicates, seed)
        for y, name, problem in zip(values, tracks.names, problems, strict=True)
    ]
    tested = [i for i, each in enumerate(single) if not math.isnan(each.p_value)]
    for i, p in zip(tested, holm([single[i].p_value for i in tested]), strict=True):
        single[i] = replace(single[i], adjusted=p)
    return _together(values, single, tracks, known, remarks, level, combination, replicates, seed)


def _together(
    values: np.ndarray, single: list[TrackEvidence], tracks: Tracks, known: list[np.ndarray], remarks: list[str],
    level: float, combination: Combination, replicates: int, seed: int,
) -> Forensics:  # fmt: skip
    usable = [i for i, each in enumerate(single) if each.energy is not None and not _invalid(each, known)]
    caveats = (SCOPE, *remarks, *tracks.notes, *_sentences(single))
    if len(single) == 1 or not usable:
        only, method = single[0], _method(known, len(usable))
        energy = only.energy if len(single) == 1 else None
        reason = only.reason if len(single) == 1 else f"no track was usable; the first: {only.reason}"
        return Forensics(
            energy.share if energy else math.nan, (energy.low, energy.high) if energy else (math.nan, math.nan),
            only.p_value if len(single) == 1 else math.nan, only.verdict if len(single) == 1 else "refused", reason,
            method, "", only.power, level, tuple(single), caveats, tracks.step,
        )  # fmt: skip
    energies = [each.energy.share for i in usable if (each := single[i]).energy is not None]
    group = values[usable]
    coloured = any(_coloured(single[i]) for i in usable)
    statistic = float(kink_shares(group, walk=coloured).share)
    rule = combination
    if rule == "joint" and known and not all(len(each) == len(single) == len(usable) for each in known):
        rule = "bonferroni"  # references that were recorded otherwise say nothing about a joint statistic
    if rule == "joint":
        test = _test(group, known, coloured, level, replicates, seed)
    else:
        tested = [i for i in usable if not math.isnan(single[i].p_value)]
        p_value = combined([single[i].p_value for i in tested], rule)
        draws = sum(map(len, known)) if known else replicates
        floor = len(tested) / (draws + 1) if rule == "bonferroni" else 0.0
        reason = min((single[i].reason for i in usable), key=len)
        if floor > level:
            reason = (
                f"with {draws} {'reference tracks' if known else 'replicates'} no p-value of {len(tested)} tracks "
                f"together can fall below {floor:.2g}: give more of them"
            )
        test = _Test(p_value, _method(known, 1), max(single[i].power for i in usable), reason)
    left = len(single) - len(usable)
    described = f"{rule}: {RULES[rule]}; {len(usable)} of {len(single)} tracks used" + (
        f", {left} left out (see there)" if left else ""
    )
    verdict = _verdict(test, level)
    return Forensics(
        statistic, (min(energies), max(energies)), test.p_value, verdict, test.reason if verdict == "refused" else "",
        test.method, described, test.power, level, tuple(single), caveats, tracks.step,
    )  # fmt: skip


def _examine(
    y: np.ndarray, name: str, problem: str, step: float, known: list[np.ndarray], level: float, replicates: int,
    seed: int,
) -> TrackEvidence:  # fmt: skip
    if problem:
        return TrackEvidence(name, "refused", None, math.nan, math.nan, math.nan, problem, ())
    caveats = found_in(y, step)
    coloured = any(each.name == "coloured noise" for each in caveats)
    own = _seed_of(y, seed)
    energy = kink_energy(y, step, walk=coloured, seed=own)
    fatal = next((each for each in caveats if each.invalidates), None)
    if fatal is not None and not known:
        reason = f"{fatal.name} makes p-values meaningless without reference tracks treated alike"
        return TrackEvidence(name, "refused", energy, math.nan, math.nan, math.nan, reason, caveats)
    test = _test(y[None], known, coloured, level, replicates, own)
    verdict = _verdict(test, level)
    reason = test.reason if verdict == "refused" else ""
    return TrackEvidence(name, verdict, energy, test.p_value, test.p_value, test.power, reason, caveats)


def _test(
    group: np.ndarray, known: list[np.ndarray], coloured: bool, level: float, replicates: int, seed: int
) -> _Test:
    """One p-value for a group of tracks, and what stands against a verdict."""
    found = kink_shares(group, walk=coloured)
    if known:
        against = known if len(group) > 1 else [y[None] for each in known for y in each]
        shares = np.array([float(kink_shares(each, walk=coloured).share) for each in against])
        p_value = conformal(float(found.share), shares)
        weak = p_value > level and not bool(found.resolved)
        reason = "the noise hides every scale at which kinks could be told from motion" if weak else ""
        return _Test(p_value, "conformal", math.nan, reason)
    bent = bend_scale(group, int(found.reach))
    if int(found.reach) > max(SHORTEST_REACH, WIDEST * bent):
        reason = (
            f"the noise hides all scales below {int(found.reach)} samples, and the motion bends in {bent:.0f}: sharp "
            " smooth turns would pass for kinks; reference tracks would decide"
        )
        return _Test(math.nan, "spline bootstrap", math.nan, reason)
    null = bootstrap(group, replicates=replicates, level=level, coloured=coloured, seed=seed)
    reason = ""
    if null.power < LEAST_POWER:
        reason = (
            f"kinks that make a quarter of this track's curvature would be found with probability {null.power:.0%} only"
        )
    return _Test(null.p_value, "spline bootstrap", null.power, reason)


def bend_scale(group: np.ndarray, reach: int) -> float:
    """Samples within which the motion's slope changes by its own size: deviation of its slope over that of its bend.

    Tracks count by their motion over their noise. False alarms of the spline bootstrap on networks with tanh start
    where the reach exceeds it.

    Returns:
        Samples; infinity for straight curves.
    """
    curves = smooth_curves(group, reach) / np.sqrt(np.maximum(noise_variance(group), 1e-300))[:, None]
    bend = float(np.square(np.diff(curves, 2, axis=1)).mean())
    return math.sqrt(float(np.square(np.diff(curves, axis=1)).mean()) / bend) if bend > 0 else math.inf


def _verdict(test: _Test, level: float) -> Verdict:
    if test.p_value <= level:
        return "kinks"
    return "refused" if test.reason or math.isnan(test.p_value) else "no evidence of kinks"


def _problem(y: np.ndarray) -> str:
    """Why a track cannot be measured; empty when it can."""
    bad = np.flatnonzero(~np.isfinite(y))
    if len(bad):
        return f"{len(bad)} values are missing or not finite, the first is sample {bad[0]}: cut the track there"
    if len(y) < SHORTEST_TRACK:
        return f"{len(y)} samples are too few: at least {SHORTEST_TRACK} are needed"
    largest = float(np.abs(y).max())
    if largest > MAGNITUDES[1] or 0 < np.ptp(y) < MAGNITUDES[0]:
        return f"numbers of this size ({largest:.3g}) cannot be squared in double precision: change their unit"
    if np.ptp(y) == 0:
        return "the track is constant"
    if np.abs(np.diff(y, 3)).max() <= 64 * np.finfo(np.float64).eps * np.abs(y).max():
        return "the track is a straight line or a parabola up to rounding"
    return ""


def _tracks(track: Any, step: float, times: Any, names: Sequence[str]) -> Tracks:
    if isinstance(track, Tracks):
        return track
    values = real_array(track, "track")
    if values.ndim == 1:
        values = values[:, None]
    if values.ndim != 2 or not values.size:
        raise UsageError(
            f"Tracks have the shape (n,) or (n, m), got {values.shape}.", where="track", advice="One row per sample."
        )
    if not positive(step):
        raise UsageError(f"The step must be positive, got {step}.", where="step", advice="Give seconds per sample.")
    titles = tuple(names) or tuple(f"track {i}" for i in range(values.shape[1]))
    if len(titles) != values.shape[1]:
        raise UsageError(
            f"There are {len(titles)} names and {values.shape[1]} tracks.", where="names", advice="Give one each."
        )
    tracks = Tracks(values, titles, step)
    return tracks if times is None else with_times(tracks, real_array(times, "times"))


def _references(reference: Any, tracks: Tracks, level: float) -> tuple[list[np.ndarray], list[str]]:
    """Groups (m, n) of usable reference tracks, and remarks; no groups when there are too few of them."""
    if reference is None:
        return [], []
    items = reference if isinstance(reference, list | tuple) else [reference]
    whole = len(items) == 1 and not isinstance(items[0], Tracks)  # one array: every column is a recording of its own
    groups, left = [], 0
    for item in items:
        one = _tracks(item, tracks.step, None, ())
        if isinstance(item, Tracks) and abs(one.step / tracks.step - 1) > 0.01:
            raise UsageError(
                f"Its time step is {one.step:.4g}, that of the tracks {tracks.step:.4g}.",
                where=one.source or "reference", advice="References need the same sampling: resample, or say --rate.",
            )  # fmt: skip
        usable = [y for y in one.values.T if not one.irregular and not _problem(y)]
        left += one.values.shape[1] - len(usable)
        groups += [y[None] for y in usable] if whole else [np.stack(usable)] if usable else []
    remarks = [f"{left} reference tracks were left out: too short, constant, with gaps or irregular."] if left else []
    together = tracks.values.shape[1] > 1 and all(len(each) == tracks.values.shape[1] for each in groups)
    count = len(groups) if together else sum(map(len, groups))
    if together and count < 1 / level - 1 <= sum(map(len, groups)):
        groups = [y[None] for each in groups for y in each]  # too few recordings for a joint test, enough tracks
        count = len(groups)
    if count < 1 / level - 1:
        remarks.append(
            f"{count} usable reference tracks cannot give p = {level:g} (that takes {math.ceil(1 / level - 1)})"
            ": they were not used."
        )
        return [], remarks
    return groups, remarks + _mismatch(tracks.values.T, groups)


def _mismatch(values: np.ndarray, groups: list[np.ndarray]) -> list[str]:
    """Whether the tracks are about as noisy as the references: else they are not exchangeable with them."""
    usable = np.array([y for y in values if not _problem(y)])
    if not len(usable):
        return []

    def relative(rows: np.ndarray) -> np.ndarray:
        return np.sqrt(noise_variance(rows)) / rows.std(-1)

    known = np.array([relative(y) for each in groups for y in each])
    outside = relative(usable)
    low, high = known.min() / 2, known.max() * 2
    count = int(((outside < low) | (outside > high)).sum())
    lengths = {each.shape[1] for each in groups}
    remarks = []
    if count:
        remarks.append(
            f"{count} of {len(usable)} tracks lie outside the references' ratio of noise to motion ({low:.2g} to "
            f"{high:.2g}): the p-value assumes that references are like the track but for its kinks."
        )
    if max(max(lengths), values.shape[1]) > 1.5 * min(min(lengths), values.shape[1]):
        remarks.append("References and tracks differ in length by more than half: cut them alike.")
    return remarks


def _sentences(single: list[TrackEvidence]) -> list[str]:
    """Caveats of all tracks, equal ones once."""
    found: dict[str, list[tuple[str, Caveat]]] = {}
    for each in single:
        for caveat in each.caveats:
            found.setdefault(caveat.name, []).append((each.name, caveat))
    sentences = []
    for name, cases in found.items():
        where = cases[0][0] if len(cases) == 1 else f"{len(cases)} tracks, such as {cases[0][0]}"
        sentences.append(f"{name} ({where}): {cases[0][1].text}")
    return sentences


def _invalid(each: TrackEvidence, known: list[np.ndarray]) -> bool:
    return not known and any(caveat.invalidates for caveat in each.caveats)


def _coloured(each: TrackEvidence) -> bool:
    return any(caveat.name == "coloured noise" for caveat in each.caveats)


def _method(known: list[np.ndarray], usable: int) -> str:
    return ("conformal" if known else "spline bootstrap") if usable else ""


def _seed_of(y: np.ndarray, seed: int) -> int:
    """A seed that belongs to the track, not to its place among others."""
    return content_generator(torch.from_numpy(np.ascontiguousarray(y)), seed).initial_seed()
