"""Exact covariance of 1,024 rectified units against one product of two 1,024 x 1,024 matrices, both in float32.

The two run in turn; a ratio is CPU time of the kernel over that of the product right before it: median [quartiles] over
repetitions. The kernel without its symmetry (every pair twice) runs beside it, and the error is the largest difference
from float64 over all pairs (the kernel of units of variance 1 is at most 1).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from _common import Table, arguments_of, digits_case, mlp, save, spread
from torch import Tensor, nn

from assay.gaussian.bivariate import rectified_covariance, rectified_covariance_matrix
from assay.moments import propagate


def random_layer(width: int) -> tuple[Tensor, Tensor]:
    """Standardised means and correlations of W x + b, x standard normal, W and b random."""
    weight = torch.randn(width, width, dtype=torch.float64) * (2 / width) ** 0.5
    return standardised(0.5 * torch.randn(width, dtype=torch.float64), weight @ weight.T)


def trained_layer(width: int, epochs: int, sigma: float = 0.1) -> tuple[Tensor, Tensor]:
    """Of the second layer's pre-activations in a trained digits network, noise on one digit."""
    case = digits_case(f"MLP 2x{width}", lambda: mlp(64, width, width, 10), 1, epochs=epochs)
    layers = case.subject.model
    assert isinstance(layers, nn.Sequential)
    found = propagate(layers[:3].double(), case.inputs.double(), sigma**2, method="exact")
    return standardised(found.mean[0], found.covariance[0])


def uniform(width: int) -> tuple[Tensor, Tensor]:
    """Correlations uniform in (-1, 1): pairs of every kind, though not of one Gaussian vector."""
    upper = (2 * torch.rand(width, width, dtype=torch.float64) - 1).triu(1)
    return torch.randn(width, dtype=torch.float64), upper + upper.T + torch.eye(width, dtype=torch.float64)


def standardised(mean: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
    deviation = covariance.diagonal().sqrt()
    return mean / deviation, (covariance / deviation / deviation.unsqueeze(1)).clamp(-1, 1).fill_diagonal_(1)


def seconds(function: Callable[[], object]) -> float:
    begin = time.process_time()
    function()
    return time.process_time() - begin


def measure(name: str, a: Tensor, correlation: Tensor, table: Table, repeats: int) -> None:
    truth = rectified_covariance_matrix(a, correlation)
    a, correlation = a.float(), correlation.float()
    error = float((rectified_covariance_matrix(a, correlation) - truth).abs().max())
    left, right = torch.randn_like(correlation), torch.randn_like(correlation)
    runs: dict[str, Callable[[], object]] = {
        "product": lambda: left @ right,
        "kernel": lambda: rectified_covariance_matrix(a, correlation),
        "pairs": lambda: rectified_covariance(a.unsqueeze(-1), a.unsqueeze(-2), correlation),
    }
    times: dict[str, list[float]] = {label: [] for label in runs}
    for repeat in range(repeats + 1):
        for label, run in runs.items():
            spent = seconds(run)
            if repeat:  # the first round warms up
                times[label].append(spent)
    ratios = {
        label: [slow / fast for slow, fast in zip(times[label], times["product"], strict=True)]
        for label in ("kernel", "pairs")
    }
    typical = {label: sorted(values)[len(values) // 2] for label, values in times.items()}
    table.add(
        name,
        spread(ratios["kernel"]),
        spread(ratios["pairs"]),
        f"{1e3 * typical['kernel']:.1f}",
        f"{1e3 * typical['product']:.1f}",
        f"{error:.1e}",
        **times,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=31)
    arguments = arguments_of(parser)
    if arguments.quick:
        arguments.repeats = 5
    torch.manual_seed(0)
    cases = {
        "random layer": random_layer(arguments.width),
        "trained digits layer": trained_layer(arguments.width, 2 if arguments.quick else 20),
        "uniform in (-1, 1)": uniform(arguments.width),
    }
    table = Table(
        f"{arguments.width} units, float32, {arguments.threads} thread(s), {arguments.repeats} repetitions",
        ("correlations", "kernel / product", "without symmetry / product", "kernel ms", "product ms", "largest error"),
    )
    with torch.no_grad():
        for name, (a, correlation) in cases.items():
            measure(name, a, correlation, table, arguments.repeats)
    save(arguments.out, [table])


if __name__ == "__main__":
    main()
