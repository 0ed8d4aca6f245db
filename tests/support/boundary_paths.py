"""Regions with known shapes, and small piecewise linear networks with several classes, for tests of paths."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from tests.support.inputs import Calls
from torch import Tensor, nn

Region = Callable[[Tensor], Tensor]


def two_classes(inside: Region) -> Callable[[Tensor], Tensor]:
    """Logits (inside, 0): class 0 is where the function is positive."""
    return lambda x: torch.stack([inside(x), torch.zeros(len(x), dtype=x.dtype)], 1)


def points(*rows: tuple[float, ...]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def annulus(x: Tensor) -> Tensor:
    """2 < |x| < 4."""
    return 1 - (x.norm(dim=1) - 3).abs()


def xor(x: Tensor) -> Tensor:
    return x[:, 0] * x[:, 1]


def torus(x: Tensor) -> Tensor:
    """A tube of radius 0.5 around a circle of radius 2."""
    return 0.25 - (x[:, :2].norm(dim=1) - 2).square() - x[:, 2].square()


def box(low: tuple[float, ...], high: tuple[float, ...]) -> Region:
    return lambda x: torch.minimum(x - points(low), points(high) - x).amin(1)


def union(*regions: Region) -> Region:
    return lambda x: torch.stack([region(x) for region in regions]).amax(0)


def spiral(x: Tensor) -> Tensor:
    """An arm of width 0.5 whose radius grows by 1 per turn, for radii from 0.8 to 4."""
    radius = x.norm(dim=1)
    turn = torch.atan2(x[:, 1], x[:, 0]) / (2 * torch.pi)
    off = (torch.remainder(radius - turn + 0.5, 1) - 0.5).abs()
    return torch.stack([0.25 - off, radius - 0.8, 4 - radius]).amin(0)


class Thin(nn.Module):
    """Class 0 everywhere but for |x_0 - place| < width, made of ReLUs: a crossing that samples miss."""

    def __init__(self, place: float, width: float) -> None:
        super().__init__()
        self.first = nn.Linear(2, 3, dtype=torch.float64)
        self.second = nn.Linear(3, 2, dtype=torch.float64)
        with torch.no_grad():
            self.first.weight.copy_(torch.tensor([[1.0, 0.0]] * 3))
            self.first.bias.copy_(-torch.tensor([place - 2 * width, place, place + 2 * width], dtype=torch.float64))
            # a tent of height 2 width: class 1 gets tent - width
            self.second.weight.copy_(torch.tensor([[0.0, 0.0, 0.0], [1.0, -2.0, 1.0]]))
            self.second.bias.copy_(torch.tensor([0.0, -width]))

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(x)))


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 24), nn.ReLU(), nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 4))


def _pooled() -> nn.Module:
    first = [nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    return nn.Sequential(*first, nn.Conv2d(4, 4, 2), nn.LeakyReLU(0.1), nn.AdaptiveMaxPool2d(1), nn.Flatten(), _head(4))


def _residual() -> nn.Module:
    def forward(self: Any, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.first(x)))
        x = torch.relu(x + self.other(self.b(torch.relu(self.a(x)))))
        return self.head(torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1))

    layers = {
        "first": nn.Conv2d(1, 4, 3, 2, 1, bias=False),
        "norm": nn.BatchNorm2d(4),
        "a": nn.Conv2d(4, 4, 3, padding=1),
        "b": nn.Conv2d(4, 4, 3, padding=1),
        "other": nn.BatchNorm2d(4),
        "head": _head(8),
    }
    return Calls(forward, **layers)


def _averaged() -> nn.Module:
    layers = [nn.Conv2d(1, 6, 3), nn.PReLU(6), nn.AvgPool2d(2), nn.Hardtanh(-1.0, 1.0), nn.Flatten(), _head(24)]
    return nn.Sequential(*layers, nn.LogSoftmax(1))


def _head(inputs: int) -> nn.Module:
    return nn.Linear(inputs, 4)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "dense": _mlp,
    "max pools": _pooled,
    "residual": _residual,
    "average pool": _averaged,
}


@lru_cache(maxsize=len(NETWORKS))
def network(name: str) -> nn.Module:
    """A random network with four classes that all occur, float32: (B, 1, 6, 6) to (B, 4)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        found = NETWORKS[name]()
        x = pictures(500)
        with torch.no_grad():
            for norm in (one for one in found.modules() if isinstance(one, nn.BatchNorm2d)):
                norm.running_mean.normal_(0, 0.3)  # type: ignore[union-attr]
                norm.running_var.uniform_(0.3, 2.0)  # type: ignore[union-attr]
            found.eval()
            head = [one for one in found.modules() if isinstance(one, nn.Linear)][-1]
            for _ in range(3):  # centre the logits, so that no class has the whole space
                logits = found(x)
                head.bias -= logits.mean(0) - logits.mean()
    return found.requires_grad_(False)


def pictures(count: int, seed: int = 0) -> Tensor:
    """(count, 1, 6, 6) float32 random inputs."""
    return torch.randn((count, 1, 6, 6), generator=torch.Generator().manual_seed(seed))


def same_class_segments(model: nn.Module, count: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Ends and class of segments whose two ends are predicted alike."""
    x = pictures(8 * count, seed)
    label = model(x).argmax(1)
    pairs = [(i, i + 1) for i in range(len(x) - 1) if label[i] == label[i + 1]][:count]
    first, second = (torch.tensor(side) for side in zip(*pairs, strict=True))
    return x[first], x[second], label[first]


def leaves(model: Callable[[Tensor], Tensor], start: Tensor, end: Tensor, label: Tensor, count: int) -> Tensor:
    """(N,) whether one of `count` samples of a segment, in float64, is in another class."""
    found = []
    steps = torch.linspace(0, 1, count, dtype=torch.float64).reshape((-1,) + (1,) * (start.dim() - 1))
    for a, b, own in zip(start.double(), end.double(), label.tolist(), strict=True):
        with torch.no_grad():
            found.append(bool((model(a + steps * (b - a)).argmax(1) != own).any()))
    return torch.tensor(found)
