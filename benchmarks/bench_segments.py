"""Certificates of straight segments: how many are decided, in how many boxes, how fast, and how many are wrong.

Random segments between two inputs of one predicted class. The zonotope is compared, in the same run, with interval
bounds (the same search without the slope along the segment) and with 10,000 samples per segment, which prove nothing
but must never contradict a certificate. Fashion-MNIST's convolutional network (28 x 28), and three networks trained
here on digits (8 x 8): dense, max pools, and residual with batch norm and an average pool.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from _common import Table, arguments_of, cpu_time, save
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from assay.boundary.paths import SegmentCertificate, certify_segment
from assay.boundary.paths.prepared import Prepared, prepared
from assay.boundary.paths.zonotope import Zonotope
from assay.load.demo import digits_split

FASHION = Path(__file__).parents[1] / "tests" / "data" / "fashion"


class Intervals(Prepared):
    """The same network with pieces of segment as boxes: what moves along the segment is forgotten at the input."""

    def differences(self, element: Zonotope, own: Tensor) -> Zonotope:
        box = replace(
            element, slope=torch.zeros_like(element.slope), error=(element.error + element.slope.abs()) * (1 + 1e-15)
        )
        return super().differences(box, own)


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)
        self.second = nn.Conv2d(outputs, outputs, 3, 1, 1)
        self.skip = nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.skip(x) + self.second(functional.relu(self.norm(self.first(x)))))


def dense() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(),
        nn.Linear(64, 10),
    )  # fmt: skip


def max_pools() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(12, 24, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(96, 10),
    )  # fmt: skip


def residual() -> nn.Module:
    return nn.Sequential(Block(1, 12, 1), Block(12, 16, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))


def trained(build: Callable[[], nn.Module], epochs: int) -> tuple[nn.Module, Tensor]:
    """Adam, 3e-3, batches of 64, seed 0; and the test digits."""
    split = digits_split()
    torch.manual_seed(0)
    network = build()
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(split.train_inputs)).split(64):
            optimizer.zero_grad()
            functional.cross_entropy(network(split.train_inputs[rows]), split.train_targets[rows]).backward()
            optimizer.step()
    return network.eval().requires_grad_(False), split.test_inputs


def fashion() -> tuple[nn.Module, Tensor]:
    network = nn.Sequential(
        nn.Conv2d(1, 8, 3, 1, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 16, 3, 2, 1),
        nn.ReLU(), nn.Flatten(), nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip
    network.load_state_dict({name: value.float() for name, value in load_file(FASHION / "relu.safetensors").items()})
    pictures = load_file(FASHION / "pictures.safetensors")["pictures"].float() / 255
    return network.eval().requires_grad_(False), pictures


def same_class(model: nn.Module, x: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    label = model(x).argmax(1)
    generator = torch.Generator().manual_seed(0)
    pairs: list[tuple[int, int]] = []
    while len(pairs) < count:
        i, j = torch.randint(0, len(x), (2,), generator=generator).tolist()
        if i != j and label[i] == label[j]:
            pairs.append((i, j))
    first, second = (torch.tensor(side) for side in zip(*pairs, strict=True))
    return x[first], x[second], label[first]


def sampled(model: nn.Module, start: Tensor, end: Tensor, label: Tensor, points: int) -> Tensor:
    """Whether one of that many samples, in float32, is in another class."""
    steps = torch.linspace(0, 1, points).reshape(-1, 1, 1, 1)
    found = []
    for a, b, own in zip(start, end, label, strict=True):
        found.append(any(bool((model(a + t * (b - a)).argmax(1) != own).any()) for t in steps.split(500)))
    return torch.tensor(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--segments", type=int, default=100)
    arguments = arguments_of(parser)
    count, points, epochs = (10, 500, 2) if arguments.quick else (arguments.segments, 10_000, 12)
    columns = (
        "network", "bounds", "certified", "refuted", "undecided", "wrong", "boxes", "most", "ms per segment",
        "samples: ms",
    )  # fmt: skip
    table = Table(f"{count} random segments per network, {points:,} samples against every certificate", columns)
    made = {
        "Fashion-MNIST CNN": fashion,
        "digits dense": lambda: trained(dense, epochs),
        "digits max pools": lambda: trained(max_pools, epochs),
        "digits residual": lambda: trained(residual, epochs),
    }
    for name, make in made.items():
        model, x = make()
        start, end, label = same_class(model, x, count)
        out, spent = cpu_time(lambda: sampled(model, start, end, label, points), repeats=1)  # noqa: B023
        zonotopes = prepared(model, start)
        intervals = Intervals(**{key: getattr(zonotopes, key) for key in ("graph", "weight", "bias", "units")})
        for kind, network in (("zonotope", zonotopes), ("interval", intervals)):
            if kind == "interval":  # a few: most of them use the whole budget
                start, end, label, out = (part[:10] for part in (start, end, label, out))
            found, seconds = cpu_time(lambda: certify_segment(model, start, end, network=network), repeats=1)  # noqa: B023
            _row(table, name, kind, found, out, seconds, spent / count)
    save(arguments.out, [table])


def _row(
    table: Table, name: str, kind: str, found: SegmentCertificate, out: Tensor, seconds: float, samples: float
) -> None:
    counts = [found.status.count(status) for status in ("certified", "refuted", "undecided")]
    wrong = int((found.certified & out).sum())
    boxes = found.boxes.double()
    each = seconds / len(found.status)
    table.add(
        name, kind, *(f"{one}" for one in counts), f"{wrong}", f"{boxes.mean():.1f}", f"{boxes.max():.0f}",
        f"{1e3 * each:.1f}", f"{1e3 * samples:.0f}", seconds=each, sampling=samples,
    )  # fmt: skip


if __name__ == "__main__":
    main()
