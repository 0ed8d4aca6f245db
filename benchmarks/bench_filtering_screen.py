"""Adaptive scores by a static screen: against a plain loop that attacks every filtered copy, in one run.

The plain loop copies the network for each of the 75 thresholds of every unit, attacks it with FGSM through automatic
differentiation as anyone would write it, and counts. The screen runs every filtered network on clean data and on data
attacked once, and attacks anew only those that then seem antifragile. Both are timed from a loaded model to scores,
CPU seconds of this process, in turn. What is compared: the class of every cell (unit and filter) in S difference. A
cell that was not attacked anew counts as "not antifragile": right where the full adaptive score is not above tau.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from typing import Any

import numpy as np
import torch
from _common import OUT, Table, arguments_of, digits_split
from torch import Tensor, nn

from assay.attacks import auto_epsilon
from assay.filtering import FILTERS, FilteringResult, analyse, masks, quadrature
from assay.subject import Subject

TAU = 0.02


def spec_cnn(seed: int) -> nn.Sequential:
    """The plain network of the tests: convolutions 8-16-16, dense 32-10."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 32), nn.ReLU(),
        nn.Linear(32, 10),
    )  # fmt: skip


def trained(seed: int, epochs: int) -> nn.Sequential:
    data, network = digits_split(), spec_cnn(seed)
    optimiser = torch.optim.Adam(network.parameters(), 1e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(data.train_inputs)).split(64):
            optimiser.zero_grad()
            nn.functional.cross_entropy(network(data.train_inputs[rows]), data.train_targets[rows]).backward()
            optimiser.step()
    return network.eval()


def fgsm_plain(network: nn.Module, x: Tensor, y: Tensor, epsilon: float) -> Tensor:
    point = x.clone().requires_grad_(True)
    nn.functional.cross_entropy(network(point), y, reduction="sum").backward()
    assert point.grad is not None
    return (x + epsilon * point.grad.sign()).clamp(0, 1)


def plain_loop(network: nn.Module, x: Tensor, y: Tensor, epsilon: float, batch: int) -> dict[tuple[str, str], float]:
    """S difference of every cell under an adaptive attack, by copies."""

    def counts(model: nn.Module) -> tuple[int, int]:
        clean = attacked = 0
        for part, labels in zip(x.split(batch), y.split(batch), strict=True):
            points = fgsm_plain(model, part, labels, epsilon)
            with torch.no_grad():
                clean += int((model(part).argmax(1) == labels).sum())
                attacked += int((model(points).argmax(1) == labels).sum())
        return clean, attacked

    base = counts(copy.deepcopy(network))
    found: dict[tuple[str, str], float] = {}
    names = [name for name, parameter in network.named_parameters() if parameter.dim() > 1]
    for name in names:
        for filter in FILTERS:
            p = []
            for mask in masks(network.get_parameter(name), filter, 25):
                changed = copy.deepcopy(network)
                state = changed.state_dict()
                state[name] = state[name] * mask
                changed.load_state_dict(state)
                p.append([count / level for count, level in zip(counts(changed), base, strict=True)])
            clean, attacked = np.array(p).T
            found[name, filter] = float(quadrature(25) @ (attacked - clean))
    return found


def kind(score: float) -> str:
    return "fragile" if score < -TAU else "robust" if score <= TAU else "antifragile"


def timed(network: nn.Module, x: Tensor, y: Tensor, epsilon: float, **settings: Any) -> tuple[float, FilteringResult]:
    """CPU seconds from a loaded model to scores; capturing it is part of that."""
    begun = time.process_time()
    result = analyse(Subject.from_model(network, (x, y)), epsilon=epsilon, bounds=(0.0, 1.0), inputs=len(x), draws=200,
                     **settings)  # fmt: skip
    _ = result.scores
    return time.process_time() - begun, result


def main(given: list[str] | None = None) -> None:
    arguments = arguments_of(argparse.ArgumentParser(description=__doc__), given)
    data = digits_split()
    table = Table(
        "Adaptive scores: the plain loop against a screen that attacks anew only what seems antifragile",
        ("seed", "cells attacked anew", "plain s", "all anew", "screen", "screen, classes only",
         "same class where attacked", "antifragile or not, all cells", "likewise, classes only"),
    )  # fmt: skip
    every_x = torch.cat([data.train_inputs, data.test_inputs])
    every_y = torch.cat([data.train_targets, data.test_targets])
    ratios: dict[str, list[float]] = {"all": [], "screen": [], "classes": []}
    count = 200 if arguments.quick else 1797
    for seed in (0,) if arguments.quick else (0, 1, 2):
        network = trained(seed, 2 if arguments.quick else 40)
        x, y = every_x[:count], every_y[:count]
        epsilon = auto_epsilon(network, x, y, bounds=(0.0, 1.0)).epsilon
        begun = time.process_time()
        truth = plain_loop(network, x, y, epsilon, 100)
        plain = time.process_time() - begun
        full_time, _ = timed(network, x, y, epsilon, mode="adaptive")
        screen_time, screen = timed(network, x, y, epsilon, mode="screen")
        classes_time, classes = timed(network, x, y, epsilon, mode="screen", classes_only=True)
        attacked = [(unit, name) for unit in screen.adaptive for name in screen.adaptive[unit]]
        same = sum(
            kind(screen.score(unit, name, "difference", attack="adaptive").score) == kind(truth[unit, name])
            for unit, name in attacked
        )
        said = {cell: screen.score(*cell, "difference", attack="adaptive").score > TAU for cell in attacked}
        right = sum(said.get(cell, False) == (score > TAU) for cell, score in truth.items())
        early = {
            (unit, name): one.label == "antifragile"
            for (attack, unit), cells in classes.decisions.items()
            for (name, _), one in cells.items()
            if attack == "adaptive"
        }
        right_early = sum(early.get(cell, False) == (score > TAU) for cell, score in truth.items())
        for key, spent in (("all", full_time), ("screen", screen_time), ("classes", classes_time)):
            ratios[key].append(plain / spent)
        table.add(
            str(seed), f"{len(attacked)} of {len(truth)}", f"{plain:.1f}",
            *(f"{spent:.1f} s ({plain / spent:.2f}x)" for spent in (full_time, screen_time, classes_time)),
            f"{same} of {len(attacked)}", f"{right} of {len(truth)}", f"{right_early} of {len(truth)}",
            plain=plain, full=full_time, screen=screen_time, classes=classes_time,
        )  # fmt: skip
    for key, values in ratios.items():
        print(f"plain / {key}: median {statistics.median(values):.2f}, {min(values):.2f} to {max(values):.2f}")
    path = arguments.out or OUT / "filtering_screen.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(table.rows, indent=1))


if __name__ == "__main__":
    main()
