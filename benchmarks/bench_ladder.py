"""Every rung of the ladder beside attacks: how far above the worst response found, how well both agree, violations.

Three networks trained on digits (dense, VGG-like, ResNet-like), in double precision. The attack is gradient ascent on
||f(x + d) - f(x)|| over the sphere ||d|| = eps ||x||, started at the top singular vectors and at random. One attacked
input is one input at one size: 500 inputs at 14 sizes on three networks are 21,000. Guaranteed rungs must never be
exceeded; first-order ones may, and the last column says how often they were.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from _common import Table, arguments_of, save, spread
from torch import Tensor, nn
from torch.nn import functional

from assay.grade import Grade
from assay.load.demo import digits_split
from assay.sensitivity import adversarial_response, condition_numbers
from assay.sensitivity.bounds import Rung, certified_ball, ladder

BALLS = (1e-3, 1e-2, 1e-1)


class Block(nn.Module):
    """relu(skip(x) + conv(relu(conv(x))))."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride, 1)
        self.second = nn.Conv2d(outputs, outputs, 3, 1, 1)
        self.skip = nn.Conv2d(inputs, outputs, 1, stride) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.skip(x) + self.second(functional.relu(self.first(x))))


def dense() -> nn.Module:
    layers: list[nn.Module] = [nn.Flatten()]
    for _ in range(3):
        layers += [nn.Linear(64, 64), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(64, 10))


def vgg_like() -> nn.Module:
    def convolution(inputs: int, outputs: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU()]

    first = [*convolution(1, 16), *convolution(16, 16), nn.MaxPool2d(2)]
    second = [*convolution(16, 32), *convolution(32, 32), nn.MaxPool2d(2), *convolution(32, 32)]
    return nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))


def resnet_like() -> nn.Module:
    blocks = [Block(16, 16), Block(16, 24, 2), Block(24, 24), Block(24, 24)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 10)]
    return nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), *blocks, *head)


def trained(name: str, build: Callable[[], nn.Module], epochs: int) -> tuple[nn.Module, Tensor]:
    """Adam, 2e-3, weight decay 1e-4, batches of 64, float64; seed 0."""
    split = digits_split()
    torch.manual_seed(0)
    network, x = build().double(), split.train_inputs.double()
    optimizer = torch.optim.Adam(network.parameters(), 2e-3, weight_decay=1e-4)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            functional.cross_entropy(network(x[rows]), split.train_targets[rows]).backward()
            optimizer.step()
    test = split.test_inputs.double()
    with torch.no_grad():
        right = float((network.eval()(test).argmax(1) == split.test_targets).float().mean())
    count = sum(parameter.numel() for parameter in network.parameters())
    print(f"\n{name}: {count:,} parameters, {right:.1%} of test digits right", flush=True)
    return network, test


def correlation(a: Tensor, b: Tensor) -> float:
    """Of logarithms."""
    return float(torch.corrcoef(torch.stack([a.log(), b.log()]))[0, 1]) if len(a) > 2 else float("nan")


def balls(network: nn.Module, x: Tensor, sizes: list[float], factor: Tensor) -> dict[float, Tensor]:
    """Certified relative constants per size, for the first inputs."""
    length = x.flatten(1).norm(dim=1)
    return {size: certified_ball(network, x, size * length).lipschitz * factor for size in sizes}


def measure(
    name: str, network: nn.Module, x: Tensor, sizes: list[float], certified: int, steps: int
) -> tuple[Table, int]:
    conditions = condition_numbers(network, x)
    found = ladder(network, x, radii=())
    attack = adversarial_response(network, x, sizes, steps=steps, right=conditions.right).amplification
    shown = [min(range(len(sizes)), key=lambda i, at=at: abs(sizes[i] - at)) for at in (1e-3, 1e-1)]
    columns = ["rung", "grade", *(f"predicted / attack at {sizes[i]:.0e}" for i in shown), "correlation", "exceeded"]
    table = Table(f"{name}, {len(x)} inputs x {len(sizes)} sizes", columns)
    violations = 0

    def row(rung: str, grade: Grade, values: list[tuple[Tensor, Tensor]], small: Tensor, large: Tensor | None) -> int:
        """Values beside attacks, for all sizes that the rung holds for."""
        over = sum(int((reached > value * (1 + 1e-9)).sum()) for value, reached in values)
        total = sum(len(value) for value, _ in values)
        ratios = [spread(part) if part is not None else "" for part in (small, large)]
        agree = correlation(*values[0])
        table.add(rung, grade.value, *ratios, f"{agree:.4f}", f"{over} of {total}", over=over, total=total)
        return over if grade is Grade.BOUND else 0

    for rung in found:
        assert isinstance(rung, Rung)
        if rung.value is None or rung.name == "kappa rms":
            continue
        pairs = [(rung.value, attack[:, i]) for i in (shown[0], *(i for i in range(len(sizes)) if i != shown[0]))]
        violations += row(rung.name, rung.grade, pairs, *(rung.value / attack[:, i] for i in shown))
    if certified:
        few = x[:certified]
        factor = (conditions.input_norm / conditions.output_norm)[:certified]
        near = {size: min(range(len(sizes)), key=lambda i, at=size: abs(sizes[i] - at)) for size in BALLS}
        for size, value in balls(network, few, [sizes[i] for i in near.values()], factor).items():
            inside = [i for i in range(len(sizes)) if sizes[i] <= size]
            pairs = [(value, attack[:certified, i]) for i in reversed(inside)]
            at_size = value / attack[:certified, inside[-1]]
            ratios = (at_size, None) if size < 0.03 else (value / attack[:certified, shown[0]], at_size)
            violations += row(f"ball {size:.0e}", Grade.BOUND, pairs, *ratios)
    return table, violations


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=500)
    parser.add_argument("--certified", type=int, default=24, help="inputs whose balls are certified, per network")
    parser.add_argument("--steps", type=int, default=25, help="gradient steps of the attack")
    arguments = arguments_of(parser)
    inputs, certified, steps, epochs = arguments.inputs, arguments.certified, arguments.steps, 30
    sizes = torch.logspace(-4, -0.5, 15, dtype=torch.float64).tolist()[:14]
    if arguments.quick:
        inputs, certified, steps, epochs, sizes = 12, 2, 4, 3, [1e-3, 1e-2, 1e-1]
    tables, violations, attacked = [], 0, 0
    for name, build in (("dense", dense), ("VGG-like", vgg_like), ("ResNet-like", resnet_like)):
        network, test = trained(name, build, epochs)
        table, over = measure(name, network, test[:inputs], sizes, min(certified, inputs), steps)
        tables.append(table)
        violations, attacked = violations + over, attacked + inputs * len(sizes)
    print(f"\n{attacked:,} attacked inputs; guaranteed rungs exceeded: {violations}")
    save(arguments.out, tables, attacked=attacked, violations=violations)


if __name__ == "__main__":
    main()
