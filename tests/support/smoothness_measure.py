"""Networks, paths and a search for kinks that share nothing with the estimators they test."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Lambda(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Affine(nn.Linear):
    """t -> (weight t + bias) as a layer with given numbers."""

    def __init__(self, weight: list[float], bias: list[float]) -> None:
        super().__init__(1, len(weight), dtype=torch.float64)
        self.weight.data = torch.tensor(weight, dtype=torch.float64)[:, None]
        self.bias.data = torch.tensor(bias, dtype=torch.float64)


class Bow:
    """A curve a + t (b - a) + sin(w t) c."""

    def __init__(self, a: Tensor, b: Tensor, c: Tensor, w: float = 2.0) -> None:
        self.a, self.b, self.c, self.w = a.double(), b.double(), c.double(), w

    start, end, knots = 0.0, 1.0, ()

    def at(self, t: Tensor, *, side: str = "right") -> tuple[Tensor, Tensor]:
        t = t.reshape(-1, *[1] * self.a.dim())
        chord = self.b - self.a
        return self.a + t * chord + (self.w * t).sin() * self.c, chord + self.w * (self.w * t).cos() * self.c


class Bent:
    """A polygon through points: its knots are kinks of the path."""

    def __init__(self, points: Tensor, times: list[float]) -> None:
        self.points, self.times = points.double(), torch.tensor(times, dtype=torch.float64)
        self.start, self.end, self.knots = times[0], times[-1], tuple(times[1:-1])

    def at(self, t: Tensor, *, side: str = "right") -> tuple[Tensor, Tensor]:
        place = torch.searchsorted(self.times, t.double(), right=side == "right") - 1
        place = place.clamp(0, len(self.times) - 2)
        width = self.times[place + 1] - self.times[place]
        shape = (-1, *[1] * (self.points.dim() - 1))
        slope = (self.points[place + 1] - self.points[place]) / width.reshape(shape)
        return self.points[place] + (t - self.times[place]).reshape(shape) * slope, slope


def mlp(seed: int, sizes: tuple[int, ...] = (16, 48, 48, 3)) -> tuple[nn.Sequential, Tensor, Tensor]:
    """He-initialised ReLU network and two inputs."""
    draws = torch.Generator().manual_seed(seed)
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        linear = nn.Linear(inputs, outputs, dtype=torch.float64)
        linear.weight.data = torch.randn(outputs, inputs, generator=draws).double() * math.sqrt(2 / inputs)
        linear.bias.data = 0.1 * torch.randn(outputs, generator=draws).double()
        layers += [linear, nn.ReLU()]
    ends = torch.randn(2, sizes[0], generator=draws).double()
    return nn.Sequential(*layers[:-1]).eval(), ends[0], ends[1]


def cnn(seed: int, size: int = 14, **swapped: bool) -> tuple[nn.Sequential, Tensor, Tensor]:
    """Convolutions, ReLUs and pools (one with ceil_mode), and two inputs; `pool_first` swaps ReLU and pool."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        first, second = nn.Conv2d(1, 5, 3), nn.Conv2d(5, 6, 3)
        blocks = [[nn.ReLU(), nn.MaxPool2d(2)], [nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True)]]
        if swapped.get("pool_first"):
            blocks = [block[::-1] for block in blocks]
        side = -(-((size - 2) // 2 - 2) // 2)
        head = [nn.Flatten(), nn.Linear(6 * side * side, 20), nn.ReLU(), nn.Linear(20, 3)]
        network = nn.Sequential(first, *blocks[0], second, *blocks[1], *head).double().eval()
        ends = torch.randn(2, 1, size, size).double()
    return network, ends[0], ends[1]


def blobs(centres: Tensor, size: int = 20) -> Tensor:
    """Pictures (n, 1, size, size) of a blob at each centre (n, 2)."""
    grid = torch.arange(size, dtype=centres.dtype)
    rows, columns = grid[None, :, None] - centres[:, 0, None, None], grid[None, None] - centres[:, 1, None, None]
    return torch.exp(-(rows**2 + columns**2) / 8)[:, None]


@lru_cache(maxsize=4)
def trained(kind: str = "relu", seed: int = 0, steps: int = 250) -> nn.Sequential:
    """A convolutional network trained for seconds to tell where a blob is: `relu` with max pools, `tanh` with means."""
    activation, pool = {"relu": (nn.ReLU, nn.MaxPool2d), "tanh": (nn.Tanh, nn.AvgPool2d)}[kind]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), activation(), pool(2),
            nn.Conv2d(8, 12, 3, padding=1), activation(), pool(2),
            nn.Flatten(), nn.Linear(300, 24), activation(), nn.Linear(24, 2),
        )  # fmt: skip
        optimiser = torch.optim.Adam(network.parameters(), 3e-3)
        for _ in range(steps):
            centres = 10 * torch.rand(48, 2) + 5
            pictures = blobs(centres) + 0.05 * torch.randn(48, 1, 20, 20)
            optimiser.zero_grad()
            F.mse_loss(network(pictures), (centres - 10) / 5).backward()
            optimiser.step()
    return network.double().eval()


class BlobPath:
    """A blob on a closed smooth curve; t in [0, 10]."""

    start, end, knots = 0.0, 10.0, ()

    def at(self, t: Tensor, *, side: str = "right") -> tuple[Tensor, Tensor]:
        def picture(s: Tensor) -> Tensor:
            return blobs(torch.stack([10 + 4 * (0.6 * s).sin(), 10 + 3.5 * (0.83 * s + 0.5).cos()], 1))

        return torch.func.jvp(picture, (t.double(),), (torch.ones_like(t, dtype=torch.float64),))


def searched(network: nn.Module, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Kinks of a piecewise linear network of three or more outputs on a line, by bisection of outputs alone.

    An interval is finished when both ends lie on one straight line, or on two that meet inside: three outputs do not
    agree on the meeting point by chance.

    Returns:
        Places (m,) and jumps (m, K).
    """
    step = b - a

    def look(t: Tensor) -> tuple[Tensor, Tensor]:
        points = a + t.reshape(-1, *[1] * a.dim()) * step
        return torch.func.jvp(network, (points,), (step.expand_as(points),))

    with torch.no_grad():
        ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
        y, s = look(ends)
        size = float(s.abs().max())
        low, high = (ends[:1], y[:1], s[:1]), (ends[1:], y[1:], s[1:])
        places, jumps = [], []
        for _ in range(60):
            turn, width = high[2] - low[2], high[0] - low[0]
            straight = (turn.abs().amax(1) < 1e-9 * size) & (
                (high[1] - low[1] - low[2] * width[:, None]).abs().amax(1) < 1e-10 * size * width + 1e-13 * size
            )
            offset = low[1] - high[1] + high[2] * high[0][:, None] - low[2] * low[0][:, None]
            meet = (offset * turn).sum(1) / (turn * turn).sum(1).clamp(min=1e-300)
            gap = low[1] + low[2] * (meet - low[0])[:, None] - high[1] - high[2] * (meet - high[0])[:, None]
            once = (
                ~straight
                & (meet > low[0])
                & (meet < high[0])
                & (gap.abs().amax(1) < 3e-14 * size + 1e-10 * size * width)
            )
            once |= ~straight & (width < 1e-12)
            for share in (0.3, 0.8):  # and points between lie on the line, or on the two
                t = low[0] + share * width
                left = ~once | (t < meet)
                value, slope = (torch.where(left[:, None], low[part], high[part]) for part in (1, 2))
                origin = torch.where(left, low[0], high[0])
                off = (look(t)[0] - value - slope * (t - origin)[:, None]).abs().amax(1)
                true = (off < 1e-10 * size * width + 1e-13 * size) | (width < 1e-12)
                straight, once = straight & true, once & true
            places.append(meet[once])
            jumps.append(turn[once])
            left = ~(straight | once)
            if not bool(left.any()):
                break
            low, high = tuple(v[left] for v in low), tuple(v[left] for v in high)
            t = low[0] + 0.5123 * (high[0] - low[0])
            y, s = look(t)
            low = tuple(torch.cat(pair) for pair in zip(low, (t, y, s), strict=True))
            high = tuple(torch.cat(pair) for pair in zip((t, y, s), high, strict=True))
    found, size_of = torch.cat(places), torch.cat(jumps)
    order = found.argsort()
    return found[order], size_of[order]
