"""Detection of tampered Fashion-MNIST pictures: the combination beside every single statistic, and its adaptive attacker.

    python benchmarks/bench_detection.py [--quick] [--trained] [--calibration 150] [--test 100]

The network is the small one that the tests use; attacks are DeepFool scaled, L2 and Linf projected gradient descent, and
Gaussian noise as a control. Areas under the ROC curve against clean pictures the detector has not seen, with 95 % intervals.
"""  # noqa: E501

from __future__ import annotations

import argparse
import math
import sys
import time
from pathlib import Path

import torch
from _common import Table, arguments_of
from torch import Tensor

from assay.attacks import deepfool, pgd
from assay.boundary.detection import STATISTICS, Detector, Tampered, evade, evaluate, recovery_rates

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.support.fashion import fashion_cnn, fashion_pictures


def tampered_sets(network: torch.nn.Module, x: Tensor, y: Tensor) -> dict[str, Tampered]:
    step = deepfool(network, x, bounds=None) - x
    sets = {f"deepfool x{size}": Tampered(x + size * step, y, "deepfool", size) for size in (1, 1.5, 2, 3, 5)}
    for epsilon in (0.5, 1.0):
        found = pgd(network, x, y, epsilon=epsilon, norm="l2", bounds=(0.0, 1.0))
        sets[f"pgd l2 {epsilon}"] = Tampered(found, y, "pgd l2", epsilon)
    for levels in (4, 8):
        found = pgd(network, x, y, epsilon=levels / 255, bounds=(0.0, 1.0))
        sets[f"pgd linf {levels}/255"] = Tampered(found, y, "pgd linf", levels / 255)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    return sets | {"noise 0.1": Tampered(x + 0.1 * noise, None, "noise", 0.1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trained", action="store_true", help="show the combination DeepFool x2 pictures, too")
    parser.add_argument("--calibration", type=int, default=150, help="clean pictures to fit on")
    parser.add_argument("--test", type=int, default=100, help="other pictures, to tamper with")
    arguments = arguments_of(parser)
    if arguments.quick:
        arguments.calibration, arguments.test = 50, 16
    network, (x, y) = fashion_cnn(), fashion_pictures()
    good = network(x).argmax(1) == y
    x, y = x[good], y[good]
    fitted, tested = slice(arguments.calibration), slice(arguments.calibration, arguments.calibration + arguments.test)

    start, known = time.process_time(), None
    if arguments.trained:
        known = x[fitted] + 2 * (deepfool(network, x[fitted], bounds=None) - x[fitted])
    detector = Detector("combination").fit(network, x[fitted], known)
    print(f"fitted on {len(x[fitted])} pictures in {time.process_time() - start:.1f} s of CPU")
    sets = tampered_sets(network, x[tested], y[tested])
    sets = {name: each for name, each in sets.items() if each.benign or (network(each.x).argmax(1) != y[tested]).any()}
    start = time.process_time()
    rows = evaluate(detector, x[tested], sets)
    spent = (time.process_time() - start) / sum(row.samples for row in rows if row.statistic == "combination")
    print(f"{1000 * spent:.0f} ms of CPU per picture, all statistics")

    table = Table("Area under the ROC curve [95 %]", ("set", "pictures", *detector.names, "lead over the best single"))
    for name in sets:
        mine = {row.statistic: row for row in rows if row.set == name}
        cells = [shown(mine[each].area) for each in detector.names]
        ours = mine["combination"]
        numbers = {each: mine[each].area.value for each in detector.names if mine[each].area is not None}
        table.add(name, str(ours.samples), *cells, f"{shown(ours.lead)} ({ours.best_single})", **numbers)
    table = Table(f"Share flagged at a rate of {detector.false_positive_rate:g}", ("set", *detector.names))
    for name in ("clean", *sets):
        mine = {row.statistic: row.flagged for row in rows if row.set == name}
        table.add(
            name, *(f"{mine[each].value:.3f} [{mine[each].low:.2f}, {mine[each].high:.2f}]" for each in detector.names)
        )
    rates = recovery_rates(detector, sets)
    rules = list(next(iter(rates.values())))
    table = Table("Share of classes recovered", ("set", *rules))
    for name, shares in rates.items():
        table.add(
            name, *(f"{shares[rule].value:.3f} [{shares[rule].low:.2f}, {shares[rule].high:.2f}]" for rule in rules)
        )

    table = Table("Evasion, L2 1.0", ("statistic", "wrong", "wrong and not flagged", "the same, knowing the detector"))
    some = slice(tested.start, tested.start + (8 if arguments.quick else 24))
    for name in ("combination", "kappa_at_boundary", "smoothed_margin", "drift"):
        attacked = detector if name == "combination" else Detector(name).fit(network, x[fitted])
        found = evade(attacked, x[some], y[some], epsilon=1.0, steps=60, looks=6, queries=4, bounds=(0.0, 1.0))
        share, oblivious = found.success, found.oblivious
        table.add(
            name,
            f"{found.oblivious_misclassified.value:.2f}",
            f"{oblivious.value:.2f} [{oblivious.low:.2f}, {oblivious.high:.2f}]",
            f"{share.value:.2f} [{share.low:.2f}, {share.high:.2f}]",
            success=share.value,
        )
    assert set(detector.names[1:]) == set(STATISTICS)


def shown(area) -> str:
    return "" if area is None or math.isnan(area.value) else f"{area.value:.3f} [{area.low:.2f}, {area.high:.2f}]"


if __name__ == "__main__":
    main()
