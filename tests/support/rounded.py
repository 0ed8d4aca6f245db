"""Networks that the tests of rounding and of changed weights share: the golden one, trained ones, and random ones."""

from __future__ import annotations

import math
import random
from functools import lru_cache

import torch
from tests.support.networks import digits
from torch import Tensor, nn

from assay.subject import Subject, as_subject

POINT = torch.tensor([[0.25, 0.5, 0.75, 1.0]], dtype=torch.float64)


def golden() -> nn.Sequential:
    """The 4-5-3 network whose weights are sines of squares."""

    def sines(first: int, *shape: int) -> Tensor:
        count = math.prod(shape)
        return torch.tensor([math.sin(m * m) for m in range(first, first + count)], dtype=torch.float64).reshape(shape)

    network = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).double()
    network[0].weight.data, network[2].weight.data = sines(1, 5, 4), sines(21, 3, 5)
    network[0].bias.data, network[2].bias.data = sines(36, 5) / 4 + 1, sines(41, 3) / 4
    return network.eval().requires_grad_(False)


class Residual(nn.Module):
    """x + f(x)."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.inside = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inside(x)


class Beside(nn.Module):
    """x and f(x) side by side."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.inside = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.inside(x)], 1)


class Tokens(nn.Module):
    """A transformer block over a class token and positions; samples are not always the outer axis inside."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 8)
        self.token = nn.Parameter(0.5 * torch.randn(1, 1, 8))
        self.position = nn.Parameter(0.3 * torch.randn(1, 6, 8))
        self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, activation="gelu", norm_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.cat([self.token.expand(x.shape[0], -1, -1), self.embed(x)], 1) + self.position
        return self.head(self.block(h)[:, 0])


def tokens() -> tuple[nn.Module, Tensor]:
    """The transformer with random weights, and inputs."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return Tokens().double().eval(), torch.randn(6, 5, 4, dtype=torch.float64)


def _mlp() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10))


def _pooled() -> nn.Sequential:
    first = [nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    second = [nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
    return nn.Sequential(*first, *second, nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def _residual() -> nn.Sequential:
    def inside(width: int) -> list[nn.Module]:
        return [nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 1)]

    stem = [nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), Residual(*inside(8)), nn.ReLU()]
    down = [nn.Conv2d(8, 16, 3, stride=2, padding=1), Residual(*inside(16)), nn.ReLU()]
    return nn.Sequential(*stem, *down, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 10))


TRAINED = {"dense": _mlp, "pooled": _pooled, "residual": _residual}


@lru_cache(maxsize=3)
def captured(name: str) -> tuple[Subject, Tensor]:
    """`trained` as a subject, whose graph is captured once, and the same digits."""
    network, x = trained(name)
    return as_subject(network, x[:2]), x


@lru_cache(maxsize=3)
def trained(name: str) -> tuple[nn.Sequential, Tensor]:
    """A digits network of a few epochs in double precision (above 90 % right), and 24 test digits."""
    x, y = digits()
    x = x.reshape(-1, 1, 8, 8).double()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = TRAINED[name]().double()
        optimiser = torch.optim.Adam(network.parameters(), 4e-3)
        for _ in range(6):
            for rows in torch.randperm(1300).split(64):
                optimiser.zero_grad()
                nn.functional.cross_entropy(network(x[rows]), y[rows]).backward()
                optimiser.step()
    optimiser.zero_grad()
    network.eval()
    with torch.no_grad():
        assert float((network(x[1300:]).argmax(1) == y[1300:]).double().mean()) > 0.85
    return network.requires_grad_(False), x[1300:1324]


def random_net(seed: int) -> tuple[Subject, Tensor]:
    """A small network of random make, weights and input size, in double precision: dense, or convolutions and pools."""
    draw = random.Random(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network, x = (_random_conv if draw.random() < 0.6 else _random_dense)(draw)
        network(x)  # lazy layers take their shape
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_()  # type: ignore[union-attr]
                module.running_var.uniform_(0.1, 2.0)  # type: ignore[union-attr]
                module.weight.data.normal_()
    x = x.double()
    return as_subject(network.double().eval().requires_grad_(False), x[:2]), x


def _activation(draw: random.Random) -> nn.Module:
    smooth = [nn.Tanh(), nn.GELU(), nn.SiLU(), nn.Softplus(), nn.Mish(), nn.Hardswish()]
    return draw.choice([nn.ReLU(), nn.ReLU(), nn.ReLU(), nn.LeakyReLU(0.1), nn.ReLU6(), nn.Identity(), *smooth])


def _random_dense(draw: random.Random) -> tuple[nn.Module, Tensor]:
    width = draw.choice([1, 2, 5])
    x = torch.randn(3, width) * draw.choice([0.1, 1.0, 10.0])
    layers: list[nn.Module] = []
    for _ in range(draw.randint(0, 3)):
        out = draw.choice([1, 3, 6])
        layers += [nn.Linear(width, out, bias=draw.random() < 0.7), _activation(draw)]
        width = out
        if draw.random() < 0.2 and width > 1:
            layers.append(nn.LayerNorm(width))
    return nn.Sequential(*layers, nn.Linear(width, draw.choice([1, 3]))), x


def _random_conv(draw: random.Random) -> tuple[nn.Module, Tensor]:
    channels = draw.choice([1, 2])
    x = torch.randn(3, channels, 5, 5) * draw.choice([0.1, 1.0, 10.0])
    layers: list[nn.Module] = []
    for _ in range(draw.randint(1, 3)):
        out = draw.choice([2, 3])
        kind = draw.choice(["plain", "plain", "normed", "residual", "beside", "max", "mean", "group", "transposed"])
        if kind in ("plain", "normed"):
            layers.append(nn.Conv2d(channels, out, 3, padding=1, bias=draw.random() < 0.7))
            layers += [nn.BatchNorm2d(out), _activation(draw)] if kind == "normed" else [_activation(draw)]
            channels = out
        elif kind == "residual":
            layers.append(Residual(nn.Conv2d(channels, channels, 3, padding=1), _activation(draw)))
        elif kind == "beside":
            layers.append(Beside(nn.Conv2d(channels, out, 1)))
            channels += out
        elif kind == "transposed":
            layers += [nn.ConvTranspose2d(channels, out, 3, padding=1), _activation(draw)]
            channels = out
        else:
            others = {"max": nn.MaxPool2d(2, 1, 1), "mean": nn.AvgPool2d(3, 1, 1), "group": nn.GroupNorm(1, channels)}
            layers.append(others[kind])
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(draw.choice([1, 2])), nn.Flatten(), nn.LazyLinear(3)), x
