"""Tracks with and without kinks: random networks, trained regressors, smooth functions, and what is done to tracks."""

from collections.abc import Callable

import numpy as np
import torch
from scipy.interpolate import PchipInterpolator
from scipy.ndimage import gaussian_filter1d, uniform_filter1d
from scipy.signal import lfilter, savgol_filter
from torch import Tensor, nn

SAMPLES, LENGTH = 601, 12.0
STEP = LENGTH / (SAMPLES - 1)


def gaussian_process(rng, count: int, *, scale: float = 1.0, samples: int = SAMPLES, length: float = LENGTH):
    """(count, samples) exact Gaussian series of 60 frequencies: covariance exp(-tau^2 / (2 scale^2)), unit variance."""
    t = np.linspace(0, length, samples)
    w = 2 * np.pi * np.arange(1, 61) / (4 * length)
    power = np.exp(-0.5 * np.square(w * scale))
    power /= power.sum()
    a, b = rng.standard_normal((2, count, 60)) * np.sqrt(power)
    return a @ np.cos(np.outer(w, t)) + b @ np.sin(np.outer(w, t))


def unit(tracks: np.ndarray) -> np.ndarray:
    """Every track with mean zero and deviation one."""
    return (tracks - tracks.mean(-1, keepdims=True)) / tracks.std(-1, keepdims=True)


def network_tracks(rng, count: int, activation: Callable, *, width: int = 16, depth: int = 2) -> np.ndarray:
    """(count, SAMPLES) outputs of random networks (He weights, no biases) along Gaussian-process inputs."""
    tracks = []
    for _ in range(count):
        x = gaussian_process(rng, width)
        for _ in range(depth):
            x = activation(rng.standard_normal((width, width)) * np.sqrt(2 / width) @ x)
        tracks.append(rng.standard_normal(width) / np.sqrt(width) @ x)
    return unit(np.array(tracks))


def relu_tracks(rng, count: int) -> np.ndarray:
    return network_tracks(rng, count, lambda x: np.maximum(x, 0))


def tanh_tracks(rng, count: int) -> np.ndarray:
    return network_tracks(rng, count, np.tanh)


def gp_tracks(rng, count: int) -> np.ndarray:
    return unit(gaussian_process(rng, count))


def regressor(activation: str, pool: str) -> nn.Sequential:
    """Two convolutions with pools, two dense layers: pictures (B, 1, 20, 20) to a place (B, 2)."""
    act = {"relu": nn.ReLU, "tanh": nn.Tanh, "softplus": lambda: nn.Softplus(5)}[activation]
    down = {"max": nn.MaxPool2d, "avg": nn.AvgPool2d}[pool]
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), act(), down(2), nn.Conv2d(8, 16, 3, padding=1), act(), down(2),
        nn.Flatten(), nn.Linear(400, 32), act(), nn.Linear(32, 2),
    )  # fmt: skip


def blobs(centre: Tensor, width: Tensor, height: Tensor, slope: Tensor) -> Tensor:
    """(B, 1, 20, 20) pictures of a Gaussian blob on a sloping background."""
    grid = torch.arange(20, dtype=centre.dtype)
    across, down = grid[None, None, :], grid[None, :, None]
    distance = (across - centre[:, 0, None, None]) ** 2 + (down - centre[:, 1, None, None]) ** 2
    ground = slope[:, 0, None, None] * (across / 10 - 1) + slope[:, 1, None, None] * (down / 10 - 1)
    blob = height[:, None, None] * torch.exp(-distance / (2 * width[:, None, None] ** 2))
    return (blob + ground)[:, None]


def trained(activation: str, pool: str, seed: int, steps: int = 500) -> nn.Sequential:
    """A regressor of blob centres after `steps` of Adam, in double precision."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = regressor(activation, pool)
    draw = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(network.parameters(), 2e-3)
    for _ in range(steps):
        u = torch.rand(64, 6, generator=draw)
        centre = 5 + 10 * u[:, :2]
        x = blobs(centre, 1.5 + u[:, 2], 0.7 + 0.6 * u[:, 3], 0.2 * (u[:, 4:] - 0.5))
        optimizer.zero_grad()
        (network(x) - (centre - 10) / 5).square().mean().backward()
        optimizer.step()
    return network.double().eval()


def motion(rng, scale: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A smooth path of blob centre, width, height and background; `scale` is the motion's time scale."""
    u = torch.from_numpy(1 / (1 + np.exp(-1.2 * gaussian_process(rng, 6, scale=scale))))
    return 5 + 10 * u[:2].T, 1.5 + u[2], 0.7 + 0.6 * u[3], 0.2 * (u[4:].T - 0.5)


def key_framed(tracks: np.ndarray, every: int, *, smooth: bool = False) -> np.ndarray:
    """The tracks interpolated between every so many samples, linearly or by monotone cubics."""
    knots, t = np.arange(0, tracks.shape[1], every), np.arange(tracks.shape[1])
    if smooth:
        return np.array([PchipInterpolator(knots, y[knots])(t) for y in tracks])
    return np.array([np.interp(t, knots, y[knots]) for y in tracks])


def coloured(rng, shape: tuple[int, ...], memory: float = 5.0) -> np.ndarray:
    """First-order autoregressive noise of unit deviation with that correlation time in samples."""
    phi = np.exp(-1 / memory)
    white = rng.standard_normal((*shape[:-1], shape[-1] + 200)) * np.sqrt(1 - phi * phi)
    return lfilter([1.0], [1.0, -phi], white, axis=-1)[..., 200:]


FILTERS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "Savitzky-Golay 7, 2": lambda y: savgol_filter(y, 7, 2, axis=-1),
    "Savitzky-Golay 11, 3": lambda y: savgol_filter(y, 11, 3, axis=-1),
    "Gaussian 1.5": lambda y: gaussian_filter1d(y, 1.5, axis=-1),
    "moving average 5": lambda y: uniform_filter1d(y, 5, axis=-1),
}


def exponential(y: np.ndarray, weight: float = 0.4) -> np.ndarray:
    """An exponential filter, its start cut off."""
    return lfilter([weight], [1.0, weight - 1], y, axis=-1)[..., 20:]


def random_kinks(rng, samples: int, per_step: float) -> tuple[np.ndarray, np.ndarray]:
    """A piecewise linear track at step one with Poisson kinks, and their Gaussian slope jumps."""
    count = rng.poisson(per_step * (samples - 1))
    places, jumps = np.sort(rng.uniform(0, samples - 1, count)), rng.standard_normal(count)
    t = np.arange(samples)
    before = np.searchsorted(places, t, side="right")
    slope, offset = (np.concatenate([[0.0], np.cumsum(each)])[before] for each in (jumps, jumps * places))
    return slope * t - offset, jumps
