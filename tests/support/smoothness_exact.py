"""Small piecewise linear networks, and their kinks along a line by bisection: slow, with no code of assay's."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp

from assay.smoothness.network import Network, Outputs
from assay.smoothness.paths.line import Line


class Truth(NamedTuple):
    """Kinks found by bisection."""

    t: Tensor
    jump: Tensor

    @property
    def smp(self) -> Tensor:
        """(K,) sum of the magnitudes."""
        return self.jump.abs().sum(0)


def bisected(model: nn.Module, a: Tensor, b: Tensor, points: int = 2001) -> Truth:
    """Where the slope along a + t (b - a) changes: a dense grid, and bisection of every interval that is not straight.

    Returns:
        Kinks, to 1e-11 in t.
    """
    state = {name: value.detach().double() for name, value in model.state_dict().items()}
    model = model.eval().double()
    a, b = a.double(), b.double()

    def at(t: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.lerp(a, b, t.reshape(-1, *[1] * a.dim()))
        values, slopes = jvp(
            lambda z: functional_call(model, state, (z,), tie_weights=False), (x,), ((b - a).expand(x.shape),)
        )
        return values.flatten(1), slopes.flatten(1)

    with torch.no_grad():
        # off round numbers, where kinks of hand-made networks are
        t = torch.cat([torch.linspace(1e-9, 1 - 3e-9, points, dtype=torch.float64)])
        low, high = t[:-1] + 1.2345e-10, t[1:] + 1.2345e-10
        (y0, s0), (y1, s1) = at(low), at(high)
        size, steep = float(y0.abs().max()) + 1e-30, float(s0.abs().max()) + 1e-30
        found = []
        while len(low):
            width = (high - low)[:, None]
            straight = ((s1 - s0).abs() <= 1e-10 * steep).all(1)
            straight &= ((y1 - y0 - s0 * width).abs() <= 1e-14 * size + 1e-10 * steep * width).all(1)
            tiny = (high - low < 1e-11) & ~straight
            found.append(torch.cat([((low + high) / 2)[tiny, None], (s1 - s0)[tiny]], 1))
            rest = ~straight & ~tiny
            low, high, y0, y1, s0, s1 = (part[rest] for part in (low, high, y0, y1, s0, s1))
            if not len(low):
                break
            middle = low + (high - low) * 0.4973
            y, s = at(middle)
            low, high = torch.cat([low, middle]), torch.cat([middle, high])
            y0, y1, s0, s1 = torch.cat([y0, y]), torch.cat([y, y1]), torch.cat([s0, s]), torch.cat([s, s1])
    kinks = torch.cat(found)
    kinks = kinks[kinks[:, 0].argsort()]
    return Truth(kinks[:, 0], kinks[:, 1:])


def measured(model: nn.Module, a: Tensor, b: Tensor, outputs: Outputs = None) -> tuple[Network, Line]:
    """What `exact_line` takes."""
    return Network.of(model.double(), a[None].double(), outputs), Line(a.double(), b.double())


class Function(nn.Module):
    """A module from a function of a tensor."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def mlp(seed: int, width: int = 24, inputs: int = 8, outputs: int = 2) -> nn.Sequential:
    """Two hidden ReLU layers."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, outputs)
    ).double()


def cnn(seed: int, activation: nn.Module | None = None, pool: nn.Module | None = None) -> nn.Sequential:
    """Two convolutions with batch norm, activations and overlapping max pools, for 2x9x9 inputs."""
    torch.manual_seed(seed)
    act = activation or nn.ReLU()
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), act, pool or nn.MaxPool2d(3, 2, ceil_mode=True),
        nn.Conv2d(4, 5, 3), act, nn.MaxPool2d(2, 2, ceil_mode=True), nn.Flatten(), nn.LazyLinear(6), act,
        nn.Linear(6, 2),
    )  # fmt: skip
    norm = net[1]
    assert isinstance(norm, nn.BatchNorm2d)
    norm.running_mean = 0.3 * torch.randn(4)
    norm.running_var = torch.rand(4) + 0.5
    net.double().eval()(torch.zeros(1, 2, 9, 9).double())
    return net


class Residual(nn.Module):
    """Blocks x + F(x), a skip over two layers and a concatenation of branches with breakpoints of their own."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.one, self.two, self.three = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.left, self.right = nn.Linear(6, 5), nn.Linear(6, 4)
        self.last = nn.Linear(15, 3)

    def forward(self, x: Tensor) -> Tensor:
        first = torch.relu(x + self.two(torch.relu(self.one(x))))
        second = first - 0.5 * torch.nn.functional.leaky_relu(self.three(first), -0.3)
        branches = [torch.relu(self.left(x)), self.right(second).abs(), second]
        return self.last(torch.cat(branches, dim=1))


class Mixture(nn.Module):
    """Every piecewise linear operator there is, one after the other."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.second = nn.Linear(6, 8), nn.Linear(6, 8)
        self.third, self.last = nn.Linear(8, 8), nn.Linear(11, 2)
        self.slopes = nn.Parameter(torch.tensor([0.2, -0.4, 1.0, 1.7, 0.0, -1.0, 0.5, 0.1]))

    def forward(self, x: Tensor) -> Tensor:
        u, v = self.first(x), self.second(x)
        high, low = torch.maximum(u, v), torch.minimum(u, 0.3 * v)
        z = nn.functional.hardsigmoid(4 * high) + nn.functional.relu6(3 * low) + torch.clamp(u, -0.2, 0.4)
        z = self.third(nn.functional.prelu(z, self.slopes)) - v.abs()
        pooled = nn.functional.max_pool1d(z[:, None], 3, 2, padding=1)[:, 0]
        coarse = nn.functional.max_pool1d(z[:, None], 3, 3, ceil_mode=True)[:, 0]
        some = torch.stack([z.mean(1), nn.functional.hardtanh(z[:, 0])], dim=1)
        rest = [z.amax(1, keepdim=True), torch.maximum(z[:, 1:2], 0 * z[:, 2:3])]
        return self.last(torch.cat([pooled, coarse, some, *rest], 1))
