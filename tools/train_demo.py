"""Train the two demo networks and write their weights into src/assay/data.

    python tools/train_demo.py [--out FOLDER]

Digits: cross entropy. Diabetes: squared error. Both with AdamW, its ordinary weight decay and a cosine schedule, on one
thread, so that a second run on the same machine writes the same bytes. What was reached is stored
in the metadata of the files and printed.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable
from pathlib import Path

import numpy
import safetensors.torch
import sklearn
import torch
from torch import Tensor, nn
from torch.nn import functional

from assay.load.demo import DiabetesNet, DigitsNet, Split, diabetes_split, digits_split

SEED = 0
FOLDER = Path(__file__).resolve().parent.parent / "src" / "assay" / "data"


def train(
    model: nn.Module,
    split: Split,
    loss: Callable[[Tensor, Tensor], Tensor],
    *,
    epochs: int,
    batch: int,
    rate: float,
    decay: float,
) -> None:
    """Fit the model in place on the training half; the test half is not looked at."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=decay)
    steps = epochs * -(-len(split.train_inputs) // batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    model.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(split.train_inputs)).split(batch):
            optimiser.zero_grad()
            loss(model(split.train_inputs[rows]), split.train_targets[rows]).backward()
            optimiser.step()
            schedule.step()
    model.eval()


def train_digits() -> tuple[nn.Module, dict[str, str]]:
    """The digits network and its accuracy on both halves."""
    torch.manual_seed(SEED)
    split, model = digits_split(), DigitsNet()
    train(model, split, functional.cross_entropy, epochs=40, batch=64, rate=2e-3, decay=1e-2)
    with torch.no_grad():
        right = [
            (model(x).argmax(1) == y).double().mean().item()
            for x, y in ((split.train_inputs, split.train_targets), (split.test_inputs, split.test_targets))
        ]
    return model, {"train_accuracy": f"{right[0]:.4f}", "test_accuracy": f"{right[1]:.4f}"}


def train_diabetes() -> tuple[nn.Module, dict[str, str]]:
    """The regression network and its explained variance on both halves."""
    torch.manual_seed(SEED)
    split, model = diabetes_split(), DiabetesNet()
    train(model, split, functional.mse_loss, epochs=40, batch=32, rate=1e-3, decay=1e-2)
    with torch.no_grad():
        explained = [
            1.0 - (functional.mse_loss(model(x), y) / y.var(correction=0)).item()
            for x, y in ((split.train_inputs, split.train_targets), (split.test_inputs, split.test_targets))
        ]
    return model, {"train_r2": f"{explained[0]:.4f}", "test_r2": f"{explained[1]:.4f}"}


def with_metadata(content: bytes, facts: dict[str, str]) -> bytes:
    """Put facts into the header of a safetensors file, in a fixed order; the library writes them in a random one."""
    length = int.from_bytes(content[:8], "little")
    header = {"__metadata__": dict(sorted(facts.items()))} | json.loads(content[8 : 8 + length])
    written = json.dumps(header, separators=(",", ":")).encode()
    written += b" " * (-len(written) % 8)
    return len(written).to_bytes(8, "little") + written + content[8 + length :]


def main() -> None:
    """Train both, write both, print what they reached."""
    parser = argparse.ArgumentParser(description="Train the demo networks.")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder to write to (default: src/assay/data)")
    folder = parser.parse_args().out
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    for name, train_one in (("digits", train_digits), ("diabetes", train_diabetes)):
        model, scores = train_one()
        made = {
            "script": "tools/train_demo.py",
            "seed": str(SEED),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": numpy.__version__,
            "scikit-learn": sklearn.__version__,
        }
        content = with_metadata(safetensors.torch.save(model.state_dict()), scores | made)
        file = folder / f"{name}.safetensors"
        file.write_bytes(content)
        parameters = sum(p.numel() for p in model.parameters())
        print(f"{file.name}: {parameters} parameters, {len(content)} bytes, {scores}")


if __name__ == "__main__":
    main()
