"""Gaussian paths with exactly known covariance, networks at random, and kinks counted along a path."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from assay.smoothness.network import Network


def frequencies(count: int = 60, reach: float = 6.0) -> tuple[Tensor, Tensor]:
    """Frequencies and amplitudes of a Gaussian series whose covariance is nearly exp(-tau^2 / 2)."""
    omega = (torch.arange(count, dtype=torch.float64) + 0.5) * (reach / count)
    power = torch.exp(-0.5 * omega.square())
    return omega, (power / power.sum()).sqrt()


def series_covariance(tau: Tensor) -> Tensor:
    """Its covariance function."""
    omega, amplitude = frequencies()
    return (amplitude.square() * torch.cos(tau.unsqueeze(-1) * omega)).sum(-1)


def slope_variance() -> float:
    """Variance of its derivative."""
    omega, amplitude = frequencies()
    return float((amplitude * omega).square().sum())


def gaussian_paths(t: Tensor, shape: tuple[int, ...], seed: int) -> tuple[Tensor, Tensor]:
    """Independent paths z (len(t), *shape) of that covariance, and their derivatives: exact at every t."""
    omega, amplitude = frequencies()
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn((2, len(omega), math.prod(shape)), generator=generator, dtype=torch.float64)
    phase = t.unsqueeze(1) * omega
    cosine, sine = torch.cos(phase) * amplitude, torch.sin(phase) * amplitude
    z = cosine @ weights[0] + sine @ weights[1]
    slope = (cosine * omega) @ weights[1] - (sine * omega) @ weights[0]
    return z.reshape(-1, *shape), slope.reshape(-1, *shape)


def he_mlp(width: int, depth: int, seed: int) -> nn.Sequential:
    """No biases, weights of variance 2 / width, a readout of variance 1 / width."""
    generator = torch.Generator().manual_seed(seed)
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Linear(width, width, bias=False), nn.ReLU()]
    layers.append(nn.Linear(width, 1, bias=False))
    with torch.no_grad():
        for layer in layers:
            if isinstance(layer, nn.Linear):
                gain = 1.0 if layer.out_features == 1 else 2.0
                layer.weight.copy_(math.sqrt(gain / width) * torch.randn(layer.weight.shape, generator=generator))
    return nn.Sequential(*layers).double()


def random_cnn(seed: int, size: int = 20, channels: int = 6) -> nn.Sequential:
    """conv-BN-ReLU-pool-conv-ReLU-pool-fc-ReLU-fc at random, batch norm with random statistics."""
    torch.manual_seed(seed)
    side = size // 4
    model = nn.Sequential(
        nn.Conv2d(1, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(channels, 2 * channels, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(2 * channels * side * side, 32), nn.ReLU(), nn.Linear(32, 1),
    ).double()  # fmt: skip
    norm = model[1]
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    with torch.no_grad():
        for layer in model:
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(layer.weight)
        norm.running_mean.normal_(0, 0.2)
        norm.running_var.uniform_(0.5, 1.5)
        norm.weight.uniform_(0.5, 1.5)
        norm.bias.normal_(0, 0.2)
    return model.eval()


def smooth_field(size: int, length: float) -> Tensor:
    """Covariance (size^2, size^2) of a picture with a Gaussian correlation of neighbouring pixels."""
    places = torch.stack(torch.meshgrid(*[torch.arange(size, dtype=torch.float64)] * 2, indexing="ij"), -1)
    flat = places.reshape(-1, 2)
    return torch.exp(-0.5 * (flat.unsqueeze(1) - flat).square().sum(-1) / length**2)


def square_root(covariance: Tensor) -> Tensor:
    """Symmetric square root."""
    values, vectors = torch.linalg.eigh(covariance)
    return vectors * values.clamp(min=0).sqrt() @ vectors.T


def counted(network: Network, x: Tensor, slopes: Tensor, rows: int = 512) -> dict[str, Tensor]:
    """SMP by place of a layer (K,), from switches between neighbouring points of a fine path."""
    found: dict[str, Tensor] = {}
    for start in range(0, len(x) - 1, rows):
        part = slice(start, min(start + rows, len(x) - 1) + 1)
        sweep = network.sweep(x[part], slopes[part])
        for switch, adjoint in zip(sweep.switches, sweep.adjoints(), strict=True):
            size = (adjoint[:, 1:] + adjoint[:, :-1]).abs() / 2
            total = torch.zeros(len(adjoint), dtype=torch.float64)
            if switch.winners is None:
                speed = (switch.slopes[1:] + switch.slopes[:-1]).abs() / 2
                for level, change in switch.thresholds:
                    side = switch.inputs > level
                    total = total + (size * speed * abs(change) * (side[1:] != side[:-1])).sum((1, 2))
            else:
                moved = switch.winners[1:] != switch.winners[:-1]
                middle = (switch.slopes[1:] + switch.slopes[:-1]) / 2
                jump = (middle.gather(1, switch.winners[1:]) - middle.gather(1, switch.winners[:-1])).abs()
                total = total + (size * jump * moved).sum((1, 2))
            place = switch.node.place
            found[place] = found.get(place, torch.zeros_like(total)) + total
    return found


def threshold_smp(z: Tensor, slope: Tensor, level: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
    """Of paths (n, m): sum of |z'| over crossings (m,), their number (m,), and every |z'|, the slope interpolated."""
    a, b = z[:-1] - level, z[1:] - level
    crossed = (a > 0) != (b > 0)
    share = torch.where(crossed, a / torch.where(crossed, a - b, torch.ones_like(a)), torch.zeros_like(a))
    size = (slope[:-1] + share * (slope[1:] - slope[:-1])).abs()
    return (size * crossed).sum(0), crossed.sum(0).double(), size[crossed]


def maximum_smp(z: Tensor, slope: Tensor, floor: float | None = None) -> Tensor:
    """Of paths (n, m, k): sum of jumps of the slope of the largest, or of that and a constant (m,)."""
    if floor is not None:
        z, slope = (torch.cat([v, torch.full_like(v[..., :1], c)], -1) for v, c in ((z, floor), (slope, 0.0)))
    winner = z.argmax(-1, keepdim=True)
    now, then = winner[:-1], winner[1:]
    gaps = [(v.gather(-1, w1) - v.gather(-1, w0))[..., 0] for v, w0, w1 in _ends(z, now, then)]
    steps = [(v.gather(-1, w1) - v.gather(-1, w0))[..., 0] for v, w0, w1 in _ends(slope, now, then)]
    switched = (now != then)[..., 0]
    width = torch.where(switched, gaps[1] - gaps[0], torch.ones_like(gaps[0]))
    share = -gaps[0] / width
    return ((steps[0] + share * (steps[1] - steps[0])).abs() * switched).sum(0)


def _ends(v: Tensor, now: Tensor, then: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
    return [(v[:-1], now, then), (v[1:], now, then)]


class GaussianPath:
    """One draw of the series as a path through inputs of a shape, mixed by a square root of their covariance."""

    def __init__(self, shape: tuple[int, ...], seed: int, length: float, root: Tensor | None = None) -> None:
        self.shape, self.seed, self.root = shape, seed, root
        self.start, self.end, self.knots = 0.0, length, ()

    def at(self, t: Tensor, *, side: str = "right") -> tuple[Tensor, Tensor]:
        """Points and tangents."""
        both = gaussian_paths(t, (math.prod(self.shape),), self.seed)
        x, slope = (v if self.root is None else v @ self.root for v in both)
        return x.reshape(-1, *self.shape), slope.reshape(-1, *self.shape)
