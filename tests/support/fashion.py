"""Small networks trained on Fashion-MNIST, and 300 of its test pictures; made by tools/train_fashion_networks.py."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Literal

from safetensors.torch import load_file
from torch import Tensor, nn

FOLDER = Path(__file__).resolve().parents[1] / "data" / "fashion"


@lru_cache(maxsize=2)
def fashion_cnn(activation: Literal["relu", "silu"] = "relu") -> nn.Sequential:
    """Convolutions 8, 16 and 16 wide, dense 64 and 10: (B, 1, 28, 28) to logits; about 89 % right."""
    act = nn.ReLU if activation == "relu" else nn.SiLU
    network = nn.Sequential(
        nn.Conv2d(1, 8, 3, 1, 1), act(), nn.Conv2d(8, 16, 3, 2, 1), act(), nn.Conv2d(16, 16, 3, 2, 1), act(),
        nn.Flatten(), nn.Linear(784, 64), act(), nn.Linear(64, 10),
    )  # fmt: skip
    state = load_file(FOLDER / f"{activation}.safetensors")
    network.load_state_dict({name: value.float() for name, value in state.items()})
    return network.eval().requires_grad_(False)


@lru_cache(maxsize=1)
def fashion_pictures() -> tuple[Tensor, Tensor]:
    """(300, 1, 28, 28) float32 in [0, 1] and labels (300,)."""
    stored = load_file(FOLDER / "pictures.safetensors")
    return stored["pictures"].float() / 255, stored["labels"].long()
