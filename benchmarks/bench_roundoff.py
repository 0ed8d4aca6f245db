"""Predicted against simulated round-off on three digits networks: how far off each estimator is, and what it costs.

For every network, precision and way of summing: the median over inputs of predicted / measured error in the Euclidean
norm (above 1: too large; the range in brackets is from the lower to the upper quartile), the most that a bound was used
up, and CPU time per input beside one simulated run. Weights are rounded once, so the measured error is one draw. A
second table does the same for changed weights: predicted and measured amplification of noise and of an attack.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from _common import Table, arguments_of, cpu_time, save, spread
from torch import Tensor, nn
from torch.nn import functional

from assay.load.demo import digits_split
from assay.sensitivity.parameters import (
    adversarial_parameter_response,
    parameter_condition,
    random_parameter_response,
)
from assay.sensitivity.roundoff.accumulation import Accumulation
from assay.sensitivity.roundoff.estimate import roundoff_error
from assay.sensitivity.roundoff.floating import precision
from assay.sensitivity.roundoff.simulation import simulate
from assay.sensitivity.roundoff.sites import Precision
from assay.subject import Subject

ESTIMATORS = ("E2", "E3", "E3-probable", "E4")


class Block(nn.Module):
    """relu(conv(relu(conv(x))) + x), with a 1 x 1 convolution on the way past where shapes differ."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride, 1)
        self.second = nn.Conv2d(outputs, outputs, 3, 1, 1)
        same = inputs == outputs and stride == 1
        self.past = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.second(torch.relu(self.first(x))) + self.past(x))


def mlp() -> nn.Module:
    layers: list[nn.Module] = [nn.Flatten()]
    for _ in range(3):
        layers += [nn.Linear(64, 64), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(64, 10))


def vgg() -> nn.Module:
    def pair(inputs: int, outputs: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU()]

    first, second = [*pair(1, 16), *pair(16, 16)], [*pair(16, 32), *pair(32, 32)]
    head = [nn.Flatten(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10)]
    return nn.Sequential(*first, nn.MaxPool2d(2), *second, nn.MaxPool2d(2), *pair(32, 32), *head)


def residual() -> nn.Module:
    stem = [nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), Block(16, 16), nn.Conv2d(16, 24, 3, 2, 1), nn.ReLU()]
    return nn.Sequential(*stem, Block(24, 24), Block(24, 24), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 10))


def trained(name: str, build: Callable[[], nn.Module], inputs: int, epochs: int) -> tuple[Subject, Tensor]:
    """A network trained on the digits (Adam, 2e-3, weight decay 1e-4) in double precision, and test digits."""
    split = digits_split()
    torch.manual_seed(0)
    network, x, y = build().double(), split.train_inputs.double(), split.train_targets
    optimizer = torch.optim.Adam(network.parameters(), 2e-3, weight_decay=1e-4)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            functional.cross_entropy(network(x[rows]), y[rows]).backward()
            optimizer.step()
    network.eval()
    test = split.test_inputs.double()
    with torch.no_grad():
        right = float((network(test).argmax(1) == split.test_targets).float().mean())
    count = sum(parameter.numel() for parameter in network.parameters())
    print(f"{name}: {count:,} parameters, {right:.1%} of test digits right", flush=True)
    subject = Subject.from_model(network, test)
    assert subject.graph is not None
    return subject, test[torch.linspace(0, len(test) - 1, inputs).round().long()]


def rounding(table: Table, name: str, subject: Subject, x: Tensor, significands: list[int]) -> None:
    clean = subject.probe(x)
    for significand in significands:
        for sums in ("exact", "sequential"):
            how = None if sums == "exact" else Accumulation("sequential", precision(significand))
            chosen = Precision.uniform(significand, how)
            outputs, simulated = cpu_time(lambda p=chosen: simulate(subject, x, p))
            truth = outputs - clean
            cells, numbers = [], {}
            for estimator in ESTIMATORS:
                found, seconds = cpu_time(
                    lambda p=chosen, e=estimator: roundoff_error(subject, x, p, estimator=e, by_layer=False)
                )
                ratio = found.error.norm(dim=1) / truth.norm(dim=1)
                used = float((truth.abs() / found.error).max())
                ratios = spread(ratio) if bool(torch.isfinite(ratio).all()) else "none"
                cells.append(ratios if estimator == "E4" or ratios == "none" else f"{ratios}, used {used:.2g}")
                numbers |= {f"{estimator} ratio": ratio.tolist(), f"{estimator} used": used}
                numbers |= {f"{estimator} seconds": seconds}
                if estimator == "E4":
                    rms = float((found.error.square().mean() / truth.square().mean()).sqrt())
                    beyond = float((truth.abs() > 3 * found.error).any(1).double().mean())
                    cells.append(f"{rms:.3g}")
                    cells.append(f"{beyond:.1%}")
                    numbers |= {"E4 rms ratio": rms, "beyond 3 sigma": beyond}
            costs = [numbers[f"{e} seconds"] / simulated for e in ("E2", "E3", "E4")]
            cells.append(" / ".join(f"{cost:.2g}" for cost in costs))
            table.add(name, str(significand), sums, *cells, **numbers, simulated=simulated)


def weights(table: Table, name: str, subject: Subject, x: Tensor, attacked: int) -> None:
    sizes = (1e-3, 1e-2, 1e-1)
    rms = parameter_condition(subject, x, kind="rms")
    noise = random_parameter_response(subject, x, sizes, draws=200)
    worst = parameter_condition(subject, x[:attacked])
    attack = adversarial_parameter_response(subject, x[:attacked], sizes)
    for column, size in enumerate(sizes):
        both = torch.stack([rms.network, noise.amplification[:, column]])
        correlation = float(torch.corrcoef(both)[0, 1])
        ratio = rms.network / noise.amplification[:, column]
        beside = worst.network / attack.amplification[:, column]
        cells = (f"{size:g}", spread(ratio), f"{correlation:.3f}", spread(beside))
        table.add(name, *cells, noise=ratio.tolist(), attack=beside.tolist(), correlation=correlation)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=40)
    parser.add_argument("--attacked", type=int, default=10, help="inputs whose weights are attacked")
    arguments = arguments_of(parser)
    quick = arguments.quick
    inputs, epochs = (6, 2) if quick else (arguments.inputs, 30)
    nets = {"MLP": mlp, "VGG": vgg, "Res": residual}
    made = {name: trained(name, build, inputs, epochs) for name, build in nets.items()}
    heads = ("E2", "E3", "E3-probable", "E4", "E4 RMS", "beyond 3 sigma", "CPU E2 / E3 / E4, simulations")
    first = Table("Round-off, predicted / measured", ("network", "t", "sums", *heads))
    for name, (subject, x) in made.items():
        rounding(first, name, subject, x, [8] if quick else [8, 11])
    second = Table("Changed weights, predicted / measured", ("network", "size", "noise", "correlation", "attack, sum"))
    for name, (subject, x) in made.items():
        weights(second, name, subject, x, 2 if quick else arguments.attacked)
    save(arguments.out, [first, second], inputs=inputs, epochs=epochs)


if __name__ == "__main__":
    main()
