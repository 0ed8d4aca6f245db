"""Forensics on simulated tracks: areas under the ROC curve, false positives, refusals, confounders.

    python benchmarks/bench_forensics.py [--quick] [--only random,trained,ablation,conformal,bootstrap,confounders]

601 samples over 12 units of time, tracks scaled to unit deviation, white noise added. `share` is the statistic of
assay; its rivals in the same run are `second` (second differences over 1 to 16 samples) and `heights` (sum of local
maxima of second differences). 95 % intervals by DeLong, or Newcombe at 0 and 1.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from _common import Table, arguments_of, save
from scipy.optimize import nnls
from scipy.special import comb

from assay.boundary.detection.calibration import auc
from assay.smoothness.estimators.sampled import smp_sampled
from assay.smoothness.evidence.confounders import found_in
from assay.smoothness.evidence.statistic import kink_shares
from assay.smoothness.evidence.verdict import forensics

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.support import smoothness_forensics as made

SECTIONS = ("random", "trained", "ablation", "conformal", "bootstrap", "confounders")
Sets = dict[str, np.ndarray]
Statistic = Callable[[np.ndarray], np.ndarray]


def share(tracks: np.ndarray) -> np.ndarray:
    return kink_shares(tracks[:, None, :]).share


def heights(tracks: np.ndarray) -> np.ndarray:
    return np.array([smp_sampled(y, made.STEP, form="height") for y in tracks])


def of_order(order: int, reach: int) -> Statistic:
    """Share from differences of an order; scales up to `reach` samples, or to ten times the noise when it is zero."""
    signs = [(-1) ** j * comb(order, j) for j in range(order + 1)]
    lags = np.abs(np.subtract.outer(range(order + 1), range(order + 1))) ** 3.0
    part = (signs @ lags @ signs) / 8  # of second differences it is 8, and their kink term B k^3
    flat = comb(2 * order, order)

    def one(y: np.ndarray) -> float:
        noise = np.square(np.diff(y, 6)).mean() / 924
        found: list[float] = []
        for k in range(1, (reach or 60) + 1):
            wide = y
            for _ in range(order):
                wide = wide[k:] - wide[:-k]
            found.append(float(np.square(wide).mean()))
            if not reach and k >= 8 and found[-1] > 10 * flat * noise:
                break
        k = np.arange(1.0, len(found) + 1)
        columns = [flat + 0 * k, part * k**3, k ** (2 * order), -(k ** (2 * order + 2))]
        design = np.stack(columns, 1) / np.array(found)[:, None]
        size = np.abs(design).max(0)
        c = nnls(design / size, np.ones(len(k)))[0] / size
        at = len(k) / 4
        own = c[1] * part * at**3
        return own / max(own + c[2] * at ** (2 * order), 1e-300)

    return lambda tracks: np.array([one(y) for y in tracks])


def noisy(sets: Sets, noise: float, seed: int = 5) -> Sets:
    rng = np.random.default_rng(seed)
    return {name: y + noise * rng.standard_normal(y.shape) for name, y in sets.items()}


def area(clean: np.ndarray, suspect: np.ndarray) -> tuple[str, float]:
    found = auc(clean, suspect)
    return f"{found.value:.3f} ({found.low:.3f}-{found.high:.3f})", found.value


def areas(title: str, sets: Sets, kinked: str, noises: tuple[float, ...], statistics: dict[str, Statistic]) -> Table:
    smooth = [name for name in sets if name != kinked]
    table = Table(f"{title}: AUC of {kinked} against", ("noise", "statistic", *smooth))
    for noise in noises:
        tracks = noisy(sets, noise)
        for name, statistic in statistics.items():
            scores = {each: statistic(y) for each, y in tracks.items()}
            cells = [area(scores[each], scores[kinked]) for each in smooth]
            table.add(f"{noise:g}", name, *(c for c, _ in cells), auc=[v for _, v in cells])
    return table


def random_sets(count: int) -> Sets:
    rng = np.random.default_rng(1)
    makers = {"relu": made.relu_tracks, "tanh": made.tanh_tracks, "gp": made.gp_tracks}
    return {name: make(rng, count) for name, make in makers.items()}


def trained_recordings(paths: int, seeds: int, scales: tuple[float, ...]) -> dict[float, Sets]:
    """(paths, 2, n) recordings of every kind of network along the same motions; networks take turns."""
    kinds = (("relu", "max"), ("tanh", "avg"), ("softplus", "avg"), ("tanh", "max"))
    networks = {kind: [made.trained(*kind, seed) for seed in range(seeds)] for kind in kinds}
    found: dict[float, Sets] = {}
    for scale in scales:
        rng, rows = np.random.default_rng(11), {}
        for i in range(paths):
            path = made.motion(rng, scale)
            rows.setdefault("truth", []).append(((path[0] - 10) / 5).T.numpy())
            with torch.no_grad():
                x = made.blobs(*path)
                for kind, group in networks.items():
                    rows.setdefault("+".join(kind), []).append(group[i % seeds](x).T.numpy())
        found[scale] = {name: made.unit(np.array(y)) for name, y in rows.items()}
    return found


def single(recordings: Sets, kinds: tuple[str, ...] = ("relu+max", "tanh+avg", "softplus+avg", "truth")) -> Sets:
    return {name: recordings[name].reshape(-1, recordings[name].shape[-1]) for name in kinds}


def conformal_table(sets: Sets, noises: tuple[float, ...]) -> Table:
    table = Table(
        "Conformal at level 0.05, a smooth half of the pool as references, mean over 20 halves",
        ("noise", "references", "false positives pooled", "by class", "power on relu"),
    )
    rng = np.random.default_rng(9)
    for noise in noises:
        scores = {name: share(y) for name, y in noisy(sets, noise).items()}
        smooth = [name for name in scores if name != "relu"]
        wrong, power = {name: [] for name in smooth}, []
        for _ in range(20):
            halves = {name: np.array_split(rng.permutation(scores[name]), 2) for name in smooth}
            known = np.concatenate([halves[name][0] for name in smooth])
            for name in smooth:
                wrong[name].append(rejected(halves[name][1], known))
            power.append(rejected(scores["relu"], known))
        pooled = float(np.mean([np.mean(each) for each in wrong.values()]))
        allowed = 0.05 + 2 * math.sqrt(0.05 * 0.95 / sum(len(scores[name]) // 2 for name in smooth))
        table.add(
            f"{noise:g}",
            str(len(known)),
            f"{pooled:.3f} (allowed {allowed:.3f})",
            ", ".join(f"{name} {np.mean(each):.3f}" for name, each in wrong.items()),
            f"{np.mean(power):.3f}",
            false=pooled,
            allowed=allowed,
        )
    return table


def rejected(values: np.ndarray, known: np.ndarray) -> float:
    return float(((1 + (known[None] >= values[:, None]).sum(1)) / (len(known) + 1) <= 0.05).mean())


def verdict_table(title: str, cases: Sets, **options: object) -> Table:
    table = Table(title, ("tracks", "n", "kinks", "no evidence", "refused", "named"))
    for name, tracks in cases.items():
        results = [forensics(y, step=made.STEP, **options) for y in tracks]
        verdicts = Counter(each.verdict for each in results)
        named = Counter(c.name for y in tracks for c in found_in(y))
        rates = [verdicts[v] / len(tracks) for v in ("kinks", "no evidence of kinks", "refused")]
        told = ", ".join(f"{k} {v / len(tracks):.2f}" for k, v in named.most_common())
        table.add(name, str(len(tracks)), *(f"{rate:.2f}" for rate in rates), told or "-", rates=rates)
    return table


def confounders(count: int, noise: float = 1e-3) -> Sets:
    rng = np.random.default_rng(21)
    gp, relu = made.gp_tracks(rng, count), made.relu_tracks(rng, count)
    white = noise * rng.standard_normal(gp.shape)
    cases = {"gp, white noise": gp + white, "relu, white noise": relu + white}
    cases["gp, AR(1) noise of 5 samples"] = gp + noise * made.coloured(rng, gp.shape)
    cases["relu, AR(1) noise of 5 samples"] = relu + noise * made.coloured(rng, gp.shape)
    cases |= {f"gp, {name}": apply(gp + white) for name, apply in made.FILTERS.items()}
    cases["gp, exponential 0.4"] = made.exponential(gp + white)
    cases["relu, Savitzky-Golay 11, 3"] = made.FILTERS["Savitzky-Golay 11, 3"](relu + white)
    cases["gp, linear key frames every 12"] = made.key_framed(gp, 12) + white
    cases["gp, cubic key frames every 12"] = made.key_framed(gp, 12, smooth=True) + white
    cases["gp, cubic key frames, no noise"] = made.key_framed(gp, 12, smooth=True)
    cases |= {f"gp, grid of {q:g} sd": np.round(gp / q) * q for q in (0.001, 0.01, 0.1)}
    spikes = (rng.random(gp.shape) < 0.01) * rng.standard_normal(gp.shape) * 0.05
    cases["gp, 1 % outliers of 0.05 sd"] = gp + white + spikes
    cases["gp, every sample twice"] = np.repeat(gp[:, ::2] + white[:, ::2], 2, axis=1)
    return cases


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default=",".join(SECTIONS), help=f"of {', '.join(SECTIONS)}")
    arguments = arguments_of(parser)
    only, quick = set(arguments.only.split(",")), arguments.quick
    count, paths, few = (40, 6, 4) if quick else (200, 60, 20)
    noises = (1e-2, 3e-2) if quick else (1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
    rivals: dict[str, Statistic] = {"share": share, "second": of_order(2, 16), "heights": heights}
    tables = []
    if "random" in only:
        tables.append(areas("Random networks, width 16, depth 2", random_sets(count), "relu", noises, rivals))
    if only & {"trained", "ablation", "bootstrap"}:
        recordings = trained_recordings(paths, 1 if quick else 3, (1.0, 2.4))
        for scale, found in recordings.items():
            title = f"Trained networks, motion of time scale {scale:g}"
            if "trained" in only:
                chosen = noises if quick else (0.0, 1e-3, 3e-3, 1e-2, 3e-2)
                tables.append(areas(title, single(found), "relu+max", chosen, rivals))
                both = {name: found[name] for name in ("relu+max", "tanh+avg", "softplus+avg", "truth")}
                joint = {"both coordinates": lambda tracks: kink_shares(tracks).share}
                tables.append(areas(f"{title}, both coordinates", both, "relu+max", (1e-2, 3e-2), joint))
                tables.append(
                    areas(f"{title}, max pools alone", single(found, ("tanh+max", "tanh+avg", "truth")), "tanh+max",
                          (0.0, 1e-3, 3e-3), {"share": share, "heights": heights})
                )  # fmt: skip
            if "ablation" in only:
                tried = {f"order {o}, {f'1 to {r}' if r else 'to ten times the noise'}": of_order(o, r)
                         for o in (2, 3, 4) for r in (16, 32, 48, 0)}  # fmt: skip
                tables.append(areas(f"{title}: what was tried", single(found), "relu+max", (1e-2, 3e-2), tried))
    if "conformal" in only:
        tables.append(conformal_table(random_sets(40 if quick else 450), noises))
    if "bootstrap" in only:
        sets = random_sets(few) | {n: y[:few] for n, y in single(recordings[2.4], ("relu+max", "tanh+avg")).items()}
        for noise in noises[-2:] if quick else (1e-3, 1e-2, 3e-2, 1e-1):
            tables.append(verdict_table(f"Spline bootstrap, noise {noise:g}", noisy(sets, noise)))
    if "confounders" in only:
        tables.append(verdict_table("Confounders, noise 0.001", confounders(few)))
    save(arguments.out, tables, samples=made.SAMPLES, length=made.LENGTH)


if __name__ == "__main__":
    main()
