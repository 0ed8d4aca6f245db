"""Networks and pictures for the filtering benchmark: four architectures trained here, two with published weights.

`tools/train_filtering_networks.py` trains; the weights are files in `benchmarks/out/filtering_networks`, one per
architecture, data set, seed and epoch.
"""

from __future__ import annotations

import gzip
import importlib.util
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch import Tensor, nn

FOLDER = Path(__file__).parent / "out" / "filtering_networks"
EXAMPLES = Path(__file__).parents[1] / "examples"
FASHION = Path("/usr/share/datasets/fashion-mnist")  # where Debian's dataset-fashion-mnist puts it
ARCHITECTURES = ("resnet18", "resnet50", "squeezenet1_1", "shufflenet_v2_x1_0")
TITLES = {
    "resnet18": "ResNet-18",
    "resnet50": "ResNet-50",
    "squeezenet1_1": "SqueezeNet v1.1",
    "shufflenet_v2_x1_0": "ShuffleNet V2 x1.0",
    "cifar_resnet": "CIFAR ResNet",
}
SPLIT_SEED = 0


@dataclass(frozen=True)
class Pictures:
    """Pictures (N, C, 32, 32) float32 in [0, 1] with labels (N,) int64, to train on and to test."""

    train_inputs: Tensor
    train_labels: Tensor
    test_inputs: Tensor
    test_labels: Tensor

    def training(self, count: int) -> tuple[Tensor, Tensor]:
        """The first pictures and labels of one fixed shuffle."""
        picked = torch.randperm(len(self.train_labels), generator=torch.Generator().manual_seed(SPLIT_SEED))[:count]
        return self.train_inputs[picked], self.train_labels[picked]

    def testing(self, count: int, *, skip: int = 0) -> tuple[Tensor, Tensor]:
        """Test pictures and labels number `skip` to `skip + count` of one fixed shuffle."""
        order = torch.randperm(len(self.test_labels), generator=torch.Generator().manual_seed(SPLIT_SEED))
        picked = order[skip : skip + count]
        return self.test_inputs[picked], self.test_labels[picked]


def fashion(folder: Path = FASHION, *, edge: int = 2) -> Pictures:
    """Fashion-MNIST, (60000 + 10000, 1, 32, 32): 28 x 28 pixels with a black edge of two (or so many) all round."""
    parts: list[Tensor] = []
    for kind in ("train", "t10k"):
        pixels = _idx(folder / f"{kind}-images-idx3-ubyte.gz")
        parts.append(nn.functional.pad(torch.from_numpy(pixels).float()[:, None] / 255, [edge] * 4))
        parts.append(torch.from_numpy(_idx(folder / f"{kind}-labels-idx1-ubyte.gz")).long())
    return Pictures(*parts)


def cifar(file: Path) -> Pictures:
    """A file of CIFAR-10 pictures: uint8 arrays (N, 32, 32, 3) and labels, found by their names."""
    with np.load(file) as stored:
        arrays = {name: stored[name] for name in stored.files}
    parts: list[Tensor] = []
    for kind in ("train", "test"):
        named = {name: array for name, array in arrays.items() if kind in name.lower()}
        pixels = next(array for array in named.values() if array.ndim == 4)
        labels = next(array for array in named.values() if array.ndim == 1)
        parts.append(torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255)
        parts.append(torch.from_numpy(labels).long())
    return Pictures(*parts)


def _idx(file: Path) -> np.ndarray:
    """An array of bytes in the IDX format: two zero bytes, type, number of axes, their lengths, then the values."""
    content = gzip.decompress(file.read_bytes())
    kind, axes = content[2], content[3]
    if content[:2] != b"\0\0" or kind != 8:
        raise ValueError(f"{file}: not an IDX file of bytes")
    shape = [int.from_bytes(content[4 + 4 * axis : 8 + 4 * axis], "big") for axis in range(axes)]
    return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape).copy()


def network(architecture: str, channels: int = 3, classes: int = 10) -> nn.Module:
    """The network of torchvision with random weights; only the number of input channels and of classes is ours."""
    from torchvision import models

    model = getattr(models, architecture)(weights=None, num_classes=classes)
    if channels != 3:
        place, first = next((name, module) for name, module in model.named_modules() if isinstance(module, nn.Conv2d))
        parent, _, attribute = place.rpartition(".")
        stem = nn.Conv2d(
            channels, first.out_channels, first.kernel_size, first.stride, first.padding, bias=first.bias is not None
        )
        setattr(model.get_submodule(parent), attribute, stem)
    return model


def weights_file(architecture: str, data: str, seed: int, epoch: int, folder: Path = FOLDER) -> Path:
    """Where the weights of one checkpoint are."""
    return folder / f"{architecture}-{data}-seed{seed}-epoch{epoch}.safetensors"


def trained(architecture: str, data: str, seed: int, epoch: int, folder: Path = FOLDER) -> nn.Module:
    """The network with the weights of one checkpoint, in evaluation mode."""
    from safetensors.torch import load_file

    state = load_file(weights_file(architecture, data, seed, epoch, folder))
    model = network(architecture, channels=1 if data == "fashion" else 3)
    model.load_state_dict(state)
    return model.eval()


def facts_of(architecture: str, data: str, seed: int, epoch: int, folder: Path = FOLDER) -> Mapping[str, str]:
    """What was written beside the weights: recipe, accuracy, loss."""
    from safetensors import safe_open

    with safe_open(weights_file(architecture, data, seed, epoch, folder), framework="pt") as file:
        return file.metadata() or {}


def example(name: str) -> ModuleType:
    """A module of the folder examples."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
