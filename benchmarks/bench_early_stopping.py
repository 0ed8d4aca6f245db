"""How many samples a class takes: bets and Bardenet-Maillard intervals, on stored correctness of a digits network.

Run: python benchmarks/bench_early_stopping.py [--orders 500] [--seeds 3]

A convolutional network (8-16-16, 32-10) is trained on 1,000 digits; every weight is filtered (high, low, pulse at 25
thresholds) on all 1,797 digits, clean, under a static FGSM of half the accuracy, and under one made anew through each
filtered network. Then classes are decided in random orders of these samples and of the same twenty times over. Prints
the mean share of samples visited, and how often the class was not that of all samples (allowed: 5 %).
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from torch import Tensor, nn

from assay.attacks import auto_epsilon, fgsm
from assay.filtering import FILTERS, Baseline, Recording, label_of, masks
from assay.filtering.early import Sequential
from assay.filtering.terms import known_of, terms_of

TAUS, COPIES = (0.02, 0.05), (1, 20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--orders", type=int, default=500, help="random orders per row")
    parser.add_argument("--seeds", type=int, default=3, help="networks")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cases = [case for seed in range(options.seeds) for case in swept(seed)]
    print(
        f"{'score':34}{'tau':>6}{'samples':>9}" + "".join(f"{name:>22}" for name in ("Serfling", "bets", "bets, known"))
    )
    for split, adaptive in (
        ("clean", False), ("adversarial", False), ("difference", False), ("adversarial", True), ("difference", True)
    ):  # fmt: skip
        for tau in TAUS:
            for copies in COPIES:
                row = [compare(cases, split, adaptive, tau, copies, options.orders, column) for column in range(3)]
                name = split + (" (attack made anew)" if adaptive else "")
                print(f"{name:34}{tau:6}{1797 * copies:9}" + "".join(f"{text:>22}" for text in row), flush=True)


def compare(cases, split: str, adaptive: bool, tau: float, copies: int, orders: int, column: int) -> str:
    """Mean share and number of wrong classes over random orders, units and filters taken in turn."""
    draws, shares, wrong = np.random.default_rng(0), [], 0
    for turn in range(orders):
        baseline, static, anew = cases[turn % len(cases)]
        chosen = {"filter": anew if adaptive else static}
        terms = terms_of(baseline, {"filter": static.density}, split=split)
        values, known = terms.values(chosen), known_of(baseline)
        if adaptive:  # after a static screen, its terms are known too
            clean = terms_of(baseline, {"filter": static.density}, split="clean").values({"filter": static})
            known = np.column_stack([known, terms.values({"filter": static}), clean])
        values, known = np.tile(values, copies), np.tile(known, (copies, 1))
        order = draws.permutation(len(values))
        watch = Sequential(
            len(values),
            terms.bounds,
            tau=tau,
            bound="betting" if column else "serfling",
            known=known[order] if column == 2 else None,
        )
        for count in watch.looks:
            if watch.update(values[order[:count]]):
                break
        shares.append(watch.used / len(values))
        wrong += watch.label != label_of(values.mean(), values.mean(), tau)
    return f"{100 * np.mean(shares):.0f} %, {wrong} wrong"


def swept(seed: int) -> list[tuple[Baseline, Recording, Recording]]:
    """Baseline, static and adaptive recording of every weight and filter of a network."""
    model, x, y = network(seed)
    epsilon = auto_epsilon(model, x, y, bounds=(0, 1)).epsilon
    attacked = fgsm(model, x, y, epsilon=epsilon, bounds=(0, 1))

    def right(batch: Tensor) -> np.ndarray:
        with torch.no_grad():
            return (model(batch).argmax(1) == y).numpy()

    baseline, found = Baseline(right(x), right(attacked)), []
    for parameter in (parameter for parameter in model.parameters() if parameter.dim() > 1):
        weight = parameter.detach().clone()
        for kind in FILTERS:
            kept, rows = masks(weight, kind, 25), []
            for mask in kept:
                parameter.data = weight * mask
                rows.append((right(x), right(attacked), right(fgsm(model, x, y, epsilon=epsilon, bounds=(0, 1)))))
            parameter.data = weight
            clean, static, anew = (np.stack(column) for column in zip(*rows, strict=True))
            density = kept.flatten(1).double().mean(1).numpy()
            found.append((baseline, Recording(clean, static, density), Recording(clean, anew, density)))
    return found


def network(seed: int) -> tuple[nn.Module, Tensor, Tensor]:
    """Trained for 40 epochs with Adam."""
    from sklearn.datasets import load_digits

    pictures, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(pictures / 16, dtype=torch.float32).reshape(-1, 1, 8, 8), torch.tensor(labels)
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 32), nn.ReLU(), nn.Linear(32, 10),
    )  # fmt: skip
    optimiser = torch.optim.Adam(model.parameters(), 1e-3)
    chosen = torch.randperm(len(x))[:1000]
    for _ in range(40):
        for rows in chosen[torch.randperm(1000)].split(64):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimiser.step()
    return model.eval(), x, y


if __name__ == "__main__":
    main()
