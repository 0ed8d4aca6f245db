"""Random He ReLU networks: the mean of the last pre-activations under a standard normal input.

worth = mean output variance / mean squared error of the mean = how many plain samples have the same error. Weights are
N(0, 2 / width) from numpy's default_rng(seed), float32, layers x @ W without biases. Median [least - most] over seeds.

The truth comes from --reference-samples draws, kept under benchmarks/out/: antithetic, on the sphere (the network is
homogeneous, f(r u) = r f(u), so the radius integrates out to its mean), and regressed on the first hidden layer, whose
mean is known exactly. Its own noise, from two independent halves, is taken off.
"""

from __future__ import annotations

import argparse
import math
import statistics
from typing import Any

import numpy
import torch
from _common import OUT, Table, arguments_of, cpu_time, save
from torch import Tensor, nn

from assay.errors import UsageError
from assay.moments import propagate
from assay.subject import Subject

PUBLISHED = (
    ("second order, augmented", "25,000", "-"),
    ("third order, factored", "290,000", "160"),
    ("third order, augmented", "640,000", "25,000"),
)
"""Method, worth and milliseconds at width 256, depth 8: Robinson et al. 2026, arXiv 2605.05179; another machine's."""
METHODS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("exact", "exact", {}),
    ("gain", "gain", {}),
    ("cumulant", "cumulant", {}),
    ("mc_cv 1,024", "mc_cv", {"samples": 1024}),
    ("mc_cv 16,384", "mc_cv", {"samples": 16384}),
    ("mc_cv 131,072", "mc_cv", {"samples": 131072}),
    ("cumulant, check=16,384, combined", "cumulant", {"check": 16384}),
    ("cumulant, check=131,072, combined", "cumulant", {"check": 131072}),
)
_BATCH = 8192


def weights_of(width: int, depth: int, seed: int) -> list[Tensor]:
    generator = numpy.random.default_rng(seed)
    scale = math.sqrt(2 / width)
    return [
        torch.from_numpy((generator.standard_normal((width, width)) * scale).astype(numpy.float32))
        for _ in range(depth)
    ]


def subject_of(weights: list[Tensor]) -> Subject:
    layers: list[nn.Module] = []
    for weight in weights:
        linear = nn.Linear(*weight.shape, bias=False)
        linear.weight = nn.Parameter(weight.T.contiguous())
        layers += [linear, nn.ReLU()]
    subject = Subject.from_model(nn.Sequential(*layers[:-1]).eval(), example=torch.zeros(1, len(weights[0])))
    assert subject.graph is not None  # captured once, outside the times
    return subject


def reference(weights: list[Tensor], samples: int, seed: int) -> dict[str, Any]:
    """Mean and variance (n,) and the mean squared noise of that mean."""
    width = len(weights[0])
    file = OUT / f"random_mlp_{width}_{len(weights)}_{seed}_{samples}.pt"
    if file.exists():
        return torch.load(file, weights_only=True)
    generator = torch.Generator().manual_seed(1000 + seed)
    radius = math.sqrt(2) * math.exp(math.lgamma((width + 1) / 2) - math.lgamma(width / 2))  # E |x|
    first = weights[0].double().square().sum(0).sqrt() / math.sqrt(2 * math.pi)  # E relu(x @ W)
    halves = []
    for _ in range(2):
        gram = torch.zeros(width + 1, width + 1, dtype=torch.float64)
        moments, square = torch.zeros(width + 1, width, dtype=torch.float64), torch.zeros(width, dtype=torch.float64)
        for _ in range(max(1, samples // (4 * _BATCH))):
            x = torch.randn(_BATCH, width, generator=generator)
            x = x * (radius / x.norm(dim=1, keepdim=True))
            hidden = torch.relu(torch.cat([x, -x]) @ weights[0])
            design = torch.cat([torch.ones(2 * _BATCH, 1), hidden - first.float()], 1)
            for weight in weights[1:-1]:
                hidden = torch.relu(hidden @ weight)
            output = hidden @ weights[-1]
            gram += (design.T @ design).double()
            moments += (design.T @ output).double()
            square += output.square().sum(0).double()
        halves.append((gram, moments, square))
    gram, moments, square = (sum(parts, torch.zeros(())) for parts in zip(*halves, strict=True))
    solution = torch.linalg.solve(gram, moments)
    # intercepts of the halves with the common slope
    ends = [(part[0] - whole[0, 1:] @ solution[1:]) / whole[0, 0] for whole, part, _ in halves]
    variance = square / gram[0, 0] * width / radius**2 - solution[0].square()  # E r^2 = width
    found = {"mean": solution[0], "variance": variance, "noise": float((ends[0] - ends[1]).square().mean() / 4)}
    OUT.mkdir(exist_ok=True)
    torch.save(found, file)
    return found


def measure(subject: Subject, truth: dict[str, Any], method: str, options: dict[str, Any]) -> dict[str, float]:
    zero = torch.zeros(1, len(truth["mean"]))
    found, seconds = cpu_time(lambda: propagate(subject, zero, 1.0, method=method, **options), repeats=2, enough=1.0)
    mean = found.mean if found.check is None else found.check.combined
    error = float((mean[0].double() - truth["mean"]).square().mean()) - truth["noise"]
    variance = float(truth["variance"].mean())
    return {
        "worth": variance / max(error, truth["noise"]),
        "limited": float(error < truth["noise"]),
        "seconds": seconds,
        "variance_ratio": float(found.variance.double().mean()) / variance,
    }


def plain_cost(subject: Subject, width: int) -> float:
    """CPU seconds of one plain draw, in batches."""
    return min(
        cpu_time(lambda n=size: subject.probe(torch.randn(n, width)), repeats=5)[1] / size for size in (256, 1024, 4096)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=256, help="256 or 1024")
    parser.add_argument("--depth", type=int, default=8, help="number of weight matrices: 8, 32, 16")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--reference-samples", type=int, default=6_000_000)
    arguments = arguments_of(parser)
    width, depth = arguments.width, arguments.depth
    methods = METHODS
    if arguments.quick:
        arguments.seeds, arguments.reference_samples = 1, 200_000
        methods = (*METHODS[:5], METHODS[6])
    cases = []
    for seed in range(arguments.seeds):
        weights = weights_of(width, depth, seed)
        subject, truth = subject_of(weights), reference(weights, arguments.reference_samples, seed)
        worth = float(truth["variance"].mean()) / truth["noise"]
        print(f"seed {seed}: mean output variance {float(truth['variance'].mean()):.3g}, reference worth {worth:,.0f}")
        cases.append((subject, truth, plain_cost(subject, width)))
    table = Table(
        f"Width {width}, depth {depth}, float32: mean of the last pre-activations",
        ("method", "worth in plain samples", "CPU ms", "worth / plain samples in that time", "variance ratio"),
    )
    for label, method, options in methods:
        try:
            found = [measure(subject, truth, method, options) for subject, truth, _ in cases]
        except UsageError as error:
            table.add(label, "refused", "-", "-", "-", reason=str(error))
            continue
        gains = [part["worth"] * case[2] / part["seconds"] for part, case in zip(found, cases, strict=True)]
        worths = [part["worth"] for part in found]
        mark = ">" if any(part["limited"] for part in found) else ""
        table.add(
            label,
            f"{mark}{statistics.median(worths):,.0f} [{min(worths):,.0f} - {max(worths):,.0f}]",
            f"{1e3 * statistics.median(part['seconds'] for part in found):,.0f}",
            f"{statistics.median(gains):,.3g} [{min(gains):,.3g} - {max(gains):,.3g}]",
            f"{statistics.median(part['variance_ratio'] for part in found):.4f}",
            runs=found,
        )
    if (width, depth) == (256, 8):
        for label, worth, milliseconds in PUBLISHED:
            table.add(
                f"{label} (Robinson et al. 2026, arXiv 2605.05179)", worth, milliseconds, "published", "not run here"
            )
    save(arguments.out, [table], width=width, depth=depth, reference_samples=arguments.reference_samples)


if __name__ == "__main__":
    main()
