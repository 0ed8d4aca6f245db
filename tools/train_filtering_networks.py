"""Train the networks that `benchmarks/bench_filtering_networks.py` sweeps, at reduced size.

    python tools/train_filtering_networks.py [--cifar-file FILE] [--only NAME ...] [--out FOLDER]

ResNet-18, ResNet-50, SqueezeNet v1.1 and ShuffleNet V2 x1.0 of torchvision, from random weights, on a part of
Fashion-MNIST (Debian's dataset-fashion-mnist), and two of them on CIFAR-10 pictures where a file of these is given. As
in the published notebooks: Adam, cross entropy, batches of 100, no augmentation and no schedule; unlike them: fewer
pictures and epochs. One thread and fixed seeds. Checkpoints that exist already are not made again.
"""

from __future__ import annotations

import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import cyclopts
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
from _filtering_networks import FASHION, FOLDER, Pictures, cifar, fashion, network, weights_file

BATCH = 100
TESTED = 2000


@dataclass(frozen=True)
class Recipe:
    """One training run: what, on what, how long, and after which epochs the weights are kept."""

    architecture: str
    data: str
    seed: int
    images: int
    kept: tuple[int, ...]
    rate: float = 1e-3


RECIPES = (
    Recipe("shufflenet_v2_x1_0", "fashion", 0, 15_000, (2, 4, 8)),
    Recipe("resnet18", "fashion", 0, 10_000, (1, 3, 6)),
    Recipe("squeezenet1_1", "fashion", 0, 30_000, (3, 9), rate=3e-4),  # at 1e-3 it may stay at chance: no normalisation
    Recipe("resnet50", "fashion", 0, 10_000, (4,)),
    Recipe("resnet18", "cifar", 0, 10_000, (6,)),
    Recipe("shufflenet_v2_x1_0", "cifar", 0, 10_000, (10,)),
    *(Recipe("resnet18", "fashion", seed, 10_000, (3,)) for seed in (1, 2)),
    *(Recipe("shufflenet_v2_x1_0", "fashion", seed, 15_000, (4,)) for seed in (1, 2)),
)


def main(
    *, cifar_file: Path | None = None, only: tuple[str, ...] = (), out: Path = FOLDER, data: Path = FASHION
) -> None:
    """Train what is missing.

    Args:
        cifar_file: .npz of CIFAR-10 pictures; without it the two runs on CIFAR-10 are left out.
        only: parts of names of checkpoints, such as ``resnet18-fashion-seed0``.
        out: folder for the weights.
        data: folder with the four files of Fashion-MNIST.
    """
    torch.set_num_threads(1)
    sets = {"fashion": fashion(data)} | ({} if cifar_file is None else {"cifar": cifar(cifar_file)})
    for recipe in RECIPES:
        files = {
            epoch: weights_file(recipe.architecture, recipe.data, recipe.seed, epoch, out) for epoch in recipe.kept
        }
        name = files[recipe.kept[0]].name
        if recipe.data not in sets or (only and not any(part in name for part in only)):
            continue
        if not all(file.exists() for file in files.values()):
            train(recipe, sets[recipe.data], files)


def train(recipe: Recipe, pictures: Pictures, files: dict[int, Path]) -> None:
    """One run; writes the weights after the epochs named in `files`."""
    torch.manual_seed(recipe.seed)
    x, y = pictures.training(recipe.images)
    model = network(recipe.architecture, channels=x.shape[1])
    optimiser = torch.optim.Adam(model.parameters(), lr=recipe.rate)
    begin = time.process_time()
    for epoch in range(1, max(recipe.kept) + 1):
        model.train()
        losses: list[float] = []
        for rows in torch.randperm(len(x)).split(BATCH):
            optimiser.zero_grad()
            loss = functional.cross_entropy(model(x[rows]), y[rows])
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
        right = accuracy(model, *pictures.testing(TESTED))
        facts = {"epoch": str(epoch), "loss": f"{sum(losses) / len(losses):.4f}", "test_accuracy": f"{right:.4f}"}
        facts["cpu_seconds"] = f"{time.process_time() - begin:.0f}"
        print(recipe.architecture, recipe.data, recipe.seed, facts, flush=True)
        if epoch in files:
            files[epoch].parent.mkdir(parents=True, exist_ok=True)
            made = {key: str(value) for key, value in asdict(recipe).items()} | {"torch": torch.__version__}
            save_file(model.state_dict(), files[epoch], made | {"tested": str(TESTED)} | facts)


@torch.no_grad()
def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Share of right answers in evaluation mode."""
    model.eval()
    return float(torch.cat([model(part).argmax(1) for part in x.split(500)]).eq(y).double().mean())


if __name__ == "__main__":
    cyclopts.run(main)
