"""The two demo networks and their data: a small convolutional net on digits, and a regression twin on diabetes.

The weights are files in `assay.data`, made by `tools/train_demo.py`; the data are scikit-learn's, split here for both.
"""

from __future__ import annotations

import json
from importlib.resources import files
from typing import NamedTuple

import torch
from torch import Tensor, nn

from assay.errors import SubjectError
from assay.subject import Data

DIGITS_TEST = 500
DIABETES_TEST = 111


class DigitsNet(nn.Module):
    """Digits (B, 1, 8, 8) in [0, 1] -> logits (B, 10): three convolutions, two max pools, 5,014 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 12, 3, padding=1)
        self.second = nn.Conv2d(12, 12, 3, padding=1)
        self.third = nn.Conv2d(12, 24, 3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.relu = nn.ReLU()
        self.flatten = nn.Flatten()
        self.head = nn.Linear(96, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, 10)."""
        x = self.relu(self.first(x))
        x = self.pool(self.relu(self.second(x)))
        x = self.pool(self.relu(self.third(x)))
        return self.head(self.flatten(x))


class DiabetesNet(nn.Sequential):
    """Ten standardised features (B, 10) -> standardised disease progression (B, 1), two hidden layers of 64 ReLU."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(10, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))


class Split(NamedTuple):
    """Training and test halves of a data set; targets are (N,) labels or (N, 1) values."""

    train_inputs: Tensor
    train_targets: Tensor
    test_inputs: Tensor
    test_targets: Tensor


def digits_split() -> Split:
    """scikit-learn's digits as (N, 1, 8, 8) in [0, 1]: 1,297 to train on and 500 to test, by RandomState(0)."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    inputs = torch.from_numpy(digits.images).float().unsqueeze(1) / 16.0  # type: ignore[union-attr]
    targets = torch.from_numpy(digits.target).long()  # type: ignore[union-attr]
    return _split(inputs, targets, DIGITS_TEST)


def diabetes_split() -> Split:
    """scikit-learn's diabetes, features (N, 10) and target (N, 1) standardised by 331 training rows; 111 to test."""
    from sklearn.datasets import load_diabetes

    inputs, targets = (torch.from_numpy(array) for array in load_diabetes(return_X_y=True, scaled=False))
    raw = _split(inputs, targets.unsqueeze(1), DIABETES_TEST)
    x_mean, x_std = raw.train_inputs.mean(0), raw.train_inputs.std(0)
    y_mean, y_std = raw.train_targets.mean(0), raw.train_targets.std(0)
    return Split(
        ((raw.train_inputs - x_mean) / x_std).float(),
        ((raw.train_targets - y_mean) / y_std).float(),
        ((raw.test_inputs - x_mean) / x_std).float(),
        ((raw.test_targets - y_mean) / y_std).float(),
    )


def demo_model(task: str = "classification") -> nn.Module:
    """The shipped network with its trained weights, in eval mode.

    Args:
        task: "classification" (digits) or "regression" (diabetes).

    Returns:
        A new `DigitsNet` or `DiabetesNet`.

    Example:
        >>> demo_model()(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """
    from safetensors.torch import load

    with torch.random.fork_rng(devices=[]):  # constructors draw numbers, the caller's stream must not notice
        model = DigitsNet() if task == "classification" else DiabetesNet()
    model.load_state_dict(load(_weights_file(task)))
    return model.eval()


def demo_data(task: str = "classification") -> Data:
    """The test split that the shipped network has not seen.

    Args:
        task: "classification" (500 digits in [0, 1]) or "regression" (111 rows of standardised features and target).

    Returns:
        Inputs and labels (N,), or values (N, 1).

    Example:
        >>> len(demo_data()), demo_data().bounds
        (500, (0.0, 1.0))
    """
    if task == "classification":
        split = digits_split()
        names = tuple(str(digit) for digit in range(10))
        return Data(split.test_inputs, split.test_targets, "digits, test split", names, (0.0, 1.0))
    split = diabetes_split()
    return Data(split.test_inputs, split.test_targets, "diabetes, test split")


def demo_facts(task: str = "classification") -> dict[str, str]:
    """How the shipped weights were made and what they scored: the metadata of their file."""
    content = _weights_file(task)
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return header["__metadata__"]


def _weights_file(task: str) -> bytes:
    name = {"classification": "digits.safetensors", "regression": "diabetes.safetensors"}[task]
    file = files("assay.data") / name
    try:
        return file.read_bytes()
    except FileNotFoundError as error:
        raise SubjectError(
            "The demo weights are missing from this installation.",
            where=str(file),
            advice="Reinstall assay, or run tools/train_demo.py in a checkout.",
        ) from error


def _split(inputs: Tensor, targets: Tensor, test: int) -> Split:
    from numpy.random import RandomState

    order = torch.from_numpy(RandomState(0).permutation(len(inputs)))
    train, held_out = order[:-test], order[-test:]
    return Split(inputs[train], targets[train], inputs[held_out], targets[held_out])
