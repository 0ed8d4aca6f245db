"""Train the small networks that the study of decision boundaries looks at, and cut out what the tests hold of them.

    python tools/train_fashion_networks.py [--only NAME ...] [--seeds 0 1] [--embed]

Fashion-MNIST (Debian's dataset-fashion-mnist, MIT), Adam with a one-cycle rate up to 3e-3, 4 epochs, batches of 128,
one thread, fixed seeds. Weights that exist are not made again. `--embed` writes networks of seed 0 in half precision
and 300 test pictures as bytes to tests/data/fashion.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import cyclopts
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
from _boundary_networks import ARCHITECTURES, FOLDER, network, pictures, trained, weights_file
from _filtering_networks import FASHION, Pictures

PROJECT = Path(__file__).resolve().parents[1]
EPOCHS, BATCH, RATE = 4, 128, 3e-3
EMBEDDED = ("relu", "silu")
TESTED = PROJECT / "tests" / "data" / "fashion"


def main(
    *,
    only: tuple[str, ...] = ARCHITECTURES,
    seeds: tuple[int, ...] = (0, 1),
    embed: bool = False,
    out: Path = FOLDER,
    data: Path = FASHION,
) -> None:
    """Train what is missing.

    Args:
        only: architectures.
        seeds: of weights and order.
        embed: also write what the tests hold.
        out: folder of the weights.
        data: folder of the pictures in IDX files.
    """
    torch.set_num_threads(1)
    every = pictures(data)
    out.mkdir(parents=True, exist_ok=True)
    for architecture in only:
        for seed in seeds:
            file = weights_file(architecture, seed, out)
            if not file.exists():
                save_file(train(architecture, seed, every).state_dict(), file)
            right = accuracy(trained(architecture, seed, out), every)
            print(f"{file.name}: {right:.2%} of the test pictures", flush=True)
    if embed:
        TESTED.mkdir(parents=True, exist_ok=True)
        for architecture in EMBEDDED:
            state = load_file(weights_file(architecture, 0, out))
            save_file({name: value.half() for name, value in state.items()}, TESTED / f"{architecture}.safetensors")
        x, y = every.testing(300)
        stored = {"pictures": (255 * x).round().to(torch.uint8), "labels": y.to(torch.uint8)}
        save_file(stored, TESTED / "pictures.safetensors")


def train(architecture: str, seed: int, every: Pictures) -> nn.Module:
    """One network."""
    torch.manual_seed(seed)
    model, begun = network(architecture), time.perf_counter()
    optimiser = torch.optim.Adam(model.parameters(), RATE)
    steps = EPOCHS * (len(every.train_labels) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps)
    for epoch in range(EPOCHS):
        for rows in torch.randperm(len(every.train_labels)).split(BATCH)[: steps // EPOCHS]:
            optimiser.zero_grad()
            functional.cross_entropy(model(every.train_inputs[rows]), every.train_labels[rows]).backward()
            optimiser.step()
            schedule.step()
        print(f"{architecture} seed {seed}: epoch {epoch + 1}, {time.perf_counter() - begun:.0f} s", flush=True)
    return model.eval()


def accuracy(model: nn.Module, every: Pictures) -> float:
    """Share of right answers on the test pictures."""
    with torch.no_grad():
        found = torch.cat([model(part).argmax(1) for part in every.test_inputs.split(1000)])
    return float((found == every.test_labels).double().mean())


if __name__ == "__main__":
    cyclopts.run(main)
