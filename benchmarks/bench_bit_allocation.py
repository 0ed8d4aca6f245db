"""Which score chooses the better bit widths: predicted jointly, predicted per layer, or as other tools rate layers.

Six networks trained on digits (VGG-like and residual, three seeds each), weights in 3 to 8 bits with one symmetric
scale per tensor, 40 calibration inputs, and the same exact knapsack for every score. Each choice is run for real on 500
test digits: agreement with the exact network, and relative output error. Times are those of the search (scores and
choosing, formats of 3 to 10 bits), as a share of measuring the KL divergence once for each layer and format in the same
run.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence

import numpy as np
import torch
from _common import Table, arguments_of, cpu_time, save
from torch import Tensor, nn
from torch.nn import functional

from assay.load.demo import digits_split
from assay.sensitivity.bits import score
from assay.sensitivity.bits.budget import as_budget
from assay.sensitivity.bits.choose import Chooser
from assay.sensitivity.bits.problem import Problem
from assay.sensitivity.bits.verify import Verified, verify
from assay.sensitivity.roundoff import IntegerFormat, prepared_graph
from assay.subject import Subject

OURS = {"joint": "errors added as vectors", "logit": "errors squared, then added", "margin": "the same over margins"}
RIVALS = {
    "weight_mse": "weight MSE",
    "relative_weight": "relative weight change",
    "hessian": "Gauss-Newton trace",
    "fisher": "Fisher diagonal",
    "measured_mse": "measured MSE",
    "measured_kl": "measured KL",
}
BUDGETS = (3.5, 4.0, 4.5, 5.0)
CALIBRATION = 40


class Block(nn.Module):
    """Two convolutions with a skip connection."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.second(torch.relu(self.first(x))) + x)


def vgg() -> nn.Module:
    def conv(i: int, o: int) -> list[nn.Module]:
        return [nn.Conv2d(i, o, 3, padding=1), nn.ReLU()]

    stages = [
        *conv(1, 16),
        *conv(16, 16),
        nn.MaxPool2d(2),
        *conv(16, 32),
        *conv(32, 32),
        nn.MaxPool2d(2),
        *conv(32, 32),
    ]
    return nn.Sequential(*stages, nn.Flatten(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))


def residual() -> nn.Module:
    stem, down = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 24, 3, stride=2, padding=1)
    stages = [stem, nn.ReLU(), Block(16), down, nn.ReLU(), Block(24), Block(24)]
    return nn.Sequential(*stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 10))


def trained(build, seed: int, epochs: int) -> nn.Module:
    """Adam 2e-3, weight decay 1e-4, batches of 64."""
    split = digits_split()
    torch.manual_seed(seed)
    network = build()
    optimizer = torch.optim.Adam(network.parameters(), 2e-3, weight_decay=1e-4)
    for _ in range(epochs):
        for rows in torch.randperm(len(split.train_inputs)).split(64):
            optimizer.zero_grad()
            functional.cross_entropy(network(split.train_inputs[rows]), split.train_targets[rows]).backward()
            optimizer.step()
    network.eval()
    with torch.no_grad():
        right = float((network(split.test_inputs).argmax(1) == split.test_targets).float().mean())
    print(f"{build.__name__} {seed}: {right:.1%} of test digits right", flush=True)
    return network


def problem_of(network: nn.Module, bits: Sequence[int], seed: int) -> Problem:
    inputs = digits_split().train_inputs
    picked = torch.from_numpy(np.random.RandomState(seed).permutation(len(inputs))[:CALIBRATION])
    graph = prepared_graph(Subject.from_model(network, inputs[picked]))
    return Problem(graph, inputs[picked], tuple(IntegerFormat(b) for b in bits), {})


def chosen(problem: Problem, method: str, average: float) -> tuple[int, ...]:
    """What a score and the exact knapsack choose; ours with the joint prediction where it has one."""
    chooser = Chooser(problem, score(problem, method), as_budget(problem, average), layer_error=float("inf"))
    return chooser.best([average])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calibration-seed", type=int, default=1, help="which calibration inputs are drawn")
    arguments = arguments_of(parser)
    seeds, epochs = ((0,), 3) if arguments.quick else ((0, 1, 2), 30)
    test = digits_split().test_inputs
    methods = {**OURS, **RIVALS}
    results: dict[tuple[str, float], list[Verified]] = {}
    costs: dict[str, list[float]] = {}
    for build in (vgg, residual):
        for seed in seeds:
            network = trained(build, seed, epochs)
            problem = problem_of(network, range(3, 9), arguments.calibration_seed)
            exact = problem.outputs(None, test)
            for budget in BUDGETS:
                for method in methods:
                    options = chosen(problem, method, budget)
                    results.setdefault((method, budget), []).append(verify(problem, options, test, exact, None))
                if budget == int(budget):
                    options = (int(budget) - 3,) * len(problem.groups)
                    results.setdefault(("uniform", budget), []).append(verify(problem, options, test, exact, None))
            wide = problem_of(network, range(3, 11), arguments.calibration_seed)
            times = {method: cpu_time(lambda m=method, p=wide: chosen(p, m, 4.5), repeats=7)[1] for method in methods}
            for method, seconds in times.items():
                costs.setdefault(method, []).append(seconds / times["measured_kl"])
    tables = [quality(results, costs, methods), wins(results)]
    save(arguments.out, tables, calibration=CALIBRATION, networks=2 * len(seeds))


def quality(
    results: dict[tuple[str, float], list[Verified]], costs: dict[str, list[float]], methods: dict[str, str]
) -> Table:
    table = Table(
        "Agreement / relative output error on test digits, mean over networks",
        ["score", *(f"{budget} bits" for budget in BUDGETS), "search time / measured KL"],
    )
    for method, label in {"uniform": "uniform", **methods}.items():
        cells = []
        for budget in BUDGETS:
            found = results.get((method, budget))
            if not found:
                cells.append("-")
                continue
            agreement = statistics.mean(one.agreement or 0.0 for one in found)
            cells.append(f"{agreement:.4f} / {statistics.mean(one.relative_error for one in found):.4f}")
        ratios = costs.get(method)
        shown = "-" if ratios is None else f"{statistics.median(ratios):.2f} [{min(ratios):.2f} - {max(ratios):.2f}]"
        table.add(label, *cells, shown, method=method, ratios=ratios)
    return table


def wins(results: dict[tuple[str, float], list[Verified]]) -> Table:
    """In how many settings (network, budget) ours is at least as good."""
    table = Table(
        "Settings in which ours is at least as good: output error; agreement",
        ["against", *(f"ours, {label}" for label in OURS.values())],
    )
    for rival in ("uniform", *RIVALS):
        cells = []
        for ours in OURS:
            pairs = [
                (mine, theirs)
                for budget in BUDGETS
                for mine, theirs in zip(results[ours, budget], results.get((rival, budget), []), strict=False)
            ]
            error = sum(mine.relative_error <= theirs.relative_error * (1 + 1e-9) for mine, theirs in pairs)
            decisions = sum((mine.agreement or 0) >= (theirs.agreement or 0) for mine, theirs in pairs)
            cells.append(f"{error} of {len(pairs)}; {decisions} of {len(pairs)}")
        table.add(RIVALS.get(rival, rival), *cells)
    return table


if __name__ == "__main__":
    main()
