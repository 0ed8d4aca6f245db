"""Every method's mean and variance on five small networks, against a long sampled reference.

The error of the mean is the mean over outputs of |error| in output deviations; the variance is given as predicted over
true. Both: median [quartiles] over inputs (variance: over inputs and outputs). CPU time is per input, of a batch, warm;
the last column divides it by the time of 1,000 plain draws in the same run. The reference's noise floor is printed with
each table: means cannot be told apart below it.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from _common import (
    Case,
    Table,
    arguments_of,
    cpu_time,
    digits_case,
    digits_cnn,
    mlp,
    reference_of,
    save,
    spread,
)
from torch import Tensor, nn

METHODS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("mc 1000", "mc", {"samples": 1000}),
    ("mc 100", "mc", {"samples": 100}),
    ("mc 4096", "mc", {"samples": 4096}),
    ("mc_cv 1000", "mc_cv", {"samples": 1000}),
    ("mc_cv 4096", "mc_cv", {"samples": 4096}),
    ("linearize", "linearize", {}),
    ("two_stage, paper's covariance", "two_stage", {"covariance": "paper"}),
    ("two_stage, exact covariance", "two_stage", {}),
    ("two_stage, first ReLU", "two_stage", {"relu": 0}),
    ("diagonal", "diagonal", {}),
    ("factor, 16 columns", "factor", {"rank": 16}),
    ("factor, 32 columns", "factor", {"rank": 32}),
    ("factor, 64 columns", "factor", {"rank": 64}),
    ("gain", "gain", {}),
    ("exact", "exact", {}),
    ("cumulant", "cumulant", {}),
    ("split, 1 direction", "split", {"directions": 1}),
    ("split, 2 directions", "split", {"directions": 2}),
)


class ResidualMLP(nn.Module):
    """64 -> 128, four blocks x + W relu(V x), -> 10."""

    def __init__(self, width: int = 128, blocks: int = 4) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(64, width), nn.Linear(width, 10)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)) for _ in range(blocks)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = x + block(x)
        return self.last(torch.relu(x))


def random_he(*widths: int) -> nn.Sequential:
    """An MLP with weights N(0, 2 / inputs) and no bias."""
    network = mlp(*widths)
    for layer in network:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=(2 / layer.in_features) ** 0.5)
            nn.init.zeros_(layer.bias)
    return network


def networks(inputs: int, quick: bool) -> list[Case]:
    epochs = 6 if quick else 40
    return [
        digits_case("MLP 3x256", lambda: mlp(64, 256, 256, 256, 10), inputs, epochs=epochs),
        digits_case("MLP 6x128", lambda: mlp(64, *[128] * 6, 10), inputs, epochs=epochs),
        digits_case("CNN, two max pools", digits_cnn, inputs, epochs=epochs, flat=False),
        digits_case("residual MLP, 4 blocks", ResidualMLP, inputs, epochs=epochs),
        digits_case("random He MLP 8x256", lambda: random_he(64, *[256] * 8, 10), inputs, epochs=0),
    ]


def measure(case: Case, sigma: float, samples: int, repeats: int) -> Table:
    reference = reference_of(case.subject, case.inputs, sigma, samples)
    title = (
        f"{case.name}, sigma {sigma:g}: reference of {samples:,} draws, noise floor {reference.floor:.1g} deviations"
    )
    table = Table(title, ("method", "mean error", "variance ratio", "CPU ms per input", "time / 1,000 plain draws"))
    plain = 0.0
    for label, method, options in METHODS:
        found, seconds = cpu_time(lambda m=method, o=options: case.propagate(sigma, m, **o), repeats=repeats)
        plain = plain or seconds
        error = reference.deviations(found.mean).abs().mean(1)
        ratio = found.variance.double() / reference.variance
        each = seconds / len(case.inputs)
        table.add(
            label,
            spread(error, 2),
            spread(ratio),
            f"{1e3 * each:.3g}",
            f"{seconds / plain:.2g}",
            network=case.name,
            sigma=sigma,
            mean_error=float(error.mean()),
            variance_ratio=float(ratio.mean()),
            seconds=each,
            floor=reference.floor,
        )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=8, help="test digits per network")
    parser.add_argument("--levels", type=float, nargs="+", default=[0.05, 0.1, 0.25, 0.5], help="sigma of the noise")
    parser.add_argument("--reference-samples", type=int, default=1 << 17)
    arguments = arguments_of(parser)
    if arguments.quick:
        arguments.inputs, arguments.levels, arguments.reference_samples = 2, [0.25], 1 << 12
    cases = networks(arguments.inputs, arguments.quick)
    repeats = 1 if arguments.quick else 2
    tables = [
        measure(case, sigma, arguments.reference_samples, repeats) for case in cases for sigma in arguments.levels
    ]
    save(arguments.out, tables, inputs=arguments.inputs)


if __name__ == "__main__":
    main()
