"""Selective retraining against its controls: 2 data sets, 3 networks, 5 seeds, clean and half-attacked batches.

Every seed trains a checkpoint of its own (start, order of batches), labels its units on validation samples, and
continues from there with `assay.filtering.retrain`: all units, the robust and antifragile ones, the others, a random
choice of equal size, and the least robust-critical ones. Units whose class is undecided count by their score
(rule ``score``, the library's) or are not chosen (rule ``certain``). Differences are paired within a seed; intervals
are over seeds.

    python benchmarks/bench_retraining.py [--quick] [--only digits/cnn] [--out FILE]
"""

from __future__ import annotations

import argparse
import gzip
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from _common import OUT, Table, arguments_of, save
from torch import Tensor, nn
from torch.nn import functional

from assay.attacks import auto_epsilon
from assay.filtering.analysis import analyse
from assay.filtering.retraining import Retraining, paired_difference, retrain
from assay.subject import Data, Subject

FASHION = Path("/usr/share/datasets/fashion-mnist")  # Debian package dataset-fashion-mnist
RULES = ("score", "certain")  # undecided units count by their score, or are not chosen
ARMS = ("all", "selective", "complement", "random", "criticality")
CONTRASTS = (*(("selective", arm) for arm in ("all", "random", "complement", "criticality", "before")),
             ("all", "before"))  # fmt: skip
SETTINGS = {"clean": 0.0, "half FGSM": 0.5}
Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Set:
    """A data set cut in three, and how long to train on it."""

    train: Pair
    validation: Pair
    test: Pair
    epochs: int
    further: int


def digits_set() -> Set:
    from sklearn.datasets import load_digits

    found = load_digits()
    x = torch.tensor(found.images, dtype=torch.float32)[:, None] / 16  # type: ignore[union-attr]
    y = torch.tensor(found.target)  # type: ignore[union-attr]
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    x, y = x[order], y[order]
    return Set((x[:1000], y[:1000]), (x[1000:1400], y[1000:1400]), (x[1400:], y[1400:]), 30, 8)


def fashion_set() -> Set:
    """2,000 / 400 / 600 pictures, averaged to 14 x 14 to save time; the test pictures are from the test file."""
    train, test = (_idx(FASHION, part) for part in ("train", "t10k"))
    return Set(
        (train[0][:2000], train[1][:2000]),
        (train[0][2000:2400], train[1][2000:2400]),
        (test[0][:600], test[1][:600]),
        15,
        4,
    )


def _idx(folder: Path, part: str) -> Pair:
    with gzip.open(folder / f"{part}-images-idx3-ubyte.gz") as handle:
        pixels = np.frombuffer(handle.read(16 + 5000 * 784), dtype=np.uint8, offset=16).reshape(-1, 1, 28, 28)
    with gzip.open(folder / f"{part}-labels-idx1-ubyte.gz") as handle:
        labels = np.frombuffer(handle.read(8 + 5000), dtype=np.uint8, offset=8)
    small = functional.avg_pool2d(torch.tensor(pixels, dtype=torch.float32) / 255, 2)
    return small, torch.tensor(labels, dtype=torch.int64)


def cnn(side: int) -> nn.Module:
    """Three convolutions of 8, 16, 16 channels without batch norm, dense 32 and 10."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(16 * (side // 4) ** 2, 32), nn.ReLU(), nn.Linear(32, 10),
    )  # fmt: skip


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(x + self.bn2(self.conv2(y)))


def residual(side: int, width: int = 12) -> nn.Module:
    """Stem, two residual blocks with batch norm, mean over places, dense 10."""
    stem = [nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    tail = [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * width, 10)]
    return nn.Sequential(*stem, Block(width), nn.MaxPool2d(2), Block(width), *tail)


class Fire(nn.Module):
    def __init__(self, width: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(width, squeeze, 1)
        self.expand1, self.expand3 = nn.Conv2d(squeeze, expand, 1), nn.Conv2d(squeeze, expand, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.squeeze(x))
        return torch.relu(torch.cat([self.expand1(x), self.expand3(x)], 1))


def squeeze(side: int) -> nn.Module:
    """Stem, two fire modules without batch norm (squeeze 8, expand 12 + 12), dense 10."""
    stem = [nn.Conv2d(1, 16, 3, padding=1), nn.ReLU()]
    tail = [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(96, 10)]
    return nn.Sequential(*stem, Fire(16, 8, 12), nn.MaxPool2d(2), Fire(24, 8, 12), *tail)


DATA: dict[str, Callable[[], Set]] = {"digits": digits_set, "fashion": fashion_set}
NETWORKS: dict[str, Callable[[int], nn.Module]] = {"cnn": cnn, "residual": residual, "squeeze": squeeze}


def checkpoint(build: Callable[[int], nn.Module], data: Set, seed: int) -> nn.Module:
    torch.manual_seed(1000 + seed)
    network = build(data.train[0].shape[-1])
    optimizer = torch.optim.Adam(network.parameters(), 2e-3)
    for _ in range(data.epochs):
        for rows in torch.randperm(len(data.train[1])).split(100):
            optimizer.zero_grad()
            functional.cross_entropy(network(data.train[0][rows]), data.train[1][rows]).backward()
            optimizer.step()
    return network.eval()


def correct(run: Retraining, arm: str, measure: str) -> np.ndarray:
    return run.before[measure] if arm == "before" else run.of(arm)[0].correct[measure]


def study(
    build: Callable[[int], nn.Module], data: Set, seeds: int, rule: str, quick: bool
) -> dict[str, list[Retraining]]:
    """Per setting, one retraining per seed, each from a checkpoint of its own."""
    found: dict[str, list[Retraining]] = {setting: [] for setting in SETTINGS}
    for seed in range(seeds):
        start = time.process_time()
        network = checkpoint(build, data, seed)
        subject = Subject.from_model(network, Data(*data.train, bounds=(0.0, 1.0)))
        epsilon = auto_epsilon(subject, *data.validation).epsilon
        labels = analyse(
            subject,
            data.validation,
            epsilon=epsilon,
            mode="static",
            n=5 if quick else 25,
            inputs=len(data.validation[1]),
        )
        classes = labels if rule == "score" else labels.labels(split="adversarial")
        middle = time.process_time()
        for setting, share in SETTINGS.items():
            found[setting].append(
                retrain(
                    subject, data.train, data.validation, test=data.test, seeds=[seed], labels=classes, epsilon=epsilon,
                    adversarial=share, criticality=True, epochs=1 if quick else data.further,
                )
            )  # fmt: skip
        run = found["clean"][-1]
        scores = {name: labels.score(name) for name in run.units}
        words = ", ".join(f"{name} {row.score:+.3f} {row.label}" for name, row in scores.items())
        seconds = (middle - start, time.process_time() - middle)
        print(f"seed {seed}: {words} ({seconds[0]:.0f} s to label, {seconds[1]:.0f} s to retrain)", flush=True)
    return found


def points(values: list[float], signed: bool = False) -> str:
    """Mean and standard deviation over seeds, in per cent."""
    spread = statistics.stdev(values) if len(values) > 1 else math.nan
    return f"{100 * statistics.mean(values):{'+' if signed else ''}.1f} ± {100 * spread:.1f}"


def report(place: str, found: dict[str, list[Retraining]], accuracies: Table, contrasts: Table) -> None:
    for setting, runs in found.items():
        for arm in ("before", *ARMS):
            cells = {
                measure: [float(correct(run, arm, measure).mean()) for run in runs] for measure in runs[0].measures
            }
            weights = [0] if arm == "before" else [run.of(arm)[0].weights for run in runs]
            accuracies.rows.append({"place": place, "setting": setting, "arm": arm, "weights": weights, **cells})
        for first, second in CONTRASTS:
            row: dict[str, object] = {}
            cells = []
            alike = 0
            if second != "before":
                alike = sum(set(run.of(first)[0].units) == set(run.of(second)[0].units) for run in runs)
            for measure in ("clean", "fgsm", "pgd-10", "pgd-20"):
                one, other = ([correct(run, arm, measure) for run in runs] for arm in (first, second))
                difference = paired_difference(
                    one, other, names=(first, second), measure=measure, same=alike == len(runs)
                )
                cells.append(
                    f"{100 * difference.mean:+.1f} [{100 * difference.low:+.1f}, {100 * difference.high:+.1f}]"
                    + (" *" if difference.shown else "")
                )
                row[measure] = asdict(difference) | {"shown": difference.shown}
            note = f" (same units in {alike} of {len(runs)})" if alike else ""
            del cells[2]  # PGD-10 and PGD-20 hardly differ: both are in the file
            contrasts.add(place, setting, f"{first} - {second}{note}", *cells, numbers=row, alike=alike)


def show(accuracies: Table) -> None:
    for row in accuracies.rows:
        cells = [points(row[measure]) for measure in ("clean", "fgsm", "pgd-10", "pgd-20")]
        weights = "-" if row["arm"] == "before" else f"{min(row['weights'])} - {max(row['weights'])}"
        print("| " + " | ".join([row["place"], row["setting"], row["arm"], weights, *cells]) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="a data set or one place, such as digits or fashion/squeeze/certain")
    parser.add_argument("--seeds", type=int, default=5)
    arguments = arguments_of(parser)
    seeds = 2 if arguments.quick else arguments.seeds
    contrasts = Table(
        "differences in points of accuracy, mean [95 % t interval over seeds]; * where a difference is shown",
        ("place", "batches", "difference", "clean", "FGSM", "PGD-20"),
    )
    accuracies = Table("accuracy in %, mean ± deviation over seeds", ("place", "batches", "arm", "weights", "clean",
                                                                      "FGSM", "PGD-10", "PGD-20"))  # fmt: skip
    facts: dict[str, object] = {}
    begin = time.process_time()
    for name, load in DATA.items():
        if name == "fashion" and not FASHION.is_dir():
            print("Fashion-MNIST is not installed (Debian package dataset-fashion-mnist): left out")
            continue
        data = load()
        places = [(f"{name}/{kind}/{rule}", build, rule) for kind, build in NETWORKS.items() for rule in RULES]
        for place, build, rule in places:
            quickly = ("digits/cnn/score", "digits/squeeze/certain")
            if not place.startswith(arguments.only) or (arguments.quick and place not in quickly):
                continue
            print(f"\n{place}", flush=True)
            found = study(build, data, seeds, rule, arguments.quick)
            report(place, found, accuracies, contrasts)
            some = found["clean"]
            facts[place] = {
                "labels": [dict(run.labels or {}) for run in some],
                "counted": [dict(run.counted) for run in some],
                "chosen": [list(run.chosen) for run in some],
                "units": dict(some[0].units),
                "epsilon": [run.epsilon for run in some],
                "steps": some[0].steps,
            }
            seconds = time.process_time() - begin
            save(arguments.out or OUT / "retraining.json", [contrasts, accuracies], places=facts, cpu_seconds=seconds)
    print()
    show(accuracies)
    print(f"\n{time.process_time() - begin:.0f} CPU seconds in all")


if __name__ == "__main__":
    main()
