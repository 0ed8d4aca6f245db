"""SMP predicted against SMP counted along simulated Gaussian paths: units, He MLPs, random convolutional networks.

Units: mean and deviation of the SMP over [0, 20] by closed form (ReLU) or quadrature (windows), against 4,000 paths of
an exact 60-frequency series; the error in brackets is the standard error of the simulation. Networks: predicted from
the law of the input alone, against kinks counted along a fine path; beside them the rule that adds |w| SMP from layer
to layer, which is only a bound.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

import torch
from _common import Table, arguments_of, save
from torch import Tensor, nn

from assay.gaussian import (
    added_smp,
    inherited_smp,
    leaky_relu,
    maximum_kinks,
    maximum_smp_variance,
    threshold_kinks,
    threshold_smp_variance,
)
from assay.smoothness.network import Network
from assay.smoothness.prediction import Process, predict_network

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.support.smoothness_prediction import (
    counted,
    gaussian_paths,
    he_mlp,
    maximum_smp,
    random_cnn,
    series_covariance,
    slope_variance,
    smooth_field,
    square_root,
    threshold_smp,
)

SPEED, LENGTH = slope_variance(), 20.0


def percent(value: float, error: float | None = None) -> str:
    return f"{100 * value:+.2f} %" + ("" if error is None else f" ({100 * error:.2f})")


def compare(table: Table, name: str, drawn: Tensor, mean: float, variance: float, error: float) -> None:
    """One row: relative errors of predicted mean and deviation."""
    count, sd = len(drawn), math.sqrt(variance)
    spread = float(drawn.std())
    fourth = float(((drawn - drawn.mean()) ** 4).mean()) / spread**4
    doubt = math.sqrt((fourth - 1) / 4 / count)
    shift, ratio = mean / float(drawn.mean()) - 1, sd / spread - 1
    table.add(
        name, f"{mean:.4f}", percent(shift, spread / math.sqrt(count) / float(drawn.mean())), f"{sd:.4f}",
        percent(ratio, doubt), percent(error / mean), shift=shift, ratio=ratio, doubt=doubt,
    )  # fmt: skip


def units(paths: int) -> Table:
    """E1: ReLU at four means, windows of independent, correlated and moving inputs."""
    columns = (
        "unit",
        "mean",
        "predicted - simulated (s.e.)",
        "sd",
        "predicted - simulated (s.e.)",
        "own error of mean",
    )
    table = Table(f"E1: SMP over [0, {LENGTH:g}], {paths} paths", columns)
    t = torch.arange(0, LENGTH + 0.01, 0.02, dtype=torch.float64)
    for mean in (0.0, 0.5, 1.0, 2.0):
        z, slope = gaussian_paths(t, (paths,), seed=int(10 * mean))
        variance = threshold_smp_variance(LENGTH, mean, series_covariance)
        law = threshold_kinks(mean, 1.0, math.sqrt(SPEED))
        drawn = threshold_smp(z + mean, slope)[0]
        compare(table, f"ReLU, mean {mean:g}", drawn, LENGTH * float(law.smp), float(variance), 0.0)
    cases = [
        (2, None, 0.0),
        (3, None, 0.0),
        (4, None, 0.0),
        (9, None, 0.0),
        (4, None, 0.6),
        (2, 0.0, 0.0),
        (4, 0.0, 0.0),
    ]
    for count, floor, correlation in [*cases, (9, 0.0, 0.0)]:
        many = max(100, paths * 2 // count)
        z, slope = gaussian_paths(t, (many, count + 1), seed=count)
        z, slope = (math.sqrt(1 - correlation) * v[..., 1:] + math.sqrt(correlation) * v[..., :1] for v in (z, slope))
        matrix = correlation + (1 - correlation) * torch.eye(count, dtype=torch.float64)
        name = ("ReLU and pool" if floor is not None else "pool") + f" of {count}" + (", rho .6" if correlation else "")

        def covariance(tau: Tensor, matrix: Tensor = matrix) -> Tensor:
            return series_covariance(tau)[:, None, None] * matrix

        windows(table, name, maximum_smp(z, slope, floor), matrix, SPEED * matrix, covariance, floor)
    for offset in (0.3, 0.8, 1.5):
        places = offset * torch.arange(4, dtype=torch.float64)
        parts = [gaussian_paths(t - place, (paths // 2,), seed=1) for place in places]
        z, slope = (torch.stack(part, -1) for part in zip(*parts, strict=True))
        gaps = places.unsqueeze(1) - places
        small = 1e-3
        slopes = (
            2 * series_covariance(gaps) - series_covariance(gaps + small) - series_covariance(gaps - small)
        ) / small**2

        def moving(tau: Tensor, gaps: Tensor = gaps) -> Tensor:
            return series_covariance(tau[:, None, None] + gaps)

        windows(
            table, f"field, offset {offset:g}", maximum_smp(z, slope), series_covariance(gaps), slopes, moving, None
        )
    return table


def windows(table: Table, name: str, drawn: Tensor, values: Tensor, slopes: Tensor, covariance, floor) -> None:
    """One window against its simulation."""
    centre = torch.zeros(len(values), dtype=torch.float64)
    law, error = maximum_kinks(centre, values, slopes, floor=floor)
    variance = maximum_smp_variance(LENGTH, centre, covariance, floor=floor)
    compare(table, name, drawn, LENGTH * float(law.smp), float(variance.value), LENGTH * float(error))


def additive(model: nn.Sequential) -> float:
    """SMP per unit of path by adding |w| SMP from layer to layer: a bound once sources are shared."""
    smp = torch.zeros(1, dtype=torch.float64)
    for place, layer in enumerate(model):
        if isinstance(layer, nn.Linear):
            smp = added_smp(layer.weight.detach(), smp) if place else torch.zeros(layer.out_features).double()
        else:  # pre-activations of He networks have variance 2 and slope variance 2
            smp = inherited_smp(smp, 0.0, 1.0, leaky_relu(0.0)) + threshold_kinks(0.0, 2**0.5, 2**0.5).smp
    return float(smp)


def mlps(count: int, widths: tuple[int, ...]) -> Table:
    """E2: He MLPs without biases."""
    columns = (
        "width",
        "depth",
        "counted",
        "predicted",
        "predicted - counted",
        "median |net|",
        "mean field",
        "additive",
    )
    table = Table(f"E2: He MLPs, SMP over [0, {LENGTH:g}], {count} networks", columns)
    t = torch.linspace(0, LENGTH, 2001, dtype=torch.float64)
    for width in widths:
        for depth in (1, 2, 3, 4):
            found = []
            for seed in range(count):
                model = he_mlp(width, depth, seed)
                x, slope = gaussian_paths(t, (width,), 500 + seed)
                network = Network.of(model, x[:2])
                truth = float(sum(counted(network, x, slope).values()))  # type: ignore[arg-type]
                guess = predict_network(network, Process(torch.zeros(width), 1.0, SPEED))
                found.append((truth, LENGTH * float(guess.value), LENGTH * additive(model)))
            truth, guess, bound = torch.tensor(found, dtype=torch.float64).T
            field = depth * math.sqrt(2 * width) / math.pi * LENGTH * SPEED
            noise = float((guess / truth - 1).std()) / math.sqrt(count)
            table.add(
                str(width), str(depth), f"{truth.mean():.1f}", f"{guess.mean():.1f}",
                percent(float(guess.mean() / truth.mean()) - 1, noise),
                percent(float((guess / truth - 1).abs().median())),
                f"{field:.1f}", f"x{bound.mean() / truth.mean():.2f}",
            )  # fmt: skip
    return table


def cnns(count: int, channels: int, size: int, length: float) -> Table:
    """E3: random convolutional networks on smooth Gaussian videos."""
    columns = ("network", "counted", "predicted", "predicted - counted", "by layer, predicted / counted")
    table = Table(
        f"E3: conv-BN-ReLU-pool-conv-ReLU-pool-fc-ReLU-fc, {channels} channels, {size} x {size}, reach {length:g}",
        columns,
    )
    field, duration = smooth_field(size, length), 150.0
    root, t = square_root(field), torch.linspace(0, duration, 6001, dtype=torch.float64)
    found, layers = [], []
    for seed in range(count):
        x, slope = (v @ root for v in gaussian_paths(t, (size * size,), 900 + seed))
        x, slope = (v.reshape(-1, 1, size, size) for v in (x, slope))
        network = Network.of(random_cnn(seed, size=size, channels=channels), x[:2])
        parts = counted(network, x, slope, rows=128)
        guess = predict_network(network, Process(torch.zeros(1, size, size), field, SPEED * field))
        truth, value = float(sum(parts.values())), duration * float(guess.value)  # type: ignore[arg-type]
        ratios = {place: duration * float(guess.by_layer[place] / part) for place, part in parts.items()}
        found.append((truth, value))
        layers.append(ratios)
        named = ", ".join(f"{place} {ratio:.2f}" for place, ratio in ratios.items())
        table.add(str(seed), f"{truth:.0f}", f"{value:.0f}", percent(value / truth - 1), named)
    both = torch.tensor(found, dtype=torch.float64)
    errors = both[:, 1] / both[:, 0] - 1
    named = ", ".join(f"{place} {sum(row[place] for row in layers) / count:.3f}" for place in layers[0])
    table.add(
        "mean", f"median |error| {percent(float(errors.abs().median()))}",
        f"correlation {torch.corrcoef(both.T)[0, 1]:.4f}",
        percent(float(errors.mean()), float(errors.std()) / math.sqrt(count)), named,
    )  # fmt: skip
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", type=int, default=12)
    parser.add_argument("--channels", type=int, default=8)
    parser.add_argument("--size", type=int, default=16)
    parser.add_argument("--length", type=float, default=2.5)
    arguments = arguments_of(parser)
    quick = arguments.quick
    tables = [
        units(400 if quick else 4000),
        mlps(3 if quick else arguments.networks, (32,) if quick else (32, 128)),
        cnns(2 if quick else arguments.networks, arguments.channels, 12 if quick else arguments.size, arguments.length),
    ]
    save(arguments.out, tables)


if __name__ == "__main__":
    main()
